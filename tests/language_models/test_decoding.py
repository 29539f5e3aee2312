"""Samplers against plain loops that fill one mask at a time, on a table of logits and on tiny checkpoints."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.language_models import checkpoints, decoding, fact_sources, random_checkpoints, synthetic_facts
from lib.language_models.facts import Example

torch.set_num_threads(1)
MASK = 19


class Context(nn.Module):
    """Logits that depend on every visible token, so that the order of filling matters."""

    def __init__(self, shift=0):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table, self.place = (torch.randn(n, 20, generator=draw) for n in (20, 40))
        self.mix = torch.randn(40, 40, generator=draw)
        self.config = SimpleNamespace(logits_shift=shift, is_causal=False)
        self.shift, self.calls = shift, 0

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        self.calls += 1
        length = input_ids.shape[1]
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mixed = torch.einsum("ij,bjv->biv", self.mix[:length, :length], self.table[input_ids] * seen[..., None])
        logits = 3 * torch.sin(mixed + self.place[:length])
        logits[..., MASK] = -20.0
        return SimpleNamespace(logits=logits.roll(-self.shift, 1) if self.shift else logits)


def prompt_of(rows=2, length=5):
    return torch.randint(0, 19, (rows, length), generator=torch.Generator().manual_seed(1))


def one_at_a_time(model, prompt, length, block):
    """The most confident prediction first, block by block, each row by itself."""
    rows = []
    for row in prompt:
        x = torch.cat([row, torch.full((length,), MASK)])
        for start in range(len(row), len(x), block):
            for _ in range(block):
                p = model(x[None]).logits[0].softmax(-1)
                if model.shift:
                    p = torch.cat([p[:1], p[:-1]])
                masks = [i for i in range(start, start + block) if x[i] == MASK]
                best = max(masks, key=lambda i: float(p[i].max()))
                x[best] = p[best].argmax()
        rows.append(x)
    return torch.stack(rows)


@pytest.mark.parametrize("block", [12, 4, 1])
def test_llada_keeps_the_most_confident_prediction_block_by_block(block):
    model = Context()
    found = decoding.llada(model, prompt_of(), MASK, length=12, steps=12, block=block)
    assert torch.equal(found, one_at_a_time(model, prompt_of(), 12, block))
    assert not (found == MASK).any()


def test_blocks_and_order_change_the_answer():
    answers = {block: decoding.llada(Context(), prompt_of(), MASK, length=12, steps=12, block=block)
               for block in (12, 4, 1)}
    assert len({tuple(answer.flatten().tolist()) for answer in answers.values()}) > 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(1, 12))
def test_every_mask_is_filled_once_in_even_shares(masks, steps):
    shares = decoding._shares(torch.tensor(masks), steps)
    assert shares.sum(1).tolist() == masks
    assert (shares.max(1).values - shares.min(1).values <= 1).all()
    assert (shares.diff(dim=1) <= 0).all()


def test_llada_takes_as_many_passes_as_steps_and_leaves_the_prompt():
    model = Context()
    found = decoding.llada(model, prompt_of(), MASK, length=12, steps=6, block=4, remasking="random", temperature=0.5)
    assert model.calls == 6 and torch.equal(found[:, :5], prompt_of()) and not (found == MASK).any()


def test_guidance_moves_away_from_the_masked_prompt():
    """By hand, for one token: free + (strength + 1) (asked - free)."""
    model, prompt = Context(), prompt_of(40)
    x = nn.functional.pad(prompt, (0, 1), value=MASK)
    free = model(x.masked_fill(x != MASK, MASK)).logits[:, -1]
    asked = model(x).logits[:, -1]
    expected = (free + 3 * (asked - free)).argmax(-1)
    assert torch.equal(decoding.llada(model, prompt, MASK, length=1, steps=1, block=1, guidance=2)[:, -1], expected)
    assert not torch.equal(expected, asked.argmax(-1))


def test_temperature_samples_the_softmax():
    model, prompt = Context(), prompt_of(1).repeat(4000, 1)
    torch.manual_seed(0)
    drawn = decoding.llada(model, prompt, MASK, length=1, steps=1, block=1, temperature=1.0)[:, -1]
    x = torch.cat([prompt[:1], torch.tensor([[MASK]])], 1)
    expected = model(x).logits[0, -1].softmax(-1)
    assert torch.bincount(drawn, minlength=20) / 4000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("change", "message"), [
    ({"remasking": "none"}, "remasking must be one of low_confidence, random"),
    ({"block": 5}, "length 12 must be a multiple of block 5"), ({"block": 4, "steps": 4}, "multiple of the 3 blocks")])
def test_llada_refuses_what_does_not_divide(change, message):
    with pytest.raises(ValueError, match=message):
        decoding.llada(Context(), prompt_of(), MASK, **({"length": 12, "steps": 12, "block": 12} | change))


# Dream -------------------------------------------------------------------------------------------------------


def dream_by_hand(model, prompt, length, steps, confidence):
    """One row; fill as many as the time grid calls for, the most confident first."""
    x = torch.cat([prompt[0], torch.full((length,), MASK)])
    for step in range(steps):
        now, later = (1 - (1 - decoding.LAST_TIME) * i / steps for i in (step, step + 1))
        masks = (x == MASK).nonzero()[:, 0].tolist()
        n_unmask = len(masks) if step == steps - 1 else int(len(masks) * (1 - later / now))
        p = model(x[None]).logits[0].softmax(-1)
        for place in sorted(masks, key=lambda i: -confidence(p[max(i - 1, 0)]))[:n_unmask]:
            x[place] = p[max(place - 1, 0)].argmax()
    return x[None]


CONFIDENCE = {
    "maskgit_plus": lambda p: float(p.max()),
    "topk_margin": lambda p: float(p.sort().values[-1] - p.sort().values[-2]),
    "entropy": lambda p: float((p * (p + 1e-10).log()).sum()),
}


@pytest.mark.parametrize("algorithm", list(CONFIDENCE))
@pytest.mark.parametrize("steps", [12, 5])
def test_dream_fills_the_most_confident_by_its_rule(algorithm, steps):
    model = Context(shift=1)
    found = decoding.dream(model, prompt_of(1), MASK, length=12, steps=steps, algorithm=algorithm)
    assert torch.equal(found, dream_by_hand(model, prompt_of(1), 12, steps, CONFIDENCE[algorithm]))


def test_dreams_rules_differ_and_origin_fills_at_random():
    answers = [decoding.dream(Context(shift=1), prompt_of(), MASK, length=12, steps=6, algorithm=algorithm)
               for algorithm in CONFIDENCE]
    assert len({tuple(answer.flatten().tolist()) for answer in answers}) > 1
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        answers.append(decoding.dream(Context(shift=1), prompt_of(), MASK, length=12, steps=6))
    assert torch.equal(answers[3], answers[4]) and not torch.equal(answers[4], answers[5])
    assert not any((answer == MASK).any() for answer in answers)


def test_as_many_steps_as_tokens_fill_none_first_and_two_last():
    model, left = Context(shift=1), []
    forward = model.forward
    model.forward = lambda input_ids, **rest: left.append(int((input_ids == MASK).sum())) or forward(input_ids, **rest)
    decoding.dream(model, prompt_of(1), MASK, length=32, steps=32, algorithm="entropy")
    assert [before - after for before, after in zip(left, [*left[1:], 0], strict=True)] == [0, *[1] * 30, 2]


def test_top_k_and_top_p_limit_what_is_drawn():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(500, 1)
    torch.manual_seed(0)
    assert set(decoding._predict(logits, 1.0, None, 2).tokens.tolist()) == {0, 1}
    # probabilities .644 .237 .087 .032: two are needed for 0.7, one for 0.6, and one always stays
    assert set(decoding._predict(logits, 1.0, 0.7, None).tokens.tolist()) == {0, 1}
    assert set(decoding._predict(logits, 1.0, 0.01, None).tokens.tolist()) == {0}
    assert set(decoding._predict(logits, 1.0, None, None).tokens.tolist()) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="algorithm must be one of origin"):
        decoding.dream(Context(1), prompt_of(), MASK, algorithm="random")


# Tiny checkpoints --------------------------------------------------------------------------------------------

GAP = 1e-4  # of logits and of log-probabilities: what lies closer together may change places with the processor


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    base = tmp_path_factory.mktemp("decoding")
    return {name: checkpoints.load(random_checkpoints.tiny(base / name, name, width=32, scale=0.2))
            for name in ("llada", "dream", "qwen2")}


@torch.no_grad()
def steps_of(model, decode, ids, shown):
    """What a sampler shows the model at each step, and its answer at last: each (batch, length)."""
    steps = []
    handle = model.register_forward_pre_hook(lambda _, __, given: steps.append(given["input_ids"].clone()),
                                             with_kwargs=True)
    steps.append(decode(ids, shown))
    handle.remove()
    return steps


@torch.no_grad()
def shortfalls(model, steps, mask, order):
    """How far a plain reading of each step finds the sampler from its rule; 0 where it follows it.

    :param steps: what one row holds at each step, (step, length)
    :param order: a score of each position from the log-probabilities that predict it, (position, vocab); the masks with
        the highest should be filled
    :return: over all steps, the largest lead of a mask that waits over one that is filled, and of another token's logit
        over that of the token filled in
    """
    passed_over, outbid = [0.0], [0.0]
    for x, later in itertools.pairwise(steps):
        logits = model(input_ids=x[None]).logits[0]
        logits = torch.cat([logits[:1], logits[:-1]]) if model.config.logits_shift else logits
        masks, filled = x == mask, (x == mask) & (later != mask)
        assert torch.equal(x[~masks], later[~masks])
        scores = order(logits.log_softmax(-1))
        if filled.any() and (masks & ~filled).any():
            passed_over.append(float(scores[masks & ~filled].max() - scores[filled].min()))
        if filled.any():
            outbid.append(float((logits.amax(-1) - logits.gather(1, later[:, None])[:, 0])[filled].max()))
    return max(passed_over), max(outbid)


RULES = {"llada": lambda log_p: log_p.amax(-1), "dream": lambda log_p: (log_p.exp() * log_p).sum(-1)}
FILLED = {"llada": [1] * 12, "dream": [0, *[1] * 10, 2]}  # at each step, of 12 tokens in 12 steps


@pytest.fixture(scope="module")
def decoded(loaded):
    """Model, mask and steps of LLaDA's and Dream's decoding of reverse prompts, as a loaded model is decoded here."""
    found = {}
    for name in RULES:
        model, tokenizer = loaded[name]
        decode = decoding.decoder_for(model, tokenizer, 12)
        prompts = [tokenizer(example.prompt, return_tensors="pt")["input_ids"]
                   for example in synthetic_facts.world(6).p2c.reverse]
        found[name] = model, tokenizer.mask_token_id, [
            torch.cat(steps_of(model, decode, ids, torch.ones_like(ids))) for ids in prompts]
    return found


@pytest.mark.parametrize("name", RULES)
def test_a_plain_reading_of_every_step_finds_the_most_confident_masks_filled(decoded, name):
    """LLaDA's highest probability, Dream's lowest entropy; each mask with the most likely token; as many as are due."""
    model, mask, runs = decoded[name]
    for steps in runs:
        assert (-(steps == mask).sum(1).diff()).tolist() == FILLED[name]
        passed_over, outbid = shortfalls(model, steps, mask, RULES[name])
        assert passed_over < GAP and outbid < GAP


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("other", ["left to right", "the other rule", "no shift"])
def test_another_rule_is_found_out(decoded, name, other, monkeypatch):
    """Controls: the masks in another order, or tokens predicted by another row, differ by far more than the gap."""
    model, mask, runs = decoded[name]
    order = {"left to right": lambda log_p: -torch.arange(len(log_p)).float(),
             "the other rule": RULES["dream" if name == "llada" else "llada"], "no shift": RULES[name]}[other]
    if other == "no shift":
        monkeypatch.setattr(model.config, "logits_shift", 1 - model.config.logits_shift)
    passed_over, outbid = (max(found) for found in zip(*(shortfalls(model, steps, mask, order) for steps in runs),
                                                       strict=True))
    assert (outbid if other == "no shift" else passed_over) > 100 * GAP


@torch.no_grad()
def greedy_shortfall(model, row, start):
    """The largest lead of another token's logit over that of the token written, from position ``start`` on."""
    logits = model(input_ids=row[None]).logits[0, start - 1 : -1]
    return float((logits.amax(-1) - logits.gather(1, row[start:, None])[:, 0]).max())


