"""Figures of the theory chapters: each takes what a module of `lib.theory` computed and draws it."""

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

    :param attention: "forward" and "reverse" -> offset of the evidence (positions) and its attention weight, one a query
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1))
    image = left.imshow(stored, cmap="viridis")
    left.set(xlabel="evidence $B$ (capital)", ylabel="target $A$ (lowercase)", title="storage $W_{A,B}$",
             xticks=[0, 25], yticks=[0, 25], xticklabels=["A", "Z"], yticklabels=["a", "z"])
    left.grid(False)
    figure.colorbar(image, ax=left, shrink=0.8, label="logit for one unit of attention")
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
    left.set(xlabel="visible token b", ylabel="predicted token v", title="change of $W_{v,b}$ (+ marks a rise)")
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
