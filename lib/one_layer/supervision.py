"""Which part of the supervision blocks reverse recall: recorded runs with one part of the loss changed.

All are RoPE models of our recipe, read at the end of their runs, which are equally long at one length. The *gain* of
a change is its mean reverse accuracy less our recipe's; a *share of the gain* is in units of the gain of dropping all
placeholder questions right of a visible capital.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from lib.one_layer import results
from lib.one_layer.results import RecordedRun, final
from lib.record import report

SUPERVISION_LENGTHS = (10, 20, 30, 40)
WEIGHTS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)  # of the blocking questions in the loss
FILLERS = (1, 2, 4, 16)  # kinds of placeholder that were tried, with `FACTS` facts
FACTS = 10
RECIPE, ALL_DROPPED, HIDDEN, SHOWN = "our recipe", "all of them", "letter hidden", "letter in sight"
ELSEWHERE, RANDOM, LETTERS_ONLY = "as many elsewhere", "as many anywhere", "no placeholder is ever asked for"
#: what was changed, and what sets such a run apart
SUPERVISION_CHANGES: dict[str, dict[str, Any]] = {
    RECIPE: {}, ALL_DROPPED: {"right_weight": 0.0}, HIDDEN: {"intervention": "drop_right_letter_hidden"},
    SHOWN: {"intervention": "drop_right_letter_shown"}, ELSEWHERE: {"intervention": "drop_random_elsewhere"},
    RANDOM: {"intervention": "drop_random"}, LETTERS_ONLY: {"intervention": "letters_only"},
}
ONE_QUESTION, FEW_SEQUENCES = "one question of each of 120 sequences", "every question of 22 sequences"
MANY_SEQUENCES = "one question of each of 660 sequences"
#: what a step asks, with the same expected loss as our recipe: every question of 120 sequences, 660 on average
QUESTION_CHANGES: dict[str, dict[str, Any]] = {
    ONE_QUESTION: {"intervention": "one_question", "steps": 1000}, FEW_SEQUENCES: {"batch": 22},
    MANY_SEQUENCES: {"intervention": "one_question", "batch": 660},
}


@functools.cache
def _recorded() -> list[RecordedRun]:
    return results.recorded_runs("supervision")


def changed_run(length: int, **changed: Any) -> RecordedRun | None:
    """The recorded RoPE run with these settings changed, or None."""
    found = results.matching(_recorded(), encoding="rope", length=length, profile="full", **changed)
    return found[0] if found else None


def changed(length: int, *names: str) -> dict[str, RecordedRun | None]:
    """The runs of some of `SUPERVISION_CHANGES` at one length."""
    return {name: changed_run(length, **SUPERVISION_CHANGES[name]) for name in names}


def by_questions(length: int = 10) -> dict[str, RecordedRun | None]:
    """Our recipe and the runs that ask as much in expectation, by how many questions of how many sequences."""
    return changed(length, RECIPE) | {name: changed_run(length, **change) for name, change in QUESTION_CHANGES.items()}


def asked_longest(length: int = 10) -> RecordedRun | None:
    """The longest run with one question a sequence."""
    return changed_run(length, intervention="one_question")


def weighed(length: int = 10) -> dict[float, RecordedRun | None]:
    """The runs by weight of the blocking questions."""
    return {weight: changed_run(length, right_weight=weight) for weight in WEIGHTS}


def filled(length: int = 10) -> dict[str, RecordedRun | None]:
    """The runs by number of kinds of placeholder, and the one in which none is ever asked for."""
    words = lambda count: f"{count} kinds" if count > 1 else "1 kind"
    kinds = {words(count): changed_run(length, facts=FACTS, fillers=count) for count in FILLERS}
    return kinds | changed(length, RECIPE, LETTERS_ONLY)


def lengths(*names: str) -> list[int]:
    """Lengths at which all of these are recorded."""
    return [length for length in SUPERVISION_LENGTHS if None not in changed(length, *names).values()]


# What is read off -------------------------------------------------------------------------------------------------


def reverse(found: RecordedRun, name: str = "reverse_accuracy") -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy at the end, percent, one value a seed."""
    return final(found, name)


def just_learned(found: RecordedRun, percent: float | int = 90) -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy at each seed's first measured step with so many percent forward; nan for a seed without one."""
    forward, answered = (np.array(found["curves"][f"{way}_accuracy"]) for way in ("forward", "reverse"))
    first = (forward >= percent).argmax(1)
    seeds = np.arange(len(first))
    return np.where(forward[seeds, first] >= percent, answered[seeds, first], np.nan)


