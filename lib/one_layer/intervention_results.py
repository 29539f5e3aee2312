"""What recorded runs of the interventions say: which answer wins, what a patch restores, what a step does.

`lib.one_layer.intervention_runs` finds the runs. Every function reads one of them (or several, where it says so) and
returns one value a seed or a mean over seeds, in the units of the record: accuracies and shares of queries in percent,
logit differences ("margins") and changes of the loss in nats. Plain runs of `lib.one_layer.experiment` hold the metrics
and the curves as well, but no patches, margins and watched steps. `lib.one_layer.intervention_checks` says what must
hold of all this.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float

from lib.one_layer import results
from lib.one_layer.intervention_runs import BLOCKING, CONTROLS, ENCODING_NAMES, RECORDED_LENGTHS, NamedRuns, Sources
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
    wrong_as_placeholder,
)
from lib.record.report import Values, gained_share, resampled_interval

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


def metric(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """A measure of the trained models, one value a seed."""
    return np.array(run["metrics"][name], dtype=float)


def metrics(run: RecordedRun, *names: str) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Several measures of the trained models, by name."""
    return {name: metric(run, name) for name in names}


def of_each(runs: NamedRuns, name: str) -> dict[str, Float[np.ndarray, " seeds"]]:
    """A measure of each run, in the order of their names."""
    return {key: metric(run, name) for key, run in runs.items() if run is not None}


def attention_and_correlation(run: RecordedRun) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The evidence's attention weight in both directions, the score correlation and reverse accuracy (percent)."""
    return {**{f"attention {way}": metric(run, f"{way}_attention") for way in ("forward", "reverse")},
            "correlation": metric(run, "score_correlation"), "reverse": metric(run, "reverse_accuracy")}


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


def placeholder_shares(runs: Iterable[RecordedRun]) -> dict[str, Float[np.ndarray, " erring"]]:
    """The placeholder's share of the reverse errors at the end, percent, by encoding, length and steps; one value a
    seed that errs."""
    return {f"{encoding_and_length(run)}, step {last_step(run)}": wrong_as_placeholder(run) for run in runs}


# Training without a part of the loss ------------------------------------------------------------------------------


def both_directions(runs: NamedRuns) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Forward and reverse accuracy at the end of each run, percent."""
    return {f"{name}, {way}": final(run, f"{way}_accuracy") for name, run in runs.items() if run is not None
            for way in ("forward", "reverse")}


Triple = tuple[RecordedRun, RecordedRun, RecordedRun]


def gain_triples(runs: Runs) -> dict[str, Triple]:
    """Runs by our recipe, without the blocking loss and under a control, by encoding and control."""
    found = {f"{encoding}, {control}": runs.by_intervention(("none", BLOCKING, control), encoding=encoding)
             for encoding in ENCODING_NAMES for control in CONTROLS}
    return {name: (triple[0], triple[1], triple[2]) for name, triple in found.items() if triple}


def blocking_triples(found: Sources) -> dict[str, Triple | None]:
    """Recorded runs by our recipe, without the blocking loss and under a control: each encoding and control at the
    length of the sources, then RoPE with a random part dropped at the greater lengths; None where one is missing."""
    triples: dict[str, Triple | None] = dict(gain_triples(found.recorded))
    for length, runs in found.by_length("none", BLOCKING, "drop_random").items():
        if length != found.recorded.shared.get("length"):
            plain, changed, other = runs.values()
            whole = plain is not None and changed is not None and other is not None
            triples[f"rope, drop_random, L = {length}"] = cast(Triple, (plain, changed, other)) if whole else None
    return triples


def runs_of(triples: Mapping[str, Triple]) -> list[RecordedRun]:
    """Every run of these triples, once."""
    return list({id(run): run for triple in triples.values() for run in triple}.values())


def shares_of_gain(triples: Mapping[str, Triple], step: int | None = None) -> dict[str, float]:
    """The part of the gain in reverse accuracy by dropping the blocking loss that each control achieves.

    :param triples: see `gain_triples`
    :param step: near which it is read; None for the last step of all three
    """
    return {name: results.share_of_gain("reverse_accuracy", *triple, step=step) for name, triple in triples.items()}


def share_of_gain_intervals(triples: Mapping[str, Triple]) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of `shares_of_gain` at the last step of all three runs: each run's seeds are resampled."""
    return {name: resampled_interval(gained_share, *at_common_step("reverse_accuracy", *triple))
            for name, triple in triples.items()}


