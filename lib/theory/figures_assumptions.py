"""Figures of the chapter on the assumptions: what each conclusion becomes as one hypothesis is given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.record.figures import LINES
from lib.theory.flows import MaskFlow

_DASHED: dict[str, Any] = {"color": "k", "linestyle": (0, (5, 2))}


def coupled_planes(
    distances: Float[np.ndarray, " distances"], mean: Float[np.ndarray, " distances"],
    equal_blocks: Float[np.ndarray, " distances"], bound: Float[np.ndarray, " distances"],
) -> Figure:
    """Correlation under coupled planes, on average and for a query with equal blocks, beside the bound."""
    figure, axes = plt.subplots(figsize=(6.4, 2.9))
    axes.plot(distances, mean, label="coupled planes, mean over q", markevery=6, **LINES["control"])
    axes.plot(distances, equal_blocks, label="one q with equal blocks", markevery=6, **LINES["autoregressive"])
    axes.plot(distances, bound, label=r"bound $T_4(2\Delta)$", **LINES["bound"])
    _finish(axes, xlabel=r"distance $\Delta$ (positions)", ylabel="correlation given q")
    return figure


def tilted_ellipse(
    tilts: Float[np.ndarray, " tilts"], correlations: Mapping[float, Float[np.ndarray, " tilts"]]
) -> Figure:
    """Correlation in one plane against the tilt.

    :param correlations: by the cosine c = cos(2 Delta), which the bound equals; two of them
    """
    figure, axes = plt.subplots(figsize=(6, 2.7))
    for (cosine, values), line in zip(correlations.items(), ("rope", "control"), strict=True):
        axes.plot(tilts, values, label=rf"$c=\cos2\Delta={cosine:.2f}$", markevery=5, **LINES[line])
        axes.axhline(cosine, linewidth=1, **_DASHED)
    axes.set(xlabel=r"tilt $\sigma$ (dashed: the bound $\sum w_ic_i$)", ylabel="correlation given q")
    axes.legend(fontsize=8)
    return figure


def traces_and_alignment(by_ratio: Mapping[float, float], by_alignment: Mapping[float, float], bound: float) -> Figure:
    """Mean correlation by the fastest plane's trace (left) and by keys' alignment across the query (right)."""
    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    left.semilogx([*by_ratio], [*by_ratio.values()], **LINES["control"])
    right.plot([*by_alignment], [*by_alignment.values()], **LINES["control"])
    for axes in (left, right):
        axes.axhline(bound, **_DASHED)
        axes.axhline(0, color="k", linewidth=0.6)
    left.set(xlabel="trace of the fastest plane, others 1", ylabel="mean correlation")
    right.set(xlabel=r"$\kappa_0$, all planes at $\kappa=-\kappa_0$")
    return figure


def route_strength(
    distances: Float[np.ndarray, " distances"], weights: Mapping[float, Float[np.ndarray, " distances"]]
) -> Figure:
    """Reverse attention weight on the evidence against its distance, by ALiBi's slope (three of them)."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    for (slope, values), line in zip(weights.items(), ("rope", "forward", "alibi"), strict=True):
        axes.semilogy(distances, values, label=rf"$\alpha_r$, $\mu={slope:g}$", markevery=6, **LINES[line])
    axes.axhline(1, label="score correlation", **_DASHED)
    axes.set(xlabel=r"reverse distance $\Delta_2$ (positions)", ylabel="weight, correlation")
    axes.legend(fontsize=8)
    return figure


def two_targets(
    confidence: Float[np.ndarray, " points"], one: Float[np.ndarray, " points"], two: Float[np.ndarray, " points"]
) -> Figure:
    """Inner product of the errors for one and for two targets, against the confidence of both predictions."""
    figure, axes = plt.subplots(figsize=(6, 2.6))
    axes.plot(confidence, one, label="one target", markevery=5, **LINES["forward"])
    axes.plot(confidence, two, label="two targets", markevery=5, **LINES["control"])
    _finish(axes, xlabel="probability of the own target in each prompt",
            ylabel=r"$\langle\epsilon_f,\epsilon_r\rangle$")
    return figure


def stretched_unembedding(
    stretches: Float[np.ndarray, " stretches"], alignments: Mapping[float, Float[np.ndarray, " stretches"]]
) -> Figure:
    """Alignment of the signals against the stretch of U U^T, by the wrong mass that the prompts share (three)."""
    figure, axes = plt.subplots(figsize=(6, 2.7))
    for (overlap, values), line in zip(alignments.items(), ("control", "rope", "forward"), strict=True):
        axes.plot(stretches, values, label=f"shared wrong mass {overlap:g}", markevery=4, **LINES[line])
    axes.axvline(3, **_DASHED)
    _finish(axes, xlabel=r"stretch $\Lambda/\lambda$ of $UU^\top$",
            ylabel="signals' inner product, divided\nby the norms of the errors")
    return figure


def mask_column(runs: Mapping[float, MaskFlow], shown: float) -> Figure:
    """Above, attention on the evidence by its start (four runs); below, both columns' margins in the run ``shown``."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.6, 5.6))
    lines = iter(("control", "reverse", "forward", "rope"))
    for start, run in runs.items():
        if start == shown:
            below.plot(run.clock, run.evidence_margin, label="$m_B$, evidence", markevery=25, **LINES["forward"])
            below.plot(run.clock, run.mask_margin, label=r"$m_{\mathsf{M}}$, mask", markevery=25, **LINES["control"])
        else:
            above.plot(run.clock, run.attention, label=rf"$\alpha_f(0)={start:g}$", markevery=25, **LINES[next(lines)])
    above.set(xlabel=r"clock $\tau$", ylabel=r"attention weight $\alpha_f$ on B")
    below.set(xlabel=r"clock $\tau$", ylabel=rf"storage margin, $\alpha_f(0)={shown:g}$")
    for axes in (above, below):
        axes.legend(fontsize=8)
    return figure


def _finish(axes: Axes, **labels: str) -> None:
    """Labels, the zero line and a legend."""
    axes.axhline(0, color="k", linewidth=0.7)
    axes.set(**labels)
    axes.legend(fontsize=8)
