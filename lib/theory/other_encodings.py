"""Other encodings: correlation of forward and reverse scores, and how much stored evidence the reverse prompt reads.

*Score correlation* is over the key's content, given the query and the positions. *Storage transfer* is the
change of the reverse logit after a forward step on the value path, as a fraction of what it would be with
the evidence at its old position and the same attention: 1 for every encoding that leaves values alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lib.encodings import rope_frequencies
from lib.theory import routing
from lib.theory.bounds import trace_bound
from lib.theory.validation import Count, Number, Reals, as_scalar_or_array, distances


def map_correlation(
    query: Float[np.ndarray, "*batch dim"],
    covariance: Float[np.ndarray, "*#batch dim dim"],
    forward: Float[np.ndarray, "dim dim"],
    reverse: Float[np.ndarray, "dim dim"],
) -> Float[np.ndarray, "*batch"]:
    """Corr(q^T P_f k + b_f, q^T P_r k + b_r | q) for any position maps P; the biases do not matter.

    :param covariance: Cov(k | q)
    """
    return routing.linear_correlation(query @ forward, query @ reverse, covariance)  # P^T q as rows


def rotary_map(offset: Number, head_dim: Count, rotated: float = 1.0, base: Number = 10_000.0
               ) -> Float[np.ndarray, "dim dim"]:
    """R(offset) with only the first ``rotated`` share of the planes turning, at frequencies of their own dimension.

    :raises ValueError: if the share does not make a whole number of planes
    """
    turning = _turning_planes(head_dim, rotated)
    angles = np.zeros(int(head_dim) // 2)
    if turning:
        angles[:turning] = offset * rope_frequencies(2 * turning, base)
    return routing.rotate(np.eye(int(head_dim)), angles).T


def partial_rope_bound(total_distance: Reals, head_dim: Count, rotated: float, base: Number = 10_000.0
                       ) -> float | np.ndarray:
    """(1 - r) + r T_{rd}(Delta_1 + Delta_2): the trace bound when a share r of the planes turns.

    At least 1 - 2 r at every distance, as T >= -1.
    """
    turning = _turning_planes(head_dim, rotated)
    share = 2 * turning / int(head_dim)
    if not turning:
        return as_scalar_or_array(np.ones_like(distances("total_distance", total_distance)))
    return (1 - share) + share * trace_bound(total_distance, 2 * turning, base)


def _turning_planes(head_dim: Count, rotated: float) -> int:
    planes = rotated * int(head_dim) / 2
    if not 0 <= rotated <= 1 or abs(planes - round(planes)) > 1e-9:
        raise ValueError(f"rotated must be a share in [0, 1] that makes a whole number of the {int(head_dim) // 2} "
                         f"planes, not {rotated!r}")
    return round(planes)


def xpos_decay(head_dim: Count, gamma: float = 0.4, scale_base: float = 512.0) -> Float[np.ndarray, " half"]:
    """zeta_i of xPos, one a plane, a position: ((2 i / d + gamma) / (1 + gamma)) ** (1 / scale_base).

    Slow planes (large i) decay least (Sun et al. 2023).
    """
    planes = np.arange(int(head_dim) // 2)
    return np.asarray(((2 * planes / int(head_dim) + gamma) / (1 + gamma)) ** (1 / scale_base))


def xpos_map(
    offset: Number, exponent: Number, decay: Float[np.ndarray, " half"], base: Number = 10_000.0
) -> Float[np.ndarray, "dim dim"]:
    """diag(zeta_i ** exponent) R(offset): xPos takes the signed distance as exponent, a symmetric variant its size."""
    frequencies = rope_frequencies(2 * len(decay), base)
    return np.repeat(decay**exponent, 2)[:, None] * routing.rotate(np.eye(2 * len(decay)), offset * frequencies).T


def xpos_correlation(
    weights: Float[np.ndarray, "*batch half"],
    distance: Number,
    decay: Float[np.ndarray, " half"],
    base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch"]:
    """Signed xPos, isotropic keys, equal distances: sum w c / sqrt(sum w zeta^(2 Delta) sum w zeta^(-2 Delta))."""
    cosines = np.cos(2 * distance * rope_frequencies(2 * len(decay), base))
    grown, shrunk = weights @ decay ** (-2 * distance), weights @ decay ** (2 * distance)
    return np.asarray(weights @ cosines / np.sqrt(grown * shrunk))


def added_score_correlation(
    query: Float[np.ndarray, "*batch dim"],
    at_forward: Float[np.ndarray, "*#batch dim"],
    at_reverse: Float[np.ndarray, "*#batch dim"],
) -> Float[np.ndarray, "*batch"]:
    """Corr over the content of B under an additive encoding: cos(q + pi_i, q + pi_i'), isotropic keys.

    :param at_forward: pi_i = W_Q p_i at the mask's forward position; ``at_reverse``: at its reverse position
    """
    one, other = query + at_forward, query + at_reverse
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(-1) / lengths)


def sinusoidal_transfer(move: Reals, width: Count, ratio: float = 1.0) -> float | np.ndarray:
    """(1 + ratio T(move)) / (1 + ratio): mean transfer of storage with sines and cosines added to the embedding.

    :param move: how far the evidence moves, |j - j'|
    :param ratio: |p|^2 / |x|^2
    """
    return (1 + ratio * trace_bound(move, width)) / (1 + ratio)
