"""Decisions in computer algebra: is an expression zero, what sign has it, what is its expectation.

Each answer is exact for the class of expressions that its docstring names. The models that the proofs differentiate
stand in `storage` (Sec. 4.1), `routing` (Sec. 4.2) and `gradients` (App. C.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sympy as sp
from sympy.concrete.delta import deltasummation

Kernel = Callable[[Any, Any], Any]
Moments = Mapping[tuple[int, ...], Any]

# Zero and sign ------------------------------------------------------------------------------------------------


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
    exponential = expression.replace(lambda part: isinstance(part, waves), lambda part: part.rewrite(sp.exp))
    exponential = exponential.replace(sp.exp, split)
    return bool(sp.expand(sp.numer(sp.together(exponential))) == 0)


def sign(expression: sp.Expr) -> int | None:
    """1 or -1 if a rational function of exponentials has that sign for all values of its symbols, 0 if zero.

    ``None`` where the factored form does not show a sign. Exponentials are positive, and so are the symbols
    that say so; all terms of each factor must agree.
    """
    factored = sp.factor(expression)
    if factored == 0:
        return 0
    return {(True, False): 1, (False, True): -1}.get((factored.is_positive, factored.is_negative))


# Predictions --------------------------------------------------------------------------------------------------


def softmax(logits: Iterable[sp.Expr] | sp.Matrix) -> list[sp.Expr]:
    """exp(z_v) / sum_u exp(z_u) of each logit."""
    exponentials = [sp.exp(logit) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def cross_entropy(logits: Sequence[sp.Expr] | sp.Matrix, target: int) -> sp.Expr:
    """-log p(A) = log sum_v exp(z_v) - z_A."""
    return sp.log(sum(map(sp.exp, logits))) - logits[target]


# Indexed sums -------------------------------------------------------------------------------------------------


def is_sum_over(part: sp.Basic, index: sp.Symbol) -> bool:
    """Whether an expression is an indexed sum over ``index`` alone."""
    return isinstance(part, sp.Sum) and part.variables == [index]


def collapse_deltas(expression: sp.Expr, index: sp.Symbol) -> sp.Expr:
    """Every sum over ``index`` that holds a Kronecker delta, evaluated where the delta is 1.

    That place is taken to lie within the sum's range.
    """
    return expression.replace(
        lambda part: is_sum_over(part, index) and part.has(sp.KroneckerDelta),
        lambda part: deltasummation(part.function, part.limits[0], no_piecewise=True),
    )


def vanishes_as_sum(expression: sp.Expr, index: sp.Symbol) -> bool:
    """Whether an expression that is linear in sums over ``index`` is zero, for every range of the sum.

    All of them are gathered into one sum (factors that do not depend on the index move inside); its summand and
    what stands outside must both vanish. Sums over other indices count as unknowns.
    """
    summand = outside = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(expression)):
        sums = [part for part in sp.Mul.make_args(term) if is_sum_over(part, index)]
        if sums:
            summand += term / sums[0] * sums[0].function
        else:
            outside += term
    return _vanishes_with_sums(summand) and _vanishes_with_sums(outside)


def _vanishes_with_sums(expression: sp.Expr) -> bool:
    unknowns: dict[sp.Expr, sp.Symbol] = {}
    name = lambda total: unknowns.setdefault(total, sp.Dummy(positive=True))
    return vanishes(sp.expand(expression).replace(lambda part: isinstance(part, sp.Sum), name))


def same_double_sum(left: Kernel, right: Kernel) -> bool:
    """Whether sum_ij left(i, j) = sum_ij right(i, j) for every number of terms m, with i and j symbols.

    Swapping the names i and j leaves a double sum alone, so each kernel may be replaced by the mean of
    itself and its transpose; the sums then agree for every m if the symmetrised kernels agree off the
    diagonal and on it.
    """
    i, j = sp.symbols("i j", integer=True)
    return vanishes(left(i, j) + left(j, i) - right(i, j) - right(j, i))


# Expectation --------------------------------------------------------------------------------------------------


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


def pearson_correlation(first: sp.Expr, second: sp.Expr, moments: Moments, *variables: sp.Symbol) -> sp.Expr:
    """Pearson correlation of two polynomials in random variables of any law with the given joint moments.

    The answer is sympy's ``nan`` where one of them does not vary: the correlation is then undefined.
    """

    def covariance(one: sp.Expr, other: sp.Expr) -> sp.Expr:
        mean = lambda polynomial: expectation(polynomial, moments, *variables)
        return sp.factor(mean(sp.expand(one * other)) - mean(one) * mean(other))

    variances = covariance(first, first), covariance(second, second)
    if 0 in variances:
        return sp.nan
    return sp.simplify(covariance(first, second) / sp.sqrt(variances[0]) / sp.sqrt(variances[1]))
