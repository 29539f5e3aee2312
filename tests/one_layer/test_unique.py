"""Equal questions are asked once: nothing that the loss depends on may change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.one_layer import objectives, task, unique
from lib.one_layer.objectives import MaskedBatch


def asked(length, batch, seed):
    draw = np.random.default_rng(seed)
    tokens = task.sequences(batch, length, draw)
    found = objectives.stratified(tokens, draw, objectives.stratified_uniforms(batch, draw))
    weights = np.where(draw.random(len(found.rows)) < 0.3, 0.0, found.weights)
    weights[0] = 1.0
    return MaskedBatch(found.tokens, found.rows, found.targets, weights)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 6), batch=st.integers(1, 60), seed=st.integers(0, 999))
def test_every_answer_keeps_its_question_and_no_question_comes_twice(length, batch, seed):
    before = asked(length, batch, seed)
    after = unique.unique_rows(before, batch)
    questions = [(bytes(after.tokens[sequence].tolist()), position)
                 for sequence, position in zip(after.sequence.tolist(), after.position.tolist(), strict=True)]
    assert len(set(questions)) == len(questions)
    answers = [divmod(answer, task.CLEAN) for answer in after.answers.tolist()]
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
    assert len(unique.unique_rows(whole).position) < 0.9 * np.count_nonzero(whole.weights)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("tokens", task.TOKENS, "tokens: they run from 0 to"), ("tokens", -1, "tokens: they run from 0 to"),
    ("targets", task.CLEAN, "targets: clean tokens run from 0 to"), ("targets", -1, "targets: clean tokens")])
def test_a_token_that_does_not_exist_is_refused(field, value, message):
    """A look-up would find the entry of another."""
    some = asked(4, 3, 0)
    at = np.flatnonzero(some.tokens.ravel() != task.MASK)[0] if field == "tokens" else 0
    getattr(some, field).reshape(-1)[at] = value
    with pytest.raises(ValueError, match=message):
        unique.unique_rows(some)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(2, 6), batch=st.integers(1, 20), steps=st.integers(1, 5))
def test_many_steps_are_merged_as_each_alone(length, batch, steps):
    each = [asked(length, batch, seed) for seed in range(steps)]
    reach = batch * length
    together = MaskedBatch(*(np.concatenate(parts) for parts in (
        [one.tokens for one in each], [one.rows + step * reach for step, one in enumerate(each)],
        [one.targets for one in each], [one.weights for one in each])))
    by_step = unique.unique_rows_by_step(together, batch, 3)
    for found, one, cut in zip(by_step, each, together.steps(batch), strict=True):
        assert all(map(np.array_equal, found, unique.unique_rows(one, 3)))
        assert all((getattr(cut, name) == getattr(one, name)).all() for name in vars(one))
