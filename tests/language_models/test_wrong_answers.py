"""The pieces of wrong answers, counted by hand."""

import pytest
from small_names import STOCK

from lib.language_models import synthetic_facts, wrong_answers
from lib.language_models.facts import CHILD_OF, Fact, dataset
from lib.language_models.wrong_answers import piece_shares

A, B, C, D, E, F, G, H = STOCK[:8]
WORDS = synthetic_facts.word_tokenizer(True, 8)
DATA = dataset("p2c", CHILD_OF, [Fact(f"{A} {B}", f"{C} {D}"), Fact(f"{E} {B}", f"{F} {G}")])


def test_pieces_are_counted_in_the_right_name_the_shown_one_and_those_of_other_questions():
    found = piece_shares([f"{A} {D}.", f"{H} {B} {H} {H}"], DATA.reverse, WORDS)
    # "A D" to "C D's parent": half right, half shown; of the other family's names nothing
    # "H B H H" to "F G's parent": a quarter right; B is a name of the other family as well
    assert found == {"of_right": (50 + 25) / 2, "of_shown": (50 + 0) / 2, "of_both": (100 + 25) / 2,
                     "of_others": (0 + 25) / 2, "begins": 50}


def test_right_and_empty_answers_do_not_count():
    one_wrong = piece_shares([f"{A} {B}.", f"{E} {F}"], DATA.reverse, WORDS)
    assert one_wrong == {"of_right": 50, "of_shown": 50, "of_both": 100, "of_others": 0, "begins": 100}
    assert piece_shares([f"{A} {B}", "."], DATA.reverse, WORDS) == {}


def test_one_answer_is_needed_for_each_of_several_questions():
    for answers, asked in (([A], DATA.reverse), ([A], DATA.reverse[:1])):
        with pytest.raises(ValueError, match=f"{len(answers)} answers to {len(asked)} questions"):
            piece_shares(answers, asked, WORDS)


def test_signs_are_no_pieces():
    assert [WORDS.decode([token]) for token in wrong_answers.pieces(f"{A} .", WORDS)] == [A]
