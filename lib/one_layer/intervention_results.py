"""What recorded runs of the interventions say: which answer wins, what a patch restores, what a step does.

`lib.one_layer.intervention_runs` finds the runs. Every function reads one of them (or several, where it says so) and
returns one value a seed, a mean over seeds, or whether a statement is true, in the units of the record: accuracies and
shares of queries in percent, logit differences ("margins") and changes of the loss in nats. Plain runs of
`lib.one_layer.experiment` hold the metrics and the curves as well, but no patches, margins and watched steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float
from scipy import stats

from lib.one_layer import results
from lib.one_layer.intervention_runs import BLOCKING, CONTROLS, ENCODINGS, LENGTHS, NamedRuns, Sources
from lib.one_layer.loss_change import STEPS
from lib.one_layer.results import (
    RecordedRun,
    Runs,
    at_common_step,
    at_step,
    encoding_and_length,
    final,
    having,
    last_step,
    pattern_evidence,
    wrong_as_placeholder,
)
from lib.record.report import Values, bootstrap_interval, effect, spread

SIGNATURES = ("score_correlation", "gradient_cosine")
#: part of a margin over the placeholder -> the recorded parts that it sums
MARGIN_PARTS = {"evidence": ("evidence",), "placeholders": ("placeholders",), "mlp": ("mlp",),
                "rest": ("mask", "residual")}
QUARTILES = (0.25, 0.5, 0.75)
#: patches of the attention row, and what they are held against
WEIGHT_PATCHES = ("itself", "mass_forward", "mass_reverse", "score_forward", "values_forward")
#: patches from the paired forward query, of one site and of two
ONE_SITE = ("row_forward", "values_forward", "residual_forward")
TWO_SITES = ("row_values_forward", "row_residual_forward", "values_residual_forward")


# Measures ---------------------------------------------------------------------------------------------------------


def measured(values: Callable[[], Values | Mapping[str, Values]]) -> dict[str, Callable[[], Any]]:
    """What `claims.verify` is told of values over seeds, or of several by name: the mean and its bootstrap interval.

    Both are functions of no arguments, since the runs that ``values`` reads may be missing.
    """
    def each(of: Callable[[Values], Any]) -> Any:
        found = values()
        return {name: of(own) for name, own in found.items()} if isinstance(found, Mapping) else of(found)

    return {"ours": lambda: each(lambda own: float(np.mean(own))),
            "interval": lambda: each(lambda own: bootstrap_interval(own) if len(own) > 1 else None)}


def by_seed(run: RecordedRun, **values: Values) -> dict[str, float]:
    """Each value under its name and its seed."""
    return {f"{name}, seed {seed}": float(value) for name, own in values.items()
            for seed, value in zip(run["seeds"], own, strict=True)}


def evidence(
    runs: NamedRuns, before: str = "", values: Callable[[], Values | Mapping[str, Values]] | None = None
) -> dict[str, Any]:
    """What `claims.verify` is told of the runs that a check reads: see `results.pattern_evidence` and `measured`."""
    return pattern_evidence(runs, before) | (measured(values) if values else {})


def contrast(
    runs: NamedRuns, before: str = "", values: Callable[[], Values | Mapping[str, Values]] | None = None
) -> dict[str, Any]:
    """`evidence` for a check that the first of these runs passes and the last one, the control, must fail."""
    shown, *_, control = runs.values()
    return evidence(runs, before, values) | {"given": {"run": shown}, "broken": {"run": control}}


def metric(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """A measure of the trained models, one value a seed."""
    return np.array(run["metrics"][name], dtype=float)


def metrics(run: RecordedRun, *names: str) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Several measures of the trained models, by name."""
    return {name: metric(run, name) for name in names}


# The placeholder --------------------------------------------------------------------------------------------------


def below(runs: Iterable[RecordedRun], accuracy: float) -> list[RecordedRun]:
    """The runs that end below this reverse accuracy (percent, mean over seeds)."""
    return [run for run in runs if metric(run, "reverse_accuracy").mean() < accuracy]


def mean_placeholder_share(run: RecordedRun, point: int = -1) -> float:
    """The placeholder's share of the reverse errors at a measured point, mean over the seeds that err."""
    return float(wrong_as_placeholder(run, point).mean())


