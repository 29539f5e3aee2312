"""What recorded runs of the interventions say is read off their record, in the record's units."""

import numpy as np
import pytest
from made_up_interventions import growing, result

from lib.one_layer import intervention_results as read
from lib.one_layer.intervention_runs import Sources
from lib.one_layer.results import Runs


def test_measures_and_their_means():
    run = result({"reverse_accuracy": [10, 30], "forward_accuracy": [99, 100]})
    assert read.metric(run, "reverse_accuracy").tolist() == [10, 30]
    assert list(read.metrics(run, "reverse_accuracy", "forward_accuracy")) == ["reverse_accuracy", "forward_accuracy"]
    assert read.below([run], 20.1) == [run] and read.below([run], 20.0) == []


def test_seeds_without_errors_do_not_count_in_the_placeholders_share():
    run = result(curves={"placeholder_share": [[2, 50, np.nan], [4, 70, 98]]})
    assert read.mean_placeholder_share(run) == 98 and read.mean_placeholder_share(run, 0) == 3
    (shares,) = read.placeholder_shares([run]).items()
    assert shares[0] == "rope at 10, step 1000" and shares[1].mean() == 98


def test_shares_of_a_gain_by_encoding_and_control():
    plain, right, other = (growing(end, end, intervention=name) for end, name in (
        (20, "none"), (100, "drop_right_of_capital"), (40, "drop_random")))
    triples = read.gain_triples(Runs((plain, right, other), {}))
    assert read.shares_of_gain(triples) == {"rope, drop_random": 0.25}
    assert read.share_of_gain_intervals(triples) == {"rope, drop_random": (0.25, 0.25)}
    assert read.runs_of(triples | {"again": triples["rope, drop_random"]}) == [plain, right, other]


def test_triples_of_greater_lengths_are_whole_or_missing():
    made = [growing(end, end, profile="full", length=length, intervention=name) for length, end, name in (
        (20, 1, "none"), (20, 99, "drop_right_of_capital"), (20, 2, "drop_random"), (30, 1, "none"))]
    nothing = Runs((), {"length": 10})
    found = read.blocking_triples(Sources(nothing, Runs(tuple(made), {"length": 10}), nothing))
    assert found == {"rope, drop_random, L = 20": tuple(made[:3]), "rope, drop_random, L = 30": None,
                     "rope, drop_random, L = 40": None}


def test_runs_that_are_too_short_or_forgot_forward_count_as_not_recorded():
    runs = {"long": result(), "short": result(steps=999), "none": None}
    assert read.if_long(runs, 1000) == {"long": runs["long"], "short": None, "none": None}
    forward = lambda *ends: result(curves={"forward_accuracy": [[0, 0, end] for end in ends]})
    runs = {"learned": forward(95, 100), "not": forward(94, 100), "none": None}
    assert read.if_forward_learned(runs) == {"learned": runs["learned"], "not": None, "none": None}


def test_what_a_graft_gains_is_counted_from_the_untouched_answer():
    run = result({"graft_itself_accuracy": [10, 20], "graft_score_forward_accuracy": [100, 90]})
    assert read.patched_accuracy(run, "score_forward").tolist() == [100, 90]
    assert list(read.patched(run, "itself", "score_forward")) == ["itself", "score_forward"]
    assert read.patch_gain(run, "score_forward") == 80 and read.patch_gain(run, "itself") == 0


def test_agreement_with_the_own_and_with_another_share():
    run = result({"broken_agreement": [90, 100], "broken_agreement_other": [60, 80]})
    assert read.agreement(run) == 95 and read.agreement(run, "_other") == 70
    assert {name: each.mean() for name, each in read.agreements([run]).items()} == {
        "none, 0 reversed, own": 95, "none, 0 reversed, other": 70}
    (advantage,) = read.agreement_advantages([run]).values()
    assert advantage.mean() == 25 and len(advantage) == 2


def window():
    """Two seeds answer in a window of shares: 0 % at share 0, 100 % from .5 on, and the other way round."""
    return result(curves={"dose": [0.0, 0.5, 1.0], "reverse_by_dose": [[0, 100, 100], [100, 100, 0]],
                          "quantile": [0.1, 0.25, 0.5, 0.75, 0.9], "forward_shares": [[0.5] * 5, [0.1] * 5],
                          "reverse_shares": [[0, 0.1, 0.2, 0.3, 1.0], [0, 0.5, 0.75, 1.0, 1.0]]})


def test_answers_at_a_share_of_attention():
    assert read.at_weight(window(), 0.0).tolist() == [0, 100] and read.at_weight(window(), 0.5).tolist() == [100, 100]
    with pytest.raises(ValueError, match=r"weight 0\.6: tried were 0, 0\.5, 1"):
        read.at_weight(window(), 0.6)


def test_answers_at_the_quartiles_of_own_shares_are_read_between_the_tried_ones():
    assert read.at_quartiles(window(), "forward").tolist() == [[100] * 3, [100] * 3]
    assert read.at_quartiles(window(), "reverse") == pytest.approx(np.array([[20, 40, 60], [100, 50, 0]]))


