"""Recorded runs of `lib.one_layer.training` found by what they trained, and read off: at the end, at a step, as a band.

A run that differs from the standard recipe in anything unasked (width, rate, intervention, ...) is not found: a
comparison must not mix settings.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from lib.one_layer.model import ModelConfig
from lib.one_layer.training import TrainingConfig
from lib.record import provenance

Result = Mapping[str, Any]
Values = Sequence[float | int] | np.ndarray  # one a seed
#: the recipe of every run but for what names it
STANDARD = {**dataclasses.asdict(ModelConfig()), **dataclasses.asdict(TrainingConfig())}
for _name in ("causal", "steps"):
    del STANDARD[_name]


def matching(results: Iterable[Result], **wanted: Any) -> list[Result]:
    """Runs with these parameters and otherwise the standard recipe, the one with most steps first.

    :param wanted: parameters as recorded; ``None`` as a value allows any
    :raises ValueError: for a parameter that no run has
    """
    for name in wanted:
        if name not in {*STANDARD, "steps", "profile"}:
            valid = ", ".join(sorted(STANDARD))
            raise ValueError(f"{name!r} is no parameter of a run; they are {valid}, steps, profile")
    asked = {name: value for name, value in (STANDARD | wanted).items() if value is not None}
    # a run made before a parameter existed had its standard value
    found = [result for result in results
             if all(result["parameters"].get(name, STANDARD.get(name)) == value for name, value in asked.items())]
    return sorted(found, key=lambda result: -result["parameters"]["steps"])


def recorded(experiment: str, folder: Path = provenance.RECORDED) -> list[Result]:
    """Every recorded result of an experiment; none where nothing was recorded."""
    return list(provenance.results(experiment, folder))


def longest(results: Iterable[Result]) -> list[Result]:
    """Of runs that differ in their steps alone, the longest: a shorter one is its beginning."""
    by_steps = sorted(results, key=lambda result: result["parameters"]["steps"])
    return list({tuple(sorted((result["parameters"] | {"steps": 0}).items())): result for result in by_steps}.values())


def this_build(file: str, seeds: Sequence[int], steps: int, profile: str, **wanted: Any) -> Result:
    """The run of the build at hand with these parameters; a run of its own length serves where none has ``steps``.

    :param file: name under ``one_layer/`` that the run would have, for the message
    :raises FileNotFoundError: if there is none; the message is the command that makes it
    """
    results = recorded("one_layer", provenance.results_folder())
    found = [result for result in matching(results, profile=profile, **wanted) if result["seeds"] == list(seeds)]
    exact = [result for result in found if result["parameters"]["steps"] == steps]
    if not found or (not exact and profile == "quick"):
        out = provenance.results_folder() / "one_layer" / file
        asked = {**wanted, "steps": steps, "profile": profile}
        raise FileNotFoundError(f"{out}: no run with these parameters. Make it with: "
                                + command("lib.one_layer.training", asked, seeds, out))
    return (exact or found)[0]


def command(module: str, given: Mapping[str, Any], seeds: Sequence[int], out: Path) -> str:
    """The command line that makes a run."""
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    return f"python -m {module} {options} --seeds {' '.join(map(str, seeds))} --out {out}"


def final(result: Result, name: str, point: int = -1) -> Float[np.ndarray, " seeds"]:
    """One value a seed at the end of a run, or at another measured point."""
    return np.array([curve[point] for curve in result["curves"][name]], dtype=float)


def wrong_as_placeholder(result: Result, point: int = -1) -> Float[np.ndarray, " erring"]:
    """The placeholder's share of the reverse errors, percent, of the seeds that err at all."""
    shares = final(result, "placeholder_share", point)
    return shares[~np.isnan(shares)]


def at_step(result: Result, name: str, step: int) -> Float[np.ndarray, " seeds"]:
    """One value a seed at the measured step nearest to ``step`` (in ratio)."""
    steps = np.array(result["curves"]["steps"])
    return final(result, name, int(np.abs(np.log((steps + 1) / (step + 1))).argmin()))


def band(result: Result, name: str, step: int) -> tuple[float, float]:
    """Least and greatest value over seeds at the measured steps just before and just after ``step``.

    :raises ValueError: if the run ended before ``step``
    """
    steps = np.array(result["curves"]["steps"])
    if step > steps[-1]:
        raise ValueError(f"step {step}: the run ended after {steps[-1]}")
    after = int(np.searchsorted(steps, step))
    around = np.stack([final(result, name, point) for point in {max(after - 1, 0), after}])
    return float(around.min()), float(around.max())


def inside(values: Values, limits: tuple[float, float], slack: float) -> bool:
    """Whether all values lie in a band widened by ``slack`` on both sides."""
    return bool((np.asarray(values) >= limits[0] - slack).all() and (np.asarray(values) <= limits[1] + slack).all())


def spread(values: Values) -> float | None:
    """Standard deviation over seeds; None for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


class EffectSize(NamedTuple):
    """How far apart the seeds of two runs lie."""

    difference: float  # of means, second minus first
    standardised: float  # Hedges' g: in pooled standard deviations, corrected for few seeds; infinite where none varies
    superiority: float  # share of pairs of seeds in which the second is larger, ties counted half
    p: float  # exact, two-sided: share of all ways to split the seeds whose means differ at least as much


def effect(first: Values, second: Values) -> EffectSize:
    """The effect size of one run over another, one value a seed each.

    :raises ValueError: for fewer than two seeds on a side
    """
    low, high = (np.asarray(values, dtype=float) for values in (first, second))
    if min(len(low), len(high)) < 2:
        raise ValueError(f"effect: needs two seeds a side, not {len(low)} and {len(high)}")
    difference, freedom = float(high.mean() - low.mean()), len(low) + len(high) - 2
    pooled = np.sqrt(((len(low) - 1) * low.var(ddof=1) + (len(high) - 1) * high.var(ddof=1)) / freedom)
    small = 1 - 3 / (4 * freedom - 1)
    standardised = small * difference / pooled if pooled else np.copysign(np.inf, difference) if difference else 0.0
    shares = stats.mannwhitneyu(high, low).statistic / (len(low) * len(high))
    pooled_seeds = np.concatenate([high, low])
    sums = pooled_seeds[_splits(len(pooled_seeds), len(high))].sum(1)
    differences = sums / len(high) - (pooled_seeds.sum() - sums) / len(low)
    extreme = np.abs(differences) >= abs(difference) - 1e-9 * np.abs(pooled_seeds).max()
    return EffectSize(difference, float(standardised), float(shares), float(extreme.mean()))


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
