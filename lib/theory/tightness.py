"""How tight Thm 4.3 is, and what is left of it when its assumption is bent.

At equal distances and for given weights w and alignments kappa the conditional correlation is
Corr = sum w_i (c_i + kappa_i) / sum w_i (1 + kappa_i c_i), c_i = cos(2 Delta theta_i). It rises with every kappa_i
on [-1, 1], so constant alignments are the extremes, and there Corr = (C + kappa)/(1 + kappa C), C = sum w_i c_i.
"""

from __future__ import annotations

import numpy as np

from lib.encodings import rope_frequencies
from lib.theory import dirichlet
from lib.theory.bounds import trace_bound
from lib.theory.validation import Count, Number, Reals, array, as_scalar_or_array, distances, strictly_between


def shifted(correlation: Reals, kappa: Number) -> float | np.ndarray:
    """(C + kappa) / (1 + kappa C): the correlation when every plane has the same alignment kappa.

    For kappa = -kappa_0 < 0 it is the least correlation among all kappa_i >= -kappa_0.

    :param correlation: C = sum w_i c_i, in [-1, 1]
    :param kappa: strictly between -1 and 1
    """
    level = array("correlation", correlation)
    if (np.abs(level) > 1).any():
        raise ValueError(f"correlation must lie in [-1, 1], not {correlation!r}")
    alignment = strictly_between("kappa", kappa, -1, 1)
    return as_scalar_or_array((level + alignment) / (1 + alignment * level))


def aligned_mean(distance: Reals, kappa: Number, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """E_q[Corr] at equal distances when every plane has alignment kappa, exactly.

    :param distance: Delta, of the evidence on either side
    :param kappa: strictly between -1 and 1; 0 gives the trace bound
    """
    alignment = strictly_between("kappa", kappa, -1, 1)
    cosines = np.cos(2 * np.multiply.outer(distances("distance", distance), rope_frequencies(head_dim, base)))
    mean, _ = dirichlet.ratio_moments(cosines + alignment, 1 + alignment * cosines)
    return as_scalar_or_array(mean)


def misaligned_bound(
    distance: Reals, misalignment: Number, head_dim: Count, base: Number = 10_000.0
) -> float | np.ndarray:
    """Lower bound on E_q[Corr] when only kappa_i >= -kappa_0: (mu - kappa_0) / (1 - kappa_0 mu), mu = T_d(2 Delta).

    :param misalignment: kappa_0, in [0, 1)
    """
    if not 0 <= misalignment < 1:
        raise ValueError(f"misalignment must lie in [0, 1), not {misalignment!r}")
    return shifted(trace_bound(2 * distances("distance", distance), head_dim, base), -misalignment)


def unequal_traces_mean(distance: Reals, traces: Reals, base: Number = 10_000.0) -> float | np.ndarray:
    """E_q[sum w_i c_i] for isotropic keys whose planes differ in variance, w_i ~ ||q_i||^2 tau_i^2, exactly.

    :param distance: Delta, of the evidence on either side
    :param traces: (planes,) tau_i^2, positive; their scale does not matter
    """
    variances = array("traces", traces)
    if variances.ndim != 1 or not (variances > 0).all():
        raise ValueError(f"traces must be a row of positive numbers, one a plane, not {traces!r}")
    variances = variances / variances.mean()
    cosines = np.cos(2 * np.multiply.outer(distances("distance", distance), rope_frequencies(2 * len(variances), base)))
    mean, _ = dirichlet.ratio_moments(variances * cosines, np.broadcast_to(variances, cosines.shape))
    return as_scalar_or_array(mean)


def unconditional_correlation(
    total_distance: Reals,
    query_means: np.ndarray,
    query_variances: np.ndarray,
    key_means: np.ndarray,
    key_variances: np.ndarray,
    base: Number = 10_000.0,
) -> float | np.ndarray:
    """Corr(s_fwd, s_rev) over random q and k, independent and in each plane isotropic about any mean.

    It is sum_i omega_i cos((Delta_1 + Delta_2) theta_i) at any Delta_1, Delta_2, with omega_i proportional to
    var(k_i) |mean q_i|^2 + var(q_i) |mean k_i|^2 + 2 var(q_i) var(k_i).

    :param query_means: (planes, 2), and so ``key_means``
    :param query_variances: (planes,) of one coordinate, not negative, and so ``key_variances``
    """
    spread_q, spread_k = array("query_variances", query_variances), array("key_variances", key_variances)
    if (spread_q < 0).any() or (spread_k < 0).any():
        raise ValueError("query_variances and key_variances must not be negative")
    square = lambda name, means: (array(name, means) ** 2).sum(-1)
    omega = spread_k * square("query_means", query_means) + spread_q * square("key_means", key_means)
    omega = omega + 2 * spread_q * spread_k
    if omega.sum() <= 0:
        raise ValueError("the scores do not vary: some plane needs a positive variance")
    angles = np.multiply.outer(distances("total_distance", total_distance), rope_frequencies(2 * len(omega), base))
    return as_scalar_or_array(np.cos(angles) @ (omega / omega.sum()))
