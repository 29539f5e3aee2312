"""Checks of recorded rungs: each is true of runs made to satisfy it, and false once what it says is not so."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.one_layer import ladder_figures, ladder_results
from lib.one_layer.ladder_results import BRANCHES, LADDER_CONDITIONS, LADDER_RUNGS, MINIATURE_SEEDS, RecordedRungs
from lib.record.provenance import Result
from pipeline import experiments

GOOD = {"forward_accuracy": 100.0, "reverse_accuracy": 94.0, "forward_names": 100.0, "reverse_names": 96.0,
        "wrong_frame_accuracy": 90.0, "wrong_frame_names": 92.0, "mismatched_names": 2.0, "reverse_patched": 97.0,
        "forward_patched": 60.0}
LOST = {**GOOD, "reverse_accuracy": 20.0, "reverse_names": 30.0}


def made(condition, values):
    metrics = {name: [value + seed / 10 for seed in range(5)] for name, value in values.items()}
    return Result({"experiment": "ladder", "parameters": ladder_results.condition_parameters(condition),
                   "seeds": [*range(5)], "metrics": metrics, "curves": {}}, Path("run.json"))


def runs_of(**conditions):
    runs = RecordedRungs.__new__(RecordedRungs)
    runs.results, runs.miniature = [made(name, values) for name, values in conditions.items()], {}
    return runs


def test_each_rung_changes_one_thing_of_the_one_before_it_and_each_condition_is_another():
    found = [ladder_results.condition_parameters(name) for name in LADDER_RUNGS]
    changed = [{name for name in after if after[name] != before[name]}
               for before, after in itertools.pairwise(found)]
    assert all(len(names - {"left", "right"}) <= 1 for names in changed) and all(changed)
    assert sum(bool(names & {"left", "right"}) for names in changed) == 3
    assert all(names in ({"left", "right"}, names - {"left", "right"}) for names in changed)
    every = [str(ladder_results.condition_parameters(name)) for name in LADDER_CONDITIONS]
    assert len(set(every)) == len(every)
    assert set(ladder_results.RUNG_TITLES) == set(LADDER_RUNGS)
    assert set(ladder_results.FRAME_TITLES) == set(ladder_results.FRAMES)


def test_every_planned_run_is_a_condition_or_the_miniature():
    planned = {name: run["fixed"] for name, run in experiments.experiments("ladder", "full").items()}
    ladder = {name: fixed for name, fixed in planned.items() if not name.startswith("miniature_")}
    assert ladder == {name: {**change, "seeds": [0, 1, 2, 3, 4]} for name, change in LADDER_CONDITIONS.items()}
    assert len(planned) - len(ladder) == MINIATURE_SEEDS


def test_a_condition_is_found_by_its_parameters():
    runs = runs_of(own=GOOD, quads=LOST)
    np.testing.assert_allclose(runs.metric("reverse_names", "own"), 96 + np.arange(5) / 10)
    assert runs.find("pairs") is None and len(runs.metric("reverse_names", "pairs")) == 0
    with pytest.raises(ValueError, match="condition 'snakes'"):
        runs.find("snakes")
    told = runs.evidence({"own": ("reverse_names", "own"), "pairs": ("reverse_names", "pairs")})
    assert told["needs"]["pairs"] is None and told["needs"]["own"]["seeds"] == [0, 1, 2, 3, 4]
    told = runs.differences({"fall": (("reverse_names", "own"), ("reverse_names", "quads"))})
    assert told["ours"]()["fall"] == pytest.approx(66) and set(told["needs"]) == {"own", "quads"}


def test_recall_of_all_rungs_needs_every_one():
    runs = runs_of(own=GOOD, words=GOOD, quads=LOST)
    assert ladder_results.recalls_at_least(runs, ["own", "words"], 85)
    assert not ladder_results.recalls_at_least(runs, ["own", "quads"], 85)
    assert not ladder_results.recalls_at_least(runs, ["quads"], 85, "mismatched_names")


def test_a_lead_needs_points_and_an_interval_above_zero():
    runs = runs_of(own=GOOD, quads=LOST)
    lead = (("reverse_names", "own"), ("reverse_names", "quads"))
    assert ladder_results.leads_by(runs, *lead, 60) and not ladder_results.leads_by(runs, *lead, 70)
    assert not ladder_results.leads_by(runs, *lead[::-1], 60)
    assert not ladder_results.seeds_lead_by([100, 0, 100, 0, 0], [0, 0, 10, 20, 0], 20)  # wide
    told = ladder_results.told_difference([90, 92], [10, 12])
    assert told["ours"]()["difference"] == 80 and told["seeds"] == [(0, 1), (0, 1)]


def test_symmetric_answering_is_judged_in_every_condition():
    runs = runs_of(frame_both=GOOD, frame_one=GOOD)
    both = ["frame_both", "frame_one"]
    assert ladder_results.answers_symmetrically(runs, both)
    assert not ladder_results.answers_symmetrically(runs, both, "mismatched")
    directed = runs_of(frame_both=GOOD, frame_one={**GOOD, "wrong_frame_names": 40.0})
    assert not ladder_results.answers_symmetrically(directed, both)


def test_the_miniatures_cells_are_read_by_seed():
    runs = runs_of()
    cell = lambda seed: Result({"metrics": {"forward_accuracy": [90.0], "reverse_accuracy": [50.0 + seed]}},
                               Path("run.json"))
    runs.miniature = {seed: cell(seed) for seed in range(3)}
    assert runs.miniature_accuracies()["reverse"].tolist() == [50, 51, 52]
    assert [seed for seed, found in enumerate(runs.miniature_needs().values()) if found is None] == [3, 4]


def test_figure_and_tables_show_what_there_is_and_say_what_is_not():
    runs = runs_of(own=GOOD, quads=LOST, quads_both=GOOD, frame_both=GOOD)
    rows = ladder_figures.rung_rows(runs)
    figure = ladder_figures.recall_by_rung(rows, {})
    (panel,) = figure.axes
    labels = panel.get_legend_handles_labels()[1]
    assert len(labels) == len(set(labels)) == 3
    assert [label.get_text() for label in panel.get_yticklabels()] == list(rows)
    assert [text.get_text() for text in panel.texts].count("not run here") == len(LADDER_RUNGS) - 2
    places = {round(float(line.get_ydata().mean())) for line in panel.lines}
    assert places == {list(LADDER_RUNGS).index("own"), list(LADDER_RUNGS).index("quads")}
    own, quads = (rows[ladder_results.RUNG_TITLES[name]] for name in ("own", "quads"))
    (panel,) = ladder_figures.recall_by_rung({"a rung": own}, {"no rung": quads}).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a rung", "no rung"]
    assert [line.get_ydata()[0] for line in panel.lines].count(0.5) == 1
    plt.close("all")
    branches = ladder_figures.branch_table(runs)
    assert branches.count("not run here") == 6 * len(BRANCHES) and "30 (30–30)" in branches
    frames = ladder_figures.frame_table(runs)
    assert frames.count("not run here") == 10 and "| 100 (100–100) | 94 (94–94) | 90 (90–90) |" in frames
