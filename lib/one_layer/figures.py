"""Figures of one-layer runs: pieces that chapters share, and those of the runs beside the paper's tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.one_layer.evaluation import PROTOCOLS
from lib.one_layer.limit_predictions import ENCODING_WORDS
from lib.one_layer.paper_tables import CELLS_2, LENGTHS, TABLE_1, TABLE_2, Key, PaperComparison
from lib.one_layer.results import RecordedRun
from lib.one_layer.stopping import NEAREST, Column, Distance
from lib.one_layer.sweeps import REVERSE_COLUMN, Sweeps, called
from lib.one_layer.task import DIRECTIONS
from lib.record.figures import LINES, band, dots, legend_below

PAPER_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 1}
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "fontsize": 9}  # a panel's own legend

# Pieces -----------------------------------------------------------------------------------------------------------


def training_curve(axes: Any, run: RecordedRun, name: str, *, by: str = "steps", **line: Any) -> None:
    """A curve of a run, mean over seeds and their range, against the step plus 1 on a logarithmic axis.

    :param by: curve that holds the steps
    :param line: an entry of `figures.LINES`, or keyword arguments of matplotlib's ``Axes.plot``
    """
    band(axes, np.array(run["curves"][by]) + 1, run["curves"][name], **line)
    axes.set_xscale("log")


def attention_window(axes: Any, run: RecordedRun, place: int, way: str) -> None:
    """Accuracy of one seed by the share of attention on the evidence, and the shares that its own queries give it.

    :param place: of the seed among the run's
    :param way: ``forward`` or ``reverse`` queries; the bar is their middle eighty percent, the line their median
    """
    line, curves = LINES[way], run["curves"]
    axes.plot(curves["dose"], curves[f"{way}_by_dose"][place], **{**line, "markersize": 3}, label=f"{way} queries")
    shares = dict(zip(curves["quantile"], curves[f"{way}_shares"][place], strict=True))
    axes.axvspan(shares[0.1], shares[0.9], color=line["color"], alpha=0.15, linewidth=0)
    axes.axvline(shares[0.5], color=line["color"], linestyle=line["linestyle"], linewidth=2.5, alpha=0.45,
                 label=f"{way}: median of the model's own weights")


# The paper's tables -----------------------------------------------------------------------------------------------

STAR = {**LINES["paper"], "markersize": 9, "markerfacecolor": "none"}
CAUSAL = {**LINES["reverse"], "color": "#555555", "marker": "x"}


def accuracy_beside_paper(record: PaperComparison) -> Figure:
    """Accuracy of every seed beside the printed one, a star: left Table 1 by length, right Table 2 by encoding."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.7), sharey=True)
    columns = (("RoPE", "forward", -0.2, LINES["forward"]), ("RoPE", "reverse", -0.2, LINES["reverse"]),
               ("autoregressive", "reverse", 0.2, CAUSAL))
    for (name, way, shift, line), (place, size) in itertools.product(columns, enumerate(LENGTHS)):
        _beside_paper(left, place + shift, record, (size, name), way, TABLE_1[name][way][size], line)
    for (place, (size, name)), way in itertools.product(enumerate(CELLS_2), DIRECTIONS):
        _beside_paper(right, float(place), record, (size, name), way, TABLE_2[name][way][size], LINES[way])
    left.set(xticks=range(4), xticklabels=list(LENGTHS), xlabel="sequence length $L$", ylabel="accuracy (%)",
             title="Table 1", ylim=(-5, 108))
    labels = [f"{name.replace('learned absolute', 'abs.')}\n{size}" for size, name in CELLS_2]
    right.set(xticks=range(6), xticklabels=labels, xlabel="encoding and length", title="Table 2")
    marks = [plt.Line2D([], [], **{**line, "linestyle": "none"})
             for line in (LINES["forward"], LINES["reverse"], CAUSAL, STAR)]
    figure.legend(marks, ["masked, forward", "masked, reverse", "autoregressive, reverse", "paper"],
                  loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _beside_paper(
    axes: Any, place: float, record: PaperComparison, key: Key, way: str, printed: float, line: Mapping[str, Any]
) -> None:
    axes.plot(place, printed, **STAR)
    if key in record.full:
        dots(axes, place, record.final(key, f"{way}_accuracy"), **line)


def accuracy_along_training(record: PaperComparison) -> Figure:
    """Accuracy along training under RoPE: left both directions at length 10, with single seeds; right reverse alone at
    the other lengths, on a scale of its own."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6))
    if (10, "RoPE") in record.full:
        run = record.full[10, "RoPE"]
        for way in DIRECTIONS:
            training_curve(left, run, f"{way}_accuracy", label=way, **LINES[way])
        for seed in run["curves"]["reverse_accuracy"]:
            left.plot(np.array(run["curves"]["steps"]) + 1, seed, color=LINES["reverse"]["color"], linewidth=0.7,
                      alpha=0.6)
    left.axhline(TABLE_1["RoPE"]["reverse"][10], label="paper, reverse", **PAPER_LINE)
    for size, mark, colour in zip(LENGTHS[1:], "^sD", ("#009E73", "#CC79A7", "#E69F00"), strict=True):
        if (size, "RoPE") in record.full:
            training_curve(right, record.full[size, "RoPE"], "reverse_accuracy", label=f"$L={size}$, reverse",
                           marker=mark, color=colour)
    left.set(title="RoPE, $L=10$", ylim=(-4, 104), ylabel="accuracy (%)", xlabel="training step (plus 1)")
    right.set(title="RoPE, longer sequences", ylabel="reverse accuracy (%)", xlabel="training step (plus 1)")
    for panel in (left, right):
        panel.legend(loc="upper left", fontsize=9)
    return figure


# Readings of the reverse column -----------------------------------------------------------------------------------

SHORTLY = {"end": "end of\nrun", "step_1000": "about\n1,000", "step_1800": "about\n1,800",
           "forward_96": "forward\n96 %", "least_loss": "least\nloss", "best_reverse": "best\nreverse",
           NEAREST: "nearest\nto paper"}


def distance_heat_map(distances: Mapping[tuple[str, str], Distance], wanted: Column) -> Figure:
    """The distance of every reading to a column, points; those that do not stop at every length are hatched, without
    colour or number."""
    shape = (len(PROTOCOLS), len(SHORTLY))
    points = np.array([found.points if found.lengths == len(wanted) else np.nan for found in distances.values()])
    figure, panel = plt.subplots(figsize=(7.2, 5.4))
    panel.set_facecolor("white")
    shown = panel.imshow(points.reshape(shape), cmap="cividis_r", aspect="auto")
    middle = np.nanmean([np.nanmin(points), np.nanmax(points)])
    for (row, column), value in np.ndenumerate(points.reshape(shape)):
        if np.isnan(value):
            panel.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, hatch="///", fill=False, edgecolor="#999999",
                                          linewidth=0))
        else:
            panel.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=11,
                       color="white" if value > middle else "black")
    panel.set_xticks(range(shape[1]), SHORTLY.values(), fontsize=10)
    panel.set_yticks(range(shape[0]), PROTOCOLS, fontsize=10)
    panel.grid(False)
    panel.set_title(f"largest miss of the paper's reverse column, L = {', '.join(map(str, wanted))}", fontsize=11)
    figure.colorbar(shown, ax=panel, label="largest miss (points)")
    return figure


def accuracy_by_setting(sweeps: Sweeps) -> Figure:
    """Accuracy of every seed for each changed setting, a panel an encoding and length, the printed value as a line."""
    rows = max(-(-len(sweeps.places) // 3), 1)
    figure, panels = plt.subplots(rows, 3, figsize=(7.2, 3.6 * rows), sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(sweeps.places):]:
        panel.axis("off")
    for panel, (place, sweep) in zip(panels.flat, sweeps.places.items(), strict=False):
        for (row, name), way in itertools.product(enumerate(sweeps.settings), DIRECTIONS):
            values, shift = sweep.rows[name][way], 0.12 if way == "forward" else -0.12
            panel.plot(values, np.full(len(values), row + shift), label=None if row else way,
                       **{**LINES[way], "linestyle": "none"})
        panel.axvline(REVERSE_COLUMN[place], label="paper, reverse", **PAPER_LINE)
        panel.set_title(f"{called(place)}, step {sweep.last:,}", fontsize=9)
    panels[0, 0].set(xlim=(-4, 104), ylim=(len(sweeps.settings) - 0.5, -0.5))
    panels[0, 0].set_yticks(range(len(sweeps.settings)), sweeps.settings)
    for panel in panels.flat[max(len(sweeps.places) - 3, 0):len(sweeps.places)]:  # those with none below
        panel.set_xlabel("accuracy (%)")
        panel.tick_params(labelbottom=True)
    legend_below(figure, panels[0, 0], 3)
    return figure


# Signatures -------------------------------------------------------------------------------------------------------


def correlation_by_distance(record: PaperComparison, bound: Callable[[float, int], float]) -> Figure:
    """Score correlation by total distance before and after training, at the shortest and the longest length.

    Points are means over the pairs of distances with one total, and over seeds; bars their range over those pairs.

    :param bound: lower bound of the correlation, of the total distance and the width
    """
    sizes = record.sizes("RoPE")
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 4.3), sharey=True)
    for panel, size in zip(panels, sorted({*sizes[:1], *sizes[-1:]}), strict=False):
        run, totals = record.full[size, "RoPE"], np.arange(2, 2 * size - 1)
        for name, label, colour, mark in (("_at_start", "before training", "#009E73", "^"),
                                          ("", "after training", "#D55E00", "s")):
            found = np.mean(run["curves"][f"score_correlation_by_distance{name}"], axis=0)
            mean, low, high = _by_total(found)
            panel.errorbar(totals, mean, [mean - low, high - mean], label=label, color=colour, marker=mark,
                           markersize=3, linestyle="none", elinewidth=1, alpha=0.8)
        panel.plot(totals, [bound(float(total), run["parameters"]["width"]) for total in totals],
                   label=r"bound, mean over $q$", **LINES["bound"])
        band(panel, totals, run["curves"]["query_bound"], label="bound, trained $q$", color="#777777",
             linestyle=(0, (5, 1, 1, 1)))
        panel.set(title=f"RoPE, $L={size}$", xlabel=r"total distance $\Delta_1+\Delta_2$", ylim=(-1.05, 1.05))
    panels[0].set_ylabel("correlation over 26 facts")
    legend_below(figure, panels[0], 2)
    return figure


def _by_total(
    values: Float[np.ndarray, "forward reverse"],
) -> tuple[Float[np.ndarray, " totals"], Float[np.ndarray, " totals"], Float[np.ndarray, " totals"]]:
    """Mean, least and greatest of the values of distances Delta_1, Delta_2 = 1, 2, ... with one sum each."""
    flipped = values[:, ::-1]
    together = [flipped.diagonal(offset) for offset in range(len(values) - 1, -len(values), -1)]
    mean, low, high = (np.array([of(each) for each in together]) for of in (np.mean, np.min, np.max))
    return mean, low, high


def scores_along_training(rope: RecordedRun, alibi: RecordedRun) -> Figure:
    """Along training: left correlations of forward and reverse scores, right attention weights on the evidence."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    dotted = {"color": "#56B4E9", "linestyle": (0, (1, 1))}
    for run, name, label, line in ((rope, "", "RoPE, 26 facts", LINES["rope"]),
                                   (alibi, "", "ALiBi, 26 facts", LINES["alibi"]),
                                   (rope, "_tokens", "RoPE, all 53 tokens", dotted),
                                   (rope, "_mismatched", "RoPE, facts mismatched", LINES["control"])):
        training_curve(left, run, f"score_correlation{name}", label=label, **line)
    for way in DIRECTIONS:
        training_curve(right, rope, f"{way}_attention", label=f"RoPE, {way} query", **LINES[way])
    right.axhline(1 / rope["parameters"]["length"], label="uniform", **PAPER_LINE)
    left.set(xlabel="training step (plus 1)", ylabel="correlation of scores", ylim=(-1.05, 1.05))
    right.set(xlabel="training step (plus 1)", ylabel="attention weight on the evidence", ylim=(0, 1))
    for panel in (left, right):
        panel.legend(**BELOW)
    return figure


#: part of the parameters -> label, hatch, colour
PARTS = {"embedding": ("embedding", "", "#0072B2"), "storage": ("storage ($W_V$, $W_O$, $U$)", "//", "#009E73"),
         "mlp": ("MLP", "..", "#E69F00"), "query_key": ("query–key", "xx", "#CC79A7")}


def gradient_cosines_along_training(record: PaperComparison, shown: RecordedRun, causal: RecordedRun) -> Figure:
    """Gradient cosine along training: left by length beside controls, right that of one run by parts of the parameters.

    :param shown: the run whose control and parts are drawn
    :param causal: a run of the autoregressive model
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.3), sharey=True)
    for size, mark in zip(record.sizes("RoPE", judged=False), "^osD", strict=False):
        curves = record.full[size, "RoPE"]["curves"]
        left.plot(np.array(curves["steps"]) + 1, np.mean(curves["gradient_cosine"], axis=0), marker=mark,
                  label=f"same fact, $L={size}$")
    length = shown["parameters"]["length"]
    training_curve(left, shown, "gradient_cosine_mismatched", label=f"different facts, $L={length}$",
                   **LINES["control"])
    training_curve(left, causal, "gradient_cosine", label="autoregressive, same fact", **LINES["autoregressive"])
    base, along = np.zeros(len(shown["curves"]["steps"])), np.array(shown["curves"]["steps"]) + 1
    for part, (label, hatch, colour) in PARTS.items():
        top = base + np.mean(shown["curves"][f"gradient_part_{part}"], axis=0)
        right.fill_between(along, base, top, label=label, hatch=hatch, color=colour, alpha=0.6, linewidth=0)
        base = top
    left.set(xlabel="training step (plus 1)", ylabel="cosine of gradients")
    right.set(xscale="log", xlabel="training step (plus 1)", title=f"RoPE, $L={length}$: where it comes from")
    for panel in (left, right):
        panel.legend(**BELOW)
    return figure


def target_probability_along_training(record: PaperComparison) -> Figure:
    """Probability of the target along training, forward and reverse, and of another letter, a panel a length."""
    sizes = record.sizes("RoPE", judged=False)
    figure, panels = plt.subplots(1, max(len(sizes), 1), figsize=(7.2, 3.2), sharey=True, squeeze=False)
    for panel, size in zip(panels[0], sizes, strict=False):
        run = record.full[size, "RoPE"]
        for way in DIRECTIONS:
            training_curve(panel, run, f"{way}_probability", label=f"target, {way}", **LINES[way])
        training_curve(panel, run, "reverse_probability_other", label="another letter, reverse", **LINES["control"])
        panel.set(xlabel="step (plus 1)", ylim=(-0.03, 1.03), title=f"$L={size}$")
    panels[0, 0].set_ylabel("probability")
    legend_below(figure, panels[0, 0], 3)
    return figure


# Prediction and repetition ----------------------------------------------------------------------------------------


def predicted_and_measured(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """Cells of `lib.one_layer.prediction`, measured against predicted: left logit differences, right accuracies."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    kinds = sorted({(each["encoding"], each["length"]) for each in cells})
    for (kind, size), mark, colour in zip(kinds, "osD^vPX", colours, strict=False):
        mine = [each for each in cells if (each["encoding"], each["length"]) == (kind, size)]
        for panel, x, y in ((left, "additive_margin", "reverse_margin"), (right, "additive_share", "reverse")):
            panel.plot([each[x] for each in mine], [each[y] for each in mine], linestyle="none", marker=mark,
                       color=colour, alpha=0.6, label=f"{ENCODING_WORDS.get(kind, kind)}, $L={size}$")
    limits = [np.min([left.get_xlim(), left.get_ylim()]), np.max([left.get_xlim(), left.get_ylim()])]
    left.plot(limits, limits, **LINES["bound"])
    right.plot([0, 100], [0, 100], **LINES["bound"])
    left.set(xlabel="predicted reverse logit difference (nats)", ylabel="measured (nats)")
    right.set(xlabel="predicted reverse accuracy (%)", ylabel="measured (%)")
    legend_below(figure, left, 3)
    return figure


def build_beside_record(built: Mapping[str, RecordedRun], record: PaperComparison) -> Figure:
    """Accuracy along training of this build's seeds, as lines, with the range of the recorded seeds as bars."""
    figure, panels = plt.subplots(2, 2, figsize=(7.2, 5.2), sharex=True, sharey=True)
    for panel, (name, run) in zip(panels.flat, built.items(), strict=True):
        kept = record.full.get((run["parameters"]["length"], name))
        for way, apart in zip(DIRECTIONS, (0.95, 1.05), strict=True):
            if kept:
                _range_bars(panel, kept, way, apart)
            for place, seed in enumerate(run["curves"][f"{way}_accuracy"]):
                panel.plot(np.array(run["curves"]["steps"]) + 1, seed, color=LINES[way]["color"], linewidth=1,
                           linestyle=LINES[way]["linestyle"], label=None if place else f"this build, {way}")
        panel.set(xscale="log", ylim=(-4, 104), title=name)
    for panel in panels[:, 0]:
        panel.set_ylabel("accuracy (%)")
    for panel in panels[1]:
        panel.set_xlabel("training step (plus 1)")
    legend_below(figure, panels[0, 0], 2)
    return figure


def _range_bars(axes: Any, run: RecordedRun, way: str, apart: float) -> None:
    values = np.array(run["curves"][f"{way}_accuracy"])
    axes.vlines((np.array(run["curves"]["steps"]) + 1) * apart, values.min(0) - 0.7, values.max(0) + 0.7,
                color=LINES[way]["color"], linewidth=5, alpha=0.35, label=f"recorded seeds, {way}")
