"""Score correlations against sampling, RoPE's own definition and cases by hand; planes in symbols against both."""

import cmath
import dataclasses
import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.encodings import rope_frequencies
from lib.theory import routing

RNG = np.random.default_rng(0)
X, Y = sp.symbols("x y", real=True)


def test_rotate_is_multiplication_of_complex_numbers():
    x, angles = RNG.normal(size=(3, 6)), RNG.normal(size=3)
    turned = routing.rotate(x, angles)
    for row in range(3):
        for plane in range(3):
            number = complex(*x[row, 2 * plane : 2 * plane + 2]) * cmath.exp(1j * angles[plane])
            assert turned[row, 2 * plane] == pytest.approx(number.real)
            assert turned[row, 2 * plane + 1] == pytest.approx(number.imag)


def test_rotation_matrix_turns_as_rotate_does():
    x, angles = RNG.normal(size=(3, 6)), RNG.normal(size=3)
    assert x @ routing.rotation_matrix(angles).T == pytest.approx(routing.rotate(x, angles))
    assert routing.rotation_matrix(np.array([math.pi / 2])) == pytest.approx(np.array([[0, -1], [1, 0]]))


def test_plane_axes_are_orthonormal_and_give_the_query_back():
    query = RNG.normal(size=(4, 6))
    along, across = routing.plane_axes(query)
    planes = query.reshape(4, 3, 2)
    assert (along * np.linalg.norm(planes, axis=-1, keepdims=True)) == pytest.approx(planes)
    assert (along * across).sum(-1) == pytest.approx(np.zeros((4, 3)))
    assert np.linalg.det(np.stack([along, across], -1)) == pytest.approx(np.ones((4, 3)))  # a quarter turn to the left


def test_query_bound_is_the_cosine_between_a_query_and_itself_turned():
    query, distances = RNG.normal(size=(3, 8)), np.array([1.0, 2.5, 7.0])
    turned = np.stack([routing.rotate(query, 2 * x * rope_frequencies(8, 50.0)) for x in distances], 1)
    expected = np.einsum("qi,qxi->qx", query, turned) / (query**2).sum(1, keepdims=True)
    assert routing.query_bound(query, distances, 50.0) == pytest.approx(expected)
    assert routing.query_bound(query[0], 2.5, 50.0) == pytest.approx(expected[0, 1])


def test_mean_of_the_quadratic_form_is_the_trace_for_equal_variances_alone():
    assert routing.mean_form_is_the_trace((1, 1)) and not routing.mean_form_is_the_trace((1, 2))


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
    exact = routing.rope_score_correlation(query, factor @ factor.T, 3.0, 1.5, 500.0)
    assert np.corrcoef(forward, reverse)[0, 1] == pytest.approx(exact, abs=0.01)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 100), st.integers(0, 1000))
def test_isotropic_keys_meet_the_weighted_cosine(distance, seed):
    query = np.random.default_rng(seed).normal(size=8)
    weights = routing.plane_weights(query)
    assert weights.sum() == pytest.approx(1)
    exact = routing.rope_score_correlation(query, np.eye(8), float(distance), float(distance))
    assert exact == pytest.approx(weights @ np.cos(2 * distance * rope_frequencies(8)), abs=1e-10)


def test_plane_weights_by_hand():
    assert routing.plane_weights(np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])) == pytest.approx([0.25, 0.5, 0.25])


@pytest.mark.parametrize("batch", [(), (3,)])
def test_linear_correlation_and_bilinear_form_by_matrices(batch):
    there, back = RNG.normal(size=(2, *batch, 4))
    factor = RNG.normal(size=(4, 4))
    covariance = factor @ factor.T
    form = np.diag(np.atleast_2d(there) @ covariance @ np.atleast_2d(back).T).reshape(batch)
    assert routing.bilinear_form(there, covariance, back) == pytest.approx(form)
    expected = form / np.linalg.norm(there @ factor, axis=-1) / np.linalg.norm(back @ factor, axis=-1)
    assert routing.linear_correlation(there, back, covariance) == pytest.approx(expected)


