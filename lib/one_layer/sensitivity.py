"""Recorded runs with one setting of the recipe changed, and how near each comes to the paper's reverse values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lib.one_layer import results as runs
from lib.one_layer.paper_tables import TABLE_1, TABLE_2
from lib.one_layer.results import Result
from lib.one_layer.task import WAYS

#: settings of the recipe; whatever value a run was recorded with is shown
VARIED = ("width", "learning_rate", "batch", "dropout", "weight_decay", "ema")
Place = tuple[str, int]  # encoding and length
#: the reverse values that the paper prints, from Table 1 under RoPE, from Table 2 under learned positions
COLUMN: dict[Place, float] = {
    **{("rope", size): value for size, value in TABLE_1["RoPE"]["reverse"].items()},
    **{("learned", size): value for size, value in TABLE_2["learned absolute"]["reverse"].items()}}


class SettingSweep(NamedTuple):
    """The runs of one encoding and length."""

    rows: dict[str, dict[str, Float[np.ndarray, " seeds"]]]  # setting -> way -> accuracy a seed, at the last step
    last: int  # step, of the changed runs
    others: float  # mean reverse accuracy there of the standard recipe's other seeds
    moves: float | None  # points the standard recipe's mean moves along its run, once forward is at 90; None: never


def at(results: Sequence[Result], place: Place) -> SettingSweep | None:
    """What is recorded at an encoding and length; None where no changed run or no standard one is."""
    kept = lambda **changed: runs.matching(results, encoding=place[0], length=place[1], profile="full", **changed)
    found: dict[str, Result] = {}
    for name in VARIED:
        tried = [run for run in kept(**{name: None}) if run["parameters"][name] != runs.STANDARD[name]]
        for run in sorted(tried, key=lambda run: run["parameters"][name]):
            found.setdefault(f"{name.replace('_', ' ')} {run['parameters'][name]:g}", run)
    last = max((run["parameters"]["steps"] for run in found.values()), default=0)
    standard = [run for run in kept() if run["parameters"]["steps"] >= last]
    if not found or not standard:
        return None
    same = [standard[-1]["seeds"].index(seed) for seed in next(iter(found.values()))["seeds"]]
    every = {way: runs.at_step(standard[-1], f"{way}_accuracy", last) for way in WAYS}
    rows = {"standard": {way: every[way][same] for way in WAYS}}
    rows |= {name: {way: runs.final(run, f"{way}_accuracy") for way in WAYS} for name, run in found.items()}
    return SettingSweep(rows, last, float(np.delete(every["reverse"], same).mean()), _moves(standard[0]))


def _moves(run: Result) -> float | None:
    forward, reverse = (np.array(run["curves"][f"{way}_accuracy"], dtype=float).mean(0) for way in WAYS)
    return float(np.ptp(reverse[forward >= 90])) if (forward >= 90).any() else None


def everywhere(results: Sequence[Result]) -> tuple[dict[Place, SettingSweep], list[str]]:
    """Places of `COLUMN` at which all settings are recorded that are recorded anywhere, and those settings."""
    found = {place: changed for place in COLUMN if (changed := at(results, place))}
    names = max((list(changed.rows) for changed in found.values()), key=len, default=[])
    return {place: changed for place, changed in found.items() if set(changed.rows) >= set(names)}, names


def away(found: Mapping[Place, SettingSweep], name: str, wanted: Mapping[Place, float]) -> float:
    """The largest distance between a setting's mean reverse accuracies and the wanted ones, in points."""
    return max(abs(found[place].rows[name]["reverse"].mean() - value) for place, value in wanted.items())
