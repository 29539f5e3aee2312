"""The task: what training shows, what is asked, and that nothing reversed slips in."""

import collections

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.one_layer import task


def draw(seed):
    return np.random.default_rng(seed)


@given(length=st.integers(2, 12), seed=st.integers(0, 1000))
def test_sequences_hold_one_pair_lowercase_first(length, seed):
    for text in map(task.spell, task.sequences(20, length, draw(seed))):
        pair = text.replace("0", "")
        assert len(text) == length and len(pair) == 2
        assert pair[0].islower() and pair[1] == pair[0].upper()


def test_length_three_gives_the_papers_example():
    seen = {task.spell(row) for row in task.sequences(5000, 3, draw(0))}
    assert {text for text in seen if "d" in text} == {"dD0", "d0D", "0dD"}
    assert len(seen) == 26 * 3


def test_facts_and_placements_are_equally_likely():
    count = collections.Counter(task.spell(row) for row in task.sequences(78 * 400, 3, draw(1)))
    assert len(count) == 78
    # 400 expected each, standard deviation 20: five of them
    assert all(300 < number < 500 for number in count.values())


def test_a_share_of_sequences_can_be_reversed():
    texts = [task.spell(row).replace("0", "") for row in task.sequences(20_000, 5, draw(2), 0.1)]
    assert sum(text[0].isupper() for text in texts) / 20_000 == pytest.approx(0.1, abs=0.01)


def test_a_seed_fixes_the_sequences():
    first, again, other = (task.sequences(50, 10, draw(seed)) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


@given(seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=4), share=st.sampled_from([0.0, 0.3]))
def test_several_generators_draw_as_each_alone(seeds, share):
    together = task.sequences(7 * len(seeds), 5, task.StackedGenerators([draw(seed) for seed in seeds]), share)
    assert (together == np.concatenate([task.sequences(7, 5, draw(seed), share) for seed in seeds])).all()


def test_several_generators_refuse_to_mix_what_each_draws():
    with pytest.raises(TypeError, match="one batch at a time"):
        task.StackedGenerators([draw(0), draw(1)]).permutation(4)


@pytest.mark.parametrize("length", [2, 3, 7])
def test_queries_cover_every_fact_at_every_pair_of_distances(length):
    forward, reverse = task.paired_queries(length)
    assert len(forward) == len(reverse) == 26 * length * (length - 1) // 2
    for asked, before in ((forward, True), (reverse, False)):
        texts = [task.spell(row) for row in asked.tokens]
        assert len(set(texts)) == len(texts)
        for text, target in zip(texts, asked.target, strict=True):
            shown = text.replace("0", "").replace("_", "")
            assert shown == task.ALPHABET[target].upper()
            assert (text.index("_") < text.index(shown)) == before
    assert torch.equal(forward.tokens, reverse.tokens.flip(1))  # paired row by row as mirror images
    assert torch.equal(forward.offset, -reverse.offset) and (forward.offset > 0).all()
    assert torch.equal(forward.letter, reverse.letter)


def test_forward_queries_are_training_sequences_with_the_target_hidden():
    forward, reverse = task.paired_queries(4)
    trained = {task.spell(row) for row in task.sequences(20_000, 4, draw(5))}
    fill = lambda asked: [task.spell(row).replace("_", task.ALPHABET[target])
                          for row, target in zip(asked.tokens, asked.target, strict=True)]
    assert set(fill(forward)) == trained
    assert not set(fill(reverse)) & trained


def test_causal_questions_show_one_letter_and_ask_for_the_last_token():
    forward, reverse = task.paired_causal_queries(5)
    assert len(forward) == len(reverse) == 26 * 4
    assert task.spell(forward.tokens[0]) == "_a000_" and task.ALPHABET[forward.target[0]] == "A"
    assert task.spell(reverse.tokens[0]) == "_A000_" and task.ALPHABET[reverse.target[0]] == "a"
    trained = {task.spell(row) for row in task.sequences(30_000, 5, draw(6))}
    for text, target in zip(forward.tokens, forward.target, strict=True):
        # the data leave this answer alone: no training sequence begins so and ends otherwise
        prefix = task.spell(text)[1:-1]
        assert {one[-1] for one in trained if one.startswith(prefix)} == {task.ALPHABET[target]}
    assert not any(one.startswith(task.spell(text)[1:-1]) for text in reverse.tokens for one in trained)


def test_a_batch_labels_only_what_is_asked():
    forward, _ = task.paired_queries(4)
    batch = forward[torch.arange(3)].batch()
    labelled = batch["labels"] != -100
    assert torch.equal(labelled, batch["input_ids"] == task.MASK)
    assert torch.equal(batch["labels"][labelled], forward.target[:3])


def test_text_and_tokens_are_inverse():
    assert task.spell(task.read("0d0D_")) == "0d0D_"
    with pytest.raises(ValueError, match=r"'\?' is no token"):
        task.read("0?")


@pytest.mark.parametrize("length", [1, 0, -3, True])
def test_a_length_without_room_for_a_pair_is_refused(length):
    for make in (lambda: task.sequences(1, length, draw(0)), lambda: task.paired_queries(length)):
        with pytest.raises(ValueError, match="length must be an integer of at least 2"):
            make()


def test_fillers_are_letters_in_no_fact():
    kinds = task.filler_tokens(10, 5)
    assert task.spell(kinds) == "0kKlL"
    drawn = task.sequences(4_000, 6, np.random.default_rng(0), facts=10, fillers=5)
    facts = (drawn % task.LETTERS < 10) & (drawn < task.PLACEHOLDER)
    assert (facts.sum(1) == 2).all()
    counts = np.array([(drawn == kind).sum() for kind in kinds])
    assert np.isin(drawn[~facts], kinds).all() and abs(counts / counts.sum() - 0.2).max() < 0.02
    forward, reverse = task.paired_queries(6, 10, 5)
    assert len(forward) == 10 * 15 and torch.equal(forward.tokens.flip(1), reverse.tokens)
    assert torch.isin(forward.tokens, torch.as_tensor([*kinds, task.MASK, *range(26, 36)])).all()
    for facts, fillers in ((26, 2), (0, 1), (27, 1), (10, 34), (10, 0), (10, True)):
        with pytest.raises(ValueError, match=r"fillers|facts"):
            task.filler_tokens(facts, fillers)


def test_one_filler_and_all_facts_draw_what_they_always_drew():
    plain, told = (task.sequences(50, 6, np.random.default_rng(1), **given)
                   for given in ({}, {"facts": task.LETTERS, "fillers": 1}))
    assert (plain == told).all()
