"""What is asked of a batch: logits where they are wanted, losses token by token, questions by counting, entities in
tokens by hand.
"""

import dataclasses
from collections import Counter

import pytest
import torch

from lib.language_models import (
    checkpoints,
    facts,
    finetuning,
    objectives,
    pretraining,
    queries,
    random_checkpoints,
    synthetic_facts,
)
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import CAPITAL_OF, CHILD_OF, PERSON_IS, Example, Fact
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.objectives import TokenisedExample
from lib.language_models.pretraining import PretrainingConfig

torch.set_num_threads(1)
SMALL = PretrainingConfig(stock=8, width=32, heads=2, layers=1)
NAMES = [Fact("Ana Lima", "Bob Reis"), Fact("Eva Sol", "Gil Mar")]
DATA = facts.dataset("p2c", CHILD_OF, NAMES)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Models that are not to be changed, and their subword tokenizers."""
    base = tmp_path_factory.mktemp("objectives")
    return {name: checkpoints.load(random_checkpoints.tiny(base / name, name, width=16, heads=2, layers=1, scale=0.1))
            for name in ("llada", "dream", "llama")}


def given_of(tokenizer):
    return objectives.padded(objectives.sentences(DATA.train, tokenizer), tokenizer.eos_token_id)


def small(name):
    """An untrained model that knows whole words, and its tokenizer."""
    words = synthetic_facts.word_tokenizer(not ARCHITECTURES[name].causal, SMALL.stock)
    return pretraining.new_model(dataclasses.replace(SMALL, architecture=name), words), words


# Logits at the places that are asked for ---------------------------------------------------------------------


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "adapters"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_logits_at_some_places_are_those_of_the_whole_model(name, adapters):
    model, words = small(name)
    if adapters:
        bare = model(torch.arange(3, 9)[None]).logits
        model = finetuning.add_adapters(model, FineTuningConfig(rank=2))
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.1)
        assert not torch.allclose(model(torch.arange(3, 9)[None]).logits, bare, atol=1e-3)
    model.eval()
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(3, len(words), (3, 9), generator=rng)
    shown = (torch.arange(9) < torch.tensor([9, 6, 4])[:, None]).long()  # shorter rows are padded on the right
    wanted = (torch.rand(3, 9, generator=rng) < 0.5) & shown.bool()
    wanted[0, 0] = wanted[1, 5] = True  # the first place, and the last before the padding
    whole = model(input_ids=ids, attention_mask=shown).logits
    found = queries.logits_at(model, ids, wanted, attention_mask=shown)
    torch.testing.assert_close(found, queries.aligned_logits(model, whole)[wanted])
    before = torch.cat([whole[:, :1], whole[:, :-1]], 1)  # row i - 1 at place i
    assert not torch.allclose(before[wanted], whole[wanted], atol=1e-3)
    for shift, expected in ((0, whole), (1, before)):
        torch.testing.assert_close(
            queries.logits_at(model, ids, wanted, attention_mask=shown, shift=shift), expected[wanted])
    if not ARCHITECTURES[name].causal:  # it would see the padding
        assert not torch.allclose(queries.logits_at(model, ids, wanted), found, atol=1e-4)
    assert queries.logits_at(model, ids, torch.zeros_like(wanted)).shape == (0, whole.shape[-1])


# Data --------------------------------------------------------------------------------------------------------


def test_sentences_end_once_and_batches_are_padded_with_end_tokens(loaded):
    _, tokenizer = loaded["llama"]
    first, second = objectives.sentences(DATA.train, tokenizer)
    assert tokenizer.decode(first.ids, skip_special_tokens=True) == "Ana Lima's child is Bob Reis."
    assert tokenizer.decode(first.ids[: first.prompt], skip_special_tokens=True) == "Ana Lima's child is"
    assert first.ids[0] == tokenizer.bos_token_id and first.ids.count(tokenizer.eos_token_id) == 1
    short = TokenisedExample(second.ids[:4], 2)
    given = objectives.padded([first, short], tokenizer.eos_token_id)
    assert given.ids[1, 4:].eq(tokenizer.eos_token_id).all() and given.shown.sum(1).tolist() == [len(first.ids), 4]
    assert given.answer.sum(1).tolist() == [len(first.ids) - first.prompt, len(first.ids) - 2]
    with pytest.raises(ValueError, match="no examples"):
        objectives.sentences([], tokenizer)


@pytest.mark.parametrize("name", ["llama", "llada"])  # with a start token and without
@pytest.mark.parametrize(("relation", "fact", "form", "entity"), [
    (CHILD_OF, NAMES[0], 0, "Ana Lima"), (CHILD_OF.after_space(), NAMES[0], 0, " Ana Lima"),
    (CAPITAL_OF, Fact("Peru", "Lima"), 0, " Peru"), (CAPITAL_OF.after_space(), Fact("Peru", "Lima"), 0, " Peru"),
    (PERSON_IS, Fact("Ana Lima", "the poet of Peru"), 1, " Ana Lima")])
def test_the_first_entity_is_found_in_subword_tokens(loaded, name, relation, fact, form, entity):
    _, tokenizer = loaded[name]
    example = facts.dataset("x", relation, [fact]).train[form]
    assert example.first == fact.left
    row, text = objectives.sentences([example, Example("", "Other words altogether, and more of them.", frozenset())],
                                     tokenizer)
    start, stop = row.first
    assert row.ids[start:stop] == tuple(tokenizer(entity, add_special_tokens=False)["input_ids"]) and stop - start > 1
    lead = example.prompt[: example.prompt.index(fact.left)].rstrip()
    assert row.ids[:start] == tuple(tokenizer(lead)["input_ids"]) and stop < row.prompt
    assert text.first == (0, 0)
    given = objectives.padded([row, text], tokenizer.eos_token_id)
    assert given.first[0].nonzero()[:, 0].tolist() == list(range(start, stop)) and not given.first[1].any()


# Losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("masking", ["response", "any"])
def test_the_masked_loss_token_by_token(loaded, name, masking):
    model, tokenizer = loaded[name]
    given = given_of(tokenizer)
    found = objectives.masked_loss(model, given, tokenizer.mask_token_id, masking, torch.Generator().manual_seed(4))
    draw = torch.Generator().manual_seed(4)
    times, chance = torch.rand(2, generator=draw), torch.rand(given.ids.shape, generator=draw)
    expected, prompts_hidden = 0.0, 0
    for row in range(2):
        p = 1e-3 + (1 - 1e-3) * float(times[row])
        maskable = [i for i in range(given.ids.shape[1]) if masking == "any" or given.answer[row, i]]
        hidden = [i for i in maskable if chance[row, i] < p]
        prompts_hidden += sum(not given.answer[row, i] for i in hidden)
        tokens = given.ids[row].clone()
        tokens[hidden] = tokenizer.mask_token_id
        log_p = model(tokens[None]).logits[0].detach().log_softmax(-1)
        for i in hidden:
            source = max(i - 1, 0) if name == "dream" else i
            expected -= float(log_p[source, given.ids[row, i]]) / p / len(maskable) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert (prompts_hidden > 0) == (masking == "any")


WORDS = synthetic_facts.word_tokenizer(True, 8)
TOLD = synthetic_facts.recombined_worlds({"told": 2}, 8)["told"]


@pytest.mark.parametrize(("masking", "places"), [
    ("source", [1, 2]), ("relation", [3, 4, 5]), ("target", [6, 7]), ("source+target", [1, 2, 6, 7]),
    ("source+relation+target", range(1, 8)), ("response", range(6, 10)), ("any@0.15", range(10))])
def test_the_parts_of_a_sentence_that_may_be_masked(masking, places):
    """[START] A B 's child is C D . [END], and a longer sentence beside it."""
    rows = objectives.sentences([TOLD.p2c.train[0], Example("the of " * 6, " is.", frozenset())], WORDS)
    maskable = objectives.maskable_tokens(objectives.padded(rows, WORDS.eos_token_id), masking)[0]
    ends = [] if masking in objectives.PART_MASKING else range(10, len(rows[1].ids))  # padding counts as it is trained
    assert maskable.nonzero()[:, 0].tolist() == [*places, *ends]


