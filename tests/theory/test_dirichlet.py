"""The law of the plane weights, against exact fractions, beta laws and quadrature."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from lib.theory import dirichlet

numbers = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=9)


def partial_fractions(values):
    """P(sum w v >= 0) for distinct nonzero values, in exact fractions."""
    exact = [Fraction(v) for v in values]
    total = Fraction(0)
    for i, v in enumerate(exact):
        if v > 0:
            term = Fraction(1)
            for j, other in enumerate(exact):
                term *= v / (v - other) if j != i else 1
            total += term
    return total


def test_moments_are_those_of_two_and_three_planes_by_integration():
    # m = 2: w is uniform, so the variance is (c1 - c2)^2 / 12
    mean, variance = dirichlet.moments(np.array([0.7, -0.4]))
    assert mean == pytest.approx(0.15) and variance == pytest.approx(1.1**2 / 12)
    # m = 3: Var w_i = 1/18, Cov = -1/36
    c = np.array([1.0, 2.0, 4.0])
    covariance = np.full((3, 3), -1 / 36) + np.eye(3) * (1 / 18 + 1 / 36)
    assert dirichlet.moments(c)[1] == pytest.approx(c @ covariance @ c)


def test_moments_work_along_the_last_axis():
    values = np.random.default_rng(1).normal(size=(4, 3, 5))
    mean, variance = dirichlet.moments(values)
    assert mean.shape == variance.shape == (4, 3)
    assert variance[2, 1] == pytest.approx(dirichlet.moments(values[2, 1])[1])


@given(st.lists(st.integers(-60, 60).filter(bool), min_size=1, max_size=14, unique=True))
@settings(max_examples=60, deadline=None)
def test_tail_is_the_partial_fraction_sum(values):
    assert dirichlet.tail(np.array(values, float)) == pytest.approx(float(partial_fractions(values)), abs=1e-13)


@given(numbers, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_tail_ignores_order_and_scale_and_is_a_probability(values, random):
    chance = dirichlet.tail(np.array(values))
    random.shuffle(values)
    assert 0 <= chance <= 1
    assert dirichlet.tail(3.5 * np.array(values)) == pytest.approx(chance, abs=1e-14)
    if any(values):
        assert dirichlet.tail(-np.array(values)) == pytest.approx(1 - chance, abs=1e-14)


@pytest.mark.parametrize("positive, negative", [(1, 1), (3, 2), (2, 6), (7, 5)])
def test_tail_of_coinciding_values_is_a_beta_law(positive, negative):
    # sum of `positive` weights is Beta; P(1.5 B >= 0.5 (1 - B)) = P(B >= 1/4)
    values = np.array([1.5] * positive + [-0.5] * negative)
    assert dirichlet.tail(values) == pytest.approx(beta.sf(0.25, positive, negative), abs=1e-14)


def test_tail_of_one_sign_and_of_zeros():
    assert dirichlet.tail(np.array([-1.0, -2.0, -1e-9])) == 0
    assert dirichlet.tail(np.array([1.0, 2.0, 0.0])) == 1
    assert dirichlet.tail(np.zeros(4)) == 1
    assert dirichlet.tail(np.array([0.0])) == 1 and dirichlet.tail(np.array([-0.1])) == 0
    assert dirichlet.tail(np.array([-1.0, 0.0])) == 0


def test_tail_of_values_one_rounding_apart():
    for value in np.random.default_rng(4).uniform(1, 9, 200):
        pair = np.array([value, np.nextafter(value, 10)])
        assert dirichlet.tail(pair) == 1 and dirichlet.tail(-pair) == 0


def test_tail_keeps_small_probabilities_and_batches():
    values = np.array([[0.1] + [-1.0] * 20, [-1.0] * 20 + [10.0]])
    chances = dirichlet.tail(values)
    assert chances.shape == (2,)
    assert chances[0] == pytest.approx((0.1 / 1.1) ** 20, rel=1e-12)
    assert chances[1] == pytest.approx((10 / 11) ** 20, rel=1e-12)


def test_ratio_of_one_plane_and_of_equal_parts():
    first, second = dirichlet.ratio_moments(np.array([[-0.6]]), np.array([[1.7]]))
    assert first[0] == pytest.approx(-0.6 / 1.7, abs=1e-13) and second[0] == pytest.approx((0.6 / 1.7) ** 2, abs=1e-13)
    parts = np.random.default_rng(2).uniform(0.1, 2, size=(3, 40))
    for moment in dirichlet.ratio_moments(parts, parts):
        assert np.allclose(moment, 1, rtol=0, atol=1e-13)


@given(st.tuples(*[st.floats(-1, 1)] * 2), st.tuples(*[st.floats(0.05, 2)] * 2))
@settings(max_examples=40, deadline=None)
def test_ratio_of_two_planes_by_quadrature(n, d):
    ratio = lambda w: (w * n[0] + (1 - w) * n[1]) / (w * d[0] + (1 - w) * d[1])
    first, second = dirichlet.ratio_moments(np.array(n), np.array(d))
    assert first == pytest.approx(quad(ratio, 0, 1, epsabs=1e-13)[0], abs=1e-11)
    assert second == pytest.approx(quad(lambda w: ratio(w) ** 2, 0, 1, epsabs=1e-13)[0], abs=1e-11)


@pytest.mark.parametrize("planes", [1, 2, 3, 7, 40, 128, 600])
def test_ratio_over_a_constant_denominator_is_a_moment(planes):
    n = np.linspace(-1, 0.5, planes)
    mean, variance = dirichlet.moments(n)
    first, second = dirichlet.ratio_moments(n, np.full(planes, 1.3))
    assert first == pytest.approx(mean / 1.3, abs=1e-13)
    assert second == pytest.approx((variance + mean**2) / 1.69, abs=1e-13)


@pytest.mark.parametrize("planes", [5, 64])
def test_ratio_agrees_with_sampling(planes):
    rng = np.random.default_rng(3)
    d = rng.uniform(0, 2, planes)
    n = d * rng.uniform(-1, 1, planes)
    w = rng.dirichlet(np.ones(planes), 40_000)
    ratio = (w @ n) / (w @ d)
    first, second = dirichlet.ratio_moments(n, d)
    assert abs(ratio.mean() - first) < 5 * ratio.std() / 200
    assert abs((ratio**2).mean() - second) < 5 * (ratio**2).std() / 200


def test_an_empty_plane_drops_out_and_batches_stand_alone():
    n, d = np.array([0.4, -0.2, 0.1]), np.array([1.0, 0.3, 1.9])
    alone = dirichlet.ratio_moments(n, d)
    padded = dirichlet.ratio_moments(np.append(n, 0), np.append(d, 0))
    assert np.allclose(alone, padded, rtol=0, atol=1e-12)
    both = dirichlet.ratio_moments(np.stack([n, -n]), np.stack([d, d]))
    assert np.allclose(both[0], [alone[0], -alone[0]], atol=1e-14) and np.allclose(both[1], alone[1], atol=1e-14)