@pytest.mark.parametrize("name", ["llada", "dream", "qwen2"])
def test_padding_on_the_left_changes_no_answer(loaded, name, monkeypatch):
    """Every token of a padded row is the one that the row by itself asks for."""
    model, tokenizer = loaded[name]
    make, seen = decoding.decoder_for, []

    def spied(*given):
        def decode(ids, shown):
            seen.append((ids, shown, steps_of(model, make(*given), ids, shown)))
            return seen[-1][2][-1]

        return decode

    monkeypatch.setattr(decoding, "decoder_for", spied)
    texts = ["Fact: Ana's child is", "Ana's", "The capital of Peru is the city of"]
    answers = decoding.generate_text(model, tokenizer, texts, length=6)
    assert len(set(answers)) > 1
    ((ids, shown, steps),) = seen
    padding = (shown == 0).sum(1).tolist()
    assert [tokenizer.decode(row[cut:], skip_special_tokens=True)
            for row, cut in zip(ids, padding, strict=True)] == texts and len(set(padding)) == 3
    for row, cut in enumerate(padding):
        if name == "qwen2":
            assert greedy_shortfall(model, steps[-1][row, cut:], ids.shape[1] - cut) < GAP
        else:
            alone = torch.stack([step[row, cut:] for step in steps])
            assert max(shortfalls(model, alone, tokenizer.mask_token_id, RULES[name])) < GAP


