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
    assert RECORD.needs("RoPE", "ALiBi", sizes=(10, 20)) == {
        "RoPE at L = 10": ROPE, "RoPE at L = 20": None, "ALiBi at L = 10": ALIBI, "ALiBi at L = 20": None}
    assert list(RECORD.needs_2([20])) == ["learned absolute at L = 20", "RoPE at L = 20", "ALiBi at L = 20"]
    assert RECORD.steps(10, ("RoPE", "ALiBi", "T5 bias")) == "RoPE 1,000, ALiBi 400"
    assert RECORD.seeds("RoPE") == [[0, 1, 2]]


def test_values_are_read_off():
    assert RECORD.final((10, "RoPE"), "reverse_accuracy").tolist() == [40, 44, 36]
    values = {name: values.tolist() for name, values in RECORD.at_all("reverse_accuracy", 1).items()}
    assert values == {"L = 10": [50, 30, 40]}
    assert RECORD.accuracies("RoPE", "reverse")["L = 10"].tolist() == [40, 44, 36]
    assert list(RECORD.by_encoding("reverse")) == ["learned absolute, L = 10", "RoPE, L = 10", "ALiBi, L = 10",
                                                   "RoPE, L = 20"]
    assert RECORD.rise("reverse_accuracy")["L = 10"].tolist() == [40, 44, 36]
    assert RECORD.highest("reverse_accuracy")["L = 10"].tolist() == [50, 44, 40]
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


def table(text):
    """The rows of a Markdown table, by their first cell, or by the first two where that stands more than once."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    once = len({row[0] for row in rows}) == len(rows)
    return {row[0] if once else tuple(row[:2]): row[1 if once else 2:] for row in rows}


def test_rows_have_the_papers_values_and_a_dash_where_there_is_none():
    rows = table(RECORD.accuracy_table())
    assert rows["RoPE, $L=10$", "forward"] == ["99.31", "99.0 (98–100)", "1,000"]
    assert rows["RoPE, $L=10$", "reverse"][:2] == ["43.10", "40.0 (36–44)"]
    assert rows["ALiBi, $L=10$", "reverse"][0] == "99.8" and rows["autoregressive, $L=10$", "reverse"][0] == "0.00"
    assert paper_tables.paper_value((10, "sinusoidal"), "reverse") == "–"
    assert paper_tables.paper_value((30, "ALiBi"), "forward") == "–"


def test_errors_are_those_of_the_seeds_that_err():
    rows = table(RECORD.error_table())
    assert rows["RoPE, $L=10$"] == ["40.0 (36–44)", "40.0 (36–44)", "95.0 (90–100)", "1,000"]
    assert rows["ALiBi, $L=10$"][2] == "no errors"


def test_open_contrasts_are_in_bold():
    rows = table(RECORD.effect_table())
    assert rows["RoPE, $L=10$: reverse → forward"] == ["3, 3", "+59.0 (55.0 to 62.7)", "16.2", "100 %", "**0.1**"]


def test_gaps_between_encodings_have_intervals_over_seeds():
    found = RECORD.gaps(10)
    assert found["ours"] == {"learned absolute to RoPE": 38, "RoPE to ALiBi": 59}
    assert all(low < found["ours"][name] < high for name, (low, high) in found["interval"].items())
    assert paper_tables.printed_gaps(10) == pytest.approx({"learned absolute to RoPE": 31.6, "RoPE to ALiBi": 56.7})
    assert RECORD.gaps(20)["ours"] == {}


SIGNATURES = {"score_correlation": [[0.5, 0.2]], "forward_attention": [[0.1, 0.6]], "reverse_attention": [[0.2, 0.4]],
              "gradient_cosine": [[0.9, 0.5]], "gradient_cosine_mismatched": [[0.1, 0.3]]}


def signed(name, **changed):
    made = run(10, name, [[0, 99]], [[0, 40]], steps=(0, 100))
    return made | {"curves": {**made["curves"], **SIGNATURES, **changed}}


def test_attention_is_counted_in_uniform_shares_and_cosines_beside_other_facts():
    record = PaperComparison([signed("RoPE"), signed("autoregressive", gradient_cosine=[[0.1, 0.2]])])
    assert record.least_attention() == pytest.approx(4) and record.least_attention(0) == pytest.approx(1)
    assert record.aligned("RoPE", [10], 0.1) and not record.aligned("RoPE", [10], 0.3)
    assert not record.aligned("autoregressive", [10], 0.0)
    rows = table(record.cosine_table())["$L = 10$"]
    assert [value.split()[0] for value in rows] == ["0.500", "0.300", "0.200", "0.300"]
    assert [value.split()[0] for value in table(record.route_table())["$L = 10$"]] == ["0.50", "0.20", "0.20", "0.40",
                                                                                     "0.100"]
    stopping = table(record.stopping_table())["$L = 10$"]
    assert stopping == ["43.1", "40.0 (40–40)", "40.0 (40–40)"]


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