def weight_advantage(run: RecordedRun, patch: str = "mass_forward") -> Float[np.ndarray, " seeds"]:
    """Points of reverse accuracy that a patch gains over the query's own weight on the evidence, the rest of the row at
    random."""
    return patched_accuracy(run, patch) - patched_accuracy(run, "mass_reverse")


# Patches ---------------------------------------------------------------------------------------------------------


def patched_accuracy(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy, percent, under a patch of `lib.one_layer.patching`; ``itself`` is the untouched answer.

    :param name: what is patched and its source, for example ``score_forward``
    """
    return metric(run, f"graft_{name}_accuracy")


def patched(run: RecordedRun, *names: str) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Reverse accuracy, percent, under each of these patches, by name."""
    return {name: patched_accuracy(run, name) for name in names}


def patch_gain(run: RecordedRun, name: str) -> float:
    """Points that a patch gains over the untouched answer, mean over seeds."""
    return float((patched_accuracy(run, name) - patched_accuracy(run, "itself")).mean())


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
    return cases or [WithReverseErrors("recorded", RECORDED_LENGTHS[0], [], {})]


def agreements(runs: Iterable[RecordedRun]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Agreement with the own and with another fact's weight, percent, by intervention and reversed share."""
    return {f"{run['parameters']['intervention']}, {run['parameters']['reversed_share']:g} reversed, {words}":
            metric(run, f"broken_agreement{source}") for run in runs
            for words, source in (("own", ""), ("other", "_other"))}


def agreement_advantages(runs: Iterable[RecordedRun]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Points by which the own weight agrees in more pairs than another fact's, each seed's own."""
    return {f"{run['parameters']['intervention']}, {run['parameters']['reversed_share']:g} reversed":
            metric(run, "broken_agreement") - metric(run, "broken_agreement_other") for run in runs}


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
    """The margin of the target's logit over the placeholder's: these of `MARGIN_PARTS`, or all, along training."""
    names = [name for part in parts or MARGIN_PARTS for name in MARGIN_PARTS[part]]
    return np.sum([run["curves"][f"margin_{way}_{name}"] for name in names], axis=0, dtype=float)


def margin_losses(run: RecordedRun, *parts: str) -> Float[np.ndarray, " seeds"]:
    """What these parts, or all, give the forward margin and not the reverse one, at the end."""
    return (margin(run, "forward", *parts) - margin(run, "reverse", *parts))[:, -1]


def margin_losses_by_part(run: RecordedRun) -> dict[str, Float[np.ndarray, " seeds"]]:
    """`margin_losses` of each part."""
    return {part: margin_losses(run, part) for part in MARGIN_PARTS}


def margin_loss(run: RecordedRun, *parts: str) -> float:
    """`margin_losses`, mean over seeds."""
    return float(margin_losses(run, *parts).mean())


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


def changes(run: RecordedRun, step: str, kind: str) -> Float[np.ndarray, " watched"]:
    """``predicted`` or ``realised`` change of the reverse loss by a kind of step, over all seeds and watched steps."""
    return np.array(run["curves"][f"first_order_{step}_{kind}"], dtype=float).ravel()


class Line(NamedTuple):
    """Realised on predicted changes."""

    slope: float  # least squares, through zero
    correlation: float


def line_through(run: RecordedRun, predicted: str, realised: str) -> Line:
    """The line of the changes that one kind of step realised on those predicted for a kind of step."""
    return _line(changes(run, predicted, "predicted"), changes(run, realised, "realised"))


def _line(expected: Float[np.ndarray, " watched"], found: Float[np.ndarray, " watched"]) -> Line:
    return Line(float(expected @ found / (expected @ expected)), float(np.corrcoef(expected, found)[0, 1]))


def told_lines(run: RecordedRun) -> dict[str, dict[str, Any]]:
    """What `claims.verify` is told of `line_through` of every kind of step: slope and correlation over all seeds, and
    their intervals over resampled seeds."""
    told: dict[str, dict[str, Any]] = {"ours": {}, "interval": {}}
    for step, words in itertools.product(sorted(STEPS), Line._fields):
        both = np.stack([run["curves"][f"first_order_{step}_{kind}"] for kind in ("predicted", "realised")], axis=1)
        of = lambda drawn, words=words: getattr(_line(drawn[:, 0].ravel(), drawn[:, 1].ravel()), words)
        told["ours"][f"{step}, {words}"] = of(both)
        told["interval"][f"{step}, {words}"] = resampled_interval(of, both) if len(both) > 1 else None
    return told


def _of_seed(run: RecordedRun, place: int) -> RecordedRun:
    """The watched steps of one seed."""
    return {"curves": {name: curve[place : place + 1] for name, curve in run["curves"].items()
                       if name.startswith("first_order")}}


def share_lowering_loss(run: RecordedRun, step: str) -> float:
    """Percent of the watched steps of a kind that lower the reverse loss."""
    return float((changes(run, step, "realised") < 0).mean() * 100)


def shares_lowering_loss(run: RecordedRun) -> dict[str, Float[np.ndarray, " seeds"]]:
    """`share_lowering_loss` of every kind of step, each seed's own."""
    return {step: np.array([share_lowering_loss(_of_seed(run, place), step) for place in range(len(run["seeds"]))])
            for step in STEPS}


# Signatures -------------------------------------------------------------------------------------------------------


def layered(run: RecordedRun, name: str, layer: int) -> Float[np.ndarray, " seeds"]:
    """A signature of one layer, counted from 1."""
    return metric(run, f"{name}_layer_{layer}")


def by_layer(run: RecordedRun) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Both signatures of every layer, by name and layer."""
    return {f"{name} {layer}": layered(run, name, layer) for name in SIGNATURES
            for layer in range(1, run["parameters"]["depth"] + 1)}


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
    found = {length: runs.find(encoding="rope", length=length) for length in RECORDED_LENGTHS}
    return {length: run for length, run in found.items()
            if run is not None and final(run, "forward_accuracy").mean() > 95}


def signatures_by_length(
    of: Callable[[RecordedRun, str], Values], runs: Mapping[int, RecordedRun]
) -> dict[str, Values]:
    """What each signature's curve says, one value a seed, by signature and length."""
    return {f"{name} at {length}": of(run, name) for length, run in runs.items() for name in SIGNATURES}


def drops_from_start(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """How far below its own start each seed's curve ends."""
    return final(run, name, 0) - final(run, name)


def peaks_over_start(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """How far above its own start each seed's curve lies where the mean over seeds is highest."""
    return final(run, name, int(np.mean(run["curves"][name], axis=0).argmax())) - final(run, name, 0)


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


def at_step_of(last: RecordedRun, runs: NamedRuns) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Reverse accuracy of each run near the last step of one of them."""
    return {name: at_step(run, "reverse_accuracy", last_step(last)) for name, run in runs.items() if run is not None}


def cost_of_position(laden: RecordedRun, free: RecordedRun) -> dict[str, list[Float[np.ndarray, " seeds"]]]:
    """Reverse accuracy with and without position in the values, percent, among all tokens and among letters."""
    return {words: at_common_step(f"reverse_accuracy{kind}", laden, free)
            for words, kind in (("all tokens", ""), ("among letters", "_lowercase"))}
