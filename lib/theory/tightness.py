"""How tight Thm 4.3 is, and what is left of it when its assumption is bent.

At equal distances and for given weights w and alignments kappa the conditional correlation is
Corr = sum w_i (c_i + kappa_i) / sum w_i (1 + kappa_i c_i), c_i = cos(2 Delta theta_i). It rises with every kappa_i
on [-1, 1], so constant alignments are the extremes, and there Corr = (C + kappa)/(1 + kappa C), C = sum w_i c_i.

The second half decides the steps of the proofs, in symbols and at sample points. Each function is true as the proofs
state it; what it takes beyond its data breaks one step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import sympy as sp
from jaxtyping import Float

from lib.encodings import rope_frequencies
from lib.theory import dirichlet, routing
from lib.theory.bound_proofs import mean_is
from lib.theory.bounds import trace_bound
from lib.theory.symbolic import expectation, sign, vanishes
from lib.theory.validation import Count, Number, Reals, array, as_scalar_or_array, distances, strictly_between


def shifted(correlation: Reals, kappa: Number) -> float | np.ndarray:
    """(C + kappa) / (1 + kappa C): the correlation when every plane has the same alignment kappa.

    For kappa = -kappa_0 < 0 it is the least correlation among all kappa_i >= -kappa_0.

    :param correlation: C = sum w_i c_i, in [-1, 1]
    :param kappa: strictly between -1 and 1
    :raises ValueError: for a correlation or kappa outside its range
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
    cosines = routing.plane_cosines(2 * distances("distance", distance), head_dim, base)
    mean, _ = dirichlet.ratio_moments(cosines + alignment, 1 + alignment * cosines)
    return as_scalar_or_array(mean)


def misaligned_bound(
    distance: Reals, misalignment: Number, head_dim: Count, base: Number = 10_000.0
) -> float | np.ndarray:
    """Lower bound on E_q[Corr] when only kappa_i >= -kappa_0: (mu - kappa_0) / (1 - kappa_0 mu), mu = T_d(2 Delta).

    :param misalignment: kappa_0, in [0, 1)
    :raises ValueError: for a misalignment outside [0, 1), or a bad distance, head_dim or base
    """
    if not 0 <= misalignment < 1:
        raise ValueError(f"misalignment must lie in [0, 1), not {misalignment!r}")
    return shifted(trace_bound(2 * distances("distance", distance), head_dim, base), -misalignment)


def unequal_traces_mean(distance: Reals, traces: Reals, base: Number = 10_000.0) -> float | np.ndarray:
    """E_q[sum w_i c_i] for isotropic keys whose planes differ in variance, w_i ~ ||q_i||^2 tau_i^2, exactly.

    :param distance: Delta, of the evidence on either side
    :param traces: (planes,) tau_i^2, positive; their scale does not matter
    :raises ValueError: for traces that are not a row of positive numbers, or a bad distance or base
    """
    variances = array("traces", traces)
    if variances.ndim != 1 or not (variances > 0).all():
        raise ValueError(f"traces must be a row of positive numbers, one a plane, not {traces!r}")
    variances = variances / variances.mean()
    cosines = routing.plane_cosines(2 * distances("distance", distance), 2 * len(variances), base)
    mean, _ = dirichlet.ratio_moments(variances * cosines, np.broadcast_to(variances, cosines.shape))
    return as_scalar_or_array(mean)


def unconditional_correlation(
    total_distance: Reals,
    query_means: Float[np.ndarray, "planes 2"],
    query_variances: Float[np.ndarray, " planes"],
    key_means: Float[np.ndarray, "planes 2"],
    key_variances: Float[np.ndarray, " planes"],
    base: Number = 10_000.0,
) -> float | np.ndarray:
    """Corr(s_fwd, s_rev) over random q and k, independent and in each plane isotropic about any mean.

    It is sum_i omega_i cos((Delta_1 + Delta_2) theta_i) at any Delta_1, Delta_2, with omega_i proportional to
    var(k_i) |mean q_i|^2 + var(q_i) |mean k_i|^2 + 2 var(q_i) var(k_i).

    :param query_variances: of one coordinate, not negative, and so ``key_variances``
    :raises ValueError: for a negative variance, scores that do not vary, or a number that is not finite
    """
    spread_q, spread_k = array("query_variances", query_variances), array("key_variances", key_variances)
    if (spread_q < 0).any() or (spread_k < 0).any():
        raise ValueError("query_variances and key_variances must not be negative")
    square = lambda name, means: (array(name, means) ** 2).sum(-1)
    omega = spread_k * square("query_means", query_means) + spread_q * square("key_means", key_means)
    omega = omega + 2 * spread_q * spread_k
    if omega.sum() <= 0:
        raise ValueError("the scores do not vary: some plane needs a positive variance")
    cosines = routing.plane_cosines(distances("total_distance", total_distance), 2 * len(omega), base)
    return as_scalar_or_array(cosines @ (omega / omega.sum()))


# Queries of other laws ----------------------------------------------------------------------------------------

