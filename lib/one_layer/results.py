"""Recorded runs of `lib.one_layer.experiment`: found by what they trained, and read off at the end or at a step.

    full = Runs.of(recorded("beyond"), {"length": 10, "width": 64}, "full")
    plain, changed = full.by_intervention(("none", "drop_random"), encoding="rope")
    before, after = at_common_step("reverse_accuracy", plain, changed)

A run that differs from our recipe in anything unasked (width, rate, intervention, ...) is not found: a
comparison must not mix settings. One that is not recorded is None, for the page to say so. Runs that trained for
different numbers of steps are compared at the last step that all of them reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.one_layer.model import ModelConfig
from lib.one_layer.training import TrainingConfig
from lib.record import provenance
from lib.record.report import Values, gained_share

RecordedRun = Mapping[str, Any]
RunPairs = Mapping[str, tuple[RecordedRun, RecordedRun]]  # name -> a run of this build, the recorded one it begins
#: the recipe of every run but for what names it
STANDARD = {**dataclasses.asdict(ModelConfig()), **dataclasses.asdict(TrainingConfig())}
for _name in ("causal", "steps"):
    del STANDARD[_name]


def matching(results: Iterable[RecordedRun], **wanted: Any) -> list[RecordedRun]:
    """Runs with these parameters and otherwise our recipe, the one with most steps first.

    :param wanted: parameters as recorded; ``None`` as a value allows any
    :raises ValueError: for a parameter that no run has
    """
    for name in wanted:
        if name not in {*STANDARD, "steps", "profile"}:
            valid = ", ".join(sorted(STANDARD))
            raise ValueError(f"{name!r} is no parameter of a run; they are {valid}, steps, profile")
    asked = {name: value for name, value in (STANDARD | wanted).items() if value is not None}
    return sorted(having(results, **asked), key=lambda result: -result["parameters"]["steps"])


def having(runs: Iterable[RecordedRun], **what: Any) -> list[RecordedRun]:
    """Runs with these parameters, whatever the others are; one older than a parameter had its standard value."""
    return [run for run in runs
            if all(run["parameters"].get(name, STANDARD.get(name)) == value for name, value in what.items())]


def recorded_runs(experiment: str, folder: Path = provenance.RECORDED) -> list[RecordedRun]:
    """Every recorded result of an experiment; none where nothing was recorded."""
    return list(provenance.results(experiment, folder))


def longest(results: Iterable[RecordedRun]) -> list[RecordedRun]:
    """Of runs that differ in their steps alone, the longest: a shorter one is its beginning."""
    by_steps = sorted(results, key=lambda result: result["parameters"]["steps"])
    return list({tuple(sorted((result["parameters"] | {"steps": 0}).items())): result for result in by_steps}.values())


def this_build(file: str, seeds: Sequence[int], steps: int, profile: str, **wanted: Any) -> RecordedRun:
    """The run of the build at hand with these parameters; a run of its own length serves where none has ``steps``.

    :param file: name under ``one_layer/`` that the run would have, for the message
    :raises FileNotFoundError: if there is none; the message is the command that makes it
    """
    results = recorded_runs("one_layer", provenance.results_folder())
    found = [result for result in matching(results, profile=profile, **wanted) if result["seeds"] == list(seeds)]
    exact = [result for result in found if result["parameters"]["steps"] == steps]
    if not found or (not exact and profile == "quick"):
        out = provenance.results_folder() / "one_layer" / file
        asked = {**wanted, "steps": steps, "profile": profile}
        raise FileNotFoundError(f"{out}: no run with these parameters. Make it with: "
                                + command_to_make(asked, seeds, out))
    return (exact or found)[0]


def command_to_make(given: Mapping[str, Any], seeds: Sequence[int], out: Path) -> str:
    """The command line that makes a run."""
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    return f"python -m lib.one_layer.experiment {options} --seeds {' '.join(map(str, seeds))} --out {out}"


def final(result: RecordedRun, name: str, point: int = -1) -> Float[np.ndarray, " seeds"]:
    """One value a seed at the end of a run, or at another measured point."""
    return np.array([curve[point] for curve in result["curves"][name]], dtype=float)


def fall_from_peak(result: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """How far a curve ends below its largest value along the run, one value a seed."""
    curve = np.array(result["curves"][name], dtype=float)
    return np.asarray(curve.max(1) - curve[:, -1])


def wrong_as_placeholder(result: RecordedRun, point: int = -1) -> Float[np.ndarray, " erring"]:
    """The placeholder's share of the reverse errors, percent, of the seeds that err at all."""
    shares = final(result, "placeholder_share", point)
    return shares[~np.isnan(shares)]


def at_step(result: RecordedRun, name: str, step: int) -> Float[np.ndarray, " seeds"]:
    """One value a seed at the measured step nearest to ``step`` (in ratio)."""
    steps = np.array(result["curves"]["steps"])
    return final(result, name, int(np.abs(np.log((steps + 1) / (step + 1))).argmin()))


def recorded_range(result: RecordedRun, name: str, step: int) -> tuple[float, float]:
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


