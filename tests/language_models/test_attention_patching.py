"""Patches of attention against a model run by hooks, one layer after another, with its weights rescaled by division."""

import functools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from lib.language_models import attention_patching, checkpoints, figures_patching, random_checkpoints, synthetic_facts
from lib.language_models.attention_patching import PATCH_KINDS, PATCHES, AnswerScores, Patch, PatchingEffects
from lib.language_models.queries import EncodedQuery
from lib.language_models.signature_run import encoded_pair

NAMES = ("llada", "dream", "llama")
SHIFT = {"llada": 0, "dream": 1, "llama": 1}
WORLD = synthetic_facts.world(12).p2c
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Model, tokenizer and encoded pairs of each architecture; large weights, so that attention is far from even."""
    base = tmp_path_factory.mktemp("patching")

    @functools.cache
    def load(name):
        folder = random_checkpoints.tiny(base / name, name, width=32, heads=4, key_heads=2, layers=4, scale=0.25)
        model, tokenizer = checkpoints.load(folder)
        return model, [encoded_pair(WORLD, fact, tokenizer) for fact in WORLD.facts]

    return load


def rows_of(name, prompt, rows="both"):
    """Written out: which rows a prompt's patches are made in."""
    readout = {position - SHIFT[name] for position in prompt.target}
    return sorted({"readout": readout, "target": set(prompt.target), "both": readout | set(prompt.target)}[rows])


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


def slow_logits(model, prompt, name, kind, source, layers_and_heads, rows="both"):
    """One variant by forward hooks on the attention modules: outputs are put together again, head by head."""
    at, columns = rows_of(name, prompt, rows), list(prompt.evidence)
    size = model.config.hidden_size // model.config.num_attention_heads
    model.set_attn_implementation("eager")
    handles, values = [], {}

    def replace(layer, module, given, found):
        weights = found[1]
        value = values[layer][0].view(len(prompt.input_ids), -1, size)
        value = value.repeat_interleave(weights.shape[1] // value.shape[1], 1)
        heads = [head for each, head in layers_and_heads if each == layer]
        mixed = torch.einsum("hij,jhd->ihd", weights[0], value)
        for head in heads:
            for place, row in enumerate(at):
                if kind == "output":
                    mixed[row, head] = source.outputs[layer, head, place]
                    continue
                old = weights[0, head, row].double()
                theirs = torch.zeros(len(columns)) if kind == "knockout" else source.weights[layer, head, place]
                if kind == "total_weight":
                    theirs = theirs.sum() * old[columns] / old[columns].sum()
                rest = old.clone()
                rest[columns] = 0
                new = rest / rest.sum() * (1 - theirs.sum())
                new[columns] = theirs.double()
                mixed[row, head] = new.float() @ value[:, head]
        return module.o_proj(mixed.flatten(1)[None]), weights

    for layer in sorted({layer for layer, _ in layers_and_heads}):
        attention = model.model.layers[layer].self_attn
        handles.append(attention.v_proj.register_forward_hook(
            lambda module, given, found, layer=layer: values.__setitem__(layer, found)))
        handles.append(attention.register_forward_hook(functools.partial(replace, layer)))
    with torch.no_grad():
        logits = model(prompt.input_ids[None]).logits[0]
    for handle in handles:
        handle.remove()
    model.set_attn_implementation("sdpa")
    return logits[[position - SHIFT[name] for position in prompt.target]]


def pairs_of(where):
    return [tuple(pair) for pair in where.nonzero().tolist()]


def plain_logits(model, prompt, name):
    with torch.no_grad():
        return model(prompt.input_ids[None]).logits[0, [position - SHIFT[name] for position in prompt.target]]


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


def test_which_layers_and_heads():
    source = attention_patching.EvidenceAttention(torch.zeros(3, 2, 1, 1), torch.zeros(3, 2, 1, 4), (0, 1, 2))
    one, up_to, heads = (getattr(attention_patching, name)(source)
                         for name in ("single_layers", "layers_up_to", "single_heads"))
    assert one[:, :, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] and torch.equal(one[..., 0], one[..., 1])
    assert up_to[:, :, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert torch.equal(up_to[..., 0], up_to[..., 1])
    assert [pairs_of(variant) for variant in heads] == [[(layer, head)] for layer in range(3) for head in range(2)]


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


# Scores ------------------------------------------------------------------------------------------------------


def test_mean_log_probabilities_by_hand():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]])
    found = attention_patching.mean_log_probabilities(logits, [[2, 0], [1]])
    first, second = logits[0].double().exp() / logits[0].double().exp().sum(1, keepdim=True)
    assert found[0].tolist() == pytest.approx([float((first[2].log() + second[0].log()) / 2), float(first[1].log())])
    with pytest.raises(ValueError, match=r"\[2, 3\] tokens, but 2 are asked for"):
        attention_patching.mean_log_probabilities(logits, [[2, 0], [1, 1, 1]])


