"""The passes of a training step that are no matrix products, each one loop over memory, compiled by numba.

Between products of a few microseconds, a dozen small operations cost as much as they do. Here each stretch between two
products is one loop that does all there is to do with a number while it is at hand. Arrays are numpy's, in single
precision, and share their memory with the tensors that torch multiplies. What a loop is given to fill, it fills;
loops are compiled when first called, and kept on disk.

GELU in its tanh form is h sigmoid(u(h)) with u = 2 sqrt(2/pi) (h + 0.044715 h^3).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lib.record.options import private_folder

_Matrix = Float[np.ndarray, "rows columns"]
_Row = Float[np.ndarray, " columns"]
_Column = Float[np.ndarray, " rows"]

_F = np.float32
_ONE = _F(1)
_LINEAR, _CUBIC = _F(2 * math.sqrt(2 / math.pi)), _F(2 * math.sqrt(2 / math.pi) * 0.044715)
NORM_EPSILON = 1e-5  # what layer norm adds to the variance
_TINY = _F(NORM_EPSILON)


def compiled(*freedoms: str) -> Callable[[Callable], Any]:
    """Compile a loop; ``freedoms`` are those that LLVM may take with floating point, beside fused products."""
    choices: dict[str, Any] = {"fastmath": {"contract", "nsz", *freedoms}, "error_model": "numpy"}
    # numba is given the loop without what checks shapes
    return lambda loop: _cached(lambda cache: numba.njit(cache=cache, **choices)(inspect.unwrap(loop)))


def _cached(compile_loop: Callable[[bool], Any]) -> Any:
    """Compiled and kept on disk: in a private folder where checkout and home are read-only, nowhere if need be."""
    try:
        return compile_loop(True)
    except RuntimeError:  # numba has found no place to write to
        folder = private_folder("reversal-curse-kernels")
        numba.config.CACHE_DIR = str(folder or "")  # type: ignore[attr-defined]
        return compile_loop(folder is not None)


@compiled()  # the two-part reduction below dies if sums may be reordered
def exp(x):
    """e^x to one unit in the last place, for x in [-87, 88] and clipped to it: 2^n e^r, a polynomial in r (Cephes)."""
    x = min(max(x, _F(-87)), _F(88))
    shifted = x * _F(1.44269504) + _F(12582912)  # its last bits are n = round(x / log 2)
    n = shifted - _F(12582912)
    r = x - n * _F(0.693359375) + n * _F(2.12194440e-4)
    p = _F(1.9875691500e-4)
    p = p * r + _F(1.3981999507e-3)
    p = p * r + _F(8.3334519073e-3)
    p = p * r + _F(4.1665795894e-2)
    p = p * r + _F(1.6666665459e-1)
    p = p * r + _F(5.0000001201e-1)
    bits = np.int32(np.int32(np.int32(_F(shifted).view(np.int32)) << np.int32(23)) + np.int32(127 << 23))
    return (p * r * r + r + _ONE) * np.int32(bits).view(np.float32)


@compiled("reassoc", "nnan")  # a largest number that need not look out for NaN
def largest(x: _Row) -> np.float32:
    """The largest of a row's numbers."""
    found = x[0]
    for j in range(len(x)):
        found = max(found, x[j])
    return found


class TorchAndNumpy(NamedTuple):
    """One piece of memory, as torch multiplies it and as the loops here read and fill it."""

    tensor: Tensor
    array: np.ndarray

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> TorchAndNumpy:
        return cls(tensor, tensor.detach().numpy())


# MLP ----------------------------------------------------------------------------------------------------------


@compiled()
def gelu_forward(hidden: _Matrix, gate: _Matrix, active: _Matrix) -> None:
    """``gate`` = s = sigmoid(u(h)), ``active`` = h s."""
    for row in range(hidden.shape[0]):
        for j in range(hidden.shape[1]):
            h = hidden[row, j]
            s = _ONE / (_ONE + exp(-h * (_LINEAR + _CUBIC * h * h)))
            gate[row, j] = s
            active[row, j] = h * s


@compiled()
def gelu_backward(hidden: _Matrix, gate: _Matrix, g: _Matrix, g_bias: _Row) -> None:
    """``g``, the gradient in what is active, becomes that in what is hidden; ``g_bias`` its sum over rows."""
    g_bias[:] = 0
    for row in range(hidden.shape[0]):
        for j in range(hidden.shape[1]):
            h, s = hidden[row, j], gate[row, j]
            slope = s + h * s * (_ONE - s) * (_LINEAR + _F(3) * _CUBIC * h * h)
            found = g[row, j] * slope
            g[row, j] = found
            g_bias[j] += found


# Layer norm ---------------------------------------------------------------------------------------------------


@compiled("reassoc")
def norm_forward(x: _Matrix, weight: _Row, out: _Matrix, mean: _Column, scale: _Column) -> None:
    """``out`` = (x - mean) scale weight, where scale is one over the standard deviation of each row."""
    width = _F(x.shape[1])
    for row in range(x.shape[0]):
        total, squares = _F(0), _F(0)
        for j in range(x.shape[1]):
            total += x[row, j]
        middle = total / width
        for j in range(x.shape[1]):
            squares += (x[row, j] - middle) ** 2
        factor = _ONE / np.sqrt(squares / width + _TINY)
        for j in range(x.shape[1]):
            out[row, j] = (x[row, j] - middle) * factor * weight[j]
        mean[row], scale[row] = middle, factor


