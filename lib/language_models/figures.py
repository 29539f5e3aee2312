"""Figures of the chapters on language models, and of the front page: data in, a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.language_models import table_7
from lib.language_models.architectures import ARCHITECTURES, SHORT_NAMES
from lib.language_models.fact_signatures import ProbedModel
from lib.language_models.traced_run import PARAMETER_SETS
from lib.record import figures
from lib.record.figures import LINES

_DIRECTIONS = ("forward", "reverse")
_Seeds = Float[np.ndarray, " _"]  # one value a seed; conditions may differ in how many
_Accuracies = Mapping[str, _Seeds]  # direction -> percent
_PAIRINGS = (("matched", "rope"), ("mismatched", "control"))  # and their lines


def _dots(axes: Any, place: int, accuracies: _Accuracies, offset: float, *, across: bool, labelled: bool) -> None:
    """Forward and reverse accuracies side by side, one dot a seed."""
    for direction, sign in zip(_DIRECTIONS, (-1, 1), strict=True):
        label = direction if labelled else None
        figures.dots(axes, place + sign * offset, accuracies[direction], across=across,
                     **LINES[direction] | {"label": label})


# Signatures of a model ---------------------------------------------------------------------------------------


def first_layer_correlations(found: Mapping[str, Float[np.ndarray, "distance 2 _"]]) -> Figure:
    """Measured against predicted correlation of first-layer scores, a point for each head and distance (Thm. 4.3)."""
    figure, panels = plt.subplots(1, max(len(found), 1), figsize=(7.2, 3), sharey=True, squeeze=False)
    for panel, (title, both) in zip(panels[0], found.items(), strict=False):
        panel.plot(both[:, 1].ravel(), both[:, 0].ravel(), **LINES["rope"] | {"linestyle": "none"})
        ends = both.min() - 0.03, 1.0
        panel.plot(ends, ends, **LINES["bound"])
        panel.set(xlabel=r"predicted, $\sum_i w_i c_i$", title=title)
    panels[0, 0].set_ylabel("measured correlation")
    return figure


def score_correlation_by_layer(probed: Mapping[str, ProbedModel]) -> Figure:
    """Correlation of forward and reverse scores, a point for each head of each layer, and the mean (Fig. 4, left)."""
    figure, panels = plt.subplots(1, len(probed), figsize=(7.2, 2.8), sharey=True, squeeze=False)
    for panel, (title, each) in zip(panels[0], probed.items(), strict=True):
        layers = np.array(each.found.layers)
        for (pairing, line), aside in zip(_PAIRINGS, (-0.08, 0.08), strict=True):
            look, correlation = LINES[line], each.found.correlation(pairing == "matched")
            panel.plot(layers + aside, correlation, **look | {"linestyle": "none", "alpha": 0.5})
            panel.plot(layers + aside, np.nanmean(correlation, 1), color=look["color"], linestyle=look["linestyle"],
                       label=pairing)
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set(xlabel="layer", title=title, xticks=layers[:: max(1, len(layers) // 8)], ylim=(-1.05, 1.05))
    panels[0, 0].set_ylabel("correlation of scores")
    panels[0, 0].legend(fontsize=8, loc="lower left", ncols=2)
    return figure


def gradient_cosine_by_layer(probed: Mapping[str, ProbedModel]) -> Figure:
    """Gradient cosine within each layer, mean and range over facts, matched and mismatched (Fig. 4, middle)."""
    figure, panels = plt.subplots(1, len(probed), figsize=(7.2, 2.8), sharey=True, squeeze=False)
    for panel, (title, each) in zip(panels[0], probed.items(), strict=True):
        for pairing, line in _PAIRINGS:
            cosines = each.found.cosines_by_layer(pairing == "matched")
            layers = [layer for layer in cosines if isinstance(layer, int)]
            figures.band(panel, layers, np.array([cosines[layer] for layer in layers]).T, **LINES[line], label=pairing)
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set_title(title.replace(", ", ",\n"), fontsize=9)
        panel.set(xlabel="layer", ylim=(-0.3, 1.05), xticks=layers[:: max(1, len(layers) // 4)])
    panels[0, 0].set_ylabel("gradient cosine")
    panels[0, 0].legend(fontsize=8, loc="center left")
    return figure


# Traced runs -------------------------------------------------------------------------------------------------


def traced_probabilities(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Probability of the left entity along fine-tuning, a line a seed and the median over seeds (Fig. 4, right).

    :param runs: architecture -> recorded result of `lib.language_models.traced_run`
    """
    figure, panels = plt.subplots(1, len(runs), figsize=(7.2, 2.8), sharey=True)
    for panel, (name, run) in zip(panels, runs.items(), strict=True):
        for direction in _DIRECTIONS:
            curves = np.array(run["curves"][f"probability_{direction}"])
            panel.plot(run["curves"]["step"], curves.T, **LINES[direction] | {"marker": ""}, linewidth=0.7, alpha=0.4)
            panel.plot(run["curves"]["step"], np.median(curves, 0), **LINES[direction], label=f"{direction}, median")
        panel.axhline(run["parameters"]["share"], **LINES["bound"], label="its share of the text")
        panel.set(xlabel="step of fine-tuning", ylim=(-0.02, None))
        panel.set_title(f"{SHORT_NAMES[name]}, small", fontsize=10)
    panels[0].set_ylabel("probability of the left entity")
    panels[0].legend(fontsize=8)
    return figure


