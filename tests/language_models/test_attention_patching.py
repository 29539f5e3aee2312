"""Patches of attention against a model run by hooks, one layer after another, with its weights rescaled by division."""

import hooked_attention
import numpy as np
import pytest
import torch
from hooked_attention import NAMES, WORLD, pairs_of, plain_logits, rows_of, slow_logits
from torch import nn

from lib.language_models import attention_patching, checkpoints, random_checkpoints
from lib.language_models.attention_patching import PATCH_KINDS, Patch
from lib.language_models.queries import EncodedQuery, encoded_pair

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Name -> model and encoded pairs, see `hooked_attention.loader`."""
    return hooked_attention.loader(tmp_path_factory.mktemp("patching"))


def own_weights(model, tokens, rows, columns):
    """Weights and mixed values of every layer by transformers' eager attention and the value projections."""
    model.set_attn_implementation("eager")
    values, handles = [], []
    for layer in model.model.layers:
        handles.append(layer.self_attn.v_proj.register_forward_hook(lambda *call: values.append(call[2])))
    with torch.no_grad():
        weights = [layer[0] for layer in model(tokens[None], output_attentions=True).attentions]
    for handle in handles:
        handle.remove()
    model.set_attn_implementation("sdpa")
    heads = weights[0].shape[0]
    mixed = []
    for layer, value in zip(weights, values, strict=True):
        value = value[0].view(len(tokens), -1, model.config.head_dim if hasattr(model.config, "head_dim") else 8)
        repeated = value.repeat_interleave(heads // value.shape[1], 1)
        mixed.append(torch.einsum("hij,jhd->hid", layer, repeated)[:, rows])
    return [layer[:, rows][..., columns] for layer in weights], mixed


def source_of(model, name, prompt):
    """The forward attention; a causal model's has no weight on the evidence, so it is drawn at random there."""
    source = attention_patching.record_attention(model, prompt)
    if name != "llama":
        return source
    rng = torch.Generator().manual_seed(0)
    drawn = torch.rand(*source.weights.shape[:3], source.weights.shape[3] + 3, generator=rng).softmax(-1)
    return source._replace(weights=drawn[..., 3:])


# What is recorded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", attention_patching.PATCHED_ROWS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_eager_attention(loaded, name, rows):
    model, pairs = loaded(name)
    for prompt in pairs[0]:
        found = attention_patching.record_attention(model, prompt, rows)
        at = rows_of(name, prompt, rows)
        assert attention_patching.patched_rows(model, prompt, rows) == at
        weights, mixed = own_weights(model, prompt.input_ids, at, list(prompt.evidence))
        torch.testing.assert_close(found.weights, torch.stack(weights), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.outputs, torch.stack(mixed), atol=1e-5, rtol=1e-4)
        assert found.layers == (0, 1, 2, 3)
    assert (found.weights.sum(-1).mean((1, 2)) > 0.05).all()


def test_the_rows_of_a_shifted_model_are_one_more(loaded):
    for name, more in (("llada", 0), ("dream", 1)):
        model, pairs = loaded(name)
        prompt = pairs[0][1]
        both, target = (attention_patching.patched_rows(model, prompt, rows) for rows in ("both", "target"))
        assert len(target) == len(prompt.target) > 1 and len(both) == len(target) + more


def test_a_causal_forward_query_has_no_weight_on_its_evidence(loaded):
    model, pairs = loaded("llama")
    assert not attention_patching.record_attention(model, pairs[0][0]).weights.any()


# What a patch does -------------------------------------------------------------------------------------------


def mixed_variants(source):
    """Single layers, none, all, and layers and heads at random, in an order that the batch must not change."""
    drawn = torch.rand(3, *source.weights.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.3
    one = torch.zeros_like(drawn[:1])
    one[0, 2, 1] = True
    return torch.cat([drawn, attention_patching.single_layers(source).flip(0), one, one & False, one | True])


@pytest.mark.parametrize("kind", PATCH_KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_patched_logits_are_those_of_hooks(loaded, name, kind):
    model, pairs = loaded(name)
    forward, reverse = pairs[0]
    source = source_of(model, name, forward)
    where = mixed_variants(source)
    patch = Patch(kind, None if kind == "knockout" else source)
    found = attention_patching.logits_under_patch(model, reverse, patch, where)
    for variant, logits in zip(where, found, strict=True):
        expected = slow_logits(model, reverse, name, kind, source, pairs_of(variant))
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
    plain = plain_logits(model, reverse, name)
    moved = (found - plain).abs().amax((1, 2))
    assert ((moved > 0.01) == where.any(-1).any(-1)).all()


@pytest.mark.parametrize("rows", ["readout", "target"])
def test_rows_can_be_chosen_in_a_shifted_model(loaded, rows):
    model, pairs = loaded("dream")
    forward, reverse = pairs[0]
    source = attention_patching.record_attention(model, forward, rows)
    where = attention_patching.single_layers(source)
    found = attention_patching.logits_under_patch(model, reverse, Patch("weights", source), where, rows)
    for variant, logits in zip(where, found, strict=True):
        expected = slow_logits(model, reverse, "dream", "weights", source, pairs_of(variant), rows)
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_query_patched_with_itself_or_nowhere_is_unchanged(loaded, name):
    model, pairs = loaded(name)
    for prompt in pairs[0]:
        own = attention_patching.record_attention(model, prompt)
        where = mixed_variants(own)
        plain = plain_logits(model, prompt, name)
        for kind in ("weights", "total_weight", "output"):
            found = attention_patching.logits_under_patch(model, prompt, Patch(kind, own), where)
            torch.testing.assert_close(found, plain.expand_as(found), atol=1e-4, rtol=1e-4)
        nowhere = attention_patching.logits_under_patch(model, prompt, Patch("knockout"), torch.zeros_like(where))
        torch.testing.assert_close(nowhere, plain.expand_as(nowhere), atol=1e-4, rtol=1e-4)
        assert torch.equal(plain_logits(model, prompt, name), plain) and model.config._attn_implementation == "sdpa"


def test_knocking_out_what_a_causal_model_cannot_see_changes_nothing(loaded):
    model, pairs = loaded("llama")
    moved = []
    for prompt in pairs[0]:
        where = attention_patching.single_layers(attention_patching.record_attention(model, prompt))
        found = attention_patching.logits_under_patch(model, prompt, Patch("knockout"), where)
        moved.append(float((found - plain_logits(model, prompt, "llama")).abs().max()))
    assert moved[0] < 1e-5 and moved[1] > 0.01


def test_given_weights_and_the_rest_in_proportion():
    scores = torch.tensor([[1.0, 2.0, 3.0, -torch.inf, 0.5], [0.0, 300.0, -300.0, 0.0, 0.0]])
    given = torch.tensor([[0.1, 0.2], [0.0, 0.7]])
    found = attention_patching.with_evidence_weights(scores, [1, 2], given)
    left = np.exp([1.0, 0.5]) / np.exp([1.0, 0.5]).sum()
    assert found[0].tolist() == pytest.approx([0.7 * left[0], 0.1, 0.2, 0, 0.7 * left[1]], abs=1e-6)
    assert found[1].tolist() == pytest.approx([0.1, 0, 0.7, 0.1, 0.1], abs=1e-6)  # though e^300 hides the others
    with pytest.raises(ValueError, match="sees nothing but the evidence"):
        attention_patching.with_evidence_weights(scores[:, 1:3], [0, 1], given)


def test_single_layers_have_all_heads():
    source = attention_patching.EvidenceAttention(torch.zeros(3, 2, 1, 1), torch.zeros(3, 2, 1, 4), (0, 1, 2))
    one = attention_patching.single_layers(source)
    assert one[:, :, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] and torch.equal(one[..., 0], one[..., 1])


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (5, 7), (1, 1)])
def test_a_source_of_another_size_keeps_its_totals(rows, columns):
    rng = torch.Generator().manual_seed(0)
    weights, outputs = torch.rand(2, 2, 3, 2, generator=rng), torch.rand(2, 2, 3, 4, generator=rng)
    source = attention_patching.EvidenceAttention(weights, outputs, (0, 1))
    found = attention_patching.resized(source, rows, columns)
    assert found.weights.shape == (2, 2, rows, columns) and found.outputs.shape == (2, 2, rows, 4)
    torch.testing.assert_close(found.weights.sum(-1).mean(-1), weights.sum(-1).mean(-1))
    torch.testing.assert_close(found.outputs.mean(2), outputs.mean(2))
    if (rows, columns) == (3, 2):
        assert torch.equal(found.weights, weights) and torch.equal(found.outputs, outputs)
    if (rows, columns) == (2, 3):
        first = (2 * weights[:, :, 0] + weights[:, :, 1]) / 3
        split = torch.stack([first[..., 0] * 2 / 3, first.sum(-1) / 3, first[..., 1] * 2 / 3], -1)
        torch.testing.assert_close(found.weights[:, :, 0], split)


# What is refused ---------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(loaded):
    model, pairs = loaded("dream")
    forward, reverse = pairs[0]
    source = attention_patching.record_attention(model, forward)
    where = attention_patching.single_layers(source)
    refused = {
        "kind must be one of": (Patch("values", source), where),
        "weights: a source is needed": (Patch("weights"), where),
        "knockout: a source is needed for every kind but": (Patch("knockout", source), where),
        r"shape \(3, 4\) after its variants, but 4 layers have softmax attention, with 4 heads":
            (Patch("knockout"), where[:, :3]),
        "source has 2 rows and 1 tokens of evidence, the query":
            (Patch("weights", attention_patching.resized(source, 2, 1)), where),
    }
    for message, (patch, variants) in refused.items():
        with pytest.raises(ValueError, match=message):
            attention_patching.logits_under_patch(model, reverse, patch, variants)
    with pytest.raises(ValueError, match="rows must be one of both, readout, target"):
        attention_patching.record_attention(model, reverse, "all")
    with pytest.raises(ValueError, match="the target begins the text"):
        attention_patching.record_attention(model, reverse._replace(target=(0, 1)))
    with pytest.raises(ValueError, match="needs a transformers model"):
        attention_patching.record_attention(nn.Linear(2, 2), EncodedQuery(torch.arange(3), torch.arange(3), (1,), (2,)))


def test_an_error_leaves_the_model_as_it_was(loaded):
    model, pairs = loaded("llada")
    prompt = pairs[0][1]
    whole = prompt._replace(evidence=tuple(range(len(prompt.input_ids))))
    where = attention_patching.single_layers(attention_patching.record_attention(model, prompt))
    before = plain_logits(model, prompt, "llada")
    with pytest.raises(ValueError, match="sees nothing but the evidence"):
        attention_patching.logits_under_patch(model, whole, Patch("knockout"), where)
    assert model.config._attn_implementation == "sdpa" and torch.equal(plain_logits(model, prompt, "llada"), before)


def test_a_hybrid_model_is_patched_in_its_attention_layers(tmp_path):
    folder = random_checkpoints.tiny(tmp_path / "x", "qwen3_5", width=32, heads=4, key_heads=2, layers=8, scale=0.25)
    model, tokenizer = checkpoints.load(folder)
    forward, reverse = encoded_pair(WORLD, WORLD.facts[0], tokenizer)
    own = attention_patching.record_attention(model, reverse)
    assert own.layers == (3, 7)
    where = attention_patching.single_layers(own)
    plain = plain_logits(model, reverse, "llama")
    same = attention_patching.logits_under_patch(model, reverse, Patch("weights", own), where)
    torch.testing.assert_close(same, plain.expand_as(same), atol=1e-4, rtol=1e-4)
    other = attention_patching.logits_under_patch(
        model, reverse, Patch("output", attention_patching.record_attention(model, forward)), where)
    assert (other - plain).abs().amax((1, 2)).min() > 1e-3


def test_a_model_with_adapters(loaded, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = random_checkpoints.tiny(tmp_path / "x", "llada", width=32, scale=0.25)
    model, tokenizer = checkpoints.load(folder)
    prompt = encoded_pair(WORLD, WORLD.facts[0], tokenizer)[1]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.eval()
    plain = plain_logits(adapted, prompt, "llada")
    own = attention_patching.record_attention(adapted, prompt)
    where = attention_patching.single_layers(own)
    found = attention_patching.logits_under_patch(adapted, prompt, Patch("weights", own), where)
    torch.testing.assert_close(found, plain.expand_as(found), atol=1e-4, rtol=1e-4)
