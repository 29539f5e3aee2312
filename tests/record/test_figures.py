"""Plots that several chapters draw."""

import matplotlib.pyplot as plt
import pytest

from lib.record import figures


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
