"""Tables 1 and 2 of the paper, the recorded runs beside their cells, and those with one setting of the recipe changed.

A cell is named by its *key*: a length and the name of a model. A run that ended before its models had learned the
forward direction is shown, but judges nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lib.one_layer import results as runs
from lib.one_layer.results import RecordedRun
from lib.one_layer.task import DIRECTIONS
from lib.record import report

Key = tuple[int, str]
#: model -> way -> length -> accuracy in percent, as printed
TABLE_1: dict[str, dict[str, dict[int, float]]] = {
    "RoPE": {"forward": {10: 99.31, 20: 97.36, 30: 96.91, 40: 97.27},
             "reverse": {10: 43.10, 20: 55.70, 30: 33.89, 40: 38.37}},
    "autoregressive": {"forward": {10: 99.83, 20: 99.80, 30: 99.93, 40: 99.93},
                       "reverse": {10: 0.0, 20: 0.0, 30: 0.0, 40: 0.0}},
}
TABLE_2: dict[str, dict[str, dict[int, float]]] = {
    "learned absolute": {"forward": {10: 98.3, 20: 97.8}, "reverse": {10: 11.5, 20: 27.8}},
    "RoPE": {"forward": {10: 99.3, 20: 96.8}, "reverse": {10: 43.1, 20: 55.7}},
    "ALiBi": {"forward": {10: 99.7, 20: 99.5}, "reverse": {10: 99.8, 20: 99.5}},
}
LENGTHS, LENGTHS_2 = (10, 20, 30, 40), (10, 20)
ENCODINGS_IN_ORDER = tuple(TABLE_2)  # in the order of their reverse accuracy
#: what a recorded run of each model was given beside the standard recipe
KINDS: dict[str, dict[str, Any]] = {
    "RoPE": {"encoding": "rope"}, "ALiBi": {"encoding": "alibi"}, "learned absolute": {"encoding": "learned"},
    "autoregressive": {"encoding": "learned", "objective": "autoregressive"},
    "ALiBi with direction": {"encoding": "alibi_directional"}, "T5 bias": {"encoding": "t5"},
    "sinusoidal": {"encoding": "sinusoidal"}, "no encoding": {"encoding": "none"},
    "RoPE, fixed-rate masking": {"encoding": "rope", "objective": "fixed_rate"},
    "RoPE, two layers": {"encoding": "rope", "depth": 2}, "RoPE, four layers": {"encoding": "rope", "depth": 4},
}
LEARNED = 95.0  # percent forward, mean over seeds


def paper_value(key: Key, way: str) -> str:
    """What the paper prints, from either table; a dash where it prints nothing."""
    size, name = key
    if name in TABLE_1:
        return f"{TABLE_1[name][way][size]:.2f}"
    value = TABLE_2.get(name, {}).get(way, {}).get(size)
    return "–" if value is None else f"{value:.1f}"


class PaperComparison:
    """The recorded full runs by key, and what they are asked.

    :param results: of `lib.one_layer.experiment`; the longest of each cell is taken
    """

    def __init__(self, results: Iterable[RecordedRun]) -> None:
        kept = list(results)
        self.full: dict[Key, RecordedRun] = {
            (size, name): found[0] for size in LENGTHS for name, kind in KINDS.items()
            if (found := runs.matching(kept, length=size, profile="full", **kind))}
        self.unlearned = {key: run for key, run in self.full.items()
                          if runs.final(run, "forward_accuracy").mean() < LEARNED}

    def sizes(self, name: str, judged: bool = True) -> list[int]:
        """Lengths at which a model was recorded, and, where that is asked, learned the forward direction."""
        return [size for size in LENGTHS if (size, name) in self.full
                and not (judged and (size, name) in self.unlearned)]

    def missing(self, *keys: Key) -> list[str]:
        """In words, the cells that no run can judge."""
        return [f"{name} at length {size}" for size, name in keys if size not in self.sizes(name)]

    def final(self, key: Key, metric: str, point: int = -1) -> Float[np.ndarray, " seeds"]:
        """One value a seed, at the end of a run or another measured point."""
        return runs.final(self.full[key], metric, point)

    def at_all(self, metric: str, point: int = -1, name: str = "RoPE") -> list[Float[np.ndarray, " seeds"]]:
        """One value a seed at every length at which the model is judged."""
        return [self.final((size, name), metric, point) for size in self.sizes(name)]

    def at_common_step(self, size: int, *names: str) -> list[Float[np.ndarray, " seeds"]]:
        """Reverse accuracy of models where all have trained equally long: at the last step that all runs reach."""
        return runs.at_common_step("reverse_accuracy", *(self.full[size, name] for name in names))

    def ordered(self, size: int, names: Sequence[str]) -> bool:
        """Each model's reverse accuracy lies below the next one's by more than either spread; forward is learned."""
        clear = all(high.mean() - low.mean() > max(report.spread(low) or 0, report.spread(high) or 0)
                    for low, high in (self.at_common_step(size, *pair) for pair in itertools.pairwise(names)))
        return bool(clear and all(self.final((size, name), "forward_accuracy").mean() > LEARNED for name in names))

    def fails_in_reverse(self, name: str, sizes: Sequence[int]) -> bool:
        """Every seed has learned forward (above 95 percent), and answers less than 1 percent in reverse."""
        return all(bool(self.final((size, name), "forward_accuracy").min() > LEARNED
                        and self.final((size, name), "reverse_accuracy").max() < 1) for size in sizes)

    def contrasts(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Every contrast of the two tables whose two runs are recorded: name, values a seed, values a seed."""
        last = lambda size, name, way="reverse": self.final((size, name), f"{way}_accuracy")
        judged, causal = self.sizes("RoPE"), self.sizes("autoregressive")
        for size in judged:
            yield f"RoPE, $L={size}$: reverse → forward", last(size, "RoPE"), last(size, "RoPE", "forward")
        for size in [size for size in judged if size in causal]:
            yield f"reverse, $L={size}$: autoregressive → RoPE", last(size, "autoregressive"), last(size, "RoPE")
        for size, pair in itertools.product(LENGTHS_2, (("RoPE", "learned absolute"), ("RoPE", "ALiBi"))):
            if all((size, name) in self.full for name in pair):
                low, high = self.at_common_step(size, *pair)
                yield f"reverse, $L={size}$: {' → '.join(pair)}", low, high

    def below(self, name: str) -> dict[int, report.EffectSize]:
        """Forward over reverse accuracy of one model, at every length at which it is judged."""
        either = lambda size: (self.final((size, name), f"{way}_accuracy") for way in reversed(DIRECTIONS))
        return {size: report.effect(*either(size)) for size in self.sizes(name)}

    def rows(self) -> list[list[str]]:
        """A row a cell and way: model, query, the paper's value, ours, ours among letters, placeholders, steps."""
        return [[f"{name}, $L={size}$", way, paper_value((size, name), way),
                 *(report.cell(runs.final(run, f"{way}_accuracy{rest}")) for rest in ("", "_lowercase")),
                 _placeholders(run) if way == "reverse" else "", f"{run['parameters']['steps']:,}"]
                for (size, name), run in self.full.items() for way in DIRECTIONS]


