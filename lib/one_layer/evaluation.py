"""Ways to ask the same questions: what reverse accuracy is depends on how it is asked.

The paper does not say what a query shows, how an answer is chosen, or which weights are asked. `PROTOCOLS` lists the
plausible readings; all of them are applied to the snapshots of a finished run (`lib.one_layer.snapshots`), so that they can be
compared at every measured step and under every stopping rule (`lib.one_layer.stopping`).

    python -m lib.one_layer.evaluation results/one_layer/full_rope.json --snapshots _build/weights/rope \\
        --out results/protocols/rope.json
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.one_layer import metrics, objectives, prediction, snapshots, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import LETTERS, MASK, PLACEHOLDER, WAYS, Queries
from lib.one_layer.training import append
from lib.record import provenance

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


# Protocols ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(averaged: Ensemble, raw: Ensemble, seed: int = 0) -> dict[str, Accuracies]:
    """Accuracy in percent by protocol and direction, one value a member.

    :param seed: of the random subsets
    :raises ValueError: for causal models, whose questions have no subsets to vary
    """
    settings = averaged.settings
    if settings.causal:
        raise ValueError("protocols: masked models only; a causal model has one way to be asked")
    found: dict[str, Accuracies] = {name: {} for name in PROTOCOLS}
    generated = _generated(averaged)
    for way, asked in zip(WAYS, task.paired_queries(settings.length), strict=True):
        for name, right in _graded(averaged, raw, asked, np.random.default_rng(seed)):
            found[name][way] = (right.double().mean(1) * 100).tolist()
        for name, values in iterated(*generated, way).items():
            found[name][way] = values.tolist()
    return found


def _graded(
    averaged: Ensemble, raw: Ensemble, asked: Queries, draw: np.random.Generator
) -> Iterator[tuple[str, Tensor]]:
    """For every protocol with one answer a query: its name and (members, queries) right or wrong, or how likely."""
    logits = metrics.answers(averaged, asked)
    right = logits.argmax(2) == asked.target
    yield "standard", right
    yield "raw", metrics.answers(raw, asked).argmax(2) == asked.target
    yield "letters", logits[..., :PLACEHOLDER].argmax(2) == asked.target
    yield "lowercase", logits[..., :LETTERS].argmax(2) == asked.target
    yield "sampled", logits.softmax(2)[:, torch.arange(len(asked)), asked.target]
    distance = asked.offset.abs()
    yield "adjacent", right[:, distance == 1]
    yield "farthest", right[:, distance == asked.tokens.shape[1] - 1]
    for name, shown in (("evidence_only", hidden(asked, 1.0, draw)), ("random_visible", hidden(asked, None, draw))):
        yield name, metrics.answers(averaged, shown).argmax(2) == asked.target


def hidden(asked: Queries, share: float | None, draw: np.random.Generator) -> Queries:
    """The same queries with placeholders masked.

    :param share: probability of each placeholder; None draws it uniformly, anew for each query
    """
    count, length = asked.tokens.shape
    chance = draw.random((count, 1)) if share is None else np.full((count, 1), share)
    masked = torch.as_tensor(draw.random((count, length)) < chance) & (asked.tokens == PLACEHOLDER)
    return Queries(asked.tokens.masked_fill(masked, MASK), asked.position, asked.evidence, asked.target, asked.letter)


# Generation -----------------------------------------------------------------------------------------------------


def generate(ensemble: Ensemble, tokens: Int[Tensor, "batch length"]) -> Int[Tensor, "members batch length"]:
    """Fill masks one at a time, the most confident position first; every row must hold equally many masks."""
    members, batch = len(ensemble), len(tokens)
    state = tokens.expand(members, -1, -1).clone()
    for left in range(int((tokens[0] == MASK).sum()), 0, -1):
        rows = (state.flatten(1) == MASK).nonzero()[:, 1].view(members, batch * left)
        sure, said = ensemble.logits(state, rows).softmax(-1).max(-1)
        best = sure.view(members, batch, left).argmax(2, keepdim=True)
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


def iterated(
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


@torch.no_grad()
def training_loss(ensemble: Ensemble, objective: str, batch: int = 400) -> list[float]:
    """The loss on one fixed batch of fresh sequences, nats a sequence, one value a member."""
    draw = np.random.default_rng(0)
    tokens = task.sequences(batch, ensemble.settings.length, draw)
    asked = objectives.ask(objective, tokens, draw, objectives.quantiles(batch, draw))
    shown, rows, targets, weights = objectives.stack([asked] * len(ensemble))
    losses: list[float] = objectives.losses(ensemble.logits(shown, rows), targets, weights, batch).tolist()
    return losses


def along(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Every protocol, the loss and the features of `lib.one_layer.prediction` at every snapshot of a run.

    :return: ``steps``, and name -> [member][point]; protocols are named ``PROTOCOL_forward``, ``PROTOCOL_reverse``
    """
    parameters = run["parameters"]
    shape = {field.name: parameters[field.name] for field in dataclasses.fields(ModelConfig) if field.name in parameters}
    settings = ModelConfig(**shape, causal=parameters["objective"] == "autoregressive")
    curves: dict[str, Any] = {"steps": []}
    for snapshot in snapshots.read(folder, settings, {**parameters, "seeds": run["seeds"]}):
        values = {f"{name}_{way}": each for name, ways in evaluate(snapshot.averaged, snapshot.raw).items()
                  for way, each in ways.items()}
        values["loss"] = training_loss(snapshot.averaged, parameters["objective"])
        values |= prediction.features(snapshot.averaged)
        rounded = {name: [round(value, 4) for value in each] for name, each in values.items()}
        append(curves, "steps", snapshot.step, rounded)
    return curves


# Command line -------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a recorded run's snapshots; bad values end it with a message that names them."""
    command = argparse.ArgumentParser(prog="python -m lib.one_layer.evaluation", description=(__doc__ or "").split("\n")[0])
    command.add_argument("run", type=Path, help="the recorded result of `lib.one_layer.training`")
    command.add_argument("--snapshots", type=Path, required=True, help="the folder of its weights")
    command.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    given = command.parse_args(arguments)
    torch.set_num_threads(1)
    measuring = provenance.Run()
    try:
        run = provenance.load(given.run)
        curves = along(run, given.snapshots)
    except (ValueError, FileNotFoundError) as error:
        command.error(str(error))
    final = {name: [member[-1] for member in members] for name, members in curves.items() if name != "steps"}
    provenance.save(given.out, experiment="protocols", parameters=run["parameters"], seeds=run["seeds"],
                    metrics=final, curves=curves, run=measuring)


if __name__ == "__main__":
    main()
