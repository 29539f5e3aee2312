"""One cell of Table 7 and one curve of Fig. 4 (right): fine-tune forward-only, then ask in both directions.

    python -m lib.language_models.reversal_run --model GSAI-ML/LLaDA-8B-Instruct --dataset p2c --device cuda --dtype bfloat16 \\
        --masking any --output results/language_models/llada_p2c_any_0.json

``--model tiny:llada --data generated`` runs the same path on a random model in seconds. A run that is interrupted
goes on from its checkpoint, which lies beside the output unless ``--work`` names a folder; one that is done is left
alone. Adapters are kept (`lib.language_models.signature_run` probes a model with them), or with ``--rank 0`` the whole model, as a
checkpoint in its original layout. On several GPUs,
``accelerate launch --num_processes 4 -m lib.language_models.reversal_run --batch 2 --accumulation 4 ...`` takes as many examples a
step; masks are drawn pass by pass, so it is a run of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.language_models import (
    checkpoints,
    decoding,
    finetuning,
    queries,
    signature_run,
    signatures,
    synthetic_facts,
)
from lib.language_models import (
    facts as facts_module,
)
from lib.language_models.facts import Dataset, Example
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.training_loop import Processes
from lib.record import provenance
from lib.record.options import at_least, device_named, json_file, writable
from lib.record.training_state import CheckpointError

_DIRECTIONS = ("forward", "reverse")


def run(
    model: Any, tokenizer: Any, data: Dataset, protocol: FineTuningConfig, *, replay: Sequence[Example] = (),
    checkpoint: Path | None = None, processes: Processes | None = None, evaluated: int = 300, watched: int = 8,
    watches: int = 10, every: int = 50, report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, float], dict[str, list], Any]:
    """Fine-tune on the forward direction and evaluate both.

    :param replay: other text, mixed in at the protocol's share; it is never asked for
    :param checkpoint: resumed from if it is there, and left for the caller to remove once the result is safe
    :param evaluated: prompts of each direction that are answered, at most
    :param watched: facts whose probabilities are followed
    :param watches: how often, evenly over the run
    :param every: steps between checkpoints
    :param report: called with a line of progress as often
    :return: accuracies in percent; curves over steps (loss, and probabilities of the left entity); the tuned model
    """
    processes = processes or Processes()
    adapted = finetuning.adapt(model, protocol)
    pairs = [signature_run.encoded_pair(data, fact, tokenizer) for fact in data.facts[:watched]]
    total = finetuning.steps(len(data.train), protocol)
    curves: dict[str, list] = {"step": [], "probability_forward": [], "probability_reverse": []}

    def watch(step: int, loss: float) -> None:
        if processes.first and (step + 1 == total or step % max(1, total // watches) == 0):
            curves["step"].append(step + 1)
            for side, direction in enumerate(_DIRECTIONS):
                asked = queries.batch([pair[side] for pair in pairs], model.device)
                curves[f"probability_{direction}"].append(float(signatures.target_probability(adapted, asked).mean()))
            report(f"step {step + 1} of {total}, loss {loss:.3f}")

    losses = finetuning.finetune(adapted, tokenizer, data.train, protocol, replay=replay, checkpoint=checkpoint,
                                 every=every, keep=True, watch=watch, curves=curves, processes=processes)
    length = answer_length(data, tokenizer)
    metrics = {}
    for direction in _DIRECTIONS:
        asked = getattr(data, direction)[:evaluated]
        right = decoding.answered(model, tokenizer, processes.share(asked), length=length)
        metrics[f"{direction}_accuracy"] = 100 * processes.total(sum(right)) / len(asked)
        report(f"{direction} accuracy {metrics[f'{direction}_accuracy']:.1f}")
    return metrics, {**curves, "loss": losses}, adapted


def answer_length(data: Dataset, tokenizer: Any) -> int:
    """Tokens an answer of either direction may need, its end token included."""
    texts = {example.completion for example in (*data.forward, *data.reverse, *data.train)}
    return 1 + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


# From the command line ---------------------------------------------------------------------------------------


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of a run, ``protocol`` among them; one that is not as it should be ends the command by its name."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        json_file("--output", options.output)
        at_least(options, "--", facts=0, evaluated=1, every=1)
        options.protocol = FineTuningConfig(**{field.name: getattr(options, field.name)
                                       for field in dataclasses.fields(FineTuningConfig)})
    except ValueError as error:
        parser.error(str(error))
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.language_models.reversal_run", description=(__doc__ or "").splitlines()[0],
                                     allow_abbrev=False)
    parser.add_argument("--model", required=True, help="hub id, folder, or tiny:ARCHITECTURE")
    parser.add_argument("--dataset", default="p2c", choices=facts_module.DATASETS)
    parser.add_argument("--data", default="published", choices=("published", "generated"))
    parser.add_argument("--facts", type=int, default=0, help="train on this many facts of a relation; 0 for all")
    parser.add_argument("--text", type=Path, help="what --replay mixes in, one text a line; generated facts if absent")
    parser.add_argument("--dtype", default=None, choices=("float32", "bfloat16", "float16"), help="of the weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...; auto")
    parser.add_argument("--evaluated", type=int, default=300, help="prompts of each direction, at most")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--output", type=Path, required=True, help="the result (JSON)")
    parser.add_argument("--work", type=Path, help="folder for checkpoint and adapters; beside the result if absent")
    for field in dataclasses.fields(FineTuningConfig):
        kind = str if field.name == "masking" else float if isinstance(field.default, float) or field.name in (
            "replay", "clip") else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser


def dataset_of(name: str, data: str, facts: int, seed: int) -> Dataset:
    """A dataset, whole or rebuilt from some of its facts in the first form of each sentence."""
    if not facts and data == "published":
        return facts_module.published(name)
    drawn = signature_run.facts_of(name, data, facts or 30, seed)
    return facts_module.dataset(name, drawn.relation, drawn.facts)


def replayed(text: Path | None, seed: int, size: int = 100) -> list[Example]:
    """Other text as examples without a prompt: all of each is trained, and none of it is asked for.

    :param text: one text a line; without it, sentences of a generated world with other names
    :raises ValueError: for a file without text
    """
    if text is None:
        lines = synthetic_facts.worlds({"trained": 100, "replayed": size}, seed)["replayed"].sentences()
    else:
        lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{text}: no text to replay")
    return [Example("", line, frozenset()) for line in lines]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one cell, print its accuracies, and write result and adapters; a result that is there already stays."""
    options = parsed(argv)
    try:
        data = dataset_of(options.dataset, options.data, options.facts, options.protocol.seed)
        other = replayed(options.text, options.protocol.seed) if options.protocol.replay else []
        device = device_named(options.device)
        if options.output.exists():
            provenance.check_same(provenance.load(options.output), _asked_for(options, data, other),
                                  f"--output {options.output}: holds a run with")
            print(f"{options.output}: this run is done, and its result stays")
            return
        files = OutputPaths.of(options)
    except (ValueError, OSError) as error:
        sys.exit(f"python -m lib.language_models.reversal_run: {error}")
    try:
        _cell(options, data, other, device, files)
    except (CheckpointError, ArithmeticError) as error:
        sys.exit(f"python -m lib.language_models.reversal_run: {error}")


