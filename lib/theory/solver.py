"""Statements about all real numbers, decided by an SMT solver (z3).

A `Statement` says: whatever real numbers its symbols stand for, where all assumptions hold the conclusion holds. The
solver looks for numbers that satisfy the assumptions and not the conclusion. If it proves that there are none, the
statement holds for every real number; if it finds some, they are a counterexample, which is evaluated again in exact
fractions. Statements are sympy relations between polynomials, of a fixed number of symbols.

A time limit is an error, never an answer, and the solver's random choices have fixed seeds. It decides inequalities
between few unknowns by cutting space into cells; for many unknowns tied by equations its general search is faster.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy as sp
import z3

TIME_LIMIT = 20.0  # seconds for one question
_DIGITS = 40  # of an irrational number's rational stand-in; the stand-in is checked like any counterexample

Counterexample = Mapping[sp.Symbol, sp.Rational]


class Undecided(ArithmeticError):
    """The solver did not answer within its time, or its answer does not stand when evaluated exactly."""


@dataclasses.dataclass(frozen=True)
class Statement:
    """For all real values of the symbols: if every assumption holds, so does the conclusion.

    :param conclusion: a sympy relation between polynomials, or And, Or, Not of such
    :param by_search: decide it by the solver's general search, not by cells
    """

    conclusion: Any
    assumptions: tuple[Any, ...] = ()
    by_search: bool = False

    @property
    def symbols(self) -> list[sp.Symbol]:
        """Its unknowns, by name."""
        return sorted(sp.And(self.conclusion, *self.assumptions, evaluate=False).free_symbols, key=str)

    def refuted_by(self, values: Counterexample) -> bool:
        """Whether these numbers satisfy all assumptions and not the conclusion, in exact arithmetic."""
        true = lambda relation: bool(relation.subs(values))
        return all(map(true, self.assumptions)) and not true(self.conclusion)


def holds(statement: Statement) -> bool:
    """Whether the statement is true for all real numbers; errors as for `counterexample`."""
    return counterexample(statement) is None


def counterexample(statement: Statement, seconds: float = TIME_LIMIT) -> dict[sp.Symbol, sp.Rational] | None:
    """Numbers that refute the statement, checked exactly; None where the solver proves that there are none.

    :param seconds: time limit of each of two questions: whether any numbers satisfy the assumptions, and whether some
        of them violate the conclusion
    :raises Undecided: if the time is up, or if the numbers found do not refute the statement
    :raises ValueError: for assumptions that no numbers satisfy: the statement would be empty
    """
    context = z3.Context()  # of its own: what was asked before must not change the numbers found
    unknowns = {symbol: z3.Real(symbol.name, context) for symbol in statement.symbols}
    assumed = [translated(relation, unknowns) for relation in statement.assumptions]
    if assumed and _model(assumed, seconds, statement.by_search) is None:
        raise ValueError("no numbers satisfy the assumptions: the statement says nothing")
    model = _model([*assumed, z3.Not(translated(statement.conclusion, unknowns))], seconds, statement.by_search)
    if model is None:
        return None
    found = {symbol: _rational(model.eval(unknown, model_completion=True)) for symbol, unknown in unknowns.items()}
    if not statement.refuted_by(found):
        raise Undecided(f"the solver's numbers {found} do not refute the statement")
    return found


def _model(relations: Sequence[Any], seconds: float, by_search: bool) -> Any:
    """Numbers that satisfy all relations, or None if there are none."""
    context = relations[0].ctx
    solver = z3.Tactic("smt", context).solver() if by_search else z3.SolverFor("QF_NRA", context)
    solver.set(timeout=max(1, math.floor(1000 * seconds)), random_seed=0)
    solver.add(*relations)
    answer = solver.check()
    if answer == z3.unknown:
        raise Undecided(f"the solver gave no answer: {solver.reason_unknown()}")
    return solver.model() if answer == z3.sat else None


def _rational(value: Any) -> sp.Rational:
    near = value if z3.is_rational_value(value) else value.approx(_DIGITS)
    return sp.Rational(near.numerator_as_long(), near.denominator_as_long())


_BUILD: Mapping[type, Callable[..., Any]] = {
    sp.Add: lambda *terms: z3.Sum(*terms), sp.Mul: lambda *factors: z3.Product(*factors),
    sp.Ge: lambda left, right: left >= right, sp.Gt: lambda left, right: left > right,
    sp.Le: lambda left, right: left <= right, sp.Lt: lambda left, right: left < right,
    sp.Eq: lambda left, right: left == right, sp.Ne: lambda left, right: left != right,
    sp.And: z3.And, sp.Or: z3.Or, sp.Not: z3.Not,
}


def translated(expression: Any, unknowns: Mapping[sp.Symbol, Any]) -> Any:
    """A sympy polynomial or relation as the solver's own.

    :raises ValueError: for what is no polynomial with rational coefficients and no relation between such
    """
    if expression in unknowns:
        return unknowns[expression]
    if expression.is_Rational:
        return z3.RealVal(str(expression), next(iter(unknowns.values())).ctx)
    if isinstance(expression, sp.Pow) and expression.exp.is_Integer and expression.exp > 0:
        return z3.Product(*[translated(expression.base, unknowns)] * int(expression.exp))
    if expression.func not in _BUILD:
        raise ValueError(f"{expression} is neither a polynomial with rational coefficients nor a relation of such")
    return _BUILD[expression.func](*(translated(part, unknowns) for part in expression.args))


def numbers_in_words(found: Counterexample | None) -> str:
    """A counterexample in one line, names in order; ``none`` where there is none."""
    return "none" if found is None else ", ".join(f"{symbol} = {value}" for symbol, value in found.items())
