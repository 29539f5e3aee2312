"""Checks of recorded edits: each is true of runs made to satisfy it, and false once what it says is not so."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.record.provenance import Result
from lib.stores import edit_figures, edit_results
from lib.stores.edit_results import RecordedEdits
from lib.stores.states import PAIRS, STATE_MEASURES
from lib.stores.subjects import SUBJECTS, OneLayerSubject
from lib.stores.transfer import EDITS
from pipeline import experiments

#: what is expected of one store; of two, the left entity's edits do as the right-hand one's
SHARED = {**{f"{edit}_{key}": value for edit in ("forward", "reverse", "erase_forward")
             for key, value in (("transfer", 0.9), ("follows", 95.0), ("kept", 97.0))},
          **{f"{edit}_{key}": value for edit in ("right", "other", "erase_right")
             for key, value in (("transfer", 0.1), ("follows", 5.0), ("kept", 96.0))},
          "left_distance_ratio": 0.2, "ends_distance_ratio": 1.3, "left_fact_probe": 98.0, "ends_fact_probe": 5.0,
          "left_direction_probe": 90.0, "ends_direction_probe": 60.0, "left_direction_probe_flipped": 30.0,
          "ends_direction_probe_flipped": 30.0}
APART = {**SHARED, "forward_transfer": 0.1, "reverse_transfer": 0.2, "forward_follows": 0.0, "reverse_follows": 4.0}
SPLIT = {**SHARED, "forward_transfer": 0.7, "reverse_transfer": 0.5}


def made(condition, seed, values):
    curves = {f"{edit}_{key}": [value, 2 * value] for edit in EDITS
              for key, value in (("edited", 5.0), ("asked", 4.0))}
    return Result({"experiment": "one_store", "parameters": {"condition": condition}, "seeds": [seed],
                   "metrics": {name: [value + seed / 1000] for name, value in values.items()}, "curves": curves},
                  Path("run.json"))


def runs_of(**conditions):
    runs = RecordedEdits.__new__(RecordedEdits)
    runs.results = [made(condition, seed, values) for condition, values in conditions.items() for seed in range(5)]
    return runs


def test_the_runs_of_a_condition_are_found_by_seed():
    runs = runs_of(attention=SHARED)
    assert list(runs.find("attention")) == [0, 1, 2, 3, 4] and runs.find("mlp") == {}
    np.testing.assert_allclose(runs.metric("forward_transfer", "attention"), 0.9 + np.arange(5) / 1000)
    runs.results = runs.results[:1]
    assert runs.find("attention") == {}  # one seed says nothing
    with pytest.raises(ValueError, match="condition 'bert'"):
        runs.find("bert")


def test_every_planned_run_is_of_a_condition_and_a_seed():
    planned = [run["fixed"] for run in experiments.experiments("one_store", "full").values()]
    assert len(planned) == edit_results.edits_planned()
    one_layer = lambda name: isinstance(SUBJECTS[name], OneLayerSubject)  # whose first seeds earlier designs have used
    assert {(run["condition"], run["seed"]) for run in planned} == {
        (name, seed + 20 * one_layer(name)) for name in SUBJECTS for seed in range(edit_results.EDIT_SEEDS)}
    drawn = [edit_results.ONE_LAYER_CONDITIONS, edit_results.PART_CONDITIONS, edit_results.LANGUAGE_CONDITIONS]
    assert sum(map(len, drawn)) == len(SUBJECTS) and set().union(*drawn) == set(SUBJECTS)
    assert all(map(one_layer, drawn[0])) and not any(map(one_layer, drawn[2]))
    assert set(edit_results.CONDITION_NAMES) == set(SUBJECTS)
    assert all("SmolLM2" in edit_results.CONDITION_NAMES[run["condition"]] for run in planned if "facts" in run)


@pytest.mark.parametrize("name, value", [("forward_transfer", 0.4), ("forward_follows", 40.0)])
def test_following_needs_ratio_and_answers(name, value):
    assert edit_results.follows(runs_of(llada=SHARED), "llada")
    assert not edit_results.follows(runs_of(llada={**SHARED, name: value}), "llada")
    assert not edit_results.follows(runs_of(llada=SHARED), "llada", "right")
    assert not edit_results.follows(runs_of(llada=SHARED), "llada", percent=96)


@pytest.mark.parametrize("name, value", [
    ("forward_transfer", 0.6), ("reverse_transfer", 0.6), ("forward_follows", 20.0), ("reverse_follows", 20.0)])
def test_staying_apart_needs_both_in_both_directions(name, value):
    assert edit_results.stays_apart(runs_of(causal_both=APART), "causal_both")
    assert not edit_results.stays_apart(runs_of(causal_both={**APART, name: value}), "causal_both")


@pytest.mark.parametrize("values, found", [
    (SHARED, "one"), (APART, "two"), ({**SHARED, "reverse_follows": 40.0}, "in part"),
    ({**SHARED, "forward_transfer": 0.4}, "in part"), ({**APART, "reverse_follows": 20.0}, "in part")])
def test_a_condition_has_one_store_two_or_neither(values, found):
    assert edit_results.stores_found(runs_of(llada=values), "llada") == found
    assert edit_results.stores_found(runs_of(llada=values), "mlp") == "not run here"


@pytest.mark.parametrize("base, name", [(SHARED, "reverse_follows"), (APART, "forward_follows"),
                                        (SHARED, "forward_transfer"), (APART, "reverse_transfer")])
def test_a_bound_inside_an_interval_is_decided_in_part(base, name):
    runs = runs_of(llada=base)
    bound = 0.5 if "transfer" in name else 50 if base is SHARED else 10
    for result, share in zip(runs.results, (0.6, 0.8, 1, 1.2, 1.4), strict=True):
        result["metrics"][name] = [bound * share]
    assert edit_results.stores_found(runs, "llada") == "in part"


def test_one_condition_transfers_less_than_another_by_a_tenth():
    runs = runs_of(mlp=SHARED, learned=SPLIT)
    assert edit_results.transfers_less(runs, "learned", "mlp")
    assert not edit_results.transfers_less(runs, "mlp", "learned")
    near = runs_of(mlp=SHARED, learned={**SHARED, "forward_transfer": 0.8})
    assert not edit_results.transfers_less(near, "learned", "mlp")
    wide = runs_of(mlp=SHARED, learned=SPLIT)  # one seed in five makes the whole difference
    for result, ratio in zip(wide.results[5:], (-1.0, 0.9, 0.9, 0.9, 1.1), strict=True):
        result["metrics"] |= {"forward_transfer": [ratio], "reverse_transfer": [ratio]}
    assert not edit_results.transfers_less(wide, "learned", "mlp")
    told = edit_results.transfer_difference(runs, "mlp", "learned")
    assert told["ours"]()["ratio"] == pytest.approx(0.3) and len(told["needs"]) == 10


def test_erasing_is_compared_in_every_model():
    runs = runs_of(attention=SHARED, llada=SHARED)
    both = ["attention", "llada"]
    assert edit_results.erases_more(runs, both)
    assert not edit_results.erases_more(runs, both, "erase_right", "erase_forward")
    assert not edit_results.erases_more(runs_of(attention=SHARED, llada={**SHARED, "erase_right_follows": 70.0}), both)


def test_distances_are_judged_seed_by_seed():
    runs = runs_of(attention=SHARED)
    assert edit_results.one_entry_by_distance(runs, "attention")
    assert not edit_results.one_entry_by_distance(runs, "attention", "ends")
    assert edit_results.two_entries_by_distance(runs, "attention")
    assert not edit_results.two_entries_by_distance(runs, "attention", "left")
    runs.results[4]["metrics"] |= {"left_distance_ratio": [0.95], "ends_distance_ratio": [0.85]}
    assert not edit_results.one_entry_by_distance(runs, "attention")
    assert not edit_results.two_entries_by_distance(runs, "attention")


def test_probes_are_judged_by_their_means():
    runs = runs_of(attention=SHARED)
    assert edit_results.fact_probe_reads(runs, "attention")
    assert not edit_results.fact_probe_reads(runs, "attention", "ends")
    assert edit_results.direction_is_readable(runs, "attention")
    assert not edit_results.direction_is_readable(runs, "attention", control="_flipped")


def test_pairs_differ_in_every_model():
    both = ["llada", "dream"]
    assert edit_results.distances_differ(runs_of(llada=SHARED, dream=SHARED), both)
    assert not edit_results.distances_differ(runs_of(llada=SHARED, dream=SHARED), both, "left", "ends")
    near = {**SHARED, "left_distance_ratio": 1.1}
    assert not edit_results.distances_differ(runs_of(llada=SHARED, dream=near), both)


def test_what_the_ledger_is_told_are_means_with_intervals_and_files():
    told = runs_of(attention=SHARED).transfers("attention", ["forward", "right"])
    assert told["ours"]()["forward, ratio"] == pytest.approx(0.902) and told["ours"]()["right, follows, %"] < 6
    low, high = told["interval"]()["forward, ratio"]
    assert 0.9 <= low < 0.902 < high <= 0.904 and all(told["needs"].values())
    assert runs_of().transfers("attention", ["forward"])["needs"] == {"attention, two seeds": None}
    controlled = runs_of(attention=SHARED).transfers("attention", ["forward"], "causal_both")["needs"]
    assert len(controlled) == 6 and controlled["causal_both, two seeds"] is None


def test_figures_and_tables_hold_what_is_recorded_and_say_what_is_not():
    causal = {name: value for name, value in APART.items() if not name.startswith("left_")}
    runs = runs_of(attention=SHARED, causal_both=causal)
    names = list(SUBJECTS)
    dots = lambda figure: sum(len(line.get_xdata()) for panel in figure.axes for line in panel.lines
                              if line.get_linestyle() == "None")
    drawn = edit_figures.transfer_by_condition(runs, names)
    assert dots(drawn) == 2 * 4 * 2 * 5
    assert [text.get_text() for text in drawn.axes[0].texts] == ["not run here"] * (len(names) - 2)
    assert drawn.axes[0].get_ylim() == (len(names) - 0.5, -0.5)
    changes = edit_figures.edits_of_facts(runs, ["attention", "mlp"])
    assert dots(changes) == 2 * 5 * 2
    assert changes.axes[0].lines[0].get_xydata().tolist() == [[5.0, 4.0], [10.0, 8.0]] * 5  # edited, asked
    assert dots(edit_figures.measures_by_condition(runs, names)) == 5 * 3 * (2 + 1)
    table = edit_figures.edit_table(runs)
    edited, asked = runs.points("forward", "attention")
    assert edited.tolist() == [5.0, 10.0] * 5 and asked.tolist() == [4.0, 8.0] * 5
    assert "0.90 (95, 97)" in table and table.count("not run here") == (len(names) - 2) * len(EDITS)
    assert [edit_figures.told_measure(runs, "left_distance_ratio", name) for name in ("attention", "causal_both", "mlp")
            ] == ["0.20 (0.20 to 0.20)", "–", "not run here"]
    measures = edit_figures.measure_table(runs).splitlines()
    assert len(measures) == 4 and "–" in measures[3] and "1.30 (1.30 to 1.30)" in measures[2]
    assert len(PAIRS) * len(STATE_MEASURES) + 2 == measures[2].count("|")
    plt.close("all")


def test_designs_are_compared_by_what_they_keep():
    short = {**SHARED, "forward_kept": 90.0}
    runs = runs_of(smollm2_short_steps=short)
    runs.results.append(made("smollm2", 0, {**SHARED, "forward_kept": 0.0, "other_transfer": 0.8}))
    assert runs.find("smollm2") == {} and runs.at_all("forward_kept", "smollm2").tolist() == [0.0]
    rows = edit_figures.design_table(runs, ["smollm2", "smollm2_short_steps", "mlp"]).splitlines()[2:]
    assert rows[0].split(" | ")[1:] == ["1", "0", "0.90 (95)", "0.10 (5)", "0.80 (5) |"]
    assert rows[1].split(" | ")[1:3] == ["5", "90"] and rows[2].count("not run here") == 4
    assert edit_results.others_kept(runs.at_all("forward_kept", "smollm2_short_steps"))
    assert not edit_results.others_kept(runs.at_all("forward_kept", "smollm2"))
    assert edit_results.above_another(runs, "smollm2_short_steps")
    assert not edit_results.above_another(runs, "smollm2_short_steps", "other", "forward")
    assert not edit_results.above_another(runs_of(mlp={**SHARED, "other_transfer": 0.7}), "mlp")


def test_the_verdict_says_what_was_expected_and_found():
    rows = edit_figures.verdict_table(runs_of(attention=SHARED, causal_both=APART)).splitlines()[2:]
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert len(cells) == len(SUBJECTS)
    assert cells["attention alone"] == ["5", "one", *["95 % (95 to 95), ratio 0.90 (0.90 to 0.90)"] * 2, "**one**"]
    assert cells["causal attention, both orders"][1::3] == ["two", "**two**"]
    assert cells["SmolLM2, held out"] == ["", "one", *["not run here"] * 2, "**not run here**"]
    for name, condition in SUBJECTS.items():  # causal: other evidence in each direction; learned: in values
        letters = isinstance(condition, OneLayerSubject)
        causal = condition.model.causal if letters else name.startswith(("llama", "qwen"))
        learned = letters and condition.model.encoding == "learned" and not causal
        expected = "two" if causal else "in part" if learned else "one"
        assert cells[edit_results.CONDITION_NAMES[name]][1] == expected
