"""Recorded runs with one setting of the recipe changed, beside our recipe and the paper's reverse columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lib.one_layer import results as runs
from lib.one_layer.paper_tables import LENGTHS_2, TABLE_1, TABLE_2
from lib.one_layer.results import RecordedRun
from lib.one_layer.task import DIRECTIONS
from lib.record import report

#: settings of the recipe; whatever value a run was recorded with is shown
VARIED = ("width", "learning_rate", "batch", "dropout", "weight_decay", "ema")
Place = tuple[str, int]  # encoding and length
#: the reverse values that the paper prints, from Table 1 under RoPE, from Table 2 under learned positions
REVERSE_COLUMN: dict[Place, float] = {
    **{("rope", size): value for size, value in TABLE_1["RoPE"]["reverse"].items()},
    **{("learned", size): value for size, value in TABLE_2["learned absolute"]["reverse"].items()}}


class SettingSweep(NamedTuple):
    """The runs of one encoding and length."""

    rows: dict[str, dict[str, Float[np.ndarray, " seeds"]]]  # setting -> way -> accuracy a seed, at the last step
    last: int  # step, of the changed runs
    others: float  # mean reverse accuracy there of our recipe's other seeds
    runs: dict[str, RecordedRun]  # by setting
    moves: float | None  # points our recipe's mean moves along its run, once forward is at 90; None: never


def setting_sweep(results: Sequence[RecordedRun], place: Place) -> SettingSweep | None:
    """What is recorded at an encoding and length; None where no changed run or no standard one is."""
    kept = lambda **changed: runs.matching(results, encoding=place[0], length=place[1], profile="full", **changed)
    found: dict[str, RecordedRun] = {}
    for name in VARIED:
        tried = [run for run in kept(**{name: None}) if run["parameters"][name] != runs.STANDARD[name]]
        for run in sorted(tried, key=lambda run: run["parameters"][name]):
            found.setdefault(f"{name.replace('_', ' ')} {run['parameters'][name]:g}", run)
    last = max((run["parameters"]["steps"] for run in found.values()), default=0)
    standard = [run for run in kept() if run["parameters"]["steps"] >= last]
    if not found or not standard:
        return None
    same = [standard[-1]["seeds"].index(seed) for seed in next(iter(found.values()))["seeds"]]
    every = {way: runs.at_step(standard[-1], f"{way}_accuracy", last) for way in DIRECTIONS}
    rows = {"our recipe": {way: every[way][same] for way in DIRECTIONS}}
    rows |= {name: {way: runs.final(run, f"{way}_accuracy") for way in DIRECTIONS} for name, run in found.items()}
    others = float(np.delete(every["reverse"], same).mean())
    return SettingSweep(rows, last, others, {"our recipe": standard[-1], **found}, _late_range(standard[0]))


def _late_range(run: RecordedRun) -> float | None:
    forward, reverse = (np.array(run["curves"][f"{way}_accuracy"], dtype=float).mean(0) for way in DIRECTIONS)
    return float(np.ptp(reverse[forward >= 90])) if (forward >= 90).any() else None


class Sweeps(NamedTuple):
    """Places of `REVERSE_COLUMN` at which all settings are recorded that are recorded anywhere, and those settings."""

    places: dict[Place, SettingSweep]
    settings: list[str]

    def column(self, table: int) -> dict[Place, float]:
        """The reverse accuracies of one table of the paper, percent, at the recorded places."""
        inside = (lambda place: place[0] == "rope") if table == 1 else (lambda place: place[1] in LENGTHS_2)
        return {place: value for place, value in REVERSE_COLUMN.items() if place in self.places and inside(place)}

    def needs(self, table: int) -> dict[str, RecordedRun | None]:
        """What a check of one table reads; None for a place of that table where runs are missing."""
        found = {f"changed settings, {called(place)}": None for place in REVERSE_COLUMN if place not in self.places
                 and (place[0] == "rope" if table == 1 else place[1] in LENGTHS_2)}
        return {**{f"{name}, {called(place)}": run for place in self.column(table)
                   for name, run in self.places[place].runs.items()}, **found}

    def misses(self, wanted: Mapping[Place, float]) -> dict[str, float]:
        """The largest distance of each setting's mean reverse accuracies to the wanted ones, points."""
        return {name: largest_distance(self.places, name, wanted) for name in self.settings}

    def miss_intervals(self, wanted: Mapping[Place, float]) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of `misses`: the seeds of each place are resampled."""
        column = list(wanted.values())
        largest = lambda *cells: max(abs(cell.mean() - value) for cell, value in zip(cells, column, strict=True))
        cells = lambda name: [self.places[place].rows[name]["reverse"] for place in wanted]
        return {name: report.resampled_interval(largest, *cells(name)) for name in self.settings}

    def other_seeds(self, places: Iterable[Place]) -> dict[Place, float]:
        """Mean reverse accuracy, percent, of our recipe's seeds that no changed run has."""
        return {place: self.places[place].others for place in places}

    def scope(self, table: int) -> str:
        """What a check of one table covers, in words."""
        places = self.column(table)
        return (f"{len(self.settings)} settings, {', '.join(map(called, places))}, 3 seeds; at the end of runs of "
                f"{' / '.join(f'{self.places[place].last:,}' for place in places)} steps; ours: the largest miss")

    def accuracy_table(self) -> str:
        """Accuracies of every setting at every place, and the largest miss of each table's column and of both."""
        columns = {"Table 1": self.column(1), "Table 2": self.column(2), "both": self.column(1) | self.column(2)}
        misses = {words: self.misses(column) for words, column in columns.items()}
        return report.markdown(
            ["setting", *(f"{called(place)}: {way} (%)" for place in self.places for way in DIRECTIONS),
             *(f"largest miss, {words} (points)" for words in columns)],
            [[name, *(report.cell(sweep.rows[name][way]) for sweep in self.places.values() for way in DIRECTIONS),
              *(f"{misses[words][name]:.0f}" for words in columns)] for name in self.settings])

    def spread_table(self) -> str:
        """How far reverse accuracy moves with the seed, with the setting and along training, a row a place, points."""
        return report.markdown(
            ["", "seeds of one setting apart (mean)", "means of the settings apart", "our recipe's mean along its run"],
            [[called(place), f"{np.mean([np.ptp(each['reverse']) for each in sweep.rows.values()]):.0f}",
              f"{np.ptp([each['reverse'].mean() for each in sweep.rows.values()]):.0f}",
              "–" if sweep.moves is None else f"{sweep.moves:.0f}"] for place, sweep in self.places.items()])


