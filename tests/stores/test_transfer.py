"""The transfer ratio is 1 for one store and 0 for two, and follows the formula in the model of Sec. 3."""

import numpy as np
import pytest
import torch
from stores.toy_stores import FACTS, ONE, TWO, Tables, questions

from lib.one_layer import model as model_module
from lib.one_layer import task
from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.stores import one_layer_questions, transfer
from lib.stores.editing import EditConfig, overwrite
from lib.stores.transfer import EDITS

CONFIG = EditConfig(margin=1.0, stride=0.02)


def metrics(reads, gain=1.0):
    model = Tables(gain)
    before = [weight.detach().clone() for weight in model.parameters()]
    facts = questions(reads)
    found = transfer.edit_metrics([transfer.measure_fact(model, facts, fact, CONFIG) for fact in range(FACTS)])
    assert all(map(torch.equal, before, model.parameters()))  # every edit begins at the trained weights
    return found


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_one_store_transfers_by_how_strongly_it_is_read_and_two_stores_do_not(gain):
    one, two = metrics(ONE, gain), metrics(TWO, gain)
    assert one["forward_transfer"] == pytest.approx(gain) and one["reverse_transfer"] == pytest.approx(1 / gain)
    assert one["forward_follows"] == one["reverse_follows"] == one["erase_forward_follows"] == 100
    assert one["erase_forward_transfer"] == pytest.approx(gain)
    for name in ("forward", "reverse", "erase_forward"):
        assert two[f"{name}_transfer"] == two[f"{name}_follows"] == 0 and two[f"{name}_reached"] == 100
    for found in (one, two):  # other evidence, another fact: other rows in either case
        for name in ("right", "other", "erase_right"):
            assert found[f"{name}_transfer"] == found[f"{name}_follows"] == 0
        assert all(found[f"{name}_kept"] == 100 for name in EDITS)


def shared_metrics(keeping):
    config, facts, model = EditConfig(margin=2.0, stride=0.01, keeping=keeping), questions(TWO), Tables(shared=3.0)
    return transfer.edit_metrics([transfer.measure_fact(model, facts, fact, config) for fact in range(FACTS)])


def test_without_keeping_others_what_all_facts_share_passes_for_one_store():
    alone, kept = shared_metrics(0.0), shared_metrics(10.0)
    assert alone["forward_transfer"] > 0.8 and alone["forward_follows"] == 100 and alone["forward_kept"] < 10
    assert alone["other_follows"] == 100  # the control says so
    assert kept["forward_transfer"] < 0.6 and kept["forward_follows"] == 0 and kept["forward_kept"] == 100
    assert kept["other_follows"] == 0


def test_another_fact_is_edited_in_as_many_steps_and_with_the_same_name():
    model, seen = Tables(), {}
    facts = questions()
    found = transfer.measure_fact(model, facts, 1, CONFIG)
    assert found["other"]["steps"] == found["forward"]["steps"] > 1
    with torch.no_grad():
        seen = facts[3].forward.scores(model).clone()
    others = [facts[place].forward for place in (0, 4, 5)]
    overwrite(model, facts[3].forward, 2, CONFIG, others, steps=found["other"]["steps"])
    after = facts[3].forward.scores(model).detach()
    assert found["other"]["edited"] == pytest.approx(float((after - seen)[2] - (after - seen)[3]))


def test_the_difference_is_new_less_old_or_the_mean_of_the_others_less_old():
    question = questions()[0].forward._replace(names=(1, 0, 2))
    scores = torch.tensor([5.0, 1.0, 3.0, 99.0])  # the last is no name
    assert transfer.difference(question, scores, old=0, new=2) == 2.0
    assert transfer.difference(question, scores, old=0, new=None) == (5 + 3) / 2 - 1


def test_only_facts_that_answer_all_their_questions_by_a_margin_are_edited():
    model = Tables()
    with torch.no_grad():
        model.left[2, 2] = 0.0  # answers with another name
        model.right[4] = torch.tensor([0, 0, 0, 0, 2.0, 1.95])  # leads by less than the least
    ahead = transfer.leads(model, questions())
    assert transfer.answered_facts(ahead) == [0, 1, 3, 5] and ahead["forward"][0] == pytest.approx(2 - 0.1)


def test_too_few_facts_are_refused():
    with pytest.raises(ValueError, match="facts: 3 are too few"):
        transfer.measure_fact(Tables(), questions()[:3], 0, CONFIG)
    assert EDITS["other"].of < 4


def test_the_one_column_model_transfers_what_storage_and_attention_say():
    model = initialise(Transformer(ModelConfig(length=6, width=16, mlp=False, norm=False)), 0, 0.3).double()
    facts, letter, new = one_layer_questions.letter_questions(model), 5, 6
    config = EditConfig(margin=2.0, stride=0.01)

    def logits(asked):  # W times the attention over tokens, without the model's forward pass
        left, right = one_layer_questions.placement(6, letter)
        mask, evidence = {"forward": (left, right), "reverse": (5 - left, 5 - right)}[asked]
        tokens = torch.full((1, 6), task.PLACEHOLDER)
        tokens[0, mask], tokens[0, evidence] = task.MASK, letter + task.LETTERS
        weights = model.record(tokens, "attention.weights")["attention.weights"][0][0, 0, mask]
        return (model_module.storage(model)[:, tokens[0]] @ weights).detach()

    before = {asked: logits(asked) for asked in ("forward", "reverse")}
    others = [facts[place].forward for place in transfer.evenly(
        [place for place in range(26) if place not in (letter, new)], 8)]
    overwrite(model, facts[letter].forward, new, config, others)
    change = {asked: (after := logits(asked) - before[asked])[new] - after[letter] for asked in before}
    ratio = float(change["reverse"] / change["forward"])
    fresh = initialise(Transformer(ModelConfig(length=6, width=16, mlp=False, norm=False)), 0, 0.3).double()
    found = transfer.measure_fact(fresh, facts, letter, config)["forward"]
    np.testing.assert_allclose(found["asked"] / found["edited"], ratio, rtol=1e-9)
    assert 0.3 < ratio < 3  # one column, read by two attention weights that are both positive


def test_others_are_kept_that_were_answered_before_in_the_question_asked():
    model = Tables()
    with torch.no_grad():
        model.back[4, 4] = 0.0  # not answered in reverse; answered forward
    found = transfer.measure_fact(model, questions(TWO), 0, CONFIG)
    assert found["forward"]["kept"] == found["right"]["kept"] == 1


def test_metrics_are_means_of_ratios_and_of_answers_that_lead_clearly():
    outcome = lambda edited, asked, ahead: {name: {
        "edited": edited, "asked": asked, "ahead": ahead, "reached": ahead > 1, "kept": 0.5, "steps": 3}
        for name in EDITS}
    found = transfer.edit_metrics([outcome(1.0, 1.0, 0.05), outcome(9.0, 0.0, 2.0)])
    assert {found[f"right_{key}"] for key in ("follows", "kept", "reached")} == {50.0}
    assert found["right_transfer"] == 0.5 and found["right_steps"] == 3
