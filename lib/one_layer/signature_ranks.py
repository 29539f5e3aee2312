"""Do models with the larger signature answer more in reverse? Rank correlations over encodings, and over seeds.

A *kind* is an encoding, with position kept from the values or put into them where that is not the encoding's own way
(`intervention_runs.ENCODINGS_AND_VALUES`). Over kinds, the means over seeds are ranked; within a kind, its seeds are.
Two kinds are symmetric by construction: they cannot tell the directions apart, so both signatures are 1 and every
reverse query is answered as its mirror image, whatever was learned. Correlations are given with and without them, and
either at the end of each kind's longest run or near one step of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lib.one_layer import results
from lib.one_layer.intervention_results import SIGNATURES, metric
from lib.one_layer.intervention_runs import CASES, ENCODINGS_AND_VALUES, NamedRuns, Sources
from lib.one_layer.results import RecordedRun
from lib.record.report import markdown

SYMMETRIC = ("symmetric ALiBi", "none")
MATCHED_STEP = 600  # the last step that every kind was recorded near
_PERMUTATIONS, _RESAMPLES = 9_999, 5_000
_MEASURED = (*SIGNATURES, *(f"{name}_mismatched" for name in SIGNATURES), "reverse_accuracy")


class Reading(NamedTuple):
    """One kind at one step: signatures and reverse accuracy (percent), one value a seed each."""

    run: RecordedRun
    step: int
    values: Mapping[str, Float[np.ndarray, " seeds"]]


Readings = Mapping[str, Reading]


def kinds_at_end(kinds: NamedRuns) -> dict[str, Reading]:
    """Each kind at the end of its run."""
    return {name: Reading(run, results.last_step(run), {key: metric(run, key) for key in _MEASURED})
            for name, run in kinds.items() if run is not None}


def near_step(found: Sources, step: int = MATCHED_STEP, within: float = 1.25) -> dict[str, Reading]:
    """Each kind at the measured step nearest to one step, in ratio, over all full runs of it.

    Runs without curves of the signatures are read at their end. A kind whose nearest step is further off than a factor
    of ``within`` is left out.
    """
    nearest: dict[str, Reading] = {}
    for name in ENCODINGS_AND_VALUES:
        readings = [_reading(run, step) for run in found.every.every(**CASES[name])]
        readings = [each for each in readings if 1 / within <= each.step / step <= within]
        if readings:
            nearest[name] = min(readings, key=lambda each: abs(np.log(each.step / step)))
    return nearest


def _reading(run: RecordedRun, step: int) -> Reading:
    if not set(_MEASURED) <= set(run["curves"]):
        return kinds_at_end({"": run})[""]
    steps = run["curves"]["steps"]
    point = int(np.abs(np.log((np.array(steps) + 1) / (step + 1))).argmin())
    return Reading(run, steps[point], {key: results.final(run, key, point) for key in _MEASURED})


def without(readings: Readings, left_out: Sequence[str] = SYMMETRIC) -> dict[str, Reading]:
    """The other kinds."""
    return {name: each for name, each in readings.items() if name not in left_out}


# Over kinds -------------------------------------------------------------------------------------------------------


class Rank(NamedTuple):
    """Spearman's rank correlation of a signature with reverse accuracy."""

    correlation: float
    interval: tuple[float, float]  # over seeds
    p: float  # two-sided, of permutations
    kinds: int

    @property
    def positive(self) -> bool:
        """Whether it is above zero with a p below .05."""
        return self.correlation > 0 and self.p < 0.05

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.correlation:.2f} ({low:.2f} to {high:.2f}), p = {self.p:.2g}"


def over_kinds(readings: Readings, name: str) -> Rank:
    """Of means over seeds, over kinds: the seeds of each kind are resampled, the kinds permuted.

    :raises ValueError: for fewer than three kinds
    """
    if len(readings) < 3:
        raise ValueError(f"over_kinds: needs three kinds, not {len(readings)}")
    means = np.array([each.mean(0) for each in _pairs(readings, name)])
    resampled = np.stack([each.mean(1) for each in _resampled(_pairs(readings, name))], axis=1)
    chance = _spearman(_permuted(means, np.random.default_rng(0)))
    return _rank(float(_spearman(means)), _spearman(resampled), chance, len(means))


# Within kinds -----------------------------------------------------------------------------------------------------


def within_kind(reading: Reading, name: str) -> float:
    """Spearman's correlation over the seeds of one kind; nan where either does not vary."""
    return float(_spearman(_pairs({"": reading}, name)[0]))


def within_kinds(readings: Readings, name: str) -> Rank:
    """The mean of `within_kind` over kinds where it exists: seeds are resampled, and permuted, within their kind."""
    cells = [each for each in _pairs(readings, name) if not np.isnan(_spearman(each))]
    if not cells:
        return Rank(np.nan, (np.nan, np.nan), np.nan, 0)
    rng = np.random.default_rng(0)
    chance = np.mean([_spearman(_permuted(each, rng)) for each in cells], axis=0)
    drawn = np.array([_spearman(each) for each in _resampled(cells)])
    resampled = np.nanmean(drawn[:, ~np.isnan(drawn).all(0)], axis=0)  # of one seed alone there is no correlation
    return _rank(float(np.mean([_spearman(each) for each in cells])), resampled, chance, len(cells))


