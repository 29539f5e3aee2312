"""Figure of `lib.language_models.attention_patching`: the effect of each patch by layer, a panel a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.language_models.attention_patching import PatchingEffects
from lib.record import figures
from lib.record.figures import LINES
from lib.record.report import resampled_interval


def patching_by_layer(
    found: Mapping[str, PatchingEffects], kind: str = "weights", score: str = "logit_difference", *,
    share: bool = False, smallest: float = 0.5,
) -> Figure:
    """Mean effect over facts of patches in one layer at a time, with 95 % bootstrap intervals over facts.

    :param found: title of the panel -> what `measure_patching` found, one layer at a time
    :param kind: patch whose matched and mismatched source are drawn beside the knockouts
    :param share: of the gap between forward and reverse query, not nats; a panel whose mean gap is not above
        ``smallest`` nats with its whole 95 % interval says so and stays empty
    """
    figure, panels = plt.subplots(1, max(len(found), 1), figsize=(7.2, 3), sharey=True, squeeze=False)
    for panel, (title, effects) in zip(panels[0], found.items(), strict=False):
        gap = effects.gap(score)
        low, high = resampled_interval(np.mean, gap)
        if share and low < smallest:
            said = f"mean gap {gap.mean():.2f} nats\n({low:.2f} to {high:.2f}):\ntoo small to divide by"
            panel.text(0.5, 0.5, said, ha="center", va="center", transform=panel.transAxes, fontsize=8)
        else:
            _effects(panel, effects, kind, score, smallest if share else None)
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set_title(title, fontsize=10)
        panel.set(xlabel="patched layer", xticks=effects.layers[:: max(1, len(effects.layers) // 6)])
    panels[0, 0].set_ylabel("share of the gap" if share else f"change in {score.replace('_', ' ')} (nats)", fontsize=9)
    filled = [panel for panel in panels[0] if panel.get_legend_handles_labels()[1]]
    if filled:
        figures.legend_below(figure, filled[0], 2)
    return figure


def _effects(panel: Any, effects: PatchingEffects, kind: str, score: str, smallest: float | None) -> None:
    """One line a patch; those that were not measured are left out."""
    for name, label, line in ((f"{kind}_matched", "forward query's, same fact", "rope"),
                              (f"{kind}_mismatched", "forward query's, another fact", "control"),
                              ("knockout_reverse", "knocked out in the reverse query", "reverse"),
                              ("knockout_forward", "knocked out in the forward query", "forward")):
        if name in effects.patched:
            cells = (effects.change(name, score), effects.gap(score))
            middle, ends = mean_effects(*cells, smallest)
            look = LINES[line]
            panel.plot(effects.layers, middle, **look | {"markersize": 3}, label=label)
            panel.fill_between(effects.layers, *ends, color=look["color"], alpha=0.15, linewidth=0)


def mean_effects(
    change: Float[np.ndarray, "fact layer"], gap: Float[np.ndarray, " fact"], smallest: float | None = None
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, "2 layer"]]:
    """Mean change of each layer and the ends of its 95 % bootstrap interval over facts.

    :param smallest: where given, mean change over mean gap, for gaps of at least so many nats
    """
    def effect(change: np.ndarray, gap: np.ndarray) -> float:
        divisor = 1.0 if smallest is None else gap.mean() if gap.mean() >= smallest else np.nan
        return float(change.mean() / divisor)

    pairs = [np.stack([layer, gap], 1) for layer in change.T]  # a fact's change and its gap are drawn together
    middle = [effect(*pair.T) for pair in pairs]
    ends = [resampled_interval(lambda pair: effect(*pair.T), pair, resamples=500) for pair in pairs]
    return np.array(middle), np.array(ends).T
