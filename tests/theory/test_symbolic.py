"""The symbolic derivations against finite differences, torch, brute-force sums and hand-computed cases."""

import dataclasses
import math

import numpy as np
import pytest
import sympy as sp
import torch

from lib.theory import symbolic

X, Y = sp.symbols("x y", real=True)


def numbers(model, seed):
    """Random values for every symbol of a storage model."""
    rng = np.random.default_rng(seed)
    values = {weight: float(rng.normal()) for weight in model.weights}
    values |= dict(zip(model.attention, rng.dirichlet(np.ones(len(model.tokens))), strict=True))
    return values


# the zero test ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [
    sp.sin(X) ** 2 + sp.cos(X) ** 2 - 1,
    sp.cos(X + Y) - sp.cos(X) * sp.cos(Y) + sp.sin(X) * sp.sin(Y),
    sp.exp(X + 2 * Y) - sp.exp(X) * sp.exp(Y) ** 2,
    1 / (1 + sp.exp(-X)) - sp.exp(X) / (1 + sp.exp(X)),
    (X**2 - Y**2) / (X - Y) - X - Y,
    sp.exp(X * (Y + 1)) - sp.exp(X * Y) * sp.exp(X),
    sp.exp(2) - sp.exp(1) ** 2,
    sp.Integer(0),
])
def test_vanishes_on_identities(zero):
    assert symbolic.vanishes(zero)


@pytest.mark.parametrize("other", [
    sp.sin(X) ** 2 + sp.cos(X) ** 2,
    sp.cos(X + Y) - sp.cos(X) * sp.cos(Y) - sp.sin(X) * sp.sin(Y),
    sp.exp(X + 2 * Y) - sp.exp(X) * sp.exp(Y),
    sp.exp(X) - 1 - X,
    sp.exp(X * Y) - sp.exp(X) * sp.exp(Y),
    sp.cos(X) - sp.cos(2 * X),
    sp.sin(X),
    sp.Rational(1, 10**30),
])
def test_vanishes_refuses_the_rest(other):
    assert not symbolic.vanishes(other)


def test_sign():
    positive = sp.Symbol("a", positive=True)
    assert symbolic.sign(positive * sp.exp(X) / (1 + sp.exp(X))) == 1
    assert symbolic.sign(sp.exp(X) / (1 + sp.exp(X)) - 1) == -1
    assert symbolic.sign((positive + 1) ** 2 - positive**2 - 2 * positive - 1) == 0
    assert symbolic.sign(positive - 1) is None
    assert symbolic.sign(X) is None


# storage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "evidence", "target"), [((0, 2, 2, 3), 2, 1), ((3, 1), 1, 1), ((2, 2, 3), 3, 0)])
def test_gradient_against_torch(tokens, evidence, target):
    model = symbolic.storage_model(tokens, 3, target)
    values = numbers(model, seed=len(tokens))
    weights = torch.tensor([[values[w] for w in model.weights.row(v)] for v in range(3)], requires_grad=True)
    attention = torch.tensor([float(values[a]) for a in model.attention], dtype=weights.dtype)
    logits = sum(a * weights[:, t] for a, t in zip(attention, tokens, strict=True))
    loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([target]))
    loss.backward()
    assert float(model.loss.subs(values)) == pytest.approx(loss.item(), rel=1e-5)
    ours = [float(g.subs(values)) for g in model.gradient(evidence)]
    assert ours == pytest.approx(weights.grad[:, evidence].tolist(), rel=1e-4)
    probabilities = [float(p.subs(values)) for p in model.probabilities]
    assert probabilities == pytest.approx(torch.softmax(logits, 0).tolist(), rel=1e-5)


def test_model_fields():
    model = symbolic.storage_model([0, 2, 2, 3], 3, 1)
    assert model.tokens == (0, 2, 2, 3)
    assert model.target == 1
    assert model.weights.shape == (3, 4)
    assert len(set(model.weights)) == 12
    assert all(a.is_positive for a in model.attention) and all(w.is_real for w in model.weights)
    assert model.mass(2) == model.attention[1] + model.attention[2]
    assert model.mass(1) == 0


def test_absent_token_has_no_gradient():
    model = symbolic.storage_model([0, 3], 3, 1)
    assert list(model.gradient(2)) == [0, 0, 0]


@pytest.mark.parametrize(("arguments", "message"), [
    (([0], 1, 0), "vocabulary must hold at least 2"),
    (([0], 3, 3), "target must be a clean token, 0 to 2, not 3"),
    (([0], 3, -1), "target must be a clean token"),
    (([4], 3, 0), r"tokens must lie between 0 and 3 \(the mask\), not \[4\]"),
    (([-1], 3, 0), "tokens must lie between"),
])
def test_bad_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        symbolic.storage_model(*arguments)


def test_smallest_models_are_accepted():
    assert symbolic.storage_model([2], 2, 1).weights.shape == (2, 3)
    assert symbolic.storage_model([0], 2, 0).target == 0


