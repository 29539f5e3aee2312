"""Broken hypotheses at numbers: errors and signals against their definitions, covariances against Assumption 4.2."""

import numpy as np
import pytest
import sympy as sp

from lib.encodings import rope_frequencies
from lib.theory import assumptions, flows, routing

RNG = np.random.default_rng(0)


def test_mean_correlation_and_its_error():
    queries = RNG.normal(size=(50, 4))
    covariance = routing.key_covariance(queries, 0.0)
    cosines = routing.plane_weights(queries) @ np.cos(2 * 1.5 * rope_frequencies(4))  # isotropic keys
    mean, error = assumptions.mean_correlation(queries, covariance, 1.5)
    assert (mean, error) == pytest.approx((cosines.mean(), cosines.std() / 50**0.5))


@pytest.mark.parametrize(("same_target", "second"), [(True, 0), (False, 1)])
def test_error_inner_product_by_vectors(same_target, second):
    for confidence in (0.05, 0.4, 0.9):
        first, other = np.full((2, 7), (1 - confidence) / 6)
        first[0] = confidence - 1
        other[second] = confidence - 1
        found = assumptions.error_inner_product(np.array([confidence]), 7, same_target=same_target)
        assert found == pytest.approx([first @ other])


def test_signal_alignment_is_the_error_cosine_without_stretch():
    assert assumptions.signal_alignment(1.0, 0.0) == pytest.approx(0.5)
    assert assumptions.signal_alignment(3.0, 0.0) == pytest.approx(0.0)
    assert assumptions.signal_alignment(9.0, 0.5) == pytest.approx(1.0)  # equal errors have no part along it


def test_only_queries_below_zero_are_tilted():
    queries, distance = RNG.normal(size=(40, 4)), 1.2
    tilted = assumptions.tilted_where_negative(queries, 0.5, distance)
    negative = routing.plane_weights(queries) @ np.cos(2 * distance * rope_frequencies(4)) < 0
    changed = np.abs(tilted - np.eye(4)).max((1, 2)) > 1e-9
    assert (changed == negative).all() and 0 < negative.sum() < 40


def test_fast_plane_has_the_larger_trace():
    covariance = assumptions.fast_plane_covariance(RNG.normal(size=(3, 6)), 10.0, -0.5)
    traces = [np.trace(covariance[1, 2 * i : 2 * i + 2, 2 * i : 2 * i + 2]) for i in range(3)]
    assert traces == pytest.approx([10, 1, 1])


def test_with_unequal_traces_a_query_reaches_the_mean_with_its_own_weights_alone():
    queries = np.random.default_rng(2).normal(size=(50, 8))
    assert assumptions.every_query_reaches_its_mean(queries, 30.0, 2.0)
    assert not assumptions.every_query_reaches_its_mean(queries, 30.0, 2.0, own_weights=False)
    assert assumptions.every_query_reaches_its_mean(queries, 1.0, 2.0, own_weights=False)


@pytest.mark.parametrize("distance", [1.2, 2.0, 40.0])
def test_planes_are_tilted_against_the_sine_of_their_turn(distance):
    queries = RNG.normal(size=(60, 4))
    negative = routing.plane_weights(queries) @ np.cos(2 * distance * rope_frequencies(4)) < 0
    expected = routing.tilted_covariance(queries, 0.5 * np.sign(np.sin(2 * distance * rope_frequencies(4))))
    tilted = assumptions.tilted_where_negative(queries, 0.5, distance)
    assert negative.any() and tilted[negative] == pytest.approx(expected[negative])


def test_alibi_scores_differ_by_a_constant_and_vary(monkeypatch):
    seen = []
    monkeypatch.setattr(assumptions.symbolic, "pearson_correlation", lambda *given: seen.append(given) or sp.Integer(1))
    assert assumptions.correlated_but_unreachable(sp.Symbol("mu", positive=True))
    (first, second, law, content), = seen
    assert sp.diff(first, content) == sp.diff(second, content) == 1 and first != second
    assert sp.expand(law[2,] - law[1,] ** 2).is_positive


@pytest.mark.parametrize(("last", "learned"), [(10.5, True), (9.5, False)])
def test_with_all_attention_on_the_evidence_its_margin_is_the_reverse_margin(monkeypatch, last, learned):
    open_route = flows.MaskFlow(np.arange(9.0), np.linspace(0, last, 9), np.linspace(0, 90, 9), np.full(9, 60.0))
    monkeypatch.setattr(flows, "mask_flow", lambda *_: open_route)
    assert assumptions.reverse_answer_is_learned(0.4, 10, mask_column=True) == learned
