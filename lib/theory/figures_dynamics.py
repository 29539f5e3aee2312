"""Figures of the chapters on one step (Sec. 4.3) and on the flow (App. C.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.special import expit

from lib.record.figures import LINES
from lib.theory import bounds, flows
from lib.theory.dynamics import SharedStep
from lib.theory.validation import Number

# One step -----------------------------------------------------------------------------------------------------


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


# The flow -----------------------------------------------------------------------------------------------------

#: rho -> its marker; colours run along viridis
RHOS = {1: "^", 0.6: "v", 0: "o", -0.3: "<", -0.5: "s", -0.8: "P"}
COLOURS = dict(zip(RHOS, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(RHOS))), strict=True))


def _rho_line(rho: float) -> dict[str, Any]:
    """Solid where the reverse probability tends to 1, else dashed."""
    return {"color": COLOURS[rho], "marker": RHOS[rho], "linestyle": "-" if rho > -0.5 else "--",
            "label": f"RoPE, $\\rho={rho}$"}


def reverse_probabilities(
    rope: flows.SolvedFlow, alibi: flows.SolvedFlow, alibi_reverse: float, log_t_max: Number
) -> Figure:
    """Forward (left) and reverse (right) probability of the target against log time.

    :param alibi_reverse: reverse score of the ALiBi flow with fixed routing
    """
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(7.2, 3.9))
    left.plot(rope.log_time, rope.probability(rope.forward_score), markevery=50,
              **_rho_line(1) | {"label": "RoPE, any $\\rho$"})
    left.plot(alibi.log_time, alibi.probability(alibi.forward_score), **LINES["alibi"], markevery=50, label="ALiBi")
    for rho in RHOS:
        right.plot(rope.log_time, rope.probability(rope.reverse_score(rho)), markevery=50, **_rho_line(rho))
    right.plot(alibi.log_time, alibi.probability(alibi_reverse), **LINES["alibi"], markevery=50, label="ALiBi")
    for axis, title in ((left, "forward (trained)"), (right, "reverse (never asked)")):
        axis.axhline(1 / rope.vocab, color="grey", linewidth=0.8)
        axis.set(xscale="log", xlabel="log(1 + t)", title=title, xlim=(0.1, log_t_max), ylim=(-0.02, 1.05))
        axis.set_xticks([0.1, 1, 10, 100, log_t_max], ["0.1", "1", "10", "100", str(log_t_max)])
    left.set_ylabel("probability of the target")
    left.legend(loc="lower right")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def late_errors(rope: flows.SolvedFlow, log_t_max: Number) -> Figure:
    """-log(1 - p_r) of the flow (markers) and of its late formula (lines) against log t, scores started at 0."""
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    late = rope.log_time[rope.log_time > 10]
    for rho in (rho for rho in RHOS if rho > -0.5):
        error = np.logaddexp(0, rope.log_odds(rope.reverse_score(rho)))
        axes.plot(rope.log_time, error, color=COLOURS[rho], marker=RHOS[rho], markevery=20, linestyle="none",
                  label=f"$\\rho={rho}$")
        stated = -flows.log_miss_late(late, rho, 0.0, 0.0, rope.vocab, rope.q_norm2)
        axes.plot(late, stated, color=COLOURS[rho], linestyle="-")
    axes.plot([], [], color="grey", linestyle="-", label="formula")
    axes.set(xscale="log", yscale="log", xlim=(10, log_t_max), ylim=(0.5, 1.5 * log_t_max), xlabel="log t",
             ylabel="$-\\log(1-p_r(A))$ (nats)")
    axes.legend()
    return figure


def threshold(vocab: int, q_norm2: Number) -> Figure:
    """Reverse probability against rho at four late times, and its limit; scores start at 0."""
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    grid = np.linspace(-1, 1, 401)
    for late, label, look in ((10, "10", "control"), (100, "100", "alibi"), (1e4, "10^4", "rope"),
                              (1e8, "10^8", "forward")):
        margin = np.log(vocab) + late  # m ~ log(n t)
        score = flows.learned_key_score(margin, 0.0, vocab, q_norm2)
        axes.plot(grid, expit(flows.log_odds_at(grid * score, margin, vocab)), **LINES[look], markevery=25,
                  label=f"$\\log t={label}$")
    limit = lambda rho: flows.reverse_limit(rho, 0.0, 0.0, vocab, q_norm2)
    axes.plot(grid, limit(grid), color="black", linewidth=0.8, label="limit")
    axes.plot(-0.5, limit(-0.5), **LINES["paper"] | {"markersize": 10}, label="limit at $-\\frac{1}{2}$")
    axes.axvspan(0, 1, color="grey", alpha=0.12, linewidth=0)
    axes.annotate("Prop. C.2", (0.5, 0.45), ha="center")
    axes.set(xlabel="$\\rho$", ylabel="reverse probability of the target")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.97))
    return figure


def full_agreement(solved: flows.SolvedFlow, log_t_max: Number) -> Figure:
    """Full inner product of both gradients over its storage part, against log time."""
    figure, axes = plt.subplots()
    for rho in RHOS:
        axes.plot(solved.log_time, solved.agreement(rho), markevery=40, **_rho_line(rho))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlim=(1, log_t_max), xlabel="log(1 + t)", ylabel="full inner product / storage part")
    figure.legend(loc="outside right center")
    return figure


def failing_queries() -> Figure:
    """Share of Gaussian queries with rho at most 0 and at most -1/2, against the total distance, d = 16 and 64."""
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    totals = np.linspace(0.5, 100, 200)
    for dim, look in ((16, "alibi"), (64, "rope")):
        for bound, dashes, name in ((0.0, "-", "$\\rho\\leq 0$"), (-0.5, ":", "$\\rho\\leq -\\frac{1}{2}$")):
            fails = 1 - bounds.exact_tail(totals / 2, bound, dim)
            axes.plot(totals, np.where(fails > 1e-12, fails, np.nan), **LINES[look] | {"linestyle": dashes},
                      markevery=20, label=f"{name}, $d={dim}$")
    axes.set(yscale="log", ylim=(1e-12, 1), xlabel="total distance $\\Delta_1+\\Delta_2$ (positions)",
             ylabel="share of random queries")
    figure.legend(ncols=4, fontsize=8, loc="outside upper center")
    return figure


def second_fact(rope: flows.SolvedFlow, log_t_max: Number) -> Figure:
    """Reverse probability of A against log time with a second fact in the prompt, and alone; rho = 0.6."""
    figure, axes = plt.subplots(figsize=(7.2, 3.0))
    rho = 0.6
    for other, look in ((0.3, "rope"), (0.6, "bound"), (0.9, "control")):
        axes.plot(rope.log_time, rope.probability_with_second_fact(rho, other), **LINES[look], markevery=50,
                  label=f"$\\rho'={other}$")
    alone = rope.probability(rope.reverse_score(rho))
    axes.plot(rope.log_time, alone, **LINES["reverse"], markevery=50, label="alone")
    axes.set(xscale="log", xlim=(0.1, log_t_max), xlabel="log(1 + t)",
             ylabel=f"reverse probability of $A$, $\\rho={rho}$")
    axes.legend()
    return figure