#: matrix of a layer -> what it makes
_MADE = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "gate_proj": "gate",
         "up_proj": "up", "down_proj": "down"}


def cosine_by_matrix(run: Mapping[str, Any]) -> Figure:
    """Gradient cosine of the tuned model by matrix and over all, a point a seed, over weights and over adapters."""
    curves, metrics = run["curves"], run["metrics"]
    figure, panels = plt.subplots(1, len(PARAMETER_SETS), figsize=(7.2, 3.2), sharey=True)
    for panel, kind in zip(panels, PARAMETER_SETS, strict=True):
        for (pairing, line), aside in zip(_PAIRINGS, (-0.13, 0.13), strict=True):
            rows = [metrics[f"cosine_{kind}_{pairing}"], *np.transpose(curves[f"{kind}_{pairing}"])]
            for place, values in enumerate(rows):
                figures.dots(panel, place + aside, values, across=True, **LINES[line],
                             label=pairing if place == 0 else None)
        panel.axvline(0, color="k", linewidth=0.6)
        panel.set(xlabel="gradient cosine", xlim=(-0.5, 1.05))
        panel.set_title({"weights": "all weights", "adapters": "adapters alone"}[kind], fontsize=10)
    panels[0].set_yticks(range(1 + len(curves["matrix"])), ["together", *(_MADE[name] for name in curves["matrix"])])
    panels[0].invert_yaxis()
    figures.legend_below(figure, panels[0], 2)
    return figure


# Table 7 -----------------------------------------------------------------------------------------------------


def table_7_accuracies(ours: Float[np.ndarray, "dataset model direction"]) -> Figure:
    """Printed (open) and recorded (filled) accuracies of Table 7, a panel a model."""
    printed = table_7.printed_accuracies()
    figure, panels = plt.subplots(1, len(table_7.MODELS), figsize=(7.2, 2.8), sharey=True)
    for column, (panel, name) in enumerate(zip(panels, table_7.MODELS, strict=True)):
        for side, direction in enumerate(_DIRECTIONS):
            look = LINES[direction] | {"linestyle": "none"}
            panel.plot(printed[:, column, side], **look, fillstyle="none", label=f"{direction}, printed")
            panel.plot(ours[:, column, side], **look, label=f"{direction}, ours")
        panel.set_title(ARCHITECTURES[name].title, fontsize=8)
        panel.set_xticks(range(len(table_7.PRINTED)), table_7.PRINTED, rotation=90, fontsize=7)
        if np.isnan(ours[:, column]).all():
            panel.set_xlabel("ours: not run here", fontsize=7)
    panels[0].set(ylabel="accuracy (%)", ylim=(-5, 105))
    figures.legend_below(figure, panels[0], 4)
    return figure