#: how the lengths |q_i| of the planes are drawn, shape (queries, planes)
PLANE_LENGTHS: Mapping[str, Callable[[np.random.Generator, tuple[int, int]], Float[np.ndarray, "queries planes"]]] = {
    "normal": lambda rng, shape: np.linalg.norm(rng.normal(size=(*shape, 2)), axis=-1),
    "heavy-tailed": lambda rng, shape: rng.pareto(1.5, size=shape) + 1,  # a few long planes
    "fast planes longer": lambda rng, shape: PLANE_LENGTHS["normal"](rng, shape) * np.linspace(2, 0.5, shape[1]),
}


def bound_values(law: str, queries: Count, seed: int) -> Float[np.ndarray, " queries"]:
    """sum w c of random queries whose plane lengths follow one of `PLANE_LENGTHS`; d = 64, distances 20."""
    squares = PLANE_LENGTHS[law](np.random.default_rng(seed), (int(queries), 32)) ** 2
    return np.asarray(squares @ routing.plane_cosines(40, 64) / squares.sum(1))


# Steps of the proofs, in symbols ------------------------------------------------------------------------------

_KAPPA, _LEVEL = sp.symbols("kappa C", real=True)


def correlation_slope_is(cosine: Number | None = None) -> bool:
    """Whether Corr has the slope w (D - c N) / D^2 in one kappa, and D - c N splits into D - N and D + N.

    N_0 and D_0 stand for the other planes.

    :param cosine: the control: a number for c in the slope
    """
    w, c, n0, d0, n, d = sp.symbols("w_i c_i N_0 D_0 N D", real=True)
    numerator, denominator = n0 + w * (c + _KAPPA), d0 + w * (1 + _KAPPA * c)
    claimed = w * (denominator - (c if cosine is None else cosine) * numerator) / denominator**2
    split = (1 + c) / 2 * (d - n) + (1 - c) / 2 * (d + n)
    return vanishes(sp.diff(numerator / denominator, _KAPPA) - claimed) and vanishes(d - c * n - split)


def opposite_scores_stay_opposite(cosine: Number | sp.Expr = -1) -> bool:
    """Whether a plane with this cosine adds the same to N as to -D, whatever its kappa; then Corr = -1.

    :param cosine: c, the same in every plane
    """
    return vanishes((cosine + _KAPPA) + (1 + _KAPPA * cosine))


def larger_trace_weighs_more(*, larger: bool = True) -> bool:
    """Whether E w_i > E w_j for planes with traces tau_i^2 > tau_j^2, w_i = tau_i^2 E_i / sum tau_k^2 E_k.

    E_i and E_j are exchangeable: the difference, averaged over (E_i, E_j) = (x, y) and (y, x), is positive for all
    x, y > 0 and any rest R >= 0 of the sum.

    :param larger: else the two traces are equal
    """
    x, y, small, more = sp.symbols("x y t g", positive=True)
    rest, large = sp.Symbol("R", nonnegative=True), small + int(larger) * more
    difference = lambda one, two: (large * one - small * two) / (large * one + small * two + rest)
    return sign(sp.together(difference(x, y) + difference(y, x))) == 1


def sum_and_difference_factor(sign: int = 1) -> bool:
    """Whether (1 + kappa c) +- (c + kappa) = (1 +- kappa)(1 +- c), plane by plane, so that D +- N >= 0."""
    return all(vanishes((1 + _KAPPA * _LEVEL) + side * (_LEVEL + _KAPPA)
                        - (1 + side * _KAPPA) * (1 + sign * side * _LEVEL)) for side in (1, -1))


def shifted_curvature_is(power: int = 3, side: int = 1) -> bool:
    """Whether (C + kappa) / (1 + kappa C) has the second derivative -2 kappa (1 - kappa^2) / (1 + kappa C)^power in C.

    :param side: 1 for kappa itself (concave), -1 for kappa = -kappa_0 (convex)
    """
    kappa = side * sp.Symbol("kappa_0", positive=True)
    second = sp.diff((_LEVEL + kappa) / (1 + kappa * _LEVEL), _LEVEL, 2)
    return vanishes(second + 2 * kappa * (1 - kappa**2) / (1 + kappa * _LEVEL) ** power)


def plane_covariance_is(traces: int = 2) -> bool:
    """Whether two scores of one plane have the covariance of n4-means, for any means, variances, angles and laws.

    :param traces: how often sigma_q^2 sigma_k^2 counts
    """
    phi, psi, sq, sk = sp.symbols("phi psi sigma_q sigma_k", real=True)
    q_mean, k_mean = (sp.Matrix(sp.symbols(f"{name}1:3", real=True)) for name in ("q", "k"))
    xi, zeta = sp.symbols("x1:3"), sp.symbols("z1:3")  # standardised deviations
    query, key = q_mean + sq * sp.Matrix(xi), k_mean + sk * sp.Matrix(zeta)
    # uncorrelated, of mean 0 and variance 1: known up to the second degree in each, and no more is needed
    moments = {powers: int(1 not in powers) for powers in itertools.product(range(3), repeat=4)
               if sum(powers[:2]) <= 2 and sum(powers[2:]) <= 2}
    mean = lambda polynomial: expectation(sp.expand(polynomial), moments, *xi, *zeta)
    one, two = ((query.T * routing.rotation(angle) * key)[0] for angle in (phi, psi))
    weight = sk**2 * q_mean.dot(q_mean) + sq**2 * k_mean.dot(k_mean) + traces * sq**2 * sk**2
    return vanishes(mean(one * two) - mean(one) * mean(two) - weight * sp.cos(phi - psi))


