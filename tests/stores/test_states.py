"""Distances and probes on states whose answer is known."""

import numpy as np
import pytest
from stores.toy_stores import TWO, Tables, questions

from lib.stores import states

RNG = np.random.default_rng(0)
FACT = RNG.standard_normal((20, 64))
OTHER = RNG.standard_normal((20, 64))
OFFSET = 3 * RNG.standard_normal(64)


def test_the_distance_ratio_is_own_over_apart():
    first, second = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 1], [0, 1]])
    # own distances 1 - cos 45 and 0; apart 1 in the first set, 1 - cos 45 in the second
    away = 1 - np.sqrt(0.5)
    assert states.distance_ratio(first, second) == pytest.approx((away / 2) / ((1 + away) / 2))


def test_one_entry_and_two_entries_are_told_apart():
    one, two = (FACT, FACT + 0.1 * OTHER), (FACT, OTHER)
    assert states.distance_ratio(*one) < 0.1 < 0.8 < states.distance_ratio(*two)
    assert states.fact_probe(*one) == 100 and states.fact_probe(*two) < 30


def test_a_common_direction_is_found_and_exchanging_states_hides_it():
    shifted = FACT, FACT + OFFSET
    assert states.direction_probe(*shifted) == 100
    assert states.direction_probe_flipped(*shifted) == 0  # the others' mean points the other way
    assert 20 <= states.direction_probe(FACT, OTHER) <= 80


def test_a_shift_of_all_states_is_no_obstacle_to_the_fact_probe():
    assert states.fact_probe(FACT, FACT + OFFSET) == 100
    assert states.fact_probe(FACT, np.roll(FACT, 1, axis=0)) == 0
    assert states.fact_probe(FACT, FACT * 5) == 100


def test_a_tie_between_facts_is_not_read():
    alike = np.array([[1.0, 0], [1, 0], [-2, 0]])
    assert states.fact_probe(alike, alike) == pytest.approx(100 / 3)


def test_the_fact_probe_reads_the_second_states_by_the_first():
    first, second = FACT[:, :5], FACT[:, :5] + OTHER[:, :5]
    centred = [each - each.mean(0) for each in (first, second)]
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    read = lambda states, by: 100 * np.mean([np.argmax([cosine(other, state) for other in by]) == place
                                             for place, state in enumerate(states)])
    assert states.fact_probe(first, second) == read(centred[1], centred[0]) != read(*centred)


def test_states_of_every_layer_are_measured_and_the_last_is_the_metric():
    metrics, layers = states.state_metrics(Tables(), questions(TWO))
    assert len(layers["ends_fact_probe"]) == 2 and metrics["left_fact_probe"] == 100
    assert metrics["left_distance_ratio"] == layers["left_distance_ratio"][1] < 1e-9 < layers["left_distance_ratio"][0]
    assert set(metrics) == {f"{pair}_{name}" for pair in states.PAIRS for name in states.STATE_MEASURES}


def test_a_pair_with_a_question_that_has_no_place_is_left_out():
    facts = [fact._replace(forward=fact.forward._replace(state=None)) for fact in questions()]
    metrics, layers = states.state_metrics(Tables(), facts)
    assert set(metrics) == set(layers) == {f"ends_{name}" for name in states.STATE_MEASURES}