def wrong_answers(found: Sources) -> dict[str, list[RecordedRun]]:
    """Runs at length 10 and more that end with reverse errors, by where they were made."""
    wrong = {source: below(runs.every(encoding=None, length=None), 99.0)
             for source, runs in {"this build": found.build, "recorded": found.every}.items()}
    return {source: [run for run in runs if run["parameters"]["length"] >= 10] for source, runs in wrong.items()}


def placeholder_shares(runs: Iterable[RecordedRun]) -> dict[str, float]:
    """The placeholder's share of the reverse errors at the end, percent, by encoding, length and steps."""
    return {f"{encoding_and_length(run)}, step {last_step(run)}": mean_placeholder_share(run) for run in runs}


def errors_are_placeholders(runs: Iterable[RecordedRun], point: int) -> bool:
    """Whether in every run nine in ten reverse errors are the placeholder, at a measured point, and 95 percent of the
    answers are right among lowercase letters; means over seeds."""
    return all(mean_placeholder_share(run, point) >= 90
               and final(run, "reverse_accuracy_lowercase", point).mean() >= 95 for run in runs)


# Training without a part of the loss ------------------------------------------------------------------------------


def all_answered(run: RecordedRun, beside: RecordedRun) -> bool:
    """Whether every seed answers 95 percent of the reverse queries, at the last step of this and the other run."""
    return bool(at_common_step("reverse_accuracy", run, beside)[0].min() >= 95)


def dropped_against(
    runs: NamedRuns, before: str, values: Callable[[], Mapping[str, Values]] | None = None
) -> dict[str, Any]:
    """What `claims.verify` is told of a run without the blocking loss and one under a control, the first two.

    :param values: what is measured, in place of the first run's reverse accuracy
    """
    right, other, *_ = cast(tuple[RecordedRun, ...], tuple(runs.values()))
    answers = lambda: at_common_step("reverse_accuracy", right, other)
    scope = lambda: f"{before}; near step {last_step(right, other)}; the control's mean: {answers()[1].mean():.1f}"
    own = {} if values else {"spread": lambda: spread(answers()[0])}
    return {"needs": runs, "given": {"run": right, "beside": other}, "broken": {"run": other, "beside": right},
            "seeds": lambda: right["seeds"], "scope": scope, **measured(values or (lambda: answers()[0])), **own}


def both_directions(runs: NamedRuns) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Forward and reverse accuracy at the end of each run, percent."""
    return {f"{name}, {way}": final(run, f"{way}_accuracy") for name, run in runs.items() if run is not None
            for way in ("forward", "reverse")}


Triple = tuple[RecordedRun, RecordedRun, RecordedRun]


def gain_triples(runs: Runs) -> dict[str, Triple]:
    """Runs as usual, without the blocking loss and under a control, by encoding and control."""
    found = {f"{encoding}, {control}": runs.by_intervention(("none", BLOCKING, control), encoding=encoding)
             for encoding in ENCODINGS for control in CONTROLS}
    return {name: (triple[0], triple[1], triple[2]) for name, triple in found.items() if triple}


def runs_of(triples: Mapping[str, Triple]) -> list[RecordedRun]:
    """Every run of these triples, once."""
    return list({id(run): run for triple in triples.values() for run in triple}.values())


def shares_of_gain(triples: Mapping[str, Triple], step: int | None = None) -> dict[str, float]:
    """The part of the gain in reverse accuracy by dropping the blocking loss that each control achieves.

    :param triples: see `gain_triples`
    :param step: near which it is read; None for the last step of all three
    """
    return {name: results.share_of_gain("reverse_accuracy", *triple, step=step) for name, triple in triples.items()}


# Patches ---------------------------------------------------------------------------------------------------------


def patched_accuracy(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy, percent, under a patch of `lib.one_layer.patching`; ``itself`` is the untouched answer.

    :param name: what is patched and its source, for example ``score_forward``
    """
    return metric(run, f"graft_{name}_accuracy")


