"""Figures of what the theory says beyond its own model: other encodings, and models trained autoregressively."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.record.figures import LINES

LN_V = r"$\ln|\mathcal{V}|$"  # the loss of guessing
_Curves = Mapping[str, Float[np.ndarray, " points"]]


def _chance_line(axes: Axes, chance: float, label: str = "") -> None:
    """The loss or the probability of guessing."""
    axes.axhline(chance, color="k", linestyle=(0, (5, 2)), label=label)


def encodings_compared(reach: Int[np.ndarray, " points"], correlations: _Curves, transfers: _Curves) -> Figure:
    """Above, mean score correlation against the distance; below, mean storage transfer against the evidence's move."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.6, 6.4))
    for axes, curves, looks in (
        (above, correlations, ("alibi", "forward", "rope", "reverse", "autoregressive")),
        (below, transfers, ("alibi", "control", "autoregressive")),
    ):
        for (name, values), look in zip(curves.items(), looks, strict=True):
            axes.semilogx(reach, values, label=name, markevery=3, **LINES[look])
        axes.legend(fontsize=8, loc="lower left")
    above.set(xlabel=r"distance $\Delta_1=\Delta_2$ (positions)", ylabel="mean score correlation", ylim=(-0.2, 1.05))
    below.set(xlabel="move of the evidence (positions)", ylabel="mean storage transfer", ylim=(0, 1.05))
    return figure


def _along_training(
    axes: Axes, curves: _Curves, looks: Sequence[str], chance: float, label: str = "", every: int = 1
) -> None:
    """_Curves against the gradient step, a point every ``every`` steps, with the line of guessing."""
    for (name, values), look in zip(curves.items(), looks, strict=True):
        steps = np.arange(len(values)) * every
        axes.plot(steps, values, label=name, markevery=max(1, len(steps) // 6), **LINES[look])
    _chance_line(axes, chance, label)
    axes.set(xlabel="gradient steps")
    axes.legend(fontsize=8)


def two_models_trained_forward(autoregressive: _Curves, masked: _Curves, chance: float) -> Figure:
    """Mean forward and reverse loss of an autoregressive and a masked model trained on the same facts."""
    figure, panels = plt.subplots(1, 2, sharey=True)
    for axes, curves, title in zip(panels, (autoregressive, masked),
                                   ("autoregressive, bilinear", "masked, forward prompts only"), strict=True):
        _along_training(axes, curves, ("forward", "reverse"), chance)
        axes.set(title=title)
    panels[0].set(ylabel="mean loss (nats)")
    return figure


def losses_by_dimension(dims: Sequence[int], ends: _Curves, chance: float, steps: int) -> Figure:
    """Final forward and reverse loss of the bilinear model against its embedding dimension."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    for way in ("forward", "reverse"):
        axes.semilogx(dims, ends[way], label=way, **LINES[way])
    _chance_line(axes, chance, LN_V)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.set(xlabel="embedding dimension d", ylabel=f"loss after {steps} steps (nats)")
    axes.minorticks_off()
    axes.legend()
    return figure


def chain_asked(written: Float[np.ndarray, " times"], direct: Float[np.ndarray, " times"], chance: float) -> Figure:
    """Probability of C given A along training on A -> B and B -> C, in two steps and asked directly."""
    figure, axes = plt.subplots(figsize=(6, 2.7))
    _along_training(axes, {"B written down first": written, "asked directly": direct}, ("forward", "reverse"), chance,
                    "chance")
    axes.set(ylabel="probability of C given A")
    return figure


def causal_losses(losses: _Curves, chance: float, every: int) -> Figure:
    """Losses of the causal layer along training: forward, reverse trained too, reverse held out."""
    figure, axes = plt.subplots(figsize=(6.4, 2.8))
    _along_training(axes, losses, ("forward", "alibi", "reverse"), chance, LN_V, every)
    axes.set(ylabel="mean loss (nats)")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
