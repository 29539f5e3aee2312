"""The figure on the midpoint: its numbers are those of `lib.theory.late_training`."""

import played
import pytest

from lib.theory.figures_midpoint import LOG_TIME, midpoint
from lib.theory.late_training import Separator, Task, reverse_limit_with_placeholder, solve_flow

#: attention of forward prompts, placeholder prompts and the reverse query, and log time
SETTINGS = [(0.5, 0.3, 0.35, 8), (0.5, 0.3, 0.42, 5), (0.3, 0.5, 0.35, 12), (0.9, 0.88, 0.5, 7), (0.02, 0.01, 0.5, 5),
            (1.0, 0.01, 0.3, 40), (0.01, 1.0, 0.3, 9), (0.7, 0.1, 0.4, 6), (0.5, 0.5, 0.6, 10), (1.0, 1.0, 0.5, 6)]


@pytest.fixture(scope="module")
def figure():
    return midpoint(0.5, 0.3, 0.35, 26)


@pytest.fixture(scope="module")
def page(browser, figure):
    with played.opened(browser, figure) as page:
        yield page


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_page_shows_what_the_library_computes(page, figure, setting):
    plus, minus, reverse, log_time = setting
    found = played.shown(page, figure, alpha_plus=plus, alpha_minus=minus, alpha_reverse=reverse, log_time=log_time)
    task = Task(plus, minus, 26)
    limit, threshold = reverse_limit_with_placeholder(plus, minus, reverse, 26)
    flow = solve_flow(task, log_time, 2)
    assert found["forward"] == pytest.approx(flow.probability(plus)[-1], abs=1e-6)
    assert found["reverse"] == pytest.approx(flow.probability(reverse)[-1], abs=1e-6)
    assert found["limit"] == pytest.approx(limit, abs=1e-6)
    if task.gap:
        separator = Separator(task)
        assert found["midpoint"] == pytest.approx(threshold, abs=1e-6)
        assert found["margin"] == pytest.approx(reverse * separator.x + (1 - reverse) * separator.y, abs=1e-6)
    else:
        assert found["margin"] == "none"


def test_exactly_on_the_midpoint_the_limit_lies_between(page, figure):
    for plus, minus in ((0.5, 0.3), (0.3, 0.5), (0.9, 0.1)):
        found = played.shown(page, figure, alpha_plus=plus, alpha_minus=minus, alpha_reverse=(plus + minus) / 2)
        limit, _ = reverse_limit_with_placeholder(plus, minus, (plus + minus) / 2, 26)
        assert 0 < limit < 1 and found["limit"] == pytest.approx(limit, abs=1e-6)
        assert "exactly on the midpoint" in page.locator(".play-words").inner_text()


def test_each_slider_moves_the_numbers_that_depend_on_it_and_no_others(page, figure):
    start = {"alpha_plus": 0.5, "alpha_minus": 0.3, "alpha_reverse": 0.35, "log_time": 8}
    before = played.shown(page, figure, **start)
    for name, value, moved in (("alpha_plus", 0.7, {"midpoint", "margin", "forward", "reverse"}),
                               ("alpha_minus", 0.1, {"midpoint", "margin", "forward", "reverse", "limit"}),
                               ("alpha_reverse", 0.45, {"margin", "reverse", "limit"}),
                               ("log_time", 5, {"forward", "reverse"})):
        found = played.shown(page, figure, **start | {name: value})
        assert {key for key in found if found[key] != before[key]} == moved, name


def test_crossing_the_midpoint_changes_the_verdict(page, figure):
    played.shown(page, figure, alpha_plus=0.5, alpha_minus=0.3, alpha_reverse=0.39)
    assert "in the limit it is not answered" in page.locator(".play-words").inner_text()
    played.shown(page, figure, alpha_reverse=0.41)
    assert "in the limit it is answered" in page.locator(".play-words").inner_text()


def test_the_figure_begins_where_it_is_told_and_is_small(figure):
    own = midpoint(0.612, 0.3, 0.405)
    assert {slider.name: slider.start for slider in own.sliders} == {
        "alpha_plus": 0.612, "alpha_minus": 0.3, "alpha_reverse": 0.405, "log_time": 8}
    assert len(figure.html) < 100_000 and max(figure.sliders[-1].stops) == LOG_TIME
    with pytest.raises(ValueError, match="alpha_reverse"):
        midpoint(0.5, 0.3, 0.0)
