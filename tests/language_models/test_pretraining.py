"""The small world by counting, what is asked for by position, resumed runs bit by bit."""

import dataclasses
from collections import Counter

import pytest
import torch

from lib.language_models import checkpoint_checks, decoding, objectives, pretraining, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.pretraining import PretrainingConfig
from lib.language_models.synthetic_facts import pretraining_examples, recombined_worlds, word_tokenizer
from lib.record.training_state import Checkpoint, CheckpointError

torch.set_num_threads(1)
SMALL = PretrainingConfig(facts=6, stock=8, width=32, heads=2, layers=1, steps=12, batch=8, warmup=3)
BEGUN = dataclasses.replace(SMALL, architecture="dream", causal_steps=7, steps=6)


def text_of(settings):
    split = recombined_worlds({"told": settings.facts, "held": 4}, settings.stock, settings.seed)
    return pretraining_examples(split["told"], settings.orders, settings.kinds)


def words_of(settings=SMALL, masked=True):
    return word_tokenizer(masked, settings.stock)


# The world ---------------------------------------------------------------------------------------------------


def entities(world):
    """Names of a world: two words each, found in its sentences by their capitals."""
    facts = [fact for data in (world.p2c, world.trex) for fact in data.facts]
    people = [(fact.left, fact.right.split(" of ")[1]) for fact in world.p2d.facts]
    return [name for fact in facts for name in (fact.left, fact.right)] + [name for pair in people for name in pair]


def test_no_name_is_shared_and_every_word_of_the_held_facts_is_known():
    split = recombined_worlds({"told": 200, "held": 20}, 40, seed=3)
    names = [entities(world) for world in split.values()]
    assert len(set(names[0]) | set(names[1])) == len(names[0]) + len(names[1]) == 6 * 220
    known = {word for name in names[0] for word in name.split()}
    assert {word for name in names[1] for word in name.split()} <= known
    first, second = (recombined_worlds({"told": 5}, 40, seed=seed)["told"].p2c.facts for seed in (3, 4))
    assert first != second


def test_both_orders_are_told_or_one_of_each_fact():
    world = recombined_worlds({"told": 10}, 20)["told"]
    both, one = pretraining_examples(world, "both", ("p2c",)), pretraining_examples(world, "one", ("p2c",))
    seen = {orders: Counter((example.prompt + example.completion) for example in text)
            for orders, text in {"both": both, "one": one}.items()}
    for i, fact in enumerate(world.p2c.facts):
        sentences = (f"{fact.left}'s child is {fact.right}.", f"{fact.right}'s parent is {fact.left}.")
        assert [seen["both"][sentence] for sentence in sentences] == [1, 1]
        assert [seen["one"][sentence] for sentence in sentences] == [1 - i % 2, i % 2]
    assert len(both) == 2 * len(one) == 20
    assert sum(not example.completion.endswith(".") for example in pretraining_examples(world, "both")) == 0


def test_every_sentence_is_made_of_known_words():
    world = recombined_worlds({"told": 4}, 10)["told"]
    words = word_tokenizer(True, 10)
    for data in world.datasets():
        for example in (*data.train, *data.forward, *data.reverse, *pretraining_examples(world, "both")):
            ids = words(example.prompt + example.completion)["input_ids"]
            assert ids[0] == 1 and words.eos_token_id not in ids
    assert word_tokenizer(False, 10).mask_token_id is None and words.mask_token_id == 2
    assert len(word_tokenizer(False, 10)) == len(words)


@pytest.mark.parametrize("call, message", [
    (lambda: recombined_worlds({"told": 1}), "at least two"), (lambda: recombined_worlds({"told": 9}, 5), "stock"),
    (lambda: pretraining_examples(recombined_worlds({"told": 2})["told"], "none"), "orders"),
])
def test_a_world_that_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# What is asked -----------------------------------------------------------------------------------------------


def test_the_first_entity_of_a_pretraining_sentence_is_found_by_its_words():
    """The same as the example says: [START] A B 's child is C D . [END]."""
    words = words_of()
    names = frozenset(words.convert_tokens_to_ids(synthetic_facts.name_words(8)))
    for sentence in objectives.sentences(recombined_worlds({"told": 3}, 8)["told"].p2c.train, words):
        found = pretraining.first_entity(sentence, names)
        assert [place for place, is_first in enumerate(found) if is_first] == [1, 2] == list(range(*sentence.first))


# The run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_new_models_attend_and_start_as_their_class_does(name):
    words = words_of(masked=not ARCHITECTURES[name].causal)
    model = pretraining.new_model(dataclasses.replace(SMALL, architecture=name), words)
    assert model.config.is_causal == ARCHITECTURES[name].causal
    assert isinstance(model, ARCHITECTURES[name].model_class)
    assert 0.015 < float(model.get_input_embeddings().weight.detach().std()) < 0.025