@pytest.mark.parametrize("sequence", [(1, 2, 2), (3, 1, 3), (2,)])
def test_general_storage_specialises(sequence):
    """The indexed-sum derivative, at concrete n, L and x, is the derivative of the concrete model."""
    general, length = symbolic.general_storage(), len(sequence)
    model = symbolic.storage_model([token - 1 for token in sequence], 3, 1)     # general tokens count from 1
    place = dict(enumerate(sequence, start=1))
    claim = general.mass * (general.probability - sp.KroneckerDelta(general.v, general.target))
    for expression in (general.derivative, claim):
        for v in (1, 2, 3):
            choice = {general.n: 3, general.length: length, general.v: v, general.target: 2, general.evidence: 2}
            concrete = expression.subs(choice).doit()
            concrete = concrete.subs({general.x[i]: token for i, token in place.items()}).doit()
            concrete = concrete.subs({general.alpha[i]: model.attention[i - 1] for i in place})
            weights = sp.IndexedBase("W")
            concrete = concrete.subs({weights[a, b]: model.weights[a - 1, b - 1]
                                      for a in (1, 2, 3) for b in (1, 2, 3, 4)})
            assert symbolic.vanishes(concrete - model.gradient(1)[v - 1])


# routing -------------------------------------------------------------------------------------------------


def test_rotation_is_counter_clockwise():
    assert symbolic.rotation(sp.pi / 2) * sp.Matrix([1, 0]) == sp.Matrix([0, 1])
    assert symbolic.rotation(X).det().simplify() == 1


def test_key_covariance_by_hand():
    query = sp.Matrix([3, 4])
    kappa, tau2 = sp.symbols("kappa tau2")
    covariance = symbolic.key_covariance(query, kappa, tau2)
    along, across = query / 5, sp.Matrix([-4, 3]) / 5
    assert sp.expand((along.T * covariance * along)[0] - tau2 * (1 + kappa) / 2) == 0
    assert sp.expand((across.T * covariance * across)[0] - tau2 * (1 - kappa) / 2) == 0
    assert sp.expand((along.T * covariance * across)[0]) == 0


def test_plane_moments_against_sampling():
    rng = np.random.default_rng(0)
    query, kappa, tau2, forward, reverse = np.array([0.7, -1.1]), 0.4, 1.7, 0.9, 0.3
    symbols = sp.Matrix([sp.Rational(7, 10), sp.Rational(-11, 10)])
    covariance = symbolic.key_covariance(symbols, sp.Float(kappa), sp.Float(tau2))
    keys = rng.multivariate_normal([2, -1], np.array(covariance, dtype=float), size=400_000)
    turn = lambda angle: np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    sampled = np.cov(keys @ turn(forward).T @ query, keys @ turn(-reverse).T @ query)
    for moments in (symbolic.plane_moments(symbols, covariance, sp.Float(forward), sp.Float(reverse)),
                    symbolic.plane_identities(symbols, sp.Float(kappa), sp.Float(tau2), sp.Float(forward),
                                              sp.Float(reverse))):
        assert float(moments.covariance) == pytest.approx(sampled[0, 1], abs=0.02)
        assert float(moments.variance_forward) == pytest.approx(sampled[0, 0], abs=0.02)
        assert float(moments.variance_reverse) == pytest.approx(sampled[1, 1], abs=0.02)


def test_same_moments_compares_each_field():
    one = symbolic.PlaneMoments(X, Y, X + Y)
    assert symbolic.same_moments(one, symbolic.PlaneMoments(X, Y, Y + X))
    for other in (symbolic.PlaneMoments(Y, Y, X + Y), symbolic.PlaneMoments(X, X, X + Y),
                  symbolic.PlaneMoments(X, Y, X)):
        assert not symbolic.same_moments(one, other)


def test_correlation_by_hand():
    half = sp.Rational(1, 2)
    tenth = sp.Rational(1, 10)
    assert symbolic.correlation((half, half), (9 * tenth, 3 * tenth), (0, 1)) == sp.Rational(22, 23)
    assert symbolic.mediant_bound((half, half), (9 * tenth, 3 * tenth), (0, 1)) == sp.Rational(129, 230)


def test_correlation_against_matrices():
    from lib.encodings import rope_frequencies
    from lib.theory import routing
    rng = np.random.default_rng(3)
    query, kappa, distance = rng.normal(size=8), rng.uniform(-1, 1, size=4), 5.0
    cosines = np.cos(2 * distance * rope_frequencies(8))
    ours = symbolic.correlation(routing.plane_weights(query), cosines, kappa)
    assert ours == pytest.approx(
        float(routing.score_correlation(query, routing.key_covariance(query, kappa), distance, distance)), abs=1e-12)


@pytest.mark.parametrize("function", [symbolic.correlation, symbolic.mediant_bound])
def test_unequal_numbers_of_planes_are_refused(function):
    with pytest.raises(ValueError, match="zip"):
        function((0.5, 0.5), (0.1,), (0.0, 0.0))


