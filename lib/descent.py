"""Loss and gradient of one training step of a masked one-layer ensemble, written out.

What depends on the vocabulary alone are three small tables (`lib.vocabulary`). Here is what is done at the asked rows:
look-ups, softmax, MLP, unembedding and loss, and the way back, member by member in few passes over reused memory.

Equal questions are asked once: sequences that look alike after masking (in a batch where nearly everything is hidden,
many do) share their rows, and a row may carry several answers. Answers of weight zero are not asked. Neither changes
the loss or its gradient by more than rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import kernels
from lib.kernels import Buffers, Perceptron
from lib.letters import MASK, TOKENS
from lib.objectives import Asked
from lib.vocabulary import Tables

Weights = dict[str, Tensor]
MLP = tuple(f"blocks.0.mlp.{name}" for name in ("up.weight", "up.bias", "down.weight", "down.bias"))

class Merged(NamedTuple):
    """One member's different questions, and the answers to each."""

    tokens: Int[Tensor, "sequences length"]
    rows: Int[Tensor, " rows"]  # of the flattened sequences
    which: Int[Tensor, " answers"]  # the row that each answer belongs to
    targets: Int[Tensor, " answers"]
    weights: Float[Tensor, " answers"]


def merge(asked: Asked, batch: int = 1) -> Merged:
    """Ask what is asked several times once, and what weighs nothing not at all; weights a sequence of the batch.

    :raises ValueError: if a row is no mask, or no answer has any weight
    """
    length = asked.tokens.shape[1]
    if (asked.tokens.reshape(-1)[asked.rows] != MASK).any():
        raise ValueError("rows: a masked model is asked at masked positions only")
    spelled = np.ascontiguousarray(asked.tokens, dtype=np.uint8).view(f"V{length}")[:, 0]
    _, first, same = np.unique(spelled, return_index=True, return_inverse=True)
    counted = np.flatnonzero(asked.weights)
    if not len(counted):
        raise ValueError("batch: not a single position is asked for; take a larger batch")
    rows = asked.rows[counted]
    rows = same[rows // length] * length + rows % length
    present = np.zeros(len(first) * length, dtype=bool)
    present[rows] = True
    which = present.cumsum()[rows] - 1
    found = asked.tokens[first], np.flatnonzero(present), which, asked.targets[counted]
    weights = torch.from_numpy((asked.weights[counted] / batch).astype(np.float32))
    return Merged(*map(torch.from_numpy, found), weights)  # type: ignore[call-arg]


def places(length: int, absolute: bool) -> Int[Tensor, "length length"]:
    """Where the table has the score from a mask at i to token 0 at j; other tokens follow at steps of `stride`.

    Under a relative encoding the table runs over offsets j - i from -(L - 1) to L - 1, then tokens; under an
    absolute one over i, tokens, j.
    """
    position = torch.arange(length)
    if absolute:
        return position[:, None] * (TOKENS * length) + position
    return (position - position[:, None] + length - 1) * TOKENS


def stride(length: int, absolute: bool) -> int:
    """Distance in the table from a token to the next."""
    return length if absolute else 1


class _Rows:
    """The asked rows of one member: attention forward and backward."""

    def __init__(self, asked: Merged, tables: Tables, grid: Tensor, absolute: bool, buffers: Buffers) -> None:
        self.asked, self.tables, self.buffers = asked, tables, buffers
        self.length = asked.tokens.shape[1]
        self.heads, entries = tables.scores.shape
        self.position = asked.rows % self.length
        self.context = asked.tokens.index_select(0, asked.rows // self.length)
        place = grid.index_select(0, self.position).add_(self.context, alpha=stride(self.length, absolute))
        self.place = place + entries * torch.arange(self.heads)[:, None, None]  # (heads, rows, length)
        self.everywhere = tables.stored.shape[2] == 1  # values are free of position

    def forward(self) -> Tensor:
        """The residual stream after attention: (rows, width)."""
        looked_up = self.tables.scores.view(-1).index_select(0, self.place.view(-1))
        self.weights = torch.softmax(looked_up.view(self.place.shape), -1)
        stream = self.tables.stream
        x = stream.index_select(0, self.position) if len(stream) > 1 else stream.expand(len(self.position), -1)
        mix = self._mass if self.everywhere else self._mixed
        return mix(x)

    def backward(self, g: Float[Tensor, "rows width"], out: Tables) -> None:
        """Gradient in the tables, given that in the stream after attention."""
        if len(out.stream) > 1:
            out.stream.zero_().index_add_(0, self.position, g)
        else:
            torch.sum(g, 0, keepdim=True, out=out.stream)
        g_weights = (self._mass_backward if self.everywhere else self._mixed_backward)(g, out.stored)
        g_scores = torch._softmax_backward_data(g_weights, self.weights, -1, g.dtype)
        out.scores.zero_().view(-1).index_add_(0, self.place.view(-1), g_scores.view(-1))

    # Values free of position: attention matters through the mass it puts on each token

    def _mass(self, x: Tensor) -> Tensor:
        mass = self.buffers("mass", x, self.heads, len(x), TOKENS).zero_()
        self.tokens = self.context.expand(self.heads, -1, -1)
        self.mass = mass.scatter_add_(2, self.tokens, self.weights)
        for share, stored in zip(mass, self.tables.stored, strict=True):
            x = torch.addmm(x, share, stored[:, 0])
        return x

    def _mass_backward(self, g: Tensor, out: Tensor) -> Tensor:
        g_mass = torch.empty_like(self.mass)
        for share, g_share, stored, g_stored in zip(self.mass, g_mass, self.tables.stored, out, strict=True):
            torch.mm(share.T, g, out=g_stored[:, 0])
            torch.mm(g, stored[:, 0].T, out=g_share)
        return g_mass.gather(2, self.tokens)

    # Values with position: sequence by sequence

    def _mixed(self, x: Tensor) -> Tensor:
        sequences, length = self.asked.tokens.shape
        full = self.buffers("full", x, self.heads, sequences * length, length).zero_()
        self.full = full.index_copy_(1, self.asked.rows, self.weights).view(-1, sequences, length, length)
        self.entry = (self.asked.tokens * length + torch.arange(length)).view(-1)
        self.values = [stored.flatten(0, 1).index_select(0, self.entry).view(sequences, length, -1)
                       for stored in self.tables.stored]
        for share, values in zip(self.full, self.values, strict=True):
            x = x + torch.bmm(share, values).flatten(0, 1).index_select(0, self.asked.rows)
        return x

    def _mixed_backward(self, g: Tensor, out: Tensor) -> Tensor:
        sequences, length = self.asked.tokens.shape
        spread = self.buffers("spread", g, sequences * length, g.shape[1]).zero_()
        spread = spread.index_copy_(0, self.asked.rows, g).view(sequences, length, -1)
        g_full = torch.empty_like(self.full)
        for share, g_share, values, g_stored in zip(self.full, g_full, self.values, out, strict=True):
            torch.bmm(spread, values.mT, out=g_share)
            g_values = torch.bmm(share.mT, spread)
            g_stored.zero_().flatten(0, 1).index_add_(0, self.entry, g_values.flatten(0, 1))
        return g_full.flatten(1, 2).index_select(1, self.asked.rows)


class Descent:
    """Loss and gradient of one member after the other, in memory used again from step to step."""

    def __init__(self, length: int, absolute: bool) -> None:
        self.absolute, self.grid, self.buffers = absolute, places(length, absolute), Buffers()

    def __call__(
        self, asked: Merged, tables: Tables, weights: Weights, g_tables: Tables, g: Weights
    ) -> Float[Tensor, ""]:
        """Weighted sum of -log p over the answers of one member.

        :param weights: by name, all but those that act through the tables
        :param g_tables: filled with the gradient in the tables
        :param g: filled with the gradient in the weights
        """
        rows = _Rows(asked, tables, self.grid, self.absolute, self.buffers)
        thought, undone = self._think(rows.forward(), weights, g)
        scale = weights.get("norm.weight")
        normed, *statistics = kernels.norm_forward(thought, scale)
        logits = torch.addmm(weights["head.bias"], normed, weights["head.weight"].T)
        loss, g_logits = kernels.cross_entropy(logits, asked.which, asked.targets, asked.weights)
        torch.mm(g_logits.T, normed, out=g["head.weight"])
        torch.sum(g_logits, 0, out=g["head.bias"])
        g_normed = g_logits @ weights["head.weight"]
        g_thought = kernels.norm_backward(g_normed, thought, tuple(statistics), scale, g.get("norm.weight"))
        rows.backward(undone(g_thought), g_tables)
        return loss

    def _think(self, x: Tensor, weights: Weights, g: Weights) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The stream after the MLP, and the function from its gradient to that of ``x``."""
        if MLP[0] not in weights:
            return x, lambda gradient: gradient
        scale, g_scale = (part.get("blocks.0.norm2.weight") for part in (weights, g))
        normed, *statistics = kernels.norm_forward(x, scale)
        mlp, g_mlp = (Perceptron(*(part[name] for name in MLP)) for part in (weights, g))
        hidden, gate, active = (self.buffers(name, x, len(x), len(mlp.up)) for name in ("hidden", "gate", "active"))
        linear, thought = self.buffers.linear(hidden), self.buffers("thought", x, *x.shape)
        kernels.mlp_forward(normed, mlp, hidden, gate, active, thought, linear)

        def undone(gradient: Tensor) -> Tensor:
            g_normed = self.buffers("g_normed", x, *x.shape)
            kernels.mlp_backward(gradient, normed, mlp, hidden, gate, active, linear, hidden, gate, g_normed, g_mlp)
            return gradient + kernels.norm_backward(g_normed, x, tuple(statistics), scale, g_scale)

        return thought.add_(x), undone
