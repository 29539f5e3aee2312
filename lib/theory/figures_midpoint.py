"""A figure to play with: whether the reverse query is answered depends on the side of the midpoint it lies on."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.record.figures import LINES
from lib.record.interactive import Interactive, Slider, Value, interactive_figure
from lib.theory import validation
from lib.theory.late_training import Separator, Task, reverse_limit_with_placeholder, solve_flow
from lib.theory.validation import Count, Number

LOG_TIME = 40  # how far the flow is followed


def midpoint(alpha_plus: Number, alpha_minus: Number, alpha_reverse: Number, facts: Count = 26) -> Interactive:
    """The margin of a reverse query in the limit and its probability along training, by attention.

    Starts at the given attentions.

    :param facts: N
    :raises ValueError: for attention outside (0, 1], or equal in both kinds of prompts
    """
    task = Task(alpha_plus, alpha_minus, facts)
    validation.attention_mass("alpha_reverse", alpha_reverse)
    hundredths = [round(step / 100, 2) for step in range(1, 101)]
    slider = lambda name, label, start: Slider.over(name, label, hundredths, start, lambda value: f"{value:.4g}")
    sliders = [
        slider("alpha_plus", "attention α<sub>+</sub>, forward prompts", alpha_plus),
        slider("alpha_minus", "attention α<sub>−</sub>, placeholder prompts", alpha_minus),
        slider("alpha_reverse", "attention <i>a</i><sub>r</sub>, reverse query", alpha_reverse),
        Slider("log_time", "log training time", range(LOG_TIME + 1), 8),
    ]
    values = [Value("midpoint", "midpoint"), Value("margin", "margin of the reverse query, limit"),
              Value("forward", "forward probability, at this time"),
              Value("reverse", "reverse probability, at this time"), Value("limit", "reverse probability, limit")]
    return interactive_figure(
        "midpoint", "On which side of the midpoint is the reverse query?", Path(__file__).with_name("midpoint.js"),
        sliders=sliders, values=values, still=_still(task, alpha_reverse),
        panels=["Margin of the letter over the placeholder against attention on the evidence",
                "Probability of the letter along training, forward and reverse"],
        given={"facts": task.facts, "forward_share": task.forward_share, "log_time": LOG_TIME, "steps_a_unit": 10},
        alt=f"Left, the margin of the letter over the placeholder goes along a line from minus one at attention "
            f"{alpha_minus:g} to plus one at {alpha_plus:g} and is zero at the midpoint {task.midpoint:g}. Right, the "
            f"forward probability tends to one; that of a reverse query with attention {alpha_reverse:g} tends to "
            f"{reverse_limit_with_placeholder(alpha_plus, alpha_minus, alpha_reverse, facts)[0]:.3g}.",
        caption=f"{facts} facts. Left: the margin in the limit, in units of the smallest margin of a training prompt; "
                "the dashed line is the midpoint, and queries in the shaded part are answered. Right: the probability "
                "of the letter from weights of zero on, forward (line) and reverse (dashed); with sliders, the dashed "
                "upright is the time.")


def _still(task: Task, alpha_reverse: Number) -> Figure:
    figure, (left, right) = plt.subplots(1, 2)
    found, flow = Separator(task), solve_flow(task, LOG_TIME)
    alphas = np.array([0.0, 1.0])
    lead = lambda alpha: alpha * found.x + (1 - alpha) * found.y
    left.plot(alphas, lead(alphas), color="black", linestyle="-")
    answered = (task.midpoint, 1) if task.gap > 0 else (0, task.midpoint)
    left.axvspan(*answered, color="#009E73", alpha=0.12, linewidth=0)
    left.axvline(task.midpoint, **LINES["bound"], label="midpoint")
    point = {"linestyle": "none", "markersize": 8}
    left.plot(task.alpha_plus, 1, **LINES["forward"] | point, label="forward prompts")
    left.plot(task.alpha_minus, -1, **LINES["control"] | point, label="placeholder prompts")
    left.plot(alpha_reverse, lead(alpha_reverse), **LINES["reverse"] | point, label="reverse query")
    left.set(xlabel="attention on the evidence", ylabel="margin, limit", ylim=(-4, 4))
    for way, alpha in (("forward", task.alpha_plus), ("reverse", alpha_reverse)):
        right.plot(flow.log_time, flow.probability(alpha), **LINES[way] | {"marker": ""})
    right.set(xlabel="log training time", ylabel="probability of the letter", ylim=(-0.02, 1.02))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure
