"""Figures of App. B: the trace bound, its certificates, high probability, unequal distances, and how tight it is.

Curves of a closed form are evaluated here, at the points that the picture needs; what has to be computed comes as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.record.figures import LINES
from lib.theory import bounds, tightness
from lib.theory.validation import Number

LOOKS = ("rope", "forward", "alibi", "reverse", "autoregressive")  # of head dimensions, in their order
BASE_LOOKS = ("forward", "rope", "alibi")  # of the bases of three models
Enclosure = tuple[float, float]


def _zero_line(axes: Axes) -> None:
    axes.axhline(0, color="k", linewidth=0.6)


def _dimensions(axes: Axes, dims: Sequence[int]) -> None:
    """A logarithmic axis of head dimensions, with a tick at each of these."""
    axes.set(xscale="log", xticks=dims, xticklabels=dims, xlabel="head dimension $d$")
    axes.minorticks_off()


# The trace bound and its certificates -------------------------------------------------------------------------


def trace_bound_curves(
    head_dims: Sequence[int], farthest: int, base: Number, printed: Sequence[tuple[int, float]] = ()
) -> Figure:
    """T_d and its limit against the total distance, with the least value at even integers (Table 3) marked.

    :param printed: total distance and value of each of the paper's minima
    """
    x, even = np.linspace(0, 2 * farthest, 2001), 2 * np.arange(1, farthest + 1)
    figure, axes = plt.subplots()
    for d, look in zip(head_dims, LOOKS, strict=False):
        axes.plot(x, bounds.trace_bound(x, d, base), label=f"$d={d}$", **LINES[look] | {"marker": ""})
        at = even[np.argmin(bounds.trace_bound(even, d, base))]
        axes.plot(at, bounds.trace_bound(at, d, base), color=LINES[look]["color"], marker=LINES[look]["marker"])
    axes.plot(x, bounds.trace_bound_limit(x, base), label=r"$d\to\infty$", **LINES["bound"])
    if printed:
        axes.plot(*zip(*printed, strict=True), label="Table 3", zorder=3, **LINES["paper"])
    axes.set(xlabel=r"total distance $x=\Delta_1+\Delta_2$ (positions)", ylabel="$T_d(x)$", ylim=(0, 1.02))
    axes.legend(ncols=2)
    return figure


def certified_minima(enclosures: Mapping[tuple[str, int, int], Enclosure]) -> Figure:
    """Certified minima against the head dimension, a line for each base and interval.

    :param enclosures: (name of the base, right end of the interval, head dimension) -> enclosure of the minimum
    """
    names, highs, dims = (list(dict.fromkeys(part)) for part in zip(*enclosures, strict=True))
    figure, axes = plt.subplots(figsize=(7.2, 2.8))
    for name, look in zip(names, BASE_LOOKS, strict=True):
        for high, dashes in zip(highs, (":", "-"), strict=True):
            lower = [enclosures[name, high, d][0] for d in dims]
            axes.plot(range(len(dims)), lower, label=f"{name}, $[0,{high}]$", **LINES[look] | {"linestyle": dashes})
    axes.set_xticks(range(len(dims)), [f"$d={d}$" for d in dims])
    axes.set(ylabel="certified minimum", ylim=(0, 0.75))
    axes.legend(ncols=3, fontsize=7, loc="lower center")
    return figure


def guaranteed_contexts(
    floors: Mapping[str, tuple[list[float], list[float]]], contexts: Mapping[tuple[str, int], int]
) -> Figure:
    """Left, the least bound within a context; right, the longest context with a positive bound.

    :param floors: name of the base -> contexts in tokens and the certified floor within each, at d = 128
    :param contexts: (name of the base, head dimension) -> tokens
    """
    dims = list(dict.fromkeys(d for _, d in contexts))
    figure, (left, right) = plt.subplots(1, 2)
    for (name, (lengths, lows)), look in zip(floors.items(), BASE_LOOKS, strict=True):
        left.plot(lengths, lows, label=name, **LINES[look])
        right.plot(dims, [contexts[name, d] for d in dims], label=name, **LINES[look])
    left.set(xscale="log", xlabel="context $L$ (tokens)", ylabel="least bound in it, $d=128$", ylim=(0, 1))
    _dimensions(right, dims)
    right.set(yscale="log", ylabel="guaranteed context (tokens)")
    right.legend(fontsize=8)
    return figure


def minima_by_dimension(minima: Mapping[int, float], limit: float) -> Figure:
    """Certified minimum on [0, 100] against the head dimension, beside the limit at 100."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    axes.plot(list(minima), list(minima.values()), label="certified minimum on $[0,100]$", **LINES["rope"])
    axes.axhline(limit, label=r"limit $d\to\infty$ at $x=100$", color="k", linestyle=(0, (5, 2)))
    _zero_line(axes)
    _dimensions(axes, [16, 64, 256, 1024])
    axes.set(ylabel="$\\min T_d$")
    axes.legend()
    return figure


# High probability ---------------------------------------------------------------------------------------------


