"""What a cell of the miniature may be, what it trains on and how long, and what is refused."""

import dataclasses
import re

import pytest

from lib.language_models import finetuning, miniature_sentences
from lib.language_models.miniature_cell import MiniatureConfig, told_and_held

SMALL = MiniatureConfig(steps=4, facts=4, held=3, epochs=2, seed=1)


def test_the_standard_cell_is_what_the_paper_needs():
    cell = MiniatureConfig()
    assert (cell.masking, cell.orders, cell.finetuning().rank) == ("any", "both", 0)
    lora = MiniatureConfig(tuning="lora", rank=8, masking="response", replay=0.25, seed=3).finetuning()
    assert (lora.rank, lora.scaling, lora.masking, lora.replay, lora.seed) == (8, 16, "response", 0.25, 3)
    # replay adds steps: the held-out facts are seen as often
    alone, mixed = (finetuning.step_count(32, MiniatureConfig(replay=share).finetuning()) for share in (0.0, 0.5))
    assert mixed == 2 * alone == 400


@pytest.mark.parametrize("field, value", [
    ("architecture", "bert"), ("dataset", "p3c"), ("orders", "two"), ("tuning", "half"), ("masking", "none"),
    ("held", 1), ("steps", 0), ("seed", -1), ("replay", 1.5), ("learning_rate", -1.0),
    ("causal_steps", -1), ("objective", "plain"), ("wording", "three"), ("form", "turned"), ("told_form", "turned"),
    ("name_length", 3)])
def test_bad_input_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(SMALL, **{field: value})


@pytest.mark.parametrize(("change", "message"), [
    ({"architecture": "llama", "masking": "source"}, "masking: 'source' is what a masked model is asked for"),
    ({"architecture": "llama", "masking": "any@0.5"}, "masking: 'any@0.5' is what a masked model is asked for"),
    ({"architecture": "llama", "objective": "diffusion"}, "objective: 'diffusion' is a masked model's"),
    ({"form": "infilled"}, "form: 'infilled' asks an autoregressive model"),
    ({"told_form": "masked"}, "told_form: 'masked' asks an autoregressive model"),
    ({"told_form": "reversed"}, "told_form: reversed sentences are what --orders both tells"),
    ({"dataset": "c2p", "wording": "one word"}, "wording: 'one word' is made for p2c alone"),
    ({"wording": "exchanged"}, "wording: 'exchanged' is made for p2d alone, not for p2c"),
    ({"architecture": "llama", "dataset": "trex", "form": "composed"}, "form: 'composed' is made of sentences about"),
    ({"architecture": "llama", "wording": "one word", "form": "composed"}, "form: 'composed' is made of"),
    ({"architecture": "llama", "form": "permuted", "epochs": 15}, "epochs must be a multiple of 10 where form is")])
def test_what_only_the_other_model_or_other_facts_can_be_asked_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MiniatureConfig(**change)


@pytest.mark.parametrize("form", miniature_sentences.FORMS)
def test_every_form_makes_as_many_steps_of_as_many_rows(form):
    cell = MiniatureConfig("llama", form=form)
    own = len(miniature_sentences.shown_as(told_and_held(cell)[0].train, form))
    assert finetuning.step_count(own, cell.finetuning()) == finetuning.step_count(30, MiniatureConfig().finetuning())


def test_a_name_of_one_word_has_a_word_of_its_own():
    data, text = told_and_held(MiniatureConfig(name_length=1, facts=20, held=5))
    held = {name for fact in data.facts for name in (fact.left, fact.right)}
    told = " ".join(example.prompt + example.completion for example in text)
    assert len(held) == 10 and all(" " not in name and name not in told for name in held)
    assert MiniatureConfig(name_length=4).pretraining().stock == MiniatureConfig().pretraining().stock
