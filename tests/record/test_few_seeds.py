"""Intervals of few seeds: how often they hold the mean, and which outcomes change with the kind of interval."""

import numpy as np
import pytest
from scipy import stats

from lib.record import claims, claims_file, few_seeds, report


def test_the_t_interval_is_scipys():
    values = np.array([3.0, 5.0, 8.0, 9.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert report.t_interval(values) == pytest.approx((expected.low, expected.high))
    other = np.array([1.0, 1.5, 9.0])
    welch = stats.ttest_ind(values, other, equal_var=False).confidence_interval(0.95)
    assert report.welch_interval(other, values) == pytest.approx((welch.low, welch.high))
    assert report.t_interval([2.0, 2.0]) == (2, 2) and report.welch_interval([1.0, 1.0], [3.0, 3.0]) == (2, 2)
    with pytest.raises(ValueError, match="t_interval: needs two seeds, not 1"):
        report.t_interval([1.0])
    with pytest.raises(ValueError, match="welch_interval: needs two seeds a side, not 1 and 2"):
        report.welch_interval([1.0], [1.0, 2.0])


def test_a_bootstrap_interval_knows_the_t_interval_of_the_same_values():
    values, other = [3.0, 5.0, 8.0], [1.0, 1.5, 9.0]
    assert report.bootstrap_interval(values).t == report.t_interval(values)
    assert [each.t for each in report.bootstrap_intervals([values, other])] == [
        report.t_interval(values), report.t_interval(other)]
    assert report.effect(other, values).interval.t == report.welch_interval(other, values)


def test_within_student_intervals_every_interval_is_one_and_it_is_noted():
    values, other = [3.0, 5.0, 8.0], [1.0, 1.5, 9.0]
    before = report.bootstrap_interval(values)
    with report.student_intervals() as asked:
        assert report.bootstrap_interval(values) == report.t_interval(values) != before
        assert report.bootstrap_intervals([values, other])[1] == report.t_interval(other)
        assert report.difference_interval(other, values) == report.welch_interval(other, values)
    assert asked == ["bootstrap_interval", "bootstrap_intervals", "difference_interval"]
    assert report.bootstrap_interval(values) == before


def test_a_bootstrap_of_few_seeds_holds_the_mean_less_often_than_it_says():
    three, twenty = few_seeds.coverage(3), few_seeds.coverage(20)
    assert 68 < three["bootstrap"] < 80 and 90 < twenty["bootstrap"] < 96.5
    for found in (three, twenty):
        assert 92.5 < found["Student's t"] < 97.5
    assert "| seeds | 3 | 20 |" in few_seeds.coverage_table((3, 20))


@pytest.fixture
def registered(tmp_path, monkeypatch):
    path = tmp_path / "claims.yml"
    entry = """
- id: {0}
  title: A title
  source: project
  place: here
  statement: A statement
  hypotheses: []
  depends: []
  evidence: pattern
  chapter: encodings
  {1}checks:
    above: {{says: it is above, control: below, breaks: mutation}}
"""
    prediction = "prediction: {experiment: one, statistic: a mean, threshold: interval above 0, refuted_by: below}\n  "
    path.write_text(entry.format("told", prediction) + entry.format("untold", ""), encoding="utf-8")
    monkeypatch.setattr(claims_file, "CLAIMS", path)


def above_zero(values):
    return bool(report.bootstrap_interval(values)[0] > 0)


@pytest.mark.parametrize(("values", "student"), [([1.0, 9.0, 2.0], False), ([1.0, 1.1, 1.2], True)])
def test_a_registered_check_that_decides_by_an_interval_is_decided_by_the_other_too(registered, values, student):
    given = {"given": {"values": values}, "broken": {"values": [-1.0, -2.0, -3.0]}}
    found = claims.verify("told", "above", above_zero, **given, interval={"mean": report.bootstrap_interval(values)})
    assert found.holds and found.t_holds == student
    assert found.t_interval == {"mean": list(report.t_interval(values))} != found.interval
    row = {"id": "told", "title": "A title", "checks": [{"holds": found.holds, "t_holds": found.t_holds,
                                                         "says": found.says}]}
    assert few_seeds.decided_by_intervals([row]) and bool(few_seeds.otherwise_by_student([row])) != student
    table = few_seeds.otherwise_table([row])
    assert ('claims/told.html">A title</a> | it is above | holds | fails |' in table) != student


def test_a_check_that_neither_tells_an_interval_nor_was_registered_is_decided_once(registered):
    plain = claims.verify("told", "above", lambda up: up, given={"up": True}, broken={"up": False})
    assert plain.t_holds is None and plain.t_interval is None
    untold = claims.verify("untold", "above", above_zero, given={"values": [1.0, 9.0]}, broken={"values": [-1.0, -2.0]},
                           interval=(0.0, 1.0))
    assert untold.t_holds is None and untold.t_interval is None
    told = claims.verify("untold", "above", above_zero, given={"values": [1.0, 9.0]}, broken={"values": [-1.0, -2.0]},
                         interval=report.bootstrap_interval([1.0, 9.0]))
    assert told.holds and told.t_holds is False
