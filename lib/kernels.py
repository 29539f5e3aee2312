"""Forward and gradient written out by hand, where a training step spends its time: few passes, reused buffers.

GELU in its tanh form is h sigmoid(u(h)) with u = 2 sqrt(2/pi) (h + 0.044715 h^3), and the sigmoid is several times
cheaper than the tanh on a CPU. Members of an ensemble are done one after the other, so that one member's hidden layer
stays in cache.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
TINY = 1e-5  # what layer norm adds to the variance
layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class Buffers:
    """Matrices that are used again in every step: contents last until the next request.

    :param widths: columns of each
    """

    def __init__(self, *widths: int) -> None:
        self._widths, self._held = widths, [torch.empty(0, width) for width in widths]
        self._views: dict[int, list[Tensor]] = {}  # those of each number of rows are made once

    def __call__(self, rows: int) -> list[Tensor]:
        """The matrices, uninitialised, with that many rows."""
        if rows > len(self._held[0]):
            self._views, self._held = {}, [torch.empty(rows + rows // 8, width) for width in self._widths]
        if rows not in self._views:
            self._views[rows] = [held[:rows] for held in self._held]
        return self._views[rows]


class Perceptron(NamedTuple):
    """Weights of one MLP, or the gradients in them."""

    up: Tensor  # (inner, width)
    up_bias: Tensor  # (inner,)
    down: Tensor  # (width, inner)
    down_bias: Tensor  # (width,)


class Room(NamedTuple):
    """What one pass through an MLP fills, (rows, inner) each."""

    hidden: Tensor  # h
    gate: Tensor  # s = sigmoid(u(h))
    active: Tensor  # h s


@functools.cache
def _linear(inner: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`_LINEAR` for every column: to add a row to a matrix is much faster than to add a number."""
    with torch.inference_mode(False):  # whoever asks first, all may use it
        return torch.full((inner,), _LINEAR, dtype=dtype, device=device)


def mlp_forward(x: Tensor, weights: Perceptron, room: Room, out: Tensor) -> Tensor:
    """``out`` = down gelu(up x + up_bias) + down_bias; fills the room."""
    hidden, gate, active = room
    torch.addmm(weights.up_bias, x, weights.up.T, out=hidden)
    torch.addcmul(_linear(len(weights.up), x.dtype, x.device), hidden, hidden, value=_CUBIC, out=gate)
    gate.mul_(hidden).sigmoid_()
    torch.mul(hidden, gate, out=active)
    return torch.addmm(weights.down_bias, active, weights.down.T, out=out)


def mlp_backward(
    g_out: Tensor, x: Tensor, weights: Perceptron, room: Room, g_x: Tensor, g: Perceptron, spend: bool
) -> Tensor:
    """Fills ``g_x``, which is returned, and ``g``, given what the forward pass filled.

    :param spend: work in the room and not in memory of its own
    """
    hidden, gate, active = room
    torch.mm(g_out.T, active, out=g.down)
    torch.sum(g_out, 0, out=g.down_bias)
    # d active / d h = s + active (1 - s) u'(h), u' = LINEAR + 3 CUBIC h^2
    linear = _linear(len(weights.up), x.dtype, x.device)
    slope = torch.addcmul(linear, hidden, hidden, value=3 * _CUBIC, out=hidden if spend else None).mul_(active)
    slope.addcmul_(slope, gate, value=-1).add_(gate)
    g_hidden = torch.mm(g_out, weights.down, out=gate if spend else None).mul_(slope)
    torch.mm(g_hidden.T, x, out=g.up)
    torch.sum(g_hidden, 0, out=g.up_bias)
    return torch.mm(g_hidden, weights.up, out=g_x)


def gelu_mlp(
    x: Float[Tensor, "members rows width"],
    up: Float[Tensor, "members inner width"],
    up_bias: Float[Tensor, "members inner"],
    down: Float[Tensor, "members width inner"],
    down_bias: Float[Tensor, "members width"],
) -> Float[Tensor, "members rows width"]:
    """down gelu(up x + up_bias) + down_bias for each member, as autograd sees it."""
    return _GeluMLP.apply(x, up, up_bias, down, down_bias)


class _GeluMLP(Function):
    @staticmethod
    def forward(context: Any, *inputs: Tensor) -> Tensor:
        x, up, *_ = inputs
        out, rooms = torch.empty_like(x), [x.new_empty(*x.shape[:2], up.shape[1]) for _ in Room._fields]
        parts = zip(zip(*inputs, strict=True), zip(*rooms, strict=True), out, strict=True)
        for (one, *weights), room, own in parts:
            mlp_forward(one, Perceptron(*weights), Room(*room), own)
        context.save_for_backward(*inputs, *rooms)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        inputs, rooms = context.saved_tensors[:5], context.saved_tensors[5:]
        found = tuple(torch.empty_like(tensor) for tensor in inputs)
        parts = (zip(*tensors, strict=True) for tensors in (inputs, rooms, found))
        for g_out, (x, *weights), room, (g_x, *g) in zip(gradients[0], *parts, strict=True):
            mlp_backward(g_out, x, Perceptron(*weights), Room(*room), g_x, Perceptron(*g), spend=False)
        return found


class Norm:
    """Layer norm, forward and backward; without a weight nothing is normed.

    :param weight: (width,)
    :param g: filled with the gradient in it
    """

    def __init__(self, weight: Float[Tensor, " width"] | None, g: Float[Tensor, " width"] | None) -> None:
        self.weight, self.g = weight, g

    def forward(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """``x`` normed, also kept as ``out``."""
        self.x = self.out = x
        if self.weight is not None:
            self.out, *self.statistics = torch.native_layer_norm(x, self.weight.shape, self.weight, None, TINY)
        return self.out

    def backward(self, g: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Gradient in what was normed last, given that in the outcome."""
        if self.weight is None or self.g is None:
            return g
        wanted = [True, True, False]
        g_x, g_weight, _ = layer_norm_backward(
            g, self.x, self.weight.shape, *self.statistics, self.weight, None, wanted)
        self.g.copy_(g_weight)
        return g_x


def cross_entropy(
    logits: Float[Tensor, "rows clean"], answers: Int[Tensor, " answers"], weights: Float[Tensor, " answers"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows clean"]]:
    """Weighted sum of -log p over answers, and its gradient in the logits.

    :param answers: where each stands in the flattened logits; a row may carry several
    """
    logs = torch.log_softmax(logits, -1)
    g_logs = torch.zeros_like(logs)
    g_logs.view(-1).index_add_(0, answers, weights, alpha=-1)
    loss = torch.dot(g_logs.view(-1), logs.view(-1))
    return loss, torch._log_softmax_backward_data(g_logs, logs, -1, logs.dtype)
