"""One cell of Table 7 and one curve of Fig. 4 (right): fine-tune forward-only, then ask in both directions.

    python -m lib.reversal_run --model GSAI-ML/LLaDA-8B-Instruct --dataset p2c --device cuda --dtype bfloat16 \\
        --masking any --output results/language_models/llada_p2c_any_0.json

``--model tiny:llada --data generated`` runs the same path on a random model in seconds. A run that is interrupted
goes on from its checkpoint, which lies beside the output unless ``--work`` names a folder. On several GPUs,
``accelerate launch --num_processes 4 -m lib.reversal_run --batch 2 --accumulation 4 ...`` takes as many examples a
step; masks are drawn pass by pass, so it is a run of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lib import checkpoints, decoding, finetuning, probes, prompts, provenance, relations, signatures, worlds
from lib.finetuning import Protocol
from lib.processes import Processes
from lib.relations import Dataset, Example

_DIRECTIONS = ("forward", "reverse")


def run(
    model: Any, tokenizer: Any, data: Dataset, protocol: Protocol, *, replay: Sequence[Example] = (),
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
    pairs = [signatures.encoded_pair(data, fact, tokenizer) for fact in data.facts[:watched]]
    total = finetuning.steps(len(data.train), protocol)
    curves: dict[str, list] = {"step": [], "probability_forward": [], "probability_reverse": []}

    def watch(step: int, loss: float) -> None:
        if processes.first and (step + 1 == total or step % max(1, total // watches) == 0):
            curves["step"].append(step + 1)
            for side, direction in enumerate(_DIRECTIONS):
                asked = prompts.batch([pair[side] for pair in pairs], model.device)
                curves[f"probability_{direction}"].append(float(probes.target_probability(adapted, asked).mean()))
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


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.reversal_run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id, folder, or tiny:ARCHITECTURE")
    parser.add_argument("--dataset", default="p2c", choices=relations.DATASETS)
    parser.add_argument("--data", default="published", choices=("published", "generated"))
    parser.add_argument("--facts", type=int, default=0, help="train on this many facts of a relation; 0 for all")
    parser.add_argument("--text", type=Path, help="what --replay mixes in, one text a line; generated facts if absent")
    parser.add_argument("--dtype", default=None, choices=("float32", "bfloat16", "float16"), help="of the weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--evaluated", type=int, default=300, help="prompts of each direction, at most")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--output", type=Path, required=True, help="the result (JSON)")
    parser.add_argument("--work", type=Path, help="folder for checkpoint and adapters; beside the result if absent")
    for field in dataclasses.fields(Protocol):
        kind = str if field.name == "masking" else float if isinstance(field.default, float) or field.name in (
            "replay", "clip") else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser.parse_args(argv)


def dataset_of(name: str, data: str, facts: int, seed: int) -> Dataset:
    """A dataset, whole or rebuilt from some of its facts in the first form of each sentence."""
    if not facts and data == "published":
        return relations.published(name)
    drawn = signatures.facts_of(name, data, facts or 30, seed)
    return relations.dataset(name, drawn.relation, drawn.facts)


def replayed(text: Path | None, seed: int, size: int = 100) -> list[Example]:
    """Other text as examples without a prompt: all of each is trained, and none of it is asked for.

    :param text: one text a line; without it, sentences of a generated world with other names
    :raises ValueError: for a file without text
    """
    if text is None:
        lines = worlds.worlds({"trained": 100, "replayed": size}, seed)["replayed"].sentences()
    else:
        lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{text}: no text to replay")
    return [Example("", line, frozenset()) for line in lines]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one cell, print its accuracies, and write result and adapters."""
    options = _arguments(argv)
    clock = provenance.Run(options.device)
    protocol = Protocol(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Protocol)})
    data = dataset_of(options.dataset, options.data, options.facts, protocol.seed)
    other = replayed(options.text, protocol.seed) if protocol.replay else []
    processes = Processes(options.device)
    work = options.work or options.output.with_suffix("")
    checkpoint = work.with_suffix(".safetensors") if options.work is None else work / "unfinished.safetensors"
    dtype = getattr(torch, options.dtype) if options.dtype else None
    with tempfile.TemporaryDirectory() as folder:
        source = signatures.source_of(options.model, folder, protocol.seed)
        model, tokenizer = checkpoints.load(source, dtype, processes.device)
    metrics, curves, adapted = run(
        model, tokenizer, data, protocol, replay=other, checkpoint=checkpoint, processes=processes,
        evaluated=options.evaluated, every=options.every,
        report=lambda line: print(line, file=sys.stderr, flush=True) if processes.first else None)
    if processes.first:
        if protocol.rank:
            adapted.save_pretrained(work, save_embedding_layers=False)
        _record(options, protocol, model, data, metrics, curves, clock)
        checkpoint.unlink(missing_ok=True)
    processes.close()


def _record(options: argparse.Namespace, protocol: Protocol, model: Any, data: Dataset, metrics: dict[str, float],
            curves: dict[str, list], clock: provenance.Run) -> None:
    for name, value in metrics.items():
        print(f"{name:20s}{value:7.1f}")
    provenance.save(
        options.output,
        experiment="language_models",
        parameters={"architecture": model.architecture, "model": options.model, "dataset": options.dataset,
                    "data": options.data, "size": signatures.size_of(model), "facts": len(data.facts),
                    "dtype": str(model.dtype).removeprefix("torch."), **dataclasses.asdict(protocol)},
        seeds=[protocol.seed], metrics={name: [value] for name, value in metrics.items()}, curves=curves, run=clock,
    )


if __name__ == "__main__":
    main()
