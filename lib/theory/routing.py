"""The correlation of forward and reverse RoPE scores given the query, exactly, for any covariance of the key.

Given q, both scores s_f = q^T R(Delta_1) k and s_r = q^T R(-Delta_2) k are linear in the key, so their
correlation needs nothing but q and Cov(k | q) (Sec. 4.2, App. A.3). Assumption 4.2 is one family of
covariances; the chapters on its limits use others.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lib.encodings import rope_frequencies
from lib.theory.validation import Number


def rotate(
    x: Float[np.ndarray, "*batch dim"], angles: Float[np.ndarray, " half"]
) -> Float[np.ndarray, "*batch dim"]:
    """R x: rotate plane i, coordinates (2 i, 2 i + 1), counter-clockwise by angles[i] radians.

    :raises ValueError: if there are not as many angles as planes
    """
    if x.shape[-1] != 2 * len(angles):
        raise ValueError(f"angles must hold one angle a plane, {x.shape[-1] // 2}, not {len(angles)}")
    first, second = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = np.cos(angles) * first - np.sin(angles) * second
    turned[..., 1::2] = np.sin(angles) * first + np.cos(angles) * second
    return turned


def key_covariance(
    query: Float[np.ndarray, "*batch dim"], kappa: Float[np.ndarray, "*#batch half"] | float,
    trace: Float[np.ndarray, " half"] | float = 2.0,
) -> Float[np.ndarray, "*batch dim dim"]:
    """Cov(k | q) of Assumption 4.2, block diagonal over the planes.

    :param kappa: alignment of each plane, in [-1, 1]: 0 isotropic, 1 along q_i, below 0 across it (then the
        assumption is broken)
    :param trace: tau^2, variance of a plane in squared key units; the assumption wants the same in every
        plane
    :raises ValueError: for kappa outside [-1, 1] or a trace that is not positive
    """
    if np.any(np.abs(kappa) > 1):
        raise ValueError("kappa must lie in [-1, 1]: a covariance has no negative variance")
    if np.any(np.asarray(trace) <= 0):
        raise ValueError("trace must be positive")
    planes = query.reshape(*query.shape[:-1], -1, 2)
    along = np.broadcast_to(kappa, planes.shape[:-1])[..., None, None]
    half = np.broadcast_to(np.asarray(trace, dtype=float) / 2, planes.shape[:-1])[..., None, None]
    unit = planes / np.linalg.norm(planes, axis=-1, keepdims=True)
    blocks = half * ((1 - along) * np.eye(2) + 2 * along * unit[..., :, None] * unit[..., None, :])
    covariance = np.zeros((*query.shape, query.shape[-1]))
    for i in range(planes.shape[-2]):
        covariance[..., 2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = blocks[..., i, :, :]
    return covariance


def score_correlation(
    query: Float[np.ndarray, "*batch dim"], covariance: Float[np.ndarray, "*batch dim dim"],
    forward: Number, reverse: Number, base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch"]:
    """Corr(s_f, s_r | q), evidence ``forward`` positions right and ``reverse`` positions left of the mask.

    :param forward: Delta_1 in positions; ``reverse``: Delta_2 in positions
    :param covariance: Cov(k | q); nothing is assumed of it
    """
    frequencies = rope_frequencies(query.shape[-1], base)
    there = rotate(query, -forward * frequencies)  # R(Delta_1)^T q, so that s_f = there . k
    back = rotate(query, reverse * frequencies)  # R(-Delta_2)^T q
    moment = lambda one, other: np.einsum("...i,...ij,...j->...", one, covariance, other)
    return np.asarray(moment(there, back) / np.sqrt(moment(there, there) * moment(back, back)))


def plane_weights(query: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch half"]:
    """w_i = |q_i|^2 / |q|^2, the weight of plane i in the bound sum_i w_i cos(2 Delta theta_i)."""
    energy = (query.reshape(*query.shape[:-1], -1, 2) ** 2).sum(-1)
    return energy / energy.sum(-1, keepdims=True)