def questions_table(runs: Mapping[str, RecordedRun | None]) -> str:
    """Reverse accuracy of the runs at their end and when each seed has just learned the facts, as Markdown."""
    rows = [[name, report.cell(reverse(run)), report.cell(just_learned(run))]
            for name, run in runs.items() if run is not None]
    return report.markdown(["a step asks", "at the end (%)", "forward just at 90 % (%)"], rows)


def share(runs: Mapping[str, RecordedRun | None], part: str, whole: str = ALL_DROPPED) -> float:
    """A run's share of the gain of another run, that without any blocking question, over our recipe."""
    return report.gained_share(*(reverse(_there(runs[name])) for name in (RECIPE, whole, part)))


def shares_told(runs: Mapping[str, RecordedRun | None], *parts: str, of: str = ALL_DROPPED) -> dict[str, Any]:
    """Gain of each part in points and its share, with intervals over seeds, as `claims.verify` takes them."""
    base, whole = (reverse(_there(runs[name])) for name in (RECIPE, of))
    ours: dict[str, float] = {}
    interval: dict[str, tuple[float, float]] = {}
    for name in parts:
        mine = reverse(_there(runs[name]))
        ours |= {f"{name}: gain": report.effect(base, mine).difference,
                 f"{name}: share of the gain": report.gained_share(base, whole, mine)}
        interval |= {f"{name}: gain": report.difference_interval(base, mine),
                     f"{name}: share of the gain": report.resampled_interval(report.gained_share, base, whole, mine)}
    return {"ours": ours, "interval": interval}


def share_when_learned(
    runs: Mapping[str, RecordedRun | None], part: str, whole: str
) -> tuple[float, tuple[float, float]]:
    """As `share`, of `just_learned` in place of the end; with its 95 % interval over seeds."""
    values = [just_learned(_there(runs[name])) for name in (RECIPE, whole, part)]
    return report.gained_share(*values), report.resampled_interval(report.gained_share, *values)


def upper_share(runs: Mapping[str, RecordedRun | None], part: str) -> float:
    """Upper end of the 95 % interval of a share of the gain."""
    cells = [reverse(_there(runs[name])) for name in (RECIPE, ALL_DROPPED, part)]
    return report.resampled_interval(report.gained_share, *cells)[1]


def rank_correlation_with_weight(runs: Mapping[float, RecordedRun | None], name: str) -> float:
    """Spearman's correlation of the blocking questions' weight and the mean of a measure at the end."""
    means = [float(reverse(_there(found), name).mean()) for found in runs.values()]
    return 0.0 if np.ptp(means) == 0 else float(stats.spearmanr(list(runs), means).statistic)


def highest_mean(found: RecordedRun | None) -> float:
    """Largest mean over seeds of reverse accuracy along a run, percent; nan where it is not recorded."""
    return float(np.mean(found["curves"]["reverse_accuracy"], 0).max()) if found else float("nan")


def fall_of_accuracy(found: RecordedRun) -> Float[np.ndarray, " seeds"]:
    """`results.fall_from_peak` of reverse accuracy, points."""
    return results.fall_from_peak(found, "reverse_accuracy")


def _there(found: RecordedRun | None) -> RecordedRun:
    if found is None:
        raise LookupError("a run that is not recorded is read: name it in the check's `needs`")
    return found


# Words --------------------------------------------------------------------------------------------------------------


def accuracy_table(names: Sequence[str] = tuple(SUPERVISION_CHANGES)) -> str:
    """Forward and reverse accuracy at the end by change and length, mean and range over seeds."""
    rows = []
    for name in names:
        found = [changed(length, name)[name] for length in SUPERVISION_LENGTHS]
        rows.append([name, *("not run" if one is None else
                             f"{report.cell(reverse(one), 0)}; {report.cell(final(one, 'forward_accuracy'), 0)}"
                             for one in found)])
    return report.markdown(["dropped from the loss", *(f"L = {length}" for length in SUPERVISION_LENGTHS)], rows)


def sizes() -> str:
    """How long the runs are at each length, and how many seeds they have."""
    every = {length: changed_run(length, **SUPERVISION_CHANGES[ALL_DROPPED]) for length in SUPERVISION_LENGTHS}
    told = [f"{found['parameters']['steps']:,} steps and {len(found['seeds'])} seeds at length {length}"
            for length, found in every.items() if found is not None]
    return "; ".join(told) or "no run is recorded"
