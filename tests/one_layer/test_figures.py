"""What is drawn of a run is what the run holds."""

import matplotlib.pyplot as plt
import pytest

from lib.one_layer import figures


@pytest.fixture
def axes():
    figure, axes = plt.subplots(layout="constrained")
    yield axes
    plt.close(figure)


def test_a_curve_along_training_is_the_mean_over_seeds_after_each_step(axes):
    run = {"curves": {"steps": [0, 9, 99], "reverse": [[0, 10, 30], [0, 20, 50]],
                      "watched": [4, 9], "cosine": [[1, 3], [3, 5]]}}
    figures.training_curve(axes, run, "reverse", label="a", color="black")
    figures.training_curve(axes, run, "cosine", by="watched")
    first, second = axes.get_lines()
    assert first.get_xydata().tolist() == [[1, 0], [10, 15], [100, 40]] and axes.get_xscale() == "log"
    assert second.get_xydata().tolist() == [[5, 2], [10, 4]] and first.get_label() == "a"


def test_a_window_shows_one_seed_and_the_middle_of_its_own_shares(axes):
    run = {"curves": {"dose": [0.0, 0.5, 1.0], "reverse_by_dose": [[0, 0, 0], [0, 100, 50]],
                      "quantile": [0.1, 0.25, 0.5, 0.75, 0.9], "reverse_shares": [[0] * 5, [0.2, 0.3, 0.4, 0.5, 0.7]]}}
    figures.attention_window(axes, run, 1, "reverse")
    curve, median = axes.get_lines()
    assert curve.get_ydata().tolist() == [0, 100, 50] and list(median.get_xdata()) == [0.4, 0.4]
    (middle,) = axes.patches
    assert middle.get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx([0.2, 0.7])
    assert [line.get_label() for line in (curve, median)] == ["reverse queries", "reverse: what the model does"]