def prompts(*facts, target=3, mask=99):
    """A pair for each fact, in tokens: evidence and answer side by side with one token between them."""
    found = []
    for evidence, answer in facts:
        ids = torch.tensor([7, *evidence, 8, *answer])
        labels = torch.full_like(ids, -100)
        start = len(evidence) + 2
        labels[start:] = ids[start:]
        places = tuple(range(start, len(ids))), tuple(range(1, 1 + len(evidence)))
        masked = ids.clone()
        masked[start:] = mask
        found.append((EncodedQuery(masked, labels, *places),) * 2)
    return found


def test_competitors():
    pairs = prompts(([1, 2], [3, 4]), ([5], [6, 9]), ([1, 2], [10, 11]), ([12, 13, 14], [3, 4]), ([15], [16, 17]))
    assert attention_patching.shown_names(pairs) == [[[1, 2]], [[5]], [[1, 2]], [[12, 13]], [[15]]]
    others = attention_patching.other_answers(pairs)
    assert others[0] == [(6, 9), (16, 17)]  # not the other right answer about [1, 2], nor the same answer
    assert others[1] == [(10, 11), (3, 4), (16, 17)] and attention_patching.other_answers(pairs, 1)[1] == [(10, 11)]
    with pytest.raises(ValueError, match="fact 1: no other answer has 1 tokens"):
        attention_patching.other_answers(prompts(([1], [2, 3]), ([4], [5]), ([6], [7, 8])))


def test_whether_the_answer_is_in_the_text(loaded):
    assert [attention_patching.shows_target(loaded(name)[1][0][1]) for name in NAMES] == [False, False, True]


# All of it ---------------------------------------------------------------------------------------------------


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
              zip(attention_patching.shown_names(pairs), pairs, strict=True)]
    effects = attention_patching.measure_patching(model, pairs, rivals, batch=3)
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
    effects = attention_patching.measure_patching(
        model, [first, second], attention_patching.shown_names([first, second]), patches=names,
        where=attention_patching.layers_up_to(attention_patching.record_attention(model, first[0])))
    assert effects.resized.all()
    for name in names:
        largest = max(np.abs(effects.change(name, score)).max() for score in AnswerScores._fields)
        assert largest > 0.01 if name == "weights_mismatched" else largest < 1e-5


def test_a_source_of_the_same_size_is_preferred():
    pairs = prompts(([1, 2], [3, 4]), ([5], [6, 9]), ([1, 2], [3, 4]), ([12, 13], [10, 11]))
    assert [attention_patching._other_fact(pairs, place) for place in range(4)] == [3, 2, 3, 0]
    with pytest.raises(ValueError, match="every fact has the same answer"):
        attention_patching._other_fact(pairs[::2], 0)


@pytest.mark.parametrize(("change", "message"), [
    ({"patches": ["weights_forward"]}, "no patch 'weights_forward'"),
    ({"patches": ["knockout_matched"]}, "no patch 'knockout_matched'"),
    ({"patches": ["values_matched"]}, "no patch 'values_matched'"),
    ({"competitors": []}, "2 pairs, 0 competitors")])
