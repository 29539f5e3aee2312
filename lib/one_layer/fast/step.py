"""Loss and gradient of one training step of a masked one-layer ensemble, written out.

Three small tables hold all that depends on the vocabulary alone (`lib.one_layer.fast.tables`). Here is what is done at
the asked rows: look-ups, softmax, MLP, unembedding and loss, and the way back, member by member, in memory used again:
products by torch, and what lies between two of them in one pass of `lib.one_layer.fast.kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.one_layer.fast import kernels
from lib.one_layer.fast.kernels import NormPass, TorchAndNumpy
from lib.one_layer.fast.tables import EnsembleTables, OneHeadTables, Tables, Weights, one_head_suffices
from lib.one_layer.fast.unique import UniqueBatch
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import CLEAN, TOKENS

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


class RowActivations(NamedTuple):
    """What one pass over the asked rows fills, forward and backward; (rows, ...) each."""

    weights: TorchAndNumpy  # attention's alpha, (rows, heads length)
    attended: TorchAndNumpy  # the stream after attention, (rows, width)
    mlp_input: TorchAndNumpy  # and normed
    transformed: TorchAndNumpy  # the stream after the MLP
    normed: TorchAndNumpy  # and normed
    g_normed: TorchAndNumpy
    g_stream: TorchAndNumpy
    hidden: TorchAndNumpy  # h, (rows, 4 width)
    gate: TorchAndNumpy  # s = sigmoid(u(h))
    active: TorchAndNumpy  # h s; then the gradient in it, and in h
    logits: TorchAndNumpy  # (rows, clean); then the gradient in them


class Workspace:
    """Activations in memory that is used again in every step: contents last until the next request."""

    def __init__(self, settings: ModelConfig) -> None:
        width, heads = settings.width, settings.heads
        columns = [heads * settings.length, *[width] * 6, *[4 * width] * 3, CLEAN]
        self._held = [torch.empty(0, count) for count in columns]
        self._views: dict[int, RowActivations] = {}  # those of each number of rows are made once

    def __call__(self, rows: int) -> RowActivations:
        """Uninitialised activations of that many rows."""
        if rows > len(self._held[0]):
            self._held = [torch.empty(rows + rows // 8, held.shape[1]) for held in self._held]
            self._views = {}
        if rows not in self._views:
            self._views[rows] = RowActivations(*(TorchAndNumpy.from_tensor(held[:rows]) for held in self._held))
        return self._views[rows]


class AttentionPass:
    """Attention at the asked rows, forward and backward."""

    def __init__(self, settings: ModelConfig) -> None:
        self.heads, absolute = settings.heads, settings.absolute
        self.grid, self.stride = places(settings.length, absolute).numpy(), stride(settings.length, absolute)

    def forward(self, batch: UniqueBatch, tables: Tables, a: RowActivations) -> None:
        """Fills ``a.weights`` and ``a.attended``, the residual stream after attention."""
        self.rows = batch.tokens, batch.sequence, batch.position
        self.scores, self.stored, stream = (table.numpy() for table in tables)
        self.weights = a.weights.array.reshape(len(batch.rows), self.heads, -1)
        # routing: alpha = softmax of the scores that each row sees
        kernels.attention_weights(*self.rows, self.grid, self.stride, self.scores, self.weights)
        # storage-routing: the stream + sum over tokens of alpha x stored value
        kernels.retrieve(*self.rows, self.weights, self.stored, stream, a.attended.array)

    def backward(self, a: RowActivations, g_tables: Tables) -> None:
        """Fills ``g_tables`` with the gradient in the tables, given ``a.g_stream``."""
        arrays = (table.numpy() for table in g_tables)
        kernels.retrieve_backward(
            *self.rows, self.grid, self.stride, self.weights, self.stored, a.g_stream.array, *arrays)


class MLPPass:
    """The MLP of one member on the residual stream, forward and backward.

    :param weights: by name
    :param g: of the same names, filled with the gradient in each
    """

    def __init__(self, weights: Weights, g: Weights) -> None:
        self.norm = NormPass(weights.get(NORMS[0]), g.get(NORMS[0]))
        self.up, self.up_bias, self.down, self.down_bias = (weights[name] for name in MLP_WEIGHTS)
        self.g_up, self.g_up_bias, self.g_down, self.g_down_bias = (g[name] for name in MLP_WEIGHTS)

    def forward(self, a: RowActivations) -> None:
        """Fills ``a.transformed`` from ``a.attended``."""
        # h = W_up norm(x) + b_up
        self.input = self.norm.forward(a.attended, a.mlp_input)
        torch.addmm(self.up_bias, self.input.tensor, self.up.T, out=a.hidden.tensor)
        # x + W_down gelu(h) + b_down
        kernels.gelu_forward(a.hidden.array, a.gate.array, a.active.array)
        torch.add(a.attended.tensor, self.down_bias, out=a.transformed.tensor)
        a.transformed.tensor.addmm_(a.active.tensor, self.down.T)

    def backward(self, a: RowActivations) -> None:
        """Adds to ``a.g_stream`` what goes through the MLP; its own biases and matrices on the way."""
        g, g_hidden = a.g_stream.tensor, a.active.tensor
        torch.mm(g.T, a.active.tensor, out=self.g_down)
        torch.mm(g, self.down, out=g_hidden)
        kernels.gelu_backward(a.hidden.array, a.gate.array, a.active.array, self.g_up_bias.numpy())
        torch.mm(g_hidden.T, self.input.tensor, out=self.g_up)
        torch.mm(g_hidden, self.up, out=a.g_normed.tensor)
        self.norm.backward(a.g_normed, a.g_stream, np.empty(g.shape[1], np.float32))


class MemberStep:
    """Loss and gradient of one member, in memory used again from step to step. The weights may change in place.

    :param weights: by name, all but those that act through the tables
    :param g: of the same names, filled with the gradient in each
    :param attention: of these settings; members may share it, as they may share ``workspace``
    """

    def __init__(self, weights: Weights, g: Weights, attention: AttentionPass, workspace: Workspace) -> None:
        self.attention, self.workspace = attention, workspace
        self.mlp = MLPPass(weights, g) if MLP_WEIGHTS[0] in weights else None
        self.norm = NormPass(weights.get(NORMS[1]), g.get(NORMS[1]))
        self.head, self.bias = weights["head.weight"], weights["head.bias"]
        self.g_head, self.g_bias = g["head.weight"], g["head.bias"]

    def __call__(self, batch: UniqueBatch, tables: Tables, g_tables: Tables) -> float:
        """Weighted sum of -log p over the answers; fills ``g_tables`` with its gradient in the tables.

        :raises ValueError: if there are none
        """
        if not len(batch.answers):
            raise ValueError("batch: not a single position is asked for; take a larger batch")
        a = self.workspace(len(batch.rows))
        # forward: attention, MLP
        self.attention.forward(batch, tables, a)
        if self.mlp is not None:
            self.mlp.forward(a)
        # logits and loss, and the gradient in the last stream
        loss = self._loss(batch, a, a.attended if self.mlp is None else a.transformed)
        # backward: MLP, attention
        if self.mlp is not None:
            self.mlp.backward(a)
        self.attention.backward(a, g_tables)
        return loss

    def _loss(self, batch: UniqueBatch, a: RowActivations, x: TorchAndNumpy) -> float:
        """The loss, and its gradient in the stream ``x``, which fills ``a.g_stream``."""
        # logits = U norm(x) + b
        normed, logits = self.norm.forward(x, a.normed).tensor, a.logits.tensor
        torch.addmm(self.bias, normed, self.head.T, out=logits)
        # sum of weight x -log p; the logits become their gradient
        each = np.empty(len(batch.rows), np.float32)
        loss = kernels.cross_entropy(a.logits.array, batch.answers, batch.weights, each, self.g_bias.numpy())
        # back through unembedding and norm; the sum over rows is the gradient in the MLP's last bias
        torch.mm(logits.T, normed, out=self.g_head)
        torch.mm(logits, self.head, out=a.g_normed.tensor)
        a.g_stream.tensor.zero_()
        total = np.empty(self.head.shape[1], np.float32) if self.mlp is None else self.mlp.g_down_bias.numpy()
        self.norm.backward(a.g_normed, a.g_stream, total)
        return loss


class FastStep:
    """Loss and gradient of all members: masked models of depth 1 without dropout, in single precision on the CPU.

    :param parameters: (members, parameters); used, not copied, and may change in place
    :param slices: name, columns and shape of each weight
    """

    def __init__(self, settings: ModelConfig, parameters: Float[Tensor, "members parameters"],
                 slices: Sequence[tuple[str, slice, torch.Size]]) -> None:
        self.gradient = torch.zeros_like(parameters)
        views = lambda buffer: {name: buffer[..., columns].view(*buffer.shape[:-1], *shape)
                                for name, columns, shape in slices}
        weights = views(parameters)
        members = [(views(one), views(g)) for one, g in zip(parameters, self.gradient, strict=True)]
        attention, workspace = AttentionPass(settings), Workspace(settings)
        self.members = [MemberStep(*each, attention, workspace) for each in members]
        self.tables, self.g_weights = EnsembleTables(settings, weights), views(self.gradient)
        self.own_tables = ([OneHeadTables(settings, *each) for each in members]
                           if one_head_suffices(settings, weights) else None)
        self.g_tables = Tables(*(torch.empty_like(table) for table in self.tables.forward()))
        self.g_own = [Tables(*own) for own in zip(*self.g_tables, strict=True)]  # by member

    def loss_and_gradient(
        self, batches: Sequence[UniqueBatch]
    ) -> tuple[Float[Tensor, " members"], Float[Tensor, "members parameters"]]:
        """Losses, nats a sequence, and the gradient, in memory that the next call writes to."""
        return torch.tensor(self._losses(batches)), self.gradient

    @torch.inference_mode()  # less to keep account of in every operation
    def _losses(self, batches: Sequence[UniqueBatch]) -> list[float]:
        if self.own_tables is not None:
            return [self._member_loss(*each)
                    for each in zip(self.members, batches, self.own_tables, self.g_own, strict=True)]
        # forward: the tables of all members at once, then each member's rows and their gradient in its tables
        tables = [Tables(*own) for own in zip(*self.tables.forward(), strict=True)]
        losses = [member(batch, own, g)
                  for member, batch, own, g in zip(self.members, batches, tables, self.g_own, strict=True)]
        # backward: from the tables into the weights
        self.tables.backward(self.g_tables, self.g_weights)
        return losses

    def _member_loss(self, member: MemberStep, batch: UniqueBatch, tables: OneHeadTables, g: Tables) -> float:
        """One member with tables of its own."""
        loss = member(batch, tables.forward(), g)
        tables.backward(g)
        return loss
