"""The paper's mechanism and this book's threshold in one picture each, for a reader who has seen neither."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.record import figures
from lib.record.figures import LINES
from lib.theory.late_training import Separator, Task

_ORDERS = {"forward": (["?", "'s", "child", "is", "Bob"], 0, 4), "reverse": (["Bob", "'s", "parent", "is", "?"], 4, 0)}


def storage_times_routing() -> Figure:
    """Both orders of one fact: the same stored evidence, and attention that must find it on either side."""
    figure, axes = plt.subplots(figsize=(7.2, 2.9))
    for line, (order, (words, mask, evidence)) in enumerate(_ORDERS.items()):
        height = 2.3 - 2.3 * line
        colour = LINES[order]["color"]
        axes.text(-0.75, height, f"{order}\nquestion", ha="right", va="center", fontsize=10, color=colour)
        for place, word in enumerate(words):
            figures.token_box(axes, place, height, word, colour if place in (mask, evidence) else "#999999")
        figures.bent_arrow(axes, mask, evidence, height + 0.33, colour)
        axes.text(2, height + 0.94, "attention weight: routing", ha="center", fontsize=9, color=colour)
        axes.annotate("", (5.55, 1.4 - 0.5 * line), (4.5, height), arrowprops={"arrowstyle": "->", "color": "#555555"})
    axes.text(6.6, 1.15, "what Bob says\nabout Ana:\nstored once", ha="center", va="center", fontsize=10,
              bbox={"boxstyle": "round", "facecolor": "#f2f2f2", "edgecolor": "#333333"})
    axes.annotate("", (8.75, 1.15), (7.65, 1.15), arrowprops={"arrowstyle": "->", "color": "#333333"})
    axes.text(9.6, 1.15, "logit\nof Ana", ha="center", va="center", fontsize=10, fontweight="bold")
    axes.set(xlim=(-1.9, 10.3), ylim=(-0.6, 3.6))
    axes.axis("off")
    return figure


def threshold_at_midpoint(alpha_plus: float = 0.6, alpha_minus: float = 0.2, facts: int = 26) -> Figure:
    """The letter's lead over the placeholder against the attention on the evidence, in the limit of training."""
    task = Task(alpha_plus, alpha_minus, facts)
    limit = Separator(task)
    attention = np.linspace(0, 0.8, 81)
    figure, axes = plt.subplots(figsize=(7.2, 2.7))
    axes.plot(attention, attention * limit.x + (1 - attention) * limit.y, color="#333333")
    axes.axhline(0, color="k", linewidth=0.6)
    axes.axvspan(task.midpoint, 0.8, color=LINES["forward"]["color"], alpha=0.12)
    for name, place, lead, line in (("forward questions\nof training", alpha_plus, 1.0, "forward"),
                                    ("questions that ask for\nthe placeholder", alpha_minus, -1.0, "control")):
        axes.plot(place, lead, **LINES[line] | {"linestyle": "none", "markersize": 8})
        axes.annotate(name, (place, lead), (place + 0.02, lead - 0.75), fontsize=9, color=LINES[line]["color"])
    axes.axvline(task.midpoint, **LINES["bound"])
    axes.annotate(f"midpoint, {task.midpoint:g}", (task.midpoint, 2.0), (task.midpoint + 0.01, 1.75), fontsize=9)
    axes.text(0.79, -2.3, "reverse questions here are answered", ha="right", fontsize=9,
              color=LINES["forward"]["color"])
    axes.text(0.01, -2.3, "the placeholder wins", fontsize=9, color="#555555")
    axes.set(xlabel="attention weight on the evidence", ylabel="lead of the right letter\nover the placeholder",
             xlim=(0, 0.8), ylim=(-2.6, 2.2))
    return figure
