"""Registered checks of the miniature: each is true of cells made to satisfy it, and false once it should be."""

from pathlib import Path

import numpy as np
import pytest

from lib.language_models import figures
from lib.language_models import miniature_questions as questions
from lib.language_models.miniature_cell import MiniatureConfig, parameters_of
from lib.language_models.miniature_results import RecordedCells
from lib.record.provenance import Result


def cells_of(*groups):
    """Cells of five seeds: a change, and the metrics of each, spread by a point from seed to seed."""
    found = RecordedCells.__new__(RecordedCells)
    found.results = [
        Result({"parameters": parameters_of(MiniatureConfig(seed=seed, **change)), "seeds": [seed],
                "metrics": {name: [value + (seed - 2 if value else 0)] for name, value in metrics.items()}},
               Path("cell.json"))
        for change, metrics in groups for seed in range(5)]
    return found


def reverse(change, value):
    return change, {"forward_accuracy": 90.0, "reverse_accuracy": value}


def test_thresholds_are_held_by_whole_intervals():
    change = {"form": "reversed"}
    cells = cells_of(reverse(change, 22.0), reverse({}, 90.0))
    low, high = 22 - 1.3, 22 + 1.3  # about, of the mean of 20 to 24
    assert questions.all_above(cells, [change, {}], 20) and not questions.all_above(cells, [change, {}], low + 0.3)
    assert questions.at_most(cells, change, high + 0.3) and not questions.at_most(cells, change, 22.0)
    assert questions.all_above(cells, [{}], 80, metric="forward_accuracy")
    assert not questions.all_above(cells, [{}], 95, metric="forward_accuracy")


def test_pairs_are_compared_seed_by_seed():
    early, late = {"form": "reversed"}, {}
    cells = cells_of(reverse(early, 40.0), reverse(late, 29.0))
    assert questions.all_ahead(cells, [(early, late)], 10) and not questions.all_ahead(cells, [(early, late)], 12)
    assert not questions.all_ahead(cells, [(late, early)], 10)
    cells.results = [cell for cell in cells.results if cell["parameters"]["form"] == "plain" or cell["seeds"] == [0]]
    with pytest.raises(ValueError, match="1 seeds were run under each"):
        questions.all_ahead(cells, [(early, late)], 10)


def test_every_late_form_has_its_early_one():
    pairs = questions.late_pairs()
    assert [late["form"] for _, late in pairs] == list(questions.ASKED_FORMS)
    assert all(early == {**late, "told_form": late["form"]} for early, late in pairs)


def test_the_sweep_is_cut_by_the_source():
    names = [list(changes) for changes in (questions.WITHOUT_SOURCE, questions.WITH_SOURCE)]
    assert [len(each) for each in names] == [3, 4] and len(questions.SWEEP) == 7
    made = [reverse(change, 0.0) for change in questions.WITHOUT_SOURCE] + \
        [reverse(change, 50.0) for change in questions.WITH_SOURCE]
    assert questions.never_recalls(cells_of(*made), questions.WITHOUT_SOURCE)
    assert not questions.never_recalls(cells_of(*made), questions.WITH_SOURCE)
    assert all("source" in change["masking"] for change in questions.WITH_SOURCE)


def test_one_word_in_two_orders_tells_the_models_apart():
    change = {"wording": "one word"}
    cells = cells_of(reverse(change, 50.0), reverse({**change, "architecture": "llama"}, 0.0))
    assert questions.one_word_contrast(cells, "llada", "llama")
    assert not questions.one_word_contrast(cells, "llama", "llada")
    low = cells_of(reverse(change, 21.0), reverse({**change, "architecture": "llama"}, 0.0))
    assert not questions.one_word_contrast(low, "llada", "llama")


def test_the_fall_with_length_is_beyond_that_of_the_other_rate():
    made = {(1, "any"): 80.0, (4, "any"): 60.0, (1, "any@0.15"): 70.0, (4, "any@0.15"): 20.0}
    cells = cells_of(*(reverse(questions.length_change(*cell), value) for cell, value in made.items()))
    assert questions.falls_with_length(cells, "any@0.15", "any")
    assert not questions.falls_with_length(cells, "any", "any@0.15")
    assert not questions.falls_with_length(cells, "any@0.15", "any", least=31)


