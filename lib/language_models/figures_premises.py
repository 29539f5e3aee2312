"""Figures of Theorem 4.3 and its assumption in a language model: what `lib.language_models.score_premises` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.language_models.score_premises import ScorePremises
from lib.record import figures
from lib.record.figures import LINES

#: measure -> label of its axis, the value that the premise wants, and whether the axis is logarithmic
_BY_LAYER = {
    "planes": ("effective planes, share of $m$", 1.0, False),
    "traces": ("spread of traces", 0.0, False),
    "alignment": (r"alignment $\kappa$ (assumed $\geq0$)", 0.0, False),
    "forward": ("score variance over its planes'", 1.0, True),
}


def head_correlations_by_distance(found: Mapping[str, ScorePremises]) -> Figure:
    """Correlation of scores at +Delta and -Delta by distance, a panel a condition.

    The line is the median over heads, the bands hold 80 % of them and all of them; beside it the median of the heads'
    own bounds sum w c, and T_d.
    """
    figure, panels = plt.subplots(1, len(found), figsize=(7.2, 3.0), sharey=True, squeeze=False)
    for panel, (title, each) in zip(panels[0], found.items(), strict=True):
        heads = each.measured.reshape(-1, len(each.distances))
        for low, high, shade in ((0, 1, 0.12), (0.1, 0.9, 0.22)):
            panel.fill_between(each.distances, *np.quantile(heads, [low, high], axis=0), linewidth=0,
                               color=LINES["rope"]["color"], alpha=shade)
        panel.plot(each.distances, np.median(heads, 0), **LINES["rope"], label="measured")
        panel.plot(each.distances, np.median(each.bound, (0, 1)), **LINES["control"], label=r"own $\sum_iw_ic_i$")
        panel.plot(each.distances, each.guarantee, **LINES["bound"], label=r"$T_d(2\Delta)$")
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set_xscale("log", base=2)
        panel.set_xticks(each.distances[::2], each.distances[::2])
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(r"distance $\Delta$", fontsize=9)
    panels[0, 0].set(ylabel="correlation over evidence", ylim=(-1.05, 1.05))
    figures.legend_below(figure, panels[0, 0], 3)
    return figure


def premises_by_layer(found: Mapping[str, ScorePremises]) -> Figure:
    """Four measures of the premises by layer, a dot a head and the median of each layer; dashed, what is assumed.

    :param found: at most two conditions
    """
    figure, panels = plt.subplots(2, 2, figsize=(7.2, 4.8), sharex=True)
    for panel, (measure, (label, wanted, logarithmic)) in zip(panels.flat, _BY_LAYER.items(), strict=True):
        for (title, each), line, aside in zip(found.items(), ("rope", "control"), (-0.15, 0.15), strict=False):
            _by_layer(panel, getattr(each, measure), LINES[line], aside, title)
        panel.axhline(wanted, **LINES["bound"], label="assumed")
        panel.set_ylabel(label, fontsize=9)
        if logarithmic:
            panel.set_yscale("log", base=2)
            panel.set_yticks((0.5, 1, 2, 4), ("½", "1", "2", "4"))
    for panel in panels[1]:
        panel.set_xlabel("layer")
    figures.legend_below(figure, panels[0, 0], len(found) + 1)
    return figure


def _by_layer(
    panel: Any, values: Float[np.ndarray, "layer head"], line: Mapping[str, Any], aside: float, title: str
) -> None:
    layers = np.arange(len(values))
    panel.plot(layers + aside, values, **{**line, "linestyle": "none", "alpha": 0.35, "markersize": 3})
    panel.plot(layers + aside, np.median(values, 1), color=line["color"], linestyle=line["linestyle"], label=title)
