"""Figures of recorded interventions; each takes runs of `lib.one_layer.experiment` and draws what they recorded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.one_layer.figures import attention_window, training_curve
from lib.one_layer.intervention_results import (
    MARGIN_PARTS,
    SIGNATURES,
    changes,
    layered,
    margin,
    metric,
    patched_accuracy,
)
from lib.one_layer.intervention_runs import BLOCKING, ENCODING_NAMES, NamedRuns, Sources
from lib.one_layer.intervention_tables import TRAINED, changed_accuracies, common_step
from lib.one_layer.results import RecordedRun, at_common_step, last_step
from lib.record.figures import LINES, band, dot_rows, dots, legend_below, note_not_run

Name = TypeVar("Name")


def recorded(runs: Mapping[Name, RecordedRun | None]) -> dict[Name, RecordedRun]:
    """The runs that are there."""
    return {name: run for name, run in runs.items() if run is not None}


def nothing_recorded() -> Figure:
    """A figure that says so."""
    figure = plt.figure(figsize=(7.2, 0.4))
    figure.text(0.5, 0.5, "not recorded at these settings", ha="center", va="center")
    return figure


# Accuracy ---------------------------------------------------------------------------------------------------------


def reverse_accuracy_by_change(found: Sources) -> Figure:
    """Reverse accuracy under every change of training and every patch, one dot a seed, a panel an encoding."""
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True)
    for panel, (encoding, name) in zip(panels, ENCODING_NAMES.items(), strict=True):
        accuracies = changed_accuracies(partial(found.either, encoding=encoding), common_step(found))
        dot_rows(panel, [(change.label, values, LINES[change.line]) for change, values in accuracies.items()])
        note_not_run(panel, [place for place, values in enumerate(accuracies.values()) if not len(values)])
        panel.axhline(len(TRAINED) - 0.5, color="black", linewidth=0.5)
        panel.set(title=name, xlim=(-4, 104), xlabel="reverse accuracy (%)")
    return figure


def accuracy_without_blocking_loss(found: Mapping[int, NamedRuns]) -> Figure:
    """Accuracy along training with and without the blocking loss, a panel a length of which all runs are recorded."""
    whole = {length: recorded(runs) for length, runs in found.items() if None not in runs.values()}
    if not whole:
        return nothing_recorded()
    curves = ((BLOCKING, "forward", "blocking loss dropped, forward", LINES["forward"]),
              (BLOCKING, "reverse", "blocking loss dropped, reverse", LINES["reverse"]),
              ("drop_random", "reverse", "random part dropped, reverse", LINES["control"]),
              ("none", "reverse", "trained by our recipe, reverse", {"color": "#555555", "marker": "x"}))
    figure, panels = plt.subplots(1, len(whole), figsize=(7.2, 3.0), sharey=True, squeeze=False)
    for panel, (length, runs) in zip(panels[0], whole.items(), strict=True):
        for name, direction, label, style in curves:
            training_curve(panel, runs[name], f"{direction}_accuracy", label=label, **style)
        panel.set(xlabel="step (plus 1)", title=f"$L={length}$", ylim=(-4, 104))
    panels[0][0].set_ylabel("accuracy (%)")
    legend_below(figure, panels[0][0], 2)
    return figure


def reverse_accuracy_by_patch(runs: Mapping[int, RecordedRun | None]) -> Figure:
    """Reverse accuracy under RoPE with attention weights patched, one dot a seed, a panel a recorded length."""
    found = recorded(runs)
    if not found:
        return nothing_recorded()
    patches = (("untouched", "itself", "reverse"), ("forward weight, random rest", "mass_forward", "forward"),
               ("forward score", "score_forward", "forward"), ("forward values", "values_forward", "forward"),
               ("own weight, random rest", "mass_reverse", "control"))
    figure, panels = plt.subplots(1, len(found), figsize=(7.2, 2.4), sharey=True, squeeze=False)
    for panel, (length, run) in zip(panels[0], found.items(), strict=True):
        dot_rows(panel, [(label, patched_accuracy(run, patch), LINES[line]) for label, patch, line in patches])
        panel.set(title=f"$L={length}$", xlim=(-4, 104), xticks=(0, 50, 100))
    figure.supxlabel("reverse accuracy (%)", fontsize=10)
    return figure


def attention_windows(run: RecordedRun, most: int = 5) -> Figure:
    """Accuracy by the attention weight on the evidence, a panel for each of the first seeds."""
    count = min(len(run["seeds"]), most)
    columns, height = min(count, 3), -(-count // 3)
    figure, grid = plt.subplots(height, columns, figsize=(7.2, 2.2 * height), sharex=True, sharey=True, squeeze=False)
    panels = grid.ravel()
    for place, panel in enumerate(panels[:count]):
        for direction in ("forward", "reverse"):
            attention_window(panel, run, place, direction)
        answered = metric(run, "reverse_accuracy")[place]
        panel.set_title(f"seed {run['seeds'][place]}: {answered:.0f} % in reverse", fontsize=9)
        panel.tick_params(labelbottom=True)
    figure.supxlabel("attention weight on the evidence", fontsize=10)
    figure.supylabel("accuracy (%)", fontsize=10)
    for panel in panels[count:]:
        panel.set_axis_off()
    if count < len(panels):  # the legend takes an empty place
        panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", fontsize=9)
    else:
        legend_below(figure, panels[0], 2)
    return figure


def accuracy_by_reversed_share(runs: NamedRuns) -> Figure:
    """Reverse accuracy by the share of training sequences in the other order, at the last step of all runs."""
    found = recorded(runs)
    if not found:
        return nothing_recorded()
    figure, panel = plt.subplots(figsize=(5.2, 2.6))
    accuracies = at_common_step("reverse_accuracy", *found.values())
    dot_rows(panel, [(name.replace(" %", " % reversed"), values, LINES["control" if "wrong" in name else "reverse"])
                     for name, values in zip(found, accuracies, strict=True)])
    panel.set(xlabel="reverse accuracy (%)", xlim=(-4, 104),
              title=f"RoPE, recorded, near step {last_step(*found.values())}")
    return figure


# Mechanism --------------------------------------------------------------------------------------------------------


def margins(runs: Mapping[str, RecordedRun]) -> Figure:
    """Parts of the logit difference target - placeholder along training, a row a run, forward beside reverse."""
    styles = {"evidence": ("evidence", "#0072B2", "-", "o"), "placeholders": ("placeholders", "#56B4E9", "--", "s"),
              "mlp": ("MLP", "#D55E00", "-", "^"), "rest": ("mask and residual", "#777777", ":", "v")}
    size = (7.2, 2.5 * len(runs))
    figure, panels = plt.subplots(len(runs), 2, figsize=size, sharex="col", sharey=True, squeeze=False)
    for row, (name, run) in zip(panels, runs.items(), strict=True):
        steps = np.array(run["curves"]["steps"]) + 1
        for panel, direction in zip(row, ("forward", "reverse"), strict=True):
            for part in MARGIN_PARTS:
                label, color, style, marker = styles[part]
                band(panel, steps, margin(run, direction, part), label=label, color=color, linestyle=style,
                     marker=marker, markersize=3)
            band(panel, steps, margin(run, direction), label="sum", color="black", linewidth=2.2)
            panel.set(xscale="log", title=f"{name}, {direction}")
        row[0].set_ylabel("logit difference (nats)")
    for panel in panels[-1]:
        panel.set_xlabel("training step (plus 1)")
    legend_below(figure, panels[0, 0], 5)
    return figure


def accuracy_by_signature(runs: NamedRuns) -> Figure:
    """Reverse accuracy against each signature at the end of training, one point a seed, a marker a run."""
    found = recorded(runs)
    if not found:
        return nothing_recorded()
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.9), sharey=True)
    colours = [*plt.rcParams["axes.prop_cycle"].by_key()["color"], "#000000", "#882255"]
    for panel, signature in zip(panels, SIGNATURES, strict=True):
        for place, (name, run) in enumerate(found.items()):
            panel.plot(metric(run, signature), metric(run, "reverse_accuracy"), linestyle="none", label=name,
                       marker="os^vD<>PX"[place], color=colours[place % len(colours)], markersize=5, alpha=0.75)
        panel.set(xlabel=f"{signature.replace('_', ' ')}, end of training", ylim=(-4, 104))
    panels[0].set_ylabel("reverse accuracy (%)")
    legend_below(figure, panels[0], 3)
    return figure


def training_gradient(run: RecordedRun) -> Figure:
    """Above, gradients along training in the direction of the reverse gradient; below, predicted and realised change
    of the reverse loss in each watched step."""
    figure, panels = plt.subplot_mosaic([["above", "above"], ["adamw", "descent"]], figsize=(7.2, 6.0))
    _gradient_parts(panels["above"], run)
    _predicted_and_realised(panels["adamw"], run, {"adamw": ("AdamW, the training step", "reverse")})
    _predicted_and_realised(panels["descent"], run, {"sgd": ("plain descent, same batch", "rope"),
                                                     "forward": ("descent on forward queries", "forward")})
    return figure


def _gradient_parts(axes: Any, run: RecordedRun) -> None:
    gradients = {"forward": ("forward queries: cosine", "forward"), "training": ("training batch: cosine", "reverse"),
                 "blocking": ("its part from 0 right of a capital", "control"),
                 "rest": ("its part from all other questions", "rope")}
    for name, (label, style) in gradients.items():
        training_curve(axes, run, f"first_order_cosine_{name}", by="first_order_steps", label=label,
                       **{**LINES[style], "markersize": 3})
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="training step (plus 1)", ylabel="inner product with the reverse\ngradient / product of norms")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, ncols=2)


def _predicted_and_realised(axes: Any, run: RecordedRun, steps: Mapping[str, tuple[str, str]]) -> None:
    pairs = [[changes(run, name, kind) for kind in ("predicted", "realised")] for name in steps]
    for (label, style), pair in zip(steps.values(), pairs, strict=True):
        axes.plot(*pair, label=label, markersize=3, alpha=0.7, **LINES[style] | {"linestyle": "none"})
    limits = np.array([np.min(pairs), np.max(pairs)])
    axes.plot(limits, limits, **LINES["bound"])
    axes.set(xlabel="predicted change (nats)", ylabel="realised change (nats)")
    axes.legend(loc="upper left", fontsize=8)


def layer_signatures(runs: Mapping[int, RecordedRun | None]) -> Figure:
    """Gradient cosine and score correlation of each layer, beside the same of mismatched facts.

    :param runs: by depth
    """
    found = recorded(runs)
    if not found:
        return nothing_recorded()
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
    places = [(depth, layer) for depth in found for layer in range(1, depth + 1)]
    for panel, name in zip(panels, reversed(SIGNATURES), strict=True):
        for place, (depth, layer) in enumerate(places):
            for shift, suffix, line in ((-0.15, "", "reverse"), (0.15, "_mismatched", "control")):
                dots(panel, place + shift, layered(found[depth], name + suffix, layer), **LINES[line])
        panel.axhline(0, color="black", linewidth=0.5)
        panel.set_xticks(range(len(places)), [f"{layer}\nof {depth}" for depth, layer in places])
        panel.set(xlabel="layer, of depth", title=name.replace("_", " "))
    panels[0].set_ylabel("cosine or correlation")
    marks = [plt.Line2D([], [], **LINES[line] | {"linestyle": "none"}) for line in ("reverse", "control")]
    figure.legend(marks, ["the same fact", "mismatched facts"], loc="outside lower center", ncols=2, fontsize=9)
    return figure