# Runs looked up by what sets them apart --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs, and the settings in which those looked up agree unless asked otherwise."""

    runs: tuple[RecordedRun, ...]
    shared: Mapping[str, Any]

    @classmethod
    def of(cls, results: Iterable[RecordedRun], shared: Mapping[str, Any], profile: str,
           seeds: Sequence[int] | None = None) -> Runs:
        """The results of one profile.

        :param seeds: keep runs of these seeds, or of the first of them; None keeps all
        """
        kept = [run for run in results if run["parameters"]["profile"] == profile]
        if seeds is not None:
            kept = [run for run in kept if run["seeds"] == list(seeds)[: len(run["seeds"])]]
        return cls(tuple(kept), shared)

    def __add__(self, other: Runs) -> Runs:
        """The runs of both, looked up by the first one's settings."""
        return Runs(self.runs + other.runs, self.shared)

    def every(self, **what: Any) -> list[RecordedRun]:
        """All runs with these parameters and otherwise the shared ones, the longest first; None allows any value."""
        return matching(self.runs, **{**self.shared, **what})

    def find(self, **what: Any) -> RecordedRun | None:
        """The longest of `every`, or None."""
        found = self.every(**what)
        return found[0] if found else None

    def by_intervention(self, interventions: Sequence[str], **what: Any) -> list[RecordedRun]:
        """The run of each intervention, in this order; nothing at all where one of them is missing."""
        found = [self.find(intervention=name, **what) for name in interventions]
        return [] if None in found else [run for run in found if run is not None]

    def require(self, out: Path, seeds: Sequence[int], given: Mapping[str, Any], **what: Any) -> None:
        """Refuse to go on without a run.

        :param out: file that the run would have
        :param given: further options of the run, for the message
        :raises FileNotFoundError: if `find` has none; the message is the command that makes it
        """
        if self.find(**what) is None:
            raise FileNotFoundError(
                f"{out.parent}: no runs with these parameters. `make book` makes them; one of them: "
                + command_to_make({"measure": "interventions", **self.shared, **what, **given}, seeds, out))


def first(sources: Iterable[Runs], **what: Any) -> RecordedRun | None:
    """The run of the first source that has one."""
    return next((run for runs in sources if (run := runs.find(**what)) is not None), None)


# Several runs at one step -----------------------------------------------------------------------------------------


def last_step(*runs: RecordedRun | None) -> int:
    """The last step that all of these runs reached; None stands for no run.

    :raises ValueError: for no run at all
    """
    lengths = [run["parameters"]["steps"] for run in runs if run is not None]
    if not lengths:
        raise ValueError("runs: needs at least one")
    return min(lengths)


def at_common_step(name: str, *runs: RecordedRun) -> list[Float[np.ndarray, " seeds"]]:
    """A curve's values of each run, one a seed, at the last step that all of them reached."""
    last = last_step(*runs)
    return [at_step(run, name, last) for run in runs]


def gain(name: str, before: RecordedRun, after: RecordedRun) -> float:
    """How much larger a curve is in the second run, means over seeds, at the last step of both."""
    low, high = at_common_step(name, before, after)
    return float(high.mean() - low.mean())


def share_of_gain(
    name: str, plain: RecordedRun, changed: RecordedRun, other: RecordedRun, step: int | None = None
) -> float:
    """`gained_share` of a curve: what another change gains over the plain run, of what the first change gains.

    :param step: near which it is read; None for the last step of all three
    """
    runs = (plain, changed, other)
    return gained_share(*(at_step(run, name, step or last_step(*runs)) for run in runs))


def with_recorded(build: Iterable[RecordedRun], recorded: Runs, *names: str) -> RunPairs:
    """Each run of the build with the recorded one that it should begin, found by the parameters ``names``, if any."""
    found = {}
    for run in build:
        given = {name: run["parameters"][name] for name in names}
        longer = recorded.find(**given)
        if (longer is not None and longer["parameters"]["steps"] >= run["parameters"]["steps"]
                and set(run["seeds"]) <= set(longer["seeds"])):
            found[", ".join(map(str, given.values()))] = (run, longer)
    return found


def within_recorded_range(pairs: RunPairs, name: str, slack: float, exchange: Mapping[str, str] | None = None) -> bool:
    """Whether every run ends within its recorded run's range over seeds at that step, widened by ``slack``.

    :param exchange: pair -> the pair whose recorded run it is held against instead
    """
    other = exchange or {}
    limits = {key: recorded_range(pairs[other.get(key, key)][1], name, run["parameters"]["steps"])
              for key, (run, _) in pairs.items()}
    return all(inside(final(run, name), limits[key], slack) for key, (run, _) in pairs.items())


# Words ------------------------------------------------------------------------------------------------------------


def encoding_and_length(run: RecordedRun) -> str:
    """Encoding and length of a run."""
    return f"{run['parameters']['encoding']} at {run['parameters']['length']}"


def describe(run: RecordedRun) -> str:
    """Length, steps and seeds of a run."""
    given = run["parameters"]
    return f"length {given['length']}, {given['steps']} steps, {len(run['seeds'])} seeds"


def pattern_evidence(runs: Mapping[str, RecordedRun | None], before: str = "") -> dict[str, Any]:
    """What `claims.verify` is told of the runs that a check reads, by name: the results, seeds and scope of the first.

    Seeds and scope are functions of no arguments, since a run that is not recorded is None.

    :param before: words of the scope before the run's size
    """
    shown: Any = next(iter(runs.values()))
    return {"needs": runs, "seeds": lambda: shown["seeds"],
            "scope": lambda: "; ".join(filter(None, (before, describe(shown))))}


def history(runs: Sequence[RecordedRun], folder: str) -> str:
    """How many runs there are, of how many steps, where they lie, and on what and when they were made."""
    if not runs:
        return "no recorded runs"
    lengths = sorted(run["parameters"]["steps"] for run in runs)
    made = sorted({(run["provenance"]["device"], run["provenance"]["started"][:10]) for run in runs})
    return (f"{len(runs)} recorded runs of {lengths[0]:,} to {lengths[-1]:,} steps; each file in `{folder}` names its "
            "commit; " + "; ".join(map(", ".join, made)))
