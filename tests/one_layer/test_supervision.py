"""What is read of runs that change the supervision: found by their settings, gains and shares as counted by hand."""

import numpy as np
import pytest

from lib.one_layer import figures_supervision, results, supervision
from lib.record import report


def made(reverse, length=10, **changed):
    """A recorded run whose reverse accuracy ends at these values, one a seed, after a larger one."""
    seeds = list(range(len(reverse)))
    curves = {"steps": [0, 50, 100], "reverse_accuracy": [[2.0, value + 10, value] for value in reverse],
              "forward_accuracy": [[2.0, 90.0, 100.0] for _ in reverse]}
    parameters = {**results.STANDARD, "encoding": "rope", "length": length, "steps": 100, "profile": "full", **changed}
    return {"parameters": parameters, "seeds": seeds, "curves": curves, "metrics": {}}


@pytest.fixture
def recorded(monkeypatch):
    runs = [made([10, 20]), made([90, 100], right_weight=0.0), made([60, 70], right_weight=0.25),
            made([80, 90], intervention="drop_right_letter_hidden"),
            made([20, 30], intervention="drop_right_letter_shown"),
            made([12, 20], intervention="drop_random_elsewhere"), made([0, 0], length=20),
            made([30, 40], facts=10), made([50, 60], facts=10, fillers=16)]
    monkeypatch.setattr(supervision, "_recorded", lambda: runs)
    return runs


def test_runs_are_found_by_what_was_changed(recorded):
    found = supervision.changed(10, *supervision.SUPERVISION_CHANGES)
    assert found[supervision.RECIPE] is recorded[0] and found[supervision.ALL_DROPPED] is recorded[1]
    assert found[supervision.HIDDEN] is recorded[3] and found[supervision.LETTERS_ONLY] is None
    assert supervision.weighed()[0.25] is recorded[2] and supervision.weighed()[0.5] is None
    assert supervision.filled()["16 kinds"] is recorded[8] and supervision.filled()["1 kind"] is recorded[7]
    assert supervision.lengths(supervision.RECIPE) == [10, 20]
    assert supervision.lengths(supervision.RECIPE, supervision.ALL_DROPPED) == [10]


def test_what_each_seed_answers_when_it_has_just_learned_the_facts():
    run = made([40, 60])
    np.testing.assert_array_equal(supervision.just_learned(run), [50, 70])  # at the second measured step
    np.testing.assert_array_equal(supervision.just_learned(run, 95), [40, 60])
    run["curves"]["forward_accuracy"][1] = [2.0, 80.0, 85.0]
    np.testing.assert_array_equal(supervision.just_learned(run), [50, np.nan])  # the second seed never learns them
    runs = {supervision.RECIPE: made([0, 10]), "whole": made([80, 90]), "part": made([40, 50]), "not run": None}
    found, (low, high) = supervision.share_when_learned(runs, "part", "whole")
    assert found == pytest.approx(0.5) and low < found < high
    assert supervision.questions_table(runs).splitlines()[-1] == "| part | 45.0 (40–50) | 55.0 (50–60) |"


def test_gains_are_shares_of_what_dropping_all_gains(recorded):
    runs = supervision.changed(10, *supervision.SUPERVISION_CHANGES)
    assert supervision.share(runs, supervision.HIDDEN) == pytest.approx(70 / 80)
    assert supervision.share(runs, supervision.SHOWN) == pytest.approx(10 / 80)
    assert supervision.upper_share(runs, supervision.ELSEWHERE) > supervision.share(runs, supervision.ELSEWHERE)
    told = supervision.shares_told(runs, supervision.HIDDEN)
    assert told["ours"][f"{supervision.HIDDEN}: gain"] == pytest.approx(70)
    low, high = told["interval"][f"{supervision.HIDDEN}: share of the gain"]
    assert low < 70 / 80 < high
    assert np.isnan(report.gained_share(np.array([5.0, 5]), np.array([5.0, 5]), np.array([9.0, 9])))


def test_what_a_step_asks_is_found_apart_from_the_longer_run_and_shared_by_its_own_gain(recorded):
    few, one, many = made([40, 50], batch=22), made([80, 90], intervention="one_question", steps=1000), made(
        [20, 20], intervention="one_question", batch=660)
    recorded += [few, one, many, made([70, 70], intervention="one_question", steps=5000)]
    runs = supervision.by_questions()
    assert list(runs.values()) == [recorded[0], one, few, many] and supervision.asked_longest() is recorded[-1]
    assert supervision.share(runs, supervision.FEW_SEQUENCES, supervision.ONE_QUESTION) == pytest.approx(30 / 70)
    told = supervision.shares_told(runs, supervision.MANY_SEQUENCES, of=supervision.ONE_QUESTION)["ours"]
    assert told[f"{supervision.MANY_SEQUENCES}: share of the gain"] == pytest.approx(5 / 70)
    end, along = figures_supervision.accuracy_by_questions().axes
    assert len(end.get_yticks()) == 4 and along.lines


def test_the_dose_is_ranked_and_the_fall_is_from_the_largest_value(recorded):
    runs = {weight: run for weight, run in supervision.weighed().items() if run is not None}
    assert supervision.rank_correlation_with_weight(runs, "reverse_accuracy") == pytest.approx(-1)
    assert supervision.rank_correlation_with_weight(runs, "forward_accuracy") == 0
    assert supervision.fall_of_accuracy(recorded[2]).tolist() == [10, 10]
    assert supervision.highest_mean(recorded[2]) == 75 and np.isnan(supervision.highest_mean(None))


def test_tables_and_figures_take_what_is_there(recorded):
    assert "not run" in supervision.accuracy_table() and "15 (10–20)" in supervision.accuracy_table()
    assert "100 steps and 2 seeds at length 10" in supervision.sizes()
    assert len(figures_supervision.accuracy_by_part().axes) == 1
    assert len(figures_supervision.dose_response().axes) == 2
    assert figures_supervision.accuracy_by_fillers().axes and figures_supervision.accuracy_by_questions().axes
