"""Runs are found by what they trained and read off without mixing settings."""

import json

import pytest

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
    assert runs.recorded_range(run, "reverse_accuracy", 500) == (10, 60)
    assert runs.recorded_range(run, "reverse_accuracy", 0) == (0, 0)
    assert runs.recorded_range(run, "reverse_accuracy", 1000) == (10, 60)
    with pytest.raises(ValueError, match="step 2000: the run ended after 1000"):
        runs.recorded_range(run, "reverse_accuracy", 2000)


def test_inside_a_widened_band():
    assert runs.inside([9, 61], (10.0, 60.0), 1.0) and not runs.inside([8.9, 30], (10.0, 60.0), 1.0)
    assert not runs.inside([61.1], (10.0, 60.0), 1.0)


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
    assert runs.recorded_runs("one_layer", tmp_path) == []


def test_of_runs_that_differ_in_steps_alone_the_longest_stays():
    short, long, other = result(steps=10), result(steps=600), result(steps=10, length=20)
    assert runs.longest([long, other, short]) == [long, other] or runs.longest([long, other, short]) == [other, long]


def test_a_step_is_nearest_in_ratio_and_shares_are_of_those_that_err():
    run = {"curves": {"steps": [0, 100, 1000], "a": [[0, 10, 30]], "placeholder_share": [[1, 2, None], [1, 2, 40]]}}
    assert runs.at_step(run, "a", 400).tolist() == [30]  # 4 times 100, and a 2.5th of 1,000
    assert runs.wrong_as_placeholder(run).tolist() == [40]


# Runs looked up ------------------------------------------------------------------------------------------------

SHARED = {"length": 10, "width": 64}


def run_of(ends=(30, 60), steps=1000, seeds=(0, 1), **parameters):
    """A run measured at 0, 100 and 1000 steps, as far as it went, whose seeds grow from 0 to ``ends``."""
    at = [step for step in (0, 100, 1000, 4000) if step <= steps]
    curve = [[end * place / (len(at) - 1) for place in range(len(at))] for end in ends]
    given = {**runs.STANDARD, **SHARED, "steps": steps, "profile": "full", **parameters}
    return {"parameters": given, "seeds": list(seeds), "curves": {"steps": at, "reverse_accuracy": curve},
            "provenance": {"device": "cpu", "started": f"2026-01-0{1 + len(ends) % 9}T00:00:00"}}


def stocked(*several, **shared):
    return runs.Runs(several, SHARED | shared)


def test_runs_of_one_profile_and_the_first_seeds():
    full, quick, fewer = run_of(), run_of(profile="quick"), run_of(ends=(30,), seeds=(0,))
    others = run_of(seeds=(1, 2))
    assert runs.Runs.of([full, quick, fewer, others], SHARED, "full").runs == (full, fewer, others)
    assert runs.Runs.of([full, quick, fewer, others], SHARED, "full", range(3)).runs == (full, fewer)
    assert runs.Runs.of([full, quick], SHARED, "quick").runs == (quick,)


def test_the_longest_run_with_the_shared_settings_is_found():
    short, long, wide, changed = run_of(), run_of(steps=4000), run_of(width=32), run_of(intervention="drop_random")
    full = stocked(short, long, wide, changed)
    assert full.find() is long and full.find(steps=1000) is short and full.find(width=32) is wide
    assert full.find(intervention="drop_random") is changed and full.find(encoding="learned") is None
    assert full.every() == [long, short] and full.every(width=None) == [long, short, wide]
    assert stocked(short, wide, width=32).find() is wide


def test_runs_are_joined_and_asked_in_turn():
    short, long = run_of(), run_of(steps=4000)
    one, two = stocked(short), runs.Runs((long, run_of(encoding="learned")), {"length": 20})
    assert (one + two).find() is long and (one + two).shared == one.shared
    assert runs.first((one,), encoding="learned") is None
    other = stocked(*two.runs)
    assert runs.first((one, other), encoding="learned") is two.runs[1]
    assert runs.first((one, other)) is short and runs.first((other, one)) is long


def test_interventions_come_all_or_not_at_all():
    plain, changed = run_of(), run_of(intervention="drop_random")
    full = stocked(plain, changed)
    assert full.by_intervention(("drop_random", "none", "drop_random")) == [changed, plain, changed]
    assert full.by_intervention(("none", "one_mask")) == []
    assert full.by_intervention(("none",), encoding="learned") == []


