"""Derivations of Secs. 4.1 and 4.2 in computer algebra: gradients, covariances, identities, decided exactly.

Symbols follow the paper: ``W`` effective weights (n x (n + 1), the last column is the mask's), ``alpha``
attention weights, ``A`` target, ``B`` evidence, ``kappa`` alignment of the key covariance, ``tau2`` its
trace in a plane.

A function with numbers in its arguments (tokens, number of planes) derives one concrete case; the ones called
``general_...`` leave vocabulary, length and positions symbolic and work on indexed sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sympy as sp
from sympy.concrete.delta import deltasummation
from sympy.simplify.simplify import factor_sum

Kernel = Callable[[Any, Any], Any]
Moments = Mapping[tuple[int, ...], Any]


def vanishes(expression: sp.Expr) -> bool:
    """Whether an expression is identically zero.

    A decision, not a heuristic, for rational functions of symbols, of exponentials and of sines and cosines
    whose arguments are polynomials: each monomial of an exponent becomes an unknown of its own, and the
    numerator of the resulting rational function is expanded.
    """
    unknowns: dict[sp.Expr, sp.Symbol] = {}

    def split(argument: sp.Expr) -> sp.Expr:
        terms = sp.expand(argument).as_coefficients_dict().items()
        return sp.Mul(*(unknowns.setdefault(term, sp.Dummy(positive=True)) ** times for term, times in terms))

    waves = (sp.sin, sp.cos)
    plain = expression.replace(lambda part: isinstance(part, waves), lambda part: part.rewrite(sp.exp))
    plain = plain.replace(sp.exp, split)
    return bool(sp.expand(sp.numer(sp.together(plain))) == 0)


def vanishes_as_sum(expression: sp.Expr, index: sp.Symbol) -> bool:
    """Whether an expression that is linear in sums over ``index`` is zero, for every range of the sum.

    All of them are gathered into one sum (factors that do not depend on the index move inside); its summand and
    what stands outside must both vanish. Sums over other indices count as unknowns.
    """
    summand = outside = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(expression)):
        sums = [part for part in sp.Mul.make_args(term) if isinstance(part, sp.Sum) and part.variables == [index]]
        if sums:
            summand += term / sums[0] * sums[0].function
        else:
            outside += term
    return _vanishes_with_sums(summand) and _vanishes_with_sums(outside)


def _vanishes_with_sums(expression: sp.Expr) -> bool:
    unknowns: dict[sp.Expr, sp.Symbol] = {}
    name = lambda total: unknowns.setdefault(total, sp.Dummy(positive=True))
    return vanishes(sp.expand(expression).replace(lambda part: isinstance(part, sp.Sum), name))


def sign(expression: sp.Expr) -> int | None:
    """1 or -1 if a rational function of exponentials has that sign for all values of its symbols, 0 if zero.

    ``None`` where the factored form does not show a sign. Exponentials are positive, and so are the symbols
    that say so; all terms of each factor must agree.
    """
    factored = sp.factor(expression)
    if factored == 0:
        return 0
    return {(True, False): 1, (False, True): -1}.get((factored.is_positive, factored.is_negative))


# Storage: Sec. 4.1, App. A.2 --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StorageModel:
    """One masked position of the one-layer model of Sec. 3; its attention weights do not depend on W."""

    tokens: tuple[int, ...]
    target: int
    weights: sp.Matrix  # W, (n, n + 1)
    attention: tuple[sp.Symbol, ...]  # alpha_ij, one a position, positive
    logits: sp.Matrix  # z_i, (n, 1)

    @property
    def probabilities(self) -> sp.Matrix:
        """p_i = softmax(z_i), shape (n, 1)."""
        exponentials = self.logits.applyfunc(sp.exp)
        return exponentials / sum(exponentials)

    @property
    def loss(self) -> sp.Expr:
        """Cross-entropy -log p_i(target)."""
        return sp.log(sum(self.logits.applyfunc(sp.exp))) - self.logits[self.target]

    def mass(self, evidence: int) -> sp.Expr:
        """Total attention mass alpha_bar_B on all occurrences of the evidence token."""
        pairs = zip(self.tokens, self.attention, strict=True)
        return sp.Add(*(alpha for token, alpha in pairs if token == evidence))

    def gradient(self, evidence: int) -> sp.Matrix:
        """Derivative of the loss in the column W_{:,B}, taken by sympy, shape (n, 1)."""
        return self.weights[:, evidence].applyfunc(lambda weight: sp.diff(self.loss, weight))


def storage_model(tokens: Sequence[int], vocabulary: int, target: int) -> StorageModel:
    """The model on a concrete sequence; token ``vocabulary`` (the last column of W) is the mask.

    :raises ValueError: for a vocabulary below 2, a token or a target outside it
    """
    if vocabulary < 2:
        raise ValueError(f"vocabulary must hold at least 2 tokens, not {vocabulary}")
    if not 0 <= target < vocabulary:
        raise ValueError(f"target must be a clean token, 0 to {vocabulary - 1}, not {target}")
    if not all(0 <= token <= vocabulary for token in tokens):
        raise ValueError(f"tokens must lie between 0 and {vocabulary} (the mask), not {list(tokens)}")
    weights = sp.Matrix(vocabulary, vocabulary + 1, lambda v, b: sp.Symbol(f"W_{v}{b}", real=True))
    attention = sp.symbols(f"alpha_0:{len(tokens)}", positive=True)
    logits = sum((alpha * weights[:, token] for alpha, token in zip(attention, tokens, strict=True)),
                 sp.zeros(vocabulary, 1))
    return StorageModel(tuple(tokens), target, weights, attention, logits)


@dataclasses.dataclass(frozen=True)
class GeneralStorage:
    """Proposition 4.1 for any vocabulary n, length L, sequence x and tokens A, B, v, all of them symbols."""

    n: sp.Symbol
    length: sp.Symbol
    v: sp.Symbol
    target: sp.Symbol
    evidence: sp.Symbol
    position: sp.Symbol
    alpha: sp.IndexedBase
    x: sp.IndexedBase
    derivative: sp.Expr
    probability: sp.Expr

    @property
    def mass(self) -> sp.Expr:
        """Total attention mass on the evidence token, an indexed sum over positions."""
        place = self.position
        present = sp.KroneckerDelta(self.evidence, self.x[place])
        return sp.Sum(present * self.alpha[place], (place, 1, self.length))


def general_storage() -> GeneralStorage:
    """Differentiate the loss in W_{v,B} with n, L, x, A, B and v symbolic.

    The loss is -sum_l alpha_l W_{A,x_l} + log sum_y exp(sum_l alpha_l W_{y,x_l}). sympy differentiates the
    indexed sums, which yields Kronecker deltas; deltas that do not depend on the position leave the sum
    over positions, and the sum over the vocabulary collapses at y = v (1 <= v <= n is understood).
    """
    n, length = sp.symbols("n L", integer=True, positive=True)
    v, target, evidence, y, place = sp.symbols("v A B y l", integer=True)
    weights, alpha, x = sp.IndexedBase("W"), sp.IndexedBase("alpha"), sp.IndexedBase("x")

    def logit(token: sp.Symbol) -> sp.Expr:
        return sp.Sum(alpha[place] * weights[token, x[place]], (place, 1, length))

    partition = sp.Sum(sp.exp(logit(y)), (y, 1, n))
    derivative = sp.diff(sp.log(partition) - logit(target), weights[v, evidence])
    derivative = derivative.replace(lambda part: _sums_over(part, place), factor_sum)
    has_delta = lambda part: _sums_over(part, y) and part.has(sp.KroneckerDelta)
    derivative = derivative.replace(has_delta, _collapse)
    probability = sp.exp(logit(v)) / partition
    return GeneralStorage(n, length, v, target, evidence, place, alpha, x, derivative, probability)


def _sums_over(part: sp.Basic, index: sp.Symbol) -> bool:
    return isinstance(part, sp.Sum) and part.variables == [index]


def _collapse(total: sp.Sum) -> sp.Expr:
    return deltasummation(total.function, total.limits[0], no_piecewise=True)


# Routing: Sec. 4.2, Apps. A.3 and A.4 -----------------------------------------------------------------------


def rotation(angle: sp.Expr) -> sp.Matrix:
    """R_2(angle), the rotation of one RoPE plane, counter-clockwise."""
    return sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])


def key_covariance(query: sp.Matrix, kappa: sp.Expr, tau2: sp.Expr) -> sp.Matrix:
    """Cov(k_i | q) of Assumption 4.2 in one plane: tau2/2 [(1 - kappa) I + 2 kappa q q^T / |q|^2]."""
    aligned = query * query.T / query.dot(query)
    return tau2 / 2 * ((1 - kappa) * sp.eye(2) + 2 * kappa * aligned)


@dataclasses.dataclass(frozen=True)
class PlaneMoments:
    """Conditional second moments of one plane's part of the forward and the reverse score."""

    covariance: sp.Expr
    variance_forward: sp.Expr
    variance_reverse: sp.Expr


