"""First measures on made-up runs that meet them, and on runs that miss one part of each."""

import numpy as np
import pytest

from lib.one_layer import first_measures as first


def run(metrics=(), curves=(), steps=100):
    return {"parameters": {"steps": steps}, "seeds": [0, 1], "metrics": dict(metrics),
            "curves": {"steps": [0, 10, steps]} | dict(curves)}


def windowed(reverse):
    """Answers at weights .2 to .4; forward queries give .3, reverse ones what is asked."""
    curve = [0.0, 0.0, 100.0, 100.0, 100.0, 0.0, 0.0]
    return run({"forward_attention": [0.3, 0.25], "reverse_attention": reverse},
               {"dose": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1], "reverse_by_dose": [curve, curve]})


def test_mean_weights_are_read_off_the_curve():
    assert first.at_mean_weight(windowed([0.15, 0.45]), "reverse") == pytest.approx([50, 50])
    assert first.mean_weights_decide(windowed([0.05, 0.6]), "forward", "reverse")
    assert not first.mean_weights_decide(windowed([0.05, 0.3]), "forward", "reverse")  # one seed answers all the same
    assert not first.mean_weights_decide(windowed([0.05, 0.6]), "reverse", "forward")


def test_every_run_must_agree():
    made = [run({"broken_agreement": pair}) for pair in ([90, 100], [84, 90])]
    assert first.own_weight_decides_everywhere(made)
    assert not first.own_weight_decides_everywhere([*made, run({"broken_agreement": [60, 100]})])


def test_curves_move_in_every_run_or_not():
    forward = {"forward_accuracy": [[0, 100, 100]] * 2}
    between, still = ({"reverse_accuracy": curve} for curve in ([[0, 10, 10], [0, 35, 35]], [[0, 10, 10], [0, 12, 12]]))
    in_time = {"reverse_accuracy": [[0, 40, 15], [0, 38, 14]]}
    assert first.moves_in_all([run(curves=forward | between), run(curves=forward | in_time)], "reverse_accuracy")
    assert not first.moves_in_all([run(curves=forward | between), run(curves=forward | still)], "reverse_accuracy")


def test_every_seed_must_end_below_its_start():
    made = [run(curves={"a": [[1, 1, 0.7], [0.9, 1, 0.5]], "b": [[1, 1, 0.7], [0.9, 1, 0.8]]})]
    assert first.every_seed_ends_below_start(made, ["a"]) and not first.every_seed_ends_below_start(made, ["a", "b"])


def test_one_part_opposes_and_the_rest_does_not():
    made = run(curves={"first_order_cosine_blocking": [[-0.1] * 3, [-0.2] * 3],
                       "first_order_cosine_rest": [[0.1] * 3, [0.0] * 3],
                       "first_order_cosine_mixed": [[0.1] * 3, [-0.01] * 3]})
    assert first.opposes_alone(made, "blocking", "rest") and not first.opposes_alone(made, "blocking", "mixed")
    assert not first.opposes_alone(made, "mixed", "rest")


def test_changes_of_both_kinds_of_steps_lie_near_their_prediction():
    predicted = np.array([[1.0, -2.0, 3.0], [-1.0, 0.5, 2.0]])
    scales = {"adamw_predicted": 1, "adamw_realised": 1.1, "forward_predicted": 1, "forward_realised": 0.4}
    made = run(curves={f"first_order_{name}": (scale * predicted).tolist() for name, scale in scales.items()})
    assert first.both_steps_follow(made, {"adamw": "adamw"})
    assert not first.both_steps_follow(made, {"adamw": "adamw", "forward": "forward"})  # slope .4


def test_answers_near_the_last_step():
    made = run(curves={"reverse_accuracy": [[0, 91, 40], [0, 95, 60]]}, steps=1000)
    assert first.every_seed_answers(made, {"parameters": {"steps": 10}}, 90.0)
    assert not first.every_seed_answers(made, {"parameters": {"steps": 1000}}, 90.0)


def test_correlated_and_right():
    right = {"score_correlation": [1.0, 0.995], "reverse_accuracy": [90, 100]}
    assert first.correlated_and_right(run(right))
    assert not first.correlated_and_right(run(right | {"reverse_accuracy": [89, 100]}))
    assert not first.correlated_and_right(run(right | {"score_correlation": [1, 0.9]}))


def test_shares_of_the_gain_are_read_at_the_runs_own_ends():
    plain, changed, other = (run(curves={"reverse_accuracy": [[0, 0, end]] * 2}, steps=steps)
                             for end, steps in ((20, 100), (100, 100), (40, 30)))
    assert first.shares_of_gain_at_ends({"x": (plain, changed, other)}) == {"x": 0.25}


def test_agreement_is_named_by_run():
    made = run({"broken_agreement": [90, 100]})
    made["parameters"] |= {"length": 20, "intervention": "none", "reversed_share": 0.01}
    (found,) = first.agreement_by_run([made]).items()
    assert found[0] == "L = 20, none, 0.01 reversed" and found[1].tolist() == [90, 100]
