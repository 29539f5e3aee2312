"""The premise of Theorem 4.3 in given keys: known covariances are read off, the ladder ends at the correlation."""

import dataclasses

import numpy as np
import pytest

from lib.encodings import rope_frequencies
from lib.theory import premises, routing

RNG = np.random.default_rng(0)

DISTANCES = (1, 2, 5, 9)


def any_covariance(*shape: int) -> np.ndarray:
    factor = RNG.normal(size=(*shape, shape[-1] + 3))
    return factor @ np.swapaxes(factor, -1, -2)


def test_spread_is_numpys_covariance():
    keys = RNG.normal(size=(3, 11, 6)) + 5
    for one, found in zip(keys, premises.item_covariance(keys), strict=True):
        assert found == pytest.approx(np.cov(one.T))


def test_one_item_has_no_spread():
    with pytest.raises(ValueError, match="keys must hold at least 2 items, not 1"):
        premises.item_covariance(RNG.normal(size=(1, 4)))
    assert premises.item_covariance(RNG.normal(size=(2, 4))).shape == (4, 4)


def test_blocks_are_the_planes_in_order():
    covariance = any_covariance(2, 6)
    found = premises.plane_blocks(covariance)
    assert found.shape == (2, 3, 2, 2)
    for i in range(3):
        assert (found[:, i] == covariance[:, 2 * i : 2 * i + 2, 2 * i : 2 * i + 2]).all()


def test_planes_read_off_what_was_put_in():
    query, trace, kappa = RNG.normal(size=(4, 6)), np.array([1.0, 4.0, 0.3]), np.array([0.7, 0.0, -0.4])
    seen = premises.plane_statistics(query, routing.key_covariance(query, kappa, trace))
    assert seen.trace == pytest.approx(np.tile(trace, (4, 1)))
    assert seen.alignment == pytest.approx(np.tile(kappa, (4, 1)))
    assert seen.tilt == pytest.approx(np.zeros((4, 3)), abs=1e-12)
    assert seen.share == pytest.approx(routing.plane_weights(query))
    tilted = premises.plane_statistics(query, routing.tilted_covariance(query, 0.6))
    assert tilted.tilt == pytest.approx(np.full((4, 3), 0.6))
    assert tilted.alignment == pytest.approx(np.zeros((4, 3)), abs=1e-12)


def test_planes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        premises.plane_statistics(np.ones(2), np.eye(2)).share = None


@pytest.mark.parametrize(("query", "covariance"), [
    (np.array([0.0, 0.0, 1.0, 1.0]), np.eye(4)), (np.ones(4), np.diag([1.0, 1.0, 0.0, 0.0]))])
def test_an_empty_plane_is_refused(query, covariance):
    with pytest.raises(ValueError, match="must not vanish in any plane"):
        premises.plane_statistics(query, covariance)


