"""A recorded result as a page."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lib.record import report, run_pages

RESULT = {
    "experiment": "one_layer", "seeds": [3, 4, 5], "parameters": {"length": 10, "note": "<b>"},
    "metrics": {"reverse_accuracy": [10.0, 20.0, 60.0], "lost": [None, 1.0, 2.0], "peak": [7.0]},
    "curves": {"steps": [0, 10, 100], "reverse_accuracy": [[0, 10, 20], [0, 20, 40], [0, 30, 90]],
               "loss": [3.0, 2.0, 1.0], "gap": [[None, 1, 2]] * 3, "never": [[None, None]] * 3,
               "by_module": {"a": {"b": 1}}, "deep": [[[1.0]]]},
    "provenance": {"commit": "abc", "device": "CPU", "seconds": 12.5, "versions": {"torch": "2"}, "registered": {}}}


class Whole(HTMLParser):
    """Every element that opens closes; counts the tags."""

    EMPTY = ("meta", "br", "polyline", "polygon")

    def __init__(self, page):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def page(**fields):
    return run_pages.result_html({**RESULT, **fields}, "one_layer/full_rope", [{"id": "table-1", "title": "Table 1"}])


def test_a_result_is_shown_whole():
    shown = page()
    assert Whole(shown).seen.count("svg") == 3
    assert "<b>" not in shown.replace("<figcaption><b>", "") and "&lt;b&gt;" in shown
    for text in ("full_rope.json", "abc", "12.5", "torch: 2", "ledger.html#claim-table-1", "3 seeds: 3, 4, 5"):
        assert text in shown, text
    assert "In the JSON only: never, by module, deep." in shown


def test_nested_parameters_have_a_line_each():
    shown = page(parameters={"subject": {"model": {}, "training": {"intervention": "none", "steps": 1000}}})
    for name, value in (("subject.training.intervention", "none"), ("subject.training.steps", "1000")):
        assert f'<th scope="row">{name}</th><td>{value}</td>' in shown
    assert "subject.model" not in shown


def test_metrics_have_the_mean_and_interval_that_the_book_prints():
    rows = {row["name"]: row for row in run_pages.metric_rows(RESULT["metrics"], RESULT["seeds"])}
    low, high = report.bootstrap_interval([10.0, 20.0, 60.0])
    assert rows["reverse accuracy"] == {
        "name": "reverse accuracy", "mean": "30", "interval": f"{low:.4g} to {high:.4g}", "range": "10 to 60"}
    assert rows["lost"]["mean"] == "1.5" and rows["lost"]["interval"] == "" and rows["peak"]["range"] == ""


def test_one_seed_has_no_interval():
    assert run_pages.metric_rows({"a": [1.0]}, [0])[0]["interval"] == ""


def test_a_curve_is_the_mean_over_seeds_within_their_range():
    drawn = run_pages.curve("x", np.array(RESULT["curves"]["reverse_accuracy"], dtype=float), [0, 10, 100])
    assert (drawn["low"], drawn["high"], drawn["last"], drawn["end"]) == ("0", "90", "100", "50")
    places = [tuple(map(float, point.split(","))) for point in drawn["mean"].split()]
    across = [(x - run_pages.MARGIN) / (run_pages.WIDTH - 2 * run_pages.MARGIN) for x, _ in places]
    up = [(run_pages.HEIGHT - run_pages.MARGIN - y) / (run_pages.HEIGHT - 2 * run_pages.MARGIN) for _, y in places]
    assert across == pytest.approx([0, 0.1, 1], abs=1e-3) and up == pytest.approx([0, 20 / 90, 50 / 90], abs=1e-3)
    assert len(drawn["band"].split()) == 6 and drawn["axis"] == "step"


def test_points_that_were_not_measured_are_left_out():
    drawn = run_pages.curve("x", np.array([[np.nan, 1, 2]]), None)
    assert len(drawn["mean"].split()) == 2 and not drawn["band"] and (drawn["first"], drawn["axis"]) == ("1", "point")


def test_the_execution_of_a_chapter_is_shown_too():
    record = {"chapter": "bounds", "cells": {"10": 1.5, "9": 0.5}, "commit": "abc", "device": "CPU", "profile": "quick",
              "seconds": 2.0, "started": "today", "versions": {"torch": "2"}, "parameters": {"base": 10000}}
    shown = run_pages.chapter_html(record, [])
    Whole(shown)
    assert "chapters/bounds" in shown and "10000" in shown and shown.index(">9<") < shown.index(">10<")


def test_the_list_names_every_result():
    shown = run_pages.list_html(["b/y", "a/x", "b/z"])
    Whole(shown)
    assert re.findall(r'href="([\w/]+)\.html"', shown) == ["a/x", "b/y", "b/z"]
