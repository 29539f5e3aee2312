"""Figures of the setup (Sec. 3), of storage (Sec. 4.1) and of routing (Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lib.record.figures import LINES
from lib.theory.storage import ExampleStep

# Setup --------------------------------------------------------------------------------------------------------


def storage_and_routing(
    stored: Float[Tensor, "targets evidence"],
    attention: Mapping[str, tuple[Int[Tensor, " queries"], Float[Tensor, " queries"]]],
    length: int,
) -> Figure:
    """Left, W between capitals and lowercase letters; right, mean attention weight on the evidence by its offset.

    :param attention: "forward" and "reverse" -> offset of the evidence (positions), attention weight
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1))
    image = left.imshow(stored, cmap="viridis")
    left.set(xlabel="evidence $B$ (capital)", ylabel="target $A$ (lowercase)",
             title="storage $W_{A,B}$\n(logit for one unit of attention)", xticks=[0, 25], yticks=[0, 25],
             xticklabels=["A", "Z"], yticklabels=["a", "z"])
    left.grid(False)
    figure.colorbar(image, ax=left, shrink=0.8)
    for name, (offset, weight) in attention.items():
        places = offset.unique()
        right.plot(places, [weight[offset == place].mean() for place in places], label=name, **LINES[name])
    right.axhline(1 / length, label="uniform, $1/L$", color="black", linewidth=0.8, linestyle=":")
    right.set(xlabel="offset of the evidence from the mask (positions)", title="routing",
              ylabel=r"attention weight $\alpha$ on the evidence", ylim=(0, None))
    right.legend()
    return figure


def logit_difference_split(split: Mapping[str, Mapping[str, Mapping[str, Float[Tensor, " queries"]]]]) -> Figure:
    """Mean logit difference of target and placeholder, by what adds to it: a panel a model, bars for both directions.

    :param split: model -> "forward" or "reverse" -> part -> logit difference of each query
    """
    figure, panels = plt.subplots(1, len(split), figsize=(7.2, 3.2))
    for panel, (title, directions) in zip(panels, split.items(), strict=True):
        for shift, hatch, (name, parts) in zip((-0.2, 0.2), ("", "//"), directions.items(), strict=True):
            heights = [float(part.mean()) for part in parts.values()]
            bars = panel.bar(np.arange(4) + shift, [*heights, sum(heights)], 0.38, label=name, hatch=hatch,
                             color=LINES[name]["color"], edgecolor="white")
            panel.bar_label(bars, fmt="%+.1f", fontsize=7)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set(xticks=range(4), title=title)
        panel.set_xticklabels(("storage ×\nrouting", "residual", "MLP", "sum"))
    panels[0].set_ylabel("target minus placeholder (logits)")
    panels[1].legend()
    return figure


# Storage ------------------------------------------------------------------------------------------------------


def storage_step(step: ExampleStep) -> Figure:
    """Left, the change of W in one step; right, the column of B before and after it (Prop. 4.1)."""
    rows, columns = step.change.shape
    names = ["·"] * columns
    names[0], names[step.target], names[step.evidence], names[-1] = "0", "A", "B", "M"
    figure, (left, right) = plt.subplots(1, 2, width_ratios=[1.2, 1])
    limit = step.change.abs().max().item()
    picture = left.imshow(step.change, cmap="PuOr_r", vmin=-limit, vmax=limit)
    for v, b in (step.change > 0).nonzero().tolist():
        left.text(b, v, "+", ha="center", va="center", fontsize=13)
    left.set(xlabel="token b in the prompt", ylabel="predicted token v", title="change of $W_{v,b}$ (+ marks a rise)")
    left.set_xticks(range(columns), names)
    left.set_yticks(range(rows), names[:-1])
    left.grid(False)
    figure.colorbar(picture, ax=left, shrink=0.8)
    after = {"label": "after", "color": LINES["forward"]["color"], "hatch": "//", "edgecolor": "white"}
    for offset, shown, style in ((-0.2, step.storage, {"label": "before", "color": "0.75"}),
                                 (0.2, step.storage + step.change, after)):
        right.bar([v + offset for v in range(rows)], shown[:, step.evidence], 0.4, **style)
    right.set(xlabel="predicted token v", title="the column $W_{:,B}$")
    right.set_xticks(range(rows), names[:-1])
    right.axhline(0, color="k", linewidth=0.8)
    right.legend()
    return figure


