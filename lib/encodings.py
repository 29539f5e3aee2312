"""Positional encodings: what each adds to the embeddings, does to queries and keys, and adds to the scores.

Sec. 3 needs one distinction only: a *relative* encoding changes the scores and leaves the value vectors independent of
position; an *absolute* one is added to the embeddings, so that values carry position too (App. E.2). An encoding
holds no parameters. Where something is learned, it names the shape (`weight_shape`) and is handed the tensor; leading
axes of that tensor (an ensemble's) pass through. A new encoding is a subclass and an entry in `ENCODINGS`.

Sources: rope (Su et al. 2024), alibi (Press et al. 2022), learned and sinusoidal (Vaswani et al. 2017), t5
(Raffel et al. 2020).
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

T5_BUCKETS, T5_REACH = 32, 128  # buckets of both directions together; offsets from T5_REACH on share one


def rope_frequencies(
    head_dim: int | np.integer, base: float | int | np.number = 10_000.0
) -> Float[np.ndarray, " planes"]:
    """Angular frequencies of RoPE's planes, theta_i = base**(-2 i / head_dim), in radians a position.

    :param head_dim: d, the number of coordinates of a query or key; even and positive
    :param base: the encoding's base, above 1
    :return: one a plane, head_dim / 2 of them, float64, falling from 1
    :raises ValueError: for an odd or non-positive head_dim, or a base that is not a finite number above 1
    """
    if isinstance(head_dim, bool) or not isinstance(head_dim, Integral) or head_dim <= 0 or head_dim % 2:
        raise ValueError(f"head_dim must be a positive even integer, not {head_dim!r}")
    if isinstance(base, bool) or not isinstance(base, Real) or not math.isfinite(base) or base <= 1:
        raise ValueError(f"base must be a finite number above 1, not {base!r}")
    exponents = -2.0 * np.arange(int(head_dim) // 2) / int(head_dim)
    return np.asarray(float(base) ** exponents)


class Encoding:
    """No encoding at all (``none``), and the base of the others.

    :param length: number of positions
    :param width: D, coordinates of an embedding
    :param heads: attention heads; the head dimension is ``width // heads``
    """

    #: position enters the embeddings, and through them the values
    absolute = False

    def __init__(self, length: int, width: int, heads: int = 1) -> None:
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.length, self.width, self.heads = length, width, heads

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """Shape of the learned tensor, or None."""
        return None

    def position_embedding(self, weight: Tensor | None) -> Float[Tensor, "*members length width"] | None:
        """Position vectors p_i, added to the embeddings; None for relative encodings.

        :param weight: the learned tensor, of `weight_shape`; None where nothing is learned
        """
        return None

    def rotate(self, x: Float[Tensor, "*lead length head_dim"]) -> Float[Tensor, "*lead length head_dim"]:
        """Queries or keys, one a position, as they enter the scores: R(p) x at position p for RoPE."""
        return x

    def relative_queries(self, q: Float[Tensor, "*lead 1 head_dim"]) -> Float[Tensor, "*lead offsets head_dim"]:
        """R(offset)^T q, whose product with an unrotated key is the score, at offsets 1 - length, ..., length - 1.

        An offset is key minus query position.
        """
        return q.expand(*q.shape[:-2], 2 * self.length - 1, -1)

    def score_bias(self, weight: Tensor | None) -> Float[Tensor, "*members heads length length"] | None:
        """b added to the scores, row = query position; None where the encoding adds nothing.

        :param weight: the learned tensor, of `weight_shape`; None where nothing is learned
        """
        return None

    def score_bias_by_offset(self, weight: Tensor | None) -> Float[Tensor, "*members heads offsets"] | None:
        """`score_bias` for offsets 1 - length, ..., length - 1: it is a function of the offset alone."""
        bias = self.score_bias(weight)
        return None if bias is None else torch.cat((bias[..., -1, :-1], bias[..., 0, :]), -1)

    @property
    def offsets(self) -> Int[Tensor, "length length"]:
        """Key position minus query position."""
        positions = torch.arange(self.length)
        return positions[None, :] - positions[:, None]


class Rope(Encoding):
    """Query and key at position p rotated by R(p), so that their product is q^T R(j - i) k (Sec. 4.2).

    A plane is a pair of neighbouring coordinates, as in the block form of the theory.
    """

    def __init__(self, length: int, width: int, heads: int = 1) -> None:
        super().__init__(length, width, heads)
        if width // heads % 2:
            raise ValueError(f"rope: the head dimension width / heads must be even, not {width} / {heads}")
        angles = torch.arange(length)[:, None] * torch.as_tensor(rope_frequencies(width // heads))
        self._planes = torch.complex(angles.cos().float(), angles.sin().float())  # R(p), a complex number a plane
        self._towards = torch.cat((self._planes.flip(0), self._planes[1:].conj()))  # R(-offset)

    def rotate(self, x: Float[Tensor, "*lead length head_dim"]) -> Float[Tensor, "*lead length head_dim"]:
        return _rotated(x, self._planes)

    def relative_queries(self, q: Float[Tensor, "*lead 1 head_dim"]) -> Float[Tensor, "*lead offsets head_dim"]:
        # q^T R(offset) k = (R(-offset) q)^T k, and -offset falls from length - 1
        return _rotated(q, self._towards)


def _rotated(x: Tensor, planes: Tensor) -> Tensor:
    """Neighbouring coordinates of ``x``, as one complex number, times that of their plane."""
    planes = planes.to(x.dtype.to_complex())
    pairs = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * planes).flatten(-2)


class Alibi(Encoding):
    """Score minus mu |i - j|: equal on both sides; head h = 1, 2, ... has mu = 2**(-8 h / heads)."""

    def slopes(self) -> Float[Tensor, " heads"]:
        """mu of each head, in units of score a position."""
        return 2.0 ** (-8.0 * torch.arange(1, self.heads + 1) / self.heads)

    def score_bias(self, weight: Tensor | None) -> Float[Tensor, "*members heads length length"] | None:
        return -self.slopes()[:, None, None] * self.offsets.abs()


class DirectionalAlibi(Alibi):
    """ALiBi with a direction: the score of a key to the left is lowered by `LEFT` more, at every distance.

    The bias is still a function of position alone, so Prop. 4.5 covers it.
    """

    LEFT = 1.0

    def score_bias(self, weight: Tensor | None) -> Float[Tensor, "*members heads length length"] | None:
        return -self.slopes()[:, None, None] * self.offsets.abs() - self.LEFT * (self.offsets < 0)


class T5(Encoding):
    """A learned bias for each head and bucket of offsets: one bucket an offset nearby, logarithmic ones far away."""

    def __init__(self, length: int, width: int, heads: int = 1) -> None:
        super().__init__(length, width, heads)
        self._buckets = self._assigned()

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        return (self.heads, T5_BUCKETS)

    def score_bias(self, weight: Tensor | None) -> Float[Tensor, "*members heads length length"] | None:
        assert weight is not None
        return weight[..., self.buckets()]

    def buckets(self) -> Int[Tensor, "length length"]:
        """The bucket of each pair of positions: half of them for keys to the right, half for the rest."""
        return self._buckets

    def _assigned(self) -> Tensor:
        half, distance = T5_BUCKETS // 2, self.offsets.abs()
        exact = half // 2
        growth = torch.log(distance.clamp(min=1) / exact) / math.log(T5_REACH / exact)
        far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        return half * (self.offsets > 0) + torch.where(distance < exact, distance, far)


class Learned(Encoding):
    """A learned vector for each position, added to the embedding."""

    absolute = True

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        return (self.length, self.width)

    def position_embedding(self, weight: Tensor | None) -> Float[Tensor, "*members length width"] | None:
        return weight


class Sinusoidal(Encoding):
    """Sines and cosines of the position, added to the embedding.

    Divided by the root of the width: embeddings here start at that scale, where Vaswani et al. multiply
    theirs by the root instead.
    """

    absolute = True

    def __init__(self, length: int, width: int, heads: int = 1) -> None:
        super().__init__(length, width, heads)
        if width % 2:
            raise ValueError(f"sinusoidal: the width must be even, not {width}")
        angles = torch.arange(length)[:, None] * torch.as_tensor(rope_frequencies(width))
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        self._table = (table / math.sqrt(width)).float()

    def position_embedding(self, weight: Tensor | None) -> Float[Tensor, "*members length width"] | None:
        return self._table


ENCODINGS: dict[str, type[Encoding]] = {
    "rope": Rope,
    "alibi": Alibi,
    "alibi_directional": DirectionalAlibi,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "t5": T5,
    "none": Encoding,
}


def encoding(name: str, length: int, width: int, heads: int = 1) -> Encoding:
    """The encoding of that name.

    :raises ValueError: for an unknown name, or sizes that the encoding cannot serve
    """
    if name not in ENCODINGS:
        raise ValueError(f"unknown encoding {name!r}; one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name](length, width, heads)
