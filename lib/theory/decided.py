"""Inequalities of the theory as statements about all real numbers, for `solver` to decide at given sizes.

A plane has a length a = |q_i|^2 > 0, a cosine c in [-1, 1] and an alignment kappa; the weights of Thm 4.3 are
w_i = a_i / A with A = sum a. Multiplied by A, the correlation is N / D with N = sum a (c + kappa) and
D = sum a (1 + kappa c), and the bound sum w c is C / A with C = sum a c. What a function takes beyond its size breaks
one hypothesis or changes the formula.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sympy as sp

from lib.theory.solver import Statement


@dataclasses.dataclass(frozen=True)
class _Planes:
    """m planes in symbols, with what the proof of Thm 4.3 sums over them."""

    lengths: tuple[sp.Symbol, ...]
    cosines: tuple[sp.Symbol, ...]
    kappas: tuple[sp.Symbol, ...]

    @classmethod
    def of(cls, planes: int) -> _Planes:
        return cls(*(tuple(sp.symbols(f"{name}_0:{planes}", real=True)) for name in ("a", "c", "kappa")))

    def total(self, term: Any) -> sp.Expr:
        """Sum over planes of a term(c, kappa)."""
        return sp.Add(*(a * term(c, k) for a, c, k in zip(self.lengths, self.cosines, self.kappas, strict=True)))

    @property
    def sums(self) -> tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr]:
        """N, D, C and A."""
        return (self.total(lambda c, k: c + k), self.total(lambda c, k: 1 + k * c), self.total(lambda c, k: c),
                self.total(lambda c, k: sp.Integer(1)))

    def within(self, low: Any, high: Any = 1) -> tuple[Any, ...]:
        """a > 0, c in [-1, 1] and kappa in [low, high], plane by plane."""
        box = *_between(self.cosines, -1, 1), *_between(self.kappas, low, high)
        return (*(_above(a, 0) for a in self.lengths), *box)


def _above(value: sp.Expr, low: Any) -> Any:
    return sp.Gt(value, low, evaluate=False)


def _between(values: tuple[sp.Symbol, ...], low: Any, high: Any) -> tuple[Any, ...]:
    return tuple(bound for value in values for bound in (sp.Ge(value, low), sp.Le(value, high)))


# Theorem 4.3 and its sharpenings ------------------------------------------------------------------------------


def correlation_reaches_bound(planes: int, least: Any = 0) -> Statement:
    """Corr >= sum w c, as N A >= C D, for every kappa in [least, 1]; Thm 4.3 has least = 0."""
    p = _Planes.of(planes)
    n, d, c, a = p.sums
    return Statement(sp.Ge(n * a, c * d), p.within(least))


def equality_needs_isotropic_keys(planes: int, least: Any = 0) -> Statement:
    """Where Corr = sum w c although kappa_0 > 0, every c_0 c_i is 1 (n1-range)."""
    p = _Planes.of(planes)
    n, d, c, a = p.sums
    alike = sp.And(*(sp.Eq(p.cosines[0] * other, 1) for other in p.cosines))
    return Statement(alike, (*p.within(least), _above(p.kappas[0], 0), sp.Eq(n * a, c * d)))


def correlation_at_most_one(planes: int, most: Any = 1) -> Statement:
    """|N| <= D for every kappa in [-1, most]; a covariance has most = 1."""
    p = _Planes.of(planes)
    n, d, *_ = p.sums
    return Statement(sp.And(sp.Le(n, d), sp.Ge(n, -d)), p.within(-1, most))


def misaligned_bound_holds(planes: int, slack: Any = 0) -> Statement:
    """Corr >= (C - kappa_0)/(1 - kappa_0 C) for every kappa >= -kappa_0 - slack, 0 <= kappa_0 < 1 (n2-adversarial)."""
    p, level = _Planes.of(planes), sp.Symbol("kappa", real=True)
    n, d, c, a = p.sums
    bounds = (sp.Ge(level, 0), sp.Lt(level + slack, 1))
    return Statement(sp.Ge(n * (a - level * c), (c - level * a) * d), (*p.within(-level - slack), *bounds))


def mediant_is_enough(planes: int, *, equal: bool = True) -> Statement:
    """The termwise argument's bound is at least sum w c, for kappa in [0, 1].

    :param equal: the same kappa in every plane
    """
    p = _Planes.of(planes)
    if equal:
        p = dataclasses.replace(p, kappas=(p.kappas[0],) * planes)
    _, d, c, a = p.sums
    return Statement(sp.Ge(p.total(lambda cosine, k: (1 + k * cosine) * cosine) * a, c * d), p.within(0))


def worst_alignment(falling: int, rising: int, *, turned: bool = False) -> Statement:
    """The surrogate of B.3 is least at kappa_i = 1 where b_i < 0 and 0 elsewhere, for every kappa in [0, 1].

    :param falling: planes with b_i < 0; ``rising``: planes with b_i >= 0
    :param turned: the two values of the worst kappa exchanged
    """
    planes = falling + rising
    p, b = _Planes.of(planes), sp.symbols(f"b_0:{planes}", real=True)
    each = list(zip(p.lengths, p.cosines, b, p.kappas, strict=True))
    worst = [int((i < falling) != turned) for i in range(planes)]
    over = lambda kappas: (sp.Add(*(w * (a + k * bi) for (w, a, bi, _), k in zip(each, kappas, strict=True))),
                           sp.Add(*(w * (1 + k * a * bi) for (w, a, bi, _), k in zip(each, kappas, strict=True))))
    (n, d), (least, under) = over(p.kappas), over(worst)
    signs = (*(sp.Lt(bi, 0) for bi in b[:falling]), *(sp.Ge(bi, 0) for bi in b[falling:]))
    vary = (_above(d, 0), _above(under, 0))
    return Statement(sp.Ge(n * under, least * d), (*p.within(0), *_between(b, -1, 1), *signs, *vary))


def larger_trace_has_larger_weight(*, larger: bool = True) -> Statement:
    """Averaged over the exchange of two planes, that of the larger trace has the larger weight (n-unequal-traces)."""
    x, y, rest, small, large = sp.symbols("x y R t s", real=True)
    p, q = large * x + small * y + rest, large * y + small * x + rest
    gap = (large * x - small * y) * q + (large * y - small * x) * p
    return Statement(_above(gap, 0), (*(_above(value, 0) for value in (x, y, small)), sp.Ge(rest, 0),
                                      _above(large, small if larger else small / 2)))


# Forward-only training in the limit ---------------------------------------------------------------------------


def both_margins_are_tight(*, slack: bool = False) -> Statement:
    """At the symmetric maximum-margin separator A_i leads 0 by exactly 1 where it must, and 0 leads A_i by exactly 1.

    N facts, N >= 2; prompts with attention mass alpha on the evidence ask for A_i, those with mass beta for the
    placeholder 0. Unknowns: W[A_i, B_i], W[A_j, B_i], W[0, B_i], W[A_i, rest], W[0, rest] and the four multipliers of
    the conditions of Karush, Kuhn and Tucker.

    :param slack: complementary slackness is left out
    """
    n, alpha, beta = sp.symbols("N alpha beta", real=True)
    entries, multipliers = sp.symbols("a b c d e", real=True), sp.symbols("lambda_1:5", real=True)
    forms = ((alpha, 0, -alpha, 1 - alpha, alpha - 1), (alpha, -alpha, 0, 0, 0),  # A_i above 0, above A_j
             (-beta, 0, beta, beta - 1, 1 - beta), (0, -beta, beta, beta - 1, 1 - beta))  # 0 above A_i, above A_j
    margins = [sp.Add(*(f * x for f, x in zip(form, entries, strict=True))) for form in forms]
    pairs = list(zip(margins, multipliers, strict=True))
    stationary = [sp.Eq(count * x, sp.Add(*(m * form[i] for m, form in zip(multipliers, forms, strict=True))))
                  for i, (x, count) in enumerate(zip(entries, (n, n * (n - 1), n, n, 1), strict=True))]
    conditions = [*(sp.Ge(margin, 1) for margin in margins), *(sp.Ge(m, 0) for m in multipliers), *stationary,
                  *(() if slack else (sp.Eq(m * (margin - 1), 0) for margin, m in pairs))]
    sizes = (sp.Ge(n, 2), *(_above(mass, 0) for mass in (alpha, beta)), *(sp.Le(x, 1) for x in (alpha, beta)))
    return Statement(sp.And(sp.Eq(margins[0], 1), sp.Eq(margins[2], 1)), (*sizes, *conditions), by_search=True)


# One step (Sec. 4.3) and the contrast (App. C.1) --------------------------------------------------------------


def errors_have_positive_product(tokens: int, *, same_target: bool = True) -> Statement:
    """<eps_f, eps_r> > 0 for predictions with one target, in the unnormalised exponentials of the logits (Thm 4.6)."""
    x, y = (sp.symbols(f"{name}_0:{tokens}", real=True) for name in "xy")
    error = lambda values, target: [value - int(v == target) * sum(values) for v, value in enumerate(values)]
    pairs = zip(error(x, 0), error(y, 0 if same_target else 1), strict=True)
    return Statement(_above(sp.Add(*(one * other for one, other in pairs)), 0),
                     tuple(_above(value, 0) for value in (*x, *y)))


def odds_fall(wrong: int, *, least: bool = True) -> Statement:
    """The odds against the target fall by at least exp(-Gamma), Gamma the least rise of a margin (n5-odds).

    With x_v = exp(-margin) and y_v = exp(-rise): sum x y <= Y sum x, where Y is the largest y.

    :param wrong: tokens other than the target
    :param least: else Y belongs to any one of the rises
    """
    x, y = (sp.symbols(f"{name}_1:{wrong + 1}", real=True) for name in "xy")
    largest = tuple(sp.Ge(y[0], other) for other in y[1:]) if least else ()
    positive = tuple(_above(value, 0) for value in (*x, *y))
    odds = sp.Add(*(margin * rise for margin, rise in zip(x, y, strict=True)))
    return Statement(sp.Le(odds, y[0] * sp.Add(*x)), (*positive, *(sp.Le(rise, 1) for rise in y), *largest))


def contrast_falls(tokens: int, *, most: bool = True) -> Statement:
    """Token 0, with the most attention mass, has a_B > |a|^2 unless all masses are equal (n8-contrast).

    :param most: else token 0 may have any mass
    """
    a = sp.symbols(f"a_0:{tokens}", real=True)
    total = sp.Add(*a)
    largest = tuple(sp.Ge(a[0], other) for other in a[1:]) if most else ()
    unequal = sp.Or(*(sp.Ne(a[0], other) for other in a[1:]))
    return Statement(_above(a[0] * total, sp.Add(*(mass**2 for mass in a))),
                     (*(_above(mass, 0) for mass in a), *largest, unequal))