def patched(run: RecordedRun, *names: str) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Reverse accuracy, percent, under each of these patches, by name."""
    return {name: patched_accuracy(run, name) for name in names}


def restores(run: RecordedRun, patch: str) -> bool:
    """Whether under this patch every seed answers 95 percent of the reverse queries."""
    return bool(patched_accuracy(run, patch).min() >= 95)


def patch_gain(run: RecordedRun, name: str) -> float:
    """Points that a patch gains over the untouched answer, mean over seeds."""
    return float((patched_accuracy(run, name) - patched_accuracy(run, "itself")).mean())


def values_help_but_not_the_row(run: RecordedRun, values: str) -> bool:
    """Whether the forward row gains less than 10 points and this patch, the values, more than 30; means over seeds."""
    return patch_gain(run, "row_forward") < 10 and patch_gain(run, values) > 30


def two_together_help(run: RecordedRun) -> bool:
    """Whether no patch of one site restores every seed, and each of two sites gains 10 points over the best of one."""
    best = max(patched_accuracy(run, site).mean() for site in ONE_SITE)
    return (not any(restores(run, site) for site in ONE_SITE)
            and bool(min(patched_accuracy(run, sites).mean() for sites in TWO_SITES) >= best + 10))


def agreement(run: RecordedRun, source: str = "") -> float:
    """Pairs that a forward query with a reverse query's share of attention answers as that one does (percent).

    :param source: empty for the paired query's share, ``_other`` for that of another fact
    """
    return float(metric(run, f"broken_agreement{source}").mean())


class WithReverseErrors(NamedTuple):
    """RoPE runs of one length that end with reverse errors."""

    source: str  # where they were made
    length: int
    runs: list[RecordedRun]
    left_out: dict[str, list[RecordedRun]]  # by the reason

    @property
    def scope(self) -> str:
        """Which runs a check reads, and what those left out say."""
        return f"{self.source}; RoPE; {len(self.runs)} runs" + "".join(
            f"; left out, {why}: {agreement(run):.0f} against {agreement(run, '_other'):.0f} percent"
            for why, runs in self.left_out.items() for run in runs)


def with_reverse_errors(found: Sources) -> list[WithReverseErrors]:
    """RoPE runs of one layer below 90 percent in reverse, by source and length; one entry without runs if none is."""
    cases = []
    for source, runs in found.items():
        wrong = below(having(runs.runs, encoding="rope", depth=1, values="natural", objective="masked_diffusion"), 90.0)
        apart = {"the blocking loss dropped": having(wrong, intervention=BLOCKING),  # nothing teaches the direction
                 "forward not learned": [run for run in wrong if metric(run, "forward_accuracy").mean() < 90]}
        out = [id(run) for runs in apart.values() for run in runs]
        kept = [run for run in wrong if id(run) not in out]
        cases += [WithReverseErrors(source, length, having(kept, length=length),
                                    {why: having(runs, length=length) for why, runs in apart.items()})
                  for length in sorted({run["parameters"]["length"] for run in kept})]
    return cases or [WithReverseErrors("recorded", LENGTHS[0], [], {})]


def own_weight_decides(runs: Iterable[RecordedRun]) -> bool:
    """Whether forward queries with the evidence's attention weight of their paired reverse query are right or wrong as
    that one is, in 85 percent of the pairs and 2 points more often than with the weight of another fact's."""
    return all(agreement(run) > max(85, agreement(run, "_other") + 2) for run in runs)


def agreements(runs: Iterable[RecordedRun]) -> dict[str, int]:
    """Agreement with the own and with another fact's weight, whole percent, by intervention and reversed share."""
    return {f"{run['parameters']['intervention']}, {run['parameters']['reversed_share']:g} reversed, {words}":
            round(agreement(run, source)) for run in runs
            for words, source in (("own", ""), ("other", "_other"))}


def less_attention_in_reverse(run: RecordedRun) -> bool:
    """Whether in every seed reverse queries give the evidence less attention than forward ones, by more than .01."""
    return bool((metric(run, "forward_attention") > metric(run, "reverse_attention") + 0.01).all())


