"""One forward step and the two-token flow, against finite differences, plain-time integration and mpmath."""

import math
import types

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from lib.theory import dynamics


def plain_softmax(logits):
    weights = np.exp(logits - np.max(logits))
    return weights / weights.sum()


def plain_loss(storage, mass, target):
    return -math.log(plain_softmax(storage @ mass)[target])


def model(seed, vocab=5, scale=1.5):
    rng = np.random.default_rng(seed)
    mass_f, mass_r = rng.dirichlet(np.ones(vocab + 1), 2)
    return scale * rng.standard_normal((vocab, vocab + 1)), mass_f, mass_r


def slope(function, at, step=1e-5):
    """Gradient by central differences, any shape."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        gradient[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return gradient


def shared(seed, eta=0.7, target=2, evidence=1, vocab=5):
    storage, mass_f, mass_r = model(seed, vocab)
    p_f, p_r = plain_softmax(storage @ mass_f), plain_softmax(storage @ mass_r)
    step = dynamics.SharedStep(mass_f[evidence], mass_r[evidence], p_f, p_r, target, eta)
    return step, storage, mass_f, mass_r


# One step -------------------------------------------------------------------------------------------------------


def test_prediction_and_loss_are_softmax_and_cross_entropy():
    storage, mass, _ = model(0)
    assert dynamics.prediction(storage, mass) == pytest.approx(plain_softmax(storage @ mass), rel=1e-12)
    logits = np.stack([storage @ mass, np.arange(5.0)])
    expected = [-math.log(plain_softmax(row)[3]) for row in logits]
    assert dynamics.loss(logits, 3) == pytest.approx(expected, rel=1e-12)
    p = plain_softmax(logits[0])[3]
    assert dynamics.log_odds(logits, 3)[0] == pytest.approx(math.log(p / (1 - p)), rel=1e-12)


def test_loss_keeps_its_digits_far_out():
    logits = np.array([800.0, 300.0, 300.0])
    assert dynamics.log_odds(logits, 0) == pytest.approx(500 - math.log(2), rel=1e-14)
    assert dynamics.loss(logits, 0) == pytest.approx(2 * math.exp(-500), rel=1e-10)
    assert dynamics.loss(logits, 1) == pytest.approx(500, rel=1e-14)


@pytest.mark.parametrize("target", [0, 2, 4])
def test_column_gradient_against_differences(target):
    storage, mass, _ = model(1)
    numeric = slope(lambda w: plain_loss(w, mass, target), storage)
    gradient = dynamics.column_gradient(mass[3], plain_softmax(storage @ mass), target)
    assert gradient == pytest.approx(numeric[:, 3], abs=1e-8)
    assert not dynamics.column_gradient(0, plain_softmax(storage @ mass), target).any()


def test_column_gradient_leaves_its_argument_alone():
    p = np.array([0.25, 0.75])
    dynamics.column_gradient(0.5, p, 0)
    assert p.tolist() == [0.25, 0.75]


@pytest.mark.parametrize("column", [None, 0, 4])
def test_forward_step_is_gradient_descent(column):
    storage, mass, _ = model(2)
    moved = storage - dynamics.forward_step(storage, mass, 1, 0.3, column)
    numeric = 0.3 * slope(lambda w: plain_loss(w, mass, 1), storage)
    kept = np.arange(6) == column if column is not None else np.full(6, True)
    assert moved == pytest.approx(numeric * kept, abs=1e-8)


@given(st.integers(0, 10**6), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_inner_product_is_that_of_the_two_gradients(seed, target):
    step, storage, mass_f, mass_r = shared(seed, target=target)
    numeric = slope(lambda w: plain_loss(w, mass_f, target), storage)[:, 1] @ slope(
        lambda w: plain_loss(w, mass_r, target), storage)[:, 1]
    assert step.inner_product == pytest.approx(numeric, rel=1e-5, abs=1e-9)
    assert step.inner_product > 0


@given(st.integers(0, 10**6), st.integers(0, 4), st.floats(1e-4, 1e4))
@settings(max_examples=60, deadline=None)
def test_gain_is_the_change_of_the_margins(seed, target, eta):
    step, storage, mass_f, mass_r = shared(seed, eta, target)
    error = step.p_f - np.eye(5)[target]
    after = storage.copy()
    after[:, 1] -= eta * mass_f[1] * error
    margins = [(w @ mass_r)[target] - w @ mass_r for w in (storage, after)]
    gain = dynamics.step_gain(mass_f[1], mass_r[1], step.p_f, step.p_r, target, eta)
    assert gain == pytest.approx(margins[1] - margins[0], rel=1e-9, abs=1e-11)
    assert gain[target] == 0 and (np.delete(gain, target) > 0).all()
    assert step.least_gain == np.delete(gain, target).min()
    change = float(dynamics.loss(after @ mass_r, target) - dynamics.loss(storage @ mass_r, target))
    assert step.change == pytest.approx(change, rel=1e-9, abs=1e-11)


@given(st.integers(0, 10**6), st.floats(1e-4, 1e4))
@settings(max_examples=60, deadline=None)
def test_bounds_enclose_the_change(seed, eta):
    step = shared(seed, eta)[0]
    assert -1e-12 <= step.change - step.first_order <= step.remainder_bound + 1e-12
    assert step.change <= step.odds_change + 1e-12
    assert step.odds_change < 0
    assert step.change <= step.smoothness_change + 1e-12
    assert step.remainder_bound <= step.smoothness_change - step.first_order + 1e-12


def test_step_by_hand():
    step = dynamics.SharedStep(0.5, 0.25, [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], 0, 4.0)
    assert step.gain == pytest.approx([0, 0.5 * 0.8, 0.5 * 0.7], rel=1e-14)
    assert step.least_gain == pytest.approx(0.35, rel=1e-14)
    inner = 0.125 * (0.5 * 0.8 + 0.3 * 0.2 + 0.2 * 0.6)
    assert step.inner_product == pytest.approx(inner, rel=1e-14)
    assert step.first_order == pytest.approx(-4 * inner, rel=1e-14)
    assert step.change == pytest.approx(math.log(0.2 + 0.2 * math.exp(-0.4) + 0.6 * math.exp(-0.35)), rel=1e-12)
    assert step.remainder_bound == pytest.approx(0.4**2 / 8, rel=1e-14)
    assert step.odds_change == pytest.approx(math.log(0.2 + 0.8 * math.exp(-0.35)), rel=1e-12)
    square = 0.5**2 + 0.3**2 + 0.2**2
    assert step.smoothness_change == pytest.approx(-4 * inner + (4 * 0.125) ** 2 * square / 4, rel=1e-12)
    assert step.smoothness_limit == pytest.approx(4 * inner / (0.125**2 * square), rel=1e-12)


def test_smoothness_limit_is_the_zero_of_the_bound():
    step = shared(5)[0]
    at_limit = dynamics.SharedStep(step.alpha_f, step.alpha_r, step.p_f, step.p_r, 2, step.smoothness_limit)
    assert at_limit.smoothness_change == pytest.approx(0, abs=1e-12)


def test_two_tokens_make_the_odds_bound_exact():
    step = dynamics.SharedStep(0.4, 0.9, [0.3, 0.7], [0.6, 0.4], 1, 5.0)
    assert step.change == pytest.approx(step.odds_change, rel=1e-13)


def test_change_keeps_its_digits():
    tiny = dynamics.SharedStep(1, 1, [0.5, 0.5], [0.5, 0.5], 0, 1e-12)
    assert tiny.change == pytest.approx(-5e-13, rel=1e-9)
    assert tiny.odds_change == pytest.approx(-5e-13, rel=1e-9)
    sure = dynamics.SharedStep(1, 1, [0.5, 0.5], [1e-30, 1.0], 0, 20.0)
    assert sure.change == pytest.approx(-20, rel=1e-12)


@pytest.mark.parametrize("p_f", [np.array([0.2, 0.8], dtype=np.float32), [0.2, 0.8], (0.2, 0.8)])
def test_step_gain_takes_any_sequence(p_f):
    gain = dynamics.step_gain(1, 1.0, p_f, [0.0, 1.0], np.int64(0), 2)
    assert gain == pytest.approx([0, 3.2], rel=1e-6)


GOOD = {"alpha_f": 0.5, "alpha_r": 0.5, "p_f": [0.5, 0.25, 0.25], "p_r": [0.5, 0.25, 0.25], "target": 0, "eta": 1.0}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("alpha_f", "alpha_r") for value in (0, -0.1, 1.0001, NAN, INF, [0.5, 0.5])]
    + [(name, value) for name in ("p_f", "p_r") for value in (
        [0.5, 0.75, -0.25], [0.5, 0.25, 0.25001], [0.4, 0.3, 0.2], [NAN, 0.5, 0.5], [INF, 0, 0], [1.0], 1.0,
        [[0.5, 0.5]], [0.5, 0.5])]
    + [("target", value) for value in (-1, 3, 1.5, NAN, "a", True, None)]
    + [("eta", value) for value in (0, -1, NAN, INF, [1.0])],
)
def test_bad_step_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        dynamics.step_gain(**{**GOOD, name: value})


def test_step_arguments_at_their_ends_are_taken():
    gain = dynamics.step_gain(1.0, 1e-300, [0.0, 1.0], [1.0, 0.0], 1, 1e-9)
    assert gain.tolist() == [0.0, 0.0]
    almost = [1 / 3 + 3e-7, 1 / 3, 1 / 3]  # sums to 1 as a float32 softmax does
    assert dynamics.step_gain(**{**GOOD, "p_f": almost, "target": 2})[2] == 0


def test_error_messages_say_what_is_right():
    for name, value, right in (("eta", -1, "above 0"), ("alpha_f", 2, r"\(0, 1\]"), ("target", 3, "below .* 3"),
                               ("target", -1, ">= 0"), ("target", True, "whole"), ("p_f", [1.0, 1.0, 0.0], "to 1"),
                               ("p_f", [1.0], "at least 2"), ("p_r", [0.5, 0.5], "one length, not 3 and 2"),
                               ("p_f", [1.5, -0.5, 0], "negative"), ("eta", [1.0], "one number")):
        with pytest.raises(ValueError, match=right):
            dynamics.step_gain(**{**GOOD, name: value})


# The flow -------------------------------------------------------------------------------------------------------


def turn(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def rope(forward=0.4, reverse=0.9, learned=("key",)):
    return dynamics.TwoTokenFlow(turn(forward), turn(-reverse), learned=frozenset(learned))


QUERY, KEY = np.array([1.5, -0.5]), np.array([0.3, 0.8])


def flow_loss(flow, column, query, key):
    score = query @ flow.forward_map @ key + flow.forward_bias
    return -math.log(plain_softmax(column / (1 + math.exp(-score)))[0])


@pytest.mark.parametrize("learned", [(), ("key",), ("query",), ("query", "key")])
def test_velocity_is_minus_the_gradient_in_log_time(learned):
    rng = np.random.default_rng(3)
    flow = dynamics.TwoTokenFlow(rng.standard_normal((2, 2)), np.eye(2), -0.4, 0.0, frozenset(learned))
    column = rng.standard_normal(4)
    velocity = flow._velocity(1.3, column, QUERY, KEY)
    numeric = [
        slope(lambda w: flow_loss(flow, w, QUERY, KEY), column),
        slope(lambda q: flow_loss(flow, column, q, KEY), QUERY) * ("query" in learned),
        slope(lambda k: flow_loss(flow, column, QUERY, k), KEY) * ("key" in learned),
    ]
    assert velocity == pytest.approx(-math.exp(1.3) * np.concatenate(numeric), abs=1e-8)


def test_velocity_survives_late_times():
    column = np.array([500.0, 0.0, 0.0])
    key = QUERY @ turn(0.4) * 8  # attention saturated
    velocity = rope()._velocity(499.0, column, QUERY, key)
    assert np.isfinite(velocity).all()
    assert velocity[1] == pytest.approx(-math.exp(-1), rel=1e-5)


def test_path_matches_integration_in_plain_time():
    flow, times = rope(learned=("query", "key")), np.array([0.5, 3.0, 20.0])
    start = np.concatenate([np.array([0.3, 0.0, -0.2]), QUERY, KEY])

    def descent(_, y):
        return -slope(lambda x: flow_loss(flow, x[:3], x[3:5], x[5:]), y)

    plain = solve_ivp(descent, (0, 20), start, t_eval=times, rtol=1e-9, atol=1e-11).y.T
    path = flow.run(start[:3], QUERY, KEY, np.log1p(times))
    assert np.concatenate([path.column, path.query, path.key], axis=1) == pytest.approx(plain, abs=1e-6)
    assert path.log_time == pytest.approx(np.log1p(times))
    for row in range(3):
        score = plain[row, 3:5] @ flow.reverse_map @ plain[row, 5:]
        forward = plain[row, 3:5] @ flow.forward_map @ plain[row, 5:]
        assert path.reverse_score[row] == pytest.approx(score, abs=1e-6)
        assert path.forward_score[row] == pytest.approx(forward, abs=1e-6)
        p = plain_softmax(plain[row, :3] / (1 + math.exp(-score)))[0]
        assert path.reverse_log_odds[row] == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
        p = plain_softmax(plain[row, :3] / (1 + math.exp(-forward)))[0]
        assert path.forward_log_odds[row] == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
    assert path.margins == pytest.approx(plain[:, [0]] - plain[:, 1:3], abs=1e-6)


def test_biases_enter_the_scores():
    flow = dynamics.TwoTokenFlow(np.eye(2), np.eye(2), -0.3, -1.1, frozenset())
    path = flow.run(np.zeros(3), QUERY, KEY, np.array([1.0, 2.0]))
    assert path.forward_score == pytest.approx(np.full(2, QUERY @ KEY - 0.3))
    assert path.reverse_score == pytest.approx(np.full(2, QUERY @ KEY - 1.1))
    assert (path.query == QUERY).all() and (path.key == KEY).all()


def test_the_key_alone_is_learned_unless_said():
    path = dynamics.TwoTokenFlow(np.eye(2), np.eye(2)).run(np.zeros(3), QUERY, KEY, np.array([1.0, 3.0]))
    assert (path.query == QUERY).all()
    assert not np.isclose(path.key, KEY).any()


def test_unknown_routing_variables_are_refused():
    with pytest.raises(ValueError, match=r"learned may hold 'query' and 'key', not \['value'\]"):
        rope(learned=("value", "key"))


def test_a_flow_that_cannot_be_integrated_says_so(monkeypatch):
    failed = types.SimpleNamespace(success=False, message="step size too small")
    monkeypatch.setattr(dynamics, "solve_ivp", lambda *_, **__: failed)
    with pytest.raises(ArithmeticError, match=r"log t = 2\.0: step size too small"):
        rope().run(np.zeros(3), QUERY, KEY, np.array([1.0, 2.0]))


def test_energy_is_conserved_to_late_times_from_any_column():
    column = np.array([-1.0, 2.0, 0.5, 0.0])
    path = rope().run(column, QUERY, KEY, np.linspace(1, 400, 50))
    energy = dynamics.route_energy(path.forward_score) - (QUERY @ QUERY) / 2 * (path.column**2).sum(1)
    scale = dynamics.route_energy(path.forward_score)
    start = math.exp(QUERY @ turn(0.4) @ KEY) + QUERY @ turn(0.4) @ KEY - (QUERY @ QUERY) / 2 * (column @ column)
    assert np.abs(energy - start).max() < 1e-7 * scale.max()
    assert path.column.sum(1) == pytest.approx(np.full(50, column.sum()), abs=1e-8)


@pytest.mark.parametrize("vocab", [2, 7])
def test_quadrature_solves_the_flow(vocab):
    start, norm = QUERY @ turn(0.4) @ KEY, QUERY @ QUERY
    path = rope().run(np.zeros(vocab), QUERY, KEY, np.array([0.1, 1.0, 5.0, 50.0, 500.0]))
    margins = path.margins[:, 0]
    times = dynamics.log_time(margins, lambda m: dynamics.learned_key_score(m, start, vocab, norm), vocab)
    assert np.logaddexp(0, times) == pytest.approx(path.log_time, abs=1e-6)
    assert dynamics.learned_key_score(margins, start, vocab, norm) == pytest.approx(path.forward_score, abs=1e-6)


@pytest.mark.parametrize(("s_f0", "vocab", "norm"), [(0.3, 5, 2.0), (-30.0, 2, 40.0), (-900.0, 3, 1.0), (6.0, 9, 0.1)])
@pytest.mark.parametrize("margin", [0.0, 0.4, 3.0, 1e3, 1e90])
def test_learned_key_score_solves_the_first_integral(s_f0, vocab, norm, margin):
    score = dynamics.learned_key_score(margin, s_f0, vocab, norm)
    energy = mpmath.exp(s_f0) + s_f0 + mpmath.mpf(norm) * (vocab - 1) / (2 * vocab) * mpmath.mpf(margin) ** 2
    assert isinstance(score, float)
    with mpmath.workdps(30):
        assert float((mpmath.exp(score) + score - energy) / (1 + abs(energy))) == pytest.approx(0, abs=1e-12)


def test_scores_beyond_the_range_of_float64_are_refused_by_name():
    with pytest.raises(ValueError, match="s_f0 must be at most 700, not 710"):
        dynamics.learned_key_score(1.0, 710.0, 5, 1.0)
    with pytest.raises(ValueError, match="margin must be at most 1e150, not 1e\\+200"):
        dynamics.learned_key_score(np.array([1.0, -1e200]), 0.0, 5, 1.0)
    with pytest.raises(ValueError, match=r"score must be at most 700, not 701\.0"):
        dynamics.route_energy(np.array([0.0, 701.0]))
    with np.errstate(all="raise", under="ignore"):
        assert dynamics.route_energy(700.0) == pytest.approx(math.exp(700))
        assert dynamics.learned_key_score(1.0, 700.0, 5, 1.0) == pytest.approx(700)
        assert dynamics.learned_key_score(1e150, 0.0, 2, 4.0) == pytest.approx(300 * math.log(10))   # e^s = m^2
        assert dynamics.learned_key_score(1.0, -5000.0, 2, 4.0) == pytest.approx(-4999)              # s = s_0 + m^2


def test_extreme_start_scores_leave_the_flow_and_its_limits_finite():
    assert dynamics.reverse_limit(-0.5, 2000.0, 2000.0, 5, 1.0) == 1
    assert dynamics.reverse_limit(-0.5, 0.0, -5000.0, 5, 1.0) == pytest.approx(1 / 5)
    assert np.isfinite(dynamics.reverse_tail(np.array([10.0, 500.0]), 0.4, 2000.0, -2000.0, 5, 1.0)).all()
    flow = dynamics.TwoTokenFlow(np.eye(2), np.eye(2))
    path = flow.run(np.zeros(3), np.array([30.0, 0.0]), np.array([30.0, 0.0]), np.linspace(0.5, 20, 5))
    assert path.forward_score[0] >= 900 and np.isfinite(path.forward_log_odds).all()


def test_learned_key_score_is_smooth_across_its_branches():
    at = np.linspace(0.99, 1.01, 5)  # energy around 1, s_f0 = -40, kappa = 1
    margins = np.sqrt(at + 40)
    scores = dynamics.learned_key_score(margins, -40.0, 2, 4.0)
    assert np.exp(scores) + scores == pytest.approx(at, abs=1e-12)


@pytest.mark.parametrize("vocab", [2, 6])
def test_log_time_against_adaptive_quadrature(vocab):
    def score(m):
        return dynamics.learned_key_score(m, -1.0, vocab, 3.0)

    def slowness(m):
        alpha = 1 / (1 + mpmath.exp(-float(score(float(m)))))
        return (mpmath.exp(alpha * m) + vocab - 1) / (vocab * alpha)

    margins = np.array([0.01, 0.7, 3.3, 12.0])
    expected = [float(mpmath.log(mpmath.quad(slowness, mpmath.linspace(0, m, 6)))) for m in margins]
    assert dynamics.log_time(margins, score, vocab) == pytest.approx(expected, abs=1e-9)


def test_log_time_of_fixed_routing_is_the_implicit_solution():
    score, vocab = -0.4, 6
    alpha, margins = 1 / (1 + math.exp(0.4)), np.array([0.001, 1.0, 40.0, 1200.0])
    times = dynamics.log_time(margins, lambda m: score, vocab)
    y = alpha * margins
    log_sum = np.log(np.expm1(y[:3]) + (vocab - 1) * y[:3])
    assert times[:3] == pytest.approx(log_sum - math.log(vocab * alpha**2), abs=1e-9)
    assert times[3] == pytest.approx(y[3] - math.log(vocab * alpha**2), abs=1e-9)


@pytest.mark.parametrize("margins", [[0.0, 1.0], [-1.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
def test_log_time_wants_ascending_positive_margins(margins):
    with pytest.raises(ValueError, match="margins"):
        dynamics.log_time(np.array(margins), lambda m: 0.0, 3)


def test_log_odds_of_equal_margins():
    odds = dynamics.log_odds_at(0.7, 3.0, 5)
    logits = np.array([3.0, 0, 0, 0, 0]) / (1 + math.exp(-0.7))
    assert odds == pytest.approx(dynamics.log_odds(logits, 0), rel=1e-13)


# Where the reverse probability ends -----------------------------------------------------------------------------


def far_out(rho, s_f0, s_r0, vocab, norm, margin=1e120):
    """Reverse probability at a margin, from the first integral in mpmath alone."""
    with mpmath.workdps(40):
        kappa = mpmath.mpf(norm) * (vocab - 1) / (2 * vocab)
        energy = mpmath.exp(s_f0) + s_f0 + kappa * mpmath.mpf(margin) ** 2
        score = mpmath.log(energy)
        for _ in range(60):
            score = mpmath.log(energy - score)
        route = 1 / (1 + mpmath.exp(-(s_r0 + rho * (score - s_f0))))
        return float(1 / (1 + (vocab - 1) * mpmath.exp(-route * margin)))


@pytest.mark.parametrize("rho", [1, 0.5, 0, -0.3, -0.47, -0.5, -0.53, -0.8, -1.0])
@pytest.mark.parametrize(("s_f0", "s_r0", "vocab", "norm"), [(0, 0, 2, 1), (1.2, -0.7, 9, 3.5), (-2, 1.5, 40, 0.6)])
def test_reverse_limit_is_where_the_flow_goes(rho, s_f0, s_r0, vocab, norm):
    limit = dynamics.reverse_limit(rho, s_f0, s_r0, vocab, norm)
    assert isinstance(limit, float)
    assert limit == pytest.approx(far_out(rho, s_f0, s_r0, vocab, norm), abs=2e-7)


def test_reverse_limit_takes_arrays():
    limit = dynamics.reverse_limit([-0.8, -0.5, 0.3], 0.2, np.array([[0.1], [2.0]]), 5, 2)
    assert limit.shape == (2, 3)
    assert limit[:, 0] == pytest.approx([0.2, 0.2]) and (limit[:, 2] == 1).all()
    for row, s_r0 in enumerate((0.1, 2.0)):
        K = math.exp(s_r0 + 0.1) * math.sqrt(10 / (2 * 4))
        assert limit[row, 1] == pytest.approx(1 / (1 + 4 * math.exp(-K)), rel=1e-13)


def test_reverse_limit_survives_extremes():
    assert dynamics.reverse_limit(-0.5, 0.0, 900.0, 5, 1.0) == 1
    assert dynamics.reverse_limit(-0.5, 0.0, -900.0, 5, 1.0) == pytest.approx(0.2)
    assert dynamics.reverse_limit(-0.5, 0.0, 0.0, 4, 1e-300) == 1
    assert dynamics.reverse_limit(-0.9, 3.0, 4.0, 10**6, 1e300) == pytest.approx(1e-6)


LIMIT = {"rho": -0.5, "s_f0": 0.1, "s_r0": 0.2, "vocab": 5, "q_norm2": 1.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [("rho", value) for value in (1.0001, -1.0001, NAN, INF, [0.1, 2.0])]
    + [(name, value) for name in ("s_f0", "s_r0") for value in (NAN, INF, [0.1, NAN])]
    + [("vocab", value) for value in (1, 0, -3, 2.5, NAN, True, "x", None, [5])]
    + [("q_norm2", value) for value in (0, -1.0, NAN, INF, [1.0])],
)
def test_bad_limit_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        dynamics.reverse_limit(**{**LIMIT, name: value})


@pytest.mark.parametrize("rho", [1, 0.6, 0.5, 0.3, 0, -0.2])
def test_reverse_tail_becomes_exact(rho):
    s_f0, s_r0, vocab, norm = 0.4, -0.2, 7, 3.0
    margins = np.array([200.0, 2000.0])

    def score(m):
        return dynamics.learned_key_score(m, s_f0, vocab, norm)

    times = dynamics.log_time(margins, score, vocab)
    odds = dynamics.log_odds_at(s_r0 + rho * (score(margins) - s_f0), margins, vocab)
    gaps = np.abs(-np.logaddexp(0, odds) - dynamics.reverse_tail(times, rho, s_f0, s_r0, vocab, norm))
    assert gaps[1] < 0.02 and gaps[1] < gaps[0] / 2


def test_kappa_wants_a_vocabulary_and_a_query():
    with pytest.raises(ValueError, match="vocab"):
        dynamics.learned_key_score(1.0, 0.0, 1, 1.0)
    with pytest.raises(ValueError, match="q_norm2"):
        dynamics.learned_key_score(1.0, 0.0, 2, 0.0)
    with pytest.raises(ValueError, match="s_f0"):
        dynamics.learned_key_score(1.0, NAN, 2, 1.0)