class OutputPaths(NamedTuple):
    """Where a run writes beside its result."""

    adapters: Path
    weights: Path  # of the whole model, where all of it is trained
    checkpoint: Path

    @classmethod
    def of(cls, options: argparse.Namespace) -> OutputPaths:
        """The places, once they can be written to and nothing of another run is in the way."""
        output, work = options.output, options.work
        beside = output.with_name(f"{output.stem}.unfinished.safetensors")
        folder = work or output.with_name(output.stem)
        files = cls(folder, folder / "weights", work / "unfinished.safetensors" if work else beside)
        writable("--output", output.parent)
        writable("--work" if work else "--output", folder)
        if options.protocol.rank == 0 and files.weights.exists() and not files.checkpoint.exists():
            raise ValueError(f"--rank 0: {files.weights} is there already, from another run; move it away")
        return files


def _cell(options: argparse.Namespace, data: Dataset, other: Sequence[Example], device: torch.device,
          files: OutputPaths) -> None:
    processes = Processes(device)
    clock = provenance.Run(device, processes=processes.count)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    with tempfile.TemporaryDirectory() as folder:
        source = signature_run.source_of(options.model, folder, options.protocol.seed)
        model, tokenizer = checkpoints.load(source, dtype, processes.device)
    metrics, curves, adapted = run(
        model, tokenizer, data, options.protocol, replay=other, checkpoint=files.checkpoint, processes=processes,
        evaluated=options.evaluated, every=options.every,
        report=lambda line: print(line, file=sys.stderr, flush=True) if processes.first else None)
    if processes.first:
        _keep(adapted, tokenizer, options.protocol, files)
        for name, value in metrics.items():
            print(f"{name:20s}{value:7.1f}")
        provenance.save(
            options.output, experiment="language_models",
            parameters=_asked_for(options, data, other) | _found_of(model), seeds=[options.protocol.seed],
            metrics={name: [value] for name, value in metrics.items()}, curves=curves, run=clock)
        files.checkpoint.unlink(missing_ok=True)
    processes.close()


def _keep(adapted: Any, tokenizer: Any, protocol: FineTuningConfig, files: OutputPaths) -> None:
    """Save what was trained: the adapters, or the whole model."""
    if protocol.rank:
        adapted.save_pretrained(files.adapters, save_embedding_layers=False)
        return
    shutil.rmtree(files.weights, ignore_errors=True)  # of this very run, interrupted here: its checkpoint was there
    checkpoints.save(adapted, tokenizer, files.weights)


def _asked_for(options: argparse.Namespace, data: Dataset, other: Sequence[Example]) -> dict[str, Any]:
    """What is recorded of a run and known before its model is: two runs that agree in it are the same."""
    text = json.dumps([example.completion for example in other])
    return {"model": options.model, "dataset": options.dataset, "data": options.data, "facts": len(data.facts),
            "sentences": len(data.train), "scoring": data.scoring, "evaluated": options.evaluated,
            "replayed": hashlib.sha256(text.encode()).hexdigest()[:16] if other else None,
            **({"dtype": options.dtype} if options.dtype else {}), **dataclasses.asdict(options.protocol)}


def _found_of(model: Any) -> dict[str, Any]:
    return {"architecture": model.architecture, "size": signature_run.size_of(model),
            "dtype": str(model.dtype).removeprefix("torch.")}


if __name__ == "__main__":
    main()
