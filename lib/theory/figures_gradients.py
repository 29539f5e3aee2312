"""Figures of the chapter on gradients (Apps. C.1, C.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.record.figures import LINES, band

_MARKERS = "osD^v"


def error_cosine_histogram(
    one_target: Sequence[float] | Float[np.ndarray, " pairs"],
    two_targets: Sequence[float] | Float[np.ndarray, " pairs"],
) -> Figure:
    """Cosines between the errors of pairs of predictions, which their gradients in W share, and the floor of 1/2."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    for cosines, name, line, hatch in ((one_target, "one target", "forward", ""),
                                       (two_targets, "two targets", "control", "//")):
        axes.hist(cosines, bins=list(np.linspace(-1, 1, 61)), label=name, color=LINES[line]["color"], alpha=0.7,
                  hatch=hatch)
    axes.axvline(0.5, color="k", linestyle=(0, (5, 2)))
    axes.set(xlabel=r"$\cos(\epsilon_f,\epsilon_r)$", ylabel="pairs of predictions")
    axes.legend(loc="upper left")
    return figure


def contrast_in_training(
    paths: Mapping[tuple[int, int], Float[np.ndarray, " steps"]],
    slopes: Mapping[int, Float[np.ndarray, " facts"]],
) -> Figure:
    """Above, the contrast after each step; below, its first move against the share of tokens that are a target.

    :param paths: (length, number of facts) -> contrast
    :param slopes: length -> first move times the number of facts, for 1, 2, ..., n facts
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.6, 6))
    lengths = {length: _MARKERS[i % len(_MARKERS)] for i, length in enumerate(slopes)}
    several = dict(zip(sorted({facts for _, facts in paths}), (("control", "-"), ("rope", ":"), ("forward", "--")),
                       strict=True))
    for (length, facts), path in paths.items():
        line, dash = several[facts]
        above.plot(np.arange(1, len(path) + 1), path, marker=lengths[length], markevery=len(path) // 6, linestyle=dash,
                   color=LINES[line]["color"], label=f"L = {length}, {facts} fact" + "s" * (facts > 1))
    above.set(xlabel="gradient steps", ylabel=r"contrast $h_B-\bar h$")
    above.set_yscale("symlog", linthresh=0.1)
    figure.legend(*above.get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside upper center")
    for length, moves in slopes.items():
        below.plot(np.arange(1, len(moves) + 1) / len(moves), moves, marker=lengths[length], markevery=15,
                   label=f"L = {length}")
    below.set(xlabel="share of predictable tokens that are some fact's target, N / n",
              ylabel="first move of the contrast, times N")
    below.legend(fontsize=8)
    for axes in (above, below):
        axes.axhline(0, color="k", linewidth=0.8)
    return figure


def routes_in_training(
    steps: Float[np.ndarray, " times"], parts: Mapping[str, Float[np.ndarray, "seeds times"]],
    attention: Mapping[str, Float[np.ndarray, "seeds times"]],
) -> Figure:
    """Above, mean contributions to the gradient cosine; below, attention weight on the evidence.

    :param parts: "storage", "evidence" and "rest", see `effective_model.shares`
    :param attention: label -> attention weight, at the slower step size of the routing and at one step size
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.6, 5.6))
    for name, line, text in (("storage", "forward", "storage $W$"), ("evidence", "rope", "route through B"),
                             ("rest", "control", "other routes")):
        band(above, steps, parts[name], label=text, **LINES[line])
    above.axhline(0, color="k", linewidth=0.8)
    above.set(xlabel="training steps", ylabel="contribution to the\ngradient cosine", ylim=(-0.1, 1.05))
    for (label, runs), line in zip(attention.items(), ("reverse", "autoregressive"), strict=True):
        band(below, steps, runs, label=label, **LINES[line])
    below.set(xlabel="training steps", ylabel="forward attention weight on B", ylim=(0, 1))
    for axes in (above, below):
        axes.legend(fontsize=8)
    return figure


def negative_inner_products(
    scales: Float[np.ndarray, " scales"],
    found: Mapping[str, list[tuple[Float[np.ndarray, " models"], Float[np.ndarray, " models"]]]],
) -> Figure:
    """Share of random models with a negative gradient inner product, and of the storage terms in it, by weight scale.

    :param found: "rope" and "alibi" -> for each scale, whole inner product and its storage terms
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.6, 5.4))
    for name, pairs in found.items():
        text = {"rope": "RoPE", "alibi": "ALiBi"}[name]
        above.plot(scales, [100 * np.mean(whole < 0) for whole, _ in pairs], label=text, **LINES[name])
        shares = [np.median(np.abs(storage) / (np.abs(storage) + np.abs(whole - storage))) for whole, storage in pairs]
        below.plot(scales, shares, label=text, **LINES[name])
    for axes in (above, below):
        axes.set(xlabel="scale of all weights", xscale="log", xticks=[0.25, 0.5, 1, 2, 4])
        axes.set_xticklabels(["0.25", "0.5", "1", "2", "4"])
        axes.minorticks_off()
    above.set(ylabel="models with a negative\ninner product (percent)")
    below.set(ylabel="median share of the storage terms", ylim=(0, 1.05))
    above.legend()
    return figure
