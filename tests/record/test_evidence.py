"""What a check is told of values over seeds: read only when asked, and with the numbers of `report`."""

import numpy as np
import pytest

from lib.record import evidence, report


def test_means_have_an_interval_by_name_or_alone():
    told = evidence.told_means(lambda: {"a": [10, 30], "one seed": [5]})
    assert told["ours"]() == {"a": 20, "one seed": 5}
    assert told["interval"]() == {"a": (10, 30), "one seed": None}
    assert evidence.told_means(np.array([10, 30]))["ours"]() == 20


def test_a_summary_has_means_spreads_and_intervals_by_name():
    found = {name: of() for name, of in evidence.told_summary({"a": [1.0, 3.0], "b": [2.0, 2.0]}).items()}
    assert found == {"ours": {"a": 2, "b": 2}, "spread": {"a": pytest.approx(2**0.5), "b": 0},
                     "interval": {"a": (1, 3), "b": (2, 2)}}
    single = evidence.told_summary(lambda: {"a": [1.0, 3.0], "b": [2.0]})
    assert single["interval"]() is None and single["spread"]()["b"] is None


def test_effects_have_their_interval_and_their_size_where_it_is_finite():
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]
    found = report.effect(low, high)
    told = evidence.told_effects(lambda: {"apart": (low, high), "without spread": ([0.0, 0.0], [1.0, 1.0])})
    assert told["ours"]() == {"apart": 10, "apart, Hedges' g": found.standardised, "without spread": 1}
    assert told["interval"]() == {"apart": found.interval, "without spread": (1, 1)}


@pytest.mark.parametrize("told", [evidence.told_means, evidence.told_summary, evidence.told_effects])
def test_what_a_missing_run_would_give_is_not_read(told):
    def missing():
        raise KeyError("no such run")

    parts = told(missing)
    assert {"ours", "interval"} <= set(parts)
    with pytest.raises(KeyError, match="no such run"):
        parts["ours"]()
