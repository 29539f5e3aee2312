"""Loss and gradient of one training step of a masked one-layer ensemble, written out.

What depends on the vocabulary alone are three small tables (`lib.one_layer.fast.tables`). Here is what is done at the asked rows:
look-ups, softmax, MLP, unembedding and loss, and the way back, member by member, in memory used again: products by
torch, and what lies between two of them in one pass of `lib.one_layer.fast.kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.one_layer.fast import kernels
from lib.one_layer.fast.tables import Tables
from lib.one_layer.fast.unique import UniqueBatch
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import CLEAN, TOKENS

Weights = dict[str, Tensor]
NORMS = "blocks.0.norm2.weight", "norm.weight"
MLP_WEIGHTS = tuple(f"blocks.0.mlp.{name}" for name in ("up.weight", "up.bias", "down.weight", "down.bias"))


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


class TorchAndNumpy(NamedTuple):
    """One piece of memory, as torch multiplies it and as `lib.one_layer.fast.kernels` loops over it."""

    tensor: Tensor
    array: np.ndarray

    @classmethod
    def of(cls, tensor: Tensor) -> TorchAndNumpy:
        return cls(tensor, tensor.detach().numpy())


class Activations(NamedTuple):
    """What one pass over the rows fills, forward and backward; (rows, ...) each."""

    weights: TorchAndNumpy  # attention's, (rows, heads length)
    x: TorchAndNumpy  # the stream after attention, (rows, width)
    seen: TorchAndNumpy  # normed
    thought: TorchAndNumpy  # the stream after the MLP
    normed: TorchAndNumpy
    g_normed: TorchAndNumpy
    g: TorchAndNumpy  # in the stream
    hidden: TorchAndNumpy  # h, (rows, 4 width)
    gate: TorchAndNumpy  # s = sigmoid(u(h))
    active: TorchAndNumpy  # h s; then the gradient in it, and in h
    logits: TorchAndNumpy  # (rows, clean); then the gradient in them


class Workspace:
    """Rooms in memory that is used again in every step: contents last until the next request."""

    def __init__(self, settings: ModelConfig) -> None:
        width, heads = settings.width, settings.heads
        columns = [heads * settings.length, *[width] * 6, *[4 * width] * 3, CLEAN]
        self._held = [torch.empty(0, count) for count in columns]
        self._rooms: dict[int, Activations] = {}  # those of each number of rows are made once

    def __call__(self, rows: int) -> Activations:
        """A room, uninitialised, of that many rows."""
        if rows > len(self._held[0]):
            self._held = [torch.empty(rows + rows // 8, held.shape[1]) for held in self._held]
            self._rooms = {}
        if rows not in self._rooms:
            self._rooms[rows] = Activations(*(TorchAndNumpy.of(held[:rows]) for held in self._held))
        return self._rooms[rows]


class Attention:
    """Attention at the asked rows, forward and backward."""

    def __init__(self, settings: ModelConfig) -> None:
        self.heads, absolute = settings.heads, settings.absolute
        self.grid, self.stride = places(settings.length, absolute).numpy(), stride(settings.length, absolute)

    def forward(self, asked: UniqueBatch, tables: Tables, room: Activations) -> None:
        """Fills the room's ``x`` with the residual stream after attention."""
        self.rows = asked.tokens, asked.sequence, asked.position
        self.scores, self.stored, stream = (table.numpy() for table in tables)
        self.weights = room.weights.array.reshape(len(asked.rows), self.heads, -1)
        kernels.attention_weights(*self.rows, self.grid, self.stride, self.scores, self.weights)
        kernels.retrieve(*self.rows, self.weights, self.stored, stream, room.x.array)

    def backward(self, room: Activations, out: Tables) -> None:
        """Fills ``out`` with the gradient in the tables, given the room's ``g``."""
        g_tables = (table.numpy() for table in out)
        kernels.retrieve_backward(
            *self.rows, self.grid, self.stride, self.weights, self.stored, room.g.array, *g_tables)


class Norm:
    """Layer norm, forward and backward; without a weight nothing is normed.

    :param weight: (width,)
    :param g: filled with the gradient in it
    """

    def __init__(self, weight: Float[Tensor, " width"] | None, g: Float[Tensor, " width"] | None) -> None:
        self.weight, self.g = (None if part is None else part.numpy() for part in (weight, g))

    def forward(self, x: TorchAndNumpy, out: TorchAndNumpy) -> TorchAndNumpy:
        """``x`` normed: ``out``, or what needs no norm."""
        self.x = x
        if self.weight is None:
            return x
        self.statistics = np.empty((2, len(x.array)), np.float32)
        kernels.norm_forward(x.array, self.weight, out.array, *self.statistics)
        return out

    def backward(self, g: TorchAndNumpy, g_x: TorchAndNumpy, total: Float[np.ndarray, " width"]) -> None:
        """Adds the gradient in what was normed last to ``g_x``, given that in the outcome; ``total`` is its sum."""
        if self.weight is None:
            g_x.tensor.add_(g.tensor)
            g_x.array.sum(0, out=total)
        else:
            kernels.norm_backward(g.array, self.x.array, self.weight, *self.statistics, g_x.array, self.g, total)


