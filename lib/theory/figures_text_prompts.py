"""Figures of the chapter on Secs 1 and 2: the prompts of a text, and what two extreme models learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.record.figures import LINES
from lib.theory.text_prompts import UNSEEN, Text, asked_at_once, forward_query, reverse_query, text_of


def _draw(axes: Axes, line: int, shown: Text, asked: Sequence[int], colour: str = "#777777", label: str = "") -> None:
    """One row of token boxes: asked positions are filled and carry a question mark, unseen ones stay empty."""
    for i, token in enumerate(shown):
        filled = i in asked
        axes.add_patch(Rectangle((i, -line), 0.9, 0.78, facecolor=colour if filled else "none", edgecolor="#777777"))
        axes.text(i + 0.45, 0.37 - line, "?" if filled else token.replace(UNSEEN, ""), ha="center", va="center",
                  fontsize=12, color="white" if filled else "black")
    axes.text(len(shown) + 0.1, 0.37 - line, label, va="center", fontsize=11, color=colour)


def trained_by_objective(fillers: int) -> Figure:
    """All prompts that masking and causal training make of "A is B", and the reverse query, which is among neither."""
    text, forward, reverse = text_of("A", "B", fillers), forward_query("B", fillers), reverse_query("B", fillers)
    count = len(asked_at_once(text, "masked"))
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 0.4 + 0.43 * count))
    for panel, objective in zip(panels, ("masked", "causal"), strict=True):
        for line, (shown, asked) in enumerate(asked_at_once(text, objective).items()):
            is_forward = (shown, asked) == (forward[0], [forward[1]])
            _draw(panel, line, shown, asked, *((LINES["forward"]["color"], "forward query") if is_forward else ()))
        panel.set(xlim=(-0.1, fillers + 4.4), ylim=(0.9 - count, 0.9))
        panel.set_title(f"trained by the {objective} objective", fontsize=11)
        panel.axis("off")
    _draw(panels[1], count - 1, reverse[0], [reverse[1]], LINES["reverse"]["color"], "reverse query")
    panels[1].text(0, 2.2 - count, "trained by neither:", fontsize=11)
    return figure


def learned_by_model(curves: Mapping[tuple[str, bool], Mapping[str, Float[np.ndarray, " times"]]]) -> Figure:
    """Probability of the right name against training steps, a panel for each objective and model.

    :param curves: (objective, whether rows are shared) -> "forward" and "reverse" -> probability
    """
    figure, panels = plt.subplots(2, 2, figsize=(6.4, 4.4), sharex=True, sharey=True)
    for panel, ((objective, shared), orders) in zip(panels.flat, curves.items(), strict=True):
        for place, (order, curve) in enumerate(orders.items()):
            panel.plot(curve, **LINES[order], markevery=(5 * place, len(curve) // 6 or 1), label=f"{order} query")
        panel.set_title(f"{objective}, a row for each {'token' if shared else 'prompt'}", fontsize=11)
        panel.set_ylim(-0.03, 1.03)
    for panel in panels[1]:
        panel.set_xlabel("gradient steps")
    for panel in panels[:, 0]:
        panel.set_ylabel("probability")
    panels[0, 0].legend(loc="center right")
    return figure
