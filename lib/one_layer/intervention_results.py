"""What a recorded run of the interventions says: which answer wins, what a patch restores, what a step does.

Every function reads one run (or several, where it says so) and returns one value a seed, or a mean over them, in the
units of the record: accuracies and shares of queries in percent, margins and changes of the loss in nats. Plain
runs of `lib.one_layer.experiment` hold the metrics and the curves as well, but no patches, margins and watched steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lib.one_layer.results import RecordedRun, final, wrong_as_placeholder
from lib.record.report import cell

#: part of a margin over the placeholder -> the recorded parts that it sums
MARGIN_PARTS = {"evidence": ("evidence",), "placeholders": ("placeholders",), "mlp": ("mlp",),
                "rest": ("mask", "residual")}
QUARTILES = (0.25, 0.5, 0.75)


def metric(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """A measure of the trained models, one value a seed."""
    return np.array(run["metrics"][name], dtype=float)


def means(run: RecordedRun, *names: str) -> dict[str, float]:
    """Measures of the trained models, means over seeds."""
    return {name: float(metric(run, name).mean()) for name in names}


def summary_row(run: RecordedRun | None) -> list[str]:
    """Steps, accuracy (forward, reverse, reverse among letters), attention and score correlation, as a table says
    them; "not run" for None."""
    if run is None:
        return ["not run", "", "", "", "", ""]
    attention = "–"
    if "forward_attention" in run["metrics"]:
        attention = " / ".join(f"{metric(run, f'{way}_attention').mean():.2f}" for way in ("forward", "reverse"))
    accuracies = ("forward_accuracy", "reverse_accuracy", "reverse_accuracy_lowercase")
    return [str(run["parameters"]["steps"]), *(cell(metric(run, name)) for name in accuracies), attention,
            cell(metric(run, "score_correlation"), 2)]


# The placeholder --------------------------------------------------------------------------------------------------


def below(runs: Iterable[RecordedRun], accuracy: float) -> list[RecordedRun]:
    """The runs that end below this reverse accuracy (percent, mean over seeds)."""
    return [run for run in runs if metric(run, "reverse_accuracy").mean() < accuracy]


def mean_placeholder_share(run: RecordedRun, point: int = -1) -> float:
    """The placeholder's share of the reverse errors at a measured point, mean over the seeds that err."""
    return float(wrong_as_placeholder(run, point).mean())


# Patches ---------------------------------------------------------------------------------------------------------


def patched_accuracy(run: RecordedRun, name: str) -> Float[np.ndarray, " seeds"]:
    """Reverse accuracy, percent, under a patch of `lib.one_layer.patching`; ``itself`` is the untouched answer.

    :param name: what is patched and its source, for example ``score_forward``
    """
    return metric(run, f"graft_{name}_accuracy")


def patched_means(run: RecordedRun, *names: str) -> dict[str, float]:
    """Reverse accuracy, percent, under each of these patches, means over seeds."""
    return {name: float(patched_accuracy(run, name).mean()) for name in names}


def patch_gain(run: RecordedRun, name: str) -> float:
    """Points that a patch gains over the untouched answer, mean over seeds."""
    return float((patched_accuracy(run, name) - patched_accuracy(run, "itself")).mean())


def agreement(run: RecordedRun, source: str = "") -> float:
    """Pairs that a forward query with a reverse query's share of attention answers as that one does (percent).

    :param source: empty for the paired query's share, ``_other`` for that of another fact
    """
    return float(metric(run, f"broken_agreement{source}").mean())


def at_share(run: RecordedRun, share: float) -> float:
    """Reverse accuracy with this share of attention on the evidence, mean over seeds.

    :raises ValueError: for a share that was not tried
    """
    tried = run["curves"]["dose"]
    if share not in tried:
        raise ValueError(f"share {share:g}: tried were {', '.join(f'{dose:g}' for dose in tried)}")
    return float(np.mean([curve[tried.index(share)] for curve in run["curves"]["reverse_by_dose"]]))


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


def margin_loss(run: RecordedRun, *parts: str) -> float:
    """What these parts, or all, give the forward margin and not the reverse one; mean over seeds, at the end."""
    return float((margin(run, "forward", *parts) - margin(run, "reverse", *parts))[:, -1].mean())


# Watched steps ----------------------------------------------------------------------------------------------------


def cosine(run: RecordedRun, name: str, parts: int = 1) -> Float[np.ndarray, " seeds"]:
    """Cosine of a gradient with that of the reverse loss, mean over the last of so many parts of the watched steps."""
    curve = np.array(run["curves"][f"first_order_cosine_{name}"])
    return curve[:, -(curve.shape[1] // parts):].mean(1)


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


def share_lowering_loss(run: RecordedRun, step: str) -> float:
    """Percent of the watched steps of a kind that lower the reverse loss."""
    return float((changes(run, step, "realised") < 0).mean() * 100)


# Signatures -------------------------------------------------------------------------------------------------------


def layered(run: RecordedRun, name: str, layer: int) -> Float[np.ndarray, " seeds"]:
    """A signature of one layer, counted from 1."""
    return metric(run, f"{name}_layer_{layer}")


def above_mismatched(run: RecordedRun, name: str) -> bool:
    """Whether a signature of every layer is positive and above that of mismatched facts, in every seed."""
    layers = range(1, run["parameters"]["depth"] + 1)
    return all(bool((layered(run, name, layer) > np.maximum(0, layered(run, f"{name}_mismatched", layer))).all())
               for layer in layers)


def rank_correlation(runs: Sequence[RecordedRun], name: str) -> float:
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


def late_range(run: RecordedRun, name: str) -> list[float]:
    """Range over seeds at the end, and the largest range in time of a seed, once forward is learned."""
    curves = np.array(run["curves"][name])[:, learned_from(run):]
    return [float(np.ptp(curves[:, -1])), float(np.ptp(curves, axis=1).max())]