def _placeholders(run: RecordedRun) -> str:
    shares = runs.wrong_as_placeholder(run)
    return f"{shares.mean():.1f}" if len(shares) else "no errors"


# One setting changed -----------------------------------------------------------------------------------------------

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
    others: float  # mean reverse accuracy there of the standard recipe's other seeds
    moves: float | None  # points the standard recipe's mean moves along its run, once forward is at 90; None: never


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
    rows = {"standard": {way: every[way][same] for way in DIRECTIONS}}
    rows |= {name: {way: runs.final(run, f"{way}_accuracy") for way in DIRECTIONS} for name, run in found.items()}
    return SettingSweep(rows, last, float(np.delete(every["reverse"], same).mean()), _late_range(standard[0]))


def _late_range(run: RecordedRun) -> float | None:
    forward, reverse = (np.array(run["curves"][f"{way}_accuracy"], dtype=float).mean(0) for way in DIRECTIONS)
    return float(np.ptp(reverse[forward >= 90])) if (forward >= 90).any() else None


def complete_sweeps(results: Sequence[RecordedRun]) -> tuple[dict[Place, SettingSweep], list[str]]:
    """Places of `COLUMN` at which all settings are recorded that are recorded anywhere, and those settings."""
    found = {place: changed for place in REVERSE_COLUMN if (changed := setting_sweep(results, place))}
    names = max((list(changed.rows) for changed in found.values()), key=len, default=[])
    return {place: changed for place, changed in found.items() if set(changed.rows) >= set(names)}, names


def largest_distance(found: Mapping[Place, SettingSweep], name: str, wanted: Mapping[Place, float]) -> float:
    """The largest distance between a setting's mean reverse accuracies and the wanted ones, in points."""
    return max(abs(found[place].rows[name]["reverse"].mean() - value) for place, value in wanted.items())
