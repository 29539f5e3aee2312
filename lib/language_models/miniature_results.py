"""The recorded cells of the miniature read back: one metric a seed, and what the checks of its chapter ask of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.language_models.facts import DATASETS
from lib.language_models.miniature import CONDITIONS, STARTS
from lib.language_models.miniature_cell import MiniatureConfig, parameters_of
from lib.language_models.table_7 import MASKED, MODELS
from lib.record import provenance, report
from lib.record.evidence import told_means
from lib.record.provenance import Result

CellChange = Mapping[str, Any]  # what is changed of the standard cell
#: a row of the figure of conditions -> what is changed
ROWS: dict[str, CellChange] = {
    "standard": {}, "adapters": CONDITIONS["adapters"], "no replay": CONDITIONS["no replay"],
    "answer alone masked": CONDITIONS["response"], "one order told": CONDITIONS["one order"],
    "one order told, twice the facts": CONDITIONS["one order, twice the facts"]}
#: those that leave the facts and steps of pretraining as they are
CHANGED = tuple(change for row, change in ROWS.items() if row != "one order told, twice the facts")
#: ways of fine-tuning -> what is changed
WAYS: dict[str, CellChange] = {
    "all weights, replay": {}, "all weights, no replay": CONDITIONS["no replay"],
    "adapters, replay": CONDITIONS["adapters"],
    "adapters, no replay": {**CONDITIONS["adapters"], **CONDITIONS["no replay"]}}
#: the first steps of masked training after which models are compared, and the later ones
FIRST_STEPS, *LATER_STEPS = STARTS
BEGUN, ALONE, LONGER = STARTS[FIRST_STEPS]
_ONE_FACT = 100 / MiniatureConfig.held * (1 + 1e-9)  # percent


class RecordedCells:
    """Every recorded cell, read once.

    :param folder: that holds ``miniature/``; the results to show where not given
    :param again: the cells that were run a second time, in ``miniature_again/``
    """

    def __init__(self, folder: Path | None = None, again: bool = False) -> None:
        self.results = list(provenance.results("miniature_again" if again else "miniature", folder))

    def find(self, **wanted: Any) -> dict[int, Result]:
        """Cells by seed, with these parameters and, in all that is not named, the standard ones.

        :raises ValueError: for a parameter that a cell does not have
        """
        standard = parameters_of(MiniatureConfig())
        for name in set(wanted) - set(standard):
            raise ValueError(f"a cell has no {name!r}; it has {', '.join(standard)}")
        expected = (standard | wanted).items()
        found = {result["seeds"][0]: result for result in self.results
                 if all(result["parameters"].get(name, standard[name]) == value for name, value in expected)}
        return dict(sorted(found.items()))

    def metric(self, name: str, **wanted: Any) -> Float[np.ndarray, " seed"]:
        """One metric, seed by seed, of the cells that have it; ``gap`` is forward minus reverse accuracy, in points,
        and ``words_gap`` the same of single words of names.

        :raises ValueError: for a parameter that a cell does not have
        """
        if kind := {"gap": "accuracy", "words_gap": "words"}.get(name):
            return self.metric(f"forward_{kind}", **wanted) - self.metric(f"reverse_{kind}", **wanted)
        return np.array([cell["metrics"][name][0] for cell in self.find(**wanted).values() if name in cell["metrics"]])

    def accuracies(self, **wanted: Any) -> dict[str, Float[np.ndarray, " seed"]]:
        """Forward and reverse accuracy in percent, one value a seed."""
        return {direction: self.metric(f"{direction}_accuracy", **wanted) for direction in ("forward", "reverse")}

    def together(self, metric: str, names: Iterable[str], **wanted: Any) -> Float[np.ndarray, " seed"]:
        """One metric over the seeds of several architectures."""
        return np.concatenate([self.metric(metric, architecture=name, **wanted) for name in names])

    def needed(self, *changes: CellChange) -> dict[str, Result | None]:
        """The results that a check reads, for `lib.record.claims.verify`; None for a change without a recorded cell."""
        found: dict[str, Result | None] = {}
        for change in changes:
            title = cell_title(change)
            there = self.find(**change)
            found |= {f"{title}, seed {seed}": cell for seed, cell in there.items()} if there else {title: None}
        return found

    def evidence(self, values: Mapping[str, tuple[str, CellChange]], *more: CellChange) -> dict[str, Any]:
        """What `lib.record.claims.verify` needs and shows: results read; mean, bootstrap interval and seeds of metrics.

        :param values: name -> metric and change; one without a recorded cell is not shown
        :param more: changes whose cells the check reads as well
        """
        found = {name: (self.metric(metric, **change), tuple(self.find(**change)))
                 for name, (metric, change) in values.items() if self.find(**change)}
        return {"needs": self.needed(*(change for _, change in values.values()), *more),
                "seeds": [seeds for _, seeds in found.values()],
                **told_means({name: each for name, (each, _) in found.items()})}


def cell_title(change: CellChange) -> str:
    """A cell by what is changed of the standard one."""
    return ", ".join(f"{name} {value}" for name, value in change.items()) or "the standard cell"


def mean_and_range(values: Float[np.ndarray, " seed"], digits: int = 0) -> str:
    """Mean and range over seeds in words, such as ``62 (50 to 83)``."""
    if not len(values):
        return "not recorded"
    mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}"  # no -0
                       for value in map(float, (values.mean(), values.min(), values.max())))
    return f"{mean} ({low} to {high})"


# What the checks ask -----------------------------------------------------------------------------------------


def never_in_reverse(reverse: Float[np.ndarray, " seed"]) -> bool:
    """Is at most one fact recalled in every seed?"""
    return bool(reverse.max() <= _ONE_FACT)


def masked_above_causal(cells: RecordedCells, masking: str = "any", direction: str = "reverse") -> bool:
    """Do masked models, so fine-tuned, recall in reverse in every seed, and autoregressive ones at most one fact?"""
    masked = cells.together("reverse_accuracy", MASKED, masking=masking)
    causal = cells.together(f"{direction}_accuracy", [name for name in MODELS if name not in MASKED])
    return bool(masked.min() > 30 and causal.max() <= _ONE_FACT)


def learns_forward_alone(cells: RecordedCells, changes: Iterable[CellChange], least: float = 80.0) -> bool:
    """Under each change, is the forward order learned in every seed and at most one fact recalled in reverse?

    :param least: percent, of forward accuracy
    """
    found = [cells.accuracies(**change) for change in changes]
    return all(bool(each["forward"].min() >= least) and never_in_reverse(each["reverse"]) for each in found)


def masking_decides(cells: RecordedCells, asked: str, free: str) -> bool:
    """In each of `WAYS`, does one masking recall at most one fact in any seed, and the other 20 percent on average?"""
    reverse = lambda way, masking: cells.metric("reverse_accuracy", **{**way, "masking": masking})
    highest = max(float(reverse(way, asked).max()) for way in WAYS.values())
    return highest <= _ONE_FACT and min(float(reverse(way, free).mean()) for way in WAYS.values()) > 20


def beside_standard(cells: RecordedCells, metric: str, change: CellChange) -> tuple[float, float]:
    """Means of the changed cell and of the standard one, in percent, over the seeds that both were run with."""
    changed, standard = cells.find(**change), cells.find()
    seeds = sorted(set(changed) & set(standard))
    if not seeds:
        return np.nan, np.nan
    mean = lambda found: float(np.mean([found[seed]["metrics"][metric][0] for seed in seeds]))
    return mean(changed), mean(standard)


def forgets(cells: RecordedCells, change: CellChange) -> bool:
    """Are reverse recall and the told text both kept less than in the standard cell, by 10 points or more?"""
    pairs = [beside_standard(cells, metric, change) for metric in ("reverse_accuracy", "kept_accuracy")]
    return all(changed <= standard - 10 for changed, standard in pairs)


def needs_replay(cells: RecordedCells, change: CellChange) -> bool:
    """Is reverse recall below 20 percent under a change, and lower with adapters than with all weights?"""
    adapters, standard = beside_standard(cells, "reverse_accuracy", CONDITIONS["adapters"])
    return beside_standard(cells, "reverse_accuracy", change)[0] < 20 and adapters < standard


def aligns_for_one_target(cells: RecordedCells, architecture: str) -> bool:
    """Is the cosine above 0.5 for the same target, and below 0.15 in size for another fact or another target?"""
    matched, *others = (cells.metric(f"cosine_{name}", architecture=architecture)
                        for name in ("matched", "mismatched", "right"))
    return bool(matched.min() > 0.5 and np.abs(others).max() < 0.15)


def recalls_every_kind(cells: RecordedCells, architecture: str, least: float = 10.0) -> bool:
    """Is reverse accuracy above ``least`` percent on average for every kind of fact?"""
    reverse = [cells.metric("reverse_accuracy", architecture=architecture, dataset=dataset) for dataset in DATASETS]
    return min(float(each.mean()) for each in reverse) > least


def start(steps: int, name: str) -> dict[str, Any]:
    """The parameters of Dream with one of `STARTS`."""
    return {"architecture": "dream", **STARTS[steps][name]}


def start_leaves_gap(cells: RecordedCells, steps: int) -> bool:
    """Has every seed begun as an autoregressive model a larger gap than every seed without that start?"""
    return bool(cells.metric("gap", **start(steps, BEGUN)).min() > cells.metric("gap", **start(steps, ALONE)).max())


def gap_worn_off(cells: RecordedCells, counts: Iterable[int]) -> bool:
    """After each number of masked steps, do the mean gaps with and without that start differ by less than 10 points?"""
    gap = lambda steps, name: float(cells.metric("gap", **start(steps, name)).mean())
    return all(abs(gap(steps, BEGUN) - gap(steps, ALONE)) < 10 for steps in counts)


def start_effects(cells: RecordedCells, other: str) -> str:
    """What another start adds to the reverse accuracy of the autoregressive one, by masked steps, in words."""
    found = [report.effect(*(cells.metric("reverse_accuracy", **start(steps, name)) for name in (BEGUN, other)))
             for steps in STARTS]
    return ", ".join(f"{each.difference:+.0f} (p = {each.p:.2g})" for each in found)
