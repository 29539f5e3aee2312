"""Evaluation protocols: reverse accuracy depends on how it is asked.

The paper does not say what a query shows, how an answer is chosen, or which weights are asked. `PROTOCOLS` lists the
plausible ways; all of them are applied to the snapshots of a finished run (`lib.one_layer.snapshots`), so that they can
be compared at every measured step and under every stopping rule (`lib.one_layer.stopping`).

    python -m lib.one_layer.evaluation results/one_layer/full_rope.json --snapshots _build/weights/rope \\
        --out results/protocols/rope.json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.one_layer import metrics, objectives, prediction, snapshots, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import DIRECTIONS, LETTERS, MASK, PLACEHOLDER, Queries
from lib.one_layer.training import append
from lib.record import provenance
from lib.record.experiment import recording
from lib.record.options import command, option
from lib.record.report import markdown

Accuracies = dict[str, list[float]]
PROTOCOLS = {
    "standard": "everything but the target visible, most likely of all clean tokens, averaged weights",
    "raw": "the same with the weights themselves, not their moving average",
    "letters": "most likely letter; the placeholder is no option",
    "lowercase": "most likely lowercase letter",
    "sampled": "a token drawn from the model's distribution (expected accuracy)",
    "adjacent": "standard, evidence next to the mask only",
    "farthest": "standard, evidence and mask at the two ends only",
    "evidence_only": "all placeholders masked too",
    "random_visible": "each placeholder masked with a probability that is uniform per query",
    "iterative": "from the evidence alone, most confident position first; right if the target appears on its side",
    "iterative_edge": "the same where the evidence stands at the end, so that only the asked side has room",
}
#: how many facts generation is tried with where all of them would take long, and from which length on
FEWER_FACTS, LONG = 6, 20


def protocol_table() -> str:
    """What each protocol asks."""
    return markdown(["protocol", "what is asked"], [[f"`{name}`", words] for name, words in PROTOCOLS.items()])


# Protocols ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def protocol_accuracies(averaged: Ensemble, raw: Ensemble, seed: int = 0) -> dict[str, Accuracies]:
    """Accuracy in percent by protocol and direction, one value a member.

    :param seed: of the random subsets
    :raises ValueError: for causal models, whose questions have no subsets to vary
    """
    settings = averaged.settings
    if settings.causal:
        raise ValueError("protocols: masked models only; a causal model has one way to be asked")
    found: dict[str, Accuracies] = {name: {} for name in PROTOCOLS}
    generated = _generated(averaged)
    for way, asked in zip(DIRECTIONS, task.paired_queries(settings.length), strict=True):
        for name, right in _one_answer_each(averaged, raw, asked, np.random.default_rng(seed)):
            found[name][way] = (right.double().mean(1) * 100).tolist()
        for name, values in iterative_accuracy(*generated, way).items():
            found[name][way] = values.tolist()
    return found


def _one_answer_each(
    averaged: Ensemble, raw: Ensemble, asked: Queries, rng: np.random.Generator
) -> Iterator[tuple[str, Tensor]]:
    """For every protocol with one answer a query: its name and (members, queries) right or wrong, or how likely."""
    logits = metrics.query_logits(averaged, asked)
    right = logits.argmax(2) == asked.target
    yield "standard", right
    yield "raw", metrics.query_logits(raw, asked).argmax(2) == asked.target
    yield "letters", logits[..., :PLACEHOLDER].argmax(2) == asked.target
    yield "lowercase", logits[..., :LETTERS].argmax(2) == asked.target
    yield "sampled", logits.softmax(2)[:, torch.arange(len(asked)), asked.target]
    distance = asked.offset.abs()
    yield "adjacent", right[:, distance == 1]
    yield "farthest", right[:, distance == asked.tokens.shape[1] - 1]
    for name, share in (("evidence_only", 1.0), ("random_visible", None)):
        shown = with_masked_placeholders(asked, share, rng)
        yield name, metrics.query_logits(averaged, shown).argmax(2) == asked.target


def with_masked_placeholders(asked: Queries, share: float | None, rng: np.random.Generator) -> Queries:
    """The queries with placeholders masked.

    :param share: probability of each placeholder; None draws it uniformly, anew for each query
    """
    count, length = asked.tokens.shape
    chance = rng.random((count, 1)) if share is None else np.full((count, 1), share)
    masked = torch.as_tensor(rng.random((count, length)) < chance) & (asked.tokens == PLACEHOLDER)
    return Queries(asked.tokens.masked_fill(masked, MASK), asked.position, asked.evidence, asked.target, asked.letter)


# Generation -----------------------------------------------------------------------------------------------------


def generate(ensemble: Ensemble, tokens: Int[Tensor, "batch length"]) -> Int[Tensor, "members batch length"]:
    """Fill masks one at a time, the most confident position first; every row must hold equally many masks."""
    members, batch = len(ensemble), len(tokens)
    state = tokens.expand(members, -1, -1).clone()
    for left in range(int((tokens[0] == MASK).sum()), 0, -1):
        rows = (state.flatten(1) == MASK).nonzero()[:, 1].view(members, batch * left)
        confidence, said = ensemble.logits(state, rows).softmax(-1).max(-1)
        best = confidence.view(members, batch, left).argmax(2, keepdim=True)
        where, what = (part.view(members, batch, left).gather(2, best)[..., 0] for part in (rows, said))
        state.view(members, -1).scatter_(1, where, what)
    return state


def _generated(ensemble: Ensemble) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with one capital and masks, completed; (members, prompts, length), letters, capital's positions."""
    length = ensemble.settings.length
    facts = torch.arange(LETTERS if length < LONG else FEWER_FACTS)
    letter, place = facts.repeat_interleave(length), torch.arange(length).repeat(len(facts))
    prompts = torch.full((len(letter), length), MASK)
    prompts[torch.arange(len(letter)), place] = letter + LETTERS
    return generate(ensemble, prompts), letter, place