@compiled("reassoc")
def norm_backward(
    g: _Matrix, x: _Matrix, weight: _Row, mean: _Column, scale: _Column, g_x: _Matrix, g_weight: _Row, total: _Row
) -> None:
    """Adds to ``g_x``; fills ``g_weight``, and ``total`` with the sum over rows of what ``g_x`` is then."""
    width = _F(x.shape[1])
    g_weight[:] = 0
    total[:] = 0
    for row in range(x.shape[0]):
        middle, factor = mean[row], scale[row]
        level, along = _F(0), _F(0)
        for j in range(x.shape[1]):
            unit = (x[row, j] - middle) * factor
            level += g[row, j] * weight[j]
            along += g[row, j] * weight[j] * unit
            g_weight[j] += g[row, j] * unit
        level, along = level / width, along / width
        for j in range(x.shape[1]):
            unit = (x[row, j] - middle) * factor
            found = g_x[row, j] + factor * (g[row, j] * weight[j] - level - unit * along)
            g_x[row, j] = found
            total[j] += found


class NormPass:
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
        norm_forward(x.array, self.weight, out.array, *self.statistics)
        return out

    def backward(self, g: TorchAndNumpy, g_x: TorchAndNumpy, total: Float[np.ndarray, " width"]) -> None:
        """Adds the gradient in what was normed last to ``g_x``, given that in the outcome; ``total`` is its sum."""
        if self.weight is None:
            g_x.tensor.add_(g.tensor)
            g_x.array.sum(0, out=total)
        else:
            norm_backward(g.array, self.x.array, self.weight, *self.statistics, g_x.array, self.g, total)


# Loss ---------------------------------------------------------------------------------------------------------


@compiled("reassoc")
def cross_entropy(
    logits: Float[np.ndarray, "rows clean"], answers: Int[np.ndarray, " answers"],
    weights: Float[np.ndarray, " answers"], asked: _Column, g_bias: Float[np.ndarray, " clean"],
) -> float:
    """Weighted sum of -log p over answers; ``logits`` become its gradient in them, ``g_bias`` their sum over rows.

    :param answers: where each stands in the flattened logits; a row may carry several
    :param asked: filled with the weight of each row
    """
    clean, loss = logits.shape[1], 0.0
    asked[:] = 0
    g_bias[:] = 0
    for one in range(len(answers)):
        row, token = divmod(answers[one], clean)
        asked[row] += weights[one]
        loss -= weights[one] * logits[row, token]
    for row in range(logits.shape[0]):
        top, total = largest(logits[row]), _F(0)
        for j in range(clean):
            logits[row, j] = exp(logits[row, j] - top)
        for j in range(clean):
            total += logits[row, j]
        loss += asked[row] * (top + np.log(total))
        factor = asked[row] / total
        for j in range(clean):
            logits[row, j] *= factor
            g_bias[j] += logits[row, j]
    for one in range(len(answers)):
        row, token = divmod(answers[one], clean)
        logits[row, token] -= weights[one]
        g_bias[token] -= weights[one]
    return loss


# Attention ----------------------------------------------------------------------------------------------------


@compiled()
def attention_weights(
    tokens: Int[np.ndarray, "sequences length"], sequence: Int[np.ndarray, " rows"],
    position: Int[np.ndarray, " rows"], grid: Int[np.ndarray, "length length"], stride: int,
    scores: Float[np.ndarray, "heads entries"], weights: Float[np.ndarray, "rows heads length"],
) -> None:
    """``weights`` of each row: the scores of the tokens it sees, looked up, and their softmax head by head.

    :param grid: where the table has the score from a mask at i to token 0 at j; tokens follow at steps of ``stride``
    """
    rows, heads, length = weights.shape
    for row in range(rows):
        seen, at = tokens[sequence[row]], grid[position[row]]
        for head in range(heads):
            own, table = weights[row, head], scores[head]
            top = table[at[0] + stride * seen[0]]
            for j in range(length):
                own[j] = table[at[j] + stride * seen[j]]
                top = max(top, own[j])
            for j in range(length):
                own[j] -= top
    flat = weights.reshape(-1)
    for one in range(len(flat)):
        flat[one] = exp(flat[one])
    for row in range(rows):
        for head in range(heads):
            own, total = weights[row, head], _F(0)
            for j in range(length):
                total += own[j]
            for j in range(length):
                own[j] /= total


@compiled()
def gather(
    tokens: Int[np.ndarray, "sequences length"], sees: int, weights: Float[np.ndarray, "rows heads length"], row: int,
    head: int, places: int, mass: Float[np.ndarray, " entries"],
) -> None:
    """Adds to ``mass`` what a row puts on each stored entry: one for a token in several places if ``places`` is 1."""
    for j in range(weights.shape[2]):
        mass[tokens[sees, j] * places + j * np.int64(places > 1)] += weights[row, head, j]


