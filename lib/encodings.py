"""Positional encodings: the rotary frequencies that everything in the routing theory is made of."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np


def rope_frequencies(head_dim: int, base: float = 10_000.0) -> np.ndarray:
    """Angular frequencies of RoPE's planes, theta_i = base**(-2 i / head_dim), in radians a position.

    :param head_dim: d, the number of coordinates of a query or key; even and positive
    :param base: the encoding's base, above 1
    :return: (head_dim / 2,) float64, falling from 1
    :raises ValueError: for an odd or non-positive head_dim, or a base that is not a finite number above 1
    """
    if isinstance(head_dim, bool) or not isinstance(head_dim, Integral) or head_dim <= 0 or head_dim % 2:
        raise ValueError(f"head_dim must be a positive even integer, not {head_dim!r}")
    if isinstance(base, bool) or not isinstance(base, Real) or not math.isfinite(base) or base <= 1:
        raise ValueError(f"base must be a finite number above 1, not {base!r}")
    exponents = -2.0 * np.arange(int(head_dim) // 2) / int(head_dim)
    return np.asarray(float(base) ** exponents)