def plane_moments(
    query: sp.Matrix, covariance: sp.Matrix, forward: sp.Expr, reverse: sp.Expr
) -> PlaneMoments:
    """Moments of q^T R(forward) k and q^T R(-reverse) k, given q, for a key of the given covariance.

    :param forward: angle Delta_1 theta of the forward rotation; ``reverse``: angle Delta_2 theta, applied
        as -angle
    """
    there, back = query.T * rotation(forward), query.T * rotation(-reverse)
    return PlaneMoments((there * covariance * back.T)[0], (there * covariance * there.T)[0],
                        (back * covariance * back.T)[0])


def plane_identities(
    query: sp.Matrix, kappa: sp.Expr, tau2: sp.Expr, forward: sp.Expr, reverse: sp.Expr
) -> PlaneMoments:
    """The closed forms that the proof of Theorem 4.3 uses (forward = reverse gives the printed ones)."""
    scale = tau2 / 2 * query.dot(query)
    return PlaneMoments(scale * (sp.cos(forward + reverse) + kappa * sp.cos(forward - reverse)),
                        scale * (1 + kappa * sp.cos(2 * forward)), scale * (1 + kappa * sp.cos(2 * reverse)))


def same_moments(left: PlaneMoments, right: PlaneMoments) -> bool:
    """Whether two sets of moments agree identically."""
    pairs = zip(dataclasses.astuple(left), dataclasses.astuple(right), strict=True)
    return all(vanishes(one - other) for one, other in pairs)


