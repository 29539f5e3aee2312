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
    sequence: Int[Tensor, " rows"]  # that each row stands in
    position: Int[Tensor, " rows"]  # and where
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
    counted = np.flatnonzero(asked.weights)
    if not len(counted):
        raise ValueError("batch: not a single position is asked for; take a larger batch")
    spelled = asked.tokens.astype(np.uint8).view(f"V{length}")[:, 0]
    _, first, same = np.unique(spelled, return_index=True, return_inverse=True)
    sequence, position = np.divmod(asked.rows[counted], length)
    question = same[sequence] * length + position
    present = np.zeros(len(first) * length, dtype=bool)
    present[question] = True
    rows = np.flatnonzero(present)
    order = np.empty(len(present), dtype=np.int64)
    order[rows] = np.arange(len(rows))
    found = (asked.tokens[first], rows, *np.divmod(rows, length), order[question], asked.targets[counted],
             (asked.weights[counted] / batch).astype(np.float32))
    return Merged(*map(torch.from_numpy, found))


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
    """The asked rows of one member: attention forward and backward, all heads together, one after the other in rows."""

    def __init__(self, asked: Merged, tables: Tables, grid: Tensor, absolute: bool, buffers: Buffers) -> None:
        self.asked, self.tables, self.buffers = asked, tables, buffers
        self.length, self.heads = asked.tokens.shape[1], len(tables.scores)
        self.context = asked.tokens.index_select(0, asked.sequence)
        place = grid.index_select(0, asked.position).add_(self.context, alpha=stride(self.length, absolute))
        self.place = self._by_head(place, tables.scores.shape[1]).view(-1)
        self.stored = tables.stored.view(-1, tables.stored.shape[3])  # (heads * tokens * places, width)
        self.everywhere = tables.stored.shape[2] == 1  # values are free of position

    def _by_head(self, index: Int[Tensor, "some length"], size: int) -> Int[Tensor, "some heads_length"]:
        """Where each head finds the same, in heads' tables of that size which follow each other."""
        if self.heads == 1:
            return index
        return (index[:, None] + size * torch.arange(self.heads)[:, None]).flatten(1)

    def forward(self) -> Tensor:
        """The residual stream after attention: (rows, width)."""
        looked_up = self.tables.scores.view(-1).index_select(0, self.place)
        self.weights = torch.softmax(looked_up.view(-1, self.heads, self.length), -1)
        x = self.tables.stream
        if len(x) > 1:
            x = x.index_select(0, self.asked.position)
        mix = self._mass if self.everywhere else self._mixed
        return mix(x, self.weights.view(len(self.context), -1))

    def backward(self, g: Float[Tensor, "rows width"], out: Tables) -> None:
        """Gradient in the tables, given that in the stream after attention."""
        if len(out.stream) > 1:
            out.stream.zero_().index_add_(0, self.asked.position, g)
        else:
            torch.sum(g, 0, keepdim=True, out=out.stream)
        undo = self._mass_backward if self.everywhere else self._mixed_backward
        g_weights = undo(g, out.stored.view(self.stored.shape)).view(self.weights.shape)
        g_scores = torch._softmax_backward_data(g_weights, self.weights, -1, g.dtype)
        out.scores.zero_().view(-1).index_add_(0, self.place, g_scores.view(-1))

    # Values free of position: attention matters through the mass it puts on each token

    def _mass(self, x: Tensor, weights: Tensor) -> Tensor:
        self.tokens = self._by_head(self.context, TOKENS)
        self.mass = self.buffers("mass", x, len(weights), len(self.stored)).zero_()
        self.mass.scatter_add_(1, self.tokens, weights)
        return torch.addmm(x, self.mass, self.stored)

    def _mass_backward(self, g: Tensor, out: Tensor) -> Tensor:
        torch.mm(self.mass.T, g, out=out)
        return torch.mm(g, self.stored.T).gather(1, self.tokens)

    # Values with position: sequence by sequence

    def _mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        sequences, length = self.asked.tokens.shape
        full = self.buffers("full", x, sequences * length, weights.shape[1]).zero_()
        self.full = full.index_copy_(0, self.asked.rows, weights).view(sequences, length, -1)
        entry = self.asked.tokens * length + torch.arange(length)
        self.entry = self._by_head(entry, TOKENS * length).view(-1)
        self.values = self.stored.index_select(0, self.entry).view(sequences, -1, self.stored.shape[1])
        return x + torch.bmm(self.full, self.values).flatten(0, 1).index_select(0, self.asked.rows)

    def _mixed_backward(self, g: Tensor, out: Tensor) -> Tensor:
        sequences, length = self.asked.tokens.shape
        spread = self.buffers("spread", g, sequences * length, g.shape[1]).zero_()
        spread = spread.index_copy_(0, self.asked.rows, g).view(sequences, length, -1)
        g_values = torch.bmm(self.full.mT, spread).flatten(0, 1)
        out.zero_().index_add_(0, self.entry, g_values)
        return torch.bmm(spread, self.values.mT).flatten(0, 1).index_select(0, self.asked.rows)


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