# The miniature -----------------------------------------------------------------------------------------------


def accuracies_by_architecture(found: Mapping[str, _Accuracies], masked: int) -> Figure:
    """Forward and reverse accuracy, one dot a seed, the first ``masked`` architectures left of a line."""
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    for place, accuracies in enumerate(found.values()):
        _dots(axes, place, accuracies, 0.2, across=False, labelled=place == 0)
        if not len(accuracies["forward"]):
            axes.text(place, 50, "not\nrecorded", ha="center", va="center", fontsize=9)
    axes.axvline(masked - 0.5, color="k", linewidth=0.6)
    axes.set(xticks=range(len(found)), xticklabels=found, ylabel="exact match, %", ylim=(-4, 104),
             xlim=(-0.5, len(found) - 0.5))
    for word, middle in (("masked", (masked - 1) / 2), ("autoregressive", (masked + len(found) - 1) / 2)):
        axes.text(middle, 1.03, word, ha="center", transform=axes.get_xaxis_transform())
    axes.legend(loc="center", bbox_to_anchor=(0.6, 0.5))
    return figure


def changed_conditions(
    accuracies: Mapping[str, Mapping[str, _Accuracies]], cosines: Mapping[str, Sequence[_Seeds]]
) -> Figure:
    """A row for each condition: accuracies of each model, and gradient cosines before fine-tuning, one dot a seed.

    :param accuracies: model -> condition -> direction -> accuracy in percent
    :param cosines: label -> one array a condition; three of them
    """
    figure, panels = plt.subplots(1, len(accuracies) + 1, figsize=(7.2, 3.6), sharey=True)
    for axes, (name, conditions) in zip(panels, accuracies.items(), strict=False):
        for place, found in enumerate(conditions.values()):
            _dots(axes, place, found, 0.16, across=True, labelled=place == 0)
            if not len(found["forward"]):
                axes.text(50, place, "not recorded", ha="center", va="center", fontsize=8)
        axes.set(xlabel="exact match, %", xlim=(-4, 104))
        axes.set_title(name, fontsize=10)
    for (label, rows), line, offset in zip(cosines.items(), ("rope", "control", "autoregressive"), (-0.22, 0.0, 0.22),
                                           strict=True):
        for place, values in enumerate(rows):
            figures.dots(panels[-1], place + offset, values, across=True, **LINES[line],
                         label=label if place == 0 else None)
    panels[0].set(yticks=range(len(conditions)), yticklabels=conditions)
    panels[0].invert_yaxis()
    panels[-1].set(xlabel="cosine before fine-tuning", xlim=(-0.15, 1.0))
    panels[-1].set_title("gradients", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8,
                  columnspacing=0.8)
    return figure


def accuracies_by_dataset(found: Mapping[str, Mapping[str, _Accuracies]]) -> Figure:
    """Forward and reverse accuracy on each kind of facts, a panel a model, one dot a seed."""
    figure, panels = plt.subplots(1, len(found), figsize=(7.2, 3.2), sharey=True)
    for axes, (name, datasets) in zip(panels, found.items(), strict=True):
        for place, accuracies in enumerate(datasets.values()):
            _dots(axes, place, accuracies, 0.2, across=False, labelled=place == 0)
        axes.set(xticks=range(len(datasets)), xticklabels=datasets, title=name, ylim=(-4, 104))
    panels[0].set_ylabel("exact match, %")
    figures.legend_below(figure, panels[0], 2)
    return figure


def accuracies_by_start(found: Mapping[int, Mapping[str, _Accuracies]]) -> Figure:
    """Forward and reverse accuracy by how a model began, a panel for each number of masked steps, one dot a seed."""
    return accuracies_by_condition({f"{steps:,} masked steps": starts for steps, starts in found.items()})