# Steps of the proofs, at sample points ------------------------------------------------------------------------


def range_is_filled(seed: int, lowest: float = 0.0) -> bool:
    """Whether no random kappa in [lowest, 1]^m leaves [C, 1], and kappa = t (1, ..., 1) sweeps all of it.

    240 queries at d = 64, 300 alignments each.
    """
    rng = np.random.default_rng(seed)
    for delta in (1.0, 7.0, 24.0, 48.0):
        weights = routing.plane_weights(rng.normal(size=(60, 64)))
        cosines = routing.plane_cosines(2 * delta, 64)
        kappas = rng.uniform(lowest, 1, size=(300, 60, 32)) * rng.integers(0, 2, size=(300, 60, 32))
        values = (weights * (cosines + kappas)).sum(-1) / (weights * (1 + kappas * cosines)).sum(-1)
        bottom = weights @ cosines
        sweep = np.array([shifted(bottom, t) for t in np.linspace(0, 0.9999, 400)])
        if (values < bottom - 1e-12).any() or (values > 1 + 1e-12).any() or np.diff(sweep, axis=0).max() > 0.1:
            return False
    return True


def mean_turns_negative(fastest: Number) -> bool:
    """Whether E sum w c < -0.1 although T_d > 0.7, at d = 64 and Delta = 2.

    :param fastest: trace of the fastest plane, in units of the others'
    """
    traces = np.append(float(fastest), np.ones(31))
    return bool(unequal_traces_mean(2.0, traces) < -0.1 and trace_bound(4.0, 64) > 0.7)


def aligned_mean_agrees(kappa: Number, queries: Count, seed: int) -> bool:
    """Whether the integral at ``kappa`` is the mean over full covariance matrices at 0.4; d = 32, distance 20."""
    query = np.random.default_rng(seed).normal(size=(queries, 32))
    values = routing.rope_score_correlation(query, routing.key_covariance(query, 0.4), 20.0, 20.0)
    return mean_is(values, float(aligned_mean(20.0, kappa, 32)))


def misaligned_above_bound(allowed: float, bound: float, seed: int) -> bool:
    """Whether Corr >= (C - bound)/(1 - bound C) for covariance matrices with kappa_i >= -allowed; d = 32."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(400, 32))
    kappas = np.where(rng.uniform(size=(400, 16)) < 0.8, -allowed, rng.uniform(-allowed, 1, size=(400, 16)))
    for delta in (1.0, 10.0, 31.0):
        values = routing.rope_score_correlation(query, routing.key_covariance(query, kappas), delta, delta)
        if (values < shifted(routing.query_bound(query, delta), -bound) - 1e-12).any():
            return False
    return True


def exact_mean_outlives_bound(cases: Iterable[tuple[int, float]]) -> bool:
    """Whether the mean at kappa = -mu, where `misaligned_bound` is zero, is positive (above 1e-3).

    :param cases: head dimension and distance
    """
    return all(float(aligned_mean(delta, -float(trace_bound(2 * delta, d)), d)) > 1e-3 for d, delta in cases)


def simulated_means_agree(seed: int, *, key_centred: bool = False) -> bool:
    """Whether 120,000 drawn pairs have the correlation of n4-means within 0.01; three planes, distances 1 and 6.

    :param key_centred: the control: the formula with a key of mean 0
    """
    rng, mean = np.random.default_rng(seed), np.array([[1.5, 0.5], [0.0, 1.0], [2.0, 0.0]])
    variance, theta = np.array([0.5, 1.0, 0.3]), rope_frequencies(6)
    draw = lambda mean: (mean + variance[:, None] ** 0.5 * rng.normal(size=(120_000, 3, 2))).reshape(-1, 6)
    key_mean = 2 * mean[::-1]
    query, key = draw(mean), draw(key_mean)
    scores = [(query * routing.rotate(key, turn * theta)).sum(1) for turn in (1.0, -6.0)]
    stated = unconditional_correlation(7.0, mean, variance, key_mean * (not key_centred), variance)
    return bool(abs(np.corrcoef(*scores)[0, 1] - stated) < 0.01)


def unequal_traces_agree(distance: Number, queries: Count, seed: int) -> bool:
    """Whether `unequal_traces_mean` at ``distance`` is the mean over covariance matrices at distance 6; d = 32."""
    query, traces = np.random.default_rng(seed).normal(size=(queries, 32)), np.geomspace(20, 0.05, 16)
    values = routing.rope_score_correlation(query, routing.key_covariance(query, 0.0, traces), 6.0, 6.0)
    return mean_is(values, float(unequal_traces_mean(distance, traces)))
