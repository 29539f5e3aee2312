"""Each statement at numbers: it holds where its hypotheses do, and its broken form has a counterexample."""

import numpy as np
import pytest
import sympy as sp

from lib.theory import decided, routing, solver

RNG = np.random.default_rng(0)
STATEMENTS = {
    "bound": (decided.correlation_reaches_bound, (2,), {"least": sp.Rational(-1, 2)}),
    "equality": (decided.equality_needs_isotropic_keys, (2,), {"least": sp.Rational(-1, 2)}),
    "at most one": (decided.correlation_at_most_one, (2,), {"most": sp.Rational(3, 2)}),
    "misaligned": (decided.misaligned_bound_holds, (2,), {"slack": sp.Rational(1, 10)}),
    "termwise": (decided.mediant_is_enough, (2,), {"equal": False}),
    "worst alignment": (decided.worst_alignment, (1, 1), {"turned": True}),
    "weights": (decided.larger_trace_has_larger_weight, (), {"larger": False}),
    "errors": (decided.errors_have_positive_product, (3,), {"same_target": False}),
    "odds": (decided.odds_fall, (3,), {"least": False}),
    "contrast": (decided.contrast_falls, (3,), {"most": False}),
    "tight": (decided.both_margins_are_tight, (), {"slack": True}),
}


@pytest.mark.parametrize(("build", "size", "broken"), STATEMENTS.values(), ids=STATEMENTS)
def test_each_statement_holds_and_its_broken_form_does_not(build, size, broken):
    assert solver.counterexample(build(*size)) is None
    found = solver.counterexample(build(*size, **broken))
    assert build(*size, **broken).refuted_by(found)
    assert not build(*size).refuted_by({**dict.fromkeys(build(*size).symbols, sp.Integer(1)), **found})


def test_the_conclusion_is_that_of_theorem_4_3():
    statement = decided.correlation_reaches_bound(3)
    for _ in range(20):
        lengths, cosines, kappas = RNG.integers(1, 9, 3), RNG.integers(-8, 9, 3), RNG.integers(-8, 9, 3)
        w, c, kappa = ([sp.Rational(int(v), int(over)) for v in values] for values, over in
                       ((lengths, lengths.sum()), (cosines, 9), (kappas, 9)))
        names = [*sp.symbols("a_0:3", real=True), *sp.symbols("c_0:3", real=True), *sp.symbols("kappa_0:3", real=True)]
        holds = bool(statement.conclusion.subs(dict(zip(names, [*map(int, lengths), *c, *kappa], strict=True))))
        mean = sum(weight * cosine for weight, cosine in zip(w, c, strict=True))
        assert holds == (routing.correlation_over_planes(w, c, kappa) >= mean)


@pytest.mark.parametrize(("facts", "alpha", "beta"), [(2, 0.5, 0.3), (5, 0.2, 0.7), (26, 0.5, 0.1), (3, 1.0, 0.4)])
def test_tight_margins_by_a_quadratic_program(facts, alpha, beta):
    from scipy.optimize import minimize

    counts = np.array([facts, facts * (facts - 1), facts, facts, 1])
    forms = np.array([[alpha, 0, -alpha, 1 - alpha, alpha - 1], [alpha, -alpha, 0, 0, 0],
                      [-beta, 0, beta, beta - 1, 1 - beta], [0, -beta, beta, beta - 1, 1 - beta]])
    found = minimize(lambda x: counts @ x**2 / facts, np.ones(5), jac=lambda x: 2 * counts * x / facts, method="SLSQP",
                     constraints={"type": "ineq", "fun": lambda x: forms @ x - 1, "jac": lambda x: forms},
                     options={"maxiter": 1000, "ftol": 1e-14})
    assert found.success and forms[[0, 2]] @ found.x == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize(("build", "size", "broken"), STATEMENTS.values(), ids=STATEMENTS)
def test_statements_are_about_real_numbers(build, size, broken):
    for statement in (build(*size), build(*size, **broken)):
        assert statement.symbols and all(symbol.is_real for symbol in statement.symbols)
