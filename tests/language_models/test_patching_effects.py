"""Every patch of every fact against models run by hooks, and shares of a gap."""

import hooked_attention
import numpy as np
import pytest
import torch
from hooked_attention import NAMES, slow_logits
from made_up_prompts import prompts

from lib.language_models import answer_scores, attention_patching, patching_effects
from lib.language_models.patching_effects import PATCHES, AnswerScores, PatchingEffects

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Name -> model and encoded pairs, see `hooked_attention.loader`."""
    return hooked_attention.loader(tmp_path_factory.mktemp("patching"))


def with_tokens(prompt, tokens):
    ids = prompt.input_ids.clone()
    for position, token in zip(prompt.target, tokens, strict=False):
        ids[position] = token
    return prompt._replace(input_ids=ids)


def expected_scores(model, name, pairs, other, place, rivals):
    """Every default patch of one fact by hooks: log-probability and logit difference, a layer each."""
    forward, reverse = pairs[place]
    right = reverse.labels[list(reverse.target)].tolist()
    found = {}
    for patch in (*PATCHES, "forward", "reverse"):
        kind, _, source = patch.rpartition("_")
        asked = forward if patch in ("knockout_forward", "forward") else reverse
        scores = torch.zeros(4, 1 + len(rivals))
        for column, answer in enumerate([right, *rivals]):
            shown, query = (with_tokens(prompt, answer if name == "llama" else []) for prompt in (forward, asked))
            matched = attention_patching.record_attention(model, shown)
            taken = matched if source == "matched" else attention_patching.record_attention(model, pairs[other][0])
            for layer in range(4):
                patched = [(layer, head) for head in range(4)] if kind else []
                logits = slow_logits(model, query, name, kind, taken, patched)
                logs = logits.double().log_softmax(-1)
                scores[layer, column] = np.mean([float(logs[i, token]) for i, token in enumerate(answer)])
        found[patch] = scores[:, 0].numpy(), (scores[:, 0] - scores[:, 1:].mean(1)).numpy()
    return found


def alike(pairs, size):
    return [pair for pair in pairs if (len(pair[0].target), len(pair[0].evidence)) == size]


@pytest.mark.parametrize("name", NAMES)
def test_every_effect_is_that_of_hooks(loaded, name):
    model, pairs = loaded(name)
    sizes = [(len(pair[0].target), len(pair[0].evidence)) for pair in pairs]
    pairs = alike(pairs, max(set(sizes), key=sizes.count))[:3]
    assert len(pairs) == 3
    rivals = [[shown[0], [5] * len(pair[1].target)] for shown, pair in
              zip(answer_scores.shown_names(pairs), pairs, strict=True)]
    effects = patching_effects.measure_patching(model, pairs, rivals, batch=3)
    assert not effects.resized.any() and set(effects.patched) == set(PATCHES) and effects.layers == (0, 1, 2, 3)
    expected = expected_scores(model, name, pairs, 2, 1, rivals[1])
    for patch in PATCHES:
        for score, values in zip(AnswerScores._fields, expected[patch], strict=True):
            assert getattr(effects.patched[patch], score)[1] == pytest.approx(values, abs=2e-4), (patch, score)
    for side in ("forward", "reverse"):
        for score, values in zip(AnswerScores._fields, expected[side], strict=True):
            assert getattr(getattr(effects, side), score)[1] == pytest.approx(values[0], abs=2e-4)
    if name == "llama":
        assert np.allclose(effects.change("weights_matched"), effects.change("knockout_reverse"), atol=1e-5)
        assert np.abs(effects.change("knockout_forward")).max() < 1e-5
    else:
        assert np.abs(effects.change("weights_matched") - effects.change("weights_mismatched")).max() > 0.01


def test_itself_changes_nothing_and_other_sizes_are_marked(loaded):
    model, pairs = loaded("dream")
    sizes = [(len(pair[0].target), len(pair[0].evidence)) for pair in pairs]
    first, second = pairs[0], next(pair for pair, size in zip(pairs, sizes, strict=True) if size != sizes[0])
    names = ("weights_itself", "total_weight_itself", "output_itself", "weights_mismatched")
    effects = patching_effects.measure_patching(
        model, [first, second], answer_scores.shown_names([first, second]), patches=names,
        where=attention_patching.single_layers(
            attention_patching.record_attention(model, first[0])).cumsum(0).bool())
    assert effects.resized.all()
    for name in names:
        largest = max(np.abs(effects.change(name, score)).max() for score in AnswerScores._fields)
        assert largest > 0.01 if name == "weights_mismatched" else largest < 1e-5


def test_a_source_of_the_same_size_is_preferred():
    pairs = prompts(([1, 2], [3, 4]), ([5], [6, 9]), ([1, 2], [3, 4]), ([12, 13], [10, 11]))
    assert [patching_effects._other_fact(pairs, place) for place in range(4)] == [3, 2, 3, 0]
    with pytest.raises(ValueError, match="every fact has the same answer"):
        patching_effects._other_fact(pairs[::2], 0)


@pytest.mark.parametrize(("change", "message"), [
    ({"patches": ["weights_forward"]}, "no patch 'weights_forward'"),
    ({"patches": ["knockout_matched"]}, "no patch 'knockout_matched'"),
    ({"patches": ["values_matched"]}, "no patch 'values_matched'"),
    ({"competitors": []}, "2 pairs, 0 competitors")])
def test_a_measurement_that_cannot_be_is_refused(loaded, change, message):
    model, pairs = loaded("llada")
    settings = {"competitors": answer_scores.shown_names(pairs[:2])} | change
    with pytest.raises(ValueError, match=message):
        patching_effects.measure_patching(model, pairs[:2], **settings)


def effects(gaps, change):
    """Effects in which the reverse query scores 1 and the forward query more by ``gaps``."""
    gaps, change = np.array(gaps), np.array(change)
    reverse = AnswerScores(np.ones_like(gaps), np.ones_like(gaps))
    forward = AnswerScores(1 + 2 * gaps, 1 + gaps)
    patched = {"weights_matched": AnswerScores(1 + 3 * change, 1 + change),
               "knockout_forward": AnswerScores(forward[0][:, None] - change, forward[1][:, None] - change)}
    return PatchingEffects(forward, reverse, patched, tuple(range(change.shape[1])), np.zeros(len(gaps), bool))


def test_a_change_is_that_of_the_query_that_is_patched():
    found = effects([2.0, -3.0], [[1.0, 0.5], [1.0, 0.0]])
    assert found.gap().tolist() == [2.0, -3.0] and found.gap("log_probability").tolist() == [4.0, -6.0]
    assert found.change("weights_matched").tolist() == [[1.0, 0.5], [1.0, 0.0]]
    assert found.change("weights_matched", "log_probability").tolist() == [[3.0, 1.5], [3.0, 0.0]]
    assert found.change("knockout_forward").tolist() == [[-1.0, -0.5], [-1.0, 0.0]]
