"""What is drawn of a run is what the run holds."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.one_layer import figures
from lib.one_layer.evaluation import PROTOCOLS
from lib.one_layer.paper_tables import PaperComparison
from lib.one_layer.stopping import STOPPING_RULES, Distance


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
    assert [line.get_label() for line in (curve, median)] == [
        "reverse queries", "reverse: median of the model's own weights"]


def test_readings_that_do_not_stop_everywhere_are_hatched_and_have_no_number():
    distances = {(name, rule): Distance(float(place), 2 if rule != "forward_96" else 1)
                 for place, name in enumerate(PROTOCOLS) for rule in STOPPING_RULES}
    distances["raw", "end"] = Distance(np.nan, 0)
    figure = figures.distance_heat_map(distances, {10: 43.1, 20: 55.7})
    panel = figure.axes[0]
    hatched = {(round(patch.get_x() + 0.5), round(patch.get_y() + 0.5)) for patch in panel.patches if patch.get_hatch()}
    assert hatched == {(3, row) for row in range(len(PROTOCOLS))} | {(0, 1)}
    assert len(panel.texts) == len(distances) - len(hatched)
    assert [text.get_text() for text in panel.texts[:3]] == ["0", "0", "0"]
    plt.close(figure)


def test_values_of_one_total_distance_are_drawn_as_their_mean_and_range():
    values = np.add.outer([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])  # of distances 1, 2, 3 each way
    mean, low, high = figures._by_total(values)
    assert low.tolist() == [11, 12, 13, 23, 33] and high.tolist() == [11, 21, 31, 32, 33]
    assert mean == pytest.approx([11, 16.5, 22, 27.5, 33])


def test_nothing_recorded_leaves_panels_empty():
    record = PaperComparison([])
    for draw in (figures.accuracy_beside_paper, figures.accuracy_along_training,
                 figures.target_probability_along_training,
                 lambda empty: figures.correlation_by_distance(empty, lambda total, width: 0.0)):
        plt.close(draw(record))
