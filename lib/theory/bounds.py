"""How strongly RoPE ties the forward and the reverse attention score together (the paper's App. B).

A head has d = `head_dim` coordinates in m = d/2 planes, rotated by theta_i = base**(-2i/d) radians a position. The
evidence token stands Delta_1 to the right of the mask in the forward query and Delta_2 to its left in the reverse
query. `distance` is Delta where both are equal; `total_distance` is Delta_1 + Delta_2, all that the trace bound depends
on. Distances are real numbers of positions.

Distances and thresholds may be numbers or arrays (they broadcast); numbers give a float, arrays an array.
Every function raises a ValueError that names a bad argument.

Angles are products in float64, so at a distance x every result carries an absolute error near 1e-16 (x + m), also where
a function is called exact.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import sici

from lib.encodings import rope_frequencies
from lib.theory import dirichlet, routing
from lib.theory.certificates import certified_minimum as certified_minimum
from lib.theory.certificates import first_zero as first_zero
from lib.theory.validation import (
    Count,
    Number,
    Numbers,
    Reals,
    array,
    as_scalar_or_array,
    distances,
    strictly_between,
    whole_number,
)

_NEAR = 1e-8  # below this distance the limit is 1 - O(x^2), 1 in float64


def _angles(name: str, value: Reals, head_dim: Count, base: Number) -> np.ndarray:
    """(*batch, planes) angles of the planes at each distance."""
    return np.multiply.outer(distances(name, value), rope_frequencies(head_dim, base))


def trace_bound(total_distance: Reals, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """T_d(x) = (1/m) sum_i cos(x theta_i) = tr R(x) / d, the right-hand side of Thm 4.3 (Table 3: x = 2 Delta)."""
    return as_scalar_or_array(np.cos(_angles("total_distance", total_distance, head_dim, base)).mean(-1))


def trace_bound_limit(total_distance: Reals, base: Number = 10_000.0) -> float | np.ndarray:
    """The limit d -> oo of T_d(x): int_0^1 cos(x base**-u) du = (Ci(x) - Ci(x/base)) / ln base, and 1 at x = 0."""
    rope_frequencies(2, base)  # refuses a bad base
    x = distances("total_distance", total_distance)
    far = x > _NEAR
    upper = np.where(far, x, 1.0)
    difference = sici(upper)[1] - sici(upper / float(base))[1]
    return as_scalar_or_array(np.where(far, difference / np.log(float(base)), 1.0))


def trace_bound_limit_error(total_distance: Reals, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """Bound on |T_d(x) - limit|: total variation of u -> cos(x base**-u), int_{x/base}^x |sin y| dy, over m.

    T_d is a left Riemann sum with m points, which misses the integral by at most the variation over m.
    """
    planes = len(rope_frequencies(head_dim, base))
    x = distances("total_distance", total_distance)
    return as_scalar_or_array((_absolute_sine(x) - _absolute_sine(x / float(base))) / planes)


def _absolute_sine(x: Numbers) -> Numbers:
    """An antiderivative of |sin y| at x."""
    halves, rest = np.divmod(x, np.pi)
    return 2 * halves - np.cos(rest)


def cantelli(distance: Reals, threshold: Reals, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """Cantelli's lower bound on P(Corr >= t) at equal distances Delta_1 = Delta_2 (B.2, Table 4).

    With mu and sigma^2 the mean and variance of sum_i w_i cos(2 Delta theta_i), it is
    (mu - t)^2 / ((mu - t)^2 + sigma^2) for t < mu, and 0, the trivial bound, for t >= mu.

    :param distance: Delta, of the evidence on either side
    :param threshold: t, strictly between -1 and 1
    """
    mean, variance = dirichlet.moments(_surplus(distance, threshold, head_dim, base))
    return as_scalar_or_array(one_sided_bound(np.asarray(mean), variance))


def one_sided_bound(gap: Numbers, variance: Numbers) -> Numbers:
    """Cantelli's inequality: P(Y > -gap) >= gap^2 / (gap^2 + variance) for Y of mean 0; 0 where gap <= 0."""
    gap = np.maximum(gap, 0)
    return np.divide(gap**2, gap**2 + variance, out=np.zeros_like(gap), where=gap > 0)


