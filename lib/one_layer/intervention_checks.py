"""What checks of the interventions are told, and the statements about recorded runs that must hold.

A statement reads one run (or several, where it says so) and is true or false. Thresholds in percent, points or nats are
those that `book/claims.yml` says. `varied` and `contrast` name the runs, what is measured in them, and the control: the
same run under another setting, or another run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np

from lib.one_layer.intervention_results import (
    ONE_SITE,
    TWO_SITES,
    Triple,
    WithReverseErrors,
    agreement,
    agreement_advantages,
    agreements,
    at_quartiles,
    at_weight,
    cosine,
    drop_from_start,
    late_range,
    layered,
    line_through,
    margin_loss,
    mean_placeholder_share,
    metric,
    patch_gain,
    patched_accuracy,
    peak_over_start,
    share_lowering_loss,
    weight_advantage,
)
from lib.one_layer.intervention_runs import BLOCKING, ENCODING_NAMES, NamedRuns, Sources
from lib.one_layer.results import (
    RecordedRun,
    RunPairs,
    at_common_step,
    final,
    last_step,
    pattern_evidence,
    with_recorded,
    within_recorded_range,
)
from lib.record.evidence import NamedValues, told_effects, told_means
from lib.record.report import Values, bootstrap_interval, difference_interval, effect, spread

Measure = Callable[[], Values | NamedValues]

# What a check is told ---------------------------------------------------------------------------------------------


def by_weight(case: WithReverseErrors, control: RecordedRun) -> dict[str, Any]:
    """What `claims.verify` is told of `own_weight_decides`: these runs, and one in which more than the weight tells."""
    return {"needs": case.runs and [*case.runs, control], "given": {"runs": case.runs}, "broken": {"runs": [control]},
            "scope": case.scope, **told_means(lambda: agreements(case.runs))}


def varied(
    runs: NamedRuns, before: str = "", values: Measure | None = None, /, **settings: tuple[Any, Any]
) -> dict[str, Any]:
    """What `claims.verify` is told of a test of the first of these runs under settings: given one, broken the other.

    :param before: words of the scope before the size of the run
    :param values: what is measured, see `lib.record.evidence.told_means`
    :param settings: keyword of the test -> its value, and the control's
    """
    run = next(iter(runs.values()))
    given, broken = ({name: pair[place] for name, pair in settings.items()} for place in (0, 1))
    return {"given": {"run": run} | given, "broken": {"run": run} | broken, **pattern_evidence(runs, before),
            **(told_means(values) if values else {})}


def contrast(runs: NamedRuns, before: str = "", values: Measure | None = None) -> dict[str, Any]:
    """What `claims.verify` is told of a test that the first of these runs passes and the last, the control, must fail.

    Parameters as for `varied`.
    """
    shown, *_, control = runs.values()
    return varied(runs, before, values) | {"given": {"run": shown}, "broken": {"run": control}}


def dropped_against(runs: NamedRuns, before: str, values: Measure | None = None) -> dict[str, Any]:
    """What `claims.verify` is told of a run without the blocking loss and one under a control, the first two.

    :param values: what is measured, in place of the first run's reverse accuracy
    """
    right, other, *_ = cast(tuple[RecordedRun, ...], tuple(runs.values()))
    answers = lambda: at_common_step("reverse_accuracy", right, other)
    scope = lambda: f"{before}; near step {last_step(right, other)}; the control's mean: {answers()[1].mean():.1f}"
    own = {} if values else {"spread": lambda: spread(answers()[0])}
    return {"needs": runs, "given": {"run": right, "beside": other}, "broken": {"run": other, "beside": right},
            "seeds": lambda: right["seeds"], "scope": scope, **told_means(values or (lambda: answers()[0])), **own}


def effect_over(triple: Triple | None, before: str) -> dict[str, Any]:
    """What `claims.verify` is told of `raises_by`: the blocking loss dropped against another part, and as the control
    that other part against our recipe.

    :param triple: see `intervention_results.gain_triples`; None if one of the runs is not recorded
    :param before: words of the scope before the step
    """
    plain, changed, other = cast(Triple, triple or (None, None, None))
    both = lambda: cast(tuple[Values, Values], tuple(at_common_step("reverse_accuracy", other, changed)))
    return {"needs": {"our recipe": plain, "blocking loss dropped": changed, "other part dropped": other},
            "given": {"run": changed, "beside": other}, "broken": {"run": other, "beside": plain},
            "seeds": lambda: changed["seeds"], "scope": lambda: f"{before}; near step {last_step(changed, other)}",
            **told_effects(lambda: {"dropped, less the control": both()})}


# What must hold of reverse accuracy -------------------------------------------------------------------------------


def errors_are_placeholders(runs: Iterable[RecordedRun], point: int) -> bool:
    """Whether in every run nine in ten reverse errors are the placeholder, at a measured point, and 95 percent of the
    answers are right among lowercase letters; means over seeds."""
    return all(mean_placeholder_share(run, point) >= 90
               and final(run, "reverse_accuracy_lowercase", point).mean() >= 95 for run in runs)


def all_answered(run: RecordedRun, beside: RecordedRun) -> bool:
    """Whether every seed answers 95 percent of the reverse queries, at the last step of this and the other run."""
    return bool(at_common_step("reverse_accuracy", run, beside)[0].min() >= 95)


def raises_by(run: RecordedRun, beside: RecordedRun, points: float = 30.0) -> bool:
    """Whether reverse accuracy lies above that of the other run by more than these points with the whole interval of
    the difference, at the last step of both."""
    low, high = at_common_step("reverse_accuracy", beside, run)
    return difference_interval(low, high)[0] > points


def above_with_interval(values: Values, limit: float) -> bool:
    """Whether the interval of a mean over seeds, or of a paired difference, lies above a limit."""
    return bootstrap_interval(values)[0] > limit


def answers_in_reverse(run: RecordedRun) -> bool:
    """Whether every seed answers 95 percent of the reverse queries."""
    return bool(metric(run, "reverse_accuracy").min() >= 95)


def correlated_and_answering(run: RecordedRun) -> bool:
    """Whether every seed answers 95 percent in reverse, with a score correlation above .9."""
    return answers_in_reverse(run) and bool(metric(run, "score_correlation").min() > 0.9)


def correlated_and_wrong(run: RecordedRun) -> bool:
    """Whether in every seed the score correlation is above .99, forward above 90 and reverse below 50 percent."""
    return bool(metric(run, "score_correlation").min() > 0.99 and metric(run, "forward_accuracy").min() > 90
                and metric(run, "reverse_accuracy").max() < 50)


def costs_accuracy(laden: RecordedRun, free: RecordedRun, among: str = "") -> bool:
    """Whether position in the values costs more than 10 points of reverse accuracy, permutation p below .05.

    :param among: ``_lowercase`` for accuracy among lowercase letters
    """
    found = effect(*at_common_step(f"reverse_accuracy{among}", laden, free))
    return found.difference > 10 and found.p < 0.05


def beginnings(found: Sources) -> RunPairs:
    """Each run of this build with the recorded one that it begins; none unless both encodings have both of these runs:
    by our recipe, and without the blocking loss."""
    pairs = with_recorded(found.build.runs, found.recorded, "encoding", "intervention")
    return pairs if {name for pair in exchanged() for name in pair} <= set(pairs) else {}


def exchanged() -> list[tuple[str, str]]:
    """Of each encoding, the names of the run by our recipe and of that without the blocking loss."""
    return [(f"{encoding}, none", f"{encoding}, {BLOCKING}") for encoding in ENCODING_NAMES]


def in_recorded_range(pairs: RunPairs, slack: float, exchange: bool = False) -> bool:
    """Whether forward and reverse accuracy of every run lie in the range of its recorded one, widened by this slack.

    :param pairs: see `beginnings`
    :param slack: points
    :param exchange: the control: runs by our recipe and without the blocking loss against each other's recorded run
    """
    other = {one: two for pair in exchanged() for one, two in (pair, pair[::-1])} if exchange else {}
    return all(within_recorded_range(pairs, f"{way}_accuracy", slack, other) for way in ("forward", "reverse"))


# What must hold of patches ----------------------------------------------------------------------------------------


def restores(run: RecordedRun, patch: str) -> bool:
    """Whether under this patch every seed answers 95 percent of the reverse queries."""
    return bool(patched_accuracy(run, patch).min() >= 95)


def gains_more_than_the_row(run: RecordedRun, patch: str) -> bool:
    """Whether the forward row gains less than 10 points and this patch more than 30; means over seeds."""
    return patch_gain(run, "row_forward") < 10 and patch_gain(run, patch) > 30


def two_together_help(run: RecordedRun) -> bool:
    """Whether no patch of one site restores every seed, and each of two sites gains 10 points over the best of one."""
    best = max(patched_accuracy(run, site).mean() for site in ONE_SITE)
    return (not any(restores(run, site) for site in ONE_SITE)
            and bool(min(patched_accuracy(run, sites).mean() for sites in TWO_SITES) >= best + 10))


def less_attention_on_average(run: RecordedRun) -> bool:
    """Whether reverse queries give the evidence less attention on average over seeds: the whole interval of the
    difference lies above .01."""
    return above_with_interval(metric(run, "forward_attention") - metric(run, "reverse_attention"), 0.01)


def weight_restores_more(run: RecordedRun, patch: str) -> bool:
    """Whether a patch gains more than 30 points over the query's own weight on the evidence, the rest of the row at
    random, with the whole interval over seeds."""
    return above_with_interval(weight_advantage(run, patch), 30.0)


def less_attention_in_reverse(run: RecordedRun) -> bool:
    """Whether in every seed reverse queries give the evidence less attention than forward ones, by more than .01."""
    return bool((metric(run, "forward_attention") > metric(run, "reverse_attention") + 0.01).all())


def answered_at_quartiles(run: RecordedRun, way: str) -> bool:
    """Whether under the quartiles of the weights that queries of this direction give, every seed answers 90 percent."""
    return bool(at_quartiles(run, way).min() >= 90)


def own_weight_decides(runs: Iterable[RecordedRun]) -> bool:
    """Whether forward queries with the evidence's attention weight of their paired reverse query are right or wrong as
    that one is, in 85 percent of the pairs and 2 points more often than with the weight of another fact's."""
    return all(agreement(run) > max(85, agreement(run, "_other") + 2) for run in runs)