def test_a_missing_run_is_refused_with_the_command_that_makes_it(tmp_path):
    out = tmp_path / "quick_rope.json"
    stocked(run_of()).require(out, [0, 1], {"steps": 9}, encoding="rope")
    with pytest.raises(FileNotFoundError, match=r"python -m lib\.one_layer\.experiment --measure interventions "
                       r"--length 10 --width 64 --learning-rate 0\.1 "
                       r"--encoding rope --steps 9 --seeds 0 1 --out .*quick_rope\.json") as error:
        stocked(run_of(), learning_rate=0.1).require(out, [0, 1], {"steps": 9}, encoding="rope")
    assert str(tmp_path) in str(error.value)


def test_runs_that_have_parameters_whatever_the_others_are():
    wide, deep, old = run_of(width=32), run_of(depth=2), run_of()
    del old["parameters"]["depth"]
    assert runs.having([wide, deep, old], depth=runs.STANDARD["depth"]) == [wide, old]
    assert runs.having([wide, deep, run_of(depth=2, width=32)], depth=2, width=64) == [deep]


def test_runs_of_several_lengths_meet_at_a_step_that_all_reached():
    long, short = run_of(ends=(30, 90), steps=4000), run_of(ends=(50, 70))
    assert runs.last_step(long, None, short) == 1000
    assert [values.tolist() for values in runs.at_common_step("reverse_accuracy", long, short)] == [[20, 60], [50, 70]]
    assert runs.gain("reverse_accuracy", long, short) == 20 == -runs.gain("reverse_accuracy", short, long)
    with pytest.raises(ValueError, match="needs at least one"):
        runs.last_step(None)


def test_a_change_gains_all_of_its_own_gain_and_no_change_gains_nothing():
    plain, changed, half = run_of(ends=(10, 30)), run_of(ends=(90, 90)), run_of(ends=(50, 60))
    gains = [runs.share_of_gain("reverse_accuracy", plain, changed, other) for other in (plain, half, changed)]
    assert gains == pytest.approx([0, 0.5, 1])
    assert runs.share_of_gain("reverse_accuracy", plain, changed, half, step=100) == pytest.approx(0.5)


def test_a_run_of_the_build_is_held_against_the_range_of_its_recorded_run():
    build = [run_of(ends=(40,), steps=100), run_of(ends=(9,), steps=100, encoding="learned"),
             run_of(steps=4000, intervention="drop_random"), run_of(encoding="none")]
    full = stocked(run_of(ends=(30, 60)), run_of(ends=(10, 20), encoding="learned"), run_of(intervention="drop_random"))
    pairs = runs.with_recorded(build, full, "encoding", "intervention")
    recorded = {name: twin for name, (_, twin) in pairs.items()}
    assert recorded == {"rope, none": full.runs[0], "learned, none": full.runs[1]}
    # around step 100 the recorded seeds lie between 0 and 30, and between 0 and 10
    assert runs.within_recorded_range(pairs, "reverse_accuracy", 11.0)
    assert not runs.within_recorded_range(pairs, "reverse_accuracy", 9.0)
    swapped = {"rope, none": "learned, none", "learned, none": "rope, none"}
    assert not runs.within_recorded_range(pairs, "reverse_accuracy", 11.0, swapped)
    assert runs.within_recorded_range(pairs, "reverse_accuracy", 31.0, swapped)
    others = [run_of(steps=100, seeds=(0, 9))]  # a seed that was not recorded begins no recorded run
    assert runs.with_recorded(others, full, "encoding", "intervention") == {}


def test_words():
    run, other = run_of(encoding="t5"), run_of(ends=(1, 2, 3), seeds=(0, 1, 2), steps=4000)
    assert runs.encoding_and_length(run) == "t5 at 10" and runs.describe(run) == "length 10, 1000 steps, 2 seeds"
    told = runs.pattern_evidence({"shown": run, "control": None}, "here")
    assert told["needs"] == {"shown": run, "control": None} and told["seeds"]() == [0, 1]
    assert told["scope"]() == "here; length 10, 1000 steps, 2 seeds"
    assert runs.pattern_evidence({"shown": run})["scope"]() == runs.describe(run)
    assert runs.history([other, run, run], "results/x") == (
        "3 recorded runs of 1,000 to 4,000 steps; each file in `results/x` names its commit; cpu, 2026-01-03; "
        "cpu, 2026-01-04")
