"""One cell of Table 7 and one curve of Fig. 4 (right): fine-tune forward-only, then ask in both directions.

    python -m lib.reversal_run --model GSAI-ML/LLaDA-8B-Instruct --dataset p2c --device cuda --dtype bfloat16 \\
        --masking any --output results/reversal_run/llada_p2c_0.json

``--model tiny:llada --data generated`` runs the same path on a random model in seconds. A run that is interrupted
goes on from its checkpoint, which lies beside the output.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lib import checkpoints, decoding, finetuning, probes, prompts, provenance, relations, signatures
from lib.finetuning import Protocol
from lib.relations import Dataset


def run(
    model: Any, tokenizer: Any, data: Dataset, protocol: Protocol, *, checkpoint: Path | None = None,
    evaluated: int = 300, watched: int = 8, watches: int = 10,
) -> tuple[dict[str, float], dict[str, list], Any]:
    """Fine-tune on the forward direction and evaluate both.

    :param evaluated: prompts of each direction that are answered, at most
    :param watched: facts whose probabilities are followed
    :param watches: how often, evenly over the run
    :return: accuracies in percent; curves over steps (loss, and probabilities of the left entity, the latter from
        where a resumed run went on); the tuned model
    """
    adapted = finetuning.adapt(model, protocol)
    pairs = [signatures.encoded_pair(data, fact, tokenizer) for fact in data.facts[:watched]]
    total = finetuning.steps(len(data.train), protocol)
    curves: dict[str, list] = {"step": [], "probability_forward": [], "probability_reverse": []}

    def watch(step: int, loss: float) -> None:
        if step + 1 == total or step % max(1, total // watches) == 0:
            curves["step"].append(step + 1)
            for side, name in enumerate(("probability_forward", "probability_reverse")):
                asked = prompts.batch([pair[side] for pair in pairs], model.device)
                curves[name].append(float(probes.target_probability(adapted, asked).mean()))

    losses = finetuning.finetune(adapted, tokenizer, data.train, protocol, checkpoint=checkpoint, watch=watch)
    length = answer_length(data, tokenizer)
    metrics = {f"{direction}_accuracy": decoding.accuracy(
        model, tokenizer, getattr(data, direction)[:evaluated], length=length) for direction in ("forward", "reverse")}
    return metrics, {**curves, "loss": losses}, adapted


def answer_length(data: Dataset, tokenizer: Any) -> int:
    """Tokens an answer of either direction may need, its end token included."""
    texts = {example.completion for example in (*data.forward, *data.reverse, *data.train)}
    return 1 + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.reversal_run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id, folder, or tiny:ARCHITECTURE")
    parser.add_argument("--dataset", default="p2c", choices=relations.DATASETS)
    parser.add_argument("--data", default="published", choices=("published", "generated"))
    parser.add_argument("--facts", type=int, default=0, help="train on this many facts of a relation; 0 for all")
    parser.add_argument("--dtype", default=None, choices=("float32", "bfloat16", "float16"), help="of the weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--output", type=Path, required=True, help="the result (JSON); adapters go beside it")
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run one cell, print its accuracies, and write result and adapters."""
    options = _arguments(argv)
    clock = provenance.Run()
    protocol = Protocol(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Protocol)})
    data = dataset_of(options.dataset, options.data, options.facts, protocol.seed)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    with tempfile.TemporaryDirectory() as folder:
        source = signatures.source_of(options.model, folder, protocol.seed)
        model, tokenizer = checkpoints.load(source, dtype, options.device)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.output.with_suffix(".safetensors")
    metrics, curves, adapted = run(model, tokenizer, data, protocol, checkpoint=unfinished)
    for name, value in metrics.items():
        print(f"{name:20s}{value:7.1f}")
    if protocol.rank:
        adapted.save_pretrained(options.output.with_suffix(""), save_embedding_layers=False)
    parameters = {"architecture": model.architecture, "dataset": options.dataset, "data": options.data,
                  "size": signatures.size_of(model), "facts": len(data.facts), **dataclasses.asdict(protocol)}
    provenance.save(options.output, experiment="reversal_run", parameters=parameters, seeds=[protocol.seed],
                    metrics={name: [value] for name, value in metrics.items()}, curves=curves, run=clock)


if __name__ == "__main__":
    main()
