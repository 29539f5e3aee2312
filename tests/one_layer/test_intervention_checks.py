"""A statement about recorded interventions is true where the runs say so, and false beside each of its thresholds."""

import numpy as np
import pytest
from made_up_interventions import growing, result

from lib.one_layer import intervention_checks as must
from lib.one_layer.intervention_results import layered
from lib.one_layer.intervention_runs import Sources
from lib.one_layer.results import Runs


def test_a_contrast_is_between_the_first_run_and_the_last_and_waits_for_both():
    shown, other, control = result(), result(depth=2), None
    told = must.contrast({"a": shown, "b": other, "c": control}, "here", lambda: {"a": [1, 3]})
    assert told["given"] == {"run": shown} and told["broken"] == {"run": None} and told["needs"]["c"] is None
    assert told["ours"]() == {"a": 2} and told["scope"]() == "here; length 10, 1000 steps, 2 seeds"


def test_both_halves_of_the_placeholder_claim_must_hold_in_every_run():
    erring = lambda share, letters: result(curves={
        "placeholder_share": [[0, share, share]] * 2, "reverse_accuracy_lowercase": [[0, letters, letters]] * 2})
    assert must.errors_are_placeholders([erring(90, 95), erring(99, 99)], -1)
    assert not must.errors_are_placeholders([erring(90, 95), erring(89, 99)], -1)
    assert not must.errors_are_placeholders([erring(99, 94)], -1)
    assert not must.errors_are_placeholders([erring(99, 99)], 0)


def test_a_run_without_the_blocking_loss_is_held_against_its_control_at_a_common_step():
    right, other = growing(96, 100), growing(90, 100, steps=(0, 100))
    assert must.all_answered(right, other) and not must.all_answered(other, right)
    told = must.dropped_against({"right": right, "other": other}, "here")
    assert told["ours"]() == 98 and told["spread"]() == pytest.approx(8**0.5) and told["seeds"]() == [0, 1]
    assert told["scope"]() == "here; near step 100; the control's mean: 95.0"
    named = must.dropped_against({"right": right, "other": other}, "here", lambda: {"a": [1, 3]})
    assert named["ours"]() == {"a": 2} and "spread" not in named


def test_an_effect_is_the_difference_with_its_interval():
    plain, changed, other = growing(0, 10), growing(70, 100), growing(20, 30)
    told = must.effect_over((plain, changed, other), "here")
    assert must.raises_by(**told["given"]) and not must.raises_by(**told["broken"])  # 85 to 25; 25 to 5
    assert told["ours"]()["dropped, less the control"] == 60 and told["scope"]() == "here; near step 1000"
    low, high = told["interval"]()["dropped, less the control"]
    assert 40 <= low < 60 < high and not must.raises_by(changed, other, 60.0)
    missing = must.effect_over(None, "here")
    assert list(missing["needs"].values()) == [None] * 3
    assert must.above_with_interval([5.0, 6.0], 4.9) and not must.above_with_interval([3.0, 60.0], 4.9)


def test_position_costs_what_more_than_chance_takes():
    laden, free, near = growing(*[10] * 5), growing(*[40] * 5), growing(*[19] * 5)
    assert must.costs_accuracy(laden, free) and not must.costs_accuracy(laden, near)
    assert not must.costs_accuracy(growing(10, 90), growing(50, 90))


def test_a_gradient_loses_its_reverse_component_if_the_forward_one_keeps_it():
    def late(training, forward):
        return result(curves={"first_order_cosine_training": [[-0.9, 0, training]] * 2,
                              "first_order_cosine_forward": [[1, 1, forward]] * 2})

    assert must.loses_reverse_component(late(0.1, 0.4), "last")
    assert must.loses_reverse_component(late(-0.1, 0.4), "last")
    assert not must.loses_reverse_component(late(0.1, 0.4), "first")
    assert not must.loses_reverse_component(late(0.1, 0.2), "last")


def test_a_signature_stands_out_only_if_every_layer_and_seed_does():
    def deep(low, mismatched=0.1):
        return result({"gradient_cosine_layer_1": [0.5, 0.6], "gradient_cosine_layer_2": [low, 0.3],
                       "gradient_cosine_mismatched_layer_1": [0.1, 0.1],
                       "gradient_cosine_mismatched_layer_2": [mismatched, 0.1]}, depth=2)

    assert layered(deep(0.2), "gradient_cosine", 2).tolist() == [0.2, 0.3]
    assert must.above_mismatched(deep(0.2), "gradient_cosine")
    assert not must.above_mismatched(deep(0.05), "gradient_cosine")
    assert not must.above_mismatched(deep(-0.1, mismatched=-0.5), "gradient_cosine")  # above, but not positive