def rungs_from_matrices(query, covariance, distance):
    """The same five rungs, each from a matrix that was changed instead of a formula."""
    size = len(query)
    cut = covariance * np.kron(np.eye(size // 2), np.ones((2, 2)))
    frame = np.zeros((size, size))
    for i in range(0, size, 2):
        along = query[i : i + 2] / np.linalg.norm(query[i : i + 2])
        frame[i : i + 2, i], frame[i : i + 2, i + 1] = along, [-along[1], along[0]]
    turned = frame.T @ cut @ frame
    traces = np.repeat(np.diag(turned).reshape(-1, 2).sum(1) / 2, 2)
    matrices = [np.eye(size), np.diag(traces), frame @ np.diag(np.diag(turned)) @ frame.T, cut, covariance]
    return [float(routing.rope_score_correlation(query, matrix, distance, distance)) for matrix in matrices]


def test_every_rung_is_the_correlation_of_a_changed_matrix():
    queries, covariances = RNG.normal(size=(5, 8)), any_covariance(5, 8)
    found = premises.ladder(queries, covariances, DISTANCES)
    assert found.shape == (5, len(premises.RUNGS), len(DISTANCES))
    for query, covariance, rungs in zip(queries, covariances, found, strict=True):
        for place, distance in enumerate(DISTANCES):
            assert rungs[:, place] == pytest.approx(rungs_from_matrices(query, covariance, distance), abs=1e-12)


def test_another_base_reaches_every_rung():
    query, covariance = RNG.normal(size=8), any_covariance(8)
    one, other = (premises.ladder(query, covariance, [3], base) for base in (10_000.0, 50.0))
    assert (np.abs(one - other) > 1e-6).all()


def test_under_the_premise_the_ladder_only_rises():
    queries = RNG.normal(size=(50, 16))
    covariance = routing.key_covariance(queries, RNG.uniform(size=(50, 8)))
    found = premises.ladder(queries, covariance, DISTANCES)
    assert found[:, 1] == pytest.approx(found[:, 0]) and found[:, 3:] == pytest.approx(found[:, [2, 2]])
    assert (found[:, 2] >= found[:, 1] - 1e-12).all()


def test_variance_ratio_is_one_for_independent_planes_only():
    queries = RNG.normal(size=(6, 4))
    alone = routing.key_covariance(queries, 0.3, np.array([1.0, 7.0]))
    for offset in (-3, 0, 2):
        assert premises.variance_ratio(queries, alone, offset) == pytest.approx(np.ones(6))
    # k_1 = -Q k_0 cancels where the planes turn alike: at offset 0 the blocks' lengths subtract
    lengths = np.hypot(queries[:, 0::2], queries[:, 1::2])
    left = (lengths[:, 0] - lengths[:, 1]) ** 2 / (lengths**2).sum(1)
    assert premises.variance_ratio(queries, routing.coupled_covariance(queries), 0) == pytest.approx(left)


def test_variance_ratio_tells_forward_from_reverse():
    query, covariance = RNG.normal(size=6), any_covariance(6)
    f = routing.rotate(query, -2.0 * rope_frequencies(6))        # q^T R(2) k = (R(2)^T q)^T k
    alone = sum(f[i : i + 2] @ covariance[i : i + 2, i : i + 2] @ f[i : i + 2] for i in (0, 2, 4))
    assert premises.variance_ratio(query, covariance, 2) == pytest.approx(f @ covariance @ f / alone)
    assert premises.variance_ratio(query, covariance, -2) != pytest.approx(f @ covariance @ f / alone, rel=1e-3)


def test_departures_vanish_for_many_random_keys():
    query = RNG.normal(size=8)
    found = premises.departures(query, RNG.normal(size=(200_000, 8)), DISTANCES)
    assert found["traces"] < 0.01 and abs(found["alignment"]) < 0.01 and found["roundness"] > 0.98
    assert found["forward"] == pytest.approx(1, abs=0.02) and found["reverse"] == pytest.approx(1, abs=0.02)


def test_departures_name_the_part_that_fails():
    query, random = RNG.normal(size=8), RNG.normal(size=(200_000, 8))
    large = premises.departures(query, random * np.array([3, 3, 1, 1, 1, 1, 1, 1.0]), DISTANCES)
    assert large["traces"] == pytest.approx(np.std([9, 1, 1, 1]) / 3, abs=0.02) and large["roundness"] > 0.98
    across = premises.departures(query, premises.premise_keys(query, 200_000, 1, RNG, -0.5)[0], DISTANCES)
    assert across["alignment"] == pytest.approx(-0.5, abs=0.01)
    assert across["roundness"] == pytest.approx(1 / 3, abs=0.02) and across["traces"] < 0.01
    # cut the forward scores out of the keys: only their variance tells
    forward = routing.rotate(query, -rope_frequencies(8))
    cut = random - np.outer(random @ forward, forward) / (forward @ forward)
    found = premises.departures(query, cut, [1])
    assert found["forward"] < 1e-9 and found["reverse"] > 0.05


def test_alignment_counts_where_the_score_is():
    query = np.array([3.0, 0.0, 1.0, 0.0])
    keys = RNG.normal(size=(200_000, 4)) * np.sqrt([2.0, 0.0, 2.0, 6.0])       # kappa 1, -1/2; traces 2, 8
    expected = (9 * 2 * 1 + 1 * 8 * -0.5) / (9 * 2 + 1 * 8)
    assert premises.departures(query, keys, [1])["alignment"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kappa", [-1.0, -0.3, 0.0, 1.0])
def test_premise_keys_have_the_covariance_of_the_assumption(kappa):
    query = RNG.normal(size=6)
    keys = premises.premise_keys(query, 5, 40_000, np.random.default_rng(3), kappa)
    assert keys.shape == (40_000, 5, 6)
    assert np.cov(keys[:, 0].T) == pytest.approx(routing.key_covariance(query, kappa), abs=0.06)


@pytest.mark.parametrize("kappa", [-1.1, 1.1])
def test_premise_keys_refuse_what_is_no_covariance(kappa):
    with pytest.raises(ValueError, match=r"kappa must lie in \[-1, 1\]"):
        premises.premise_keys(np.ones(2), 2, 1, RNG, kappa)


def test_untrained_keys_are_isotropic_over_draws_and_not_within_one():
    keys = premises.untrained_keys(4, 3, 40_000, np.random.default_rng(5))
    assert keys.shape == (40_000, 3, 4)
    assert np.cov(keys[:, 1].T) == pytest.approx(np.eye(4), abs=0.05)
    spread_one = premises.item_covariance(premises.untrained_keys(8, 50_000, 1, np.random.default_rng(6))[0])
    values = np.linalg.eigvalsh(spread_one)
    assert values[-1] > 5 * values[0]                      # the same matrix for all items of a set
    assert spread_one.trace() / 8 == pytest.approx(1, abs=0.5)


def test_item_correlations_are_the_ladders_last_rung():
    query, keys = RNG.normal(size=(3, 8)), RNG.normal(size=(3, 26, 8)) + 2
    assert premises.item_correlations(query[0], keys, DISTANCES) == pytest.approx(
        premises.ladder(np.broadcast_to(query[0], (3, 8)), premises.item_covariance(keys), DISTANCES)[:, -1])
    scores = [[keys[0] @ routing.rotate(query[0], sign * x * rope_frequencies(8, 99.0)) for sign in (-1.0, 1.0)]
              for x in DISTANCES]
    assert premises.item_correlations(query[0], keys[0], DISTANCES, 99.0) == pytest.approx(
        [np.corrcoef(*pair)[0, 1] for pair in scores])


def test_shortfall_is_the_worst_distance_on_fishers_scale():
    query = RNG.normal(size=8)
    bound = premises.ladder(query, np.eye(8), DISTANCES)[0]
    assert premises.shortfall(query, bound, DISTANCES) == pytest.approx(0, abs=1e-12)
    lower = np.tanh(np.arctanh(bound) - np.array([0.1, -0.5, 0.4, 0.2]))
    assert premises.shortfall(query, np.stack([lower, bound]), DISTANCES) == pytest.approx([0.4, 0.0])
    assert premises.shortfall(query, bound, DISTANCES, 50.0) != pytest.approx(0, abs=1e-3)


def test_independent_planes_keep_their_blocks_alone():
    covariance = any_covariance(2, 6)
    cut = premises.independent_planes(covariance)
    assert (premises.plane_blocks(cut) == premises.plane_blocks(covariance)).all()
    assert np.count_nonzero(cut[0]) == 3 * 4


def test_parts_of_the_gap_add_up():
    queries, covariances = RNG.normal(size=(5, 8)), any_covariance(5, 8)
    rungs = premises.ladder(queries, covariances, DISTANCES)
    assert premises.gap_parts(rungs).sum(1) == pytest.approx((rungs[:, -1] - rungs[:, 0]).mean(1))


def test_between_planes_of_equal_weight_dependence_takes_most():
    angles = RNG.uniform(0, 2 * np.pi, (5, 2))
    queries = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(5, 4)
    coupled = routing.coupled_covariance(queries)
    assert premises.dependence_lowers_most(queries, coupled, [1, 2])
    assert not premises.dependence_lowers_most(queries, coupled, [1, 2], by=2.1)
    assert not premises.dependence_lowers_most(queries, premises.independent_planes(coupled), [1, 2])


def test_ranks_count_the_random_sets_that_fall_as_far():
    query, random = RNG.normal(size=8), RNG.normal(size=(50, 12, 8))
    falls = premises.shortfall(query, premises.item_correlations(query, random, DISTANCES), DISTANCES)
    found = premises.ranks(np.stack([query, query]), random[[falls.argmax(), falls.argmin()]], random, DISTANCES)
    assert found == pytest.approx([1 / 50, 1.0])


def test_uniform_ranks_are_told_from_others():
    even = (np.arange(40) + 0.5) / 40
    assert premises.could_be_uniform(even) and not premises.could_be_uniform(even**3)
    distance = max(np.abs(np.arange(1, 41) / 40 - even**1.3).max(), np.abs(np.arange(40) / 40 - even**1.3).max())
    assert premises.could_be_uniform(even**1.3) == (distance < 1.63 / 40**0.5)
