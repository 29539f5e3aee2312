"""Recorded runs on a shelf: looked up by what sets them apart, and compared at a step that all of them reached.

    full = Shelf.of(recorded("beyond"), {"length": 10, "width": 64}, "full")
    plain, changed = full.under(("none", "drop_random"), encoding="rope")
    before, after = together("reverse_accuracy", plain, changed)

What a run is and how one is read off: `lib.one_layer.results`. A run that is not on the shelf is None, for the page to say
so. Runs that trained for different numbers of steps are compared at the last step that all of them reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.one_layer.results import STANDARD, Result, at_step, band, command, final, inside, matching

Pairs = Mapping[str, tuple[Result, Result]]  # name -> a run of this build and the recorded one it should begin


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs, and the settings in which those looked up agree unless asked otherwise."""

    runs: tuple[Result, ...]
    shared: Mapping[str, Any]

    @classmethod
    def of(cls, results: Iterable[Result], shared: Mapping[str, Any], profile: str,
           seeds: Sequence[int] | None = None) -> Runs:
        """The results of one profile.

        :param seeds: keep runs of these seeds, or of the first of them; None keeps all
        """
        kept = [run for run in results if run["parameters"]["profile"] == profile]
        if seeds is not None:
            kept = [run for run in kept if run["seeds"] == list(seeds)[: len(run["seeds"])]]
        return cls(tuple(kept), shared)

    def __add__(self, other: Runs) -> Runs:
        """Both shelves' runs, looked up by the first one's settings."""
        return Runs(self.runs + other.runs, self.shared)

    def every(self, **what: Any) -> list[Result]:
        """All runs with these parameters and otherwise the shared ones, the longest first; None allows any value."""
        return matching(self.runs, **{**self.shared, **what})

    def find(self, **what: Any) -> Result | None:
        """The longest of `every`, or None."""
        found = self.every(**what)
        return found[0] if found else None

    def under(self, interventions: Sequence[str], **what: Any) -> list[Result]:
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
                + command("lib.one_layer.causes", {**self.shared, **what, **given}, seeds, out))


def first(shelves: Iterable[Runs], **what: Any) -> Result | None:
    """The run of the first shelf that has one."""
    return next((run for shelf in shelves if (run := shelf.find(**what)) is not None), None)


def having(runs: Iterable[Result], **what: Any) -> list[Result]:
    """Runs with these parameters, whatever the others are."""
    return [run for run in runs
            if all(run["parameters"].get(name, STANDARD.get(name)) == value for name, value in what.items())]


# Several runs at one step -----------------------------------------------------------------------------------------


def last_step(*runs: Result | None) -> int:
    """The last step that all of these runs reached; None stands for no run.

    :raises ValueError: for no run at all
    """
    lengths = [run["parameters"]["steps"] for run in runs if run is not None]
    if not lengths:
        raise ValueError("runs: needs at least one")
    return min(lengths)


def together(name: str, *runs: Result) -> list[Float[np.ndarray, " seeds"]]:
    """A curve's values of each run, one a seed, at the last step that all of them reached."""
    last = last_step(*runs)
    return [at_step(run, name, last) for run in runs]


def rise(name: str, before: Result, after: Result) -> float:
    """How much larger a curve is in the second run, means over seeds, at the last step of both."""
    low, high = together(name, before, after)
    return float(high.mean() - low.mean())


def part_of_gain(name: str, plain: Result, changed: Result, other: Result) -> float:
    """The part of what one change gains over the plain run that another change gains, means at the last step of all."""
    base, gained, tried = (values.mean() for values in together(name, plain, changed, other))
    return float((tried - base) / (gained - base))


def twins(build: Iterable[Result], recorded: Runs, *names: str) -> Pairs:
    """Each run of the build with the recorded one that it should begin, found by the parameters ``names``, if any."""
    found = {}
    for run in build:
        given = {name: run["parameters"][name] for name in names}
        twin = recorded.find(**given)
        if twin is not None and twin["parameters"]["steps"] >= run["parameters"]["steps"]:
            found[", ".join(map(str, given.values()))] = (run, twin)
    return found


def in_bands(pairs: Pairs, name: str, slack: float, exchange: Mapping[str, str] | None = None) -> bool:
    """Whether every run ends within its twin's range over seeds at that step, widened by ``slack``.

    :param exchange: pair -> the pair whose twin it is held against instead
    """
    other = exchange or {}
    return all(inside(final(run, name), band(pairs[other.get(key, key)][1], name, run["parameters"]["steps"]), slack)
               for key, (run, _) in pairs.items())


# Words ------------------------------------------------------------------------------------------------------------


def kind_of(run: Result) -> str:
    """Encoding and length of a run."""
    return f"{run['parameters']['encoding']} at {run['parameters']['length']}"


def called(run: Result) -> str:
    """Length, steps and seeds of a run."""
    given = run["parameters"]
    return f"length {given['length']}, {given['steps']} steps, {len(run['seeds'])} seeds"


def pattern(run: Result, before: str = "", then: str = "") -> dict[str, Any]:
    """What `claims.verify` is told of the run that shows a pattern: the kind of evidence, its seeds and the scope.

    :param before: words of the scope before the run's size
    :param then: words after it
    """
    return {"kind": "pattern", "seeds": run["seeds"], "scope": "; ".join(filter(None, (before, called(run), then)))}


def in_words(name: str, *runs: Result | None) -> list[str]:
    """Each run's mean of a curve at the last step that all of them reached, and that step; nothing if a run is None."""
    found = [run for run in runs if run is not None]
    if len(found) < len(runs):
        return []
    return [*(f"{values.mean():.0f}" for values in together(name, *found)), f"{last_step(*found):,}"]


def history(runs: Sequence[Result], folder: str) -> str:
    """How many runs there are, of how many steps, where they lie, and on what and when they were made."""
    lengths = sorted(run["parameters"]["steps"] for run in runs)
    made = sorted({(run["provenance"]["device"], run["provenance"]["started"][:10]) for run in runs})
    return (f"{len(runs)} recorded runs of {lengths[0]:,} to {lengths[-1]:,} steps; each file in `{folder}` names its "
            "commit; " + "; ".join(map(", ".join, made)))
