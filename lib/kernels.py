"""Forward and gradient written out by hand, where a training step spends its time: few passes, reused buffers.

GELU in its tanh form is h sigmoid(u(h)) with u = 2 sqrt(2/pi) (h + 0.044715 h^3), and the sigmoid is several times
cheaper than the tanh on a CPU. Members of an ensemble are done one after the other, so that one member's hidden layer
stays in cache.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
TINY = 1e-5  # what layer norm adds to the variance


class Buffers:
    """Memory that is used again in every step: contents last until the same name is asked for again."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._linear: Tensor | None = None

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of that shape."""
        size, held = math.prod(shape), self._held.get(name)
        if held is None or held.numel() < size or held.dtype != like.dtype or held.device != like.device:
            held = self._held[name] = like.new_empty(size + size // 8)
        return held[:size].view(shape)

    def linear(self, like: Tensor) -> Tensor:
        """A tensor of that shape filled with what `mlp_forward` calls linear."""
        if self._linear is None or self._linear.numel() < like.numel():
            self._linear = like.new_full((like.numel() + like.numel() // 8,), _LINEAR)
        return self._linear[: like.numel()].view(like.shape)


class Perceptron(NamedTuple):
    """Weights of one MLP, or the gradients in them."""

    up: Tensor  # (inner, width)
    up_bias: Tensor  # (inner,)
    down: Tensor  # (width, inner)
    down_bias: Tensor  # (width,)


def mlp_forward(x: Tensor, weights: Perceptron, hidden: Tensor, gate: Tensor, active: Tensor, out: Tensor,
                linear: Tensor) -> None:
    """``out`` = down gelu(up x + up_bias) + down_bias; fills ``hidden`` h, ``gate`` s = sigmoid(u(h)), ``active`` h s.

    :param linear: `_LINEAR` everywhere: a pass over three tensors is much faster than one that broadcasts a number
    """
    torch.addmm(weights.up_bias, x, weights.up.T, out=hidden)
    torch.addcmul(linear, hidden, hidden, value=_CUBIC, out=gate)
    gate.mul_(hidden).sigmoid_()
    torch.mul(hidden, gate, out=active)
    torch.addmm(weights.down_bias, active, weights.down.T, out=out)


def mlp_backward(
    g_out: Tensor, x: Tensor, weights: Perceptron, hidden: Tensor, gate: Tensor, active: Tensor,
    linear: Tensor, slope: Tensor, g_hidden: Tensor, g_x: Tensor, g: Perceptron,
) -> None:
    """Fills ``g_x`` and ``g``, given what the forward pass filled.

    ``slope`` and ``g_hidden`` are room to work in; they may be ``hidden`` and ``gate`` where those have served.
    """
    torch.mm(g_out.T, active, out=g.down)
    torch.sum(g_out, 0, out=g.down_bias)
    # d active / d h = s + active (1 - s) u'(h), u' = LINEAR + 3 CUBIC h^2
    torch.addcmul(linear, hidden, hidden, value=3 * _CUBIC, out=slope)
    slope.mul_(active)
    slope.addcmul_(slope, gate, value=-1).add_(gate)
    torch.mm(g_out, weights.down, out=g_hidden)
    g_hidden.mul_(slope)
    torch.mm(g_hidden.T, x, out=g.up)
    torch.sum(g_hidden, 0, out=g.up_bias)
    torch.mm(g_hidden, weights.up, out=g_x)


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
        x, up, up_bias, down, down_bias = inputs
        filled = [x.new_empty(*x.shape[:2], up.shape[1]) for _ in range(3)]
        out, linear = torch.empty_like(x), torch.full_like(filled[0][0], _LINEAR)
        for member, (one, *weights, hidden, gate, active) in enumerate(zip(*inputs, *filled, strict=True)):
            mlp_forward(one, Perceptron(*weights), hidden, gate, active, out[member], linear)
        context.save_for_backward(x, up, up_bias, down, down_bias, *filled, linear)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        *saved, linear = context.saved_tensors
        found = [torch.empty_like(tensor) for tensor in saved[:5]]
        slope, g_hidden = torch.empty_like(linear), torch.empty_like(linear)
        parts = zip(gradients[0], *saved, *found, strict=True)
        for g_out, x, *weights, hidden, gate, active, g_x, g_up, g_up_bias, g_down, g_down_bias in parts:
            mlp_backward(g_out, x, Perceptron(*weights), hidden, gate, active, linear, slope, g_hidden, g_x,
                         Perceptron(g_up, g_up_bias, g_down, g_down_bias))
        return tuple(found)


def norm_forward(x: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
    """Layer norm and what its gradient needs; without a weight, ``x`` itself."""
    if weight is None:
        return (x,)
    return torch.native_layer_norm(x, x.shape[-1:], weight, None, TINY)


def norm_backward(g: Tensor, x: Tensor, statistics: tuple[Tensor, ...], weight: Tensor | None,
                  g_weight: Tensor | None) -> Tensor:
    """Gradient in ``x``, given the statistics that the forward pass returned; fills ``g_weight``."""
    if weight is None or g_weight is None:
        return g
    wanted = [True, True, False]
    g_x, found, _ = torch.ops.aten.native_layer_norm_backward(g, x, x.shape[-1:], *statistics, weight, None, wanted)
    g_weight.copy_(found)
    return g_x


def cross_entropy(
    logits: Float[Tensor, "rows clean"], which: Tensor, targets: Tensor, weights: Float[Tensor, " answers"]
) -> tuple[Tensor, Float[Tensor, "rows clean"]]:
    """Weighted sum of -log p(target) over answers, each to the question in row ``which``; and its gradient in the
    logits. One row may carry several answers."""
    logs = torch.log_softmax(logits, -1)
    g_logs = torch.zeros_like(logs)
    g_logs.view(-1).index_add_(0, which * logits.shape[1] + targets, weights, alpha=-1)
    loss = torch.dot(g_logs.view(-1), logs.view(-1))
    return loss, torch._log_softmax_backward_data(g_logs, logs, -1, logs.dtype)
