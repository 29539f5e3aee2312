"""Figures of recipes crossed with protocols."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.one_layer import recipes
from lib.one_layer.figures_interventions import nothing_recorded
from lib.record.figures import LINES, dots


def reverse_by_recipe() -> Figure:
    """Reverse accuracy at the end, one dot a seed, a row a recipe and a panel a length; the printed value dashed."""
    found = {length: recipes.of_length(length) for length in recipes.CROSSED_LENGTHS}
    names = list(dict.fromkeys(recipe.words for runs in found.values() for recipe in runs))
    if not names:
        return nothing_recorded()
    figure, panels = plt.subplots(1, len(found), figsize=(7.2, 0.28 * len(names) + 1.2), sharey=True)
    for panel, (length, runs) in zip(np.atleast_1d(panels), found.items(), strict=True):
        for recipe, run in runs.items():
            line = LINES["reverse"] if recipes.learned(run) else LINES["control"]
            dots(panel, float(names.index(recipe.words)), recipes.final(run, "standard_reverse"), across=True, **line)
        panel.axvline(recipes.printed_value(length), **{**LINES["bound"], "linewidth": 1})
        panel.set(title=f"$L={length}$", xlim=(-4, 104), xlabel="reverse accuracy (%)")
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].invert_yaxis()
    return figure


def reverse_along_training() -> Figure:
    """Mean reverse accuracy of every recipe along training, a panel a length; the printed value dashed."""
    figure, panels = plt.subplots(1, len(recipes.CROSSED_LENGTHS), figsize=(7.2, 3.8), sharey=True)
    marks = dict(zip(dict.fromkeys(each.words for each in recipes.recorded_recipes()), "osv^DPX<>*", strict=False))
    for panel, length in zip(panels, recipes.CROSSED_LENGTHS, strict=True):
        for recipe, run in recipes.of_length(length).items():
            mean = np.mean(run["curves"]["standard_reverse"], axis=0)
            look = {key: LINES["rope" if recipe.radd else "reverse"][key] for key in ("color", "linestyle")}
            panel.plot(np.array(run["curves"]["steps"]) + 1, mean, linewidth=1, marker=marks[recipe.words],
                       markersize=4, label=recipe.words, **look)
        panel.axhline(recipes.printed_value(length), label="printed value", **{**LINES["bound"], "linewidth": 1})
        panel.set(title=f"$L={length}$", xscale="log", xlabel="step (plus 1)", ylim=(-4, 104))
    panels[0].set_ylabel("mean reverse accuracy (%)")
    handles, words = panels[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=2, fontsize=8)
    return figure