def test_a_measurement_that_cannot_be_is_refused(loaded, change, message):
    model, pairs = loaded("llada")
    settings = {"competitors": attention_patching.shown_names(pairs[:2])} | change
    with pytest.raises(ValueError, match=message):
        attention_patching.measure_patching(model, pairs[:2], **settings)


def effects(gaps, change):
    """Effects in which the reverse query scores 1 and the forward query more by ``gaps``."""
    gaps, change = np.array(gaps), np.array(change)
    reverse = AnswerScores(np.ones_like(gaps), np.ones_like(gaps))
    forward = AnswerScores(1 + 2 * gaps, 1 + gaps)
    patched = {"weights_matched": AnswerScores(1 + 3 * change, 1 + change),
               "knockout_forward": AnswerScores(forward[0][:, None] - change, forward[1][:, None] - change)}
    return PatchingEffects(forward, reverse, patched, tuple(range(change.shape[1])), np.zeros(len(gaps), bool))


def test_shares_of_a_small_gap_are_left_open():
    found = effects([2.0, 0.1, -3.0], [[1.0, 0.5], [1.0, 0.0], [1.0, 0.0]])
    each = found.share("weights_matched")
    assert each.share[0].tolist() == [0.5, 0.25] and np.isnan(each.share[1:]).all()
    assert each.change.tolist() == [[1.0, 0.5], [1.0, 0.0], [1.0, 0.0]]
    assert each.gap[:, 0].tolist() == pytest.approx([2.0, 0.1, -3.0])
    assert found.share("weights_matched", "log_probability").share[0].tolist() == [0.75, 0.375]
    assert found.share("knockout_forward").share[0].tolist() == [-0.5, -0.25]
    assert np.isnan(found.mean_share("weights_matched").share).all()
    mean = effects([2.0, 0.0], [[1.0, 0.5], [1.0, 0.0]]).mean_share("weights_matched")
    assert mean.share.tolist() == [1.0, 0.25] and float(mean.gap) == 1.0 and mean.change.tolist() == [1.0, 0.25]


# The figure --------------------------------------------------------------------------------------------------


def test_the_figure_draws_means_and_says_where_there_is_no_gap():
    found = {"masked": effects([2.0, 1.0], [[1.0, 0.5], [1.0, 0.1]]), "causal": effects([0.1, 0.2], [[1.0, 0.5]] * 2)}
    figure = figures_patching.patching_by_layer(found)
    assert [panel.get_title() for panel in figure.axes] == ["masked", "causal"]
    lines = [line.get_ydata().tolist() for line in figure.axes[0].get_lines()[:2]]
    assert lines == [pytest.approx([1.0, 0.3]), pytest.approx([-1.0, -0.3])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "forward query's, same fact", "knocked out in the forward query"]
    shares = figures_patching.patching_by_layer(found, share=True)
    assert shares.axes[0].get_lines()[0].get_ydata().tolist() == pytest.approx([1 / 1.5, 0.2])
    assert "mean gap 0.15 nats" in shares.axes[1].texts[0].get_text() and len(shares.axes[1].get_lines()) == 1
    unsure = figures_patching.patching_by_layer({"": effects([4.0, -1.0], [[1.0, 0.5]] * 2)}, share=True)
    assert "mean gap 1.50 nats\n(-1.00 to 4.00)" in unsure.axes[0].texts[0].get_text()
    empty = figures_patching.patching_by_layer({"causal": found["causal"]}, share=True)
    assert not empty.legends
    for each in (figure, shares, unsure, empty):
        each.canvas.draw()
        plt.close(each)


def test_intervals_are_over_facts_and_pair_change_with_gap():
    change, gap = np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0])
    middle, (low, high) = figures_patching.mean_effects(change, gap, 0.5)
    assert middle.tolist() == low.tolist() == high.tolist() == [0.5]  # every fact's share is the same
    middle, (low, high) = figures_patching.mean_effects(change, gap)
    assert middle.tolist() == [2.0] and low[0] < 1.5 and high[0] > 2.5
    assert np.isnan(figures_patching.mean_effects(change, gap, 10.0)[0]).all()
