"""Rank correlations of signatures with reverse accuracy, on made-up kinds whose order is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lib.one_layer import signature_ranks as ranks
from lib.one_layer.intervention_runs import Sources
from lib.one_layer.results import STANDARD, Runs


def kind(signature, reverse, step=600):
    """A reading with these values, one a seed."""
    values = dict.fromkeys(ranks._MEASURED, np.array(signature, dtype=float))
    return ranks.Reading({}, step, values | {"reverse_accuracy": np.array(reverse, dtype=float)})


def lawful(kinds=7, seeds=5):
    """Kinds whose signature grows with reverse accuracy, while over the seeds of each it falls."""
    seed = np.arange(seeds)
    made = {f"kind {place}": kind(place - 0.1 * seed, 10 * place + seed) for place in range(kinds)}
    return made | {"kind 0": kind(-0.1 * np.arange(seeds + 3), np.arange(seeds + 3))}  # of more seeds than the others


def test_ranks_over_kinds_and_over_seeds_are_told_apart():
    found = ranks.over_kinds(lawful(), "gradient_cosine")
    assert found.correlation == pytest.approx(1) and found.p == pytest.approx(2 / 5040, abs=1e-3) and found.kinds == 7
    assert found.interval == (pytest.approx(1), pytest.approx(1))
    assert found.positive and not ranks.over_kinds(lawful(3), "gradient_cosine").positive  # three kinds show nothing
    within = ranks.within_kinds(lawful(), "gradient_cosine")
    assert not within.positive
    assert within.correlation == pytest.approx(-1) and within.p < 0.01 and within.kinds == 7
    assert ranks.within_kind(lawful()["kind 3"], "gradient_cosine") == pytest.approx(-1)


def test_the_correlation_is_scipys_and_equal_up_to_rounding_is_a_tie():
    rng = np.random.default_rng(0)
    made = {str(place): kind(rng.normal(size=5), rng.normal(size=5)) for place in range(8)}
    means = [[each.values[key].mean() for key in ("gradient_cosine", "reverse_accuracy")] for each in made.values()]
    found = ranks.over_kinds(made, "gradient_cosine")
    assert found.correlation == pytest.approx(stats.spearmanr(np.array(means)).statistic)
    low, high = found.interval
    assert low < found.correlation < high and 0.05 < found.p <= 1
    tied = {"a": kind([0.1] * 2, [1, 2]), "b": kind([1.0] * 2, [4, 5]), "c": kind([1 - 1e-9] * 2, [8, 9]),
            "d": kind([1 - 2e-9] * 2, [9, 10])}
    assert ranks.over_kinds(tied, "score_correlation").correlation == pytest.approx(
        stats.spearmanr([0, 1, 1, 1], [1, 2, 3, 4]).statistic)
    first = ranks.first_measure(tied, "score_correlation")
    assert first == pytest.approx(stats.spearmanr([0, 3, 2, 1], range(4)).statistic)


def test_kinds_without_spread_say_nothing_within():
    assert np.isnan(ranks.within_kind(kind([1, 1, 1], [5, 6, 7]), "gradient_cosine"))
    still, moves = kind([1, 1, 1], [5, 6, 7]), kind([1, 2, 3], [5, 6, 7])
    assert ranks.within_kinds({"still": still}, "gradient_cosine").kinds == 0
    both = ranks.within_kinds({"still": still, "moves": moves}, "gradient_cosine")
    assert both.kinds == 1 and both.correlation == pytest.approx(1)
    with pytest.raises(ValueError, match="needs three kinds, not 2"):
        ranks.over_kinds(lawful(2), "gradient_cosine")


def run(encoding, steps, curves=()):
    """A run whose signature at a step is the step, and whose end says -1."""
    made = {"parameters": {**STANDARD, "encoding": encoding, "steps": steps[-1], "profile": "full"}, "seeds": [0, 1],
            "metrics": {name: [-1.0, -1.0] for name in ranks._MEASURED},
            "curves": {"steps": steps} | {name: [[float(step) for step in steps]] * 2 for name in curves}}
    return made


def test_kinds_are_read_near_one_step_or_left_out():
    made = [run("rope", [0, 540, 6000], ranks._MEASURED), run("t5", [0, 600]), run("learned", [0, 3000])]
    nothing = Runs((), {})
    found = ranks.near_step(Sources(nothing, nothing, Runs(tuple(made), {})))
    assert {name: each.step for name, each in found.items()} == {"RoPE": 540, "T5 bias": 600}
    assert found["RoPE"].values["gradient_cosine"].tolist() == [540, 540]
    assert found["T5 bias"].values["gradient_cosine"].tolist() == [-1, -1]
    assert ranks.kinds_at_end({"RoPE": made[0], "none": None})["RoPE"].step == 6000


def test_symmetric_kinds_are_left_out():
    made = dict(itertools.chain(lawful().items(), {name: kind([1], [100]) for name in ranks.SYMMETRIC}.items()))
    assert ranks.without(made).keys() == lawful().keys()


def test_tables_of_measures_and_kinds():
    lines = ranks.measures_table(lawful(), lawful(4)).splitlines()
    assert len(lines) == 3 + len(ranks.RANK_MEASURES) and lines[2].endswith("| 7 | 1.00 | 1.00 |")
    assert lines[3].startswith("| over encodings, each at its own end | 7 | 1.00 (1.00 to 1.00), p = ")
    assert ranks.signatures_table(lawful()).splitlines()[3] == "| kind 1 | 600 | 5 | 0.80 | 0.80 | 12 | -1.00 | -1.00 |"