def cantelli_curves(farthest: Number, base: Number, printed: Mapping[tuple[int, int, float], float]) -> Figure:
    """Cantelli's bound against the distance, d = 128 and 256, t = 0.1, 0.2, 0.3.

    :param printed: (distance, head dimension, threshold) -> the paper's value (Table 4); empty for another base
    """
    along = np.linspace(1, farthest, 400)
    figure, panels = plt.subplots(1, 2, sharey=True)
    for panel, d in zip(panels, (128, 256), strict=True):
        for t, look in zip((0.1, 0.2, 0.3), ("rope", "forward", "reverse"), strict=True):
            panel.plot(along, bounds.cantelli(along, t, d, base), label=f"$t={t}$", **LINES[look] | {"marker": ""})
        points = {place: value for place, value in printed.items() if place[1] == d}
        if points:
            panel.plot([x for x, *_ in points], list(points.values()), label="Table 4", **LINES["paper"])
        panel.set(title=f"$d={d}$", xlabel=r"distance $\Delta$ (positions)", ylim=(0.35, 1))
    panels[0].set(ylabel=r"lower bound on $P(\mathrm{Corr}\geq t)$")
    panels[0].legend(fontsize=8)
    return figure


def tail_beside_cantelli(farthest: Number, base: Number, printed: Mapping[float, float]) -> Figure:
    """What Cantelli's bound and the exact tail leave open, d = 128: by threshold at distance 50, by distance at 0.3.

    :param printed: threshold -> the paper's bound at distance 50 (Table 4); empty for another base
    """
    thresholds, fine = np.linspace(-0.1, 0.6, 141), np.linspace(1, farthest, 300)
    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    for name, bound, look in (("Cantelli", bounds.cantelli, "control"), ("exact", bounds.exact_tail, "rope")):
        missed = lambda *where, bound=bound: np.maximum(1 - bound(*where, 128, base), 1e-12)
        left.plot(thresholds, missed(50.0, thresholds), label=name, markevery=20, **LINES[look])
        right.plot(fine, missed(fine, 0.3), markevery=30, **LINES[look])
    if printed:
        left.plot(list(printed), [1 - value for value in printed.values()], label="Table 4", zorder=3, **LINES["paper"])
    left.set(yscale="log", ylim=(1e-9, 1.5), xlabel="threshold $t$", ylabel=r"$P(\sum w_ic_i<t)$",
             title=r"$\Delta=50$, $d=128$")
    right.set(xlabel=r"distance $\Delta$ (positions)", title="$t=0.3$, $d=128$")
    left.legend(fontsize=8, loc="lower right")
    return figure


# Unequal distances --------------------------------------------------------------------------------------------


def expected_surrogate_maps(maps: Mapping[int, Float[np.ndarray, "side side"]]) -> Figure:
    """The exact expected worst-case surrogate, a map a head dimension; a cross at the least for distances from 1 on."""
    figure, panels = plt.subplots(1, len(maps), figsize=(7.2, 2.7), sharey=True, squeeze=False)
    for panel, (d, values) in zip(panels[0], maps.items(), strict=True):
        image = panel.imshow(values.T, origin="lower", vmin=0, vmax=1, cmap="cividis")
        first, second = np.unravel_index(values[1:, 1:].argmin(), values[1:, 1:].shape)
        panel.plot(second + 1, first + 1, "wx", markersize=8, markeredgewidth=2, clip_on=False)
        panel.set(title=f"$d={d}$: {values[1:, 1:].min():.3f}", xlabel=r"$\Delta_1$ (positions)")
        panel.grid(False)
    panels[0, 0].set(ylabel=r"$\Delta_2$ (positions)")
    figure.colorbar(image, ax=panels, label=r"$\mathbb{E}\,\inf_\kappa\widehat{C}$", shrink=0.8)
    return figure


def grids_of_table_5(
    maps: Mapping[int, Float[np.ndarray, "side side"]], printed: Mapping[int, float],
    simulated: Mapping[int, Mapping[int, Float[np.ndarray, " repeats"]]],
) -> Figure:
    """Left, the exact minimum against the grid's size; right, printed values against minima of noisy estimates.

    :param printed: head dimension -> the paper's minimum; empty for settings without one
    :param simulated: head dimension -> samples a cell -> simulated minima over distances 0 to 30
    """
    figure, (left, right) = plt.subplots(1, 2)
    for (d, values), look in zip(maps.items(), LOOKS, strict=False):
        sizes = range(5, len(values))
        left.plot(sizes, [values[: n + 1, : n + 1].min() for n in sizes], label=f"$d={d}$", **LINES[look], markevery=5)
        if d in printed:
            stars = LINES["paper"] | {"color": LINES[look]["color"], "markeredgecolor": "black", "markersize": 11}
            left.plot([30, 50], [printed[d]] * 2, zorder=3, **stars)
            away = [(printed[d] - least.mean()) / least.std() for least in simulated[d].values()]
            right.plot(list(simulated[d]), away, **LINES[look])
    left.set(xlabel="grid $0\\leq\\Delta_1,\\Delta_2\\leq n$", ylabel="exact minimum", ylim=(0.1, 0.8))
    left.set_title("stars: printed, at $n=30$ and $50$", fontsize=9)
    left.legend(fontsize=8)
    right.axhspan(-1, 1, color="k", alpha=0.08)
    right.set(xscale="log", xlabel="samples a cell", ylabel="printed minus simulated (sd)", ylim=(-3, 2))
    right.set_title("noisy minimum over 0 to 30", fontsize=9)
    return figure


