"""Readings of a table of accuracies: how the models were asked, and when their training stopped.

The paper states neither, so every *protocol* of `lib.one_layer.evaluation` is crossed with every *stopping rule* here,
and each reading is compared with a printed column: one value a length. `nearest_step` and `reachable_range` are
hindsight: the best that any rule could do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lib.one_layer.evaluation import PROTOCOLS
from lib.one_layer.task import DIRECTIONS
from lib.one_layer.training import Curves, select_members
from lib.record.report import cell, markdown, resampled_interval

#: curves, protocol, member -> the measured point at which to stop; None where the run never gets there
Stop = Callable[[Curves, str, int], int | None]


def _first_learned(curves: Curves, _: str, member: int) -> int | None:
    learned = [point for point, value in enumerate(curves["standard_forward"][member]) if value >= 96]
    return learned[0] if learned else None


def _at_step(step: int) -> Stop:
    def point(curves: Curves, _: str, member: int) -> int | None:
        steps = curves["steps"]
        return int(np.argmin(np.abs(np.array(steps) - step))) if steps[-1] >= step else None

    return point


#: every rule stops one member at a time; the last looks at the protocol's own answers
STOPS: dict[str, Stop] = {
    "end": lambda curves, _, member: len(curves["steps"]) - 1,
    "step_1000": _at_step(1000),
    "step_1800": _at_step(1800),
    "forward_96": _first_learned,
    "least_loss": lambda curves, _, member: int(np.argmin(curves["loss"][member])),
    "best_reverse": lambda curves, protocol, member: int(np.argmax(curves[f"{protocol}_reverse"][member])),
}
NEAREST = "nearest"  # is told the column; see `nearest_step`
#: rule -> what a page calls it
STOPPING_RULES = {
    "end": "the end of the run",
    "step_1000": "about 1,000 steps",
    "step_1800": "about 1,800 steps",
    "forward_96": "first point with forward at least 96 %",
    "least_loss": "least training loss",
    "best_reverse": "best reverse accuracy (looks at the answer)",
    NEAREST: "nearest to the paper's value (told it)",
}


def accuracies_where_stopped(
    curves: Curves, rule: str, protocol: str = "standard"
) -> Float[np.ndarray, "members 2"] | None:
    """Forward and reverse accuracy of each member where a rule stops it; None if one is never stopped."""
    points = [STOPS[rule](curves, protocol, member) for member in range(len(curves["standard_forward"]))]
    if any(point is None for point in points):
        return None
    return np.array([[float(curves[f"{protocol}_{way}"][member][point]) for way in DIRECTIONS]
                     for member, point in enumerate(points)])


def nearest_step(
    curves: Curves, wanted: float, protocol: str = "standard", learned: float = 90.0
) -> Float[np.ndarray, "members 2"] | None:
    """Forward and reverse accuracy of each member at the measured step whose reverse accuracy is nearest to ``wanted``.

    No rule that stops all members at one measured step can come nearer. Only steps count at which the protocol's own
    forward accuracy is at least ``learned`` percent (both accuracies are means over members); None if there is none.
    """
    both = np.array([curves[f"{protocol}_{way}"] for way in DIRECTIONS], dtype=float)
    forward, reverse = both.mean(1)
    away = np.where(forward >= learned, np.abs(reverse - wanted), np.inf)
    return None if np.isinf(away).all() else both[:, :, away.argmin()].T


def reachable_range(curves: Curves, protocol: str = "standard", learned: float = 90.0) -> tuple[float, float]:
    """Least and greatest mean reverse accuracy that any stopping rule can give, one that sees all the answers included.

    Each member may stop for itself, at a measured step at which its own forward accuracy is at least ``learned``
    percent; one that never gets there, anywhere.
    """
    least, greatest = _reachable(curves, protocol, learned)
    return float(least.mean()), float(greatest.mean())


def _reachable(curves: Curves, protocol: str, learned: float = 90.0) -> tuple[Float[np.ndarray, " members"], ...]:
    forward, reverse = (np.array(curves[f"{protocol}_{way}"], dtype=float) for way in DIRECTIONS)
    open_to = (forward >= learned) | (forward < learned).all(1, keepdims=True)
    return np.where(open_to, reverse, np.inf).min(1), np.where(open_to, reverse, -np.inf).max(1)


# Readings of a column -----------------------------------------------------------------------------------------

Read = Mapping[int, Curves]  # by length
Column = Mapping[int, float]


class Distance(NamedTuple):
    """How far a reading is from a column."""

    points: float  # at the worst of the lengths at which it stops; nan where it stops at none
    lengths: int  # at which it stops


def accuracies_by_length(
    read: Read, rule: str, protocol: str, wanted: Column
) -> dict[int, Float[np.ndarray, "members 2"] | None]:
    """Forward and reverse accuracy of each seed, by length, under one reading; None where it never stops."""
    return {size: nearest_step(read[size], wanted[size], protocol) if rule == NEAREST
            else accuracies_where_stopped(read[size], rule, protocol) for size in read}


def distance_to_column(read: Read, rule: str, protocol: str, wanted: Column) -> Distance:
    """The distance of one reading's mean reverse accuracies to the wanted ones."""
    by_length = accuracies_by_length(read, rule, protocol, wanted)
    away = [abs(each[:, 1].mean() - wanted[size]) for size, each in by_length.items() if each is not None]
    return Distance(float(max(away, default=np.nan)), len(away))