#: how far apart, in points: the means of settings, and the seeds of one setting on average
APART: dict[str, Callable[..., float]] = {
    "means of the settings": lambda *cells: float(np.ptp([cell.mean() for cell in cells])),
    "seeds of one setting": lambda *cells: float(np.mean([np.ptp(cell) for cell in cells]))}


def apart(sweep: SettingSweep, *more: Float[np.ndarray, " _"]) -> dict[str, float]:
    """`APART`, in reverse accuracy, of the settings of a place and of further runs."""
    cells = [each["reverse"] for each in sweep.rows.values()] + list(more)
    return {name: of(*cells) for name, of in APART.items()}


def settings_move_less_than_seeds(sweep: SettingSweep, *more: Float[np.ndarray, " _"]) -> bool:
    """The first measure of how much the recipe matters: the settings' means lie no further apart than the seeds do."""
    settings, seeds = apart(sweep, *more).values()
    return settings <= seeds


def called(place: Place) -> str:
    """A place in words."""
    return f"{'RoPE' if place[0] == 'rope' else place[0]}, L = {place[1]}"


def complete_sweeps(results: Sequence[RecordedRun]) -> Sweeps:
    """What is recorded with one setting changed, where nothing is missing."""
    found = {place: changed for place in REVERSE_COLUMN if (changed := setting_sweep(results, place))}
    names = max((list(changed.rows) for changed in found.values()), key=len, default=[])
    return Sweeps({place: changed for place, changed in found.items() if set(changed.rows) >= set(names)}, names)


def largest_distance(found: Mapping[Place, SettingSweep], name: str, wanted: Mapping[Place, float]) -> float:
    """The largest distance between a setting's mean reverse accuracies and the wanted ones, in points."""
    return max(abs(found[place].rows[name]["reverse"].mean() - value) for place, value in wanted.items())