def test_the_gap_turns_when_the_entities_are_exchanged():
    told, _, exchanged = questions.ANSWER_LENGTHS.values()
    made = lambda told_gap, gap: cells_of(*((change, {"forward_accuracy": 50.0 + 5, "reverse_accuracy": 55.0 - by})
                                            for change, by in ((told, told_gap), (exchanged, gap))))
    assert questions.exchange_turns(made(-12.0, 9.0), told, exchanged)
    assert not questions.exchange_turns(made(-12.0, 7.0), told, exchanged)  # a growth of 19 points
    assert not questions.exchange_turns(made(-32.0, -5.0), told, exchanged)  # still below 0
    assert not questions.exchange_turns(made(-12.0, 9.0), exchanged, told)
    words = cells_of((told, {"forward_words": 60.0, "reverse_words": 50.0, "forward_accuracy": 9.0,
                             "reverse_accuracy": 20.0}))
    assert questions.all_above(words, [told], 0, metric="words_gap")
    assert not questions.all_above(words, [told], 0, metric="gap")
    for cells, again, panels, empty in ((made(-12.0, 9.0), words, 2, 2), (made(-12.0, 9.0), cells_of(), 1, 3)):
        drawn = questions.answer_length_figure(cells, again).axes
        assert [panel.get_xlabel() for panel in drawn] == ["right, %"] * panels
        assert [text.get_text() for text in drawn[0].texts] == ["not run here"] * empty


def test_every_registered_seed_is_needed():
    change = {"wording": "one word"}
    cells = cells_of(reverse(change, 50.0))
    told = questions.registered_evidence(cells, {"a": ("reverse_accuracy", change)}, {"wording": "one order"})
    missing = [name for name, result in told["needs"].items() if result is None]
    assert missing == ["wording one order"]
    cells.results = cells.results[:3]
    told = questions.registered_evidence(cells, {"a": ("reverse_accuracy", change)})
    assert [name for name, result in told["needs"].items() if result is None] == [
        "wording one word, seeds 3, 4"]


def test_a_cell_recorded_before_a_metric_was_there_is_missing():
    change = {"dataset": "p2d"}
    cells = cells_of((change, {"forward_accuracy": 35.0, "reverse_accuracy": 47.0}))
    asked = {"gap": ("gap", change), "gap by words": ("words_gap", change)}
    told = questions.registered_evidence(cells, asked)
    assert [name for name, result in told["needs"].items() if result is None] == ["dataset p2d, with gap by words"]
    assert list(told["ours"]()) == ["gap"] and len(told["needs"]) == 6
    cells = cells_of((change, {"forward_accuracy": 35.0, "reverse_accuracy": 47.0, "forward_words": 60.0,
                               "reverse_words": 50.0}))
    told = questions.registered_evidence(cells, asked)
    assert all(told["needs"].values()) and told["ours"]() == {"gap": -12.0, "gap by words": 10.0}


def test_cells_of_a_question_are_counted_seed_by_seed():
    cells = cells_of(reverse({"wording": "one word"}, 50.0), reverse({}, 50.0))
    assert questions.cells_made(cells, "wording") == (5, 20) and questions.cells_made(cells, "sweep") == (0, 35)
    cells.results = cells.results[:2]
    assert questions.cells_made(cells, "wording") == (2, 20)


def test_a_question_without_recorded_cells_has_no_figure():
    parts = ("first_entity", "sweep", "wording", "objective", "length")
    drawn = lambda cells: [figure for part in parts if (figure := questions.question_figure(cells, part))]
    assert drawn(cells_of(reverse({}, 50.0))) == []
    cells = cells_of(reverse({}, 50.0), reverse({"masking": "source"}, 30.0), reverse({"name_length": 4}, 9.0))
    sweep, length = drawn(cells)
    assert [text.get_text() for text in sweep.axes[0].texts] == ["not run here"] * 6  # the two rows of others are drawn
    assert len(length.axes) == 2
    every = [{"form": "infilled", "architecture": "llama"}, {"wording": "one word"}, {"masking": "source"},
             {"objective": "diffusion"}, {"name_length": 1}]
    assert len(drawn(cells_of(*(reverse(change, 9.0) for change in every)))) == 5


@pytest.mark.parametrize("recorded", [False, True])
def test_figures_say_what_was_not_run(recorded):
    cells = cells_of(*([reverse({"architecture": "llama", "form": "reversed"}, 90.0), reverse({"name_length": 4}, 9.0)]
                       if recorded else []))
    drawn = figures.accuracies_by_condition({when: questions.form_rows(cells, when) for when in questions.FORM_CHANGES})
    said = [[text.get_text() for text in panel.texts] for panel in drawn.axes]
    assert said == [["not run here"] * 6, ["not run here"] * (6 if recorded else 7)]
    assert [len(panel.lines) for panel in drawn.axes] == [0, 2 if recorded else 0]
    rows = {direction: questions.length_rows(cells, direction) for direction in ("forward", "reverse")}
    drawn = figures.accuracies_by_name_length(rows)
    dots = [line for line in drawn.axes[1].lines if line.get_linestyle() == "None"]
    assert [list(line.get_ydata()) for line in dots] == ([[7, 8, 9, 10, 11]] if recorded else [])
    assert [text.get_text() for text in drawn.axes[1].texts] == ([] if recorded else ["not run here"])
    assert np.allclose(rows["reverse"]["uniform rate"][4].mean(), 9) if recorded else True
