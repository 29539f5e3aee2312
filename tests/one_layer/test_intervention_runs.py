"""Runs of the interventions are found by what they trained, and where they were made."""

import pytest

from lib.one_layer import intervention_results as read
from lib.one_layer import intervention_runs
from lib.one_layer.results import STANDARD, Runs

METRICS = {"reverse_accuracy": [10, 30], "forward_accuracy": [99, 99], "broken_agreement": [95, 95],
           "broken_agreement_other": [60, 60]}


def run(steps=1000, **parameters):
    return {"parameters": {**STANDARD, "steps": steps, "profile": "full", **parameters}, "seeds": [0, 1],
            "metrics": METRICS, "curves": {}}


def sources(build=(), recorded=(), tables=()):
    return intervention_runs.Sources(*(Runs(tuple(runs), {}) for runs in (build, recorded, tables)))


def test_a_recorded_run_comes_before_that_of_this_build_or_of_the_tables():
    quick, full, long = run(100), run(), run(5000)
    assert sources([quick], [full]).either(encoding="rope") is full
    assert sources([quick]).either(encoding="rope") is quick
    both = sources([quick], [full], [long])
    assert both.named("RoPE") == {"RoPE": full} and both.kinds()["RoPE"] is long  # the longest of all
    assert both.named("RoPE", "none") == {"RoPE": full, "none": None}
    assert both.usual() == {"RoPE": full}


def test_pairs_under_a_control_or_one_entry_that_says_there_is_none():
    right, control = (run(intervention=name) for name in ("drop_right_of_capital", "drop_random"))
    ((source, words, pair),) = sources(recorded=[right, control]).blocking_and("drop_random")
    assert (source, words) == ("recorded", "RoPE") and list(pair.values()) == [right, control]
    ((*_, none),) = sources(recorded=[right]).blocking_and("drop_random")
    assert none == {"drop_right_of_capital": None, "drop_random": None}


def test_runs_by_length_and_by_reversed_share():
    short, long = run(), run(length=20)
    found = sources(recorded=[short], tables=[long]).by_length("none", "drop_random")
    assert found[10] == {"none": short, "drop_random": None} and found[20]["none"] is long and found[40]["none"] is None
    ten, strangers = run(reversed_share=0.1), run(reversed_share=0.1, intervention="strangers")
    shares = sources(recorded=[short, ten, strangers]).by_reversed_share()
    assert [shares[name] for name in ("0 %", "1 %", "10 %", "10 %, wrong letters")] == [short, None, ten, strangers]


def test_runs_whose_loss_does_not_teach_the_direction_are_left_out_by_name():
    usual, freed = run(), run(intervention="drop_right_of_capital")
    (case,) = read.with_reverse_errors(sources(recorded=[usual, freed, run(encoding="learned")]))
    assert case.runs == [usual] and case.left_out["the blocking loss dropped"] == [freed]
    assert case.scope == "recorded; RoPE; 1 runs; left out, the blocking loss dropped: 95 against 60 percent"
    (empty,) = read.with_reverse_errors(sources())
    assert empty.runs == []


def test_a_build_without_runs_is_refused_with_the_command_that_makes_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"--points 6 .*quick --seeds 0 1 --out .*quick_rope_none\.json"):
        intervention_runs.sources({"length": 10}, "quick", [0, 1], points=6)
