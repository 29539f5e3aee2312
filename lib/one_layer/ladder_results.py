"""The recorded rungs of the ladder (`lib.one_layer.ladder_run`) read back, and what the checks of their chapter ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.one_layer.ladder_run import LadderRunOptions, rung_parameters
from lib.one_layer.ladder_sentences import LadderTask
from lib.one_layer.task import DIRECTIONS
from lib.record import provenance
from lib.record.evidence import told_effects, told_means
from lib.record.provenance import Result
from lib.record.report import Values, seeds_lead_by

_WORDS = {"relations": 2, "heads": 4, "depth": 2}
_QUADS = {**_WORDS, "left": 4, "right": 4, "one_stock": True}
_FRAME = {"placeholders": 7, "masking": "any", "steps": 1000}
#: a rung -> what is changed of the defaults of `lib.one_layer.ladder_run`; each changes one thing of the rung before it
LADDER_RUNGS: dict[str, dict[str, Any]] = {
    "letters": {"placeholders": 3, "orders": "forward"},
    "bare": {"orders": "forward"},
    "halves": {},
    "word": {"relations": 1},
    "words": {"relations": 2},
    "heads": {"relations": 2, "heads": 4},
    "layers": _WORDS,
    "own": {**_WORDS, "left": 1, "right": 1},
    "pairs": {**_WORDS, "left": 2, "right": 2},
    "stock": {**_WORDS, "left": 2, "right": 2, "one_stock": True},
    "quads": _QUADS,
}
RUNG_TITLES = {
    "letters": "letters among placeholders, forward only", "bare": "no placeholders",
    "halves": "half of the other facts in the other order", "word": "one relation word", "words": "two relation words",
    "heads": "four heads", "layers": "two layers", "own": "names of two words, the first its own",
    "pairs": "each word in two names", "stock": "both sides' names of the same words",
    "quads": "each word in four names",
}
#: rungs whose other facts are told in both orders
RECOVERIES = {f"{name}_both": {**LADDER_RUNGS[name], "orders": "both"} for name in ("own", "pairs", "stock", "quads")}
#: one thing taken away from the last rung
BRANCHES: dict[str, dict[str, Any]] = {
    "left_alone": {**_WORDS, "left": 4}, "right_alone": {**_WORDS, "right": 4},
    "one_layer": {**_QUADS, "depth": 1}, "attention": {**_QUADS, "depth": 1, "mlp": False},
    "one_word": {**_QUADS, "relations": 1}, "no_word": {**_QUADS, "relations": 0},
}
#: the one-layer task with markers between letter and capital, any token asked for
FRAMES = {"frame_both": {**_FRAME, "relations": 2, "orders": "both"}, "frame_one": {**_FRAME, "relations": 2},
          "frame_none": {**_FRAME, "relations": 1}}
FRAME_TITLES = {"frame_both": "two markers, other facts in both orders", "frame_one": "two markers, one order each",
                "frame_none": "one marker for both orders"}
MINIATURE_SEEDS = 5  # of the miniature with names of one word
LADDER_CONDITIONS = {**LADDER_RUNGS, **RECOVERIES, **BRANCHES, **FRAMES}


class RecordedRungs:
    """Every recorded rung, read once.

    :param folder: that holds ``ladder/``; the results to show where not given
    """

    def __init__(self, folder: Path | None = None) -> None:
        found = list(provenance.results("ladder", folder))
        self.results = [result for result in found if result["experiment"] == "ladder"]
        self.miniature = {result["seeds"][0]: result for result in found if result["experiment"] == "miniature"}

    def find(self, condition: str) -> Result | None:
        """The run of one of `LADDER_CONDITIONS`, which holds all of its seeds; None where it was not run.

        :raises ValueError: for an unknown condition, naming the valid ones
        """
        if condition not in LADDER_CONDITIONS:
            raise ValueError(f"condition {condition!r}: one of {', '.join(LADDER_CONDITIONS)}")
        wanted = condition_parameters(condition)
        return next((result for result in self.results if result["parameters"] == wanted), None)

    def metric(self, name: str, condition: str) -> Float[np.ndarray, " seed"]:
        """One metric in percent, seed by seed; empty where the condition was not run."""
        found = self.find(condition)
        return np.array([] if found is None else found["metrics"][name], dtype=float)

    def evidence(self, cells: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """What `lib.record.claims.verify` is told of metrics: their means with intervals, and the runs they are from.

        :param cells: label -> metric and condition
        """
        seeds = lambda: [self._seeds(condition) for _, condition in cells.values()]
        return {"needs": {condition: self.find(condition) for _, condition in cells.values()}, "seeds": seeds,
                **told_means(lambda: {label: self.metric(*cell) for label, cell in cells.items()})}

    def miniature_metric(self, name: str) -> Float[np.ndarray, " seed"]:
        """One metric of the miniature told in one order with names of one word, seed by seed."""
        return np.array([result["metrics"][name][0] for result in self.miniature.values()], dtype=float)

    def miniature_accuracies(self) -> dict[str, Float[np.ndarray, " seed"]]:
        """Forward and reverse accuracy of that miniature in percent, seed by seed."""
        return {way: self.miniature_metric(f"{way}_accuracy") for way in DIRECTIONS}

    def miniature_needs(self) -> dict[str, Result | None]:
        """The runs of those cells, for `lib.record.claims.verify`; None for a planned seed that was not run."""
        return {f"miniature, seed {seed}": self.miniature.get(seed) for seed in range(MINIATURE_SEEDS)}

    def _seeds(self, condition: str) -> Sequence[int]:
        found = self.find(condition)
        return [] if found is None else found["seeds"]

    def differences(self, pairs: Mapping[str, tuple[tuple[str, str], tuple[str, str]]]) -> dict[str, Any]:
        """What `lib.record.claims.verify` is told of differences, first metric and condition less second."""
        told = self.evidence({f"{label}{end}": cell for label, pair in pairs.items() for end, cell in enumerate(pair)})
        return told | told_effects(lambda: {
            label: (self.metric(*second), self.metric(*first)) for label, (first, second) in pairs.items()})


def condition_parameters(condition: str) -> dict[str, Any]:
    """The parameters that are recorded of a condition."""
    changed = dict(LADDER_CONDITIONS[condition])
    fields = {field.name for field in dataclasses.fields(LadderTask)}
    task = LadderTask(**{name: changed.pop(name) for name in fields & set(changed)})
    return rung_parameters(LadderRunOptions(task=task, out=Path("any.json"), **changed))


# What the checks ask -----------------------------------------------------------------------------------------


def recalls_at_least(runs: RecordedRungs, conditions: Sequence[str], least: float | int,
                     metric: str = "reverse_names") -> bool:
    """Is the mean over seeds of a metric at least so many percent, under each condition?"""
    return all(bool(runs.metric(metric, condition).mean() >= least) for condition in conditions)


def leads_by(runs: RecordedRungs, first: tuple[str, str], second: tuple[str, str], points: float | int) -> bool:
    """Does a metric of a condition lead another by so many points, mean over seeds, and the interval lie above 0?"""
    return seeds_lead_by(runs.metric(*first), runs.metric(*second), points)


def told_difference(first: Values, second: Values) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of the difference of two measures, first less second."""
    return told_effects({"difference": (second, first)}) | {
        "seeds": [tuple(range(len(values))) for values in (first, second)]}


def answers_symmetrically(
    runs: RecordedRungs, conditions: Sequence[str], wrong: str = "wrong_frame", points: float | int = 10
) -> bool:
    """Is the wrong frame answered by the name of the right one at most so many points less often, in each condition?

    :param wrong: the questions that stand in for the wrong frame
    """
    gap = lambda name: runs.metric("reverse_names", name).mean() - runs.metric(f"{wrong}_names", name).mean()
    return all(bool(gap(name) <= points) for name in conditions)
