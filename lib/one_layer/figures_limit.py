"""Figures of what the limit of frozen attention predicts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.one_layer import limit_predictions as read
from lib.one_layer.figures_interventions import nothing_recorded, recorded
from lib.one_layer.results import final
from lib.record.figures import LINES, band, dots, legend_below

#: encoding -> how its models are drawn
ENCODING_STYLES = {"rope": LINES["rope"], "learned": LINES["forward"], "alibi_directional": LINES["alibi"],
          "t5": LINES["reverse"], "none": LINES["autoregressive"], "alibi": LINES["control"]}


def predicted_and_answered(rule: str = "expected") -> Figure:
    """Measured against predicted reverse accuracy, one mark a model: attention learned, frozen, and with MLP."""
    plain, full = read.limit_cases(False), read.limit_cases(True)
    kinds = (("no MLP,\nattention learned", plain, False), ("no MLP,\nattention frozen", plain, True),
             ("with MLP,\nend of training", full, True))
    figure, panels = plt.subplots(1, 3, figsize=(7.2, 3.1), sharey=True)
    for panel, (title, cases, frozen) in zip(panels, kinds, strict=True):
        panel.plot([0, 100], [0, 100], **{**LINES["bound"], "linewidth": 1})
        for run in cases.values():
            point = -1 if frozen else read.learned_point(run)
            line = ENCODING_STYLES[run["parameters"]["encoding"]] | {"linestyle": "none", "markersize": 5}
            panel.plot(final(run, f"{rule}_reverse", point), read.answered(run, point), **line)
        panel.set(title=title, xlim=(-4, 104), ylim=(-4, 104))
    panels[1].set_xlabel("predicted reverse accuracy (%)")
    panels[0].set_ylabel("measured reverse accuracy (%)")
    shown = {run["parameters"]["encoding"] for mlp in (False, True) for run in read.limit_cases(mlp).values()}
    for name in [name for name in ENCODING_STYLES if name in shown]:
        panels[0].plot([], [], label=read.ENCODING_WORDS[name], **{**ENCODING_STYLES[name], "linestyle": "none"})
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return figure


def rise_and_fall() -> Figure:
    """Probability of the target along training without MLP, by our recipe and without the blocking questions."""
    runs = recorded({"our recipe": read.case(False), "blocking questions dropped":
                     read.case(False, intervention="drop_right_of_capital")})
    if not runs:
        return nothing_recorded()
    figure, panels = plt.subplots(1, len(runs), figsize=(7.2, 2.8), sharey=True, squeeze=False)
    for panel, (title, run) in zip(panels[0], runs.items(), strict=True):
        steps = np.array(run["curves"]["steps"]) + 1
        for way in ("forward", "reverse"):
            band(panel, steps, run["curves"][f"{way}_probability"], label=way, **LINES[way])
        panel.axvline(run["parameters"]["attention_steps"] + 1, **{**LINES["bound"], "linewidth": 1})
        panel.set(title=title, xscale="log", xlabel="step (plus 1)", ylim=(-0.02, 1.02))
    panels[0][0].set_ylabel("probability of the target")
    panels[0][0].legend(fontsize=8)
    return figure


def side_by_length() -> Figure:
    """AUC of a probe of the query's direction, from two parts of the attention distribution, by length."""
    runs = recorded({length: read.case(True, length=length) for length in (10, 20, 30, 40)})
    if not runs:
        return nothing_recorded()
    figure, panel = plt.subplots(figsize=(5.4, 2.8))
    parts = {"evidence": ("attention weight on the evidence", LINES["rope"]),
             "rest": ("rest of the attention distribution", LINES["control"])}
    for shift, (part, (label, line)) in zip((-0.1, 0.1), parts.items(), strict=True):
        for place, run in enumerate(runs.values()):
            dots(panel, place + shift, read.side_probe(run, part), **line)
        panel.plot([], [], label=label, **{**line, "linestyle": "none"})
    panel.set_xticks(range(len(runs)), [f"$L={length}$" for length in runs])
    panel.set(ylabel="AUC of the direction", ylim=(0.4, 1.02))
    legend_below(figure, panel, 2)
    return figure