def own_weight_says_more(runs: Iterable[RecordedRun]) -> bool:
    """Whether in every run the weight of the paired reverse query agrees in more pairs than that of another fact's, by
    more than half a point with the whole interval over seeds."""
    return all(above_with_interval(each, 0.5) for each in agreement_advantages(runs).values())


def lost_in(run: RecordedRun, part: str) -> bool:
    """Whether this part loses over half of the margin, and the evidence's storage times routing under a quarter."""
    whole = margin_loss(run)
    return margin_loss(run, part) > whole / 2 and margin_loss(run, "evidence") < whole / 4


def lost_without(run: RecordedRun, weight: float, patch: str) -> bool:
    """Whether under 10 percent of the reverse queries are answered with this attention weight on the evidence, and
    under this patch; means over seeds."""
    return bool(max(at_weight(run, weight).mean(), patched_accuracy(run, patch).mean()) < 10)


# What must hold along training ------------------------------------------------------------------------------------


def loses_reverse_component(run: RecordedRun, third: str) -> bool:
    """Whether in this third of the watched steps, in every seed, the training gradient's cosine with the reverse
    gradient is within .2 of zero while that of the forward queries' gradient is above .3."""
    training, forward = (cosine(run, name, third) for name in ("training", "forward"))
    return bool(np.abs(training).max() < 0.2 and forward.min() > 0.3)


def loses_on_average(run: RecordedRun, third: str) -> bool:
    """Whether in this third of the watched steps, on average over seeds, the whole interval of the training gradient's
    cosine is within .2 of zero, and that of the forward queries' gradient above .3."""
    low, high = bootstrap_interval(cosine(run, "training", third))
    return low > -0.2 and high < 0.2 and above_with_interval(cosine(run, "forward", third), 0.3)


def opposes_more_than_the_rest(run: RecordedRun, part: str) -> bool:
    """Whether in every seed this part of the training gradient has a negative cosine, below that of the rest."""
    return bool((cosine(run, part) < np.minimum(0, cosine(run, "rest"))).all())


def first_order(run: RecordedRun, predicted: str) -> bool:
    """Whether what training steps change follows the changes predicted for a kind of step: slope .8 to 1.2, r > .95."""
    line = line_through(run, predicted, "adamw")
    return 0.8 < line.slope < 1.2 and line.correlation > 0.95


def mostly_lowers_loss(run: RecordedRun, step: str) -> bool:
    """Whether 95 percent of the watched steps of a kind lower the reverse loss."""
    return share_lowering_loss(run, step) >= 95


def above_mismatched(run: RecordedRun, name: str) -> bool:
    """Whether a signature of every layer is positive and above that of mismatched facts, in every seed."""
    layers = range(1, run["parameters"]["depth"] + 1)
    return all(bool((layered(run, name, layer) > np.maximum(0, layered(run, f"{name}_mismatched", layer))).all())
               for layer in layers)


def above_mismatched_on_average(run: RecordedRun, name: str) -> bool:
    """Whether a signature exceeds that of mismatched facts in every layer: the whole interval over seeds of the
    difference lies above zero."""
    return all(above_with_interval(layered(run, name, layer) - layered(run, f"{name}_mismatched", layer), 0.0)
               for layer in range(1, run["parameters"]["depth"] + 1))


def ends_below_start(runs: Iterable[RecordedRun], names: Sequence[str]) -> bool:
    """Whether every one of these curves ends more than .2 below its start, means over seeds."""
    return min(drop_from_start(run, name) for run in runs for name in names) > 0.2


def never_above_start(runs: Iterable[RecordedRun], names: Sequence[str]) -> bool:
    """Whether no one of these curves is ever .05 above its start, means over seeds."""
    return max(peak_over_start(run, name) for run in runs for name in names) < 0.05


def moves_in_some(runs: Iterable[RecordedRun], name: str) -> bool:
    """Whether in some run, once forward is learned, a curve differs by 20 points both between seeds and in time."""
    return max(min(late_range(run, name)) for run in runs) >= 20
