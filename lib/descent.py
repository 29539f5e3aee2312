"""Loss and gradient of one training step of a masked one-layer ensemble, written out.

What depends on the vocabulary alone are three small tables (`lib.vocabulary`). Here is what is done at the asked rows:
look-ups, softmax, MLP, unembedding and loss, and the way back, member by member in few passes over reused memory.

Equal questions are asked once: sequences that look alike after masking (in a batch where nearly everything is hidden,
many do) share their rows, and a row may carry several answers. Answers of weight zero are not asked. Neither changes
the loss or its gradient by more than rounding.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import kernels
from lib.kernels import Buffers, Perceptron, Room
from lib.letters import CLEAN, MASK, TOKENS
from lib.objectives import Asked
from lib.transformer import Settings
from lib.vocabulary import Tables

Weights = dict[str, Tensor]
NORMS = "blocks.0.norm2.weight", "norm.weight"
MLP = tuple(f"blocks.0.mlp.{name}" for name in ("up.weight", "up.bias", "down.weight", "down.bias"))

class Merged(NamedTuple):
    """One member's different questions, and the answers to each."""

    tokens: Int[Tensor, "sequences length"]
    rows: Int[Tensor, " rows"]  # of the flattened sequences
    sequence: Int[Tensor, " rows"]  # that each row stands in
    position: Int[Tensor, " rows"]  # and where
    answers: Int[Tensor, " answers"]  # row * CLEAN + right token, the place of each answer in the flattened logits
    weights: Float[Tensor, " answers"]


def merge(asked: Asked, batch: int = 1) -> Merged:
    """Ask what is asked several times once, and what weighs nothing not at all; weights a sequence of the batch.

    :raises ValueError: if a row is no mask
    """
    return merge_steps(asked, len(asked.tokens), batch)[0]


