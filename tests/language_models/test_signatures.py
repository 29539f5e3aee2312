"""The probes against stored gradients, full attention matrices and probabilities multiplied by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_architectures import WORLD, probed_models
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lib.language_models import attention_scores, checkpoints, queries, random_checkpoints, signatures
from lib.language_models.architectures import ARCHITECTURES
from lib.one_layer.model import ModelConfig, Output, Transformer, initialise

NAMES = tuple(ARCHITECTURES)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return probed_models(tmp_path_factory.mktemp("probes"))


def pair_of(case):
    return [queries.batch([prompt]) for prompt in case[2]]


def batch(tokens, labels):
    return {"input_ids": torch.tensor(tokens), "labels": torch.tensor(labels)}


class Toy(nn.Module):
    """Everything that is no plain linear map: raw parameters, a shared matrix, a convolution, work in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 8, padding_idx=3)
        self.shared = nn.Linear(8, 8)
        self.raw = nn.Parameter(torch.randn(2, 8, 8))
        self.transposed = nn.Parameter(torch.randn(8, 8))
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.unused = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)
        nn.init.normal_(self.table.weight)

    def forward(self, input_ids, attention_mask=None):
        x = self.dropout(self.table(input_ids))
        x = x + functional.relu_(self.shared(x))  # in place on the output
        x = x + torch.einsum("hij,blj->bli", self.raw, self.shared(x))  # the same matrix again
        x = x + functional.linear(x, self.transposed) + x @ self.transposed  # as a linear map, and otherwise
        x = x + self.mix(x.mT).mT
        return Output(functional.linear(self.norm(x), self.table.weight))  # tied, by hand


# Gradients ---------------------------------------------------------------------------------------------------