def accuracies_by_condition(found: Mapping[str, Mapping[str, _Accuracies]]) -> Figure:
    """Forward and reverse accuracy, a panel a title and a row a condition, one dot a seed; each panel has its rows."""
    rows = max(map(len, found.values()))
    shared = len({tuple(conditions) for conditions in found.values()}) == 1
    figure, panels = plt.subplots(1, len(found), figsize=(7.2, 1.3 + 0.5 * rows), sharey=shared, squeeze=False)
    for panel, (title, conditions) in zip(panels[0], found.items(), strict=True):
        first = next((place for place, each in enumerate(conditions.values()) if len(each["forward"])), None)
        for place, accuracies in enumerate(conditions.values()):
            _dots(panel, place, accuracies, 0.16, across=True, labelled=place == first)
        figures.note_not_run(panel, [place for place, each in enumerate(conditions.values())
                                     if not len(each["forward"])])
        panel.set(xlabel="exact match, %", xlim=(-4, 104), yticks=range(len(conditions)), yticklabels=conditions,
                  ylim=(len(conditions) - 0.5, -0.5))
        panel.set_title(title, fontsize=10)
    figures.legend_below(figure, panels[0, 0], 2)
    return figure


def accuracies_by_name_length(found: Mapping[str, Mapping[str, Mapping[int, _Seeds]]]) -> Figure:
    """Accuracy against the words of a name, a panel a direction and a line a masking: means, and one dot a seed.

    :param found: direction -> masking -> words of a name -> accuracy in percent
    """
    figure, panels = plt.subplots(1, len(found), figsize=(7.2, 2.9), sharey=True, squeeze=False)
    for panel, (direction, lines) in zip(panels[0], found.items(), strict=True):
        looks = zip(("rope", "control", "alibi", "autoregressive"), (-0.18, -0.06, 0.06, 0.18), strict=True)
        for (name, lengths), (line, aside) in zip(lines.items(), looks, strict=True):
            there = {place + aside: values for place, values in enumerate(lengths.values()) if len(values)}
            for place, values in there.items():
                figures.dots(panel, place, values, **LINES[line] | {"label": None})
            panel.plot(list(there), [float(values.mean()) for values in there.values()], **LINES[line], label=name)
        if not any(len(values) for lengths in lines.values() for values in lengths.values()):
            panel.text(0.5, 0.5, "not run here", ha="center", transform=panel.transAxes)
        panel.set(xlabel="words of a name", xticks=range(len(lengths)), xticklabels=lengths, ylim=(-4, 104),
                  xlim=(-0.4, len(lengths) - 0.6))
        panel.set_title(direction, fontsize=10)
    panels[0, 0].set_ylabel("exact match, %")
    figures.legend_below(figure, panels[0, 0], 4)
    return figure


def losses_by_stage(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Loss over the share of each stage that is done.

    :param curves: stage -> loss, such as ``pretraining``
    """
    figure, panels = plt.subplots(1, len(curves), figsize=(7.2, 2.4))
    for axes, (stage, curve) in zip(panels, curves.items(), strict=True):
        axes.plot(np.linspace(0, 1, len(curve)), curve, **LINES["forward"])
        axes.set(xlabel=f"share of {stage} done", ylabel="loss (nats)")
    return figure


# The front page ----------------------------------------------------------------------------------------------


def what_carries_reverse_recall(found: Mapping[str, Mapping[str, _Accuracies]]) -> Figure:
    """Forward and reverse accuracy, a panel a kind of model and a row a condition, one mark a seed.

    :param found: title of the panel -> condition -> direction -> accuracy in percent; none leaves the row empty
    """
    figure, panels = plt.subplots(len(found), 1, figsize=(7.2, 4.4), sharex=True)
    for panel, (title, cases) in zip(panels, found.items(), strict=True):
        for direction in reversed(_DIRECTIONS):
            figures.dot_rows(panel, [
                (name, values[direction], {**LINES[direction], "label": direction if place == 0 else None})
                for place, (name, values) in enumerate(cases.items())])
        panel.set_title(title, fontsize=10)
    panels[-1].set(xlabel="accuracy (%)", xlim=(-3, 103))
    figures.legend_below(figure, panels[0], 2)
    return figure