def distances_to_column(read: Read, wanted: Column) -> dict[tuple[str, str], Distance]:
    """`distance_to_column` of every protocol and rule."""
    return {(name, rule): distance_to_column(read, rule, name, wanted) for name in PROTOCOLS for rule in STOPPING_RULES}


def told_distances(read: Read, wanted: Column) -> dict[str, float]:
    """By protocol, the distance in points of the nearest steps; only where forward is learned at every length."""
    distances = distances_to_column(read, wanted)
    found = {name: distances[name, NEAREST] for name in PROTOCOLS}
    return {name: each.points for name, each in found.items() if each.lengths == len(read)}


def no_reading_matches(read: Read, wanted: Column, within: float = 10.0) -> bool:
    """Whether no reading comes within so many points of the column at all lengths at which it stops."""
    return all(not found.points <= within for found in distances_to_column(read, wanted).values())


def shortfall_from_column(read: Read, wanted: Column) -> dict[str, float]:
    """By protocol, how far the column lies, at its worst length, outside what any rule for each seed can reach."""
    outside = lambda size, low, high: float(max(low - wanted[size], wanted[size] - high, 0))
    return {name: max((outside(size, *reachable_range(read[size], name)) for size in read), default=np.nan)
            for name in PROTOCOLS}


def no_rule_reaches(read: Read, wanted: Column, within: float = 10.0) -> bool:
    """Whether even stopping every seed where it suits best comes no nearer than so many points."""
    return min(shortfall_from_column(read, wanted).values()) > within


#: protocols that generate token by token, asked of six facts only from length 20 on
ITERATIVE = tuple(name for name in PROTOCOLS if name.startswith("iterative"))


class Miss(NamedTuple):
    """How far the best of some protocols stays from a column, in points at the worst length."""

    points: float
    interval: tuple[float, float]  # over seeds

    def __str__(self) -> str:
        return f"{self.points:.0f} ({self.interval[0]:.0f} to {self.interval[1]:.0f})"


def hindsight_miss(read: Read, wanted: Column, protocols: Collection[str] = tuple(PROTOCOLS)) -> Miss:
    """The least `shortfall_from_column` of these protocols: every seed stops at its own best step.

    The seeds of each length are resampled, and the best protocol is sought in each resample anew. What a protocol's few
    prompts add by chance is part of each seed's value.
    """
    ends = [[_reachable(curves, name) for curves in read.values()] for name in protocols]
    outside = lambda end, some, value: max(end[0][some].mean() - value, value - end[1][some].mean(), 0.0)
    return _least_miss(ends, outside, read, wanted)


def one_step_miss(read: Read, wanted: Column, protocols: Collection[str] = tuple(PROTOCOLS)) -> Miss:
    """The least `told_distances` of these protocols: all seeds of a length stop at one step, see `nearest_step`."""
    both = [[np.array([curves[f"{name}_{way}"] for way in DIRECTIONS], dtype=float) for curves in read.values()]
            for name in protocols]
    return _least_miss(both, lambda each, some, value: _nearest(each[:, some].mean(1), value), read, wanted)


def _least_miss(measured: Sequence[Sequence[Any]], away: Callable[..., float], read: Read, wanted: Column) -> Miss:
    """Of the protocols the least of the largest distance over lengths; resamples without any are left out."""
    column = [wanted[size] for size in read]

    def least(*chosen: Int[np.ndarray, " _"]) -> float:
        worst = [np.max([away(each, some, value) for each, some, value in zip(own, chosen, column, strict=True)])
                 for own in measured]  # nan where a length has no step to stop at
        return np.nan if np.isnan(worst).all() else float(np.nanmin(worst))

    every = [np.arange(len(curves["standard_forward"])) for curves in read.values()]
    return Miss(least(*every), resampled_interval(least, *every, resamples=500))


