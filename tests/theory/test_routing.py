"""The exact score correlation against sampling, RoPE's own definition and cases done by hand."""

import cmath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.encodings import rope_frequencies
from lib.theory import routing

RNG = np.random.default_rng(0)


def test_rotate_is_multiplication_of_complex_numbers():
    x, angles = RNG.normal(size=(3, 6)), RNG.normal(size=3)
    turned = routing.rotate(x, angles)
    for row in range(3):
        for plane in range(3):
            number = complex(*x[row, 2 * plane : 2 * plane + 2]) * cmath.exp(1j * angles[plane])
            assert turned[row, 2 * plane] == pytest.approx(number.real)
            assert turned[row, 2 * plane + 1] == pytest.approx(number.imag)


def test_rotate_refuses_other_numbers_of_angles():
    with pytest.raises(ValueError, match="angles must hold one angle a plane, 3, not 2"):
        routing.rotate(np.ones(6), np.ones(2))


def test_key_covariance_along_and_across():
    query = np.array([3.0, 4.0, 1.0, 0.0])
    covariance = routing.key_covariance(query, np.array([0.5, -0.25]), np.array([2.0, 4.0]))
    along, across = np.array([0.6, 0.8, 0, 0]), np.array([-0.8, 0.6, 0, 0])
    assert along @ covariance @ along == pytest.approx(1.5)
    assert across @ covariance @ across == pytest.approx(0.5)
    assert along @ covariance @ across == pytest.approx(0.0)
    assert covariance[2:, 2:] == pytest.approx(np.diag([1.5, 2.5]))
    assert covariance[:2, 2:] == pytest.approx(np.zeros((2, 2)))
    assert routing.key_covariance(query, 0.0) == pytest.approx(np.eye(4))


def test_key_covariance_of_a_batch_is_the_batch_of_covariances():
    queries, kappas = RNG.normal(size=(5, 8)), RNG.uniform(-1, 1, size=(5, 4))
    together = routing.key_covariance(queries, kappas)
    assert together.shape == (5, 8, 8)
    for i in range(5):
        assert together[i] == pytest.approx(routing.key_covariance(queries[i], kappas[i]))


@pytest.mark.parametrize(("kappa", "trace", "message"), [(1.1, 2.0, "kappa"), (-1.1, 2.0, "kappa"), (0.5, 0.0, "trace"),
                                                         (0.5, -1.0, "trace")])
def test_key_covariance_refuses(kappa, trace, message):
    with pytest.raises(ValueError, match=message):
        routing.key_covariance(np.ones(4), kappa, trace)


def test_extreme_kappas_are_allowed():
    for kappa in (-1.0, 1.0):
        for trace in (0.25, 3.0):
            assert np.trace(routing.key_covariance(np.ones(2), kappa, trace)) == pytest.approx(trace)


def test_score_correlation_against_sampled_keys():
    query, factor = RNG.normal(size=6), RNG.normal(size=(6, 6))
    keys = RNG.normal(size=(200_000, 6)) @ factor.T + RNG.normal(size=6)
    frequencies = rope_frequencies(6, 500.0)
    forward = routing.rotate(keys, 3.0 * frequencies) @ query            # q^T R(Delta_1) k
    reverse = routing.rotate(keys, -1.5 * frequencies) @ query           # q^T R(-Delta_2) k
    exact = routing.score_correlation(query, factor @ factor.T, 3.0, 1.5, 500.0)
    assert np.corrcoef(forward, reverse)[0, 1] == pytest.approx(exact, abs=0.01)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 100), st.integers(0, 1000))
def test_isotropic_keys_meet_the_weighted_cosine(distance, seed):
    query = np.random.default_rng(seed).normal(size=8)
    weights = routing.plane_weights(query)
    assert weights.sum() == pytest.approx(1)
    exact = routing.score_correlation(query, np.eye(8), float(distance), float(distance))
    assert exact == pytest.approx(weights @ np.cos(2 * distance * rope_frequencies(8)), abs=1e-10)


def test_plane_weights_by_hand():
    assert routing.plane_weights(np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])) == pytest.approx([0.25, 0.5, 0.25])
