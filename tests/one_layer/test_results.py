"""Runs are found by what they trained and read off without mixing settings."""

import json

import numpy as np
import pytest
from scipy import stats

from lib.one_layer import results as runs


def result(**parameters):
    curves = {"steps": [0, 100, 1000], "reverse_accuracy": [[0, 10, 30], [0, 20, 60]]}
    return {"parameters": {**runs.STANDARD, "steps": 1000, "profile": "full", **parameters}, "curves": curves}


def test_only_the_standard_recipe_is_found_unless_asked():
    plain, long = result(), result(steps=6000)
    wide, other, deep = result(width=128), result(intervention="x"), result(depth=2)
    everything = [plain, wide, other, long, deep, result(length=20), result(ema=0.0)]
    assert runs.matching(everything) == [long, plain]
    assert runs.matching(everything, steps=1000) == [plain]
    assert runs.matching(everything, width=128) == [wide] and runs.matching(everything, depth=2) == [deep]
    assert len(runs.matching(everything, length=None)) == 3
    with pytest.raises(ValueError, match="'size' is no parameter"):
        runs.matching(everything, size=3)


def test_a_run_without_a_newer_parameter_had_its_standard_value():
    old = result()
    del old["parameters"]["reversed_share"]
    assert runs.matching([old]) == [old] and runs.matching([old], reversed_share=0.1) == []


def test_reading_off():
    run = result()
    assert runs.final(run, "reverse_accuracy").tolist() == [30, 60]
    assert runs.at_step(run, "reverse_accuracy", 200).tolist() == [10, 20]
    assert runs.at_step(run, "reverse_accuracy", 700).tolist() == [30, 60]
    assert runs.band(run, "reverse_accuracy", 500) == (10, 60)
    assert runs.band(run, "reverse_accuracy", 0) == (0, 0)
    assert runs.band(run, "reverse_accuracy", 1000) == (10, 60)
    with pytest.raises(ValueError, match="step 2000: the run ended after 1000"):
        runs.band(run, "reverse_accuracy", 2000)


def test_inside_a_widened_band():
    assert runs.inside([9, 61], (10.0, 60.0), 1.0) and not runs.inside([8.9, 30], (10.0, 60.0), 1.0)
    assert not runs.inside([61.1], (10.0, 60.0), 1.0)


def test_cells_and_tables():
    assert runs.cell([1, 2, 6]) == "3.0 (1–6)" and runs.cell([np.nan]) == "–"
    assert runs.cell([0.25, 0.75], 2) == "0.50 (0.2–0.8)" and runs.cell([-2, 1]) == "-0.5 (-2 to 1)"
    assert runs.cell([-0.02, 0.018], 2) == "0.00 (0.0–0.0)"  # not -0.00
    assert runs.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
    with pytest.raises(ValueError, match="needs 2 cells"):
        runs.markdown(["a", "b"], [[1]])
    assert runs.spread([1.0]) is None and runs.spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_the_run_of_this_build(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    monkeypatch.setattr(runs.provenance, "load", lambda path: json.loads(path.read_text()))
    options = "--encoding rope --length 10 --steps 1000 --profile quick --seeds 0 1 --out"
    with pytest.raises(FileNotFoundError, match=options):
        runs.this_build("quick_rope.json", [0, 1], 1000, "quick", encoding="rope", length=10)
    (tmp_path / "one_layer").mkdir()
    for name, profile, steps in (("a", "quick", 1000), ("b", "full", 900), ("c", "quick", 500)):
        made = result(profile=profile, steps=steps) | {"seeds": [0, 1]}
        (tmp_path / "one_layer" / f"{name}.json").write_text(json.dumps(made))
    steps = lambda asked, profile: runs.this_build("x", [0, 1], asked, profile)["parameters"]["steps"]
    assert steps(500, "quick") == 500 and steps(1000, "quick") == 1000 and steps(6000, "full") == 900
    with pytest.raises(FileNotFoundError):
        steps(600, "quick")
    with pytest.raises(FileNotFoundError):
        runs.this_build("x", [0, 2], 1000, "quick")


def test_nothing_recorded_is_no_error(tmp_path):
    assert runs.recorded("one_layer", tmp_path) == []


# Effect sizes ------------------------------------------------------------------------------------------------


def test_effects_of_seeds_that_are_apart_and_of_the_same_seeds():
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]
    found = runs.effect(low, high)
    assert found.difference == 10 and found.superiority == 1 and found.p == pytest.approx(2 / 252)
    assert found.standardised == pytest.approx(10 / 2.5**0.5 * (1 - 3 / 31))
    assert runs.effect(high, low)[:3] == (-10, -found.standardised, 0)
    same = runs.effect(low, low)
    assert same.difference == 0 and same.standardised == 0 and same.superiority == 0.5 and same.p == 1
    assert runs.effect([0.0, 0.0], [1.0, 1.0]).standardised == np.inf
    with pytest.raises(ValueError, match="two seeds a side, not 1 and 5"):
        runs.effect([1.0], low)


def test_the_permutation_level_is_the_share_of_splits_that_differ_as_much():
    low, high = [0.0, 0.0, 3.0], [1.0, 4.0, 4.0, 9.0]
    found, everything = runs.effect(low, high), np.array(low + high)
    extreme = 0
    for code in range(2**7):
        mine = np.array([code >> place & 1 for place in range(7)], dtype=bool)
        if mine.sum() == 4:
            extreme += abs(everything[mine].mean() - everything[~mine].mean()) >= found.difference - 1e-12
    assert found.p == extreme / 35 and 1 / 35 < found.p < 1
    assert runs.effect([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]).p == 1.0  # rounding does not split ties


def test_the_level_for_ten_seeds_a_side_agrees_with_scipy():
    draw = np.random.default_rng(0)
    low, high = draw.normal(size=(2, 10))
    split = stats.permutation_test((high + 0.5, low), lambda a, b, axis: a.mean(axis) - b.mean(axis), vectorized=True,
                                   n_resamples=20_000, random_state=1)
    assert runs.effect(low, high + 0.5).p == pytest.approx(split.pvalue, abs=0.02)


def test_of_runs_that_differ_in_steps_alone_the_longest_stays():
    short, long, other = result(steps=10), result(steps=600), result(steps=10, length=20)
    assert runs.longest([long, other, short]) == [long, other] or runs.longest([long, other, short]) == [other, long]


def test_a_step_is_nearest_in_ratio_and_shares_are_of_those_that_err():
    run = {"curves": {"steps": [0, 100, 1000], "a": [[0, 10, 30]], "placeholder_share": [[1, 2, None], [1, 2, 40]]}}
    assert runs.at_step(run, "a", 400).tolist() == [30]  # 4 times 100, and a 2.5th of 1,000
    assert runs.wrong_as_placeholder(run).tolist() == [40]