def _pairs(readings: Readings, name: str) -> list[Float[np.ndarray, "_ 2"]]:
    return [np.column_stack([each.values[name], each.values["reverse_accuracy"]]) for each in readings.values()]


def _resampled(cells: Sequence[Float[np.ndarray, "_ 2"]]) -> list[Float[np.ndarray, "_ _ 2"]]:
    """Seeds drawn with replacement in each cell, many times; cells have as many seeds as they have."""
    rng = np.random.default_rng(0)
    return [each[rng.integers(len(each), size=(_RESAMPLES, len(each)))] for each in cells]


def _permuted(pairs: Float[np.ndarray, "points 2"], rng: np.random.Generator) -> Float[np.ndarray, "permuted points 2"]:
    """The pairs with the second of each exchanged, in many ways."""
    many = np.tile(pairs, (_PERMUTATIONS, 1, 1))
    many[..., 1] = rng.permuted(many[..., 1], axis=1)
    return many


def _spearman(pairs: Float[np.ndarray, "*rows points 2"]) -> Any:
    """Row by row; nan where either does not vary. What differs by rounding alone is a tie."""
    ranks = stats.rankdata(np.round(pairs, 6), axis=-2)
    apart = ranks - ranks.mean(-2, keepdims=True)
    scale = np.sqrt((apart**2).sum(-2).prod(-1))
    return np.divide(apart.prod(-1).sum(-1), scale, out=np.full(np.shape(scale), np.nan), where=scale > 0)


def _rank(found: float, resampled: Float[np.ndarray, " resamples"], chance: Float[np.ndarray, " permuted"],
          kinds: int) -> Rank:
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    level = (1 + (np.abs(chance) >= abs(found) - 1e-9).sum()) / (1 + len(chance))
    return Rank(found, (float(low), float(high)), float(level), kinds)


# Measures side by side --------------------------------------------------------------------------------------------

#: later measure -> the correlation of a signature, of readings at the end and of readings near the matched step
RANK_MEASURES: dict[str, Callable[[Readings, Readings, str], Rank]] = {
    "over encodings, each at its own end": lambda end, matched, name: over_kinds(end, name),
    "the same without the symmetric ones": lambda end, matched, name: over_kinds(without(end), name),
    "over encodings, at matched steps": lambda end, matched, name: over_kinds(matched, name),
    "the same without the symmetric ones, at matched steps": lambda end, matched, name: over_kinds(
        without(matched), name),
    "over the seeds of one encoding, each at its own end": lambda end, matched, name: within_kinds(end, name),
    "over the seeds of one encoding, at matched steps": lambda end, matched, name: within_kinds(matched, name),
}


def first_measure(readings: Readings, name: str) -> float:
    """The measure that was written down first: over kinds, at their ends. Correlations that are 1 by construction are
    ranked by their rounding errors; `over_kinds` counts them as ties."""
    means = [[each.values[key].mean() for key in (name, "reverse_accuracy")] for each in readings.values()]
    return float(stats.spearmanr(np.array(means)).statistic)


def measures_table(end: Readings, matched: Readings) -> str:
    """Every measure of both signatures: correlation, interval over seeds, permutation p, and over how many kinds."""
    words = "first measure: over encodings, each at its own end, equal values ranked by rounding errors"
    first = [words, str(len(end)), *(f"{first_measure(end, name):.2f}" for name in SIGNATURES)]
    found = {words: [of(end, matched, name) for name in SIGNATURES] for words, of in RANK_MEASURES.items()}
    return markdown(["rank correlation with reverse accuracy", "encodings",
                     *(f"{name.replace('_', ' ')} (interval over seeds)" for name in SIGNATURES)],
                    [first, *([words, str(max(rank.kinds for rank in ranks)), *map(str, ranks)]
                              for words, ranks in found.items())])


def signatures_table(readings: Readings) -> str:
    """Each kind: step, seeds, means of both signatures and of reverse accuracy, correlations over its seeds."""
    number = lambda value: "–" if np.isnan(value) else f"{value + 0.0:.2f}"
    return markdown(["", "step", "seeds", *(name.replace("_", " ") for name in SIGNATURES), "reverse (%)",
                     *(f"over seeds: {name.replace('_', ' ')}" for name in SIGNATURES)],
                    [[name, f"{each.step:,}", str(len(each.values["reverse_accuracy"])),
                      *(number(each.values[key].mean()) for key in SIGNATURES),
                      f"{each.values['reverse_accuracy'].mean():.0f}",
                      *(number(within_kind(each, key)) for key in SIGNATURES)] for name, each in readings.items()])