def at_weight(run: RecordedRun, weight: float) -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy with this attention weight on the evidence.

    :raises ValueError: for a weight that was not tried
    """
    tried = run["curves"]["dose"]
    if weight not in tried:
        raise ValueError(f"weight {weight:g}: tried were {', '.join(f'{dose:g}' for dose in tried)}")
    return np.array([curve[tried.index(weight)] for curve in run["curves"]["reverse_by_dose"]], dtype=float)


def at_quartiles(run: RecordedRun, way: str) -> Float[np.ndarray, "seeds 3"]:
    """Reverse accuracy under the quartiles of the shares of attention that forward or reverse queries give."""
    curves = run["curves"]
    places = [curves["quantile"].index(part) for part in QUARTILES]
    return np.array([np.interp(np.array(own)[places], curves["dose"], answered)
                     for own, answered in zip(curves[f"{way}_shares"], curves["reverse_by_dose"], strict=True)])


# Parts of the margin ----------------------------------------------------------------------------------------------


def margin(run: RecordedRun, way: str, *parts: str) -> Float[np.ndarray, "seeds points"]:
    """The margin of the target's logit over the placeholder's: these of its `PARTS`, or all of them, along training."""
    names = [name for part in parts or MARGIN_PARTS for name in MARGIN_PARTS[part]]
    return np.sum([run["curves"][f"margin_{way}_{name}"] for name in names], axis=0, dtype=float)


def margin_losses(run: RecordedRun, *parts: str) -> Float[np.ndarray, " seeds"]:
    """What these parts, or all, give the forward margin and not the reverse one, at the end."""
    return (margin(run, "forward", *parts) - margin(run, "reverse", *parts))[:, -1]


def margin_loss(run: RecordedRun, *parts: str) -> float:
    """`margin_losses`, mean over seeds."""
    return float(margin_losses(run, *parts).mean())


def lost_in(run: RecordedRun, part: str) -> bool:
    """Whether this part loses over half of the margin, and the evidence's storage times routing under a quarter."""
    whole = margin_loss(run)
    return margin_loss(run, part) > whole / 2 and margin_loss(run, "evidence") < whole / 4


def answered_without(run: RecordedRun, weight: float, patch: str) -> float:
    """Reverse accuracy with this attention weight on the evidence, or under this patch: the larger, mean over seeds."""
    return float(max(at_weight(run, weight).mean(), patched_accuracy(run, patch).mean()))


# Watched steps ----------------------------------------------------------------------------------------------------


def cosine(run: RecordedRun, name: str, third: str = "") -> Float[np.ndarray, " seeds"]:
    """Cosine of a gradient with that of the reverse loss, mean over the watched steps.

    :param third: ``first`` or ``last`` third of these steps; all of them if empty
    """
    curve = np.array(run["curves"][f"first_order_cosine_{name}"])
    part = curve.shape[1] // 3
    return curve[:, {"": slice(None), "first": slice(part), "last": slice(-part, None)}[third]].mean(1)


def cosines(run: RecordedRun, *names: str, third: str = "") -> dict[str, Float[np.ndarray, " seeds"]]:
    """Several of `cosine`, by name."""
    return {name: cosine(run, name, third) for name in names}


def loses_reverse_component(run: RecordedRun, third: str) -> bool:
    """Whether in this third of the watched steps, in every seed, the training gradient's cosine with the reverse
    gradient is within .2 of zero while that of the forward queries' gradient is above .3."""
    training, forward = (cosine(run, name, third) for name in ("training", "forward"))
    return bool(np.abs(training).max() < 0.2 and forward.min() > 0.3)


def opposes_more_than_the_rest(run: RecordedRun, part: str) -> bool:
    """Whether in every seed this part of the training gradient has a negative cosine, below that of the rest."""
    return bool((cosine(run, part) < np.minimum(0, cosine(run, "rest"))).all())


def changes(run: RecordedRun, step: str, kind: str) -> Float[np.ndarray, " watched"]:
    """``predicted`` or ``realised`` change of the reverse loss by a kind of step, over all seeds and watched steps."""
    return np.array(run["curves"][f"first_order_{step}_{kind}"], dtype=float).ravel()


class Line(NamedTuple):
    """Realised on predicted changes."""

    slope: float  # least squares, through zero
    correlation: float


def line_through(run: RecordedRun, predicted: str, realised: str) -> Line:
    """The line of the changes that one kind of step realised on those predicted for a kind of step."""
    expected, found = changes(run, predicted, "predicted"), changes(run, realised, "realised")
    return Line(float(expected @ found / (expected @ expected)), float(np.corrcoef(expected, found)[0, 1]))


