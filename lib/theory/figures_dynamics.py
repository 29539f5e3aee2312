"""Figures of the chapters on one step (Sec. 4.3) and on the flow (App. C.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.record.figures import LINES
from lib.theory.dynamics import SharedStep

# One step -----------------------------------------------------------------------------------------------------


def cosines(same: Sequence[float], different: Sequence[float]) -> Figure:
    """Histograms of the gradient cosine in column B over random pairs, with one target and with two."""
    figure, axes = plt.subplots()
    bins = np.linspace(-1, 1, 51).tolist()
    axes.hist(same, bins, color=LINES["forward"]["color"], label="same target")
    axes.hist(different, bins, histtype="step", hatch="///", color=LINES["control"]["color"], label="different targets")
    axes.axvline(0.5, **LINES["bound"])
    axes.annotate("½", (0.5, 0.93), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set(xlabel="cosine of forward and reverse gradient in column B", ylabel="prompt pairs")
    axes.legend(loc="upper left")
    return figure


def decrease_by_step_size(steps: Sequence[SharedStep], measured: Sequence[float]) -> Figure:
    """Left, decrease of the reverse loss; right, error of the first-order formula; against the step size.

    :param measured: change of the reverse loss in the model, nats, one a step
    """
    figure, (left, right) = plt.subplots(1, 2)
    etas, change = [step.eta for step in steps], np.array([step.change for step in steps])
    first_order = np.array([step.first_order for step in steps])
    line = {"color": LINES["reverse"]["color"]}
    left.loglog(etas, -first_order, **LINES["bound"], label="first order $\\eta G$")
    left.loglog(etas, -change, **line, label="exact")
    left.loglog(etas[::4], -np.array(measured)[::4], **LINES["reverse"] | {"linestyle": "none"}, label="measured")
    left.set(xlabel="step size $\\eta$", ylabel="decrease of reverse loss (nats)", title="decrease")
    right.loglog(etas, [step.remainder_bound for step in steps], **LINES["bound"], label="bound")
    right.loglog(etas, change - first_order, **line, label="error of first order")
    right.set(xlabel="step size $\\eta$", ylabel="error (nats)", title="error, slope 2")
    left.legend()
    right.legend()
    return figure


def step_bounds(steps: Sequence[SharedStep]) -> Figure:
    """Exact change of the reverse loss and two bounds of it against the step size; eta* is marked."""
    figure, axes = plt.subplots()
    etas = [step.eta for step in steps]
    for name, look, values in (("exact", "reverse", [step.change for step in steps]),
                               ("odds bound", "bound", [step.odds_change for step in steps]),
                               ("smoothness bound", "control", [step.smoothness_change for step in steps])):
        axes.plot(etas, values, label=name, markevery=10, **LINES[look])
    axes.axhline(0, color="black", linewidth=0.8)
    limit = steps[0].smoothness_limit
    axes.annotate("$\\eta^\\star$", (limit, 0), (0, 6), textcoords="offset points", ha="center")
    axes.set(xlabel="step size $\\eta$", ylabel="change of reverse loss (nats)", ylim=(1.1 * steps[-1].change, 0.6))
    axes.legend(loc="lower left")
    return figure


def two_facts(paths: Mapping[str, Float[np.ndarray, "times 2"]]) -> Figure:
    """Reverse probabilities of both targets of one evidence token, a panel for each way of training (its title)."""
    figure, panels = plt.subplots(1, len(paths), sharey=True)
    for panel, (title, path) in zip(panels, paths.items(), strict=True):
        panel.plot(path[:, 0], **LINES["reverse"], markevery=30, label="reverse query of $A$")
        panel.plot(path[:, 1], **LINES["control"], markevery=(15, 30), label="reverse query of $A'$")
        panel.set(title=title, xlabel="forward steps", ylim=(-0.02, 1.02))
    panels[0].set_ylabel("probability of its target")
    panels[0].legend(loc="center right")
    return figure
