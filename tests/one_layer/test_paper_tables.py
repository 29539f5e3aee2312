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
    rope, alibi = RECORD.together(10, "RoPE", "ALiBi")  # after 400 steps: nearer to 1,000 than to 100, in ratio
    assert rope.tolist() == [40, 44, 36] and alibi.tolist() == [99, 98, 100]
    shorter = PaperComparison([ROPE, run(10, "ALiBi", GOOD, GOOD, steps=(0, 50, 150))])
    assert shorter.together(10, "RoPE", "ALiBi")[0].tolist() == [50, 30, 40]


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
    assert paper_tables.printed((10, "sinusoidal"), "reverse") == paper_tables.printed((30, "ALiBi"), "forward") == "–"


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
