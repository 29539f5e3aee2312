"""Tables of recorded interventions say what the runs hold, and where there is none."""

import pytest

from lib.one_layer import intervention_tables as tables
from lib.one_layer.results import STANDARD

METRICS = {"forward_accuracy": [99, 100], "reverse_accuracy": [10, 30], "reverse_accuracy_lowercase": [98, 98],
           "score_correlation": [0.5, 0.7]}


def result(metrics=None, steps=1000, **curves):
    return {"parameters": {**STANDARD, "steps": steps}, "seeds": [0, 1], "metrics": metrics or METRICS,
            "curves": {"steps": [0, 100, 1000], "reverse_accuracy": [[0, 5, 10], [0, 15, 30]], **curves}}


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_summary_is_as_wide_for_a_run_for_one_without_attention_and_for_none():
    whole = tables.summary_row(result(METRICS | {"forward_attention": [0.5, 0.6], "reverse_attention": [0.2, 0.2]}))
    assert whole == ["1000", "99.5 (99–100)", "20.0 (10–30)", "98.0 (98–98)", "0.55 / 0.20", "0.60 (0.5–0.7)"]
    deep = tables.summary_row(result())
    assert deep == [*whole[:4], "–", whole[5]]
    assert tables.summary_row(None) == ["not run", *[""] * 5]
    assert rows(tables.cases({"a": result(), "b": None})) == [["a", *deep], ["b", "not run", *[""] * 5]]


def test_what_is_patched_has_the_glossarys_name():
    labels = [*tables.SITE_NAMES.values(), *tables.MORE.values(), *(change.label for change in tables.PATCHED)]
    assert not [label for label in labels if "row" in label.split()]
    assert sum("attention distribution" in label for label in labels) == 3


def test_only_runs_with_other_errors_are_listed():
    erring = lambda share: result(placeholder_share=[[0, 0, share]] * 2)
    assert rows(tables.errors_elsewhere([erring(99), erring(90)])) == [["rope at 10", "1,000", "90"]]
    assert tables.errors_elsewhere([erring(99)]) == ""


def test_changes_of_training_are_read_near_a_step_and_patches_at_the_end():
    patches = {f"graft_{change.name}_accuracy": [50, 60] for change in tables.PATCHED}
    runs = {"none": result(METRICS | patches), "drop_random": result()}
    found = {change.name: values for change, values in
             tables.changed_accuracies(lambda intervention: runs.get(intervention), 100).items()}
    assert list(found["none"]) == list(found["drop_random"]) == [5, 15]
    assert found["drop_right_of_capital"] == [] and list(found["score_forward"]) == [50, 60]


def test_runs_side_by_side_at_the_last_step_of_both():
    (row,) = rows(tables.against({"RoPE": result(), "deep": result(steps=100), "none": None}, "RoPE"))
    assert row == ["deep", "100", "10 (5–15)", "10 (5–15)", "+0 (-10 to 10)", "0.0", "1"]
    triple = (result(), result(), result())
    (row,) = rows(tables.blocking_effects({"rope, drop_random, L = 20": triple, "not recorded": None}))
    assert row == ["RoPE, as many at random, L = 20", "2", "+0 (-20 to 20)", "0.0", "1", "+0 (-20 to 20)"]
    assert tables.recorded_cell(None) == "not run" and tables.recorded_cell(result()) == "20 (10–30)"


def test_seeds_with_another_sign_are_those_whose_pairs_disagree():
    run = result({"broken_agreement": [99, 40], "broken_accuracy": [1, 61], "reverse_accuracy": [1, 2],
                  "graft_mass_reverse_accuracy": [3, 92]})
    assert rows(tables.other_signs([run])) == [["10", "1", "61", "2", "92"]]


def test_a_run_is_read_when_forward_is_just_learned_and_at_its_end():
    run = result(forward_accuracy=[[0, 96, 100]] * 2)
    assert rows(tables.stopping({10: run})) == [["10", "10.0 (5–15)", "20.0 (10–30)"]]
    with pytest.raises(ValueError, match="never above 95"):
        tables.stopping({10: result(forward_accuracy=[[0, 0, 0]] * 2)})
