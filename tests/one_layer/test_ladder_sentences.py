"""Sentences of the ladder: what is told, where it stands, and what is asked."""

import itertools
from collections import Counter

import numpy as np
import pytest

from lib.one_layer import task
from lib.one_layer.ladder_sentences import (
    EMPTY,
    FACT_COUNT,
    FORWARD_FACTS,
    FRAME_MARKERS,
    LEFT_NAME,
    RELATION_WORD,
    RIGHT_NAME,
    LadderTask,
    asked_facts,
    draw_names,
    questions_asked,
    told_orders,
    told_sentences,
    written_sentences,
)

SHARED = LadderTask(relations=2, left=4, right=4, one_stock=True)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("sharing", [0, 1, 2, 4])
@pytest.mark.parametrize("one_stock", [False, True])
def test_a_word_stands_in_so_many_names_and_no_name_twice(sharing, one_stock):
    if one_stock and sharing < 2:
        return
    names = draw_names(LadderTask(left=sharing, right=sharing, one_stock=one_stock), 3)
    every = [tuple(name) for side in names for name in side.tolist()]
    assert len(set(every)) == 2 * FACT_COUNT
    counts = Counter(word for name in every for word in name)
    assert not set(FRAME_MARKERS) & set(counts) and max(counts) < task.PLACEHOLDER
    if sharing == 1:
        assert Counter(first for first, _ in every).most_common(1)[0][1] == 1 and len({last for _, last in every}) == 2
    else:
        assert set(counts.values()) == {max(sharing, 1)}
    sides = [{word for name in side.tolist() for word in name} for side in names]
    assert (sharing == 1 or one_stock) == bool(sides[0] & sides[1])