@compiled()
def retrieve(
    tokens: Int[np.ndarray, "sequences length"], sequence: Int[np.ndarray, " rows"],
    position: Int[np.ndarray, " rows"], weights: Float[np.ndarray, "rows heads length"],
    stored: Float[np.ndarray, "heads tokens places width"], stream: Float[np.ndarray, "places width"],
    x: Float[np.ndarray, "rows width"],
) -> None:
    """``x`` = the stream at each row and the stored values of what it sees, by the attention on them.

    A token that stands in several places is retrieved once, by the mass on all of them, if the store does not tell
    places apart.
    """
    rows, heads, length = weights.shape
    kinds, places, width = stored.shape[1:]
    values, step, moved = stored.reshape(-1, width), np.int64(places > 1), np.int64(len(stream) > 1)
    mass = np.zeros(kinds * places, _F)
    for row in range(rows):
        sees, at = sequence[row], moved * position[row]
        for d in range(width):
            x[row, d] = stream[at, d]
        for head in range(heads):
            gather(tokens, sees, weights, row, head, places, mass)
            for j in range(length):
                entry = tokens[sees, j] * places + j * step
                share = mass[entry]
                if share != 0:
                    mass[entry] = 0
                    entry += head * kinds * places
                    for d in range(width):
                        x[row, d] += share * values[entry, d]


@compiled("reassoc")
def retrieve_backward(
    tokens: Int[np.ndarray, "sequences length"], sequence: Int[np.ndarray, " rows"],
    position: Int[np.ndarray, " rows"], grid: Int[np.ndarray, "length length"], stride: int,
    weights: Float[np.ndarray, "rows heads length"], stored: Float[np.ndarray, "heads tokens places width"],
    g: Float[np.ndarray, "rows width"], g_scores: Float[np.ndarray, "heads entries"],
    g_stored: Float[np.ndarray, "heads tokens places width"], g_stream: Float[np.ndarray, "places width"],
) -> None:
    """The gradients in the three tables, given that in ``x``; the softmax's included."""
    rows, heads, length = weights.shape
    kinds, places, width = stored.shape[1:]
    values, g_values = stored.reshape(-1, width), g_stored.reshape(-1, width)
    step, moved = np.int64(places > 1), np.int64(len(g_stream) > 1)
    g_scores[:] = 0
    g_stored[:] = 0
    g_stream[:] = 0
    mass, found = np.zeros(kinds * places, _F), np.zeros(kinds * places, _F)
    for row in range(rows):
        sees, at = sequence[row], position[row]
        for d in range(width):
            g_stream[moved * at, d] += g[row, d]
        for head in range(heads):
            level = _F(0)
            gather(tokens, sees, weights, row, head, places, mass)
            for j in range(length):
                entry = tokens[sees, j] * places + j * step
                share = mass[entry]
                if share != 0:
                    mass[entry] = 0
                    own, along = entry + head * kinds * places, _F(0)
                    for d in range(width):
                        along += values[own, d] * g[row, d]
                    for d in range(width):
                        g_values[own, d] += share * g[row, d]
                    found[entry] = along
                    level += share * along
            for j in range(length):
                token = tokens[sees, j]
                slope = weights[row, head, j] * (found[token * places + j * step] - level)
                g_scores[head, grid[at, j] + stride * token] += slope


# Optimiser ----------------------------------------------------------------------------------------------------


@compiled("reassoc")
def squared(g: Float[np.ndarray, " parameters"]) -> np.float32:
    """The squared norm."""
    total = _F(0)
    for one in range(len(g)):
        total += g[one] * g[one]
    return total


@compiled()
def adamw(
    weights: Float[np.ndarray, " parameters"], g: Float[np.ndarray, " parameters"],
    first: Float[np.ndarray, " parameters"], second: Float[np.ndarray, " parameters"],
    average: Float[np.ndarray, " parameters"], matrices: Float[np.ndarray, " parameters"],
    count: int, rate: float, decay: float, clip: float, beta1: float, beta2: float, tiny: float, moved: float,
) -> None:
    """One step of AdamW for one member, its gradient clipped to the norm ``clip``; then the moving average's.

    :param matrices: 1 where ``decay`` acts, else 0
    :param count: of this step, from 1
    :param moved: part of the way that the average goes to the weights
    """
    b1, b2, to_average, least = _F(beta1), _F(beta2), _F(moved), _F(tiny)
    scale = _F(min(1.0, clip / (np.sqrt(squared(g)) + 1e-7)))
    step, root, shrink = _F(rate / (1 - beta1**count)), _F(np.sqrt(1 - beta2**count)), _F(rate * decay)
    for one in range(len(weights)):
        slope = scale * g[one]
        m = first[one] + (_ONE - b1) * (slope - first[one])
        v = b2 * second[one] + (_ONE - b2) * slope * slope
        w = weights[one] * (_ONE - shrink * matrices[one]) - step * m / (np.sqrt(v) / root + least)
        first[one], second[one], weights[one] = m, v, w
        average[one] += to_average * (w - average[one])
