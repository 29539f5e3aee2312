"""Changed settings are read where all are recorded, at their own last step, beside the standard recipe's same seeds."""

import numpy as np
import pytest

from lib.one_layer import results as runs
from lib.one_layer import sensitivity


def run(reverse, place=("rope", 10), steps=(0, 100, 1000), seeds=(0, 1), forward=None, **parameters):
    curves = {"steps": list(steps), "reverse_accuracy": reverse,
              "forward_accuracy": forward or [[0, 95, 99]] * len(reverse)}
    return {"parameters": {**runs.STANDARD, "encoding": place[0], "length": place[1], "steps": steps[-1],
                           "profile": "full", **parameters}, "curves": curves, "seeds": list(seeds)}


STANDARD = run([[0, 10, 30], [0, 20, 40], [0, 60, 90]], steps=(0, 100, 3000), seeds=(0, 1, 2))
WIDE = run([[0, 1, 50], [0, 2, 70]], steps=(0, 50, 100), width=128)


def test_the_standard_recipe_is_read_at_the_changed_runs_last_step_for_the_same_seeds():
    found = sensitivity.at([STANDARD, WIDE], ("rope", 10))
    assert found.last == 100 and list(found.rows) == ["standard", "width 128"]
    assert found.rows["standard"]["reverse"].tolist() == [10, 20]
    assert found.rows["width 128"]["reverse"].tolist() == [50, 70]
    assert found.others == 60  # the third seed, whom nothing was compared with
    assert found.moves == pytest.approx(160 / 3 - 30)  # between the two points at which forward is learned


def test_every_recorded_value_of_a_setting_has_a_row_and_nothing_else_has():
    others = [run([[0, 1, 50]] * 2, learning_rate=rate) for rate in (0.003, 0.0005)]
    found = sensitivity.at([STANDARD, WIDE, *others, run([[0, 1, 50]] * 2, learning_rate=0.003, width=128),
                            run([[0, 1, 50]] * 2, depth=2)], ("rope", 10))
    assert list(found.rows) == ["standard", "width 128", "learning rate 0.0005", "learning rate 0.003"]


def test_nothing_is_said_without_both():
    assert sensitivity.at([STANDARD], ("rope", 10)) is None and sensitivity.at([WIDE], ("rope", 10)) is None
    short = run([[0, 1, 2]] * 3, steps=(0, 5, 50), seeds=(0, 1, 2))  # ended before the changed runs did
    assert sensitivity.at([short, WIDE], ("rope", 10)) is None
    never = run([[0, 1, 2]] * 3, seeds=(0, 1, 2), forward=[[0, 10, 20]] * 3)
    assert sensitivity.at([never, WIDE], ("rope", 10)).moves is None


def test_places_lack_no_setting_and_misses_are_the_largest():
    place = ("rope", 20)
    there = [run([[0, 10, 30]] * 3, place, seeds=(0, 1, 2)), run([[0, 1, 80]] * 2, place, ema=0.0),
             run([[0, 1, 20]] * 2, place, width=128)]
    here = [STANDARD, WIDE, run([[0, 2, 33], [0, 2, 43]], steps=(0, 50, 100), ema=0.0)]
    found, names = sensitivity.everywhere([*there, *here, run([[0, 1, 1]] * 2, ("rope", 30), width=128),
                                           run([[0, 1, 1]] * 3, ("rope", 30), seeds=(0, 1, 2))])
    assert set(names) == {"standard", "width 128", "ema 0"} and list(found) == [("rope", 10), place]
    assert sensitivity.away(found, "ema 0", {("rope", 10): 40.0, place: 90.0}) == 10
    assert sensitivity.away(found, "width 128", {("rope", 10): 40.0, place: 90.0}) == 70
    assert np.isclose(sensitivity.COLUMN["rope", 10], 43.1) and sensitivity.COLUMN["learned", 20] == 27.8
