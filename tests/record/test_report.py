"""Cells, tables, effect sizes and intervals over seeds."""

import numpy as np
import pytest
from scipy import stats

from lib.record import report


def test_cells_and_tables():
    assert report.cell([1, 2, 6]) == "3.0 (1–6)" and report.cell([np.nan]) == "–"
    assert report.cell([0.25, 0.75], 2) == "0.50 (0.2–0.8)" and report.cell([-2, 1]) == "-0.5 (-2 to 1)"
    assert report.cell([-0.02, 0.018], 2) == "0.00 (0.0–0.0)"  # not -0.00
    assert report.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
    with pytest.raises(ValueError, match="needs 2 cells"):
        report.markdown(["a", "b"], [[1]])
    assert report.spread([1.0]) is None and report.spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_many_measures_of_the_same_seeds_have_the_intervals_that_each_has_alone():
    columns = np.random.default_rng(0).normal(size=(3, 7))
    assert report.bootstrap_intervals(list(columns)) == [
        pytest.approx(report.bootstrap_interval(column), abs=1e-12) for column in columns]
    with pytest.raises(ValueError, match="columns of two seeds or more"):
        report.bootstrap_intervals([[1.0], [2.0]])


def test_the_interval_of_a_difference_holds_the_difference_and_grows_with_the_spread():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=8), rng.normal(3, 1, size=8)
    low, high = report.difference_interval(first, second)
    assert low < second.mean() - first.mean() < high
    wide = report.difference_interval(3 * first, second)
    assert wide[1] - wide[0] > high - low and report.difference_interval([0, 0], [2, 2]) == (2, 2)
    error = np.sqrt((first.var() + second.var()) / 8)  # of the resampled difference of means
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    with pytest.raises(ValueError, match="two seeds a side, not 1 and 2"):
        report.difference_interval([1.0], [1.0, 2.0])


def test_effects_of_seeds_that_are_apart_and_of_the_same_seeds():
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]
    found = report.effect(low, high)
    assert found.difference == 10 and found.superiority == 1 and found.p == pytest.approx(2 / 252)
    assert found.standardised == pytest.approx(10 / 2.5**0.5 * (1 - 3 / 31))
    assert report.effect(high, low)[:3] == (-10, -found.standardised, 0)
    same = report.effect(low, low)
    assert same.difference == 0 and same.standardised == 0 and same.superiority == 0.5 and same.p == 1
    assert report.effect([0.0, 0.0], [1.0, 1.0]).standardised == np.inf
    with pytest.raises(ValueError, match="two seeds a side, not 1 and 5"):
        report.effect([1.0], low)


def test_the_permutation_level_is_the_share_of_splits_that_differ_as_much():
    low, high = [0.0, 0.0, 3.0], [1.0, 4.0, 4.0, 9.0]
    found, everything = report.effect(low, high), np.array(low + high)
    extreme = 0
    for code in range(2**7):
        mine = np.array([code >> place & 1 for place in range(7)], dtype=bool)
        if mine.sum() == 4:
            extreme += abs(everything[mine].mean() - everything[~mine].mean()) >= found.difference - 1e-12
    assert found.p == extreme / 35 and 1 / 35 < found.p < 1
    assert report.effect([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]).p == 1.0  # rounding does not split ties


def test_the_level_for_ten_seeds_a_side_agrees_with_scipy():
    draw = np.random.default_rng(0)
    low, high = draw.normal(size=(2, 10))
    split = stats.permutation_test((high + 0.5, low), lambda a, b, axis: a.mean(axis) - b.mean(axis), vectorized=True,
                                   n_resamples=20_000, random_state=1)
    assert report.effect(low, high + 0.5).p == pytest.approx(split.pvalue, abs=0.02)


def test_an_interval_is_that_of_resampled_seeds():
    values = np.random.default_rng(0).normal(5, 2, size=20)
    low, high = report.bootstrap_interval(values)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.05) and low < values.mean() < high
    assert report.bootstrap_interval(values) == (low, high) != report.bootstrap_interval(values, seed=1)
    narrow = report.bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert report.bootstrap_interval([3.0, 3.0]) == (3.0, 3.0)
    with pytest.raises(ValueError, match="needs two seeds, not 1"):
        report.bootstrap_interval([1.0])


def test_the_interval_of_any_statistic_is_that_of_the_mean_where_it_is_the_mean():
    values = np.random.default_rng(0).normal(5, 2, size=20)
    found = report.resampled_interval(np.mean, values, resamples=8_000)
    assert found == pytest.approx(report.bootstrap_interval(values), abs=0.05)
    apart = report.resampled_interval(lambda a, b: b.mean() - a.mean(), values, values + 3, resamples=8_000)
    assert apart == pytest.approx(report.difference_interval(values, values + 3), abs=0.1)
    assert apart[1] - apart[0] > found[1] - found[0]  # both sides are resampled, each on its own
    pairs = np.stack([values, values + 3], axis=1)
    together = report.resampled_interval(lambda each: (each[:, 1] - each[:, 0]).mean(), pairs)
    assert together == pytest.approx((3, 3))  # a seed's values stay together
    assert np.isnan(report.resampled_interval(lambda _: np.nan, values)).all()
    with pytest.raises(ValueError, match="two seeds a cell, not 1"):
        report.resampled_interval(np.mean, values, values[:1])


def test_a_gain_is_a_share_of_the_wholes_or_nothing():
    base, whole = [0, 20], [80, 100]
    shares = [report.gained_share(base, whole, part) for part in (base, whole, [20, 40], [0, 0])]
    assert shares == pytest.approx([0, 1, 0.25, -0.125])
    assert np.isnan(report.gained_share(base, base, whole)) and np.isnan(report.gained_share(whole, base, base))


def test_an_effect_has_its_interval_and_is_signed():
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]
    found = report.effect(low, high)
    assert found.interval == report.difference_interval(low, high) and found.interval[0] < 10 < found.interval[1]
    assert report.signed(found) == "+10 (8 to 12)"
