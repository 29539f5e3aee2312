"""Figures of the chapter on the premise of Theorem 4.3 in trained models."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.one_layer.premises import PremiseState
from lib.record import figures
from lib.record.figures import LINES
from lib.theory import premises

_PARTS = {"unequal traces": "forward", "alignment": "alibi", "tilt": "bound", "planes dependent": "reverse"}
_MEASURES = {"traces": "spread of traces", "alignment": "alignment", "roundness": "roundness of a plane",
            "forward": "variance of forward scores", "reverse": "variance of reverse scores"}


def bound_and_measured(states: Mapping[str, PremiseState], random: Float[np.ndarray, "sets items dim"]) -> Figure:
    """Correlation by distance, bound and measured, over the middle 90 % of random keys; a panel a state (its title)."""
    figure, panels = plt.subplots(1, len(states), figsize=(7.2, 3.4), sharey=True)
    for panel, (title, state) in zip(panels, states.items(), strict=True):
        along = state.distances
        scatter = [premises.item_correlations(query, random, along) for query in state.queries]
        low, high = np.quantile(np.concatenate(scatter), [0.05, 0.95], axis=0)
        panel.fill_between(along, low, high, color="#BBBBBB", alpha=0.5, linewidth=0, label="26 random keys")
        figures.band(panel, along, state.ladder[:, 0], label=r"bound $\sum_iw_i(q)\,c_i$", **LINES["bound"])
        figures.band(panel, along, state.at_equal_distances, label="measured", **LINES["rope"])
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set(xlabel=r"distance $\Delta$ (positions)", ylim=(-1.05, 1.05), title=title)
    panels[0].set_ylabel("correlation over 26 facts")
    panels[0].legend(loc="lower left", fontsize=8)
    return figure


def along_training(states: Mapping[int, PremiseState]) -> Figure:
    """Left, bound and measured correlation, mean over distances; right, forward accuracy; against the step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9))
    steps = sorted(states)
    for place, label, look in ((0, "bound", "bound"), (-1, "measured", "rope")):
        runs = np.array([states[step].ladder[:, place].mean(1) for step in steps]).T
        figures.band(left, steps, runs, label=label, **LINES[look])
    left.axhline(0, color="k", linewidth=0.6)
    left.set(xlabel="training step", ylabel="correlation, mean over distances", ylim=(-1, 1.05))
    left.legend(fontsize=8, loc="lower left")
    figures.band(right, steps, np.array([states[step].forward_accuracy for step in steps]).T, **LINES["forward"])
    right.set(xlabel="training step", ylabel="forward accuracy (%)", ylim=(-4, 104))
    return figure


def gap_by_part(states: Mapping[str, PremiseState]) -> Figure:
    """What each part of the premise adds to the correlation, by distance; a panel a state (its title)."""
    figure, panels = plt.subplots(1, len(states), figsize=(7.2, 3.2), sharey=True)
    for panel, (title, state) in zip(panels, states.items(), strict=True):
        parts = np.diff(state.ladder, axis=1)
        for place, (name, look) in enumerate(_PARTS.items()):
            figures.band(panel, state.distances, parts[:, place], label=name, **LINES[look])
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set(xlabel=r"distance $\Delta$ (positions)", title=title)
    panels[0].set_ylabel("change of the correlation")
    panels[0].legend(loc="lower left", fontsize=8)
    return figure


def departures_from_premise(states: Mapping[str, PremiseState], random: Float[np.ndarray, "sets items dim"]) -> Figure:
    """Measures of departure from the premise, in standard deviations of random keys; two states, a dot a seed."""
    figure, axes = plt.subplots(figsize=(6.4, 2.9))
    for (name, state), look, shift in zip(states.items(), ("rope", "control"), (0.12, -0.12), strict=True):
        for seed, query in enumerate(state.queries):
            chance = premises.departures(np.broadcast_to(query, random[:, 0].shape), random, state.distances)
            for place, measure in enumerate(reversed(_MEASURES)):
                apart = (state.departures[measure][seed] - chance[measure].mean()) / chance[measure].std()
                axes.plot(apart, place + shift, label=name if seed + place == 0 else None,
                          **LINES[look] | {"linestyle": "none"})
    axes.axvspan(-2, 2, color="#BBBBBB", alpha=0.4, linewidth=0)
    axes.set(yticks=range(len(_MEASURES)), yticklabels=list(reversed(_MEASURES.values())),
             xlabel="distance from 26 random keys (standard deviations)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
