"""The plain model against a second implementation, and the decomposition of Sec. 3 held to the last digit."""

import math

import pytest
import torch
from small_one_layer import random_model

from lib.encodings import ENCODINGS, rope_frequencies
from lib.language_models import signatures
from lib.one_layer import model as model_module
from lib.one_layer import task
from lib.one_layer.model import ModelConfig, Transformer, initialise, storage

torch.set_num_threads(1)


def model(seed=0, **settings):
    return random_model(0.3, seed, **{"length": 6, **settings})


def tokens(count, length, seed=0, mask=1):
    drawn = torch.randint(task.CLEAN, (count, length), generator=torch.Generator().manual_seed(seed))
    drawn[:, mask] = task.MASK
    return drawn


def slowly(made, ids):
    """Logits of one sequence by loops over positions and heads, from the formulas of Sec. 3 and a pre-norm block."""
    s, named = made.settings, dict(made.named_parameters())
    norm = lambda x, w: (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * w if s.norm else x
    x = [named["embedding"][i] for i in ids]
    if s.encoding == "learned":
        x = [a + p for a, p in zip(x, named["position"], strict=True)]
    for layer in range(s.depth):
        p = lambda name, layer=layer: named.get(f"blocks.{layer}.{name}")
        h = [norm(a, p("norm1.weight")) for a in x]
        out, dim = [], s.width // s.heads
        for i in range(len(ids)):
            heads = []
            for head in range(s.heads):
                part = slice(head * dim, (head + 1) * dim)
                q = p("attention.query.weight")[part] @ h[i]
                seen = range(i + 1 if s.causal else len(ids))
                scores = [score(s, q, p("attention.key.weight")[part] @ h[j], j - i, head) for j in seen]
                values = [p("attention.value.weight")[part] @ h[j] for j in seen]
                heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            out.append(p("attention.output.weight") @ torch.cat(heads))
        x = [a + b for a, b in zip(x, out, strict=True)]
        if s.mlp:
            inside = [p("mlp.up.weight") @ norm(a, p("norm2.weight")) + p("mlp.up.bias") for a in x]
            gelu = [0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))) for u in inside]
            x = [a + p("mlp.down.weight") @ g + p("mlp.down.bias") for a, g in zip(x, gelu, strict=True)]
    return torch.stack([named["head.weight"] @ norm(a, named.get("norm.weight")) + named["head.bias"] for a in x])


def score(s, q, k, offset, head):
    if s.encoding == "rope":
        angles = offset * torch.from_numpy(rope_frequencies(len(q)))
        planes = torch.view_as_complex(q.view(-1, 2)).conj() * torch.view_as_complex(k.view(-1, 2))
        return (planes * torch.exp(1j * angles)).real.sum() / math.sqrt(len(q))
    bias = -(2 ** (-8 * (head + 1) / s.heads)) * abs(offset) if s.encoding == "alibi" else 0.0
    return q @ k / math.sqrt(len(q)) + bias


@pytest.mark.parametrize("settings", [
    {"encoding": "rope"}, {"encoding": "rope", "heads": 2, "depth": 2}, {"encoding": "alibi", "heads": 4},
    {"encoding": "learned", "causal": True}, {"encoding": "learned", "mlp": False},
    {"encoding": "none", "norm": False}, {"encoding": "rope", "causal": True, "depth": 2},
], ids=str)
def test_logits_agree_with_a_loop_over_positions(settings):
    made = model(**settings)
    ids = tokens(2, made.settings.positions)
    with torch.no_grad():
        for row, logits in zip(ids, made(ids).logits, strict=True):
            assert torch.allclose(logits, slowly(made, row), atol=1e-6)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if not ENCODINGS[name].absolute])
def test_relative_logits_are_stored_values_weighed_by_attention(encoding):
    made = model(encoding=encoding, mlp=False, norm=False)
    ids = tokens(5, 6)
    seen = []
    made.layers[0].attention.weights.register_forward_hook(lambda module, inputs, alpha: seen.append(alpha[:, 0, 1]))
    logits = made(ids).logits[:, 1]
    one_hot = torch.nn.functional.one_hot(ids, task.TOKENS).double()
    routed = torch.einsum("bj,bjv->bv", seen[0], one_hot)  # sum_j alpha_ij e_(x_j)
    assert torch.allclose(logits, routed @ storage(made).T, atol=1e-9)
    # a control: the same W with the weights of another sequence misses
    assert not torch.allclose(logits, routed.roll(1, 0) @ storage(made).T, atol=1e-3)


@pytest.mark.parametrize(("encoding", "values", "query", "key"), [
    ("learned", "natural", True, True), ("sinusoidal", "natural", True, True), ("learned", "free", True, False),
    ("sinusoidal", "free", True, False), ("rope", "laden", False, True), ("alibi", "laden", False, True)])
def test_absolute_logits_need_a_store_for_each_pair_of_positions(encoding, values, query, key):
    made = model(encoding=encoding, values=values, mlp=False, norm=False)
    ids, seen = tokens(5, 6), []
    made.layers[0].attention.weights.register_forward_hook(lambda module, inputs, alpha: seen.append(alpha[:, 0, 1]))
    logits, w = made(ids).logits[:, 1], storage(made)
    gathered = torch.stack([w[1, j, :, ids[:, j]] for j in range(6)])  # (keys, clean, batch)
    assert torch.allclose(logits, torch.einsum("bj,jvb->bv", seen[0], gathered), atol=1e-9)
    assert ((w[1, 0] - w[1, 4]).abs().max() > 0.01) == key and ((w[0, 2] - w[3, 2]).abs().max() > 0.01) == query