# covariances that break the assumption -------------------------------------------------------------------


def test_coupled_planes_are_isotropic_and_dependent():
    queries = RNG.normal(size=(5, 4))
    covariance = routing.coupled_covariance(queries)
    assert covariance.shape == (5, 4, 4)
    for query, matrix in zip(queries, covariance, strict=True):
        assert matrix == pytest.approx(matrix.T)
        assert matrix[:2, :2] == pytest.approx(np.eye(2)) and matrix[2:, 2:] == pytest.approx(np.eye(2))
        assert np.linalg.eigvalsh(matrix) == pytest.approx([0, 0, 2, 2], abs=1e-12)      # k_1 is a function of k_0
        aligned = matrix[2:, :2] @ query[:2] / np.linalg.norm(query[:2])                 # -Q takes q_0 to -q_1
        assert aligned == pytest.approx(-query[2:] / np.linalg.norm(query[2:]))


@pytest.mark.parametrize("distance", [0.0, 0.7, 2.0])
def test_coupled_correlation_by_complex_numbers(distance):
    query = RNG.normal(size=4)
    lengths = np.hypot(query[0], query[1]), np.hypot(query[2], query[3])
    f = lengths[0] * np.exp(1j * distance) - lengths[1] * np.exp(0.01j * distance)
    found = routing.rope_score_correlation(query, routing.coupled_covariance(query), distance, distance)
    assert found == pytest.approx(np.cos(2 * np.angle(f)), abs=1e-9)


def test_tilted_ellipse_keeps_the_words_of_the_assumption():
    query = RNG.normal(size=6)
    matrix = routing.tilted_covariance(query, np.array([0.3, -0.6, 0.0]))
    for plane, tilt in enumerate((0.3, -0.6, 0.0)):
        block = matrix[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2]
        along = query[2 * plane : 2 * plane + 2] / np.linalg.norm(query[2 * plane : 2 * plane + 2])
        across = np.array([-along[1], along[0]])
        assert along @ block @ along == pytest.approx(1) and across @ block @ across == pytest.approx(1)
        assert along @ block @ across == pytest.approx(tilt)
        assert np.abs(np.delete(matrix[2 * plane : 2 * plane + 2], [2 * plane, 2 * plane + 1], 1)).max() == 0


@pytest.mark.parametrize("tilt", [1.0, -1.0, 2.0])
def test_tilt_refuses(tilt):
    with pytest.raises(ValueError, match="tilt must lie in"):
        routing.tilted_covariance(np.ones(4), tilt)


# in symbols ----------------------------------------------------------------------------------------------


def test_rotation_is_counter_clockwise():
    assert routing.rotation(sp.pi / 2) * sp.Matrix([1, 0]) == sp.Matrix([0, 1])
    assert routing.rotation(X).det().simplify() == 1


def test_block_rotation():
    a, b = sp.symbols("a b")
    turned = routing.block_rotation([a, b])
    assert turned.shape == (4, 4)
    assert turned[:2, :2] == routing.rotation(a) and turned[2:, 2:] == routing.rotation(b)
    assert turned[:2, 2:] == sp.zeros(2, 2)


def test_plane_covariance_by_hand():
    query = sp.Matrix([3, 4])
    kappa, tau2 = sp.symbols("kappa tau2")
    covariance = routing.plane_covariance(query, kappa, tau2)
    along, across = query / 5, sp.Matrix([-4, 3]) / 5
    assert sp.expand((along.T * covariance * along)[0] - tau2 * (1 + kappa) / 2) == 0
    assert sp.expand((across.T * covariance * across)[0] - tau2 * (1 - kappa) / 2) == 0
    assert sp.expand((along.T * covariance * across)[0]) == 0


