"""What a run of `lib.one_layer.causes` says is read off its record, in the record's units."""

import numpy as np
import pytest

from lib.one_layer import intervention_results as read
from lib.one_layer.results import STANDARD


def result(metrics=None, curves=None, **parameters):
    return {"parameters": {**STANDARD, "steps": 1000, **parameters}, "seeds": [0, 1], "metrics": metrics or {},
            "curves": {"steps": [0, 100, 1000], **(curves or {})}}


def test_measures_and_their_means():
    run = result({"reverse_accuracy": [10, 30], "forward_accuracy": [99, 100]})
    assert read.metric(run, "reverse_accuracy").tolist() == [10, 30]
    assert read.means(run, "reverse_accuracy", "forward_accuracy") == {"reverse_accuracy": 20, "forward_accuracy": 99.5}
    assert read.below([run], 20.1) == [run] and read.below([run], 20.0) == []


def test_a_summary_is_as_wide_for_a_run_for_one_without_attention_and_for_none():
    metrics = {"forward_accuracy": [99, 100], "reverse_accuracy": [10, 30], "reverse_accuracy_lowercase": [98, 98],
               "score_correlation": [0.5, 0.7]}
    whole = read.summary_row(result(metrics | {"forward_attention": [0.5, 0.6], "reverse_attention": [0.2, 0.2]}))
    assert whole == ["1000", "99.5 (99–100)", "20.0 (10–30)", "98.0 (98–98)", "0.55 / 0.20", "0.60 (0.5–0.7)"]
    deep = read.summary_row(result(metrics))
    assert deep == [*whole[:4], "–", whole[5]]
    assert read.summary_row(None) == ["not run", *[""] * 5]


def test_seeds_without_errors_do_not_count_in_the_placeholders_share():
    run = result(curves={"placeholder_share": [[2, 50, np.nan], [4, 70, 98]]})
    assert read.mean_placeholder_share(run) == 98 and read.mean_placeholder_share(run, 0) == 3


def test_what_a_graft_gains_is_counted_from_the_untouched_answer():
    run = result({"graft_itself_accuracy": [10, 20], "graft_score_forward_accuracy": [100, 90]})
    assert read.patched_accuracy(run, "score_forward").tolist() == [100, 90]
    assert read.patched_means(run, "itself", "score_forward") == {"itself": 15, "score_forward": 95}
    assert read.patch_gain(run, "score_forward") == 80 and read.patch_gain(run, "itself") == 0


def test_agreement_with_the_own_and_with_another_share():
    run = result({"broken_agreement": [90, 100], "broken_agreement_other": [60, 80]})
    assert read.agreement(run) == 95 and read.agreement(run, "_other") == 70


def window():
    """Two seeds answer in a window of shares: 0 % at share 0, 100 % from .5 on, and the other way round."""
    return result(curves={"dose": [0.0, 0.5, 1.0], "reverse_by_dose": [[0, 100, 100], [100, 100, 0]],
                          "quantile": [0.1, 0.25, 0.5, 0.75, 0.9], "forward_shares": [[0.5] * 5, [0.1] * 5],
                          "reverse_shares": [[0, 0.1, 0.2, 0.3, 1.0], [0, 0.5, 0.75, 1.0, 1.0]]})


def test_answers_at_a_share_of_attention():
    assert read.at_share(window(), 0.0) == 50 and read.at_share(window(), 0.5) == 100
    with pytest.raises(ValueError, match=r"share 0\.6: tried were 0, 0\.5, 1"):
        read.at_share(window(), 0.6)


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
    assert read.cosine(run, "training", 3).tolist() == [0.5, 3.5]  # the last two of seven


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


def test_a_signature_stands_out_only_if_every_layer_and_seed_does():
    def deep(low, mismatched=0.1):
        return result({"gradient_cosine_layer_1": [0.5, 0.6], "gradient_cosine_layer_2": [low, 0.3],
                       "gradient_cosine_mismatched_layer_1": [0.1, 0.1],
                       "gradient_cosine_mismatched_layer_2": [mismatched, 0.1]}, depth=2)

    assert read.layered(deep(0.2), "gradient_cosine", 2).tolist() == [0.2, 0.3]
    assert read.above_mismatched(deep(0.2), "gradient_cosine")
    assert not read.above_mismatched(deep(0.05), "gradient_cosine")
    assert not read.above_mismatched(deep(-0.1, mismatched=-0.5), "gradient_cosine")  # above, but not positive


def test_ranks_over_runs_ignore_the_scale():
    runs = [result({"cosine": [value, value + 2], "opposite": [-value] * 2, "reverse_accuracy": [value**3] * 2})
            for value in (3, 1, 2, 7)]
    assert read.rank_correlation(runs, "cosine") == pytest.approx(1)
    assert read.rank_correlation(runs, "opposite") == pytest.approx(-1)


def trained():
    """Forward is learned at the second of four points; reverse accuracy moves after it, and much more before."""
    return result(curves={"steps": [0, 10, 100, 1000], "forward_accuracy": [[0, 92, 100, 100], [0, 100, 100, 100]],
                          "reverse_accuracy": [[90, 40, 60, 50], [0, 10, 20, 15]]})


def test_falls_and_rises_are_counted_from_the_start():
    assert read.drop_from_start(trained(), "reverse_accuracy") == 45 - 32.5
    assert read.drop_from_start(trained(), "reverse_accuracy", 1) == 20
    assert read.peak_over_start(trained(), "reverse_accuracy") == 0
    assert read.peak_over_start(trained(), "forward_accuracy") == 100


def test_moves_count_from_where_forward_is_learned():
    assert read.learned_from(trained()) == 1 and read.learned_from(trained(), above=96.0) == 2
    assert read.late_range(trained(), "reverse_accuracy") == [35, 20]
    with pytest.raises(ValueError, match="never above 100 percent"):
        read.learned_from(trained(), above=100.0)