def lines_through(run: RecordedRun) -> dict[str, float]:
    """Slope and correlation of realised on predicted changes, by kind of step."""
    lines = {step: line_through(run, step, step) for step in sorted(STEPS)}
    return {f"{step}, {words}": value for step, line in lines.items()
            for words, value in (("slope", line.slope), ("correlation", line.correlation))}


def first_order(run: RecordedRun, predicted: str) -> bool:
    """Whether what training steps change follows the changes predicted for a kind of step: slope .8 to 1.2, r > .95."""
    line = line_through(run, predicted, "adamw")
    return 0.8 < line.slope < 1.2 and line.correlation > 0.95


def share_lowering_loss(run: RecordedRun, step: str) -> float:
    """Percent of the watched steps of a kind that lower the reverse loss."""
    return float((changes(run, step, "realised") < 0).mean() * 100)


def shares_lowering_loss(run: RecordedRun) -> dict[str, float]:
    """`share_lowering_loss` of every kind of step."""
    return {step: share_lowering_loss(run, step) for step in STEPS}


# Signatures -------------------------------------------------------------------------------------------------------


def layered(run: RecordedRun, name: str, layer: int) -> Float[np.ndarray, " seeds"]:
    """A signature of one layer, counted from 1."""
    return metric(run, f"{name}_layer_{layer}")


def by_layer(run: RecordedRun) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Both signatures of every layer, by name and layer."""
    return {f"{name} {layer}": layered(run, name, layer) for name in SIGNATURES
            for layer in range(1, run["parameters"]["depth"] + 1)}


def above_mismatched(run: RecordedRun, name: str) -> bool:
    """Whether a signature of every layer is positive and above that of mismatched facts, in every seed."""
    layers = range(1, run["parameters"]["depth"] + 1)
    return all(bool((layered(run, name, layer) > np.maximum(0, layered(run, f"{name}_mismatched", layer))).all())
               for layer in layers)


def correlated_and_wrong(run: RecordedRun) -> bool:
    """Whether in every seed the score correlation is above .99, forward above 90 and reverse below 50 percent."""
    return bool(metric(run, "score_correlation").min() > 0.99 and metric(run, "forward_accuracy").min() > 90
                and metric(run, "reverse_accuracy").max() < 50)


def correlated_and_answering(run: RecordedRun) -> bool:
    """Whether every seed answers 95 percent in reverse, with a score correlation above .9."""
    return bool(metric(run, "reverse_accuracy").min() >= 95 and metric(run, "score_correlation").min() > 0.9)


def directions_alike(run: RecordedRun) -> bool:
    """Whether every seed answers forward and reverse queries equally often rightly, within 1 point."""
    return bool(np.abs(metric(run, "forward_accuracy") - metric(run, "reverse_accuracy")).max() < 1)


def rank_correlation(runs: Iterable[RecordedRun], name: str) -> float:
    """Spearman's correlation, over runs, of a metric with reverse accuracy; means over seeds."""
    means = np.array([[metric(run, key).mean() for key in (name, "reverse_accuracy")] for run in runs])
    return float(stats.spearmanr(means).statistic)


# Along training ---------------------------------------------------------------------------------------------------


def drop_from_start(run: RecordedRun, name: str, point: int = -1) -> float:
    """How far below its start a curve lies at a measured point, means over seeds."""
    return float(final(run, name, 0).mean() - final(run, name, point).mean())


def peak_over_start(run: RecordedRun, name: str) -> float:
    """How far above its start a curve ever lies, means over seeds; 0 if never."""
    return max(-drop_from_start(run, name, point) for point in range(len(run["curves"]["steps"])))


def learned_from(run: RecordedRun, above: float = 95) -> int:
    """The first measured point at which forward accuracy is above ``above`` percent, mean over seeds.

    :raises ValueError: if there is none
    """
    for point in range(len(run["curves"]["steps"])):
        if final(run, "forward_accuracy", point).mean() > above:
            return point
    raise ValueError(f"forward accuracy is never above {above:g} percent")


class Range(NamedTuple):
    """Range of a curve once forward recall is learned, in the curve's unit."""

    between_seeds: float  # at the end
    in_time: float  # of the seed where it is largest


def late_range(run: RecordedRun, name: str) -> Range:
    """The range of a curve over seeds at the end, and in time, once forward recall is learned."""
    curves = np.array(run["curves"][name])[:, learned_from(run):]
    return Range(float(np.ptp(curves[:, -1])), float(np.ptp(curves, axis=1).max()))