# Routing ------------------------------------------------------------------------------------------------------


def covariance_ellipses(
    query: Float[np.ndarray, " 2"], covariances: Mapping[float, Float[np.ndarray, "2 2"]]
) -> Figure:
    """Ellipses of the key's covariance in one plane beside the query, a panel for each alignment kappa."""
    figure, panels = plt.subplots(1, len(covariances), figsize=(7.2, 2.1), sharey=True)
    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for panel, (kappa, covariance) in zip(panels, covariances.items(), strict=True):
        values, directions = np.linalg.eigh(covariance)
        outline = directions @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)
        allowed = kappa >= 0
        panel.plot(*outline, color=LINES["rope" if allowed else "control"]["color"], linestyle="-" if allowed else ":")
        panel.annotate("", xy=query, xytext=(0, 0), arrowprops={"arrowstyle": "->", "color": "k"})
        panel.text(*(query * 1.05), "$q_i$")
        panel.set(aspect="equal", xlim=(-1.7, 1.7), ylim=(-1.6, 1.6),
                  title=rf"$\kappa={kappa:g}$" + ("" if allowed else ", excluded"))
        panel.axis("off")
    return figure


def termwise_bound(
    kappa: Float[np.ndarray, " points"], correlation: Float[np.ndarray, " points"], mean: float,
    termwise: Float[np.ndarray, " points"],
) -> Figure:
    """Correlation, the theorem's bound ``mean`` and the termwise bound against the alignment of the second plane."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    axes.plot(kappa, correlation, label="correlation", markevery=10, **LINES["rope"])
    axes.plot(kappa, np.full_like(kappa, mean), label=r"$\sum_i w_ic_i$ (Thm. 4.3)", **LINES["bound"])
    axes.plot(kappa, termwise, label="termwise bound", markevery=10, **LINES["control"])
    axes.set(xlabel=r"$\kappa_1$, alignment of the second plane ($\kappa_0=0$)", ylabel="correlation")
    axes.legend()
    return figure


#: alignment of the keys -> its name and its line in `score_correlation_by_distance`
_ALIGNMENTS = {0.0: ("isotropic", "forward"), 0.5: ("between", "rope"), 1.0: ("aligned", "alibi"),
               -0.5: ("excluded", "control")}


def score_correlation_by_distance(
    distances: Float[np.ndarray, " distances"],
    correlations: Mapping[float, Float[np.ndarray, "queries distances"]], bound: Float[np.ndarray, " distances"],
) -> Figure:
    """Correlation given q against the distance: mean over queries and the band that holds 90 % of them.

    :param correlations: by alignment kappa, one of 0, 0.5, 1 and -0.5
    """
    figure, axes = plt.subplots()
    for kappa, runs in correlations.items():
        name, line = _ALIGNMENTS[kappa]
        low, high = np.quantile(runs, [0.05, 0.95], axis=0)
        axes.fill_between(distances, low, high, color=LINES[line]["color"], alpha=0.15, linewidth=0)
        axes.plot(distances, runs.mean(0), label=rf"$\kappa={kappa:g}$, {name}", **LINES[line])
    axes.plot(distances, bound, label=r"bound $T_d(2\Delta)$", **LINES["bound"])
    axes.axhline(0, color="k", linewidth=0.6)
    axes.set(xlabel=r"distance $\Delta$ (positions)", ylabel="correlation given q", ylim=(-0.6, 1.05))
    axes.legend(ncols=2, fontsize=8, loc="lower left")
    return figure
