"""The steps of App. B's proofs, each as a decision: by computer algebra, by ball arithmetic or at sample points.

Every function is true as the proofs state it. What it takes beyond its data breaks one step: a factor of the formula,
or one hypothesis.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sympy as sp
from jaxtyping import Float
from scipy.integrate import quad
from scipy.stats import beta, kstest

from lib.theory import bounds, certificates, dirichlet, routing
from lib.theory.symbolic import vanishes
from lib.theory.validation import Count, Number

STANDARD_ERRORS = 4.5  # standard errors that a mean of random queries may lie from its expectation

# Certificates -------------------------------------------------------------------------------------------------


def minima_enclosed(enclosures: Mapping[Count, tuple[float, float]]) -> bool:
    """Whether each enclosure of min T_d over [0, 100] is at most 1e-6 wide and holds the least of a fine sample.

    :param enclosures: head dimension -> (lower, upper); sampling every 0.002 positions may miss the minimum by 1e-6
    """
    fine = np.arange(0, 100 + 1e-9, 2e-3)
    least = {d: np.min(bounds.trace_bound(fine, d)) for d in enclosures}
    return all(low <= least[d] <= high + 1e-6 and high - low <= 1e-6 for d, (low, high) in enclosures.items())


def first_zeros_enclosed(zeros: Mapping[tuple[str, Count], tuple[float, float]], bases: Mapping[str, Number]) -> bool:
    """Whether T_d changes sign between the ends (in balls), at most 1e-6 apart, and is positive before (sampled).

    :param zeros: (name of a base, head dimension) -> enclosure of the first zero; sampled every half position
    """
    for (name, d), (low, high) in zeros.items():
        signs = [certificates.trace_bound_sign(end, d, bases[name]) for end in (low, high)]
        parts = np.array_split(np.arange(0, low, 0.5), max(1, int(low * d / 4e5)))  # bounds the memory
        before = min(np.min(bounds.trace_bound(part, d, bases[name])) for part in parts)
        if signs != [1, -1] or before <= 0 or high - low > 1e-6:
            return False
    return True


# The limit of large heads (B.1) -------------------------------------------------------------------------------

_X, _U, _BASE = sp.symbols("x u b", positive=True)
_Y = _X * _BASE**-_U  # y = x b**-u, and f(u) = cos y


def limit_variation_is_sine(base: Number | None = None) -> bool:
    """Whether f'(u) = log(b) y sin y and y' = -log(b) y, so that the variation of f is the integral of |sin y|.

    :param base: the control: a number in the place of the exponent's base b
    """
    rate = sp.log(_BASE if base is None else base)
    steps = sp.diff(sp.cos(_Y), _U) - rate * _Y * sp.sin(_Y), sp.diff(_Y, _U) + rate * _Y
    return all(sp.simplify(step) == 0 for step in steps)


def limit_has_antiderivative(scale: Number | None = None) -> bool:
    """Whether -Ci(y) / log(b) has the derivative cos y in u; ``scale`` takes the place of log(b)."""
    found = sp.diff(-sp.Ci(_Y) / (sp.log(_BASE) if scale is None else scale), _U)
    return bool(sp.simplify(found - sp.cos(_Y)) == 0)


def limit_error_holds(share: float = 1.0) -> bool:
    """Whether |T_d - limit| is at most ``share`` of its bound, at 400 distances up to 100, d = 2, 4, ..., 8192."""
    totals = np.linspace(0.01, 100, 400)
    limit = bounds.trace_bound_limit(totals)
    return all((np.abs(bounds.trace_bound(totals, d) - limit)
                <= share * bounds.trace_bound_limit_error(totals, d) + 1e-13).all() for d in 2 ** np.arange(1, 14))


def limit_is_a_positive_integral(base: Number) -> bool:
    """Whether quadrature of the definition agrees with the closed form and is positive, at x = 1, ..., 100."""
    totals = np.arange(1.0, 101.0)
    wave = lambda u, total: np.cos(total * base**-u)
    found = np.array([quad(wave, 0, 1, args=(total,), limit=400)[0] for total in totals])
    return np.allclose(found, bounds.trace_bound_limit(totals, base), atol=1e-9, rtol=0) and bool((found > 0).all())


# High probability (B.2) ---------------------------------------------------------------------------------------


def weight_variance_is(added: int = 1) -> bool:
    """Whether Var sum w c = (mean of c^2 - mu^2) / (m + ``added``), for any m and c, from moments of Gamma laws."""
    m, s, first, second = sp.symbols("m s c1 c2", positive=True)  # c1 = sum c_i, c2 = sum c_i^2

    def moment(power: int, shape: sp.Expr | int) -> sp.Expr:  # E S**power for S ~ Gamma(shape)
        return sp.gammasimp(sp.integrate(s ** (power + shape - 1) * sp.exp(-s), (s, 0, sp.oo)) / sp.gamma(shape))

    square = moment(2, 1) * second + moment(1, 1) ** 2 * (first**2 - second)  # E (sum E_i c_i)^2
    variance = square / moment(2, m) - (first / m) ** 2
    return vanishes(variance - (second / m - (first / m) ** 2) / (m + added))


def first_weight_is_uniform(query: Float[np.ndarray, "queries dim"]) -> bool:
    """Whether the first weight of the queries follows 1 - (1 - x)^(m - 1) (Kolmogorov's test at level 0.001)."""
    planes = query.shape[-1] // 2
    return bool(kstest(routing.plane_weights(query)[:, 0], beta(1, planes - 1).cdf).pvalue > 0.001)


def best_shift_gives_cantelli(power: int = 2) -> bool:
    """Whether u = sigma^2 / a is stationary for Markov's bound (sigma^2 + u^2) / (a + u)^2 and gives the stated bound.

    :param power: of sigma, and one more than that of 1 / a
    """
    a, sigma, u = sp.symbols("a sigma u", positive=True)
    markov, at = (sigma**2 + u**2) / (a + u) ** 2, sigma**power / a ** (power - 1)
    return (vanishes(sp.diff(markov, u).subs(u, at))
            and vanishes(markov.subs(u, at) - sigma**2 / (sigma**2 + a**2)))


def cantelli_below_tail(divisions: int = 1) -> bool:
    """Whether Cantelli's bound is at most the exact tail, for many distances, thresholds and dimensions.

    :param divisions: how often the variance is divided by m + 1; once is right
    """
    distance, threshold = np.linspace(0, 200, 81), np.linspace(-0.9, 0.9, 61)
    for d in (2, 4, 16, 64, 128):
        cosines = routing.plane_cosines(2 * distance, d)
        mean, variance = (np.asarray(moment)[:, None] for moment in dirichlet.moments(cosines))
        bound = bounds.one_sided_bound(mean - threshold, variance / (d // 2 + 1) ** (divisions - 1))
        if (bound > bounds.exact_tail(distance[:, None], threshold, d) + 1e-12).any():
            return False
    return True


def partial_fractions_hold(values: tuple[sp.Expr, ...], power: int = 1) -> bool:
    """Whether sum_i A_i prod_{j != i} (1 - z lambda_j) = 1, A_i = prod_{j != i} lambda_i / (lambda_i - lambda_j).

    :param values: lambda, all different
    :param power: to which the factors of A_i are raised
    """
    z = sp.Symbol("z")
    others = [[value for value in values if value != mine] for mine in values]
    terms = [sp.prod([(mine / (mine - value)) ** power * (1 - z * value) for value in rest])
             for mine, rest in zip(values, others, strict=True)]
    return vanishes(sum(terms) - 1)


def tail_recursion_holds(sign: int = 1) -> bool:
    """Whether plane k keeps its term in the recursion: beta (l - alpha) / l - alpha (l - beta) / l = beta - alpha."""
    low, high, value = sp.symbols("alpha beta lambda_k")
    return vanishes(high * (value - low) / value - sign * low * (value - high) / value - (high - low))


def tail_within_enclosures(shift: Number = 0.0) -> bool:
    """Whether `bounds.exact_tail`, at distances ``shift`` positions off, lies in the balls of the partial fractions."""
    for d, delta, t in ((64, 10.0, 0.3), (128, 50.0, 0.3), (256, 33.7, -0.2), (256, 50.0, 0.4)):
        low, high = certificates.tail_enclosure(delta, t, d)
        if not low - 1e-12 <= bounds.exact_tail(delta + shift, t, d) <= high + 1e-12:
            return False
    return True


def share_is_exact_tail(
    values: Float[np.ndarray, " queries"], threshold: Number, distance: Number, head_dim: Count,
    claimed: Number | None = None,
) -> bool:
    """Whether the share of values of sum w c at or above the threshold is `bounds.exact_tail`, to sampling error.

    :param claimed: the control: a threshold for the exact tail that is not the sample's
    """
    exact = float(bounds.exact_tail(distance, threshold if claimed is None else claimed, head_dim))
    return mean_is(values >= threshold, exact, (exact * (1 - exact)) ** 0.5)


def mean_is(values: Float[np.ndarray, " queries"], expected: float, spread: float | None = None) -> bool:
    """Whether the mean of independent values lies within `STANDARD_ERRORS` standard errors of what is expected.

    :param spread: standard deviation of one value; the sample's own where not given
    """
    error = (values.std() if spread is None else spread) / len(values) ** 0.5
    return bool(abs(values.mean() - expected) < STANDARD_ERRORS * error)


# Unequal distances (B.3) --------------------------------------------------------------------------------------

_KAPPA, _PHI, _PSI = sp.symbols("kappa phi psi", real=True)


def mean_variance_is_denominator(single: bool = False) -> bool:
    """Whether the two variances of a plane have the mean 1 + kappa a b; ``single``: cos(phi) cos(psi) for a b."""
    mean = 1 + _KAPPA * (sp.cos(2 * _PHI) + sp.cos(2 * _PSI)) / 2
    product = sp.cos(_PHI) * sp.cos(_PSI) if single else sp.cos(_PHI + _PSI) * sp.cos(_PHI - _PSI)
    return vanishes(mean - (1 + _KAPPA * product))


def means_differ_by_half_a_square(root: int = 2) -> bool:
    """Whether (V_1 + V_2) / 2 - sqrt(V_1 V_2) = (V_1^(1/root) - V_2^(1/root))^2 / 2."""
    one, two = sp.symbols("V_1 V_2", positive=True)
    square = (one ** sp.Rational(1, root) - two ** sp.Rational(1, root)) ** 2
    return bool(sp.simplify((one + two) / 2 - sp.sqrt(one * two) - square / 2) == 0)


def surrogate_below_correlation(seed: int, sign: int = 1) -> bool:
    """Whether the surrogate is at most the exact correlation wherever N has this sign: 1,200 random cases, d = 16."""
    rng = np.random.default_rng(seed)
    query, below = rng.normal(size=(400, 16)), []
    for pair in ((3.0, 17.0), (40.0, 11.0), (25.0, 31.0)):
        kappa, weights = rng.uniform(size=(400, 8)), routing.plane_weights(query)
        a, b = routing.plane_cosines([sum(pair), pair[0] - pair[1]], 16)
        numerator = (weights * (a + kappa * b)).sum(-1)
        surrogate = numerator / (weights * (1 + kappa * a * b)).sum(-1)
        exact = routing.rope_score_correlation(query, routing.key_covariance(query, kappa), *pair)
        below.append((surrogate <= exact + 1e-12)[sign * numerator > 0])
    return bool(np.concatenate(below).all())


def margin_slope_is(a: Number | None = None) -> bool:
    """Whether N - lambda D has the slope w b (1 - lambda a) in one kappa; N_0, D_0 stand for the other planes.

    :param a: the control: a number for the plane's cosine a in the slope
    """
    w, cosine, b, level, n0, d0 = sp.symbols("w a b lambda N_0 D_0", real=True)
    margin = (n0 + w * (cosine + _KAPPA * b)) - level * (d0 + w * (1 + _KAPPA * cosine * b))
    return vanishes(sp.diff(margin, _KAPPA) - w * b * (1 - level * (cosine if a is None else a)))


def denominator_bounds_numerator(without_a: bool = False) -> bool:
    """Whether (1 + kappa a b) +- (a + kappa b) = (1 +- a)(1 +- kappa b), so that |N| <= D plane by plane.

    :param without_a: the control: the denominator 1 + kappa b
    """
    a, b = sp.symbols("a_i b_i", real=True)
    denominator = 1 + _KAPPA * (b if without_a else a * b)
    return all(vanishes(denominator + side * (a + _KAPPA * b) - (1 + side * a) * (1 + side * _KAPPA * b))
               for side in (1, -1))


# The expected worst case as an integral -----------------------------------------------------------------------


def plane_transforms_are(power: int = 2) -> bool:
    """Whether E exp(-sDE) = 1/(1+sD), E[E exp(-sDE)] = (1+sD)**-power, int exp(-sy) ds = 1/y; E exponential."""
    s, energy, d = sp.symbols("s E D", positive=True)
    density = sp.exp(-energy * (1 + s * d))
    return all(map(vanishes, (
        sp.integrate(density, (energy, 0, sp.oo)) - 1 / (1 + s * d),
        sp.integrate(energy * density, (energy, 0, sp.oo)) - (1 + s * d) ** -power,
        sp.integrate(sp.exp(-s * d), (s, 0, sp.oo)) - 1 / d)))


def ratio_expansion_holds(sign: int = 1) -> bool:
    """Whether N/D = (N/D_bar)(2 - D/D_bar) + sign (N/D)(D - D_bar)^2/D_bar^2."""
    n, d, mean = sp.symbols("n D D_bar", positive=True)
    return vanishes(n / d - n / mean * (2 - d / mean) - sign * n / d * (d - mean) ** 2 / mean**2)


def unequal_distance_enclosed(head_dim: Count) -> bool:
    """Whether `bounds.asymmetric` at ``head_dim`` lies in the rigorous enclosures for d = 128, at three pairs."""
    for pair in ((21.0, 50.0), (3.3, 7.7), (0.0, 30.0)):
        low, high = certificates.unequal_distance_enclosure(*pair, 128)
        if not low - 1e-12 <= bounds.asymmetric(*pair, head_dim) <= high + 1e-12:
            return False
    return True


def repair_holds(seed: int, weight: int = 1) -> bool:
    """Whether inf Corr >= inf surrogate - weight [N < 0], query by query: 300 queries, d = 32, distances (34, 50).

    The infimum of Corr is taken over 400 alignments: random ones, random corners, and the worst of the surrogate.
    """
    rng = np.random.default_rng(seed)
    weights = routing.plane_weights(rng.normal(size=(300, 32)))
    worst = routing.plane_cosines(50 - 34, 32) < 0  # b_i < 0, as in b3-kappa
    kappa = np.concatenate([rng.uniform(size=(200, 16)), rng.integers(0, 2, (199, 16)), [worst]])
    least = bounds.correlation_and_surrogate(weights, kappa, 34, 50)[0].min(1)
    numerators, denominators = bounds.unequal_distance_planes(34, 50, 32)
    numerator = weights @ numerators
    return bool((least >= numerator / (weights @ denominators) - weight * (numerator < 0) - 1e-12).all())
