"""Attention maps of one trained model, a forward query beside a reverse one.

A map has a row for each position that attends and a column for each position that it attends to, with the tokens of the
query as labels. The paper's argument concerns one cell of each map: the attention weight of the mask on the evidence.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lib.one_layer import patching, task
from lib.one_layer.figures_play import FACT
from lib.one_layer.kept_models import centred_pairs, read_queries
from lib.one_layer.model import Transformer
from lib.record.figures import LINES

_DARK = 0.6  # attention weights above this are written in white


@torch.no_grad()
def attention_map(model: Transformer, asked: task.Queries) -> Float[Tensor, "length length"]:
    """Attention weights alpha_ij of one query, a row for each position i that attends; mean over heads.

    :param asked: a single query
    :raises ValueError: for several queries, and for a causal model or one of several layers
    """
    if len(asked) != 1:
        raise ValueError(f"asked: a map shows one query, not {len(asked)}")
    patching.check(model)
    return model.record(asked.tokens, "attention.weights")["attention.weights"][0][0].mean(0)


def attention_maps(model: Transformer, letter: int = FACT, distance: int | None = None) -> Figure:
    """Attention maps of a forward query and of its mirror image, the mask's attention distribution framed.

    :param letter: the fact, 0 to 25
    :param distance: between mask and evidence, 1 to L - 1; by default half the length
    :raises ValueError: for a distance that the model's length does not have, and see `attention_map`
    """
    length = model.settings.length
    pair = centred_pairs(length, letter, [length // 2 if distance is None else distance])
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 4.0))
    for axes, way, asked in zip(panels, task.DIRECTIONS, pair, strict=True):
        weights = attention_map(model, asked)
        shown = axes.imshow(weights.numpy(), cmap="Greys", vmin=0, vmax=1)
        _label(axes, asked, weights)
        axes.set_title(f"{way} query: {_answer(model, asked)}", fontsize=10, color=LINES[way]["color"])
        axes.add_patch(plt.Rectangle((-0.5, float(asked.position) - 0.5), length, 1, fill=False, linewidth=2.2,
                                     edgecolor=LINES[way]["color"]))
    panels[0].set_ylabel("token that attends")
    figure.colorbar(shown, ax=panels, label="attention weight", shrink=0.7)
    return figure


def _label(axes: Axes, asked: task.Queries, weights: Float[Tensor, "length length"]) -> None:
    """The tokens along both axes, and the mask's attention weight on the evidence in its cell."""
    tokens, mask, evidence = [*task.spell(asked.tokens[0])], int(asked.position), int(asked.evidence)
    axes.set_xticks(range(len(tokens)), tokens)
    axes.set_yticks(range(len(tokens)), tokens)
    axes.set_xlabel("token attended to")
    axes.grid(False)
    weight = float(weights[mask, evidence])
    axes.text(evidence, mask, f"{weight:.2f}", ha="center", va="center", fontsize=9,
              color="white" if weight > _DARK else "black")


def _answer(model: Transformer, asked: task.Queries) -> str:
    """The probabilities that the model gives the target and the placeholder, in words."""
    reading = read_queries(model, asked)
    chances = (reading.letter.item(), reading.placeholder.item())
    words = (task.ALPHABET[int(asked.target)], task.ALPHABET[task.PLACEHOLDER])
    return ", ".join(f"$p({word})={chance:.2f}$" for word, chance in zip(words, chances, strict=True))
