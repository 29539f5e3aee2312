"""Checks of recorded runs: each is true of runs made to satisfy it, and false once what it says is not so."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_up_runs import LAYERS, MASKED, TWIN, made, runs_of

from lib.language_models import figures_pretrained, name_ranks, pretrained_tables
from lib.language_models import pretrained_results as results
from lib.language_models.filled_names import FILLINGS
from lib.language_models.pretrained_results import RUN_CONDITIONS
from lib.language_models.wrong_answers import PIECE_SHARES
from lib.record import claims
from pipeline import experiments

CONDITIONS = list(RUN_CONDITIONS)


def both(masked=MASKED, twin=TWIN, **other):
    """Five seeds of the two twins, and of other conditions by number in `CONDITIONS`."""
    pairs = {"masked": masked, "autoregressive": twin, **other}
    return runs_of(*(made(condition, seed, values) for condition, values in pairs.items() for seed in range(5)))


def test_the_runs_of_a_condition_are_those_and_no_others():
    runs = both()
    assert list(runs.find("masked")) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(runs.metric("reverse_accuracy"), [5.0, 5.1, 5.2, 5.3, 5.4])
    assert runs.find("masked, whole entities") == {} and runs.recorded(CONDITIONS) == ["masked", "autoregressive"]
    moved = runs_of(made("masked", 0, MASKED, start="elsewhere"), made("masked", 1, MASKED, data="generated"))
    assert moved.find("masked") == {}
    converted = runs_of(*(made(condition, seed, MASKED) for condition in CONDITIONS[-3:] for seed in (0, 1)))
    assert converted.find("masked") == {} and converted.recorded(CONDITIONS) == CONDITIONS[-3:]
    assert converted.find(CONDITIONS[-1])[1]["parameters"]["start"] == "masked_adapter"
    assert runs_of(made("masked", 3, MASKED)).recorded(CONDITIONS) == []  # one seed says nothing
    assert runs.curves("step").shape == (5, 2) and runs.curves("step", "published").shape == (0, 0)
    twice = runs_of(*(made("masked", seed, MASKED) for seed in (0, 1, 1)))
    with pytest.raises(ValueError, match="masked: two recorded runs have one seed"):
        twice.find("masked")


def test_every_planned_run_is_of_a_condition():
    planned = [run for run in experiments.experiments("pretrained", "full").values()
               if run["module"] == "lib.language_models.pretrained_run"]
    assert len(planned) == results.planned()
    standard = {"kind": "masked", "dataset": "p2c", "masking": "any", "replay": 0.5}
    asked = [{**standard, **{key: value for key, value in run["fixed"].items() if key != "seed"}} for run in planned]
    for each in asked:
        each.pop("along", None)  # what is measured besides
        if "start" in each:
            each["conversion"] = each.pop("start").rpartition("_")[2]
    wanted = [{**standard, **change} for change in RUN_CONDITIONS.values()]
    assert all(each in wanted for each in asked) and all(each in asked for each in wanted)


@pytest.mark.parametrize(("when", "gains"), [("", [30.0, 10.0]), ("before_", [0.0, 0.0])])
def test_what_the_question_adds_to_a_first_token_is_asked_of_runs_that_measured_both(when, gains):
    asked, replaced = f"{when}reverse_length_first_token_given", f"{when}reverse_first_token_question_masked"
    runs = runs_of(*(made(results.FROM_KEPT, seed, MASKED | {asked: 90.0} | (
        {replaced: 90.0 - gains[seed - 3]} if seed > 2 else {})) for seed in range(5)))
    adds = lambda points: results.question_adds(runs, "question masked", when=when, points=points)
    assert adds(19) == (not when) and not adds(21)
    if not when:
        told = results.question_gains_told(runs, "question masked")
        assert told["ours"]() == pytest.approx(  # `made` adds a tenth a seed
            {"with the question": 90.35, "question masked": 70.35, "gain": 20.0})


@pytest.mark.parametrize(("check", "masked", "twin"), [
    (lambda runs: results.forward_only(runs), {}, {"reverse_accuracy": 6.0}),
    (lambda runs: results.forward_only(runs), {}, {"forward_accuracy": 70.0}),
    (lambda runs: results.rank_gain(runs, "masked", "autoregressive"), {"reverse_first_without_prior": 20.0}, {}),
    (lambda runs: results.exact_gain(runs, "masked", "autoregressive", points=3), {"reverse_accuracy": 2.0}, {}),
    (lambda runs: results.learned_left(runs), {"left_first_without_prior": 40.0}, {}),
    (lambda runs: results.written_rarely(runs), {"reverse_accuracy": 15.0}, {}),
    (lambda runs: results.repeats_shown_name(runs), {"reverse_free_mixture": 5.0}, {}),
    (lambda runs: results.forbidding_helps(runs), {"reverse_forbidden_right": 15.0}, {}),
    (lambda runs: results.cosine_gap(runs), {"cosine_mismatched": 55.0}, {}),
    (lambda runs: results.patch_closes(runs), {"patching_gap_logit_difference": 10.0}, {}),
])
def test_a_check_holds_of_what_it_says_and_of_nothing_else(check, masked, twin):
    assert check(both())
    assert not check(both({**MASKED, **masked}, {**TWIN, **twin}))


def test_the_controls_of_the_checks_fail():
    runs = both()
    assert not results.forward_only(runs, turn=True)
    assert not results.rank_gain(runs, "masked", "autoregressive", when="before_")
    assert not results.exact_gain(runs, "masked", "autoregressive", asked="forward", points=3)
    assert not results.learned_left(runs, when="before_") and not results.written_rarely(runs, direction="forward")
    assert not results.repeats_shown_name(runs, direction="forward")
    assert not results.forbidding_helps(runs, direction="forward") and not results.cosine_gap(runs, turn=True)
    assert not results.patch_closes(runs, "knockout_reverse")


def test_the_last_variant_is_the_patch_of_all_layers():
    np.testing.assert_allclose(results.patch_share(both()), [2 / (4 + seed / 10) for seed in range(5)])


def test_a_difference_that_seeds_disagree_about_is_none():
    wild = runs_of(*(made("masked", seed, {**MASKED, "reverse_first_without_prior": value})
                     for seed, value in enumerate((100.0, 0.0, 90.0, 0.0, 0.0))),
                   *(made("autoregressive", seed, TWIN) for seed in range(5)))
    assert wild.metric("reverse_first_without_prior").mean() > 25
    assert not results.rank_gain(wild, "masked", "autoregressive")


def test_what_is_told_of_a_check():
    told = both().evidence({"reverse": ("reverse_accuracy", "masked")})
    assert told["ours"]()["reverse"] == pytest.approx(5.2) and told["seeds"]() == [[0, 1, 2, 3, 4]]
    low, high = told["interval"]()["reverse"]
    assert 5 <= low < 5.2 < high <= 5.4 and len(told["needs"]) == 5
    first = "reverse_first_without_prior"
    gap = both().difference((first, "masked"), (first, "autoregressive"))
    assert gap["ours"]()["difference"] == pytest.approx(65) and len(gap["needs"]) == 10
    closed = results.patch_shares_told(both())["ours"]()
    assert closed["closed by the same fact's weights"] == pytest.approx(0.476, abs=1e-3)


def test_a_check_without_its_runs_is_skipped_and_names_them():
    skipped = claims.verify("smollm-curse", "forward-only", results.forward_only, given={"runs": runs_of()},
                            broken={"runs": runs_of(), "turn": True},
                            **runs_of().evidence({"reverse": ("reverse_accuracy", "autoregressive")}))
    assert isinstance(skipped, claims.Skip) and "autoregressive, two seeds" in str(skipped)


def left_out(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ")


@pytest.mark.parametrize("runs", [runs_of(), both()], ids=["nothing recorded", "two conditions"])
def test_tables_and_figures_show_what_is_there(runs):
    table = pretrained_tables.conditions_table(runs)
    assert ("| masked | 5 | 95 (95 to 95) | 5 (5 to 5) |" in table) == bool(runs.results)
    assert "| published | 0 | not run here |" in table and "| LLaDA-8B, p2c, as printed |  | 76.7 | 48.3 |" in table
    if runs.results:  # a measure that one run alone holds
        runs.results[0]["metrics"]["reverse_contained"] = [40.0]
        assert pretrained_tables.mean_with_interval(runs, "reverse_contained", "masked") == "–"
        assert pretrained_tables.conditions_table(runs)
    student = pretrained_tables.student_interval(runs, "reverse_accuracy", "masked")
    assert student == ("5 to 5" if runs.results else "not run here")
    patched = pretrained_tables.patch_with_interval(runs)
    mean = np.mean([200 / (4 + seed / 10) for seed in range(5)])
    assert patched.startswith(f"{mean:.0f} (46 to 4" if runs.results else "not run here"), patched
    figures_pretrained.written_and_ranked(runs, ["masked", "autoregressive", "published"])
    bars = figures_pretrained.kinds_of_answers(runs, ["masked", "autoregressive"]).axes[0].patches
    assert len(bars) == (8 * len(name_ranks.ANSWER_KINDS) if runs.results else 0)
    figure = figures_pretrained.first_by_condition(runs, CONDITIONS)
    missing = [condition for condition in CONDITIONS if not runs.find(condition)]
    assert left_out(figure) == f"Not run here: {'; '.join(missing)}."
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == runs.recorded(CONDITIONS)
    assert not left_out(figures_pretrained.first_by_condition(runs, runs.recorded(CONDITIONS)))
    lines = figures_pretrained.probabilities_along(runs, ["masked"]).axes[0].get_lines()
    assert len(lines) == (12 if runs.results else 0)
    figures_pretrained.trained_signatures_by_layer(runs, ["masked", "autoregressive"])
    panel = figures_pretrained.recorded_patching_by_layer(runs).axes[0]
    drawn = [line for line in panel.get_lines() if len(line.get_xdata()) == LAYERS]
    assert len(drawn) == (3 if runs.results else 0)
    plt.close("all")


def test_signatures_along_a_run_are_those_of_the_runs_that_measured_them():
    runs = both()
    for seed in (3, 4):
        runs.results[seed]["curves"] |= {f"along_{name}_{word}": [50.0, 10.0 * seed]
                                         for name in ("correlation", "cosine") for word in ("matched", "mismatched")}
    np.testing.assert_allclose(runs.curves_along("along_cosine_matched"), [[50, 30], [50, 40]])
    correlation, cosine = figures_pretrained.signatures_along(runs, ["masked", "autoregressive"]).axes
    for panel in (correlation, cosine):  # two seeds and their mean, of one fact and of two; the line at zero
        assert len(panel.get_lines()) == 7 and panel.get_lines()[2].get_ydata()[-1] == pytest.approx(0.35)
    assert figures_pretrained.signatures_along(runs, ["autoregressive"]) is None
    plt.close("all")


def measured_lengths(condition="masked", **changed):
    """Five seeds, of which the last two measured answers of known length."""
    values = {f"{side}_length_{way.replace(' ', '_')}": 96.0 for side in ("forward", "reverse") for way in FILLINGS}
    values |= {"reverse_free_right": 60.0, "reverse_length_most_certain_first": 80.0, "forward_free_right": 94.0,
               "before_reverse_length_first_token_given": 20.0, **changed}
    return runs_of(*(made(condition, seed, MASKED | (values if seed > 2 else {})) for seed in range(5)))


def test_answers_of_known_length_are_compared_in_the_runs_that_measured_them():
    runs = measured_lengths()
    assert list(runs.measured("reverse_length_at_once")) == [3, 4] and len(runs.metric("reverse_free_right")) == 5
    np.testing.assert_allclose(results.length_gains(runs), [20, 20])
    told = results.length_gains_told(runs)
    assert told["ours"]() == {"gain": pytest.approx(20)} and told["seeds"]() == [[3, 4]]
    assert results.length_helps(runs) and not results.length_helps(runs, direction="forward")
    assert not results.length_helps(measured_lengths(reverse_length_most_certain_first=70.0))
    assert results.first_token_suffices(runs) and not results.first_token_suffices(runs, when="before_")
    described = "masked, description to person"
    long = measured_lengths(described, reverse_length_most_certain_first=40.0)
    assert results.too_long_to_write(long, described)
    assert not results.too_long_to_write(long, described, direction="forward")
    one = runs_of(*runs.results[:4])  # a single run with the measure says nothing
    assert one.measured("reverse_length_at_once") == {}
    assert isinstance(claims.verify("smollm-length", "length-helps", results.length_helps, given={"runs": one},
                                    broken={"runs": one, "direction": "forward"}, **results.length_gains_told(one)),
                      claims.Skip)


def kept_runs(**changed):
    """Three seeds fine-tuned from the kept model, beside five of the whole conversion."""
    values = {"reverse_first_without_prior": 90.0, "before_reverse_first_without_prior": 5.0, "reverse_accuracy": 45.0}
    for when, shares in (("", (50.0, 25.0, 75.0, 10.0)), ("before_", (4.0, 4.0, 8.0, 8.0))):
        values |= {f"{when}reverse_wrong_{name}": share for name, share in zip(PIECE_SHARES, shares, strict=False)}
    return runs_of(*(made(results.FROM_KEPT, seed, MASKED | values | changed) for seed in range(3)),
                   *(made("masked", seed, MASKED | {"reverse_accuracy": 60.0}) for seed in range(5)))


def test_pieces_of_wrong_answers_are_compared_seed_by_seed():
    runs = kept_runs()
    np.testing.assert_allclose(results.piece_gaps(runs, "of_both", "of_others"), [65, 65, 65])
    told = results.piece_gap_told(runs, "of_right", "of_shown")
    assert told["ours"]() == {"difference": pytest.approx(25)} and told["seeds"]() == [[0, 1, 2], [0, 1, 2]]
    for check in (results.pieces_of_both, results.pieces_of_right):
        assert check(runs) and not check(runs, when="before_")
    assert not results.pieces_of_both(kept_runs(reverse_wrong_of_others=50.0))
    assert not results.pieces_of_right(kept_runs(reverse_wrong_of_shown=55.0))


def test_the_first_wrong_answer_that_a_run_quotes_is_the_example():
    run = made(results.FROM_KEPT, 0, MASKED)
    run["curves"] |= {"asked_reverse": ["A's parent is", "B's parent is"], "written_reverse": ["Ana Lima.", "Bo B."],
                      "right_reverse": ["Ana Lima", "Bo Sund"]}
    runs = runs_of(run, made(results.FROM_KEPT, 1, MASKED))
    assert results.wrong_example(runs) == ("B's parent is", "Bo B.", "Bo Sund")
    assert results.wrong_example(both()) == ("-", "-", "-")


def test_pieces_of_wrong_answers_are_drawn_where_they_were_counted():
    (axes,) = figures_pretrained.pieces_of_wrong_answers(kept_runs()).axes
    after = [line for line in axes.get_lines() if line.get_label() == "after fine-tuning"]
    assert len(axes.get_yticklabels()) == 4 and len(after) == 1
    assert 50 <= after[0].get_xdata()[0] < 51
    bare = figures_pretrained.pieces_of_wrong_answers(both())
    assert left_out(bare) == f"Not run here: {results.FROM_KEPT}." and not bare.axes[0].get_lines()
    plt.close("all")


def test_the_kept_model_is_held_against_the_one_it_was_made_from():
    runs = kept_runs()
    assert results.ranked_first(runs) and not results.ranked_first(runs, when="before_")
    assert not results.ranked_first(kept_runs(reverse_first_without_prior=70.0))
    assert results.writes_nearly_as_much(runs)
    assert not results.writes_nearly_as_much(kept_runs(reverse_accuracy=35.0))


def test_what_is_written_with_the_length_known_is_drawn_where_it_was_measured():
    runs, described = measured_lengths(), "masked, description to person"
    figure = figures_pretrained.written_with_length(runs, ["masked", described])
    assert left_out(figure) == f"Not run here: {described}."
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == [
        "free answer", *(f"length known, {way}" for way in FILLINGS)]
    shown = [tuple(place[0] for place in line.get_xydata()) for line in first.get_lines() if len(line.get_xdata()) == 2]
    assert (60.3, 60.4) in shown and (80.3, 80.4) in shown and not second.get_lines()
    plt.close("all")


def test_the_t_interval_of_a_percentage_stays_a_percentage():
    runs = runs_of(*(made("masked", seed, {**MASKED, "reverse_accuracy": value})
                     for seed, value in enumerate((50.0, 50.0, 71.0))))
    assert pretrained_tables.student_interval(runs, "reverse_accuracy", "masked") == "27 to 87"
    wild = runs_of(*(made("masked", seed, {**MASKED, "reverse_accuracy": 5.0 + 90 * seed}) for seed in (0, 1)))
    assert pretrained_tables.student_interval(wild, "reverse_accuracy", "masked") == "0 to 100"
