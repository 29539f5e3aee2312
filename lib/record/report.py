"""What a page says about values over seeds: cells and tables, effect sizes, intervals and p-values.

The unit is the seed: every function takes one value a seed, and what varies is which seeds a run happened to have.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

Values = Sequence[float | int] | np.ndarray  # one a seed
RESAMPLES = 10_000
_STUDENT: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("_STUDENT", default=None)


def spread(values: Values) -> float | None:
    """Standard deviation over seeds (divisor: seeds - 1), in the values' unit; None for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


class Interval(tuple[float, float]):
    """Ends of a percentile bootstrap interval; ``t`` has those of Student's t interval of the same values."""

    t: tuple[float, float]

    @classmethod
    def of(cls, ends: Iterable[float], t: tuple[float, float]) -> Interval:
        """Both ends, and those of the t interval."""
        found = cls(map(float, ends))
        found.t = t
        return found


@contextlib.contextmanager
def student_intervals() -> Iterator[list[str]]:
    """Within it `bootstrap_interval`, `bootstrap_intervals` and `difference_interval` give Student's t intervals.

    The bootstrap draws from the seeds that are there, so with few of them its intervals are too short (see
    `lib.record.few_seeds`). The t interval supposes normal values, and may leave the range that a percentage has.

    :return: the names of those that were asked, in order
    """
    asked: list[str] = []
    before = _STUDENT.set(asked)
    try:
        yield asked
    finally:
        _STUDENT.reset(before)


def _by_student(name: str) -> bool:
    asked = _STUDENT.get()
    if asked is not None:
        asked.append(name)
    return asked is not None


def t_interval(values: Values, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean.

    :return: its ends, in the values' unit
    :raises ValueError: for fewer than two seeds
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise ValueError(f"t_interval: needs two seeds, not {len(array)}")
    return _student(array.mean(), array.var(ddof=1) / len(array), len(array) - 1, level)


def welch_interval(first: Values, second: Values, level: float = 0.95) -> tuple[float, float]:
    """Welch's t interval of the difference of means, second minus first: the two sides may vary differently.

    :return: its ends, in the values' unit
    :raises ValueError: for fewer than two seeds on a side
    """
    low, high = (np.asarray(values, dtype=float) for values in (first, second))
    if min(len(low), len(high)) < 2:
        raise ValueError(f"welch_interval: needs two seeds a side, not {len(low)} and {len(high)}")
    parts = [side.var(ddof=1) / len(side) for side in (low, high)]
    total = sum(parts)
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (low, high), strict=True)
                             ) if total else 1.0
    return _student(high.mean() - low.mean(), total, freedom, level)


def _student(mean: float, variance: float, freedom: float | int, level: float) -> tuple[float, float]:
    reach = stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)  # the quantile of Student's t
    return float(mean - reach), float(mean + reach)


def bootstrap_interval(values: Values, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean: seeds drawn with replacement, `RESAMPLES` times.

    :param seed: of the resampling
    :param level: share of the resampled means inside
    :return: its ends, in the values' unit
    :raises ValueError: for fewer than two seeds
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise ValueError(f"bootstrap_interval: needs two seeds, not {len(array)}")
    student = t_interval(array, level)
    if _by_student("bootstrap_interval"):
        return Interval.of(student, student)
    means = np.random.default_rng(seed).choice(array, (RESAMPLES, len(array))).mean(1)
    return Interval.of(np.quantile(means, [(1 - level) / 2, (1 + level) / 2]), student)


def bootstrap_intervals(columns: Sequence[Values], seed: int = 0, level: float = 0.95) -> list[Interval]:
    """The `bootstrap_interval` of each of several measures of the same seeds, which are resampled once for all.

    :param columns: one value a seed each, the seeds in one order
    :raises ValueError: for fewer than two seeds
    """
    table = np.asarray(columns, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"bootstrap_intervals: needs columns of two seeds or more, not of shape {table.shape}")
    student = [t_interval(column, level) for column in table]
    if _by_student("bootstrap_intervals"):
        return [Interval.of(each, each) for each in student]
    seeds = table.shape[1]
    drawn = np.random.default_rng(seed).integers(0, seeds, (RESAMPLES, seeds))
    means = np.stack([(drawn == each).sum(1) for each in range(seeds)], 1) @ table.T / seeds
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return [Interval.of(each, t) for each, t in zip(ends, student, strict=True)]


def difference_interval(first: Values, second: Values, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the difference of means, second minus first: each side's seeds are resampled.

    :return: its ends, in the values' unit
    :raises ValueError: for fewer than two seeds on a side
    """
    low, high = (np.asarray(values, dtype=float) for values in (first, second))
    if min(len(low), len(high)) < 2:
        raise ValueError(f"difference_interval: needs two seeds a side, not {len(low)} and {len(high)}")
    student = welch_interval(low, high, level)
    if _by_student("difference_interval"):
        return Interval.of(student, student)
    rng = np.random.default_rng(seed)
    means = [rng.choice(side, (RESAMPLES, len(side))).mean(1) for side in (low, high)]
    return Interval.of(np.quantile(means[1] - means[0], [(1 - level) / 2, (1 + level) / 2]), student)


def resampled_interval(
    statistic: Callable[..., float], *cells: np.ndarray, seed: int = 0, level: float = 0.95, resamples: int = 2_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of any statistic: the seeds of every cell are drawn with replacement.

    :param statistic: of the resampled cells, in their order; nan where a resample does not have it
    :param cells: seeds on the first axis
    :return: its ends, in the statistic's unit; nan where no resample has it
    :raises ValueError: for a cell of fewer than two seeds
    """
    if any(len(cell) < 2 for cell in cells):
        raise ValueError(f"resampled_interval: needs two seeds a cell, not {min(map(len, cells))}")
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(*(cell[rng.integers(len(cell), size=len(cell))] for cell in cells))
                      for _ in range(resamples)], dtype=float)
    if np.isnan(drawn).all():
        return np.nan, np.nan
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def intervals(cells: Mapping[str, Values]) -> dict[str, Interval] | None:
    """The `bootstrap_interval` of each cell; None where one has a single seed."""
    if any(len(values) < 2 for values in cells.values()):
        return None
    return {name: bootstrap_interval(values) for name, values in cells.items()}


