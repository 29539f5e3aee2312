"""Figures of the theory chapters: each takes what a module of `lib.theory` computed and draws it."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.record.figures import LINES
from lib.theory.storage import ExampleStep


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
