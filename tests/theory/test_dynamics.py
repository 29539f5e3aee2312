"""One forward step, against finite differences and values by hand."""

import inspect
import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_numerics import plain_softmax, slope

from lib.theory import dynamics, dynamics_proofs
from lib.theory.storage import descend, prediction


def plain_loss(storage, mass, target):
    return -math.log(plain_softmax(storage @ mass)[target])


def model(seed, vocab=5, scale=1.5):
    rng = np.random.default_rng(seed)
    mass_f, mass_r = rng.dirichlet(np.ones(vocab + 1), 2)
    return scale * rng.standard_normal((vocab, vocab + 1)), mass_f, mass_r


def shared(seed, eta=0.7, target=2, evidence=1, vocab=5):
    storage, mass_f, mass_r = model(seed, vocab)
    p_f, p_r = plain_softmax(storage @ mass_f), plain_softmax(storage @ mass_r)
    step = dynamics.SharedStep(mass_f[evidence], mass_r[evidence], p_f, p_r, target, eta)
    return step, storage, mass_f, mass_r


def test_prediction_and_loss_are_softmax_and_cross_entropy():
    storage, mass, _ = model(0)
    assert prediction(storage, mass) == pytest.approx(plain_softmax(storage @ mass), rel=1e-12)
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
    moved = storage - descend(storage, mass, 1, 0.3, column=column)[-1]
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


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_smoothness_limit_and_best_decrease_are_as_large_as_stated(seed):
    unit = shared(seed, 1.0)[0]
    limit, missed_f, missed_r = unit.smoothness_limit, 1 - unit.p_f[2], 1 - unit.p_r[2]
    assert limit * unit.alpha_f * unit.alpha_r * missed_f >= 2 * missed_r * (1 - 1e-12)
    best, at_limit, beyond = (shared(seed, share * limit)[0] for share in (0.5, 1.0, 1.01))
    assert best.change <= best.smoothness_change <= -missed_r**2 / 2 * (1 - 1e-12)
    assert at_limit.smoothness_change <= 1e-9 and beyond.smoothness_change > 0
    assert at_limit.remainder_bound <= at_limit.smoothness_change - at_limit.first_order + 1e-12


PAIRS = dynamics.random_pairs(60, 12, 8, seed=0)


def test_random_pairs_show_the_evidence_and_the_mask_in_both_prompts():
    for pair in PAIRS:
        assert pair.storage.shape == (12, 13) and pair.target != pair.evidence != 12
        for mass in (pair.mass_f, pair.mass_r):
            assert mass.sum() == pytest.approx(1) and mass[pair.evidence] > 0 and mass[12] > 0
    again = dynamics.random_pairs(60, 12, 8, seed=0)
    assert all((one.storage == other.storage).all() for one, other in zip(PAIRS, again, strict=True))


@pytest.mark.parametrize("eta", [0.01, 1.0, 1000.0])
def test_the_step_in_the_model_is_the_predicted_one(eta):
    for pair in PAIRS:
        step = pair.predicted(eta)
        before = dynamics.target_margins(pair.storage @ pair.mass_r, pair.target)
        after = dynamics.target_margins(pair.stepped(eta) @ pair.mass_r, pair.target)
        assert after - before == pytest.approx(step.gain, rel=1e-9, abs=1e-10)
        assert pair.measured_change(eta) == pytest.approx(step.change, rel=1e-9, abs=1e-12)
        assert pair.measured_change(eta) <= step.odds_change + 1e-12 < 1e-12
        other = pair.stepped(eta, target=pair.other)                 # the forward prompt asks for another target
        assert dynamics.target_margins(other @ pair.mass_r, pair.target) != pytest.approx(after, rel=1e-9, abs=1e-10)


def test_one_target_keeps_the_cosine_above_one_half():
    assert min(pair.cosine(pair.target) for pair in PAIRS) >= 0.5
    assert min(pair.cosine(pair.other) for pair in PAIRS) < 0
    pair = PAIRS[0]
    f, r = (dynamics.column_gradient(mass[pair.evidence], plain_softmax(pair.storage @ mass), pair.target)
            for mass in (pair.mass_f, pair.mass_r))
    assert pair.cosine(pair.target) == pytest.approx(f @ r / math.sqrt((f @ f) * (r @ r)), rel=1e-12)


def test_two_facts_in_turn_share_the_reverse_answer():
    alone, in_turn = (dynamics.two_facts_path(6, alternate)[-1] for alternate in (False, True))
    assert alone[0] > 0.95 and alone[1] < 0.02
    assert in_turn == pytest.approx([0.5, 0.5], abs=0.05)


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


def test_two_targets_oppose_by_one_over_n_at_uniform_predictions():
    pair = [dynamics.column_gradient(1.0, np.full(5, 0.2), target) for target in (0, 0, 1)]
    assert pair[0] @ pair[1] == pytest.approx(1 - 1 / 5) and pair[0] @ pair[2] == pytest.approx(-1 / 5)


@pytest.mark.parametrize("vocab", [2, 7])
def test_the_literal_reading_hurts_by_the_masses_in_common(vocab):
    """A step of size 0.1 from W = 0 moves the logits of p(A | B) by -0.1 <a_f, a_r> (1/n - e_B)."""
    logits = -0.1 * 0.4 * 0.7 * (1 / vocab - np.eye(vocab)[1])
    change = float(dynamics.loss(logits, 0) - math.log(vocab))
    assert change > 0 and dynamics.literal_step_hurts(vocab)
    assert not dynamics.literal_step_hurts(vocab, same_target=True)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_smoothness_steps_for_other_sizes(size):
    steps = inspect.unwrap(dynamics_proofs.smoothness_steps)  # its True may be sympy's, no bool
    assert steps(size) and not steps(size, minimum_at=sp.Rational(1, 3))
