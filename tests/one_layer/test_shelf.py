"""Runs are looked up by what sets them apart, and compared at a step that all of them reached."""

import pytest

from lib.one_layer import shelf
from lib.one_layer.results import STANDARD
from lib.one_layer.shelf import Runs

SHARED = {"length": 10, "width": 64}


def result(ends=(30, 60), steps=1000, seeds=(0, 1), **parameters):
    """A run measured at 0, 100 and 1000 steps, as far as it went, whose seeds grow from 0 to ``ends``."""
    at = [step for step in (0, 100, 1000, 4000) if step <= steps]
    curve = [[end * place / (len(at) - 1) for place in range(len(at))] for end in ends]
    return {"parameters": {**STANDARD, **SHARED, "steps": steps, "profile": "full", **parameters}, "seeds": list(seeds),
            "curves": {"steps": at, "reverse_accuracy": curve},
            "provenance": {"device": "cpu", "started": f"2026-01-0{1 + len(ends) % 9}T00:00:00"}}


def stocked(*runs, **shared):
    return Runs(runs, SHARED | shared)


def test_a_shelf_keeps_one_profile_and_the_first_seeds():
    full, quick, fewer = result(), result(profile="quick"), result(ends=(30,), seeds=(0,))
    others = result(seeds=(1, 2))
    assert Runs.of([full, quick, fewer, others], SHARED, "full").runs == (full, fewer, others)
    assert Runs.of([full, quick, fewer, others], SHARED, "full", range(3)).runs == (full, fewer)
    assert Runs.of([full, quick], SHARED, "quick").runs == (quick,)


def test_the_longest_run_with_the_shared_settings_is_found():
    short, long, wide, changed = result(), result(steps=4000), result(width=32), result(intervention="drop_random")
    full = stocked(short, long, wide, changed)
    assert full.find() is long and full.find(steps=1000) is short and full.find(width=32) is wide
    assert full.find(intervention="drop_random") is changed and full.find(encoding="learned") is None
    assert full.every() == [long, short] and full.every(width=None) == [long, short, wide]
    assert stocked(short, wide, width=32).find() is wide


def test_shelves_are_joined_and_asked_in_turn():
    short, long = result(), result(steps=4000)
    one, two = stocked(short), Runs((long, result(encoding="learned")), {"length": 20})
    assert (one + two).find() is long and (one + two).shared == one.shared
    assert shelf.first((one,), encoding="learned") is None
    other = stocked(*two.runs)
    assert shelf.first((one, other), encoding="learned") is two.runs[1]
    assert shelf.first((one, other)) is short and shelf.first((other, one)) is long


def test_interventions_come_all_or_not_at_all():
    plain, changed = result(), result(intervention="drop_random")
    full = stocked(plain, changed)
    assert full.under(("drop_random", "none", "drop_random")) == [changed, plain, changed]
    assert full.under(("none", "one_mask")) == [] and full.under(("none",), encoding="learned") == []


def test_a_missing_run_is_refused_with_the_command_that_makes_it(tmp_path):
    out = tmp_path / "quick_rope.json"
    stocked(result()).require(out, [0, 1], {"steps": 9}, encoding="rope")
    with pytest.raises(FileNotFoundError, match=r"python -m lib\.one_layer\.causes --length 10 --width 64 --learning-rate 0\.1 "
                       r"--encoding rope --steps 9 --seeds 0 1 --out .*quick_rope\.json") as error:
        stocked(result(), learning_rate=0.1).require(out, [0, 1], {"steps": 9}, encoding="rope")
    assert str(tmp_path) in str(error.value)


def test_runs_that_have_parameters_whatever_the_others_are():
    wide, deep, old = result(width=32), result(depth=2), result()
    del old["parameters"]["depth"]
    assert shelf.having([wide, deep, old], depth=STANDARD["depth"]) == [wide, old]
    assert shelf.having([wide, deep, result(depth=2, width=32)], depth=2, width=64) == [deep]


def test_runs_of_several_lengths_meet_at_a_step_that_all_reached():
    long, short = result(ends=(30, 90), steps=4000), result(ends=(50, 70))
    assert shelf.last_step(long, None, short) == 1000
    assert [values.tolist() for values in shelf.together("reverse_accuracy", long, short)] == [[20, 60], [50, 70]]
    assert shelf.rise("reverse_accuracy", long, short) == 20 == -shelf.rise("reverse_accuracy", short, long)
    assert shelf.in_words("reverse_accuracy", long, short) == ["40", "60", "1,000"]
    assert shelf.in_words("reverse_accuracy", long, None) == []
    with pytest.raises(ValueError, match="needs at least one"):
        shelf.last_step(None)


def test_a_change_gains_all_of_its_own_gain_and_no_change_gains_nothing():
    plain, changed, half = result(ends=(10, 30)), result(ends=(90, 90)), result(ends=(50, 60))
    gains = [shelf.part_of_gain("reverse_accuracy", plain, changed, other) for other in (plain, half, changed)]
    assert gains == pytest.approx([0, 0.5, 1])


def test_a_run_of_the_build_is_held_against_the_range_of_its_twin():
    build = [result(ends=(40,), steps=100), result(ends=(9,), steps=100, encoding="learned"),
             result(steps=4000, intervention="drop_random"), result(encoding="none")]
    full = stocked(result(ends=(30, 60)), result(ends=(10, 20), encoding="learned"), result(intervention="drop_random"))
    pairs = shelf.twins(build, full, "encoding", "intervention")
    recorded = {name: twin for name, (_, twin) in pairs.items()}
    assert recorded == {"rope, none": full.runs[0], "learned, none": full.runs[1]}
    # around step 100 the recorded seeds lie between 0 and 30, and between 0 and 10
    assert shelf.in_bands(pairs, "reverse_accuracy", 11.0) and not shelf.in_bands(pairs, "reverse_accuracy", 9.0)
    swapped = {"rope, none": "learned, none", "learned, none": "rope, none"}
    assert not shelf.in_bands(pairs, "reverse_accuracy", 11.0, swapped)
    assert shelf.in_bands(pairs, "reverse_accuracy", 31.0, swapped)


def test_words():
    run, other = result(encoding="t5"), result(ends=(1, 2, 3), seeds=(0, 1, 2), steps=4000)
    assert shelf.kind_of(run) == "t5 at 10" and shelf.called(run) == "length 10, 1000 steps, 2 seeds"
    assert shelf.pattern(run, "here", "there") == {
        "kind": "pattern", "seeds": [0, 1], "scope": "here; length 10, 1000 steps, 2 seeds; there"}
    assert shelf.pattern(run)["scope"] == shelf.called(run)
    assert shelf.history([other, run, run], "results/x") == (
        "3 recorded runs of 1,000 to 4,000 steps; each file in `results/x` names its commit; cpu, 2026-01-03; "
        "cpu, 2026-01-04")
