"""One cell of Table 7 and one curve of Fig. 4 (right): fine-tune forward-only, then ask in both directions.

    python -m lib.language_models.reversal_run --model GSAI-ML/LLaDA-8B-Instruct --dataset p2c --device cuda \\
        --dtype bfloat16 --masking any --output results/language_models/llada_p2c_any_0.json

``--model tiny:llada --data generated`` runs the same path on a random model in seconds. A run that is interrupted
goes on from its checkpoint, which lies beside the output unless ``--work`` names a folder; one that is done is left
alone. Adapters are kept (`lib.language_models.signature_run` probes a model with them), or with ``--rank 0`` the whole
model, as a checkpoint in its original layout. On several GPUs, ``accelerate launch --num_processes 4 -m
lib.language_models.reversal_run --batch 2 --accumulation 4 ...`` takes as many examples a step; masks are drawn pass by
pass, so it is a run of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.language_models import (
    decoding,
    fact_sources,
    finetuning,
    model_size,
    queries,
    random_checkpoints,
    signatures,
    synthetic_facts,
)
from lib.language_models import facts as facts_module
from lib.language_models.facts import Dataset, Example
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.queries import EncodedQuery
from lib.language_models.training_loop import Processes, diverged, print_progress
from lib.record.accepted import at_least, device_named, json_file
from lib.record.experiment import finished, recording
from lib.record.options import command, option, parse
from lib.record.training_state import Checkpoint

_EXPERIMENT = "language_models"  # the folder of its results
_DIRECTIONS = ("forward", "reverse")


class Probe(NamedTuple):
    """What else is measured along a run, whenever its probabilities are."""

    names: tuple[str, ...]
    measure: Callable[[Any], Mapping[str, float]]  # of the model in training, by these names


def run(
    model: Any, tokenizer: Any, data: Dataset, config: FineTuningConfig, *, processes: Processes | None = None,
    evaluated: int = 300, report: Callable[[str], None] = lambda line: None, **watched: Any,
) -> tuple[dict[str, float], dict[str, list], Any]:
    """Fine-tune on the forward direction and evaluate both.

    :param evaluated: prompts of each direction that are answered, at most
    :param report: called with a line of progress
    :param watched: further arguments of `finetune_and_watch`
    :return: accuracies in percent; curves over steps (loss, and probabilities of the left entity); the tuned model
    :raises ArithmeticError: if the run diverges
    """
    processes = processes or Processes()
    curves, adapted = finetune_and_watch(
        model, tokenizer, data, config, processes=processes, report=report, **watched)
    return _accuracies(model, tokenizer, data, evaluated, processes, report), curves, adapted


def finetune_and_watch(
    model: Any, tokenizer: Any, data: Dataset, config: FineTuningConfig, *, replay: Sequence[Example] = (),
    checkpoint: Checkpoint | None = None, processes: Processes | None = None, watched: int = 8, watches: int = 10,
    lead: str = queries.LEAD, every: int = 50, probe: Probe | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, list], Any]:
    """Fine-tune on the forward direction, in place, and follow loss and probabilities; nothing is answered.

    :param replay: other text, mixed in at the share that the configuration says; it is never asked for
    :param checkpoint: resumed from if it is there, and left for the caller to remove once the result is safe
    :param watched: facts whose probabilities are followed
    :param watches: how often, evenly over the run
    :param lead: text before their sentences; none where the dataset's forms begin with a space
    :param every: steps between checkpoints
    :param probe: measured as often; a curve each
    :param report: called with a line of progress as often
    :return: curves over steps (loss, and probabilities of the left entity); the tuned model
    :raises ArithmeticError: if the run diverges
    """
    processes = processes or Processes()
    adapted = finetuning.add_adapters(model, config)
    pairs = [queries.encoded_pair(data, fact, tokenizer, lead=lead) for fact in data.facts[:watched]]
    total = finetuning.step_count(len(data.train), config)
    watch = _Watch(adapted, config, pairs, total, max(1, total // watches), probe, report)
    losses = finetuning.finetune(
        adapted, tokenizer, data.train, config, replay=replay, checkpoint=checkpoint, every=every, keep=True,
        on_step=watch.after if processes.first else None, curves=watch.curves, processes=processes)
    return {**watch.curves, "loss": losses}, adapted


class _Watch:
    """Follows probabilities of the left entity, and what else is measured, evenly over the steps of a run."""

    def __init__(
        self, adapted: Any, config: FineTuningConfig, pairs: Sequence[tuple[EncodedQuery, EncodedQuery]], total: int,
        apart: int, probe: Probe | None, report: Callable[[str], None],
    ) -> None:
        self.adapted, self.config, self.pairs, self.total, self.apart = adapted, config, pairs, total, apart
        self.probe, self.report = probe, report
        names = (*(f"probability_{direction}" for direction in _DIRECTIONS), *(probe.names if probe else ()))
        self.curves: dict[str, list] = {name: [] for name in ("step", *names)}

    def after(self, step: int, loss: float) -> None:
        """Measure, if it is time, after a step that is counted from 0; always after the last one."""
        if step + 1 < self.total and step % self.apart:
            return
        self.curves["step"].append(step + 1)
        for direction, asked in zip(_DIRECTIONS, zip(*self.pairs, strict=True), strict=True):
            batch = queries.batch(asked, next(self.adapted.parameters()).device)
            likely = float(signatures.target_probability(self.adapted, batch).mean())
            if not math.isfinite(likely):
                raise diverged(step + 1, "probabilities that are not finite, "
                                         f"learning rate {self.config.learning_rate:g}")
            self.curves[f"probability_{direction}"].append(likely)
        for name, value in (self.probe.measure(self.adapted) if self.probe else {}).items():
            self.curves[name].append(value)
        self.report(f"step {step + 1} of {self.total}, loss {loss:.3f}")


def _accuracies(model: Any, tokenizer: Any, data: Dataset, evaluated: int, processes: Processes,
                report: Callable[[str], None]) -> dict[str, float]:
    """Percent of right answers in each direction, the prompts shared by the processes."""
    length, metrics = answer_length(data, tokenizer), {}
    for direction in _DIRECTIONS:
        asked = getattr(data, direction)[:evaluated]
        right = decoding.which_right(model, tokenizer, processes.share(asked), length=length)
        metrics[f"{direction}_accuracy"] = 100 * processes.total(sum(right)) / len(asked)
        report(f"{direction} accuracy {metrics[f'{direction}_accuracy']:.1f}")
    return metrics


def answer_length(data: Dataset, tokenizer: Any) -> int:
    """Tokens an answer of either direction may need, its end token included."""
    return completion_length((*data.forward, *data.reverse, *data.train), tokenizer)


def completion_length(examples: Sequence[Example], tokenizer: Any) -> int:
    """Tokens that the longest completion needs, its end token included."""
    texts = {example.completion for example in examples}
    return 1 + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def recall(model: Any, tokenizer: Any, text: Sequence[Example], count: int = 60) -> float:
    """Percent of sentences of a text, evenly chosen, that are completed exactly."""
    chosen = [text[int(i)] for i in np.linspace(0, len(text) - 1, min(count, len(text)))]
    return decoding.accuracy(model, tokenizer, chosen, length=completion_length(chosen, tokenizer), batch=count)


def replay_examples(text: Path | None, seed: int, size: int = 100) -> list[Example]:
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


# From the command line ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReversalRunOptions:
    """What the command can be told."""

    model: str = option()  # hub id, folder, or tiny:ARCHITECTURE
    dataset: str = option("p2c", choices=facts_module.DATASETS)  # of the paper's five
    data: str = option("published", choices=facts_module.FACT_SOURCES)  # whose facts
    facts: int = 0  # train on this many facts of a relation; 0 for all
    text: Path | None = None  # what --replay mixes in, one text a line; generated facts if absent
    dtype: str | None = option(None, choices=("float32", "bfloat16", "float16"))  # of the weights; their own if absent
    device: str = "cpu"  # cpu, cuda, cuda:1, ...; auto
    evaluated: int = 300  # prompts of each direction, at most
    every: int = 50  # steps between checkpoints
    out: Path = option(names=("--output",))  # the result (JSON)
    work: Path | None = None  # folder for checkpoint and adapters; beside the result if absent
    training: FineTuningConfig = option(FineTuningConfig())

    def __post_init__(self) -> None:
        json_file("--out", self.out)
        at_least(self, facts=0, evaluated=1, every=1)
        if not self.model:
            raise ValueError("model must be a hub id, a folder or tiny:ARCHITECTURE, not empty")


parsed = functools.partial(parse, ReversalRunOptions)


class OutputPaths(NamedTuple):
    """Where a run writes beside its result."""

    adapters: Path
    weights: Path  # of the whole model, where all of it is trained
    checkpoint: Path

    @classmethod
    def of(cls, options: ReversalRunOptions) -> OutputPaths:
        """The places of a run; beside the result, they are named after it."""
        beside = options.out.with_name(f"{options.out.stem}.unfinished.safetensors")
        folder = options.work or options.out.with_name(options.out.stem)
        return cls(folder, folder / "weights", options.work / "unfinished.safetensors" if options.work else beside)

    def check_free(self, options: ReversalRunOptions) -> None:
        """Refuse to write over the weights of another run.

        :raises ValueError: if there are any
        """
        if options.training.rank == 0 and self.weights.exists() and not self.checkpoint.exists():
            raise ValueError(f"--rank 0: {self.weights} is there already, from another run; move it away")


def finetune_and_ask(options: ReversalRunOptions) -> None:
    """Run one cell, print its accuracies, and write result and adapters; a result that is there already stays.

    :raises ValueError: for a result of another run in its place, or a model or data that cannot be read
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ArithmeticError: if the run diverges; no result and no adapters are written
    """
    config = options.training
    data = fact_sources.dataset_of(options.dataset, options.data, options.facts, config.seed)
    replay = replay_examples(options.text, config.seed) if config.replay else []
    parameters = parameters_before_loading(options, data, replay)
    if finished(options.out, experiment=_EXPERIMENT, parameters=parameters, seeds=[config.seed]):
        print(f"{options.out}: this run is done, and its result stays")
        return
    files, processes = OutputPaths.of(options), Processes(device_named(options.device))
    files.check_free(options)
    with recording(
        {options.out: parameters}, experiment=_EXPERIMENT, seeds=[config.seed], checkpoint=files.checkpoint,
        folders={"--work" if options.work else "--out": files.adapters}, device=processes.device,
        processes=processes.count, writes=processes.first,
    ) as recorded:
        model, tokenizer = random_checkpoints.load_by_name(
            options.model, options.dtype, processes.device, config.seed)
        metrics, curves, adapted = run(
            model, tokenizer, data, config, replay=replay, checkpoint=recorded.checkpoint, processes=processes,
            evaluated=options.evaluated, every=options.every,
            report=print_progress if processes.first else lambda line: None)
        if processes.first:
            finetuning.save_trained(adapted, tokenizer, files.adapters if config.rank else files.weights)
            recorded.save({name: [value] for name, value in metrics.items()}, curves, **parameters_after_loading(model))
            print(*(f"{name:20s}{value:7.1f}" for name, value in metrics.items()), sep="\n")
    processes.close()


def parameters_before_loading(options: ReversalRunOptions, data: Dataset, replay: Sequence[Example]) -> dict[str, Any]:
    """What is recorded of a run and known before its model is: two runs that agree in it are the same."""
    text = json.dumps([example.completion for example in replay])
    return {"model": options.model, "dataset": options.dataset, "data": options.data, "facts": len(data.facts),
            "sentences": len(data.train), "scoring": data.scoring, "evaluated": options.evaluated,
            "replayed": hashlib.sha256(text.encode()).hexdigest()[:16] if replay else None,
            **({"dtype": options.dtype} if options.dtype else {}), **dataclasses.asdict(options.training)}


def parameters_after_loading(model: Any) -> dict[str, Any]:
    """What is recorded of a run and known from its model."""
    return {"architecture": model.architecture, "size": model_size.size_of(model),
            "dtype": str(model.dtype).removeprefix("torch.")}


main = command(ReversalRunOptions, finetune_and_ask)

if __name__ == "__main__":
    main()