class EffectSize(NamedTuple):
    """How far apart the seeds of two runs lie."""

    difference: float  # of means, second minus first
    standardised: float  # Hedges' g: in pooled standard deviations, corrected for few seeds; infinite where none varies
    superiority: float  # share of pairs of seeds in which the second is larger, ties counted half
    p: float  # exact, two-sided: share of all ways to split the seeds whose means differ at least as much
    interval: Interval  # of the difference, see `difference_interval`


def effect(first: Values, second: Values) -> EffectSize:
    """The effect size of one run over another, one value a seed each.

    :raises ValueError: for fewer than two seeds on a side
    """
    from scipy.stats import mannwhitneyu  # here: it takes a second, and a build has many processes without it

    low, high = (np.asarray(values, dtype=float) for values in (first, second))
    if min(len(low), len(high)) < 2:
        raise ValueError(f"effect: needs two seeds a side, not {len(low)} and {len(high)}")
    superiority = mannwhitneyu(high, low).statistic / (len(low) * len(high))
    difference = float(high.mean() - low.mean())
    return EffectSize(difference, _hedges_g(low, high), float(superiority), permutation_p(low, high),
                      difference_interval(low, high))


def seeds_lead_by(first: Values, second: Values, points: float | int) -> bool:
    """Does one measure lead another by so many points, mean over seeds, and the interval of the difference lie above 0?

    :param first: one value a seed
    """
    found = effect(second, first)
    return bool(found.difference >= points and found.interval[0] > 0)


def is_ahead(difference: Values, points: float | int) -> bool:
    """Is the mean of a difference, seed by seed, at least so many points, and its interval above 0?"""
    return bool(np.mean(difference) >= points and bootstrap_interval(difference)[0] > 0)


def gained_share(base: Values, whole: Values, part: Values) -> float:
    """What one change gains over a base as a share of what another, the whole, gains; means over seeds.

    :param base: one value a seed, as the others
    :return: nan where the whole gains nothing
    """
    start, most, some = (float(np.mean(values)) for values in (base, whole, part))
    return (some - start) / (most - start) if most > start else float("nan")


def signed(found: EffectSize, digits: int = 0) -> str:
    """A difference with its interval: ``+38 (20 to 55)``."""
    low, high = (f"{round(end, digits) + 0.0:.{digits}f}" for end in found.interval)
    return f"{found.difference:+.{digits}f} ({low} to {high})"


def _hedges_g(low: Float[np.ndarray, " seeds"], high: Float[np.ndarray, " others"]) -> float:
    difference, freedom = high.mean() - low.mean(), len(low) + len(high) - 2
    pooled = np.sqrt(((len(low) - 1) * low.var(ddof=1) + (len(high) - 1) * high.var(ddof=1)) / freedom)
    if not pooled:
        return float(np.copysign(np.inf, difference)) if difference else 0.0
    few_seeds = 1 - 3 / (4 * freedom - 1)  # Hedges' correction of the bias
    return float(few_seeds * difference / pooled)


def permutation_p(first: Values, second: Values) -> float:
    """Exact two-sided p of the difference of means: every way to split the seeds into two runs of these sizes."""
    low, high = (np.asarray(values, dtype=float) for values in (first, second))
    seeds = np.concatenate([high, low])
    sums = seeds[_splits(len(seeds), len(high))].sum(1)
    differences = sums / len(high) - (seeds.sum() - sums) / len(low)
    rounding = 1e-9 * np.abs(seeds).max()
    return float((np.abs(differences) >= abs(high.mean() - low.mean()) - rounding).mean())


@functools.lru_cache
def _splits(seeds: int, chosen: int) -> Int[np.ndarray, "splits chosen"]:
    """Every way to choose some of the seeds."""
    return np.array(list(itertools.combinations(range(seeds), chosen)))


def cell(values: Values, digits: int = 1) -> str:
    """Mean and range of values over seeds: ``43.1 (12–83)``."""
    array = np.asarray(values, dtype=float)
    if np.isnan(array).all():
        return "–"
    coarse = max(digits - 1, 0)
    rounded = lambda value, places: f"{round(float(value), places) + 0.0:.{places}f}"  # + 0.0: no -0.00
    low, high = rounded(np.nanmin(array), coarse), rounded(np.nanmax(array), coarse)
    return f"{rounded(np.nanmean(array), digits)} ({low}{' to ' if low.startswith('-') else '–'}{high})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table.

    :raises ValueError: for a row of another width than the header
    """
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    if len({len(line) for line in lines}) > 1:
        raise ValueError(f"rows: every row needs {len(header)} cells, as the header has")
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