def correlation(w: Iterable[Any], c: Iterable[Any], kappa: Iterable[Any]) -> Any:
    """N / D of Theorem 4.3's proof, sum w (c + kappa) / sum w (1 + kappa c); m numbers or symbols of each."""
    planes = list(zip(w, c, kappa, strict=True))
    return sum(a * (b + k) for a, b, k in planes) / sum(a * (1 + k * b) for a, b, k in planes)


def mediant_bound(w: Iterable[Any], c: Iterable[Any], kappa: Iterable[Any]) -> Any:
    """What the termwise inequality gives: the mean of c under weights proportional to w (1 + kappa c)."""
    planes = list(zip(w, c, kappa, strict=True))
    return sum(a * (1 + k * b) * b for a, b, k in planes) / sum(a * (1 + k * b) for a, b, k in planes)


def gap_kernel(w: Any, c: Any, kappa: Any) -> tuple[Kernel, Kernel]:
    """Two kernels over pairs of planes: of N - C D by definition (C = sum w c), and the claimed one.

    With sum w = 1, N = sum_ij w_i w_j (c_i + kappa_i) and C D = sum_ij w_i w_j c_i (1 + kappa_j c_j).
    """

    def defined(i: Any, j: Any) -> Any:
        return w[i] * w[j] * ((c[i] + kappa[i]) - c[i] * (1 + kappa[j] * c[j]))

    def claimed(i: Any, j: Any) -> Any:
        return w[i] * w[j] * kappa[j] * (1 - c[i] * c[j])

    return defined, claimed


def same_double_sum(left: Kernel, right: Kernel) -> bool:
    """Whether sum_ij left(i, j) = sum_ij right(i, j) for every number of terms m, with i and j symbols.

    Swapping the names i and j leaves a double sum alone, so each kernel may be replaced by the mean of
    itself and its transpose; the sums then agree for every m if the symmetrised kernels agree off the
    diagonal and on it.
    """
    i, j = sp.symbols("i j", integer=True)
    return vanishes(left(i, j) + left(j, i) - right(i, j) - right(j, i))


def expected_weight(planes: Any) -> sp.Expr:
    """E w_i for w_i = |q_i|^2 / |q|^2, q standard normal, by integration against its Beta(1, m - 1) density.

    :param planes: m, a number or symbol above 1 (one plane has weight 1)
    """
    x = sp.Symbol("x", positive=True)
    return sp.simplify(sp.integrate((planes - 1) * x * (1 - x) ** (planes - 2), (x, 0, 1)))


def normalised_trace(angles: Sequence[sp.Expr]) -> sp.Expr:
    """tr R / d of the block-diagonal rotation with the given plane angles, d = 2 len(angles)."""
    turned = sp.diag(*(rotation(angle) for angle in angles))
    return turned.trace() / turned.rows


def expectation(polynomial: sp.Expr, moments: Moments, *variables: sp.Symbol) -> sp.Expr:
    """Expectation of a polynomial in random variables, of any law with the given joint moments.

    :param moments: exponents -> E[product of powers]; (0, ..., 0) is 1 and need not be given
    :raises KeyError: if a moment that is needed is missing
    """
    terms = sp.Poly(polynomial, *variables).terms()
    return sp.Add(*(factor * (moments[powers] if any(powers) else 1) for powers, factor in terms))


class StandardNormal(dict[tuple[int, ...], int]):
    """Joint moments of independent standard normal variables: E x^p = (p - 1)!! for even p, else 0."""

    def __missing__(self, powers: tuple[int, ...]) -> int:
        if any(power % 2 for power in powers):
            return 0
        return math.prod(int(sp.factorial2(power - 1)) for power in powers)


def score_correlation(
    forward: sp.Expr, reverse: sp.Expr, moments: Moments, *variables: sp.Symbol
) -> sp.Expr:
    """Pearson correlation of two scores that are linear in random variables with the given joint moments.

    The answer is sympy's ``nan`` where a score does not vary: the correlation is then undefined.
    """

    def covariance(one: sp.Expr, other: sp.Expr) -> sp.Expr:
        mean = lambda polynomial: expectation(polynomial, moments, *variables)
        return sp.factor(mean(sp.expand(one * other)) - mean(one) * mean(other))

    variances = covariance(forward, forward), covariance(reverse, reverse)
    if 0 in variances:
        return sp.nan
    return sp.simplify(covariance(forward, reverse) / sp.sqrt(variances[0]) / sp.sqrt(variances[1]))
