"""Figures of the chapter on what forward-only training converges to."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.record.figures import LINES
from lib.theory.late_training import LateFlow, Separator, Task, solve_flow
from lib.theory.validation import Number

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def lead_over_placeholder(tasks: Sequence[Task]) -> Figure:
    """The separator's lead of the letter over the placeholder against attention, a panel a task."""
    figure, panels = plt.subplots(1, len(tasks), sharey=True)
    alphas = np.array([0.0, 1.0])
    for panel, task in zip(panels, tasks, strict=True):
        found = Separator(task)
        panel.plot(alphas, alphas * found.x + (1 - alphas) * found.y, color="#D55E00", linestyle="-", label="lead")
        panel.axhline(0, color="black", linewidth=0.8)
        panel.axvline(task.midpoint, **LINES["bound"], label="midpoint")
        point = {"linestyle": "none", "markersize": 8}
        panel.plot(task.alpha_plus, 1, **LINES["forward"] | point, label="forward prompts")
        panel.plot(task.alpha_minus, -1, **LINES["control"] | point, label="placeholder prompts")
        answered = (task.midpoint, 1) if task.gap > 0 else (0, task.midpoint)
        panel.axvspan(*answered, color="#009E73", alpha=0.12, linewidth=0, label="reverse query answered")
        panel.set(xlabel="attention on the evidence", xlim=(0, 1), ylim=(-4, 4),
                  title=f"$\\alpha_+={task.alpha_plus:g}$, $\\alpha_-={task.alpha_minus:g}$")
    panels[0].set_ylabel("lead of the letter (margin)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def probabilities_over_log_time(flow: LateFlow, reverse: Sequence[float], log_t_max: Number) -> Figure:
    """Left, probability of the letter in forward and reverse queries; right, of the letter among letters alone."""
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(7.2, 3.5))
    shown = flow.log_time <= log_t_max
    log_time, facts = flow.log_time[shown], flow.task.facts
    left.plot(log_time, flow.probability(flow.task.alpha_plus)[shown], color="black", linestyle=(0, (5, 2)),
              label="forward query")
    for alpha, colour, marker in zip(reverse, _COLOURS, "osv^D", strict=False):
        line = {"color": colour, "marker": marker, "markevery": 40, "linestyle": "-"}
        left.plot(log_time, flow.probability(alpha)[shown], label=f"reverse, $a_r={alpha:g}$", **line)
        right.plot(log_time, 1 / (1 + (facts - 1) * np.exp(-alpha * flow.u[shown])), **line)
    for axis, title in ((left, "among all outputs"), (right, "among letters alone")):
        axis.axhline(1 / (facts + (axis is left)), color="grey", linewidth=0.8)
        axis.set(xlabel="log(1 + t)", title=title, ylim=(-0.02, 1.02))
    left.set_ylabel("probability of the letter")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def threshold_along_training(tasks: Sequence[Task], log_t_max: Number) -> Figure:
    """Distance of the threshold from the midpoint against log t: the flow (markers), the formula (lines)."""
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    for task, colour, marker in zip(tasks, _COLOURS, "osv^D", strict=False):
        flow, coefficient = solve_flow(task, log_t_max), task.gap * Separator(task).lag / 4
        late = flow.log_time > 8
        distance = np.abs(flow.threshold - task.midpoint)
        axes.plot(flow.log_time[late], distance[late], color=colour, marker=marker, markevery=0.06, linestyle="none",
                  label=f"$\\alpha_+={task.alpha_plus:g}$, $\\alpha_-={task.alpha_minus:g}$, $N={task.facts}$")
        axes.plot(flow.log_time[late], abs(coefficient) / flow.log_time[late], color=colour, linestyle="-")
    axes.plot([], [], color="grey", linestyle="-", label="formula")
    axes.set(xscale="log", yscale="log", xlabel="log t", ylabel="distance of threshold from midpoint")
    axes.legend(fontsize=8)
    return figure