def test_the_parts_of_a_margin_add_up_and_so_does_what_each_loses():
    draw = np.random.default_rng(0)
    names = [name for names in read.MARGIN_PARTS.values() for name in names]
    curves = {f"margin_{way}_{name}": draw.normal(size=(2, 3)) for way in ("forward", "reverse") for name in names}
    run = result(curves={name: values.tolist() for name, values in curves.items()})
    whole = sum(values for name, values in curves.items() if "reverse" in name)
    assert read.margin(run, "reverse") == pytest.approx(whole)
    assert sum(read.margin(run, "reverse", part) for part in read.MARGIN_PARTS) == pytest.approx(whole)
    rest = curves["margin_forward_mask"] + curves["margin_forward_residual"]
    assert read.margin(run, "forward", "rest") == pytest.approx(rest)
    mlp = curves["margin_forward_mlp"] - curves["margin_reverse_mlp"]
    assert read.margin_loss(run, "mlp") == pytest.approx(mlp[:, -1].mean())
    assert sum(read.margin_loss(run, part) for part in read.MARGIN_PARTS) == pytest.approx(read.margin_loss(run))
    both = read.margin_loss(run, "mlp") + read.margin_loss(run, "rest")
    assert read.margin_loss(run, "mlp", "rest") == pytest.approx(both)


def test_a_cosine_is_averaged_over_all_watched_steps_or_the_last_of_them():
    run = result(curves={"first_order_cosine_training": [[6, 5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0, 7]]})
    assert read.cosine(run, "training").tolist() == [3, 1]
    assert read.cosine(run, "training", "last").tolist() == [0.5, 3.5]  # the last two of seven
    assert read.cosine(run, "training", "first").tolist() == [5.5, 0]


def test_realised_changes_lie_on_a_line_through_the_predicted_ones():
    predicted = np.array([[1.0, -2.0, 3.0], [-1.0, 0.5, 2.0]])
    run = result(curves={"first_order_adamw_predicted": predicted.tolist(),
                         "first_order_adamw_realised": (1.5 * predicted).tolist(),
                         "first_order_sgd_predicted": (-predicted).tolist(),
                         "first_order_sgd_realised": [[-1, -1, 1], [0, -1, 1]]})
    assert read.changes(run, "adamw", "predicted").tolist() == [1, -2, 3, -1, 0.5, 2]
    assert read.line_through(run, "adamw", "adamw") == pytest.approx((1.5, 1))
    assert read.line_through(run, "sgd", "adamw") == pytest.approx((-1.5, -1))
    assert read.share_lowering_loss(run, "sgd") == 50
    assert read.share_lowering_loss(run, "adamw") == pytest.approx(100 / 3)
    made = run | {"seeds": [0, 1], "curves": run["curves"] | {
        name.replace("sgd", "forward"): curve for name, curve in run["curves"].items() if "sgd" in name}}
    told = read.told_lines(made)
    assert told["ours"]["adamw, slope"] == pytest.approx(1.5)
    assert told["interval"]["adamw, slope"] == pytest.approx((1.5, 1.5))
    both = read.line_through(made, "forward", "forward")
    assert (told["ours"]["forward, slope"], told["ours"]["forward, correlation"]) == pytest.approx(tuple(both))
    low, high = told["interval"]["forward, correlation"]
    assert low <= both.correlation <= high and low < high - 0.01
    assert read.shares_lowering_loss(made)["forward"].tolist() == pytest.approx([200 / 3, 100 / 3])


def trained():
    """Forward is learned at the second of four points; reverse accuracy moves after it, and much more before."""
    return result(curves={"steps": [0, 10, 100, 1000], "forward_accuracy": [[0, 92, 100, 100], [0, 100, 100, 100]],
                          "reverse_accuracy": [[90, 40, 60, 50], [0, 10, 20, 15]]})


def test_falls_and_rises_are_counted_from_the_start():
    assert read.drop_from_start(trained(), "reverse_accuracy") == 45 - 32.5
    assert read.drop_from_start(trained(), "reverse_accuracy", 1) == 20
    assert read.peak_over_start(trained(), "reverse_accuracy") == 0
    assert read.peak_over_start(trained(), "forward_accuracy") == 100
    assert read.drops_from_start(trained(), "reverse_accuracy").tolist() == [40, -15]
    assert read.peaks_over_start(trained(), "reverse_accuracy").tolist() == [0, 0]  # the mean is highest at the start
    assert read.peaks_over_start(trained(), "forward_accuracy").tolist() == [100, 100]


def test_moves_count_from_where_forward_is_learned():
    assert read.learned_from(trained()) == 1 and read.learned_from(trained(), above=96.0) == 2
    assert read.late_range(trained(), "reverse_accuracy") == (35, 20)
    assert read.late_ranges({10: trained()}, "reverse_accuracy") == {"L = 10, between seeds": 35, "L = 10, in time": 20}
    with pytest.raises(ValueError, match="never above 100 percent"):
        read.learned_from(trained(), above=100.0)
