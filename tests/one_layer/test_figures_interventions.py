"""What is drawn of the interventions is what their runs hold."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.one_layer import figures_interventions as draw
from lib.one_layer.loss_change import STEPS

WINDOW = {"dose": [0.0, 0.5, 1.0], "quantile": [0.1, 0.25, 0.5, 0.75, 0.9]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def run(seeds=2, metrics=None, **curves):
    return {"parameters": {"steps": 100, "depth": 2}, "seeds": list(range(seeds)), "metrics": metrics or {},
            "curves": {"steps": [0, 100], **curves}}


def test_where_nothing_is_recorded_the_figure_says_so():
    for figure in (draw.accuracy_without_blocking_loss({10: {"none": None}}),
                   draw.reverse_accuracy_by_patch({10: None}), draw.accuracy_by_reversed_share({"0 %": None}),
                   draw.accuracy_by_signature({"RoPE": None}),
                   draw.layer_signatures({2: None})):
        assert [text.get_text() for text in figure.texts] == ["not recorded at these settings"]


def test_only_lengths_with_all_runs_have_a_panel():
    curves = {"forward_accuracy": [[0, 90]], "reverse_accuracy": [[0, 10]]}
    whole = {name: run(1, **curves) for name in ("none", "drop_random", "drop_right_of_capital")}
    figure = draw.accuracy_without_blocking_loss({10: whole, 20: whole | {"none": None}})
    (panel,) = figure.axes
    assert [line.get_ydata()[-1] for line in panel.get_lines()] == [90, 10, 10, 10]


@pytest.mark.parametrize(("seeds", "drawn", "hidden"), [(2, 2, 0), (5, 5, 1), (8, 5, 1)])
def test_first_seeds_have_a_window_each(seeds, drawn, hidden):
    curves = {name: [[0, 50, 100]] * seeds for name in ("forward_by_dose", "reverse_by_dose")}
    shares = {name: [[0.1, 0.2, 0.3, 0.4, 0.5]] * seeds for name in ("forward_shares", "reverse_shares")}
    figure = draw.attention_windows(run(seeds, {"reverse_accuracy": list(range(seeds))}, **WINDOW, **curves, **shares))
    titles = [panel.get_title() for panel in figure.axes]
    assert titles[:drawn] == [f"seed {seed}: {seed} % in reverse" for seed in range(drawn)]
    assert titles[drawn:] == [""] * hidden


def test_the_parts_of_a_margin_and_their_sum():
    parts = {f"margin_{way}_{part}": [[0, 1], [0, 3]] for way in ("forward", "reverse")
             for part in ("evidence", "placeholders", "mask", "residual", "mlp")}
    figure = draw.margins({"RoPE": run(**parts)})
    forward, reverse = figure.axes
    assert [line.get_ydata()[-1] for line in forward.get_lines()] == [2, 2, 2, 4, 10]
    assert reverse.get_title() == "RoPE, reverse"


def test_predicted_and_realised_changes_lie_in_two_panels():
    changes = {f"first_order_{step}_{kind}": [[1.0, place], [3.0, 4.0]] for place, step in enumerate(STEPS)
               for kind in ("predicted", "realised")}
    cosines = {f"first_order_cosine_{name}": [[0, 1], [0, 1]] for name in ("forward", "training", "blocking", "rest")}
    figure = draw.training_gradient(run(first_order_steps=[0, 1], **changes, **cosines))
    above, adamw, descent = figure.axes
    assert len(above.get_lines()) == 5 and len(adamw.get_lines()) == 2 and len(descent.get_lines()) == 3
    assert np.array(adamw.get_lines()[0].get_ydata()).tolist() == [1, 0, 3, 4]


def test_each_layer_stands_beside_mismatched_facts():
    signatures = {f"{name}{kind}_layer_{layer}": [0.1, 0.2] for name in draw.SIGNATURES for kind in ("", "_mismatched")
                  for layer in (1, 2)}
    figure = draw.layer_signatures({2: run(metrics=signatures), 4: None})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1\nof 2", "2\nof 2"]


def test_points_of_each_kind_and_reversed_share():
    metrics = {"score_correlation": [0.1, 0.2], "gradient_cosine": [0.3, 0.4], "reverse_accuracy": [10, 20]}
    figure = draw.accuracy_by_signature({"RoPE": run(metrics=metrics), "none": None})
    (points,) = figure.axes[0].get_lines()
    assert points.get_xydata().tolist() == [[0.1, 10], [0.2, 20]]
    shares = draw.accuracy_by_reversed_share({"0 %": run(reverse_accuracy=[[0, 5]]), "1 %": None})
    assert [label.get_text() for label in shares.axes[0].get_yticklabels()] == ["0 % reversed"]
