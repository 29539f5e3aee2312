"""Equal questions are asked once: nothing that the loss depends on may change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import descent, letters, objectives
from lib.ensemble import Ensemble
from lib.objectives import Asked
from lib.transformer import Settings


def asked(length, batch, seed):
    draw = np.random.default_rng(seed)
    tokens = letters.sequences(batch, length, draw)
    found = objectives.stratified(tokens, draw, objectives.quantiles(batch, draw))
    weights = np.where(draw.random(len(found.rows)) < 0.3, 0.0, found.weights)
    weights[0] = 1.0
    return Asked(found.tokens, found.rows, found.targets, weights)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 6), batch=st.integers(1, 60), seed=st.integers(0, 999))
def test_every_answer_keeps_its_question_and_no_question_comes_twice(length, batch, seed):
    before = asked(length, batch, seed)
    after = descent.merge(before, batch)
    questions = [(bytes(after.tokens[row // length].tolist()), row % length) for row in after.rows.tolist()]
    assert len(set(questions)) == len(questions)
    answers = [divmod(answer, letters.CLEAN) for answer in after.answers.tolist()]
    found = [(questions[row], target, pytest.approx(weight, rel=1e-6))
             for (row, target), weight in zip(answers, after.weights.tolist(), strict=True)]
    expected = [((bytes(before.tokens[row // length].tolist()), row % length), target, weight / batch)
                for row, target, weight in zip(before.rows.tolist(), before.targets.tolist(), before.weights.tolist(),
                                               strict=True) if weight]
    assert len(found) == len(expected)
    assert all(ours == theirs for ours, theirs in zip(found, expected, strict=True))
    assert {row for row, _ in answers} == set(range(len(questions)))  # and none without an answer


def test_merging_saves_rows_at_the_papers_shortest_length():
    whole = asked(10, 120, 0)
    assert len(descent.merge(whole).rows) < 0.9 * np.count_nonzero(whole.weights)


def test_an_empty_question_is_refused():
    some = asked(4, 3, 0)
    nothing = Asked(some.tokens, some.rows, some.targets, np.zeros(len(some.rows)))
    with pytest.raises(ValueError, match="batch: not a single position is asked for"):
        Ensemble.from_seeds(Settings(length=4, width=8), [0]).descend([nothing], 3)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(2, 6), batch=st.integers(1, 20), steps=st.integers(1, 5))
def test_many_steps_are_merged_as_each_alone(length, batch, steps):
    each = [asked(length, batch, seed) for seed in range(steps)]
    reach = batch * length
    together = Asked(*(np.concatenate(parts) for parts in (
        [one.tokens for one in each], [one.rows + step * reach for step, one in enumerate(each)],
        [one.targets for one in each], [one.weights for one in each])))
    for found, one, cut in zip(descent.merge_steps(together, batch, 3), each, together.steps(batch), strict=True):
        assert all(map(torch.equal, found, descent.merge(one, 3)))
        assert all((getattr(cut, name) == getattr(one, name)).all() for name in vars(one))


@pytest.mark.parametrize("absolute", [False, True])
def test_places_and_strides_meet_every_entry_of_the_table(absolute):
    length = 4
    tokens = torch.arange(letters.TOKENS)[:, None, None] * descent.stride(length, absolute)
    found = (descent.places(length, absolute) + tokens).unique()
    size = letters.TOKENS * (length * length if absolute else 2 * length - 1)
    assert torch.equal(found, torch.arange(size))
