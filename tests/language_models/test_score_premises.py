"""Theorem 4.3 head by head: correlations, measures of the premises, and controls."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from made_up_states import BASE, DIM, PLANES, one_head, random_states, slow_planes, with_covariance

from lib.language_models import head_states, premise_findings, score_premises
from lib.language_models.head_states import HeadStates
from lib.theory import bounds, premises, routing

torch.set_num_threads(1)


def test_measured_correlations_are_those_of_scores_rotated_as_complex_numbers():
    states, distances = random_states(), (1, 3, 10)
    found = score_premises.score_premises(states, distances, queries=5)
    chosen = np.linspace(0, len(states.text) - 1, 5).astype(int)
    complex_ = lambda x: x[..., 0::2] + 1j * x[..., 1::2]
    for layer, head in itertools.product(range(2), range(4)):
        keys = complex_(states.keys[layer, head // 2])
        for (place, delta), (row, token) in itertools.product(enumerate(distances), enumerate(chosen)):
            query = complex_(states.queries[layer, head, token])
            scores = [(query.conj() * np.exp(1j * side * delta * BASE ** (-np.arange(PLANES) / PLANES)) * keys)
                      .sum(1).real for side in (1, -1)]
            assert found.ladder[layer, head, row, -1, place] == pytest.approx(np.corrcoef(scores)[0, 1], abs=1e-10)
    np.testing.assert_allclose(found.measured, found.ladder[:, :, :, -1].mean(2))


def test_keys_as_the_theorem_wants_them_lie_on_the_bound():
    rng = np.random.default_rng(0)
    query, tokens, distances = rng.normal(size=DIM), 40, (1, 2, 5, 30)
    keys = with_covariance(3 * np.eye(DIM), tokens, rng, mean=rng.normal(size=DIM))
    found = score_premises.score_premises(one_head(query, keys), distances)
    expected = [sum(query.reshape(-1, 2)[i] @ query.reshape(-1, 2)[i] * np.cos(2 * delta * BASE ** (-i / PLANES))
                    for i in range(PLANES)) / (query @ query) for delta in distances]
    np.testing.assert_allclose(found.measured[0, 0], expected, atol=1e-12)
    np.testing.assert_allclose(found.bound[0, 0], expected, atol=1e-12)
    exact = {"traces": 0, "alignment": 0, "roundness": 1, "forward": 1, "reverse": 1}
    for name, value in exact.items():
        assert getattr(found, name)[0, 0] == pytest.approx(value, abs=1e-10), name
    np.testing.assert_allclose(found.guarantee, bounds.trace_bound(2 * np.array(distances), DIM, BASE))


@pytest.mark.parametrize("kappa", [0.6, -0.6])
def test_alignment_is_found_and_lifts_or_lowers_the_correlation(kappa):
    rng = np.random.default_rng(1)
    query, distances = rng.normal(size=DIM), (1, 2, 5, 30)
    keys = with_covariance(routing.key_covariance(query, kappa), 40, rng)
    found = score_premises.score_premises(one_head(query, keys), distances)
    assert found.alignment[0, 0] == pytest.approx(kappa)
    assert found.misaligned[0, 0] == (kappa < 0)
    assert ((found.measured > found.bound) == (kappa > 0)).all()
    assert premise_findings.keys_vary_across_queries(found) == (kappa < 0)
    np.testing.assert_allclose(found.rung("alignment"), found.measured, atol=1e-10)


def test_planes_that_vary_together_are_found():
    rng = np.random.default_rng(2)
    query = np.concatenate([np.tile([1.0, 0.0], 2), np.full(DIM - 4, 1e-3)])
    covariance = np.eye(DIM)
    covariance[0, 2] = covariance[2, 0] = covariance[1, 3] = covariance[3, 1] = 0.8
    found = score_premises.score_premises(one_head(query, with_covariance(covariance, 40, rng)), (0,))
    assert found.forward[0, 0] == pytest.approx(1.8, abs=1e-3) and found.reverse[0, 0] == pytest.approx(1.8, abs=1e-3)


def test_effective_planes_and_unequal_traces():
    rng = np.random.default_rng(3)
    query = np.where(np.arange(DIM) < 4, 1.0, 1e-6)  # two of eight planes
    traces = np.array([1.0, 3.0] * (PLANES // 2))
    found = score_premises.score_premises(
        one_head(query, with_covariance(np.diag(np.repeat(traces, 2)), 40, rng)), (1, 4))
    assert found.planes[0, 0] == pytest.approx(2 / PLANES) and found.traces[0, 0] == pytest.approx(0.5)
    assert premise_findings.few_planes_carry_queries(found)
    even = score_premises.score_premises(one_head(np.ones(DIM), with_covariance(np.eye(DIM), 40, rng)), (1, 4))
    assert even.planes[0, 0] == pytest.approx(1) and not premise_findings.few_planes_carry_queries(even)
    np.testing.assert_allclose(even.bound[0, 0], even.guarantee)


def test_the_ladder_is_the_theorys_own():
    states = random_states()
    found = score_premises.score_premises(states, (1, 4), queries=3)
    query = states.queries[1, 3, len(states.text) - 1]
    own = premises.ladder(query, premises.item_covariance(states.keys[1, 1]), (1, 4), BASE)
    np.testing.assert_allclose(found.ladder[1, 3, 2], own)


@pytest.mark.parametrize(("change", "message"), [
    ({"queries": 0}, "at least one query"), ({"distances": ()}, "distances of 0 or more"),
    ({"distances": (-1, 2)}, "distances of 0 or more")])
def test_nothing_to_measure_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        score_premises.score_premises(random_states(), **change)


def test_states_without_spread_are_refused():
    states = random_states()
    silent = states.queries.copy()
    silent[0, 0, :, 2:4] = 0
    with pytest.raises(ValueError, match="must not vanish in any plane"):
        score_premises.score_premises(dataclasses.replace(states, queries=silent))
    alike = np.ones_like(states.keys)
    with pytest.raises(ValueError, match="must not vanish in any plane"):
        score_premises.score_premises(dataclasses.replace(states, keys=alike))
    with pytest.raises(ValueError, match="at least 2 items"):
        score_premises.score_premises(
            HeadStates(states.queries[:, :, :1], states.keys[:, :, :1], states.text[:1], BASE))


def test_how_far_the_guarantee_reaches():
    whole = np.arange(1, 2000)
    positive = bounds.trace_bound(2 * whole, 64, 100_000.0) > 0
    assert score_premises.guaranteed_distance(64, 100_000.0) <= whole[~positive][0] - 1
    assert score_premises.guaranteed_distance(64, 100_000.0) > 4 * score_premises.guaranteed_distance(64, 10_000.0)


# Controls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [head_states.exchanged_planes, head_states.rotated_heads])
def test_controls_keep_content_scores_and_no_rotation(control):
    states, distances = slow_planes(), (1, 2, 4)
    turned = control(states)
    product = lambda each: np.einsum("lhtd,lhsd->lhts", each.queries[:, ::2], each.keys)
    np.testing.assert_allclose(product(turned), product(states), atol=1e-9)
    own, other = (score_premises.score_premises(each, distances) for each in (states, turned))
    assert premise_findings.most_heads_exceed_guarantee(own) and not premise_findings.most_heads_exceed_guarantee(other)
    assert own.measured.mean() > other.measured.mean() + 0.2
    np.testing.assert_array_equal(control(states).keys, turned.keys)
    assert not np.array_equal(control(states, seed=1).keys, turned.keys)
    assert not np.allclose(turned.keys[0, 0] @ np.linalg.pinv(states.keys[0, 0]),
                           turned.keys[0, 1] @ np.linalg.pinv(states.keys[0, 1]))


def test_exchanged_planes_keep_planes_and_a_rotation_mixes_them():
    states = slow_planes()
    same, mixed = (score_premises.score_premises(control(states), (1,)) for control in (
        head_states.exchanged_planes, head_states.rotated_heads))
    own = score_premises.score_premises(states, (1,))
    for name in ("planes", "traces", "alignment", "misaligned", "roundness"):
        np.testing.assert_allclose(getattr(same, name), getattr(own, name), err_msg=name)
    assert (mixed.planes > own.planes + 0.1).all()


def test_isotropic_keys_lie_near_the_bound_of_the_models_queries():
    states = random_states(tokens=2000)
    own, drawn = (score_premises.score_premises(each, queries=8) for each in (
        states, head_states.isotropic_keys(states)))
    assert premise_findings.error_of(drawn) < 0.02 < 0.07 < premise_findings.error_of(own)
    np.testing.assert_array_equal(drawn.bound, own.bound)