def surrogate_and_repair(
    correlation: Float[np.ndarray, " queries"], surrogate: Float[np.ndarray, " queries"],
    minima: Mapping[int, float], repaired: Mapping[int, float],
) -> Figure:
    """Left, the correlation minus the surrogate, query by query; right, both minima over the grid by head dimension.

    :param minima: head dimension -> least expected surrogate; ``repaired``: the same of the repaired bound
    """
    figure, (left, right) = plt.subplots(1, 2)
    left.plot(surrogate, correlation - surrogate, ".", color=LINES["rope"]["color"], markersize=2)
    _zero_line(left)
    left.axvline(0, color="k", linewidth=0.6)
    left.set(xlabel=r"surrogate $\widehat{C}$, worst $\kappa$", ylabel=r"correlation minus $\widehat{C}$")
    left.set_title(rf"{len(surrogate):,} queries, $d=64$, $\Delta=(21, 50)$", fontsize=9)
    right.plot(list(minima), list(minima.values()), label="surrogate", **LINES["control"])
    right.plot(list(repaired), list(repaired.values()), label="repaired", **LINES["rope"])
    _zero_line(right)
    _dimensions(right, list(repaired))
    right.set(ylabel="minimum over 1 to 50")
    right.legend()
    return figure


# How tight the bound is ---------------------------------------------------------------------------------------


def aligned_means(farthest: Number, head_dim: int, base: Number) -> Figure:
    """Expected correlation against the distance for constant alignments; dotted: its ceiling by Jensen's inequality."""
    distances = np.linspace(0, farthest, 300)
    figure, axes = plt.subplots()
    for kappa, look in zip((0.0, 0.3, 0.6, 0.9), ("rope", "forward", "alibi", "reverse"), strict=True):
        mean = tightness.aligned_mean(distances, kappa, head_dim, base)
        axes.plot(distances, mean, label=rf"$\kappa={kappa}$", **LINES[look], markevery=30)
        ceiling = tightness.shifted(bounds.trace_bound(2 * distances, head_dim, base), kappa)
        axes.plot(distances, ceiling, color=LINES[look]["color"], linestyle=(0, (1, 2)), linewidth=1)
    axes.set(xlabel=r"distance $\Delta$ (positions)", ylabel=r"$\mathbb{E}\,\mathrm{Corr}$, dotted: ceiling",
             ylim=(0, 1.02))
    axes.legend(ncols=4, loc="lower left")
    return figure


def misaligned_means(head_dim: int, base: Number) -> Figure:
    """Guaranteed mean correlation against the allowed misalignment kappa_0; crosses: the exact mean at -kappa_0."""
    allowances = np.linspace(0, 0.98, 50)
    figure, axes = plt.subplots(figsize=(6, 3))
    for distance, look in zip((5, 20, 50), ("rope", "forward", "reverse"), strict=True):
        mean_of = lambda function, distance=distance: lambda k0: function(distance, k0, head_dim, base)
        axes.plot(allowances, list(map(mean_of(tightness.misaligned_bound), allowances)), label=rf"$\Delta={distance}$",
                  **LINES[look], markevery=8)
        exact = list(map(mean_of(tightness.aligned_mean), -allowances[::7]))
        axes.plot(allowances[::7], exact, "+", color=LINES[look]["color"])
    _zero_line(axes)
    axes.set(xlabel=r"allowed misalignment $\kappa_0$", ylabel="guaranteed mean (+: exact mean)")
    axes.legend()
    return figure


def unequal_traces(farthest: Number, head_dim: int, base: Number) -> Figure:
    """The expected bound against the distance where variances of planes fall or rise with the plane's index."""
    planes, along = np.arange(head_dim // 2) / (head_dim // 2), np.linspace(0, farthest, 251)
    tilts = ((0, "equal traces", "rope"), (4, "slow planes vary more", "forward"),
             (-4, "fast planes vary more", "control"), (-12, "much more", "reverse"))
    figure, axes = plt.subplots()
    for tilt, name, look in tilts:
        mean = tightness.unequal_traces_mean(along, np.exp(tilt * planes), base)
        axes.plot(along, mean, label=name, **LINES[look], markevery=25)
    _zero_line(axes)
    axes.set(xlabel=r"distance $\Delta$ (positions)", ylabel=r"$\mathbb{E}\sum_iw_ic_i$", ylim=(-1, 1.05))
    axes.legend(ncols=2, fontsize=8)
    return figure
