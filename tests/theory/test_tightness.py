"""What is left of Theorem 4.3 when its assumption is bent, against covariance matrices and sampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from lib.theory import bounds, routing, tightness


@given(st.floats(-1, 1), st.floats(-0.99, 0.99), st.floats(-0.99, 0.99))
def test_shifting_adds_like_velocities(correlation, one, two):
    once = tightness.shifted(tightness.shifted(correlation, one), two)
    assert once == pytest.approx(tightness.shifted(correlation, (one + two) / (1 + one * two)), abs=1e-9)
    assert tightness.shifted(correlation, 0) == correlation
    assert -1 <= tightness.shifted(correlation, one) <= 1


def test_shifted_is_the_correlation_of_equally_aligned_planes():
    query = np.random.default_rng(0).normal(size=(5, 12))
    for kappa in (-0.6, 0.0, 0.45):
        exact = routing.rope_score_correlation(query, routing.key_covariance(query, kappa), 7.0, 7.0)
        c = np.cos(14 * 10_000.0 ** (-np.arange(6) / 6))
        ours = tightness.shifted(routing.plane_weights(query) @ c, kappa)
        assert np.allclose(ours, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kappa", [-0.5, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("delta", [0.0, 3.0, 24.5])
def test_mean_of_two_planes_by_quadrature(kappa, delta):
    c = np.cos(2 * delta * np.array([1, 0.01]))
    level = lambda w: w * c[0] + (1 - w) * c[1]
    mean = quad(lambda w: (level(w) + kappa) / (1 + kappa * level(w)), 0, 1, epsabs=1e-13)[0]
    assert tightness.aligned_mean(delta, kappa, 4) == pytest.approx(mean, abs=1e-11)


@given(st.floats(0, 80), st.sampled_from([2, 16, 64]), st.sampled_from([100.0, 10_000.0]))
@settings(max_examples=20, deadline=None)
def test_mean_lies_between_the_trace_bound_and_jensen(delta, d, base):
    bound = bounds.trace_bound(2 * delta, d, base)
    assert tightness.aligned_mean(delta, 0, d, base) == pytest.approx(bound, abs=1e-11)
    mean = tightness.aligned_mean(delta, 0.4, d, base)
    assert bound - 1e-11 <= mean <= tightness.shifted(bound, 0.4) + 1e-11
    least = tightness.misaligned_bound(delta, 0.4, d, base)
    assert least == pytest.approx((bound - 0.4) / (1 - 0.4 * bound), abs=1e-12)
    assert least - 1e-11 <= tightness.aligned_mean(delta, -0.4, d, base) <= bound + 1e-11


def test_misaligned_bound_holds_for_random_alignments_and_is_sharp():
    rng = np.random.default_rng(1)
    query = rng.normal(size=(4000, 32))
    for kappa, sharp in ((rng.uniform(-0.3, 1, (4000, 16)), False), (np.full((4000, 16), -0.3), True)):
        mean = routing.rope_score_correlation(query, routing.key_covariance(query, kappa), 9.0, 9.0).mean()
        least = tightness.misaligned_bound(9.0, 0.3, 32)
        assert mean > least and (mean - least < 0.03) == sharp


def test_misaligned_bound_turns_negative_at_the_trace_bound():
    bound = bounds.trace_bound(40, 64)
    assert tightness.misaligned_bound(20, bound - 1e-6, 64) > 0 > tightness.misaligned_bound(20, bound + 1e-6, 64)
    assert tightness.misaligned_bound([20, 30], 0.0, 64).shape == (2,)


def test_the_base_is_ten_thousand_unless_said():
    zero, one = np.zeros((4, 2)), np.ones(4)
    for function, arguments in (
        (tightness.aligned_mean, (40.0, 0.3, 64)),
        (tightness.misaligned_bound, (40.0, 0.3, 64)),
        (tightness.unequal_traces_mean, (40.0, np.arange(1.0, 9.0))),
        (tightness.unconditional_correlation, (40.0, zero, one, zero, one)),
    ):
        assert function(*arguments) == function(*arguments, 10_000.0) != function(*arguments, 10_001.0)


def test_steps_about_opposite_scores_and_unequal_traces_fail_with_their_hypothesis():
    assert tightness.opposite_scores_stay_opposite() and not tightness.opposite_scores_stay_opposite(1)
    assert tightness.larger_trace_weighs_more() and not tightness.larger_trace_weighs_more(larger=False)
    assert tightness.mean_turns_negative(100.0) and not tightness.mean_turns_negative(1.0)


def test_mean_weights_are_ordered_as_the_traces():
    traces = np.array([3.0, 0.5, 1.0, 8.0])
    energy = np.random.default_rng(0).exponential(size=(100_000, 4)) * traces
    mean = (energy / energy.sum(1, keepdims=True)).mean(0)
    assert (np.argsort(mean) == np.argsort(traces)).all()
    assert abs(np.diff(np.sort(mean))).min() > 0.02  # 20 standard errors apart


def test_unequal_traces_by_sampling_and_by_their_scale():
    rng = np.random.default_rng(2)
    traces = np.geomspace(20, 0.05, 8)
    energy = rng.exponential(size=(60_000, 8)) * traces
    values = energy @ np.cos(2 * 3.5 * 10_000.0 ** (-np.arange(8) / 8)) / energy.sum(1)
    mean = tightness.unequal_traces_mean(3.5, traces)
    assert abs(values.mean() - mean) < 5 * values.std() / 60_000**0.5
    assert tightness.unequal_traces_mean(3.5, 1e6 * traces) == pytest.approx(mean, abs=1e-12)
    assert tightness.unequal_traces_mean(3.5, np.ones(8), 500.0) == pytest.approx(
        bounds.trace_bound(7.0, 16, 500.0), abs=1e-12
    )
    assert type(mean) is float
    row = tightness.unequal_traces_mean([1.0, 3.5], traces)
    assert row.shape == (2,) and row[1] == pytest.approx(mean, abs=1e-15)


def drawn_correlation(rng, delta1, delta2, q_mean, q_var, k_mean, k_var, number=120_000):
    draw = lambda mean, var: (mean + np.sqrt(var)[:, None] * rng.normal(size=(number, len(var), 2))).reshape(number, -1)
    query, key = draw(q_mean, q_var), draw(k_mean, k_var)
    theta = 10_000.0 ** (-np.arange(len(q_var)) / len(q_var))
    forward = (query * routing.rotate(key, delta1 * theta)).sum(1)
    reverse = (query * routing.rotate(key, -delta2 * theta)).sum(1)
    return np.corrcoef(forward, reverse)[0, 1]


@pytest.mark.parametrize("delta1, delta2", [(2.0, 2.0), (1.0, 6.0)])
def test_unconditional_correlation_by_simulation(delta1, delta2):
    rng = np.random.default_rng(3)
    parts = rng.normal(size=(3, 2)), rng.uniform(0.2, 2, 3), 2 * rng.normal(size=(3, 2)), rng.uniform(0.2, 2, 3)
    exact = tightness.unconditional_correlation(delta1 + delta2, *parts)
    assert abs(drawn_correlation(rng, delta1, delta2, *parts) - exact) < 0.015


def test_unconditional_correlation_by_hand():
    query_means, key_means = np.array([[1.0, 2.0], [0, 0]]), np.array([[0, 0], [3.0, 0]])
    # omega: plane 0: 0.5 * 5 + 2 * 2 * 0.5, plane 1: 3 * 9 + 2 * 3 * 0.25
    omega = np.array([0.5 * 5 + 2 * 2 * 0.5, 3 * 9 + 2 * 3 * 0.25])
    expected = omega @ np.cos([4.0, 0.4]) / omega.sum()
    ours = tightness.unconditional_correlation(
        4.0, query_means, np.array([2.0, 3.0]), key_means, np.array([0.5, 0.25]), 100.0
    )
    assert ours == pytest.approx(expected, abs=1e-14)
    zero, one = np.zeros((8, 2)), 1e-3 * np.ones(8)
    assert tightness.unconditional_correlation(11.0, zero, one, zero, one) == pytest.approx(
        bounds.trace_bound(11.0, 16), abs=1e-14
    )
    assert tightness.unconditional_correlation([1.0, 2.0], zero, one, zero, one).shape == (2,)


ZERO, ONE = np.zeros((4, 2)), np.ones(4)


REFUSED = {
    "correlation": [lambda v=v: tightness.shifted(v, 0.1) for v in (1.2, [0.1, -1.1], float("nan"))],
    "kappa": [
        *[lambda v=v: tightness.shifted(0.2, v) for v in (1.0, -1.0)],
        *[lambda v=v: tightness.aligned_mean(1.0, v, 8) for v in (1.0, -1.0)],
    ],
    "misalignment": [lambda v=v: tightness.misaligned_bound(1.0, v, 8) for v in (1.0, -0.1)],
    "head_dim": [lambda: tightness.aligned_mean(1.0, 0.5, 7), lambda: tightness.misaligned_bound(1.0, 0.5, 7)],
    "distance": [
        lambda: tightness.aligned_mean(-1.0, 0.5, 8),
        lambda: tightness.misaligned_bound(-1.0, 0.5, 8),
        lambda: tightness.unequal_traces_mean(-1.0, [1.0, 2.0]),
        lambda: tightness.unconditional_correlation(-1.0, ZERO, ONE, ZERO, ONE),
    ],
    "traces": [lambda v=v: tightness.unequal_traces_mean(1.0, v) for v in ([1.0, 0.0], [[1.0]], [float("nan")])],
    "query_variances": [lambda: tightness.unconditional_correlation(1.0, ZERO, -ONE, ZERO, ONE)],
    "key_variances": [lambda: tightness.unconditional_correlation(1.0, ZERO, ONE, ZERO, -ONE)],
    "do not vary": [lambda: tightness.unconditional_correlation(1.0, ZERO, 0 * ONE, ZERO, 0 * ONE)],
    "query_means": [lambda: tightness.unconditional_correlation(1.0, ZERO + float("inf"), ONE, ZERO, ONE)],
}


@pytest.mark.parametrize("call, name", [(call, name) for name, calls in REFUSED.items() for call in calls])
def test_refusals(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_a_gap_in_the_range_is_noticed(monkeypatch):
    """As kappa passes 1/2 the value jumps by half of the way to 1."""
    assert tightness.range_is_filled(0)
    monkeypatch.setattr(tightness, "shifted", lambda mean, kappa: mean + (1 - mean) * (kappa + (kappa > 0.5)) / 2)
    assert not tightness.range_is_filled(0)


def test_the_mean_that_turns_negative_is_one_of_thirty_two_planes():
    """It passes -0.1 where the fastest plane's trace is between 93 and 94 (with 31 planes, between 90 and 91)."""
    assert tightness.mean_turns_negative(94.0) and not tightness.mean_turns_negative(93.0)