def test_a_model_learns_what_it_is_told():
    settings = dataclasses.replace(SMALL, facts=2, steps=250, warmup=10, learning_rate=5e-3, batch=16)
    text = text_of(settings)
    model, losses = pretraining.pretrain(settings, text, words_of())
    assert losses[-1] < 0.3 * losses[0]
    assert decoding.accuracy(model, words_of(), text, length=4) == 100


def test_the_schedule_and_the_clipping_reach_the_optimiser(monkeypatch):
    run = pretraining.pretraining_run(BEGUN, text_of(BEGUN), words_of())
    loss = pretraining._loss
    monkeypatch.setattr(pretraining, "_loss", lambda *given: 1e4 * loss(*given))
    for step in range(13):
        run.step()
        assert run.optimiser.param_groups[0]["lr"] == pretraining.learning_rate(BEGUN, step)
        if not step:  # 1 - beta1 of a gradient of norm 1
            moments = torch.cat([state["exp_avg"].flatten() for state in run.optimiser.state.values()])
            assert float(moments.norm()) == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize("settings", [SMALL, BEGUN], ids=["masked", "begun"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(settings, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, loss):
        if step == 8:
            raise Killed

    text, words = text_of(settings), words_of()
    whole, losses = pretraining.pretrain(settings, text, words)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        pretraining.pretrain(settings, text, words, checkpoint=Checkpoint(path, {}), every=5, on_step=kill)
    resumed, again = pretraining.pretrain(settings, text, words, checkpoint=Checkpoint(path, {}))
    assert again == losses
    for mine, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    # done: no step is made
    stored, _ = pretraining.pretrain(settings, text, words, checkpoint=Checkpoint(path, {}), on_step=kill)
    assert torch.equal(next(stored.parameters()), next(whole.parameters()))
    with pytest.raises(CheckpointError, match="learning_rate"):
        other = dataclasses.replace(settings, learning_rate=1e-3)
        pretraining.pretrain(other, text, words, checkpoint=Checkpoint(path, {}))
    with pytest.raises(CheckpointError, match="text"):  # as many sentences, one of them another
        pretraining.pretrain(settings, [*text[:-1], text[0]], words, checkpoint=Checkpoint(path, {}))


def test_a_masked_model_may_begin_as_an_autoregressive_one(monkeypatch):
    """The loss of each phase, and what the model sees while it is taken; the rate rises in both."""
    seen = []

    def spied(causal, loss):
        def spy(model, *given):
            checkpoint_checks.check_attention_direction(model, causal=causal)
            seen.append(causal)
            return loss(model, *given)
        return spy

    monkeypatch.setattr(objectives, "next_token_loss", spied(True, objectives.next_token_loss))
    monkeypatch.setattr(objectives, "question_loss", spied(False, objectives.question_loss))
    model, losses = pretraining.pretrain(BEGUN, text_of(BEGUN), words_of())
    assert seen == [True] * 7 + [False] * 6 and len(losses) == 13
    checkpoint_checks.check_attention_direction(model, causal=False)
    rates = [pretraining.learning_rate(BEGUN, step) for step in range(13)]
    alone = dataclasses.replace(BEGUN, causal_steps=0)
    assert rates[7:] == [pretraining.learning_rate(alone, step) for step in range(6)]
    assert rates[0] == rates[7] == BEGUN.learning_rate / 3 < rates[2]
    assert rates[6] < rates[4] and rates[-1] < BEGUN.learning_rate


def test_the_plain_objective_is_a_choice(monkeypatch):
    seen = []
    loss = objectives.masked_loss
    monkeypatch.setattr(objectives, "masked_loss", lambda *given: seen.append(given[3]) or loss(*given))
    monkeypatch.setattr(objectives, "questions", lambda *given: pytest.fail("asked by question"))
    settings = dataclasses.replace(SMALL, objective="diffusion", steps=3)
    _, losses = pretraining.pretrain(settings, text_of(settings), words_of())
    assert seen == ["any"] * 3 and len(set(losses)) == 3


@pytest.mark.parametrize("field, value", [("architecture", "bert"), ("orders", "none"), ("objective", "plain"),
                                          ("wording", "no"), ("form", "no"), ("width", 30), ("steps", 0),
                                          ("causal_steps", -1), ("seed", -1),
                                          ("learning_rate", 0.0), ("learning_rate", float("inf"))])
def test_settings_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        PretrainingConfig(**{field: value})


def test_what_is_causal_throughout_cannot_begin_so():
    with pytest.raises(ValueError, match="causal_steps: llama is causal throughout"):
        PretrainingConfig("llama", causal_steps=5)