@pytest.mark.parametrize(("settings", "free"), [
    ({"encoding": "rope"}, True), ({"encoding": "rope", "values": "laden"}, False), ({"encoding": "learned"}, False),
    ({"encoding": "learned", "values": "free"}, True), ({"encoding": "sinusoidal", "values": "free"}, True),
    ({"encoding": "none", "values": "laden"}, False)], ids=str)
def test_values_move_with_the_token_only_where_position_enters_them(settings, free):
    made, seen = model(**settings), {}
    attention = made.layers[0].attention
    for name in ("values", "scores"):
        getattr(attention, name).register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: out}))
    ids = torch.full((2, 6), task.PLACEHOLDER)
    ids[0, 1] = ids[1, 4] = 30
    made(ids)
    assert torch.allclose(seen["values"][0, :, 1], seen["values"][1, :, 4]) == free
    # what position does to the scores is left as it was
    scores, _ = seen["scores"], made(ids)
    natural = model(**{**settings, "values": "natural"})
    natural.load_state_dict(made.state_dict(), strict=False)
    natural.layers[0].attention.scores.register_forward_hook(lambda module, inputs, out: seen.update(scores=out))
    natural(ids)
    assert torch.equal(scores, seen["scores"])


def test_a_named_point_lets_a_hook_intervene():
    made = model(encoding="rope")
    uniform = lambda module, inputs, alpha: torch.full_like(alpha, 1 / alpha.shape[-1])
    made.layers[0].attention.weights.register_forward_hook(uniform)
    ids = tokens(1, 6)
    shuffled = ids[:, [3, 1, 5, 0, 2, 4]]  # the mask stays; attention no longer sees places
    assert torch.allclose(made(ids).logits[:, 1], made(shuffled).logits[:, 1])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_only_mirror_blind_encodings_answer_alike_forward_and_reverse(encoding):
    made = model(encoding=encoding, heads=2)
    if encoding == "t5":
        assert made.position is not None
    forward, reverse = task.paired_queries(6)
    logits = [made(asked.tokens).logits[torch.arange(len(asked)), asked.position] for asked in (forward, reverse)]
    assert torch.allclose(*logits, atol=1e-9) == (encoding in ("alibi", "none"))


def test_a_causal_model_does_not_see_what_comes_later():
    made = model(encoding="learned", causal=True, depth=2)
    ids = tokens(1, 7)
    later = ids.clone()
    later[0, 5] = 3
    before, after = made(ids).logits[0], made(later).logits[0]
    assert torch.equal(before[:5], after[:5]) and not torch.allclose(before[5], after[5])
    masked = model(encoding="learned", depth=2)
    assert not torch.allclose(masked(ids[:, :6]).logits[0, 0], masked(later[:, :6]).logits[0, 0])


def test_rows_are_the_full_logits_at_those_rows():
    made, rows = model(depth=2), torch.tensor([1, 7, 17])
    ids = tokens(3, 6)
    assert torch.allclose(made(ids, rows=rows).logits, made(ids).logits.flatten(0, 1)[rows])


def test_the_probes_take_the_model_as_it_is():
    forward, reverse = (asked[asked.letter == 3] for asked in task.paired_queries(6))
    found = signatures.gradient_cosine(model(), forward.batch(), reverse.batch())
    assert -1 <= found.cosine <= 1 and found.norm_f > 0
    # a causal model's gradients of the last token, through the same interface
    causal = [asked[asked.letter == 3] for asked in task.paired_causal_queries(6)]
    made = model(causal=True, encoding="learned")
    assert signatures.gradient_cosine(made, *(asked.batch() for asked in causal)).norm_r > 0
    probability = signatures.target_probability(made, causal[0].batch())
    rows = made(causal[0].tokens).logits[torch.arange(5), causal[0].position - 1].softmax(-1)
    assert torch.allclose(probability, rows.gather(1, causal[0].target[:, None])[:, 0])


def test_a_seed_fixes_the_weights():
    first, again, other = (torch.cat([w.reshape(-1) for w in initialise(Transformer(ModelConfig()), seed).parameters()])
                           for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)


@pytest.mark.parametrize(("settings", "message"), [
    ({"length": 1}, "length must be an integer of at least 2"),
    ({"width": 7}, "rope: the head dimension"),
    ({"width": 0}, "width must be a positive integer"),
    ({"heads": 3}, "width 64 must be a multiple of heads 3"),
    ({"depth": 0}, "depth must be a positive integer"),
    ({"encoding": "absolute"}, "unknown encoding 'absolute'"),
    ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
    ({"values": "fixed"}, "unknown values 'fixed'; one of natural, free, laden"),
    ({"values": "free"}, r"values 'free': under encoding 'rope' values are free of position anyway; .*learned, sinus"),
    ({"encoding": "learned", "values": "laden"}, r"'learned' values carry position anyway; .*are rope, alibi, .*none"),
    ({"encoding": "learned", "values": "free", "depth": 2}, "values 'free' needs depth 1, not 2"),
])
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_what_the_model_cannot_answer_is_refused():
    made = model()
    with pytest.raises(ValueError, match="input_ids has length 5, but the model has 6 positions"):
        made(tokens(1, 5))
    with pytest.raises(ValueError, match="attention_mask hides tokens"):
        made(tokens(1, 6), attention_mask=torch.tensor([[1, 1, 1, 1, 1, 0]]))
    with pytest.raises(ValueError, match="storage: exact for"):
        storage(model_module.Transformer(ModelConfig()))