class MLP:
    """The MLP of one member on the residual stream, forward and backward.

    :param weights: by name
    :param g: of the same names, filled with the gradient in each
    """

    def __init__(self, weights: Weights, g: Weights) -> None:
        self.norm = Norm(weights.get(NORMS[0]), g.get(NORMS[0]))
        self.up, self.up_bias, self.down, self.down_bias = (weights[name] for name in MLP_WEIGHTS)
        self.g_up, self.g_up_bias, self.g_down, self.g_down_bias = (g[name] for name in MLP_WEIGHTS)

    def forward(self, room: Activations) -> None:
        """The room's ``thought`` from its ``x``."""
        self.seen = self.norm.forward(room.x, room.seen)
        torch.addmm(self.up_bias, self.seen.tensor, self.up.T, out=room.hidden.tensor)
        kernels.gelu_forward(room.hidden.array, room.gate.array, room.active.array)
        torch.add(room.x.tensor, self.down_bias, out=room.thought.tensor)
        room.thought.tensor.addmm_(room.active.tensor, self.down.T)

    def backward(self, room: Activations) -> None:
        """Adds to the room's ``g`` what goes through the MLP."""
        g, g_hidden = room.g.tensor, room.active.tensor
        torch.mm(g.T, room.active.tensor, out=self.g_down)
        torch.mm(g, self.down, out=g_hidden)
        kernels.gelu_backward(room.hidden.array, room.gate.array, room.active.array, self.g_up_bias.numpy())
        torch.mm(g_hidden.T, self.seen.tensor, out=self.g_up)
        torch.mm(g_hidden, self.up, out=room.g_normed.tensor)
        self.norm.backward(room.g_normed, room.g, np.empty(g.shape[1], np.float32))


class MemberStep:
    """Loss and gradient of one member, in memory used again from step to step. The weights may change in place.

    :param weights: by name, all but those that act through the tables
    :param g: of the same names, filled with the gradient in each
    :param attention: of these settings; members may share it, as they may share ``buffers``
    """

    def __init__(self, weights: Weights, g: Weights, attention: Attention, buffers: Workspace) -> None:
        self.attention, self.buffers = attention, buffers
        self.mlp = MLP(weights, g) if MLP_WEIGHTS[0] in weights else None
        self.norm = Norm(weights.get(NORMS[1]), g.get(NORMS[1]))
        self.head, self.bias = weights["head.weight"], weights["head.bias"]
        self.g_head, self.g_bias = g["head.weight"], g["head.bias"]

    def __call__(self, asked: UniqueBatch, tables: Tables, g_tables: Tables) -> float:
        """Weighted sum of -log p over the answers; fills ``g_tables`` with its gradient in the tables.

        :raises ValueError: if there are none
        """
        if not len(asked.answers):
            raise ValueError("batch: not a single position is asked for; take a larger batch")
        room = self.buffers(len(asked.rows))
        self.attention.forward(asked, tables, room)
        if self.mlp is not None:
            self.mlp.forward(room)
        loss = self._loss(asked, room, room.x if self.mlp is None else room.thought)
        if self.mlp is not None:
            self.mlp.backward(room)
        self.attention.backward(room, g_tables)
        return loss

    def _loss(self, asked: UniqueBatch, room: Activations, x: TorchAndNumpy) -> float:
        """The loss, and its gradient in the stream ``x``, which becomes the room's ``g``."""
        normed, logits = self.norm.forward(x, room.normed).tensor, room.logits.tensor
        torch.addmm(self.bias, normed, self.head.T, out=logits)
        each = np.empty(len(asked.rows), np.float32)
        loss = kernels.cross_entropy(room.logits.array, asked.answers, asked.weights, each, self.g_bias.numpy())
        torch.mm(logits.T, normed, out=self.g_head)
        torch.mm(logits, self.head, out=room.g_normed.tensor)
        room.g.tensor.zero_()
        total = np.empty(self.head.shape[1], np.float32) if self.mlp is None else self.mlp.g_down_bias.numpy()
        self.norm.backward(room.g_normed, room.g, total)
        return loss