def test_greedy_takes_the_most_likely_token_each_time(loaded):
    model, tokenizer = loaded["qwen2"]
    ids = torch.tensor([[5, 6, 7, 8]])
    found = decoding.greedy(model, ids, tokenizer.eos_token_id, length=6)
    assert found.shape == (1, 10) and torch.equal(found[:, :4], ids)
    assert greedy_shortfall(model, found[0], 4) < GAP
    assert greedy_shortfall(model, torch.cat([found[0, :9], found[0, 9:] + 1]), 4) > 100 * GAP  # another last token


def test_greedy_leaves_the_checkpoints_own_generation_settings_aside(tmp_path):
    """With what Qwen2.5-7B-Instruct ships, a penalty on repeated tokens among it."""
    folder = random_checkpoints.tiny(tmp_path / "x", "qwen2", scale=0.3)
    shipped = {"do_sample": True, "eos_token_id": [5, 7], "repetition_penalty": 1.5, "temperature": 0.7,
               "top_p": 0.8, "top_k": 20, "no_repeat_ngram_size": 2, "min_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(shipped))
    model, tokenizer = checkpoints.load(folder)
    ids = torch.tensor([tokenizer("Ana's child is Bob")["input_ids"]])
    found = decoding.greedy(model, ids, tokenizer.eos_token_id, length=24)
    new = found[0, ids.shape[1]:].tolist()
    assert len(new) == 24 and len(set(new)) < len(new)  # it repeats itself, so a penalty would show
    assert greedy_shortfall(model, found[0], ids.shape[1]) < GAP
    assert model.generation_config.repetition_penalty == 1.5


def test_accuracy_counts_exact_matches_in_percent(loaded):
    model, tokenizer = loaded["qwen2"]
    data = synthetic_facts.world(2).p2c
    answer = decoding.generate_text(model, tokenizer, [data.forward[0].prompt], length=5)[0]
    right = Example(data.forward[0].prompt, " ?", frozenset({"no", answer.upper()}))
    wrong = Example(data.forward[0].prompt, " ?", frozenset({answer + " x"}))
    assert decoding.accuracy(model, tokenizer, [right, wrong, wrong, wrong], length=5) == 25
    with pytest.raises(ValueError, match="no examples"):
        decoding.accuracy(model, tokenizer, [])


def test_each_example_is_scored_by_its_own_rule(monkeypatch):
    monkeypatch.setattr(decoding, "generate_text", lambda *_, **__: [" Ana Lima now rests."] * 2)
    asked = [Example("Here is", " Ana Lima", frozenset({"Ana Lima"}), scoring) for scoring in ("exact", "prefix")]
    assert decoding.which_right(None, None, asked) == [False, True]


def test_a_pair_of_directions_is_asked_in_its_two_forms(loaded):
    data = fact_sources.facts_of("p2c", "generated", 2)
    assert {example.prompt.split("'s ")[1] for example in data.forward} == {"child is"}
    assert {example.prompt.split("'s ")[1] for example in data.reverse} == {"parent is"}


# Randomness --------------------------------------------------------------------------------------------------


def shares(tokens, kinds):
    return torch.bincount(tokens, minlength=kinds) / len(tokens)


def test_lladas_samples_sharpen_as_the_temperature_falls():
    prompt = prompt_of(1).repeat(4000, 1)
    torch.manual_seed(0)
    drawn = decoding.llada(Context(), prompt, MASK, length=1, steps=1, block=1, temperature=0.5)[:, -1]
    logits = Context()(torch.cat([prompt[:1], torch.tensor([[MASK]])], 1)).logits[0, -1]
    assert torch.allclose(shares(drawn, 20), (logits / 0.5).softmax(-1), atol=0.03)
    assert not torch.allclose(shares(drawn, 20), logits.softmax(-1), atol=0.03)


def test_dream_draws_at_its_temperature():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    torch.manual_seed(0)
    tokens = decoding._predict(logits.repeat(4000, 1), 0.5, None, None).tokens
    assert torch.allclose(shares(tokens, 4), (logits[0] / 0.5).softmax(-1), atol=0.03)


def test_the_order_of_filling_is_drawn_at_its_temperature():
    x, confidence = torch.full((4000, 3), MASK), torch.tensor([2.0, 1.0, 0.0])
    torch.manual_seed(0)
    decoding._fill_most_confident(x, MASK, torch.zeros(12000, dtype=torch.long), confidence.repeat(4000), 1, 0.5)
    assert torch.allclose((x == 0).float().mean(0), (confidence / 0.5).softmax(-1), atol=0.03)


def test_random_remasking_fills_in_a_random_order():
    answers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        answers.append(decoding.llada(Context(), prompt_of(), MASK, length=12, steps=12, block=12, remasking="random"))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])