def late_ranges(runs: Mapping[int, RecordedRun], name: str) -> dict[str, float]:
    """The parts of `late_range` of each run, by length."""
    return {f"L = {length}, {words}": value for length, run in runs.items()
            for words, value in zip(("between seeds", "in time"), late_range(run, name), strict=True)}


def with_forward_learned(runs: Runs) -> dict[int, RecordedRun]:
    """The RoPE run of each length that ends above 95 percent forward, mean over seeds."""
    found = {length: runs.find(encoding="rope", length=length) for length in LENGTHS}
    return {length: run for length, run in found.items()
            if run is not None and final(run, "forward_accuracy").mean() > 95}


def signatures_by_length(of: Callable[[RecordedRun, str], float], runs: Mapping[int, RecordedRun]) -> dict[str, float]:
    """A number of the curve of each signature, by signature and length."""
    return {f"{name} at {length}": of(run, name) for length, run in runs.items() for name in SIGNATURES}


# Pairs of runs ----------------------------------------------------------------------------------------------------


def if_long(runs: NamedRuns, steps: int) -> NamedRuns:
    """The runs, where those of fewer steps count as not recorded."""
    return {name: run if run is not None and last_step(run) >= steps else None for name, run in runs.items()}


def if_forward_learned(runs: NamedRuns) -> NamedRuns:
    """The runs, where those below 95 percent forward in some seed count as not recorded."""
    return {name: run if run is not None and final(run, "forward_accuracy").min() >= 95 else None
            for name, run in runs.items()}


def answers_and_correlations(runs: NamedRuns) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Score correlation and reverse accuracy (percent) of each run."""
    return {f"{name}, {words}": metric(run, key) for name, run in runs.items() if run is not None
            for words, key in (("correlation", "score_correlation"), ("reverse", "reverse_accuracy"))}


def reverse_at_common_step(runs: Mapping[str, RecordedRun]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Reverse accuracy of each run at the last step of all, by name."""
    return dict(zip(runs, at_common_step("reverse_accuracy", *runs.values()), strict=True))


def reverse_by_seed(runs: Mapping[str, RecordedRun]) -> dict[str, float]:
    """`reverse_at_common_step`, by name and seed."""
    return {key: value for name, values in reverse_at_common_step(runs).items()
            for key, value in by_seed(runs[name], **{name: values}).items()}


def at_step_of(last: RecordedRun, runs: NamedRuns) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Reverse accuracy of each run near the last step of one of them."""
    return {name: at_step(run, "reverse_accuracy", last_step(last)) for name, run in runs.items() if run is not None}


def costs_accuracy(laden: RecordedRun, free: RecordedRun, among: str = "") -> bool:
    """Whether position in the values costs more than 10 points of reverse accuracy, permutation p below .05.

    :param among: ``_lowercase`` for accuracy among lowercase letters
    """
    found = effect(*at_common_step(f"reverse_accuracy{among}", laden, free))
    return found.difference > 10 and found.p < 0.05


def cost_of_position(laden: RecordedRun, free: RecordedRun) -> dict[str, float]:
    """What position in the values costs in reverse accuracy, points, with the permutation p, and among letters."""
    of, among = (effect(*at_common_step(f"reverse_accuracy{kind}", laden, free)) for kind in ("", "_lowercase"))
    return {"points": of.difference, "p": of.p, "among letters": among.difference}


def in_recorded_range(found: Sources, slack: float, exchanged: bool = False) -> bool:
    """Whether forward and reverse accuracy of every run of this build lie in the range of the recorded run that it
    begins, widened by ``slack`` points; true where some run has none.

    :param exchanged: hold runs as usual and without the blocking loss against each other's recorded run
    """
    pairs = results.with_recorded(found.build.runs, found.recorded, "encoding", "intervention")
    usual, dropped = ([f"{encoding}, {name}" for encoding in ENCODINGS] for name in ("none", BLOCKING))
    other = dict(zip(usual + dropped, dropped + usual, strict=True))
    return all(results.within_recorded_range(pairs, f"{way}_accuracy", slack, other if exchanged else {})
               for way in ("forward", "reverse"))