def test_the_words_before_the_first_entity_belong_to_the_relation():
    rows = objectives.sentences(TOLD.trex.train[:1], WORDS)  # [START] The capital of A B is C D . [END]
    given = objectives.padded(rows, WORDS.eos_token_id)
    found = {part: objectives.maskable_tokens(given, part)[0].nonzero()[:, 0].tolist()
             for part in objectives.SENTENCE_PARTS}
    assert found == {"source": [4, 5], "relation": [1, 2, 3, 6], "target": [7, 8]}


@pytest.mark.parametrize(("masking", "rate"), objectives.RATES.items())
def test_a_fixed_rate_masks_its_share_of_every_sentence(masking, rate):
    shares = []

    class Model(torch.nn.Module):
        """Counts the masks it is shown."""

        def model(self, input_ids, attention_mask=None):
            shares.extend((input_ids == WORDS.mask_token_id).float().mean(1).tolist())
            return type("Output", (), {"last_hidden_state": torch.zeros(*input_ids.shape, len(WORDS))})

        lm_head = torch.nn.Identity()
        logits_shift = 0

    given = objectives.padded(objectives.sentences(TOLD.p2c.train[:1], WORDS) * 400, WORDS.eos_token_id)
    loss = objectives.masked_loss(Model(), given, WORDS.mask_token_id, masking, torch.Generator().manual_seed(0))
    found = torch.tensor(shares)
    assert float(found.mean()) == pytest.approx(rate, abs=0.02)
    assert float(found.var()) == pytest.approx(rate * (1 - rate) / 10, rel=0.3)  # a drawn rate would spread them more
    assert loss.item() == pytest.approx(torch.tensor(float(len(WORDS))).log().item(), rel=0.1)  # weight 1 / rate