def stored_gradients(model, asked):
    """Gradients by plain backward passes of a loss written out here."""
    model.zero_grad(set_to_none=True)
    model.eval()
    logits = model(**{key: value for key, value in asked.items() if key != "labels"}).logits
    loss, count = 0.0, 0
    shifted = queries.logits_shift(model)
    for row, position in (asked["labels"] != -100).nonzero().tolist():
        loss = loss - logits[row, position - shifted].log_softmax(-1)[asked["labels"][row, position]]
        count += 1
    (loss / count).backward()
    found = {name: torch.zeros_like(weight) if weight.grad is None else weight.grad.double().clone()
             for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def assert_matches(model, forward, reverse):
    expected_f, expected_r = stored_gradients(model, forward), stored_gradients(model, reverse)
    parts = signatures.gradient_alignment(model, forward, reverse)
    assert set(parts) == set(expected_f)
    for name, part in parts.items():
        f, r = expected_f[name], expected_r[name]
        scale = float(f.norm() * r.norm())
        assert part.inner == pytest.approx(float((f * r).sum()), rel=1e-5, abs=1e-5 * scale + 1e-12), name
        assert part.norm_f == pytest.approx(float(f.norm()), rel=1e-5, abs=1e-9), name
        assert part.norm_r == pytest.approx(float(r.norm()), rel=1e-5, abs=1e-9), name
    whole = signatures.gradient_cosine(model, forward, reverse)
    inner = sum(float((expected_f[name] * expected_r[name]).sum()) for name in parts)
    assert whole.inner == pytest.approx(inner, rel=1e-5)
    assert signatures.whole(signatures.alignment_by_layer(parts)) == pytest.approx(whole, rel=1e-9)
    assert signatures.cosine_by_autograd(model, forward, reverse) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_equal_stored_gradients_in_every_architecture(loaded, name):
    assert_matches(loaded[name][0], *pair_of(loaded[name]))


@pytest.mark.parametrize("name", ["llada", "dream", "llama"])
def test_hooks_equal_stored_gradients_in_padded_batches(loaded, name):
    model, tokenizer, _ = loaded[name]
    pairs = [queries.encoded_pair(data, fact, tokenizer) for data in (WORLD.p2c, WORLD.trex)
             for fact in data.facts[:2]]
    assert_matches(model, *(queries.batch([pair[side] for pair in pairs]) for side in (0, 1)))


def test_tied_embeddings(tmp_path):
    folder = random_checkpoints.tiny(tmp_path / "x", "llada", width=32, scale=0.15, weight_tying=True)
    model, tokenizer = checkpoints.load(folder)
    pair = queries.encoded_pair(WORLD.p2c, WORLD.p2c.facts[0], tokenizer)
    assert "lm_head.weight" not in dict(model.named_parameters())
    assert_matches(model, *(queries.batch([prompt]) for prompt in pair))


def test_raw_parameters_shared_matrices_and_work_in_place():
    forward = batch([[3, 5, 1, 1, 7]], [[-100, 4, -100, -100, 6]])  # the padding row is in use
    reverse = batch([[7, 5, 3, 1], [2, 2, 1, 9]], [[-100, -100, 3, 4], [1, -100, -100, -100]])
    assert_matches(Toy(), forward, reverse)


@pytest.mark.parametrize("encoding", ["rope", "learned", "t5"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_books_own_model(encoding, causal):
    settings = ModelConfig(length=6 - causal, encoding=encoding, heads=2, depth=2, causal=causal)
    model = initialise(Transformer(settings), 1)
    nn.init.normal_(model.head.weight)
    forward = batch([[1, 9, 3, 4, 5, 2]], [[-100, 7, -100, -100, -100, -100]])
    reverse = batch([[1, 3, 4, 5, 9, 2]], [[-100, -100, -100, -100, 7, -100]])
    assert_matches(model, forward, reverse)


def test_a_gradient_leaves_the_model_as_it_was(loaded):
    model, _, _ = loaded["dream"]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    frozen = model.model.layers[0].self_attn.q_proj.weight.requires_grad_(False)
    model.train()
    signatures.gradient_cosine(model, *pair_of(loaded["dream"]))
    assert model.training and model.model.layers[1].training
    assert not frozen.requires_grad and model.lm_head.weight.requires_grad
    assert all(weight.grad is None and torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    frozen.requires_grad_(True)
    model.eval()


def test_dropout_is_off():
    model = Toy().train()
    forward, reverse = batch([[5, 1]], [[4, -100]]), batch([[1, 5]], [[-100, 4]])
    assert signatures.gradient_cosine(model, forward, reverse) == signatures.gradient_cosine(model, forward, reverse)


def test_a_batch_against_itself_and_a_gradient_of_zero():
    model = Toy()
    forward = batch([[5, 1, 2]], [[4, -100, -100]])
    found = signatures.gradient_cosine(model, forward, forward)
    assert found.cosine == pytest.approx(1) and found.norm_f == found.norm_r
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.norm.weight.zero_()
    found = signatures.gradient_cosine(model, forward, forward)
    assert found.norm_f == 0 and np.isnan(found.cosine)


class Shapes(TorchDispatchMode):
    """Collects the shape of every tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and func not in (torch.ops.aten.t.default, torch.ops.aten.detach.default):
            self.made.add(tuple(out.shape))
        return out


def test_no_weight_gradient_is_ever_made(loaded):
    model, _, _ = loaded["llada"]
    matrices = {tuple(weight.shape) for weight in model.parameters() if weight.dim() == 2}
    matrices |= {shape[::-1] for shape in matrices}
    with Shapes() as hooks:
        signatures.gradient_cosine(model, *pair_of(loaded["llada"]))
    with Shapes() as stored:
        signatures.cosine_by_autograd(model, *pair_of(loaded["llada"]))
    assert not hooks.made & matrices
    assert stored.made & matrices  # the measure sees them where they are


def test_the_scope_of_adapters(tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = random_checkpoints.tiny(tmp_path / "x", "llada", width=32, scale=0.15)
    model, tokenizer = checkpoints.load(folder)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    asked = [queries.batch([prompt]) for prompt in queries.encoded_pair(WORLD.p2c, WORLD.p2c.facts[0], tokenizer)]
    parts = signatures.gradient_alignment(adapted, *asked, scope="trainable")
    assert parts and all("lora_" in name for name in parts)
    every = signatures.gradient_alignment(adapted, *asked)
    assert set(every) > set(parts)
    assert all(every[name] == pytest.approx(parts[name], rel=1e-6) for name in parts)
    with pytest.raises(ValueError, match="scope must be 'all' or 'trainable'"):
        signatures.gradient_cosine(adapted, *asked, scope="lora")
    for weight in adapted.parameters():
        weight.requires_grad_(False)
    with pytest.raises(ValueError, match="has no such parameter"):
        signatures.gradient_cosine(adapted, *asked, scope="trainable")


# Which row predicts which position ---------------------------------------------------------------------------


def test_dreams_shift_is_inside_and_its_first_row_predicts_itself(loaded):
    model, _, _ = loaded["dream"]
    tokens = torch.tensor([[5, 9, 2, 7]])
    logits = model(tokens).logits[0]
    asked = {"input_ids": tokens, "labels": torch.tensor([[8, -100, -100, 6]])}
    assert torch.equal(queries.asked_logits(model, asked), logits[[0, 2]])
    expected = -(logits[0].log_softmax(-1)[8] + logits[2].log_softmax(-1)[6]) / 2
    assert signatures.mean_cross_entropy(model, asked).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_causal_model_predicts_no_first_token(loaded):
    model, _, _ = loaded["qwen2"]
    tokens = torch.tensor([[5, 9, 2]])
    with pytest.raises(ValueError, match=r"labels\[0, 0\]: a causal model predicts no first token"):
        signatures.mean_cross_entropy(model, {"input_ids": tokens, "labels": torch.tensor([[5, -100, -100]])})
    loss = signatures.mean_cross_entropy(model, {"input_ids": tokens, "labels": torch.tensor([[-100, 9, 2]])})
    assert loss.item() == pytest.approx(model(tokens, labels=tokens).loss.item(), rel=1e-6)


def test_what_a_model_says_of_its_shift_counts():
    toy = Toy()
    assert queries.logits_shift(toy) == 0
    toy.logits_shift = 1
    assert queries.logits_shift(toy) == 1
    toy.logits_shift = 2
    with pytest.raises(ValueError, match="logits_shift must be 0 or 1, not 2"):
        queries.logits_shift(toy)


@pytest.mark.parametrize(("change", "message"), [
    ({"labels": None}, "field 'labels' is missing"), ({"extra": torch.ones(1, 3)}, "unknown field 'extra'"),
    ({"labels": torch.ones(1, 2)}, "all fields share one"), ({"labels": torch.full((1, 3), -100)}, "no position"),
    ({"labels": torch.tensor([[-100, 99, -100]])}, "outside the vocabulary of 20"),
])
def test_malformed_batches_are_refused(change, message):
    asked = batch([[1, 2, 3]], [[-100, 4, -100]]) | change
    asked = {field: value for field, value in asked.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        signatures.gradient_cosine(Toy(), asked, asked)


# Probability of a target -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada", "dream", "qwen2"])
def test_the_probability_of_an_entity_is_the_product_over_its_tokens(loaded, name):
    model, _, pair = loaded[name]
    assert len(pair[0].target) > 1
    rows = []
    for prompt in pair:
        distribution = model(prompt.input_ids[None]).logits[0].detach().double().softmax(-1)
        rows.append(np.prod([float(distribution[position - ARCHITECTURES[name].logits_shift, prompt.labels[position]])
                             for position in prompt.target]))
    assert signatures.target_probability(model, queries.batch(pair)).tolist() == pytest.approx(rows, rel=1e-4)


def test_a_row_that_asks_for_nothing_has_no_probability():
    with pytest.raises(ValueError, match=r"labels\[1\]: this row asks for nothing"):
        signatures.target_probability(Toy(), batch([[1, 2], [1, 2]], [[3, -100], [-100, -100]]))


# Correlation -------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 40), st.floats(0.1, 50), st.floats(-50, 50))
def test_correlation_is_numpys_and_ignores_units(seed, count, factor, shift):
    first, second = np.random.default_rng(seed).normal(size=(2, count))
    expected = np.corrcoef(first, second)[0, 1]
    assert signatures.score_correlation(first, second) == pytest.approx(expected, abs=1e-9)
    other_units = torch.tensor(factor * first + shift)
    assert signatures.score_correlation(other_units, second) == pytest.approx(expected, abs=1e-6)
    assert signatures.score_correlation(first, -first) == pytest.approx(-1)


@pytest.mark.parametrize(("forward", "reverse", "message"), [
    ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "scores_forward is constant"),
    ([1.0, 2.0], [4.0, 4.0], "scores_reverse is constant"),
    ([1.0, 2.0], [1.0, float("-inf")], "not finite"), ([1.0, 2.0], [1.0], r"shape \(2,\), scores_reverse \(1,\)"),
    ([1.0], [1.0], "at least two"), ([0.1 + 0.2, 0.3], [1.0, 2.0], "constant"),
])
def test_correlation_refuses_what_has_none(forward, reverse, message):
    with pytest.raises(ValueError, match=message):
        signatures.score_correlation(forward, reverse)


# Attention routes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_recorded_weights_are_the_full_matrixs_and_logits_stay(loaded, name):
    model, _, (_, reverse) = loaded[name]
    before = model(reverse.input_ids[None]).logits
    found = attention_scores.scores_and_weights(model, reverse.input_ids, reverse.target, reverse.evidence)
    assert torch.equal(model(reverse.input_ids[None]).logits, before)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    attentions = model(reverse.input_ids[None], output_attentions=True).attentions
    matrices = [matrix for matrix in attentions if matrix is not None]
    model.set_attn_implementation("sdpa")
    expected = torch.cat(matrices)[:, :, list(reverse.target)][..., list(reverse.evidence)]
    assert torch.allclose(found.weights, expected, atol=1e-6) and found.weights.max() > 0.01
    assert found.layers == ((3,) if name == "qwen3_5" else (0, 1, 2, 3))


def test_scores_become_the_weights():
    """With all columns recorded and no mask, the softmax of the scores is the weights."""
    model = initialise(Transformer(ModelConfig(length=5, heads=2, depth=2)), 0)
    tokens = torch.tensor([[1, 5, 3, 2, 4], [4, 3, 2, 1, 9]])
    found = attention_scores.scores_and_weights(model, tokens, [1, 3], range(5))
    assert found.scores.shape == (2, 2, 2, 2, 5)
    assert torch.allclose(found.scores.softmax(-1), found.weights)
    single = attention_scores.scores_and_weights(model, tokens[1], [3], [0])
    assert torch.allclose(single.scores, found.scores[1][:, :, 1:, :1])
    caught = []
    model.blocks[1].attention.weights.register_forward_hook(lambda module, given, out: caught.append(out))
    model(tokens)
    assert torch.allclose(caught[0][:, :, [1, 3]], found.weights[:, 1])


def test_the_first_layers_scores_by_hand(loaded):
    """q . k after rotation, from the weights and complex numbers; grouped heads."""
    model, _, (forward, _) = loaded["llada"]
    found = attention_scores.scores_and_weights(model, forward.input_ids, forward.target, forward.evidence)
    layer, size = model.model.layers[0], 8
    h = layer.input_layernorm(model.model.embed_tokens(forward.input_ids)).double()
    q, k = ((h @ linear.weight.double().T).unflatten(-1, (-1, size))
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj))
    theta = 500000.0 ** (-torch.arange(0, size, 2).double() / size)
    for head in range(4):
        for row, i in enumerate(forward.target):
            for column, j in enumerate(forward.evidence):
                a, b = (torch.complex(x[:4], x[4:]) for x in (q[i, head], k[j, head // 2]))
                score = (a * b.conj() * torch.exp(1j * theta * (i - j))).sum().real / size**0.5
                assert found.scores[0, head, row, column].item() == pytest.approx(score.item(), rel=1e-4, abs=1e-5)


def test_routes_refuse_positions_outside_the_prompt(loaded):
    model = loaded["llada"][0]
    with pytest.raises(ValueError, match=r"columns \(9,\): need positions between 0 and 2"):
        attention_scores.scores_and_weights(model, torch.tensor([1, 2, 3]), [0], [9])
    with pytest.raises(ValueError, match=r"rows \(\): need positions"):
        attention_scores.scores_and_weights(model, torch.tensor([1, 2, 3]), [], [1])
    with pytest.raises(ValueError, match="no layer offered"):
        attention_scores.scores_and_weights(Toy(), torch.tensor([1, 2, 3]), [0], [1])


# Pairs of queries --------------------------------------------------------------------------------------------


def test_a_target_with_other_tokens_in_reverse_is_refused(loaded):
    with pytest.raises(ValueError, match="give a lead"):
        queries.encoded_pair(WORLD.p2c, WORLD.p2c.facts[0], loaded["llada"][1], lead="")
