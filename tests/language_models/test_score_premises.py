"""Theorem 4.3 head by head: states of a model, correlations, measures of the premises, controls, tables, figures."""

import dataclasses
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lib.encodings import rope_frequencies
from lib.language_models import (
    attention_scores,
    checkpoints,
    figures_premises,
    pretrained,
    random_checkpoints,
    score_premises,
)
from lib.language_models.score_premises import HeadStates
from lib.theory import bounds, premises, routing

torch.set_num_threads(1)
BASE, DIM = 1000.0, 16
TEXTS = [" The river rises in the north of the country.", " Who is there, asked the child of the captain?"]
PLANES = DIM // 2


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A random Llama of three layers whose four query heads share two key heads, and a tokenizer."""
    _, tokenizer = checkpoints.load(random_checkpoints.tiny(tmp_path_factory.mktemp("x") / "m", "llama", width=32))
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=DIM, initializer_range=0.2,
                         rope_parameters={"rope_type": "default", "rope_theta": BASE})
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    return checkpoints.load(random_checkpoints.tiny(tmp_path_factory.mktemp("x") / "m", "llada", layers=2, width=64))


def random_states(seed=0, *, tokens=60, layers=2, key_heads=2, sharing=2):
    """Correlated queries and keys of uneven planes, for no model in particular."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(layers, key_heads, DIM, DIM))
    keys = rng.normal(size=(layers, key_heads, tokens, DIM)) @ mix + 3 * rng.normal(size=(layers, key_heads, 1, DIM))
    queries = rng.normal(size=(layers, key_heads * sharing, tokens, DIM)) * np.geomspace(2, 0.2, DIM)
    return HeadStates(queries, keys, np.repeat([0, 1], [tokens // 2, tokens - tokens // 2]), BASE)


def with_covariance(covariance, tokens, rng, mean=0.0):
    """Keys whose sample covariance is exactly this one."""
    loose = rng.normal(size=(tokens, DIM))
    loose = loose - loose.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(premises.item_covariance(loose)), loose.T).T
    return white @ np.linalg.cholesky(covariance).T + mean


def one_head(query, keys):
    """A model of one layer and head that asks with the same query everywhere."""
    queries = np.broadcast_to(query, (1, 1, len(keys), DIM)).copy()
    return HeadStates(queries, keys[None, None], np.zeros(len(keys), int), BASE)


# States of a model -------------------------------------------------------------------------------------------


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
    states = score_premises.head_states(model, tokenizer, TEXTS)
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
    states = score_premises.head_states(model, tokenizer, TEXTS)
    assert model.training
    model.eval()
    assert states.queries.shape == (3, 4, sum(lengths), DIM) and states.keys.shape == (3, 2, sum(lengths), DIM)
    assert np.bincount(states.text).tolist() == lengths and states.base == BASE
    assert not any(module._forward_hooks for module in model.modules())
    alone = score_premises.head_states(model, tokenizer, TEXTS[1:])
    np.testing.assert_array_equal(alone.keys, states.keys[:, :, lengths[0]:])


def test_models_whose_queries_are_made_otherwise_are_refused(tmp_path, llama):
    model, tokenizer = llama
    with pytest.raises(ValueError, match="at least one is needed"):
        score_premises.head_states(model, tokenizer, [])
    with pytest.raises(ValueError, match="has 1 tokens, at least 2"):
        score_premises.head_states(model, tokenizer, [""])
    for name, message in (("llama", "not plain RoPE"), ("qwen3_5", "q_proj and k_proj")):
        other, reader = checkpoints.load(random_checkpoints.tiny(tmp_path / name, name, width=32))
        with pytest.raises(ValueError, match=message):
            score_premises.head_states(other, reader, TEXTS)
    model.model.layers[0].self_attn.q_norm = torch.nn.Identity()
    try:
        with pytest.raises(ValueError, match="normalised"):
            score_premises.head_states(model, tokenizer, TEXTS)
    finally:
        del model.model.layers[0].self_attn.q_norm
    with pytest.raises(ValueError, match="q_proj and k_proj"):
        score_premises.head_states(torch.nn.Linear(2, 2), tokenizer, TEXTS)


def test_heads_that_cannot_share_keys_are_refused():
    with pytest.raises(ValueError, match="3 query heads cannot share 2 key heads"):
        HeadStates(np.ones((1, 3, 4, DIM)), np.ones((1, 2, 4, DIM)), np.zeros(4, int), BASE)


# Texts -------------------------------------------------------------------------------------------------------


def test_generated_sentences_begin_with_a_space():
    sentences = score_premises.generated_sentences(2)
    assert len(sentences) == 20 and all(text[0] == " " and text[1] != " " for text in sentences)
    assert sentences != score_premises.generated_sentences(2, seed=1)


# Measurement -------------------------------------------------------------------------------------------------


def test_measured_correlations_are_those_of_scores_rotated_as_complex_numbers():
    states, distances = random_states(), (1, 3, 10)
    found = score_premises.score_premises(states, distances, queries=5)
    chosen = np.linspace(0, len(states.text) - 1, 5).astype(int)
    complex_ = lambda x: x[..., 0::2] + 1j * x[..., 1::2]
    for layer, head in itertools.product(range(2), range(4)):
        keys = complex_(states.keys[layer, head // 2])
        for (place, delta), (row, token) in itertools.product(enumerate(distances), enumerate(chosen)):
            query = complex_(states.queries[layer, head, token])
            scores = [(query.conj() * np.exp(1j * side * delta * BASE ** (-np.arange(PLANES) / PLANES)) * keys)
                      .sum(1).real for side in (1, -1)]
            assert found.ladder[layer, head, row, -1, place] == pytest.approx(np.corrcoef(scores)[0, 1], abs=1e-10)
    np.testing.assert_allclose(found.measured, found.ladder[:, :, :, -1].mean(2))


def test_keys_as_the_theorem_wants_them_lie_on_the_bound():
    rng = np.random.default_rng(0)
    query, tokens, distances = rng.normal(size=DIM), 40, (1, 2, 5, 30)
    keys = with_covariance(3 * np.eye(DIM), tokens, rng, mean=rng.normal(size=DIM))
    found = score_premises.score_premises(one_head(query, keys), distances)
    expected = [sum(query.reshape(-1, 2)[i] @ query.reshape(-1, 2)[i] * np.cos(2 * delta * BASE ** (-i / PLANES))
                    for i in range(PLANES)) / (query @ query) for delta in distances]
    np.testing.assert_allclose(found.measured[0, 0], expected, atol=1e-12)
    np.testing.assert_allclose(found.bound[0, 0], expected, atol=1e-12)
    exact = {"traces": 0, "alignment": 0, "roundness": 1, "forward": 1, "reverse": 1}
    for name, value in exact.items():
        assert getattr(found, name)[0, 0] == pytest.approx(value, abs=1e-10), name
    np.testing.assert_allclose(found.guarantee, bounds.trace_bound(2 * np.array(distances), DIM, BASE))


@pytest.mark.parametrize("kappa", [0.6, -0.6])
def test_alignment_is_found_and_lifts_or_lowers_the_correlation(kappa):
    rng = np.random.default_rng(1)
    query, distances = rng.normal(size=DIM), (1, 2, 5, 30)
    keys = with_covariance(routing.key_covariance(query, kappa), 40, rng)
    found = score_premises.score_premises(one_head(query, keys), distances)
    assert found.alignment[0, 0] == pytest.approx(kappa)
    assert found.misaligned[0, 0] == (kappa < 0)
    assert ((found.measured > found.bound) == (kappa > 0)).all()
    assert score_premises.keys_vary_across_queries(found) == (kappa < 0)
    np.testing.assert_allclose(found.rung("alignment"), found.measured, atol=1e-10)


def test_planes_that_vary_together_are_found():
    rng = np.random.default_rng(2)
    query = np.concatenate([np.tile([1.0, 0.0], 2), np.full(DIM - 4, 1e-3)])
    covariance = np.eye(DIM)
    covariance[0, 2] = covariance[2, 0] = covariance[1, 3] = covariance[3, 1] = 0.8
    found = score_premises.score_premises(one_head(query, with_covariance(covariance, 40, rng)), (0,))
    assert found.forward[0, 0] == pytest.approx(1.8, abs=1e-3) and found.reverse[0, 0] == pytest.approx(1.8, abs=1e-3)


def test_effective_planes_and_unequal_traces():
    rng = np.random.default_rng(3)
    query = np.where(np.arange(DIM) < 4, 1.0, 1e-6)  # two of eight planes
    traces = np.array([1.0, 3.0] * (PLANES // 2))
    found = score_premises.score_premises(
        one_head(query, with_covariance(np.diag(np.repeat(traces, 2)), 40, rng)), (1, 4))
    assert found.planes[0, 0] == pytest.approx(2 / PLANES) and found.traces[0, 0] == pytest.approx(0.5)
    assert score_premises.few_planes_carry_queries(found)
    even = score_premises.score_premises(one_head(np.ones(DIM), with_covariance(np.eye(DIM), 40, rng)), (1, 4))
    assert even.planes[0, 0] == pytest.approx(1) and not score_premises.few_planes_carry_queries(even)
    np.testing.assert_allclose(even.bound[0, 0], even.guarantee)


def test_the_ladder_is_the_theorys_own_and_its_steps_add_up():
    states = random_states()
    found = score_premises.score_premises(states, (1, 4), queries=3)
    query = states.queries[1, 3, len(states.text) - 1]
    own = premises.ladder(query, premises.item_covariance(states.keys[1, 1]), (1, 4), BASE)
    np.testing.assert_allclose(found.ladder[1, 3, 2], own)
    steps = score_premises.steps_from_guarantee(found)
    assert list(steps) == ["weights", *premises.RUNGS[1:]]
    np.testing.assert_allclose(sum(steps.values()), found.measured.mean((0, 1)) - found.guarantee)
    assert all(np.abs(step).max() > 1e-3 for step in steps.values())


def test_evidence_of_the_querys_own_text():
    states = random_states(tokens=80)
    found = score_premises.in_context_correlations(states, (2, 9), queries=2, least=30)
    expected = []
    for tokens in (np.arange(40), np.arange(40, 80)):
        for token in tokens[[0, -1]]:
            keys = states.keys[1, 1, tokens]
            expected.append(premises.item_correlations(states.queries[1, 2, token], keys, (2, 9), BASE))
    np.testing.assert_allclose(found[1, 2], np.mean(expected, 0))
    whole = score_premises.score_premises(states, (2, 9)).measured
    assert np.abs(whole - found).max() > 0.01
    with pytest.raises(ValueError, match="none has 41 tokens"):
        score_premises.in_context_correlations(states, least=41)


@pytest.mark.parametrize(("change", "message"), [
    ({"queries": 0}, "at least one query"), ({"distances": ()}, "distances of 0 or more"),
    ({"distances": (-1, 2)}, "distances of 0 or more")])
def test_nothing_to_measure_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        score_premises.score_premises(random_states(), **change)


def test_states_without_spread_are_refused():
    states = random_states()
    silent = states.queries.copy()
    silent[0, 0, :, 2:4] = 0
    with pytest.raises(ValueError, match="must not vanish in any plane"):
        score_premises.score_premises(dataclasses.replace(states, queries=silent))
    alike = np.ones_like(states.keys)
    with pytest.raises(ValueError, match="must not vanish in any plane"):
        score_premises.score_premises(dataclasses.replace(states, keys=alike))
    with pytest.raises(ValueError, match="at least 2 items"):
        score_premises.score_premises(
            HeadStates(states.queries[:, :, :1], states.keys[:, :, :1], states.text[:1], BASE))


def test_how_far_the_guarantee_reaches():
    whole = np.arange(1, 2000)
    positive = bounds.trace_bound(2 * whole, 64, 100_000.0) > 0
    assert score_premises.guaranteed_distance(64, 100_000.0) <= whole[~positive][0] - 1
    assert score_premises.guaranteed_distance(64, 100_000.0) > 4 * score_premises.guaranteed_distance(64, 10_000.0)
    found = score_premises.score_premises(random_states(layers=1, key_heads=1), (1,))
    fast, slow = np.eye(PLANES)[0], np.eye(PLANES)[-1]
    weights = np.broadcast_to(np.stack([fast, slow]), (1, 2, PLANES))
    reach = score_premises.bound_distance(dataclasses.replace(found, weights=weights), farthest=10)
    assert reach.tolist() == [[0, 10]]  # cos 2 < 0; the slowest plane turns a quarter far beyond
    quarter = int(np.pi / 4 * BASE ** ((PLANES - 1) / PLANES))
    assert score_premises.bound_distance(dataclasses.replace(found, weights=weights))[0, 1] == quarter


# Controls ----------------------------------------------------------------------------------------------------


def slow_planes(seed=0, tokens=80):
    """Queries that lie in the slow planes, against isotropic keys."""
    states = random_states(seed, tokens=tokens, key_heads=4, sharing=2)
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=states.queries.shape) * np.repeat(np.geomspace(0.01, 1, PLANES), 2)
    return dataclasses.replace(states, queries=queries, keys=rng.normal(size=states.keys.shape))


@pytest.mark.parametrize("control", [score_premises.exchanged_planes, score_premises.rotated_heads])
def test_controls_keep_content_scores_and_no_rotation(control):
    states, distances = slow_planes(), (1, 2, 4)
    turned = control(states)
    product = lambda each: np.einsum("lhtd,lhsd->lhts", each.queries[:, ::2], each.keys)
    np.testing.assert_allclose(product(turned), product(states), atol=1e-9)
    own, other = (score_premises.score_premises(each, distances) for each in (states, turned))
    assert score_premises.most_heads_exceed_guarantee(own) and not score_premises.most_heads_exceed_guarantee(other)
    assert own.measured.mean() > other.measured.mean() + 0.2
    np.testing.assert_array_equal(control(states).keys, turned.keys)
    assert not np.array_equal(control(states, seed=1).keys, turned.keys)
    assert not np.allclose(turned.keys[0, 0] @ np.linalg.pinv(states.keys[0, 0]),
                           turned.keys[0, 1] @ np.linalg.pinv(states.keys[0, 1]))


def test_exchanged_planes_keep_planes_and_a_rotation_mixes_them():
    states = slow_planes()
    same, mixed = (score_premises.score_premises(control(states), (1,)) for control in (
        score_premises.exchanged_planes, score_premises.rotated_heads))
    own = score_premises.score_premises(states, (1,))
    for name in ("planes", "traces", "alignment", "misaligned", "roundness"):
        np.testing.assert_allclose(getattr(same, name), getattr(own, name), err_msg=name)
    assert (mixed.planes > own.planes + 0.1).all()


def test_isotropic_keys_lie_near_the_bound_of_the_models_queries():
    states = random_states(tokens=2000)
    own, drawn = (score_premises.score_premises(each, queries=8) for each in (
        states, score_premises.isotropic_keys(states)))
    assert score_premises.error_of(drawn) < 0.02 < 0.07 < score_premises.error_of(own)
    np.testing.assert_array_equal(drawn.bound, own.bound)


def test_an_untrained_model_has_the_same_shape_and_weights_of_its_own(llama):
    model, _ = llama
    state = torch.random.get_rng_state()
    fresh, again, other = (score_premises.untrained(model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = lambda each: each.model.layers[1].self_attn.k_proj.weight
    assert torch.equal(weight(fresh), weight(again)) and weight(fresh).shape == weight(model).shape
    assert not torch.equal(weight(fresh), weight(other)) and not torch.equal(weight(fresh), weight(model))
    fresh.config.vocab_size = 1
    assert model.config.vocab_size > 1


# What it says ------------------------------------------------------------------------------------------------


def test_conditions_tables_and_figures(llama):
    model, tokenizer = llama
    found = score_premises.measured_with_controls(model, tokenizer, TEXTS, distances=(1, 4, 16), queries=4)
    assert list(found) == ["trained", "planes exchanged", "rotated", "isotropic keys", "untrained"]
    own = score_premises.score_premises(score_premises.head_states(model, tokenizer, TEXTS), (1, 4, 16), 4)
    np.testing.assert_array_equal(found["trained"].ladder, own.ladder)
    assert all(not np.array_equal(found["trained"].measured, found[name].measured) for name in list(found)[1:])
    table = score_premises.correlation_table(found).splitlines()
    assert len(table) == 2 + 3 and table[0].count("|") == 3 + 5 + 1
    middle, low, high = score_premises.over_heads(own.measured[:, :, 0])
    assert f"{middle:.2f} [{low:.2f}, {high:.2f}]" in table[2] and low < middle < high
    measures = score_premises.premise_table(found).splitlines()
    assert len(measures) == 2 + len(score_premises.PREMISE_MEASURES)
    shown = {name: found[name] for name in ("trained", "untrained")}
    figure = figures_premises.head_correlations_by_distance(shown)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), np.median(own.measured, (0, 1)))
    np.testing.assert_allclose(figure.axes[0].lines[2].get_ydata(), own.guarantee)
    figure = figures_premises.measured_against_bound(shown, (1, 16))
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), own.measured[:, :, 2].ravel())
    np.testing.assert_allclose(figure.axes[0].lines[1].get_xdata(), own.bound[:, :, 2].ravel())
    figure = figures_premises.premises_by_layer(shown)
    np.testing.assert_allclose(figure.axes[2].lines[4].get_ydata(), np.median(own.alignment, 1))
    plt.close("all")


def test_a_heads_own_bound_is_closer_and_anothers_is_not():
    states = random_states(layers=3, key_heads=4, tokens=400)
    scale = np.random.default_rng(0).uniform(-4, 4, size=(3, 8, 1, 1))  # each head leans to fast or to slow planes
    leaning = states.queries * np.exp(scale * np.repeat(np.linspace(-1, 1, PLANES), 2))
    keys = np.random.default_rng(1).normal(size=states.keys.shape)
    found = score_premises.score_premises(dataclasses.replace(states, queries=leaning, keys=keys), (1, 2, 4), 8)
    assert score_premises.own_bound_is_closer(found)
    assert not score_premises.own_bound_is_closer(found, shift=1)
    assert score_premises.error_of(found, "dependence") == 0
    with pytest.raises(ValueError):
        score_premises.error_of(found, "nothing")


# The real model ----------------------------------------------------------------------------------------------


def test_a_trained_model_exceeds_the_guarantee_by_its_weights_and_not_by_the_assumption():
    try:
        model, tokenizer = pretrained.load()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    texts = score_premises.generated_sentences(2, seed=3)
    found = score_premises.measured_with_controls(model, tokenizer, texts, distances=(1, 8, 64), queries=6)
    trained, controls = found["trained"], [found[name] for name in ("planes exchanged", "rotated", "untrained")]
    assert trained.measured.shape == (30, 9, 3)
    assert score_premises.most_heads_exceed_guarantee(trained)
    assert not any(map(score_premises.most_heads_exceed_guarantee, controls))
    assert score_premises.keys_vary_across_queries(trained)
    assert not any(map(score_premises.keys_vary_across_queries, controls[1:]))
    assert score_premises.few_planes_carry_queries(trained)
    assert not any(map(score_premises.few_planes_carry_queries, controls[1:]))
    assert score_premises.own_bound_is_closer(trained) and not score_premises.own_bound_is_closer(trained, shift=1)