def test_plane_moments_against_sampling():
    rng = np.random.default_rng(0)
    query, kappa, tau2, forward, reverse = np.array([0.7, -1.1]), 0.4, 1.7, 0.9, 0.3
    symbols = sp.Matrix([sp.Rational(7, 10), sp.Rational(-11, 10)])
    covariance = routing.plane_covariance(symbols, sp.Float(kappa), sp.Float(tau2))
    keys = rng.multivariate_normal([2, -1], np.array(covariance, dtype=float), size=400_000, method="cholesky")
    turn = lambda angle: np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    sampled = np.cov(keys @ turn(forward).T @ query, keys @ turn(-reverse).T @ query)
    for moments in (routing.plane_moments(symbols, covariance, sp.Float(forward), sp.Float(reverse)),
                    routing.plane_identities(symbols, sp.Float(kappa), sp.Float(tau2), sp.Float(forward),
                                              sp.Float(reverse))):
        assert float(moments.covariance) == pytest.approx(sampled[0, 1], abs=0.02)
        assert float(moments.variance_forward) == pytest.approx(sampled[0, 0], abs=0.02)
        assert float(moments.variance_reverse) == pytest.approx(sampled[1, 1], abs=0.02)


def test_same_moments_compares_each_field():
    one = routing.PlaneMoments(X, Y, X + Y)
    assert routing.same_moments(one, routing.PlaneMoments(X, Y, Y + X))
    for other in (routing.PlaneMoments(Y, Y, X + Y), routing.PlaneMoments(X, X, X + Y),
                  routing.PlaneMoments(X, Y, X)):
        assert not routing.same_moments(one, other)


def test_correlation_by_hand():
    half = sp.Rational(1, 2)
    tenth = sp.Rational(1, 10)
    assert routing.correlation_over_planes((half, half), (9 * tenth, 3 * tenth), (0, 1)) == sp.Rational(22, 23)
    assert routing.mediant_bound((half, half), (9 * tenth, 3 * tenth), (0, 1)) == sp.Rational(129, 230)


def test_correlation_against_matrices():
    rng = np.random.default_rng(3)
    query, kappa, distance = rng.normal(size=8), rng.uniform(-1, 1, size=4), 5.0
    cosines = np.cos(2 * distance * rope_frequencies(8))
    ours = routing.correlation_over_planes(routing.plane_weights(query), cosines, kappa)
    exact = routing.rope_score_correlation(query, routing.key_covariance(query, kappa), distance, distance)
    assert ours == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("function", [routing.correlation_over_planes, routing.mediant_bound])
def test_unequal_numbers_of_planes_are_refused(function):
    with pytest.raises(ValueError, match="zip"):
        function((0.5, 0.5), (0.1,), (0.0, 0.0))


@pytest.mark.parametrize("m", [1, 2, 5])
def test_gap_kernels_sum_to_the_gap(m):
    rng = np.random.default_rng(m)
    w, c, kappa = rng.dirichlet(np.ones(m)), rng.uniform(-1, 1, m), rng.uniform(size=m)
    gap = w @ (c + kappa) - (w @ c) * (w @ (1 + kappa * c))
    for kernel in routing.gap_kernel(w, c, kappa):
        assert sum(kernel(i, j) for i in range(m) for j in range(m)) == pytest.approx(gap, abs=1e-12)


def test_expected_weight():
    assert routing.expected_weight(2) == sp.Rational(1, 2)
    assert routing.expected_weight(7) == sp.Rational(1, 7)
    r = sp.Symbol("r", integer=True, positive=True)
    assert routing.expected_weight(r + 1) == 1 / (r + 1)


def test_normalised_trace_counts_coordinates():
    assert routing.normalised_trace([sp.Integer(0)] * 4) == 1
    assert routing.normalised_trace([sp.pi, sp.Integer(0)]) == 0
    assert routing.normalised_trace([X]) == sp.cos(X)


def test_moments_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        routing.PlaneMoments(X, X, X).covariance = None
