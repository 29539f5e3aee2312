"""Scores and states of sentence questions against `name_ranks` and against one forward pass."""

import numpy as np
import pytest
import torch

from lib.language_models import facts, name_ranks, pretraining, queries, synthetic_facts
from lib.language_models.facts import CHILD_OF, Fact
from lib.language_models.pretraining import PretrainingConfig
from lib.stores import sentence_questions

torch.set_num_threads(1)
WORDS = synthetic_facts.name_words(8)
A, B, C, D, E, F, G, H = WORDS[:8]
#: names of one, two and three words, each word a token
FAMILIES = [Fact(f"{A} {B}", f"{C} {D}"), Fact(f"{E} {F} {A}", G), Fact(H, f"{B} {C}")]
DATA = facts.dataset("p2c", CHILD_OF, FAMILIES)


def small(name):
    """An untrained model that knows whole words, with larger weights than at the start of training."""
    words = synthetic_facts.word_tokenizer(name in ("llada", "dream"), 8)
    model = pretraining.new_model(PretrainingConfig(name, stock=8, width=32, heads=2, layers=2), words)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
    return model, words


@pytest.mark.parametrize("name", ["llada", "dream", "llama"])
def test_scores_are_those_that_rank_names(name):
    model, words = small(name)
    found = sentence_questions.fact_questions(DATA, words)
    for ours, theirs in (("reverse", "reverse"), ("right", "forward"), ("forward", "left")):
        if (name, ours) == ("llama", "forward"):
            continue  # there the rest of the sentence alone counts
        wanted = name_ranks.log_probabilities(model, words, name_ranks.name_questions(DATA, theirs, words))
        scores = [getattr(fact, ours).scores(model).detach() for fact in found]
        np.testing.assert_allclose(torch.stack(scores), wanted, atol=2e-5)


def test_a_causal_model_scores_a_first_name_by_the_rest_of_the_sentence():
    model, words = small("llama")
    scores = sentence_questions.fact_questions(DATA, words)[1].forward.scores(model)
    for score, family in zip(scores, FAMILIES, strict=True):
        ids = words(f"{family.left}'s child is {G}.")["input_ids"] + [words.eos_token_id]
        start = 1 + len(family.left.split())
        with torch.no_grad():
            table = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = sum(table[place - 1, ids[place]] for place in range(start, len(ids)))
        np.testing.assert_allclose(score.detach(), wanted, rtol=1e-5)


def test_scores_have_gradients():
    model, words = small("llada")
    model.requires_grad_(True)
    sentence_questions.fact_questions(DATA, words)[0].reverse.scores(model)[0].backward()
    assert model.model.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["llada", "dream", "llama"])
def test_the_state_is_the_mlps_where_the_first_token_of_the_answer_is_predicted(name):
    model, words = small(name)
    fact = sentence_questions.fact_questions(DATA, words)[0]  # "C D's parent is A B."
    mask = words.mask_token_id
    shown = words(f"{C} {D}'s parent is")["input_ids"]
    row = [*shown, *([mask] * 2 if mask is not None else []), *words.convert_tokens_to_ids(["."]), words.eos_token_id]
    place = len(shown) - queries.logits_shift(model)
    assert place == {"llada": 6, "dream": 5, "llama": 5}[name]
    seen = []
    hook = model.model.layers[-1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(input_ids=torch.tensor([row if mask is not None else shown]))
        hook.remove()
        state = fact.reverse.state(model)
    assert state.shape == (2, 32)
    np.testing.assert_allclose(state[-1], seen[0][0, place], atol=1e-6)
    assert (fact.forward.state is None) == (name == "llama")


def test_two_facts_with_one_name_are_refused():
    twice = facts.dataset("p2c", CHILD_OF, [*FAMILIES, Fact(H, f"{A} {C}")])
    with pytest.raises(ValueError, match=f"facts: '{H}' is the left entity of two facts"):
        sentence_questions.fact_questions(twice, small("llada")[1])