def merge_steps(asked: Asked, size: int, batch: int = 1) -> list[Merged]:
    """The same for every ``size`` sequences, which belong to one step; many steps at a time take little longer."""
    length, reach = asked.tokens.shape[1], size * asked.tokens.shape[1]
    if (asked.tokens.reshape(-1)[asked.rows] != MASK).any():
        raise ValueError("rows: a masked model is asked at masked positions only")
    counted = np.flatnonzero(asked.weights)
    sequence, position = np.divmod(asked.rows[counted], length)
    question = _representatives(asked.tokens, size)[sequence] * length + position
    order = np.zeros(asked.tokens.size, dtype=np.int64)
    order[question] = 1
    rows = np.flatnonzero(order)
    order[rows] = np.arange(len(rows))
    ends = np.arange(0, asked.tokens.size + 1, reach)
    of_rows, of_answers = np.searchsorted(rows, ends), np.searchsorted(sequence * length, ends)
    answers = (order[question] - of_rows[:-1].repeat(np.diff(of_answers))) * CLEAN + asked.targets[counted]
    weights = (asked.weights[counted] / batch).astype(np.float32)
    rows = rows % reach
    parts = (_cut(ends // length, asked.tokens), *(_cut(of_rows, part) for part in (rows, *np.divmod(rows, length))),
             _cut(of_answers, answers), _cut(of_answers, weights))
    return [Merged(*each) for each in zip(*parts, strict=True)]


def _cut(ends: Int[np.ndarray, " some"], part: np.ndarray) -> list[Tensor]:
    """The pieces between ends."""
    at = ends.tolist()
    return [torch.from_numpy(part[start:end]) for start, end in itertools.pairwise(at)]


def _representatives(tokens: Int[np.ndarray, "sequences length"], size: int) -> Int[np.ndarray, " sequences"]:
    """For each sequence the first of those in the same step that look like it.

    Sequences are told apart by a random number each; those that share it by chance are merely not merged.
    """
    own = np.arange(len(tokens))
    _, first, same = np.unique(tokens @ _names(tokens.shape[1]) + own // size, return_index=True, return_inverse=True)
    found = first[same]
    return np.where((tokens[found] == tokens).all(1) & (found // size == own // size), found, own)


@functools.cache
def _names(length: int) -> Int[np.ndarray, " length"]:
    """A random number a position."""
    return np.random.default_rng(0).integers(2**63, size=length)


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


class Attention:
    """Attention at the asked rows, forward and backward; all heads together, one after the other within a row."""

    def __init__(self, settings: Settings) -> None:
        self.heads, self.absolute = settings.heads, settings.absolute
        self.grid, self.stride = places(settings.length, self.absolute), stride(settings.length, self.absolute)
        self.head, self.position = torch.arange(self.heads)[:, None], torch.arange(settings.length)
        self.by_row = Buffers(self.heads * TOKENS)
        self.by_position = Buffers(self.heads * settings.length, settings.width)

    def _by_head(self, index: Int[Tensor, "some length"], size: int) -> Int[Tensor, "some heads_length"]:
        """Where each head finds the same, in heads' tables of that size which follow each other."""
        return index if self.heads == 1 else (index[:, None] + size * self.head).flatten(1)

    def forward(self, asked: Merged, tables: Tables) -> Float[Tensor, "rows width"]:
        """The residual stream after attention."""
        self.asked, self.tables = asked, tables
        self.stored = tables.stored.view(-1, tables.stored.shape[3])  # (heads * tokens * places, width)
        context = asked.tokens.index_select(0, asked.sequence)
        place = self.grid.index_select(0, asked.position).add_(context, alpha=self.stride)
        self.place = self._by_head(place, tables.scores.shape[1]).view(-1)
        looked_up = tables.scores.view(-1).index_select(0, self.place)
        self.weights = torch.softmax(looked_up.view(len(context), self.heads, -1), -1)
        x = tables.stream if len(tables.stream) == 1 else tables.stream.index_select(0, asked.position)
        weights = self.weights.view(len(context), -1)
        return self._mass(x, weights, context) if self._everywhere() else self._mixed(x, weights)

    def backward(self, g: Float[Tensor, "rows width"], out: Tables) -> None:
        """Fills ``out`` with the gradient in the tables, given that in the stream after attention."""
        if len(out.stream) == 1:
            torch.sum(g, 0, keepdim=True, out=out.stream)
        else:
            out.stream.zero_().index_add_(0, self.asked.position, g)
        undo = self._mass_backward if self._everywhere() else self._mixed_backward
        g_weights = undo(g, out.stored.view(self.stored.shape)).view(self.weights.shape)
        g_scores = torch._softmax_backward_data(g_weights, self.weights, -1, g.dtype)
        out.scores.zero_().view(-1).index_add_(0, self.place, g_scores.view(-1))

    def _everywhere(self) -> bool:
        """Whether values are free of position: then attention matters through the mass it puts on each token."""
        return self.tables.stored.shape[2] == 1

    def _mass(self, x: Tensor, weights: Tensor, context: Tensor) -> Tensor:
        self.tokens = self._by_head(context, TOKENS)
        (mass,) = self.by_row(len(context))
        self.mass = mass.zero_().scatter_add_(1, self.tokens, weights)
        return torch.addmm(x, self.mass, self.stored)

    def _mass_backward(self, g: Tensor, out: Tensor) -> Tensor:
        torch.mm(self.mass.T, g, out=out)
        return torch.mm(g, self.stored.T).gather(1, self.tokens)

    # Values with position: sequence by sequence

    def _mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        sequences, length = self.asked.tokens.shape
        full, _ = self.by_position(sequences * length)
        self.full = full.zero_().index_copy_(0, self.asked.rows, weights).view(sequences, length, -1)
        self.entry = self._by_head(self.asked.tokens * length + self.position, TOKENS * length).view(-1)
        self.values = self.stored.index_select(0, self.entry).view(sequences, -1, self.stored.shape[1])
        return x + torch.bmm(self.full, self.values).flatten(0, 1).index_select(0, self.asked.rows)

    def _mixed_backward(self, g: Tensor, out: Tensor) -> Tensor:
        sequences, length = self.asked.tokens.shape
        _, spread = self.by_position(sequences * length)
        spread = spread.zero_().index_copy_(0, self.asked.rows, g).view(sequences, length, -1)
        out.zero_().index_add_(0, self.entry, torch.bmm(self.full.mT, spread).flatten(0, 1))
        return torch.bmm(spread, self.values.mT).flatten(0, 1).index_select(0, self.asked.rows)


def room_for(settings: Settings) -> Buffers:
    """Memory for the MLP at the asked rows, see `kernels.Room`, for its outcome and the gradient in its input."""
    return Buffers(*[4 * settings.width] * len(Room._fields), settings.width, settings.width)


class Descent:
    """Loss and gradient of one member, in memory used again from step to step. The weights may change in place.

    :param weights: by name, all but those that act through the tables
    :param g: of the same names, filled with the gradient in each
    :param attention: of these settings; members may share it, as they may share ``room``
    :param room: see `room_for`
    """

    def __init__(self, weights: Weights, g: Weights, attention: Attention, room: Buffers) -> None:
        self.attention, self.room = attention, room
        self.head, self.turned, self.bias = weights["head.weight"], weights["head.weight"].T, weights["head.bias"]
        self.g_head, self.g_bias = g["head.weight"], g["head.bias"]
        self.norms = [kernels.Norm(weights.get(name), g.get(name)) for name in NORMS]
        self.mlp, self.g_mlp = (
            Perceptron(*(part[name] for name in MLP)) if MLP[0] in part else None for part in (weights, g))

    def __call__(self, asked: Merged, tables: Tables, g_tables: Tables) -> Float[Tensor, ""]:
        """Weighted sum of -log p over the answers; fills ``g_tables`` with its gradient in the tables.

        :raises ValueError: if there are none
        """
        if not len(asked.answers):
            raise ValueError("batch: not a single position is asked for; take a larger batch")
        before, last = self.norms
        x = self.attention.forward(asked, tables)
        thought = x
        if self.mlp is not None:
            *room, out, g_x = self.room(len(asked.rows))
            thought = kernels.mlp_forward(before.forward(x), self.mlp, Room(*room), out).add_(x)
        normed = last.forward(thought)
        logits = torch.addmm(self.bias, normed, self.turned)
        loss, g_logits = kernels.cross_entropy(logits, asked.answers, asked.weights)
        torch.mm(g_logits.T, normed, out=self.g_head)
        torch.sum(g_logits, 0, out=self.g_bias)
        g = last.backward(torch.mm(g_logits, self.head))
        if self.mlp is not None and self.g_mlp is not None:
            kernels.mlp_backward(g, before.out, self.mlp, Room(*room), g_x, self.g_mlp, spend=True)
            g = before.backward(g_x).add_(g)
        self.attention.backward(g, g_tables)
        return loss