def test_another_seed_draws_another_world_and_the_same_seed_the_same():
    first, again, other = (draw_names(SHARED, seed).left.tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("orders, both, reverse", [("forward", 0, 0), ("one", 0, 9), ("both", 18, 18)])
def test_facts_are_told_in_the_orders_that_are_asked_for(orders, both, reverse):
    told = told_orders(LadderTask(orders=orders))
    assert told.any(1).all() and told[:FORWARD_FACTS].tolist() == [[True, False]] * FORWARD_FACTS
    assert told.all(1).sum() == both and told[:, 1].sum() == reverse
    assert asked_facts(LadderTask(orders=orders)).tolist() == [
        fact for fact in range(FACT_COUNT) if told[fact].tolist() == [True, False]]


def test_a_sentence_reads_left_marker_right_and_turned_right_marker_left():
    names, facts = draw_names(SHARED, 0), np.array([5, 5])
    sentences = written_sentences(SHARED, names, facts, np.array([0, 1]), rng())
    left, right = names.left[5].tolist(), names.right[5].tolist()
    assert sentences.tokens.tolist() == [[*left, FRAME_MARKERS[0], *right], [*right, FRAME_MARKERS[1], *left]]
    turned = [RIGHT_NAME, RIGHT_NAME, RELATION_WORD, LEFT_NAME, LEFT_NAME]
    assert sentences.roles.tolist() == [turned[::-1], turned]
    one = LadderTask(relations=1)
    tokens = written_sentences(one, draw_names(one, 0), facts, np.array([0, 1]), rng()).tokens
    assert tokens[:, 1].tolist() == [FRAME_MARKERS[0]] * 2  # one word for both orders
    none = LadderTask(left=2)
    assert written_sentences(none, draw_names(none, 0), facts, np.array([0, 1]), rng()).roles.tolist() == [
        [LEFT_NAME, LEFT_NAME, RIGHT_NAME], [RIGHT_NAME, LEFT_NAME, LEFT_NAME]]


def test_placeholders_stand_anywhere_but_inside_a_name_and_every_place_is_as_likely():
    settings = LadderTask(placeholders=2, left=2)
    names = draw_names(settings, 0)
    count = 6_000
    zeros = np.zeros(count, dtype=int)
    sentences = written_sentences(settings, names, zeros, zeros, rng())
    patterns = Counter(map(tuple, sentences.roles.tolist()))
    units = [(LEFT_NAME, LEFT_NAME), (RIGHT_NAME,), (EMPTY,), (EMPTY,)]
    expected = {tuple(itertools.chain(*order)) for order in itertools.permutations(units)
                if order.index((LEFT_NAME, LEFT_NAME)) < order.index((RIGHT_NAME,))}
    assert set(patterns) == expected and len(expected) == 6
    assert max(abs(n / count - 1 / 6) for n in patterns.values()) < 0.02
    assert (sentences.tokens[sentences.roles == EMPTY] == task.PLACEHOLDER).all()


def test_every_fact_is_told_as_often_and_only_in_its_orders():
    settings = LadderTask(relations=2)
    names = draw_names(settings, 1)
    tokens = told_sentences(settings, names, 12_000, rng()).tokens
    seen = Counter(map(tuple, tokens.tolist()))
    assert len(seen) == FACT_COUNT and min(seen.values()) > 400
    fact = {name: at for side in names for at, name in enumerate(side[:, 0].tolist())}
    reverse = {fact[first] for first, marker, _ in seen if marker == FRAME_MARKERS[1]}
    assert reverse == set(np.flatnonzero(told_orders(settings)[:, 1]))
    both = LadderTask(relations=2, orders="both")
    seen = Counter(map(tuple, told_sentences(both, draw_names(both, 1), 12_000, rng()).tokens.tolist()))
    assert len(seen) == 2 * FACT_COUNT - FORWARD_FACTS


def test_questions_hide_one_name_and_differ_as_they_say():
    names = draw_names(SHARED, 0)
    asked = {kind: questions_asked(SHARED, names, kind)
             for kind in ("forward", "right", "reverse", "wrong_frame", "mismatched")}
    for kind, each in asked.items():
        hidden = names.right if kind == "right" else names.left
        assert each.answers.tolist() == hidden[each.fact].tolist() and each.candidates is hidden
        assert (each.tokens.reshape(-1)[each.rows] == task.MASK).all()
        assert (each.tokens == task.MASK).sum() == each.rows.size
    mask, fact = [task.MASK] * 2, int(asked["reverse"].fact[1])
    right, following = (names.right[at].tolist() for at in (fact, int(asked["reverse"].fact[2])))
    assert asked["forward"].tokens[1].tolist() == [*mask, FRAME_MARKERS[0], *right]
    assert asked["reverse"].tokens[1].tolist() == [*right, FRAME_MARKERS[1], *mask]
    assert asked["wrong_frame"].tokens[1].tolist() == [*right, FRAME_MARKERS[0], *mask]
    assert asked["mismatched"].tokens[1].tolist() == [*following, FRAME_MARKERS[1], *mask]
    places = [each.places[1].tolist() for each in (asked["forward"], asked["reverse"])]
    assert places == [[0, 1, 3, 4, 2], [3, 4, 0, 1, 2]]


@pytest.mark.parametrize("wrong, named", [
    ({"placeholders": -1}, "placeholders"), ({"relations": 3}, "relations"), ({"left": 3}, "left"),
    ({"right": 8}, "right"), ({"orders": "none"}, "orders"), ({"one_stock": True}, "one_stock"),
    ({"one_stock": True, "left": 2, "right": 4}, "one_stock"), ({"relations": 2, "orders": "forward"}, "relations")])
def test_sentences_that_cannot_be_are_refused_by_name(wrong, named):
    with pytest.raises(ValueError, match=named):
        LadderTask(**wrong)


def test_questions_that_cannot_be_are_refused():
    settings = LadderTask(relations=1)
    with pytest.raises(ValueError, match="relations"):
        questions_asked(settings, draw_names(settings, 0), "wrong_frame")
    with pytest.raises(ValueError, match="'sideways': one of forward"):
        questions_asked(settings, draw_names(settings, 0), "sideways")
