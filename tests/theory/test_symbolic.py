"""Zero tests, signs and expectations against identities, near-identities and moments computed by hand."""

import pytest
import sympy as sp

from lib.theory import symbolic

X, Y = sp.symbols("x y", real=True)


def test_softmax_and_cross_entropy_of_two_logits():
    first, second = symbolic.softmax([X, Y])
    assert symbolic.vanishes(first + second - 1) and symbolic.vanishes(first - 1 / (1 + sp.exp(Y - X)))
    loss = symbolic.cross_entropy([X, Y], 1)
    assert symbolic.vanishes(sp.exp(-loss) - second) and symbolic.vanishes(sp.diff(loss, X) - first)


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


def test_collapse_deltas():
    i, j, k, n = sp.symbols("i j k n", integer=True)
    u = sp.IndexedBase("u")
    picked, kept = sp.Sum(sp.KroneckerDelta(i, k) * u[i], (i, 1, n)), sp.Sum(u[j], (j, 1, n))
    assert symbolic.collapse_deltas(picked + kept, i) == u[k] + kept
    assert symbolic.collapse_deltas(picked + kept, j) == picked + kept
    assert symbolic.is_sum_over(kept, j) and not symbolic.is_sum_over(kept, i) and not symbolic.is_sum_over(X, i)


def test_same_double_sum():
    u = sp.IndexedBase("u")
    assert symbolic.same_double_sum(lambda i, j: u[i] ** 2 * u[j], lambda i, j: u[i] * u[j] ** 2)
    assert not symbolic.same_double_sum(lambda i, j: u[i] ** 2 * u[j], lambda i, j: u[i] ** 2 * u[j] ** 2)
    assert not symbolic.same_double_sum(lambda i, j: u[i] * u[j], lambda i, j: u[i] ** 2)
    assert not symbolic.same_double_sum(lambda i, j: 2 * u[i] * u[j], lambda i, j: u[i] * u[j])


def test_expectation_of_a_polynomial():
    moments = {(1, 0): 2, (0, 1): 3, (2, 0): 5, (1, 1): 7}
    assert symbolic.expectation(4 + X + 10 * Y + X**2 + 2 * X * Y, moments, X, Y) == 4 + 2 + 30 + 5 + 14
    with pytest.raises(KeyError):
        symbolic.expectation(Y**2, moments, X, Y)


def test_pearson_correlation_of_known_laws():
    independent = {(1, 0): 0, (0, 1): 0, (2, 0): 1, (0, 2): 1, (1, 1): 0}
    assert symbolic.pearson_correlation(X + Y, X - Y, independent, X, Y) == 0
    assert symbolic.pearson_correlation(X, -X, independent, X, Y) == -1
    assert symbolic.pearson_correlation(X, X + Y, independent, X, Y) == 1 / sp.sqrt(2)
    shifted = {(1,): 3, (2,): 13}                                                  # mean 3, variance 4
    assert symbolic.pearson_correlation(X, 2 * X + 5, shifted, X) == 1
    assert symbolic.pearson_correlation(X, sp.Integer(5), shifted, X) is sp.nan
    assert symbolic.pearson_correlation(sp.Integer(5), X, shifted, X) is sp.nan


def test_standard_normal_moments():
    law = symbolic.StandardNormal()
    assert [law[power,] for power in range(7)] == [1, 0, 1, 0, 3, 0, 15]
    assert law[2, 4] == 3 and law[2, 1] == 0 and law[1, 1] == 0
    assert symbolic.expectation((X + Y) ** 4, law, X, Y) == 12                  # X + Y has variance 2