def test_a_varied_setting_keeps_the_run():
    run = result()
    told = must.varied({"RoPE": run, "other": None}, "here", None, part=("mlp", "rest"), values=(1, 2))
    assert told["given"] == {"run": run, "part": "mlp", "values": 1}
    assert told["broken"] == {"run": run, "part": "rest", "values": 2}
    assert "ours" not in told and told["needs"] == {"RoPE": run, "other": None}


def patched(**accuracies):
    return result({f"graft_{name}_accuracy": [value - 1, value + 1] for name, value in accuracies.items()})


def test_a_patch_restores_only_in_every_seed_and_two_sites_must_beat_the_best_of_one():
    run = patched(itself=20, a=96, b=95)
    assert must.restores(run, "a") and not must.restores(run, "b")
    one = dict.fromkeys(must.ONE_SITE, 50)
    two = dict.fromkeys(must.TWO_SITES, 60)
    assert must.two_together_help(patched(**one, **two))
    assert not must.two_together_help(patched(**one | {"row_forward": 51}, **two))
    assert not must.two_together_help(patched(**one | {"values_forward": 96}, **dict.fromkeys(must.TWO_SITES, 110)))
    values = patched(itself=20, row_forward=29, values_forward=51)
    assert must.gains_more_than_the_row(values, "values_forward")
    assert not must.gains_more_than_the_row(values, "row_forward")
    assert not must.gains_more_than_the_row(patched(itself=20, row_forward=30, values_forward=51), "values_forward")


def test_the_own_weight_decides_if_no_other_does_as_well():
    run = lambda own, other: result({"broken_agreement": [own] * 2, "broken_agreement_other": [other] * 2})
    assert must.own_weight_decides([run(86, 83), run(100, 97)])
    assert not must.own_weight_decides([run(86, 83), run(100, 98)]) and not must.own_weight_decides([run(85, 0)])


def test_answers_directions_and_correlations():
    run = lambda forward, reverse, correlation: result({
        "forward_accuracy": forward, "reverse_accuracy": reverse, "score_correlation": correlation,
        "forward_attention": [0.6, 0.6], "reverse_attention": [0.5, 0.58]})
    right, wrong = run([100, 99], [99.5, 99], [1, 0.995]), run([100, 99], [0, 49], [1, 0.995])
    assert must.answers_in_reverse(right) and not must.answers_in_reverse(wrong)
    assert must.correlated_and_answering(right) and not must.correlated_and_answering(wrong)
    assert must.correlated_and_wrong(wrong) and not must.correlated_and_wrong(right)
    assert not must.correlated_and_wrong(run([100, 90], [0, 49], [1, 1]))
    assert not must.correlated_and_answering(run([100, 100], [99, 99], [1, 0.9]))
    assert must.less_attention_in_reverse(right)
    alike = result({"forward_attention": [0.6, 0.6], "reverse_attention": [0.5, 0.6]})
    assert not must.less_attention_in_reverse(alike)


def test_storage_and_route_are_necessary_if_nothing_is_answered_without():
    run = result({"graft_values_other_accuracy": [8, 10], "graft_itself_accuracy": [100, 100]},
                 {"dose": [0.0, 0.6], "reverse_by_dose": [[0, 100], [19, 100]], "quantile": [0.25, 0.5, 0.75],
                  "forward_shares": [[0.6] * 3] * 2, "reverse_shares": [[0.5] * 3] * 2})
    assert must.lost_without(run, 0.0, "values_other")
    assert not must.lost_without(run, 0.6, "values_other") and not must.lost_without(run, 0.0, "itself")
    assert must.answered_at_quartiles(run, "forward") and not must.answered_at_quartiles(run, "reverse")


def test_a_margin_is_lost_in_one_part():
    parts = {"evidence": 1, "placeholders": 1, "mask": 0, "residual": 0, "mlp": 5}
    run = result(curves={f"margin_{way}_{part}": [[0, loss * (way == "forward")]] * 2
                         for way in ("forward", "reverse") for part, loss in parts.items()})
    assert must.lost_in(run, "mlp") and not must.lost_in(run, "placeholders") and not must.lost_in(run, "evidence")


