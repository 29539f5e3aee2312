"""The two-token flow against plain-time integration, finite differences and mpmath; the mask's flow against descent."""

import dataclasses
import math
import types

import mpmath
import numpy as np
import pytest
import torch
from plain_numerics import plain_softmax, slope
from scipy.integrate import solve_ivp
from scipy.special import expit

from lib.theory import flows
from lib.theory.dynamics import log_odds

NAN, INF = float("nan"), float("inf")


def turn(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def rope(forward=0.4, reverse=0.9, learned=("key",)):
    return flows.TwoTokenFlow(turn(forward), turn(-reverse), learned=frozenset(learned))


QUERY, KEY = np.array([1.5, -0.5]), np.array([0.3, 0.8])


def flow_loss(flow, column, query, key):
    score = query @ flow.forward_map @ key + flow.forward_bias
    return -math.log(plain_softmax(column / (1 + math.exp(-score)))[0])


@pytest.mark.parametrize("learned", [(), ("key",), ("query",), ("query", "key")])
def test_velocity_is_minus_the_gradient_in_log_time(learned):
    rng = np.random.default_rng(3)
    flow = flows.TwoTokenFlow(rng.standard_normal((2, 2)), np.eye(2), -0.4, 0.0, frozenset(learned))
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
    flow = flows.TwoTokenFlow(np.eye(2), np.eye(2), -0.3, -1.1, frozenset())
    path = flow.run(np.zeros(3), QUERY, KEY, np.array([1.0, 2.0]))
    assert path.forward_score == pytest.approx(np.full(2, QUERY @ KEY - 0.3))
    assert path.reverse_score == pytest.approx(np.full(2, QUERY @ KEY - 1.1))
    assert (path.query == QUERY).all() and (path.key == KEY).all()


def test_the_key_alone_is_learned_unless_said():
    path = flows.TwoTokenFlow(np.eye(2), np.eye(2)).run(np.zeros(3), QUERY, KEY, np.array([1.0, 3.0]))
    assert (path.query == QUERY).all()
    assert not np.isclose(path.key, KEY).any()


def test_unknown_routing_variables_are_refused():
    with pytest.raises(ValueError, match=r"learned may hold 'query' and 'key', not \['value'\]"):
        rope(learned=("value", "key"))


def test_a_flow_that_cannot_be_integrated_says_so(monkeypatch):
    failed = types.SimpleNamespace(success=False, message="step size too small")
    monkeypatch.setattr(flows, "solve_ivp", lambda *_, **__: failed)
    with pytest.raises(ArithmeticError, match=r"log t = 2\.0: step size too small"):
        rope().run(np.zeros(3), QUERY, KEY, np.array([1.0, 2.0]))


def test_energy_is_conserved_to_late_times_from_any_column():
    column = np.array([-1.0, 2.0, 0.5, 0.0])
    path = rope().run(column, QUERY, KEY, np.linspace(1, 400, 50))
    energy = flows.route_energy(path.forward_score) - (QUERY @ QUERY) / 2 * (path.column**2).sum(1)
    scale = flows.route_energy(path.forward_score)
    start = math.exp(QUERY @ turn(0.4) @ KEY) + QUERY @ turn(0.4) @ KEY - (QUERY @ QUERY) / 2 * (column @ column)
    assert np.abs(energy - start).max() < 1e-7 * scale.max()
    assert path.column.sum(1) == pytest.approx(np.full(50, column.sum()), abs=1e-8)


def matrix_drift(learned):
    """Largest change of q q^T - k k^T along the flow to log t = 400, relative to |q|^2."""
    flow = flows.TwoTokenFlow(np.eye(2), np.eye(2), learned=frozenset(learned))
    path = flow.run(np.zeros(4), QUERY, KEY, np.linspace(1, 400, 50))
    kept = path.query[:, :, None] * path.query[:, None] - path.key[:, :, None] * path.key[:, None]
    return np.abs(kept - kept[0]).max() / (path.query**2).sum(1).max()


def test_the_matrix_is_conserved_to_late_times_where_both_are_learned():
    assert matrix_drift(("query", "key")) < 1e-8
    assert matrix_drift(("key",)) > 0.1


def test_energy_needs_the_key_to_be_the_one_that_learns():
    path = rope(learned=("query",)).run(np.zeros(4), QUERY, KEY, np.linspace(1, 400, 50))
    parts = flows.route_energy(path.forward_score), (path.query**2).sum(1) * (path.column**2).sum(1) / 2
    assert np.abs(parts[0] - parts[1] - (parts[0] - parts[1])[0]).max() > 1e-3 * parts[0].max()


def test_rope_flow_turns_plane_by_plane():
    forward, reverse = np.array([0.4, 1.1]), np.array([0.9, -0.3])
    flow = flows.TwoTokenFlow.rope(forward, reverse, ("query",))
    for found, angles in ((flow.forward_map, forward), (flow.reverse_map, -reverse)):
        assert found[:2, :2] == pytest.approx(turn(angles[0])) and found[2:, 2:] == pytest.approx(turn(angles[1]))
        assert not found[:2, 2:].any() and not found[2:, :2].any()
    assert flow.learned == {"query"}


def test_solved_flow_is_the_integrated_one():
    start, total = QUERY @ turn(0.4) @ KEY, QUERY @ turn(1.3) @ QUERY / (QUERY @ QUERY)
    path = rope().run(np.zeros(5), QUERY, KEY, np.array([0.1, 1.0, 5.0, 50.0]))
    solved = flows.solve_learned_key(path.margins[:, 0], start, 5, QUERY @ QUERY)
    assert solved.log_time == pytest.approx(path.log_time, abs=1e-6)
    assert solved.forward_score == pytest.approx(path.forward_score, abs=1e-6)
    reverse = solved.reverse_score(total, QUERY @ turn(-0.9) @ KEY)
    assert reverse == pytest.approx(path.reverse_score, abs=1e-6)
    assert solved.log_odds(reverse) == pytest.approx(path.reverse_log_odds, abs=1e-6)
    assert solved.probability(reverse) == pytest.approx(expit(path.reverse_log_odds), abs=1e-6)
    fixed = flows.solve_fixed_routing(np.array([1.0, 40.0]), -0.4, 6)
    assert fixed.forward_score.tolist() == [-0.4, -0.4]
    assert fixed.log_time == pytest.approx(np.logaddexp(0, flows.log_time(fixed.margin, lambda m: -0.4, 6)))


def test_agreement_is_the_ratio_of_inner_products():
    solved, rho = flows.solve_learned_key(np.array([0.5, 3.0]), -1.0, 4, 2.0), -0.7
    query = np.array([math.sqrt(2), 0.0])
    prompts = [flows.TwoTokenFlow(turn(sign * math.acos(rho) / 2), np.eye(2)) for sign in (1, -1)]

    def products(margin, scores):
        """Inner products of the two prompts' gradients in the column and in the key."""
        column = np.array([margin, 0, 0, 0])
        key = np.linalg.solve(np.stack([query @ prompt.forward_map for prompt in prompts]), scores)
        in_column = [slope(lambda w, prompt=prompt: flow_loss(prompt, w, query, key), column) for prompt in prompts]
        in_key = [slope(lambda k, prompt=prompt: flow_loss(prompt, column, query, k), key) for prompt in prompts]
        return in_column[0] @ in_column[1], in_key[0] @ in_key[1]

    for place, margin in enumerate(solved.margin):
        storage, routing = products(margin, [solved.forward_score[place], solved.reverse_score(rho)[place]])
        assert solved.agreement(rho)[place] == pytest.approx(1 + routing / storage, rel=1e-4)


def test_a_second_fact_as_strong_leaves_both_answers_alike():
    solved = flows.solve_learned_key(np.array([1.0, 60.0]), 0.0, 7, 4.0)
    assert solved.probability_with_second_fact(0.5, 0.5)[-1] == pytest.approx(0.5)
    stronger, weaker = solved.probability_with_second_fact(0.5, 0.8), solved.probability_with_second_fact(0.8, 0.5)
    assert stronger[-1] < 1e-3 and weaker[-1] > 0.999
    logits = np.zeros(7)
    logits[:2] = np.array([np.exp(0.5 * solved.forward_score[0]), np.exp(0.8 * solved.forward_score[0])])
    weights = logits[:2] / (logits[:2].sum() + 1)
    logits[:2] = weights * solved.margin[0]
    assert stronger[0] == pytest.approx(plain_softmax(logits)[0])


@pytest.mark.parametrize("vocab", [2, 7])
def test_quadrature_solves_the_flow(vocab):
    start, norm = QUERY @ turn(0.4) @ KEY, QUERY @ QUERY
    path = rope().run(np.zeros(vocab), QUERY, KEY, np.array([0.1, 1.0, 5.0, 50.0, 500.0]))
    margins = path.margins[:, 0]
    times = flows.log_time(margins, lambda m: flows.learned_key_score(m, start, vocab, norm), vocab)
    assert np.logaddexp(0, times) == pytest.approx(path.log_time, abs=1e-6)
    assert flows.learned_key_score(margins, start, vocab, norm) == pytest.approx(path.forward_score, abs=1e-6)


@pytest.mark.parametrize(("s_f0", "vocab", "norm"), [(0.3, 5, 2.0), (-30.0, 2, 40.0), (-900.0, 3, 1.0), (6.0, 9, 0.1)])
@pytest.mark.parametrize("margin", [0.0, 0.4, 3.0, 1e3, 1e90])
def test_learned_key_score_solves_the_first_integral(s_f0, vocab, norm, margin):
    score = flows.learned_key_score(margin, s_f0, vocab, norm)
    energy = mpmath.exp(s_f0) + s_f0 + mpmath.mpf(norm) * (vocab - 1) / (2 * vocab) * mpmath.mpf(margin) ** 2
    assert isinstance(score, float)
    with mpmath.workdps(30):
        assert float((mpmath.exp(score) + score - energy) / (1 + abs(energy))) == pytest.approx(0, abs=1e-12)


def test_scores_beyond_the_range_of_float64_are_refused_by_name():
    with pytest.raises(ValueError, match="s_f0 must be at most 700, not 710"):
        flows.learned_key_score(1.0, 710.0, 5, 1.0)
    with pytest.raises(ValueError, match="margin must be at most 1e150, not 1e\\+200"):
        flows.learned_key_score(np.array([1.0, -1e200]), 0.0, 5, 1.0)
    with pytest.raises(ValueError, match=r"score must be at most 700, not 701\.0"):
        flows.route_energy(np.array([0.0, 701.0]))
    with np.errstate(all="raise", under="ignore"):
        assert flows.route_energy(700.0) == pytest.approx(math.exp(700))
        assert flows.learned_key_score(1.0, 700.0, 5, 1.0) == pytest.approx(700)
        assert flows.learned_key_score(1e150, 0.0, 2, 4.0) == pytest.approx(300 * math.log(10))   # e^s = m^2
        assert flows.learned_key_score(1.0, -5000.0, 2, 4.0) == pytest.approx(-4999)              # s = s_0 + m^2


def test_extreme_start_scores_leave_the_flow_and_its_limits_finite():
    assert flows.reverse_limit(-0.5, 2000.0, 2000.0, 5, 1.0) == 1
    assert flows.reverse_limit(-0.5, 0.0, -5000.0, 5, 1.0) == pytest.approx(1 / 5)
    assert np.isfinite(flows.log_miss_late(np.array([10.0, 500.0]), 0.4, 2000.0, -2000.0, 5, 1.0)).all()
    flow = flows.TwoTokenFlow(np.eye(2), np.eye(2))
    path = flow.run(np.zeros(3), np.array([30.0, 0.0]), np.array([30.0, 0.0]), np.linspace(0.5, 20, 5))
    assert path.forward_score[0] >= 900 and np.isfinite(path.forward_log_odds).all()


def test_learned_key_score_is_smooth_across_its_branches():
    at = np.linspace(0.99, 1.01, 5)  # energy around 1, s_f0 = -40, kappa = 1
    margins = np.sqrt(at + 40)
    scores = flows.learned_key_score(margins, -40.0, 2, 4.0)
    assert np.exp(scores) + scores == pytest.approx(at, abs=1e-12)


@pytest.mark.parametrize("vocab", [2, 6])
def test_log_time_against_adaptive_quadrature(vocab):
    def score(m):
        return flows.learned_key_score(m, -1.0, vocab, 3.0)

    def slowness(m):
        alpha = 1 / (1 + mpmath.exp(-float(score(float(m)))))
        return (mpmath.exp(alpha * m) + vocab - 1) / (vocab * alpha)

    margins = np.array([0.01, 0.7, 3.3, 12.0])
    expected = [float(mpmath.log(mpmath.quad(slowness, mpmath.linspace(0, m, 6)))) for m in margins]
    assert flows.log_time(margins, score, vocab) == pytest.approx(expected, abs=1e-9)


def test_log_time_of_fixed_routing_is_the_implicit_solution():
    score, vocab = -0.4, 6
    alpha, margins = 1 / (1 + math.exp(0.4)), np.array([0.001, 1.0, 40.0, 1200.0])
    times = flows.log_time(margins, lambda m: score, vocab)
    y = alpha * margins
    log_sum = np.log(np.expm1(y[:3]) + (vocab - 1) * y[:3])
    assert times[:3] == pytest.approx(log_sum - math.log(vocab * alpha**2), abs=1e-9)
    assert times[3] == pytest.approx(y[3] - math.log(vocab * alpha**2), abs=1e-9)


@pytest.mark.parametrize("margins", [[0.0, 1.0], [-1.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
def test_log_time_wants_ascending_positive_margins(margins):
    with pytest.raises(ValueError, match="margins"):
        flows.log_time(np.array(margins), lambda m: 0.0, 3)


def test_log_odds_of_equal_margins():
    odds = flows.log_odds_at(0.7, 3.0, 5)
    logits = np.array([3.0, 0, 0, 0, 0]) / (1 + math.exp(-0.7))
    assert odds == pytest.approx(log_odds(logits, 0), rel=1e-13)


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
    limit = flows.reverse_limit(rho, s_f0, s_r0, vocab, norm)
    assert isinstance(limit, float)
    assert limit == pytest.approx(far_out(rho, s_f0, s_r0, vocab, norm), abs=2e-7)


def test_reverse_limit_takes_arrays():
    limit = flows.reverse_limit([-0.8, -0.5, 0.3], 0.2, np.array([[0.1], [2.0]]), 5, 2)
    assert limit.shape == (2, 3)
    assert limit[:, 0] == pytest.approx([0.2, 0.2]) and (limit[:, 2] == 1).all()
    for row, s_r0 in enumerate((0.1, 2.0)):
        K = math.exp(s_r0 + 0.1) * math.sqrt(10 / (2 * 4))
        assert limit[row, 1] == pytest.approx(1 / (1 + 4 * math.exp(-K)), rel=1e-13)


def test_reverse_limit_survives_extremes():
    assert flows.reverse_limit(-0.5, 0.0, 900.0, 5, 1.0) == 1
    assert flows.reverse_limit(-0.5, 0.0, -900.0, 5, 1.0) == pytest.approx(0.2)
    assert flows.reverse_limit(-0.5, 0.0, 0.0, 4, 1e-300) == 1
    assert flows.reverse_limit(-0.9, 3.0, 4.0, 10**6, 1e300) == pytest.approx(1e-6)


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
        flows.reverse_limit(**{**LIMIT, name: value})


@pytest.mark.parametrize("rho", [1, 0.6, 0.5, 0.3, 0, -0.2])
def test_log_miss_late_becomes_exact(rho):
    s_f0, s_r0, vocab, norm = 0.4, -0.2, 7, 3.0
    margins = np.array([200.0, 2000.0])

    def score(m):
        return flows.learned_key_score(m, s_f0, vocab, norm)

    times = flows.log_time(margins, score, vocab)
    odds = flows.log_odds_at(s_r0 + rho * (score(margins) - s_f0), margins, vocab)
    gaps = np.abs(-np.logaddexp(0, odds) - flows.log_miss_late(times, rho, s_f0, s_r0, vocab, norm))
    assert gaps[1] < 0.02 and gaps[1] < gaps[0] / 2


def test_kappa_wants_a_vocabulary_and_a_query():
    with pytest.raises(ValueError, match="vocab"):
        flows.learned_key_score(1.0, 0.0, 1, 1.0)
    with pytest.raises(ValueError, match="q_norm2"):
        flows.learned_key_score(1.0, 0.0, 2, 0.0)
    with pytest.raises(ValueError, match="s_f0"):
        flows.learned_key_score(1.0, NAN, 2, 1.0)


# With the mask's value column ------------------------------------------------------------------------------------


def mask_gradient(evidence, mask, score, target):
    """Gradient of -log softmax(alpha W_B + (1 - alpha) W_M)_A in W_B, W_M and the score, by torch."""
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (evidence, mask, score)]
    alpha = torch.sigmoid(leaves[2])
    logits = alpha * leaves[0] + (1 - alpha) * leaves[1]
    loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([target]))
    return [gradient.numpy() for gradient in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("start", [0.3, 0.7])
def test_mask_flow_is_descent_on_the_loss(start):
    """Small explicit steps on the columns and the key, from the gradients themselves, in the same clock."""
    n, square, step = 4, 2.0, 0.002
    evidence, mask, score, tau, path = np.zeros(n), np.zeros(n), np.log(start / (1 - start)), 0.0, []
    for _ in range(1500):
        by_evidence, by_mask, by_score = mask_gradient(evidence, mask, score, 0)
        p = np.exp(expit(score) * evidence + (1 - expit(score)) * mask)
        wrong = 1 - p[0] / p.sum()
        path.append((tau, evidence[0] - evidence[1], mask[0] - mask[1], score))
        pace = step / wrong
        evidence, mask = evidence - pace * by_evidence, mask - pace * by_mask
        score, tau = score - pace * square * by_score, tau + step
    taus, *columns = np.array(path)[::300].T
    run = flows.mask_flow(start, n, square, taus)
    assert run.clock == pytest.approx(taus)
    for found, expected in zip((run.evidence_margin, run.mask_margin, run.score), columns, strict=True):
        assert found == pytest.approx(expected, abs=0.01)
    assert run.attention == pytest.approx(expit(run.score))


def test_mask_flow_starts_where_it_is_told_and_refuses_the_rest():
    run = flows.mask_flow(0.25, 3, 1.0, np.linspace(0, 1, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.clock = None
    assert run.attention[0] == pytest.approx(0.25) and run.evidence_margin[0] == run.mask_margin[0] == 0
    for attention in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="attention must lie in"):
            flows.mask_flow(attention, 3, 1.0, np.linspace(0, 1, 3))


@pytest.mark.parametrize("learned", [(), ("key",), ("query", "key")])
def test_the_path_is_as_short_as_the_loss_allows(learned):
    """|theta(t) - theta(0)|^2 <= t loss(0): no flow leaves every ball in a bounded time."""
    flow, column = rope(learned=learned), np.array([-1.0, 2.0, 0.5])
    path = flow.run(column, QUERY, KEY, np.linspace(0.1, 12, 30))
    moved = (((path.column - column) ** 2).sum(1) + ((path.query - QUERY) ** 2).sum(1)
             + ((path.key - KEY) ** 2).sum(1))
    time = np.expm1(path.log_time)
    assert (moved <= time * flow_loss(flow, column, QUERY, KEY)).all()
    assert (moved > 0).all()
