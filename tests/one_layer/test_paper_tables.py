"""The paper's tables beside recorded runs: what stands in a cell, what may judge, what is compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from lib.one_layer import paper_tables
from lib.one_layer import results as runs
from lib.one_layer.paper_tables import PaperComparison


def run(size, name, forward, reverse, steps=(0, 100, 1000), share=None, **parameters):
    """A recorded run; accuracies as [seed][point]."""
    kind = paper_tables.KINDS[name]
    curves = {"steps": list(steps)} | {f"{way}_accuracy{rest}": values for way, values in
                                       (("forward", forward), ("reverse", reverse)) for rest in ("", "_lowercase")}
    given = {**kind, "length": size, "steps": steps[-1], "profile": "full", **parameters}
    return {"parameters": {**runs.STANDARD, **given},
            "curves": {**curves, "placeholder_share": [[value] for value in share or [None]]},
            "seeds": list(range(len(forward)))}


GOOD = [[0, 90, 99], [0, 92, 98], [0, 94, 100]]
ROPE = run(10, "RoPE", GOOD, [[0, 50, 40], [0, 30, 44], [0, 40, 36]], share=[90.0, None, 100.0])
ALIBI = run(10, "ALiBi", GOOD, GOOD, steps=(0, 50, 400))
LEARNED = run(10, "learned absolute", GOOD, [[0, 20, 1], [0, 10, 2], [0, 12, 3]])
CAUSAL = run(10, "autoregressive", GOOD, [[0, 0, 0.5]] * 3)
SHORT = run(20, "RoPE", [[0, 50, 94]] * 2, [[0, 1, 2]] * 2)
RECORD = PaperComparison([ROPE, ALIBI, LEARNED, CAUSAL, SHORT, run(10, "RoPE", GOOD, GOOD, width=128),
                 run(30, "RoPE", GOOD, GOOD, profile="quick"), run(10, "RoPE", GOOD, GOOD, steps=(0, 5, 9))])


def test_cells_hold_the_longest_full_run_of_the_standard_recipe():
    assert RECORD.full == {(10, "RoPE"): ROPE, (10, "ALiBi"): ALIBI, (10, "learned absolute"): LEARNED,
                           (10, "autoregressive"): CAUSAL, (20, "RoPE"): SHORT}
    assert RECORD.sizes("RoPE", judged=False) == [10, 20] and RECORD.sizes("RoPE") == [10]
    assert list(RECORD.unlearned) == [(20, "RoPE")] and RECORD.sizes("sinusoidal") == []
    assert RECORD.missing((10, "RoPE"), (20, "RoPE"), (40, "ALiBi")) == ["RoPE at length 20", "ALiBi at length 40"]


def test_values_are_read_off():
    assert RECORD.final((10, "RoPE"), "reverse_accuracy").tolist() == [40, 44, 36]
    assert [values.tolist() for values in RECORD.at_all("reverse_accuracy", 1)] == [[50, 30, 40]]
    rope, alibi = RECORD.at_common_step(10, "RoPE", "ALiBi")  # after 400 steps: nearer to 1,000 than to 100, in ratio
    assert rope.tolist() == [40, 44, 36] and alibi.tolist() == [99, 98, 100]
    shorter = PaperComparison([ROPE, run(10, "ALiBi", GOOD, GOOD, steps=(0, 50, 150))])
    assert shorter.at_common_step(10, "RoPE", "ALiBi")[0].tolist() == [50, 30, 40]


def test_an_order_must_be_clear_and_forward_learned():
    names = ("learned absolute", "RoPE", "ALiBi")
    assert RECORD.ordered(10, names) and not RECORD.ordered(10, names[::-1])
    wide = run(10, "RoPE", GOOD, [[0, 0, 80], [0, 0, 1], [0, 0, 40]])  # the same mean, but spread beyond the gap
    assert not PaperComparison([wide, ALIBI, LEARNED]).ordered(10, names)
    unlearned = run(10, "ALiBi", [[0, 0, 90]] * 3, GOOD)
    assert not PaperComparison([ROPE, unlearned, LEARNED]).ordered(10, names)


def test_failing_in_reverse_needs_every_seed():
    assert RECORD.fails_in_reverse("autoregressive", [10]) and not RECORD.fails_in_reverse("ALiBi", [10])
    one = run(10, "autoregressive", GOOD, [[0, 0, 0], [0, 0, 1.5], [0, 0, 0]])
    unlearned = run(10, "autoregressive", [*GOOD[:2], [0, 0, 94]], [[0, 0, 0]] * 3)
    assert not any(PaperComparison([made]).fails_in_reverse("autoregressive", [10]) for made in (one, unlearned))


def test_contrasts_and_effects():
    found = {name: (low.mean(), high.mean()) for name, low, high in RECORD.contrasts()}
    assert found == {"RoPE, $L=10$: reverse → forward": (40, 99), "reverse, $L=10$: autoregressive → RoPE": (0.5, 40),
                     "reverse, $L=10$: RoPE → learned absolute": (40, 2), "reverse, $L=10$: RoPE → ALiBi": (40, 99)}
    below = RECORD.below("RoPE")
    assert list(below) == [10] and below[10].difference == 59 and below[10].superiority == 1


def test_rows_have_the_papers_values_and_a_dash_where_there_is_none():
    rows = RECORD.rows()
    assert rows[0][:3] == ["RoPE, $L=10$", "forward", "99.31"] and rows[0][-2:] == ["", "1,000"]
    assert rows[1][1:4] == ["reverse", "43.10", "40.0 (36–44)"] and rows[1][5] == "95.0"
    by_name = {(row[0], row[1]): row for row in rows}
    assert by_name["ALiBi, $L=10$", "reverse"][2] == "99.8" and by_name["ALiBi, $L=10$", "reverse"][5] == "no errors"
    assert by_name["autoregressive, $L=10$", "reverse"][2] == "0.00"
    assert paper_tables.paper_value((10, "sinusoidal"), "reverse") == "–"
    assert paper_tables.paper_value((30, "ALiBi"), "forward") == "–"


def test_the_printed_values_are_the_papers():
    path = Path(__file__).parents[3] / "shared" / "paper" / "tables.json"
    if not path.exists():
        pytest.skip("the paper's numbers are not at hand")
    numbers = [float(value) for value in _numbers(json.loads(path.read_text()))]
    for table in (paper_tables.TABLE_1, paper_tables.TABLE_2):
        for name, ways in table.items():
            for way, column in ways.items():
                assert all(np.isclose(numbers, value).any() for value in column.values()), (name, way)


def _numbers(content):
    if isinstance(content, dict):
        content = content.values()
    if isinstance(content, (int, float)):
        return [content]
    return [] if isinstance(content, str) or content is None else [one for each in content for one in _numbers(each)]


# One setting changed --------------------------------------------------------------------------------------------


def sweep_run(reverse, place=("rope", 10), steps=(0, 100, 1000), seeds=(0, 1), forward=None, **parameters):
    curves = {"steps": list(steps), "reverse_accuracy": reverse,
              "forward_accuracy": forward or [[0, 95, 99]] * len(reverse)}
    return {"parameters": {**runs.STANDARD, "encoding": place[0], "length": place[1], "steps": steps[-1],
                           "profile": "full", **parameters}, "curves": curves, "seeds": list(seeds)}


SWEPT = sweep_run([[0, 10, 30], [0, 20, 40], [0, 60, 90]], steps=(0, 100, 3000), seeds=(0, 1, 2))
WIDE = sweep_run([[0, 1, 50], [0, 2, 70]], steps=(0, 50, 100), width=128)


def test_the_standard_recipe_is_read_at_the_changed_runs_last_step_for_the_same_seeds():
    found = paper_tables.setting_sweep([SWEPT, WIDE], ("rope", 10))
    assert found.last == 100 and list(found.rows) == ["standard", "width 128"]
    assert found.rows["standard"]["reverse"].tolist() == [10, 20]
    assert found.rows["width 128"]["reverse"].tolist() == [50, 70]
    assert found.others == 60  # the third seed, whom nothing was compared with
    assert found.moves == pytest.approx(160 / 3 - 30)  # between the two points at which forward is learned


def test_every_recorded_value_of_a_setting_has_a_row_and_nothing_else_has():
    others = [sweep_run([[0, 1, 50]] * 2, learning_rate=rate) for rate in (0.003, 0.0005)]
    neither = [sweep_run([[0, 1, 50]] * 2, learning_rate=0.003, width=128), sweep_run([[0, 1, 50]] * 2, depth=2)]
    found = paper_tables.setting_sweep([SWEPT, WIDE, *others, *neither], ("rope", 10))
    assert list(found.rows) == ["standard", "width 128", "learning rate 0.0005", "learning rate 0.003"]


def test_nothing_is_said_without_both():
    assert paper_tables.setting_sweep([SWEPT], ("rope", 10)) is None
    assert paper_tables.setting_sweep([WIDE], ("rope", 10)) is None
    short = sweep_run([[0, 1, 2]] * 3, steps=(0, 5, 50), seeds=(0, 1, 2))  # ended before the changed runs did
    assert paper_tables.setting_sweep([short, WIDE], ("rope", 10)) is None
    never = sweep_run([[0, 1, 2]] * 3, seeds=(0, 1, 2), forward=[[0, 10, 20]] * 3)
    assert paper_tables.setting_sweep([never, WIDE], ("rope", 10)).moves is None


def test_places_lack_no_setting_and_misses_are_the_largest():
    place = ("rope", 20)
    there = [sweep_run([[0, 10, 30]] * 3, place, seeds=(0, 1, 2)), sweep_run([[0, 1, 80]] * 2, place, ema=0.0),
             sweep_run([[0, 1, 20]] * 2, place, width=128)]
    here = [SWEPT, WIDE, sweep_run([[0, 2, 33], [0, 2, 43]], steps=(0, 50, 100), ema=0.0)]
    lacking = [sweep_run([[0, 1, 1]] * 2, ("rope", 30), width=128),
               sweep_run([[0, 1, 1]] * 3, ("rope", 30), seeds=(0, 1, 2))]
    found, names = paper_tables.complete_sweeps([*there, *here, *lacking])
    assert set(names) == {"standard", "width 128", "ema 0"} and list(found) == [("rope", 10), place]
    assert paper_tables.largest_distance(found, "ema 0", {("rope", 10): 40.0, place: 90.0}) == 10
    assert paper_tables.largest_distance(found, "width 128", {("rope", 10): 40.0, place: 90.0}) == 70
    column = paper_tables.REVERSE_COLUMN
    assert np.isclose(column["rope", 10], 43.1) and column["learned", 20] == 27.8