@pytest.mark.parametrize("m", [1, 2, 5])
def test_gap_kernels_sum_to_the_gap(m):
    rng = np.random.default_rng(m)
    w, c, kappa = rng.dirichlet(np.ones(m)), rng.uniform(-1, 1, m), rng.uniform(size=m)
    gap = w @ (c + kappa) - (w @ c) * (w @ (1 + kappa * c))
    for kernel in symbolic.gap_kernel(w, c, kappa):
        assert sum(kernel(i, j) for i in range(m) for j in range(m)) == pytest.approx(gap, abs=1e-12)


def test_same_double_sum():
    u = sp.IndexedBase("u")
    assert symbolic.same_double_sum(lambda i, j: u[i] ** 2 * u[j], lambda i, j: u[i] * u[j] ** 2)
    assert not symbolic.same_double_sum(lambda i, j: u[i] ** 2 * u[j], lambda i, j: u[i] ** 2 * u[j] ** 2)
    assert not symbolic.same_double_sum(lambda i, j: u[i] * u[j], lambda i, j: u[i] ** 2)
    assert not symbolic.same_double_sum(lambda i, j: 2 * u[i] * u[j], lambda i, j: u[i] * u[j])


def test_expected_weight():
    assert symbolic.expected_weight(2) == sp.Rational(1, 2)
    assert symbolic.expected_weight(7) == sp.Rational(1, 7)
    r = sp.Symbol("r", integer=True, positive=True)
    assert symbolic.expected_weight(r + 1) == 1 / (r + 1)


def test_normalised_trace_counts_coordinates():
    assert symbolic.normalised_trace([sp.Integer(0)] * 4) == 1
    assert symbolic.normalised_trace([sp.pi, sp.Integer(0)]) == 0
    assert symbolic.normalised_trace([X]) == sp.cos(X)


def test_expectation_of_a_polynomial():
    moments = {(1, 0): 2, (0, 1): 3, (2, 0): 5, (1, 1): 7}
    assert symbolic.expectation(4 + X + 10 * Y + X**2 + 2 * X * Y, moments, X, Y) == 4 + 2 + 30 + 5 + 14
    with pytest.raises(KeyError):
        symbolic.expectation(Y**2, moments, X, Y)


def test_score_correlation_of_known_laws():
    independent = {(1, 0): 0, (0, 1): 0, (2, 0): 1, (0, 2): 1, (1, 1): 0}
    assert symbolic.score_correlation(X + Y, X - Y, independent, X, Y) == 0
    assert symbolic.score_correlation(X, -X, independent, X, Y) == -1
    assert symbolic.score_correlation(X, X + Y, independent, X, Y) == 1 / sp.sqrt(2)
    shifted = {(1,): 3, (2,): 13}                                                  # mean 3, variance 4
    assert symbolic.score_correlation(X, 2 * X + 5, shifted, X) == 1
    assert symbolic.score_correlation(X, sp.Integer(5), shifted, X) is sp.nan
    assert symbolic.score_correlation(sp.Integer(5), X, shifted, X) is sp.nan


def test_standard_normal_moments():
    law = symbolic.StandardNormal()
    assert [law[power,] for power in range(7)] == [1, 0, 1, 0, 3, 0, 15]
    assert law[2, 4] == 3 and law[2, 1] == 0 and law[1, 1] == 0
    assert symbolic.expectation((X + Y) ** 4, law, X, Y) == 12                  # X + Y has variance 2


def test_vanishes_as_sum():
    i, n = sp.symbols("i n", integer=True)
    j = sp.Symbol("j", integer=True)
    u = sp.IndexedBase("u")
    total = lambda term: sp.Sum(term, (i, 1, n))
    assert symbolic.vanishes_as_sum(total(u[i] * (u[i] + 1)) - total(u[i] ** 2) - total(u[i]), i)
    assert symbolic.vanishes_as_sum(X * total(u[i]) - total(X * u[i]), i)
    assert not symbolic.vanishes_as_sum(total(u[i]) + 1, i)
    assert not symbolic.vanishes_as_sum(total(u[i] ** 2) - total(u[i]), i)
    inner = sp.Sum(u[j], (j, 1, n))
    assert symbolic.vanishes_as_sum(total(inner * u[i]) - inner * total(u[i]), i)
    assert not symbolic.vanishes_as_sum(inner, i)


def test_assumptions_of_the_general_symbols():
    general = symbolic.general_storage()
    assert all(symbol.is_integer and symbol.is_positive for symbol in (general.n, general.length))
    assert all(symbol.is_integer for symbol in (general.v, general.target, general.evidence, general.position))


@pytest.mark.parametrize("result", [symbolic.storage_model([0], 2, 0), symbolic.general_storage(),
                                    symbolic.PlaneMoments(X, X, X)])
def test_results_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, next(iter(vars(result))), None)
