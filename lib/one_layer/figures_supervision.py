"""Figures of the runs that change part of the supervision."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.one_layer import supervision
from lib.one_layer.figures_interventions import nothing_recorded, recorded
from lib.record.figures import LINES, band, dot_rows, dots, legend_below, note_not_run

#: how the parts of the loss are drawn
PART_STYLES = {supervision.RECIPE: {"color": "#555555", "marker": "x"}, supervision.ALL_DROPPED: LINES["reverse"],
          supervision.HIDDEN: LINES["rope"], supervision.SHOWN: LINES["alibi"], supervision.ELSEWHERE: LINES["control"],
          supervision.RANDOM: LINES["control"], supervision.LETTERS_ONLY: LINES["forward"]}


def accuracy_by_part() -> Figure:
    """Reverse accuracy at the end by what is dropped, one dot a seed, a panel a recorded length."""
    sizes = supervision.lengths(supervision.RECIPE, supervision.ALL_DROPPED)
    if not sizes:
        return nothing_recorded()
    figure, panels = plt.subplots(1, len(sizes), figsize=(7.2, 3.0), sharey=True, squeeze=False)
    for panel, length in zip(panels[0], sizes, strict=True):
        runs = supervision.changed(length, *supervision.SUPERVISION_CHANGES)
        dot_rows(panel, [(name, [] if run is None else supervision.reverse(run), PART_STYLES[name])
                         for name, run in runs.items()])
        note_not_run(panel, [place for place, run in enumerate(runs.values()) if run is None])
        panel.set(title=f"$L={length}$", xlim=(-6, 106))
    figure.supxlabel("reverse accuracy (%)", fontsize=10)
    return figure


def dose_response() -> Figure:
    """Left, reverse accuracy at the end by weight of the blocking questions; right, along training."""
    runs = recorded(supervision.weighed())
    if not runs:
        return nothing_recorded()
    figure, (end, along) = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True)
    for place, (weight, run) in enumerate(runs.items()):
        shade = plt.get_cmap("viridis")(place / max(1, len(runs) - 1) * 0.75)
        dots(end, float(place), supervision.reverse(run), color=shade, marker="o")
        band(along, np.array(run["curves"]["steps"]) + 1, run["curves"]["reverse_accuracy"], color=shade,
             label=f"{weight:g}")
    end.set_xticks(range(len(runs)), [f"{weight:g}" for weight in runs])
    end.set(xlabel="weight of the blocking questions", ylabel="reverse accuracy (%)", title="at the end")
    along.set(xscale="log", xlabel="step (plus 1)", title="along training")
    along.legend(title="weight", fontsize=8)
    return figure


def accuracy_by_questions() -> Figure:
    """Left, reverse accuracy at the end by what a step asks; right, along training, also by our recipe."""
    runs, recipe = recorded(supervision.by_questions()), supervision.RECIPE
    if not runs:
        return nothing_recorded()
    figure, (end, along) = plt.subplots(1, 2, figsize=(7.2, 2.6), width_ratios=(3, 2))
    styles = {name: PART_STYLES[recipe] if name == recipe else LINES["reverse"] for name in runs}
    dot_rows(end, [(name, supervision.reverse(run), styles[name]) for name, run in runs.items()])
    end.set(xlim=(-4, 104), xlabel="reverse accuracy (%)", title="after 1,000 steps")
    longest = {recipe: runs.get(recipe), "one question a sequence": supervision.asked_longest()}
    for (name, run), line in zip(longest.items(), (PART_STYLES[recipe], LINES["reverse"]), strict=True):
        if run is not None:
            band(along, np.array(run["curves"]["steps"]) + 1, run["curves"]["reverse_accuracy"], label=name,
                 **line | {"marker": ""})
    along.set(xscale="log", xlim=(100, None), ylim=(-4, 104), xlabel="step (plus 1)", ylabel="reverse accuracy (%)",
              title="along training")
    legend_below(figure, along, 2)
    return figure


def accuracy_by_fillers() -> Figure:
    """Reverse accuracy at the end by number of kinds of placeholder, one dot a seed, beside fillers never asked for."""
    runs = recorded(supervision.filled())
    runs.pop(supervision.RECIPE, None)
    if not runs:
        return nothing_recorded()
    figure, panel = plt.subplots(figsize=(5.4, 2.4))
    never = supervision.LETTERS_ONLY
    dot_rows(panel, [(name, supervision.reverse(run), LINES["forward" if name == never else "reverse"])
                     for name, run in runs.items()])
    panel.set(xlim=(-4, 104), xlabel="reverse accuracy (%)")
    return figure