def test_changes_follow_the_prediction_near_the_diagonal_alone():
    predicted = np.array([1.0, -2.0, 3.0])
    run = result(curves={"first_order_adamw_predicted": [predicted.tolist()],
                         "first_order_adamw_realised": [(1.1 * predicted).tolist()],
                         "first_order_forward_predicted": [(-predicted).tolist()],
                         "first_order_forward_realised": [[-1] * 19 + [1]]})
    assert must.first_order(run, "adamw") and not must.first_order(run, "forward")
    assert must.mostly_lowers_loss(run, "forward") and not must.mostly_lowers_loss(run, "adamw")


def test_a_part_opposes_if_it_is_negative_and_below_the_rest_in_every_seed():
    run = result(curves={"first_order_cosine_blocking": [[-0.1] * 3, [-0.2] * 3],
                         "first_order_cosine_other": [[-0.1] * 3, [0.0] * 3],
                         "first_order_cosine_rest": [[0.1] * 3, [-0.1] * 3]})
    assert must.opposes_more_than_the_rest(run, "blocking") and not must.opposes_more_than_the_rest(run, "other")


def test_curves_that_fall_rise_and_move():
    run = result(curves={"falls": [[1, 1.04, 0.7]] * 2, "rises": [[0, 0.06, 0]] * 2, "steady": [[50, 50, 50]] * 2,
                         "forward_accuracy": [[0, 100, 100]] * 2, "moves": [[0, 10, 30], [0, 40, 50]]})
    assert must.ends_below_start([run], ["falls"]) and not must.ends_below_start([run], ["falls", "rises"])
    assert must.never_above_start([run], ["falls"]) and not must.never_above_start([run], ["falls", "rises"])
    assert must.moves_in_some([run], "moves") and not must.moves_in_some([run], "steady")


def test_this_build_lies_in_the_range_of_the_record_and_not_of_the_other_intervention():
    def run(end, steps, **parameters):
        curves = {f"{way}_accuracy": [[0, end, end], [0, end, end]] for way in ("forward", "reverse")}
        return result(curves=curves, **{"steps": steps, **parameters})

    cases = [{"encoding": encoding, "intervention": name} for encoding in ("rope", "learned")
             for name in ("none", "drop_right_of_capital")]
    ends = [20, 100, 40, 100]
    build, full = ([run(end, steps, **case) for case, end in zip(cases, ends, strict=True)] for steps in (1000, 2000))
    for each in full:
        each["curves"]["steps"] = [0, 100, 2000]
    found = lambda made: must.beginnings(Sources(Runs(tuple(made), {}), Runs(tuple(full), {}), Runs((), {})))
    pairs = found(build)
    assert len(pairs) == 4 and found(build[1:]) == {}
    off = pairs | {"rope, none": (run(41, 1000), pairs["rope, none"][1])}
    assert must.in_recorded_range(off, 21.0) and not must.in_recorded_range(off, 20.0)
    assert must.in_recorded_range(pairs, 15.0) and not must.in_recorded_range(pairs, 15.0, exchange=True)


def test_means_with_intervals_allow_single_seeds():
    late = lambda *training: result(curves={"first_order_cosine_training": [[0, 0, value] for value in training],
                                            "first_order_cosine_forward": [[1, 1, 0.6]] * len(training)})
    few_out = late(*[0.0] * 9, 0.3)
    assert must.loses_on_average(few_out, "last") and not must.loses_reverse_component(few_out, "last")
    assert not must.loses_on_average(late(0.1, 0.3, 0.2), "last")
    layers = lambda *over: result({"cosine_layer_1": list(over),
                                   "cosine_mismatched_layer_1": [0.0] * len(over)}, depth=1)
    assert must.above_mismatched_on_average(layers(*[0.2] * 9, -0.1), "cosine")
    assert not must.above_mismatched(layers(*[0.2] * 9, -0.1), "cosine")
    assert not must.above_mismatched_on_average(layers(0.2, -0.2, 0.1), "cosine")


def test_weights_are_compared_seed_by_seed():
    run = result({"graft_mass_forward_accuracy": [99, 100], "graft_mass_reverse_accuracy": [10, 60],
                  "graft_itself_accuracy": [5, 70], "broken_agreement": [90, 100], "broken_agreement_other": [88, 60],
                  "forward_attention": [0.5, 0.6], "reverse_attention": [0.4, 0.58]})
    assert must.weight_restores_more(run, "mass_forward") and not must.weight_restores_more(run, "itself")
    assert must.own_weight_says_more([run]) and must.less_attention_on_average(run)
    equal = result({**run["metrics"], "broken_agreement": [88, 100], "reverse_attention": [0.4, 0.595]})
    assert not must.own_weight_says_more([run, equal]) and not must.less_attention_on_average(equal)