def chebyshev(distance: Reals, threshold: Reals, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """The two-sided inequality in the place of `cantelli`, 1 - sigma^2 / (mu - t)^2, for t < mu."""
    mean, variance = dirichlet.moments(_surplus(distance, threshold, head_dim, base))
    return as_scalar_or_array(1 - variance / np.asarray(mean) ** 2)


def exact_tail(distance: Reals, threshold: Reals, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """P(sum_i w_i cos(2 Delta theta_i) >= t), the quantity that Cantelli's inequality bounds, exactly.

    :param distance: Delta, of the evidence on either side
    :param threshold: t, strictly between -1 and 1
    """
    return as_scalar_or_array(dirichlet.tail(_surplus(distance, threshold, head_dim, base)))


def _surplus(distance: Reals, threshold: Reals, head_dim: Count, base: Number) -> np.ndarray:
    """(*batch, planes) cos(2 Delta theta_i) - t, without the cancellation of cosines near 1."""
    sines = np.sin(_angles("distance", distance, head_dim, base))
    margin = 1 - strictly_between("threshold", threshold, -1, 1)
    try:
        return margin[..., None] - 2 * sines**2
    except ValueError:
        raise ValueError(
            f"distance of shape {sines.shape[:-1]} and threshold of shape {margin.shape} do not broadcast"
        ) from None


# Unequal distances (B.3) -----------------------------------------------------------------------------------------


def unequal_distance_planes(
    delta1: Reals, delta2: Reals, head_dim: Count, base: Number = 10_000.0
) -> tuple[Float[np.ndarray, "*batch planes"], Float[np.ndarray, "*batch planes"]]:
    """Numerators n_i = a_i + kappa_i b_i and denominators D_i = 1 + kappa_i a_i b_i at the worst kappa (B.3).

    a_i = cos((Delta_1 + Delta_2) theta_i), b_i = cos((Delta_1 - Delta_2) theta_i). The surrogate
    sum w_i n_i / sum w_i D_i is smallest at kappa_i = 1 where b_i < 0 and kappa_i = 0 elsewhere, whatever w is.

    :raises ValueError: for distances that do not broadcast, or a bad distance, head_dim or base
    """
    first, second = distances("delta1", delta1), distances("delta2", delta2)
    try:
        total, difference = first + second, np.abs(first - second)
    except ValueError:
        raise ValueError(f"delta1 of shape {first.shape} and delta2 of shape {second.shape} do not broadcast") from None
    a = np.cos(_angles("delta1 + delta2", total, head_dim, base))
    b = np.cos(_angles("delta1 - delta2", difference, head_dim, base))
    worst = b < 0
    return np.where(worst, a + b, a), np.where(worst, 1 + a * b, 1.0)


def asymmetric(delta1: Reals, delta2: Reals, head_dim: Count, base: Number = 10_000.0) -> float | np.ndarray:
    """E_q[inf_kappa surrogate], exactly (B.3, the quantity of Table 5), by a one-dimensional integral."""
    return as_scalar_or_array(dirichlet.ratio_moments(*unequal_distance_planes(delta1, delta2, head_dim, base))[0])


def unequal_correlation_floor(
    delta1: Reals, delta2: Reals, head_dim: Count, base: Number = 10_000.0
) -> float | np.ndarray:
    """A lower bound on E_q[inf_kappa Corr] that needs no sign condition: `asymmetric` minus P(N < 0).

    Where the surrogate's numerator N is negative the surrogate lies above the correlation, but neither leaves
    [-1, 0] there, so they differ by at most 1.
    """
    numerators, denominators = unequal_distance_planes(delta1, delta2, head_dim, base)
    mean, _ = dirichlet.ratio_moments(numerators, denominators)
    return as_scalar_or_array(mean - (1 - dirichlet.tail(numerators)))


def surrogate_minimum(
    weights: Float[np.ndarray, "*batch planes"], delta1: Number, delta2: Number, head_dim: Count, base: Number = 1e4
) -> Numbers:
    """inf_kappa of the surrogate for given weights (*batch, planes), in closed form."""
    numerators, denominators = unequal_distance_planes(delta1, delta2, head_dim, base)
    return (weights * numerators).sum(-1) / (weights * denominators).sum(-1)


def grid_moments(
    farthest: Count, head_dim: Count, base: Number = 10_000.0
) -> tuple[Float[np.ndarray, "side side"], Float[np.ndarray, "side side"]]:
    """Mean and variance over q of the surrogate's infimum, at all integers 0 <= Delta_1, Delta_2 <= farthest (B.3)."""
    axis = np.arange(farthest + 1)
    mean, square = dirichlet.ratio_moments(*unequal_distance_planes(axis[:, None], axis, head_dim, base))
    return np.asarray(mean), np.asarray(square - mean**2).clip(0)


def simulated_minima(
    mean: Float[np.ndarray, "side side"], variance: Float[np.ndarray, "side side"], samples: Count, seed: int,
    repeats: Count = 1000,
) -> Float[np.ndarray, " repeats"]:
    """Minima over a grid of Monte Carlo means, ``samples`` queries a cell, cells independent: biased downwards."""
    noise = np.random.default_rng(seed).normal(size=(repeats, *mean.shape))
    return (mean + noise * np.sqrt(variance) / samples**0.5).min((1, 2))


def correlation_and_surrogate(
    weights: Float[np.ndarray, "queries planes"], kappa: Float[np.ndarray, "*cases planes"], delta1: Number,
    delta2: Number, base: Number = 10_000.0,
) -> tuple[Numbers, Numbers]:
    """The correlation and its surrogate at unequal distances for given alignments (B.3), shape (queries, *cases) each.

    :return: N / sqrt(V_1 V_2) and N / D, with D the mean of the variances V_1 and V_2
    """
    totals = [delta1 + delta2, delta1 - delta2, 2 * delta1, 2 * delta2]
    a, b, c_1, c_2 = routing.plane_cosines(totals, 2 * weights.shape[-1], base)
    numerator = weights @ (a + kappa * b).T
    one, two = (weights @ (1 + kappa * c).T for c in (c_1, c_2))
    return numerator / np.sqrt(one * two), numerator / ((one + two) / 2)


def expected_correlation(
    delta1: Reals, delta2: Reals, kappa: Reals, head_dim: Count, base: Number = 10_000.0, *, nodes: Count = 64
) -> float | np.ndarray:
    """E_q[Corr(s_f, s_r | q)] for q ~ N(0, I) and alignment kappa in every plane, at any two distances (Sec. 4.2).

    With V_1 and V_2 the two variances, 1 / sqrt(V_1 V_2) is the mean of 1 / (x V_1 + (1 - x) V_2) over the arcsine law
    of x on (0, 1), so the expectation is the mean over that law of expected ratios. Chebyshev's nodes take it: with 64
    of them to about 1e-14 where neither variance is more than a few times the other, as for kappa >= -1/2.

    :param kappa: in (-1, 1]; 0 isotropic keys, 1 along the query, below 0 across it (against Assumption 4.2)
    :param nodes: values of x
    :raises ValueError: for a kappa outside (-1, 1], and shapes that do not broadcast
    """
    aligned = array("kappa", kappa)
    if ((aligned <= -1) | (aligned > 1)).any():
        raise ValueError(f"kappa must lie in (-1, 1], not {kappa!r}")
    count, given = whole_number("nodes", nodes, 1), (distances("delta1", delta1), distances("delta2", delta2), aligned)
    try:
        first, second, aligned = np.broadcast_arrays(*given)
    except ValueError:
        shapes = ", ".join(str(one.shape) for one in given)
        raise ValueError(f"delta1, delta2 and kappa do not broadcast: their shapes are {shapes}") from None
    cosine = lambda name, x: np.cos(_angles(name, x, head_dim, base))
    kappas = aligned[..., None]
    numerator = cosine("delta1 + delta2", first + second) + kappas * cosine("delta1 - delta2", np.abs(first - second))
    forward, reverse = (1 + kappas * cosine(name, 2 * x) for name, x in (("delta1", first), ("delta2", second)))
    share = (1 + np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))) / 2
    mixed = (x * forward + (1 - x) * reverse for x in share)
    return as_scalar_or_array(np.mean([dirichlet.ratio_moments(numerator, one)[0] for one in mixed], 0))
