"""Statements about all real numbers: true, false, empty, out of time, and not the solver's kind."""

import itertools

import pytest
import sympy as sp
import z3

from lib.theory import solver
from lib.theory.solver import Statement

X, Y = sp.symbols("x y", real=True)


def test_true_statements_have_no_counterexample():
    assert solver.holds(Statement(sp.Ge(X**2 + Y**2, 2 * X * Y)))
    assert solver.holds(Statement(sp.Gt(X**3, 0), (sp.Gt(X, 0, evaluate=False),)))
    assert solver.holds(Statement(sp.Or(sp.Ge(X, 0), sp.Le(X, 0)), (sp.Ne(X, 0), sp.Eq(Y, sp.Rational(1, 3)))))
    assert not solver.holds(Statement(sp.Gt(X**2 + Y**2, 2 * X * Y)))  # equal at x = y


def test_a_counterexample_is_exact_and_refutes_the_statement():
    statement = Statement(sp.Le(X * Y, sp.Rational(1, 7)), (sp.Lt(X, 1), sp.Lt(Y, 1), sp.Gt(X + Y, 1)))
    found = solver.counterexample(statement)
    assert set(found) == {X, Y} and all(isinstance(value, sp.Rational) for value in found.values())
    assert found[X] * found[Y] > sp.Rational(1, 7) and found[X] < 1 and found[Y] < 1 and found[X] + found[Y] > 1
    assert statement.refuted_by(found) and not statement.refuted_by({X: sp.Integer(2), Y: sp.Integer(1)})


def test_the_same_question_gets_the_same_numbers():
    statement = Statement(sp.Le(X**2 * Y, 1), (sp.Lt(X, 3), sp.Lt(Y, 3)))
    found = solver.counterexample(statement)
    assert solver.holds(Statement(sp.Ge(X**4 + Y**4, 2 * X**2 * Y**2))) and solver.counterexample(statement) == found


def test_an_irrational_counterexample_must_survive_as_a_fraction():
    with pytest.raises(solver.Undecided, match="do not refute"):  # only x = the root of 2, and no fraction is that
        solver.counterexample(Statement(sp.Lt(X, 0), (sp.Eq(X**2, 2), sp.Gt(X, 0))))


def test_assumptions_that_nothing_satisfies_are_refused():
    with pytest.raises(ValueError, match="no numbers satisfy"):
        solver.holds(Statement(sp.Gt(X, 5), (sp.Gt(X, 1), sp.Lt(X, 0))))


def test_time_that_runs_out_is_an_error_and_no_answer(monkeypatch):
    names = sp.symbols("a:9", real=True)
    hard = Statement(sp.Gt(sum(a**5 * b**3 for a, b in itertools.pairwise(names)), -1),
                     (sp.Eq(sum(a**4 for a in names), 1), sp.Gt(sum(a**3 for a in names), sp.Rational(1, 2))))
    with pytest.raises(solver.Undecided, match="no answer"):
        solver.counterexample(hard, seconds=0.001)
    monkeypatch.setattr(z3.Solver, "check", lambda self: z3.unknown)
    with pytest.raises(solver.Undecided, match="no answer"):
        solver.holds(Statement(sp.Ge(X**2, 0, evaluate=False)))


@pytest.mark.parametrize("expression", [sp.exp(X), sp.sqrt(X), 1 / X, sp.Float(0.5) * X])
def test_only_polynomials_are_translated(expression):
    with pytest.raises(ValueError, match="neither a polynomial"):
        solver.holds(Statement(sp.Gt(expression, 0, evaluate=False)))


def test_counterexamples_in_words():
    assert solver.numbers_in_words({X: sp.Rational(1, 2), Y: sp.Integer(-3)}) == "x = 1/2, y = -3"
    assert solver.numbers_in_words(None) == "none"
