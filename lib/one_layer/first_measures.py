"""Statements about the interventions as they were first written down, where a later one took their place.

A measure that is changed after its outcome was seen proves less than one that stood before. So each first measure is
still run, beside the later one of `lib.one_layer.intervention_checks`, and has a row of its own. A statement reads one
recorded run (or several, where it says so) and is true or false; thresholds are those that it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from lib.one_layer.intervention_results import Triple, agreement, cosine, late_range, line_through, metric
from lib.one_layer.results import RecordedRun, at_step, final
from lib.record.report import gained_share


def at_mean_weight(run: RecordedRun, way: str) -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy (percent) with the mean attention weight that queries of one direction give the evidence."""
    return np.array([np.interp(weight, run["curves"]["dose"], answered) for weight, answered in zip(
        metric(run, f"{way}_attention"), run["curves"]["reverse_by_dose"], strict=True)])


def mean_weights_decide(run: RecordedRun, answered: str, failed: str) -> bool:
    """Whether with the mean weight of queries of one direction every seed answers 90 percent of the reverse queries,
    and with that of the other direction none does."""
    return bool(at_mean_weight(run, answered).min() >= 90 and at_mean_weight(run, failed).max() < 90)


def own_weight_decides_everywhere(runs: Iterable[RecordedRun]) -> bool:
    """Whether forward queries with the weight of their paired reverse query are right or wrong as that one is, in 85
    percent of the pairs, in every run; means over seeds."""
    return min(agreement(run) for run in runs) > 85


def agreement_by_run(runs: Iterable[RecordedRun]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Percent of pairs that agree, each seed's own, by length, intervention and reversed share."""
    words = "L = {length}, {intervention}, {reversed_share:g} reversed"
    return {words.format(**run["parameters"]): metric(run, "broken_agreement") for run in runs}


def moves_in_all(runs: Iterable[RecordedRun], name: str) -> bool:
    """Whether in every run, once forward is learned, a curve differs by 20 points between seeds or in time."""
    return min(max(late_range(run, name)) for run in runs) >= 20


def every_seed_ends_below_start(runs: Iterable[RecordedRun], names: Sequence[str]) -> bool:
    """Whether every seed's curves end more than .2 below their start."""
    return min(float((final(run, name, 0) - final(run, name)).min()) for run in runs for name in names) > 0.2


def opposes_alone(run: RecordedRun, part: str, rest: str) -> bool:
    """Whether in every seed one part of the training gradient has a negative cosine, and the other in none."""
    return bool((cosine(run, part) < 0).all() and (cosine(run, rest) >= 0).all())


def both_steps_follow(run: RecordedRun, realised: Mapping[str, str]) -> bool:
    """Whether what steps of each kind change follows what is predicted: slope .5 to 1.2, correlation above .9.

    :param realised: kind of step that is predicted -> kind whose change is taken
    """
    lines = [line_through(run, predicted, found) for predicted, found in realised.items()]
    return all(0.5 < line.slope < 1.2 and line.correlation > 0.9 for line in lines)


def every_seed_answers(run: RecordedRun, last: RecordedRun, least: float) -> bool:
    """Whether every seed answers so many percent of the reverse queries near the last step of another run."""
    return bool(at_step(run, "reverse_accuracy", last["parameters"]["steps"]).min() >= least)


def correlated_and_right(run: RecordedRun) -> bool:
    """Whether in every seed the score correlation is above .99 and reverse accuracy at least 90 percent."""
    return bool(metric(run, "score_correlation").min() > 0.99 and metric(run, "reverse_accuracy").min() >= 90)


def shares_of_gain_at_ends(triples: Mapping[str, Triple]) -> dict[str, float]:
    """The part of the gain by dropping the blocking loss that each control achieves, each run read at its own end."""
    return {name: gained_share(*(final(run, "reverse_accuracy") for run in triple)) for name, triple in triples.items()}
