"""Runs with one setting of the recipe changed: what is compared, where, and how far it lies from a column."""

import numpy as np
import pytest

from lib.one_layer import results as runs
from lib.one_layer import sweeps


def sweep_run(reverse, place=("rope", 10), steps=(0, 100, 1000), seeds=(0, 1), forward=None, **parameters):
    curves = {"steps": list(steps), "reverse_accuracy": reverse,
              "forward_accuracy": forward or [[0, 95, 99]] * len(reverse)}
    return {"parameters": {**runs.STANDARD, "encoding": place[0], "length": place[1], "steps": steps[-1],
                           "profile": "full", **parameters}, "curves": curves, "seeds": list(seeds)}


SWEPT = sweep_run([[0, 10, 30], [0, 20, 40], [0, 60, 90]], steps=(0, 100, 3000), seeds=(0, 1, 2))
WIDE = sweep_run([[0, 1, 50], [0, 2, 70]], steps=(0, 50, 100), width=128)


def test_the_standard_recipe_is_read_at_the_changed_runs_last_step_for_the_same_seeds():
    found = sweeps.setting_sweep([SWEPT, WIDE], ("rope", 10))
    assert found.last == 100 and list(found.rows) == ["our recipe", "width 128"]
    assert found.rows["our recipe"]["reverse"].tolist() == [10, 20]
    assert found.rows["width 128"]["reverse"].tolist() == [50, 70]
    assert found.others == 60  # the third seed, whom nothing was compared with
    assert found.moves == pytest.approx(160 / 3 - 30)  # between the two points at which forward is learned


def test_every_recorded_value_of_a_setting_has_a_row_and_nothing_else_has():
    others = [sweep_run([[0, 1, 50]] * 2, learning_rate=rate) for rate in (0.003, 0.0005)]
    neither = [sweep_run([[0, 1, 50]] * 2, learning_rate=0.003, width=128), sweep_run([[0, 1, 50]] * 2, depth=2)]
    found = sweeps.setting_sweep([SWEPT, WIDE, *others, *neither], ("rope", 10))
    assert list(found.rows) == ["our recipe", "width 128", "learning rate 0.0005", "learning rate 0.003"]


def test_nothing_is_said_without_both():
    assert sweeps.setting_sweep([SWEPT], ("rope", 10)) is None
    assert sweeps.setting_sweep([WIDE], ("rope", 10)) is None
    short = sweep_run([[0, 1, 2]] * 3, steps=(0, 5, 50), seeds=(0, 1, 2))  # ended before the changed runs did
    assert sweeps.setting_sweep([short, WIDE], ("rope", 10)) is None
    never = sweep_run([[0, 1, 2]] * 3, seeds=(0, 1, 2), forward=[[0, 10, 20]] * 3)
    assert sweeps.setting_sweep([never, WIDE], ("rope", 10)).moves is None


def test_places_lack_no_setting_and_misses_are_the_largest():
    place = ("rope", 20)
    there = [sweep_run([[0, 10, 30]] * 3, place, seeds=(0, 1, 2)), sweep_run([[0, 1, 80]] * 2, place, ema=0.0),
             sweep_run([[0, 1, 20]] * 2, place, width=128)]
    here = [SWEPT, WIDE, sweep_run([[0, 2, 33], [0, 2, 43]], steps=(0, 50, 100), ema=0.0)]
    lacking = [sweep_run([[0, 1, 1]] * 2, ("rope", 30), width=128),
               sweep_run([[0, 1, 1]] * 3, ("rope", 30), seeds=(0, 1, 2))]
    found, names = sweeps.complete_sweeps([*there, *here, *lacking])
    assert set(names) == {"our recipe", "width 128", "ema 0"} and list(found) == [("rope", 10), place]
    assert sweeps.largest_distance(found, "ema 0", {("rope", 10): 40.0, place: 90.0}) == 10
    assert sweeps.largest_distance(found, "width 128", {("rope", 10): 40.0, place: 90.0}) == 70
    column = sweeps.REVERSE_COLUMN
    assert np.isclose(column["rope", 10], 43.1) and column["learned", 20] == 27.8


def test_the_columns_of_the_two_tables_name_what_is_missing():
    found = sweeps.complete_sweeps([SWEPT, WIDE])
    assert found.column(1) == found.column(2) == {("rope", 10): 43.1}
    assert found.needs(1)["width 128, RoPE, L = 10"] is WIDE and found.needs(1)["our recipe, RoPE, L = 10"] is SWEPT
    missing = [name for name, run in found.needs(2).items() if run is None]
    assert missing == [f"changed settings, {place}" for place in ("RoPE, L = 20", "learned, L = 10", "learned, L = 20")]
    assert found.misses({("rope", 10): 43.1}) == {"our recipe": pytest.approx(28.1), "width 128": pytest.approx(16.9)}
    for name, (low, high) in found.miss_intervals({("rope", 10): 43.1}).items():
        assert low < found.misses({("rope", 10): 43.1})[name] < high
    assert found.other_seeds([("rope", 10)]) == {("rope", 10): 60}
    assert "2 settings, RoPE, L = 10, 3 seeds" in found.scope(1) and "runs of 100 steps" in found.scope(1)


def test_settings_move_less_or_more_than_seeds():
    (sweep,) = sweeps.complete_sweeps([SWEPT, WIDE]).places.values()
    found = sweeps.apart(sweep)
    assert found == {"means of the settings": pytest.approx(45), "seeds of one setting": pytest.approx(15)}
    assert not sweeps.settings_move_less_than_seeds(sweep)
    spread = np.array([0.0, 100.0])
    assert sweeps.apart(sweep, spread)["seeds of one setting"] > 40
    assert sweeps.settings_move_less_than_seeds(sweep, spread, spread)


def test_tables_of_sweeps():
    found = sweeps.complete_sweeps([SWEPT, WIDE])
    accuracies = found.accuracy_table().splitlines()
    assert accuracies[3].split(" | ")[2] == "60.0 (50–70)" and accuracies[3].endswith("| 17 | 17 | 17 |")
    assert found.spread_table().splitlines()[-1] == "| RoPE, L = 10 | 15 | 45 | 23 |"
