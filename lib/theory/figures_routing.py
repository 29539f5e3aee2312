"""A figure to play with: the correlation that RoPE guarantees, the exact one, and where the guarantee ends."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.record.interactive import Interactive, Slider, Value, interactive_figure, one_two_five
from lib.theory import bounds
from lib.theory.certificates import first_zero

_BASES: dict[float, str] = {500_000: " (LLaDA)", 1_000_000: " (Dream)"}


def rope_guarantee(
    head_dim: int = 128, base: float | int = 10_000, distance: float | int = 50, kappa: float | int = 0.5
) -> Interactive:
    """Bound, exact correlation and first zero of the bound, by head dimension, base, distances and alignment.

    :param head_dim: where it begins, like the others: 32, 64, 128 or 256
    :raises ValueError: for another head dimension
    """
    number = lambda value: f"{value:,.10g}"
    far = [round(1.1**power) for power in range(105)]
    sliders = (
        Slider("head_dim", "head dimension <i>d</i>", (32, 64, 128, 256), head_dim),
        Slider.over("base", "base of the frequencies", one_two_five(1_000, 2_000_000), base,
                    lambda value: number(value) + _BASES.get(value, "")),
        Slider.over("forward", "distance Δ<sub>1</sub>, forward", far, distance, number),
        Slider.over("reverse", "distance Δ<sub>2</sub>, reverse", far, distance, number),
        Slider.over("kappa", "alignment κ of the keys", [round(-0.5 + 0.05 * step, 2) for step in range(31)], kappa,
                    lambda value: f"{value:.2f}"),
    )
    values = [Value("bound", "trace bound"), Value("exact", "exact correlation"),
              Value("least", "bound of App. B.3"),
              Value("zero", "bound positive up to a total distance of", 1),
              Value("context", "so within a context, in tokens, of", 0)]
    return interactive_figure(
        "rope-guarantee", "How far does RoPE tie the two scores together?",
        Path(__file__).with_name("rope_guarantee.js"), sliders=sliders, values=values,
        panels=["Trace bound and exact correlation against the total distance"],
        still=_still(head_dim, base, kappa),
        alt=f"Trace bound and exact expected correlation against the total distance at head dimension {head_dim}, base "
            f"{number(base)} and alignment {kappa:g}: the exact value lies above the bound, which ends where it first "
            "reaches zero.",
        caption="Thin line and square: the trace bound of Theorem 4.3. Thick line and dot: the exact correlation, in "
                "the mean over queries, with the ratio of the two distances kept. Shaded: the bound is positive up to "
                "here.")


def _still(head_dim: int, base: float | int, kappa: float | int) -> Figure:
    figure, axes = plt.subplots()
    total = np.geomspace(2, 2e5, 300)
    zero = first_zero(head_dim, base)[0]
    axes.axvspan(2, zero, color="#009E73", alpha=0.12, linewidth=0, label="the bound is positive")
    axes.plot(total, bounds.trace_bound(total, head_dim, base), color="black", linestyle="-", linewidth=0.8,
              label="trace bound")
    exact = bounds.expected_correlation(total / 2, total / 2, kappa, head_dim, base, nodes=1)
    axes.plot(total, exact, color="#D55E00", linestyle="-", label="exact correlation")
    axes.set(xscale="log", xlabel="total distance, in positions", ylabel="correlation", ylim=(-0.4, 1))
    axes.legend(fontsize=9)
    return figure
