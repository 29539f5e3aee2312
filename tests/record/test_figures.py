"""Plots that several chapters draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.record import figures


@pytest.fixture
def axes():
    figure, axes = plt.subplots(layout="constrained")
    yield axes
    plt.close(figure)


@pytest.mark.parametrize("across", [False, True])
def test_dots_show_every_value_and_their_mean(across: bool) -> None:
    axes = plt.figure().add_subplot()
    figures.dots(axes, 3.0, [1.0, 2.0, 6.0], across=across, **figures.LINES["forward"])
    (drawn,), (bar,) = axes.lines, axes.collections
    values, places = (drawn.get_xdata(), drawn.get_ydata())[:: 1 if across else -1]
    assert list(values) == [1.0, 2.0, 6.0] and len(set(places)) == 3 and abs(places - 3).max() < 0.5
    assert {point[0 if across else 1] for point in bar.get_segments()[0]} == {3.0}  # the mean of the values
    assert drawn.get_linestyle() == "None"
    plt.close()


def test_dots_of_nothing_are_nothing() -> None:
    axes = plt.figure().add_subplot()
    figures.dots(axes, 0.0, [])
    assert not axes.lines and not axes.collections
    plt.close()


def test_rows_run_from_the_top_and_a_case_without_values_keeps_its_row(axes):
    cases = [("one", [10, 20], figures.LINES["reverse"]), ("two", [], figures.LINES["control"]),
             ("three", np.array([5.0]), figures.LINES["forward"])]
    figures.dot_rows(axes, cases)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two", "three"]
    assert axes.yaxis_inverted()
    figures.dot_rows(axes, cases)  # a second panel on the same axis does not turn it round again
    assert axes.yaxis_inverted()
    first, second = axes.get_lines()[:2]
    assert first.get_xdata().tolist() == [10, 20] and np.abs(first.get_ydata()).max() < 0.2
    assert second.get_xdata().tolist() == [5] and second.get_ydata().tolist() == [2]


def test_the_legend_below_names_what_one_panel_shows(axes):
    for name in ("a", "b", "c"):
        axes.plot([0, 1], label=name)
    figures.legend_below(axes.figure, axes, 2)
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"] and legend._ncols == 2


def test_rows_without_runs_say_so_at_their_places(axes):
    axes.set(xlim=(0, 2), ylim=(-1, 4))
    figures.note_not_run(axes, [1, 3])
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [
        ("not run here", (0.5, 1)), ("not run here", (0.5, 3))]
    figures.note_not_run(axes, [])
    assert len(axes.texts) == 2