def iterative_accuracy(
    said: Int[Tensor, "members prompts length"], letter: Int[Tensor, " prompts"], place: Int[Tensor, " prompts"],
    way: str,
) -> dict[str, Float[Tensor, " members"]]:
    """Percentage of completions with the target on the asked side of the capital: left forward, right reverse.

    Each prompt counts as often as there are queries with its evidence; at the edge, prompts with room only there.
    """
    positions = torch.arange(said.shape[2])
    gap = (place[:, None] - positions) if way == "forward" else (positions - place[:, None])
    right = ((said == letter[:, None]) & (gap > 0)).any(2).double() * 100
    room = (gap > 0).sum(1).double()
    edge = (room == said.shape[2] - 1).double()
    return {"iterative": right @ room / room.sum(), "iterative_edge": right @ edge / edge.sum()}


# Along a run ----------------------------------------------------------------------------------------------------


def protocol_measures(averaged: Ensemble, raw: Ensemble) -> dict[str, list[float]]:
    """`protocol_accuracies` by ``PROTOCOL_forward`` and ``PROTOCOL_reverse``."""
    return {f"{name}_{way}": [*each] for name, ways in protocol_accuracies(averaged, raw).items()
            for way, each in ways.items()}


@torch.no_grad()
def training_loss(ensemble: Ensemble, objective: str, batch: int = 400) -> list[float]:
    """The loss on one fixed batch of fresh sequences, nats a sequence, one value a member."""
    rng = np.random.default_rng(0)
    tokens = task.sequences(batch, ensemble.settings.length, rng)
    asked = objectives.make_batch(objective, tokens, rng, objectives.stratified_uniforms(batch, rng))
    shown, rows, targets, weights = objectives.stack_batches([asked] * len(ensemble))
    losses: list[float] = objectives.losses(ensemble.logits(shown, rows), targets, weights, batch).tolist()
    return losses


def evaluate_snapshots(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Every protocol, the loss and the features of `lib.one_layer.prediction` at every snapshot of a run.

    :return: ``steps``, and name -> [member][point]; protocols are named ``PROTOCOL_forward``, ``PROTOCOL_reverse``
    """
    parameters = run["parameters"]
    shape = {field.name for field in dataclasses.fields(ModelConfig)} & set(parameters)
    causal = parameters["objective"] == "autoregressive"
    settings = ModelConfig(**{name: parameters[name] for name in shape}, causal=causal)
    curves: dict[str, Any] = {"steps": []}
    for snapshot in snapshots.read_snapshots(folder, settings, {**parameters, "seeds": run["seeds"]}):
        values = protocol_measures(snapshot.averaged, snapshot.raw)
        values["loss"] = training_loss(snapshot.averaged, parameters["objective"])
        values |= prediction.features(snapshot.averaged)
        rounded = {name: [round(value, 4) for value in each] for name, each in values.items()}
        append(curves, "steps", snapshot.step, rounded)
    return curves


# Command line -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What the command can be told."""

    run: Path = option(positional=True)  # the recorded result of `lib.one_layer.experiment`
    snapshots: Path = option()  # the folder of its weights
    out: Path = option()  # the JSON file to write


def measure_snapshots(asked: EvaluationOptions) -> None:
    """Measure a recorded run's snapshots, and record at ``out``."""
    torch.set_num_threads(1)
    run = provenance.load(asked.run)
    with recording({asked.out: run["parameters"]}, experiment="protocols", seeds=run["seeds"]) as going:
        curves = evaluate_snapshots(run, asked.snapshots)
        final = {name: [member[-1] for member in members] for name, members in curves.items() if name != "steps"}
        going.save(final, curves)


main = command(EvaluationOptions, measure_snapshots)

if __name__ == "__main__":
    main()
