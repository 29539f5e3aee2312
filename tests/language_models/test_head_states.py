"""Queries and keys of a model against the scores of its forward pass, and an untrained model of its shape."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from made_up_states import BASE, DIM, TEXTS, small_llama

from lib.encodings import rope_frequencies
from lib.language_models import attention_scores, checkpoints, head_states, random_checkpoints
from lib.language_models.head_states import HeadStates
from lib.theory import routing

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small_llama(tmp_path_factory.mktemp("x") / "m")


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    return checkpoints.load(random_checkpoints.tiny(tmp_path_factory.mktemp("x") / "m", "llada", layers=2, width=64))


def check_scores(model, tokenizer, states, text):
    """The scores that attention computes, at the positions of the text, are q^T R(j - i) k of these states."""
    row = tokenizer(text, return_tensors="pt").input_ids
    places = list(range(1, row.shape[1]))
    scores = attention_scores.scores_and_weights(model, row[0], places, places).scores.double().numpy()
    sharing = states.queries.shape[1] // states.keys.shape[1]
    frequencies, tokens = rope_frequencies(states.keys.shape[-1], states.base), np.flatnonzero(states.text == 0)
    found = np.empty_like(scores)
    for layer, head in itertools.product(range(scores.shape[0]), range(scores.shape[1])):
        for i, j in itertools.product(range(len(tokens)), repeat=2):
            key = routing.rotate(states.keys[layer, head // sharing, tokens[j]].astype(float), (j - i) * frequencies)
            found[layer, head, i, j] = states.queries[layer, head, tokens[i]] @ key
    return np.abs(found / states.keys.shape[-1] ** 0.5 - scores).max() / np.abs(scores).max()


@pytest.mark.parametrize("name", ["llama", "llada"])
def test_states_give_the_scores_of_a_forward_pass(name, request):
    model, tokenizer = request.getfixturevalue(name)
    states = head_states.head_states(model, tokenizer, TEXTS)
    assert check_scores(model, tokenizer, states, TEXTS[0]) < 1e-5
    # heads that share other keys, coordinates paired as neighbours, or another base: none of them the model's
    if name == "llama":
        swapped = dataclasses.replace(states, keys=states.keys[:, ::-1].copy())
        assert check_scores(model, tokenizer, swapped, TEXTS[0]) > 0.1
    halves = np.r_[0:DIM:2, 1:DIM:2] if name == "llama" else np.r_[0:16:2, 1:16:2]
    paired = dataclasses.replace(states, queries=states.queries[..., halves], keys=states.keys[..., halves])
    assert check_scores(model, tokenizer, paired, TEXTS[0]) > 0.01
    assert check_scores(model, tokenizer, dataclasses.replace(states, base=2 * states.base), TEXTS[0]) > 1e-3


def test_the_first_token_of_each_text_is_left_out_and_the_model_is_left_as_it_was(llama):
    model, tokenizer = llama
    lengths = [len(tokenizer(text).input_ids) - 1 for text in TEXTS]
    model.train()
    states = head_states.head_states(model, tokenizer, TEXTS)
    assert model.training
    model.eval()
    assert states.queries.shape == (3, 4, sum(lengths), DIM) and states.keys.shape == (3, 2, sum(lengths), DIM)
    assert np.bincount(states.text).tolist() == lengths and states.base == BASE
    assert not any(module._forward_hooks for module in model.modules())
    alone = head_states.head_states(model, tokenizer, TEXTS[1:])
    np.testing.assert_array_equal(alone.keys, states.keys[:, :, lengths[0]:])


def test_models_whose_queries_are_made_otherwise_are_refused(tmp_path, llama):
    model, tokenizer = llama
    with pytest.raises(ValueError, match="at least one is needed"):
        head_states.head_states(model, tokenizer, [])
    with pytest.raises(ValueError, match="has 1 tokens, at least 2"):
        head_states.head_states(model, tokenizer, [""])
    for name, message in (("llama", "not plain RoPE"), ("qwen3_5", "q_proj and k_proj")):
        other, reader = checkpoints.load(random_checkpoints.tiny(tmp_path / name, name, width=32))
        with pytest.raises(ValueError, match=message):
            head_states.head_states(other, reader, TEXTS)
    model.model.layers[0].self_attn.q_norm = torch.nn.Identity()
    try:
        with pytest.raises(ValueError, match="normalised"):
            head_states.head_states(model, tokenizer, TEXTS)
    finally:
        del model.model.layers[0].self_attn.q_norm
    with pytest.raises(ValueError, match="q_proj and k_proj"):
        head_states.head_states(torch.nn.Linear(2, 2), tokenizer, TEXTS)


def test_heads_that_cannot_share_keys_are_refused():
    with pytest.raises(ValueError, match="3 query heads cannot share 2 key heads"):
        HeadStates(np.ones((1, 3, 4, DIM)), np.ones((1, 2, 4, DIM)), np.zeros(4, int), BASE)


def test_an_untrained_model_has_the_same_shape_and_weights_of_its_own(llama):
    model, _ = llama
    state = torch.random.get_rng_state()
    fresh, again, other = (head_states.untrained(model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = lambda each: each.model.layers[1].self_attn.k_proj.weight
    assert torch.equal(weight(fresh), weight(again)) and weight(fresh).shape == weight(model).shape
    assert not torch.equal(weight(fresh), weight(other)) and not torch.equal(weight(fresh), weight(model))
    fresh.config.vocab_size = 1
    assert model.config.vocab_size > 1