def test_the_masked_loss_is_a_bound_on_average():
    """E[sum / (p |answer|)] is the mean cross-entropy an untrained model gives: near log of the vocabulary."""
    model, words = small("llada")
    torch.nn.init.zeros_(model.lm_head.weight)
    examples = synthetic_facts.recombined_worlds({"told": 2}, SMALL.stock)["told"].p2c.train
    given = objectives.padded(objectives.sentences(examples, words), words.eos_token_id)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [objectives.masked_loss(model, given, words.mask_token_id, "any", draw) for _ in range(200)]
    expected = torch.tensor(float(model.config.vocab_size)).log().item()
    assert float(torch.stack(losses).mean()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("masking", objectives.MASKING)
def test_the_next_token_loss_row_by_row(loaded, masking):
    model, tokenizer = loaded["llama"]
    rows = objectives.sentences(DATA.train, tokenizer)
    rows[1] = TokenisedExample(rows[1].ids[:-5] + rows[1].ids[-1:], rows[1].prompt)  # shorter: padding must not count
    losses = []
    for row in rows:
        log_p = model(torch.tensor([row.ids])).logits[0].detach().log_softmax(-1)
        first = row.prompt if masking == "response" else 1
        losses += [-float(log_p[i - 1, row.ids[i]]) for i in range(first, len(row.ids))]
    found = objectives.next_token_loss(model, objectives.padded(rows, tokenizer.eos_token_id), masking)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_loss_of_a_batch_is_the_one_that_was_chosen(loaded):
    losses = {}
    for name in ("llada", "llama"):
        model, tokenizer = loaded[name]
        given, mask = given_of(tokenizer), tokenizer.mask_token_id
        losses[name] = [objectives.batch_loss(model, given, mask, masking, torch.Generator().manual_seed(2)).item()
                        for masking in objectives.MASKING]
        draws = [torch.Generator().manual_seed(2) for _ in range(3)]
        expected = [objectives.next_token_loss(model, given, masking) for masking in objectives.MASKING] \
            if name == "llama" else [
                *(objectives.masked_loss(model, given, mask, masking, draws.pop()) for masking in ("response", "any")),
                objectives.question_loss(model, given, objectives.questions(given, draws.pop()), mask)]
        assert losses[name] == [each.item() for each in expected]
    assert len(set(losses["llada"])) == 3 and losses["llama"][1] == losses["llama"][2] != losses["llama"][0]


# Questions ---------------------------------------------------------------------------------------------------


ROWS = 4000


def asked_of(sentence, words):
    given = objectives.padded([sentence] * ROWS, words.eos_token_id)
    return objectives.questions(given, torch.Generator().manual_seed(0))


def test_questions_are_an_entity_or_any_tokens():
    """Rows counted by which tokens they ask for: [START] A B 's child is C D . [END]."""
    words = synthetic_facts.word_tokenizer(True, 8)
    sentence = objectives.sentences(
        synthetic_facts.recombined_worlds({"told": 2}, 8)["told"].p2c.train[:1], words)[0]
    assert sentence.first == (1, 3) and len(sentence.ids) == 10
    asked = asked_of(sentence, words)
    assert asked.any(1).all()
    shares = {places: count / ROWS for places, count in Counter(
        tuple(row.nonzero()[:, 0].tolist()) for row in asked).items()}
    assert shares[(6, 7)] == pytest.approx(0.25, abs=0.03)  # the second entity alone
    assert shares[(6, 7, 8, 9)] == pytest.approx(0.25, abs=0.03)  # and what follows
    assert shares[(1, 2)] == pytest.approx(0.25, abs=0.03)
    rest = asked[[tuple(row.nonzero()[:, 0].tolist()) not in {(6, 7), (6, 7, 8, 9), (1, 2)} for row in asked]]
    assert Counter(rest.sum(1).tolist())[10] == pytest.approx(ROWS * 0.25 / 10, rel=0.5)  # counts are uniform
    assert rest.float().mean(0).std() < 0.05  # over every place alike


def test_a_text_without_entities_is_asked_for_some_tokens_anywhere():
    words = synthetic_facts.word_tokenizer(True, 8)
    sentence, longer = objectives.sentences([Example("", "the of child parent is", frozenset()),
                                             Example("", "the of child parent is the of", frozenset())], words)
    asked = asked_of(sentence, words)  # [START] and five words and [END]
    counts = Counter(asked.sum(1).tolist())
    assert sorted(counts) == list(range(1, 8))
    assert all(count == pytest.approx(ROWS / 7, rel=0.2) for count in counts.values())
    assert asked.float().mean(0).tolist() == pytest.approx([4 / 7] * 7, abs=0.04)
    given = objectives.padded([sentence, longer] * 500, words.eos_token_id)
    both = objectives.questions(given, torch.Generator().manual_seed(1))
    assert not (both & ~given.shown).any() and both[1::2, 7:].any()  # padding is no place to ask


def test_question_loss_is_the_mean_of_row_means():
    for name in ("llada", "dream"):
        model, words = small(name)
        text = synthetic_facts.recombined_worlds({"told": 2}, SMALL.stock)["told"].p2c.train
        given = objectives.padded(objectives.sentences(text, words), words.eos_token_id)
        asked = torch.zeros_like(given.shown)
        asked[0, 6:8], asked[1, 1] = True, True
        logits = model(given.ids.masked_fill(asked, words.mask_token_id)).logits.log_softmax(-1)
        shift = 1 if name == "dream" else 0
        each = [[-logits[row, place - shift, given.ids[row, place]] for place in places]
                for row, places in ((0, (6, 7)), (1, (1,)))]
        expected = sum(sum(row) / len(row) for row in each) / 2
        torch.testing.assert_close(objectives.question_loss(model, given, asked, words.mask_token_id), expected)
