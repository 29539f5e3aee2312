"""The value path's share <delta_f, delta_r> where U U^T is not isotropic (App. C.2): an exact condition, a random U.

``delta = U^T eps`` for an error ``eps = p - e_A``, and ``c`` is the cosine of two errors; U is n x d_v, a row a token.
Two predictions with one target have c > 1/2.
"""

from __future__ import annotations

import numpy as np
import sympy as sp
from jaxtyping import Float
from scipy import stats
from sympy.concrete.delta import deltasummation

from lib.theory import symbolic
from lib.theory.validation import Count, Number

# Any U --------------------------------------------------------------------------------------------------------


def signals_are_means_of_sides(*, same_target: bool = True) -> bool:
    """Whether delta = sum_v p(v) (U_v - U_A) for both prompts, in each coordinate, for any n; predictions sum to 1.

    Then <delta_f, delta_r> is the mean of <U_v - U_A, U_w - U_A> over independent v from p_f and w from p_r.

    :param same_target: the reverse error has the target A as well
    """
    v, target, other = sp.symbols("v A A'", integer=True)
    n = sp.Symbol("n", integer=True, positive=True)
    p, u = sp.IndexedBase("p"), sp.IndexedBase("U")
    mean = sp.Sum(p[v] * u[v], (v, 1, n))

    def signal(asked: sp.Symbol) -> sp.Expr:
        return mean - deltasummation(sp.KroneckerDelta(v, asked) * u[v], (v, 1, n), no_piecewise=True)

    sides = mean - u[target]  # sum_v p(v) U_v - U_A sum_v p(v)
    return all(sp.expand(signal(asked) - sides) == 0 for asked in (target, target if same_target else other))


def smallest_cosine(unembedding: Float[np.ndarray, "vocab value"]) -> float:
    """Smallest cosine of an angle that two rows of U make at a third row; below 0 an angle is obtuse."""
    found = 1.0
    for corner in range(len(unembedding)):
        sides = np.delete(unembedding - unembedding[corner], corner, 0)
        sides /= np.linalg.norm(sides, axis=1, keepdims=True)
        found = min(found, (sides @ sides.T).min())
    return float(found)


def eigenvalue_spread(unembedding: Float[np.ndarray, "vocab value"]) -> float:
    """Largest over smallest eigenvalue of U U^T on sum-zero vectors; infinite where d_v < n - 1."""
    vocabulary, width = unembedding.shape
    if width < vocabulary - 1:
        return np.inf
    singular = np.linalg.svd(unembedding - unembedding.mean(0), compute_uv=False)[: vocabulary - 1]
    return float((singular[0] / singular[-1]) ** 2)


def acute_though_spread(width: Count, *, count: Count, vocabulary: Count, seed: Count) -> bool:
    """Whether no angle between rows of a standard normal U is obtuse although its spread is above 3, in every draw."""
    drawn = np.random.default_rng(seed).normal(size=(count, vocabulary, width))
    return all(smallest_cosine(u) > 0 and eigenvalue_spread(u) > 3 for u in drawn)


def least_spread(width: Count, *, count: Count, vocabulary: Count, seed: Count) -> float:
    """Smallest `eigenvalue_spread` among the matrices of `acute_though_spread`."""
    return min(map(eigenvalue_spread, np.random.default_rng(seed).normal(size=(count, vocabulary, width))))


# A random U ---------------------------------------------------------------------------------------------------


def share_is_a_difference_of_squares(*, independent: bool = True) -> bool:
    """Whether a b has the law of [(1 + c) X - (1 - c) Y] / 2, X and Y independent chi-squared of one degree of freedom.

    a, b are standard normal of covariance c: E exp(-t a b) = det(I + t C J)^(-1/2) with C their covariance and
    a b = z^T J z / 2. It must be the product of the two laws' transforms.

    :param independent: else X and Y are one variable
    """
    t, c = sp.symbols("t c", real=True)
    covariance, swap = sp.Matrix([[1, c], [c, 1]]), sp.Matrix([[0, 1], [1, 0]])
    transform = (1 + t * (1 + c)) * (1 - t * (1 - c)) if independent else 1 + 2 * t * c  # to the power -1/2
    return symbolic.vanishes((sp.eye(2) + t * covariance * swap).det() - transform)


def exponential_bound_is_best(*, at: Number = 1) -> bool:
    """Whether (1 + 2t(1 + c)) (1 - 2t(1 - c)) has slope 0 at t = c / (2 (1 - c^2)), and is 1 / (1 - c^2) there.

    :param at: multiple of that t
    """
    t, c = sp.symbols("t c", real=True)
    product, best = (1 + 2 * t * (1 + c)) * (1 - 2 * t * (1 - c)), at * c / (2 * (1 - c**2))
    return (symbolic.vanishes(sp.diff(product, t).subs(t, best))
            and symbolic.vanishes(product.subs(t, best) - 1 / (1 - c**2)))


def negative_probability(cosine: Number, width: Count) -> float:
    """P(<delta_f, delta_r> <= 0), U normal and errors of this cosine: P(F >= (1 + c) / (1 - c)), F of d_v, d_v."""
    return float(stats.f.sf((1 + cosine) / (1 - cosine), width, width))


def within_the_bound(cosine: Number, widths: tuple[int, ...]) -> bool:
    """Whether `negative_probability` is at most (3/4)^(d_v / 2) at each of ``widths``."""
    return all(negative_probability(cosine, d) <= 0.75 ** (d / 2) for d in widths)


def one_hot_errors(*, same_target: bool = True, vocabulary: Count = 12) -> Float[np.ndarray, "2 vocab"]:
    """Errors of two prompts with all wrong mass on one token each, not the same one; one target, or two."""
    unit = np.eye(int(vocabulary))
    return np.array([unit[1] - unit[0], unit[2] - unit[0 if same_target else 1]])


def sampled_interval(errors: Float[np.ndarray, "2 vocab"], width: Count, draws: Count, seed: Count
                     ) -> tuple[float, float]:
    """99.9 percent interval (Clopper and Pearson) of P(<delta_f, delta_r> <= 0), from ``draws`` standard normal U."""
    rng = np.random.default_rng(seed)
    forward, reverse = (np.array([errors @ rng.normal(size=(errors.shape[1], width)) for _ in range(draws)])
                        .transpose(1, 0, 2))
    negative = int(((forward * reverse).sum(1) <= 0).sum())
    interval = stats.binomtest(negative, draws).proportion_ci(0.999)
    return float(interval.low), float(interval.high)


def simulation_agrees(errors: Float[np.ndarray, "2 vocab"], width: Count, draws: Count, seed: Count) -> bool:
    """Whether the exact probability at cosine 1/2 lies in `sampled_interval`."""
    low, high = sampled_interval(errors, width, draws, seed)
    return low <= negative_probability(0.5, width) <= high