def _nearest(means: Float[np.ndarray, "2 points"], wanted: float, learned: float = 90.0) -> float:
    """Least distance of mean reverse accuracy to the wanted one where mean forward accuracy is learned; else nan."""
    away = np.abs(means[1] - wanted)[means[0] >= learned]
    return float(away.min()) if len(away) else np.nan


def half_and_column(read: Read) -> tuple[dict[int, Curves], dict[int, float]]:
    """The curves of every other seed, and the last reverse accuracies of the rest: a column that can be reached."""
    first, second = (select_seeds(read, slice(start, None, 2)) for start in (0, 1))
    last = {size: accuracies_where_stopped(curves, "end") for size, curves in second.items()}
    return first, {size: float(each[:, 1].mean()) for size, each in last.items() if each is not None}


def select_seeds(read: Read, some: slice) -> dict[int, Curves]:
    """The curves of some of the seeds."""
    return {size: select_members(curves, some) for size, curves in read.items()}


class NearestReading(NamedTuple):
    """The nearest readings among those that stop at every length, each with its distance in points."""

    blind: tuple[tuple[str, str], float]  # protocol and rule, among rules that are not told the column
    told: tuple[str, float]  # protocol, told the column
    free: tuple[str, float]  # protocol, every seed stopped for itself in sight of its answers


def nearest_reading(read: Read, wanted: Column) -> NearestReading:
    """What comes nearest to a column."""
    distances = distances_to_column(read, wanted)
    whole = {key: found.points for key, found in distances.items() if found.lengths == len(read)}
    least = lambda some: min(some.items(), key=lambda item: item[1])
    return NearestReading(
        least({key: value for key, value in whole.items() if key[1] != NEAREST}),
        least(told_distances(read, wanted)),
        least(shortfall_from_column(read, wanted)))


# In tables --------------------------------------------------------------------------------------------------------


def nearest_table(read: Read, wanted: Column) -> str:
    """`nearest_reading`, a row each; nothing where nothing was read."""
    if not read:
        return ""
    ((protocol, rule), blind), (told, points), (free, least) = nearest_reading(read, wanted)
    rows = [[STOPPING_RULES[rule], protocol, blind], [STOPPING_RULES[NEAREST], told, points],
            ["every seed stopped at its own best step", free, least]]
    return markdown(["stopping", "protocol", "largest miss (points)"],
                    [[stopped, f"`{name}`", f"{miss:.0f}"] for stopped, name, miss in rows])


def misses_table(read: Read, wanted: Column) -> str:
    """A row a protocol: largest miss over lengths, with its interval over seeds, at one step and in hindsight."""
    found = {name: (one_step_miss(read, wanted, [name]), hindsight_miss(read, wanted, [name])) for name in PROTOCOLS}
    words = lambda miss: "forward not learned" if np.isnan(miss.points) else str(miss)
    return markdown(["protocol", "one step for all seeds, told the column (points)",
                     "every seed at its own best step (points)"],
                    [[f"`{name}`", *map(words, misses)]
                     for name, misses in sorted(found.items(), key=lambda item: item[1][1].points)])


def readings_table(read: Read, wanted: Column) -> str:
    """Reverse accuracy by length, with the least forward accuracy it comes with: the standard protocol under every
    rule, the others at the end, and all at the nearest steps."""
    others = [name for name in PROTOCOLS if name != "standard"]
    readings = [*(("standard", rule) for rule in STOPS), *((name, "end") for name in others),
                *((name, NEAREST) for name in PROTOCOLS)]
    heads = [f"reverse, $L={size}$ (%; {curves['steps'][-1]:,} steps)" for size, curves in read.items()]
    return markdown(["protocol", "stopping rule", *heads, "least forward (%)"],
                    [["paper", "–", *(f"{wanted[size]:.1f}" for size in read), "–"],
                     *(_reading_row(read, name, rule, wanted) for name, rule in readings)])


def _reading_row(read: Read, name: str, rule: str, wanted: Column) -> list[str]:
    cells = list(accuracies_by_length(read, rule, name, wanted).values())
    forward = [np.nan if each is None else each[:, 0].mean() for each in cells]
    return [f"`{name}`", STOPPING_RULES[rule], *("–" if each is None else cell(each[:, 1]) for each in cells),
            "–" if np.isnan(forward).any() or not forward else f"{min(forward):.0f}"]
