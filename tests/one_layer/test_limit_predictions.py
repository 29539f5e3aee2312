"""Recorded predictions of the limit, read: errors, baselines without the own seed, changes, and what control breaks."""

import numpy as np
import pytest

from lib.one_layer import figures_limit, results
from lib.one_layer import limit_predictions as read
from lib.one_layer.frozen_attention import NAMES


def made(answered, limit, mlp=False, encoding="rope", length=10, intervention="none"):
    """A recorded run: answered and predicted reverse accuracy at the end, one a seed; 10 more at the learned point."""
    ends = {name: [50.0] * len(answered) for name in NAMES} | {
        "answered_reverse": answered, "limit_reverse": limit, "expected_reverse": limit}
    steps, frozen = [0, 60, 100], 0 if mlp else 60
    curves = {"steps": steps} | {name: [[None, None if mlp else value + 10, value] for value in values]
                                 for name, values in ends.items()}
    for way in ("forward", "reverse"):
        curves[f"{way}_probability"] = [[0.0, 0.9, 0.4] for _ in answered]
    parameters = {**results.STANDARD, "encoding": encoding, "length": length, "steps": 100, "mlp": mlp, "norm": mlp,
                  "intervention": intervention, "attention_steps": frozen, "profile": "full"}
    return {"parameters": parameters, "seeds": list(range(len(answered))), "curves": curves, "metrics": {}}


@pytest.fixture
def recorded(monkeypatch):
    runs = [made([40.0, 60.0], [44.0, 54.0]), made([100.0, 100.0], [95.0, 100.0], intervention="drop_right_of_capital"),
            made([0.0, 2.0], [1.0, 1.0], encoding="learned"), made([10.0, 20.0], [90.0, 90.0], mlp=True)]
    monkeypatch.setattr(read, "_recorded", lambda: {read._named(run["parameters"]): run for run in runs})
    return runs


def test_cases_are_found_by_name(recorded):
    assert list(read.limit_cases(True)) == ["MLP, RoPE, L = 10"] and len(read.limit_cases(False)) == 3
    assert read.case(False) is recorded[0] and read.case(False, length=20) is None
    assert read.learned_point(recorded[0]) == 1 and read.learned_point(recorded[3]) == 2


def test_errors_are_held_against_zero_and_the_mean_of_other_seeds(recorded):
    plain = read.limit_cases(False)
    assert read.mean_error(read.errors(plain, "limit")) == pytest.approx((4 + 6 + 5 + 0 + 1 + 1) / 6)
    assert read.mean_error(read.errors(plain, "zero")) == pytest.approx(302 / 6)
    first = read.errors(plain, "mean")["no MLP, RoPE, L = 10"][0]
    assert first == pytest.approx(abs(40 - (60 + 100 + 2) / 3))  # without any model of its own seed
    assert read.errors(plain, "same case")["no MLP, RoPE, L = 10"] == pytest.approx([20, 20])
    assert np.isnan(read.errors({"alone": made([40.0], [44.0])}, "same case")["alone"]).all()
    assert read.beats_baselines(plain, "limit", most=10.0) and not read.beats_baselines(plain, "limit", other=True)
    assert not read.beats_baselines(read.limit_cases(True), "limit")
    low, high = read.error_interval(read.errors(plain, "limit"))
    assert low < 17 / 6 < high


def test_errors_are_read_where_attention_stops_as_well(recorded):
    plain = read.limit_cases(False)
    assert read.mean_error(read.errors(plain, "zero", frozen=False)) == pytest.approx(302 / 6 + 10)


def test_one_outcome_for_a_model_agrees_with_most_of_its_queries(recorded):
    found = read.constant_agreement(read.limit_cases(False))
    assert found["no MLP, RoPE, L = 10"].tolist() == [60, 60] and found["no MLP, learned, L = 10"].tolist() == [100, 98]


def test_changes_are_those_of_the_means(recorded):
    assert read.predicted_changes("answered") == {"all dropped": pytest.approx(50.0)}
    assert read.predicted_changes("limit") == {"all dropped": pytest.approx(97.5 - 49)}
    assert read.largest_miss("limit") == pytest.approx(1.5)


def test_falls_tables_and_figures_take_what_is_there(recorded):
    assert read.fall_of_probability(recorded[0]).tolist() == pytest.approx([0.5, 0.5])
    assert np.allclose(read.side_probe(recorded[3], "rest"), 50)
    assert "no MLP, attention frozen" in read.limit_error_table() and "learned" in read.case_table(False)
    assert len(figures_limit.predicted_and_answered().axes) == 3 and figures_limit.rise_and_fall().axes
    figure = figures_limit.side_by_length()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "attention weight on the evidence", "rest of the attention distribution"]
