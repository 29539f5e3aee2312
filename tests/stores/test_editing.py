"""An edit moves the weights as the formula says, stops where it should, and leaves no trace."""

import math

import numpy as np
import pytest
import torch
from stores.toy_stores import Tables, questions

from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.stores import editing
from lib.stores.editing import EditConfig, FactQuestion
from lib.stores.one_layer_questions import letter_questions

CONFIG = EditConfig(margin=1.0, stride=0.01, most=200)


def weights(model):
    return torch.cat([weight.detach().reshape(-1) for weight in model.parameters()]).clone()


def scores_of(model, fact=0, asked="forward"):
    return getattr(questions()[fact], asked).scores(model).detach()


def test_the_lead_is_over_the_best_other_name():
    scores = torch.tensor([1.0, 4.0, 2.5])
    assert [editing.lead_over_others(scores, name) for name in range(3)] == pytest.approx([-3.0, 1.5, -1.5])


def test_log_odds_are_those_of_the_softmax():
    scores = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    p = scores.softmax(-1)
    np.testing.assert_allclose(editing.name_log_odds(scores, 2), (p[2] / (1 - p[2])).log())
    certain = torch.tensor([200.0, 0.0], requires_grad=True)  # log p of it has no gradient left in this precision
    editing.name_log_odds(certain, 0).backward()
    assert certain.grad.tolist() == [1.0, -1.0]


def test_overwriting_stops_at_the_first_step_that_reaches_the_margin():
    model, question = Tables(), questions()[0].forward
    path = editing.overwrite(model, question, 3, CONFIG)
    assert path.reached and editing.lead_over_others(scores_of(model), 3) >= CONFIG.margin
    short = Tables()
    assert not editing.overwrite(short, question, 3, CONFIG, steps=path.steps - 1).reached
    assert editing.overwrite(model, question, 3, CONFIG) == (0, True)  # nothing is left to do


def test_a_step_goes_against_the_gradient_by_its_length():
    model, question = Tables(), questions()[0].forward
    before = weights(model)
    loss = -editing.name_log_odds(question.scores(model), 3)
    slope = torch.cat([part.reshape(-1) for part in torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True, materialize_grads=True)])
    assert editing.overwrite(model, question, 3, CONFIG, steps=1) == (1, False)
    np.testing.assert_allclose(weights(model) - before, -CONFIG.stride * before.norm() * slope / slope.norm())


def test_an_edit_gives_up_after_the_most_steps():
    assert editing.overwrite(Tables(), questions()[0].forward, 3, EditConfig(margin=1.0, most=3)) == (3, False)


def test_erasing_lowers_the_right_name_until_another_leads():
    model = Tables()
    path = editing.erase(model, questions()[0].forward, 0, CONFIG)
    assert path.reached and editing.lead_over_others(scores_of(model), 0) <= -CONFIG.margin
    before = scores_of(Tables())
    np.testing.assert_array_equal(scores_of(model)[1:], before[1:])  # no new name is written
    assert scores_of(model)[0] < before[0] - CONFIG.margin


def test_a_fact_is_edited_by_its_name_wherever_that_stands_among_the_scores():
    question = questions()[0].forward._replace(names=(5, 1, 2, 0, 3, 4))
    model = Tables()
    editing.overwrite(model, question, 3, CONFIG)
    assert scores_of(model).argmax() == 0
    model = Tables()
    editing.erase(model, question, 3, CONFIG)  # the one that leads: its name is the first
    assert editing.lead_over_others(scores_of(model), 0) <= -CONFIG.margin


def test_what_is_restored_is_the_same_bit_for_bit_whatever_happens():
    model = Tables()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt), editing.weights_restored(model):
        editing.overwrite(model, questions()[0].forward, 3, CONFIG)
        assert not torch.equal(weights(model), before)
        raise KeyboardInterrupt
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_gradient_that_gives_no_direction_is_refused(value):
    flat = FactQuestion(lambda model, shown: model.left[shown] * value, 0, tuple(range(6)))
    with pytest.raises(ArithmeticError, match="gradient of this question"):
        editing.overwrite(Tables(), flat, 3, CONFIG)


def test_the_divergence_is_that_of_the_answers_since_then():
    model, asked = Tables(), [fact.forward for fact in questions()]
    drift = editing.divergence_from_now(model, asked[1:3])
    then = model.left.detach()[1:3].softmax(-1)
    assert drift().item() == 0
    with torch.no_grad():
        model.left[1, 4] += 1.0
        model.left[0] += 5.0  # not asked about
    now = model.left.detach()[1:3].softmax(-1)
    np.testing.assert_allclose(drift().detach(), (then * (then / now).log()).sum() / 2)


@pytest.mark.parametrize("keeping, kept", [(0.0, False), (10.0, True)])
def test_other_answers_are_kept_only_where_they_weigh(keeping, kept):
    model, asked = Tables(shared=3.0), [fact.forward for fact in questions()]
    config = EditConfig(margin=1.0, stride=0.001, most=3000, keeping=keeping)
    assert editing.overwrite(model, asked[0], 3, config, others=[asked[1], asked[2], asked[4]]).reached
    ahead = [editing.lead_over_others(asked[fact].scores(model), fact) for fact in (1, 2, 4)]
    assert all((lead > 1.0) is kept for lead in ahead)


@pytest.mark.parametrize("field, value", [("margin", 0.0), ("stride", 1.0), ("stride", 0.0), ("most", 0), ("kept", -1),
                                          ("keeping", -1.0)])
def test_settings_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        EditConfig(**{field: value})


def changed(part):
    """The weights of a one-layer model that one step changes, as far as their own norm says."""
    model = initialise(Transformer(ModelConfig(length=4, width=8)), 0).double()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    editing.allow_edits(model, part)
    question = letter_questions(model)[0].forward
    editing.overwrite(model, question, 3, CONFIG, steps=1)
    moved = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    norm = math.sqrt(sum(float(before[name].square().sum()) for name in moved if editing.in_part(name, part)))
    assert torch.cat([each.reshape(-1) for each in moved.values()]).norm() == pytest.approx(CONFIG.stride * norm)
    return {name for name, each in moved.items() if each.any()}


def test_an_edit_changes_the_part_of_the_weights_that_it_may():
    everything, layers, mlp = (changed(part) for part in editing.EDITED_PARTS)
    assert {"embedding", "head.weight", "head.bias", "norm.weight"} <= everything - layers
    assert layers >= {"blocks.0.attention.value.weight", "blocks.0.mlp.up.weight"}
    assert mlp == {name for name in layers if ".mlp." in name} and len(mlp) == 4


@pytest.mark.parametrize("name, parts", [
    ("embedding", ["all"]), ("blocks.0.mlp.up.weight", ["all", "layers", "mlp"]),
    ("blocks.0.norm1.weight", ["all", "layers"]),
    ("base_model.model.model.layers.1.mlp.up_proj.lora_A.default.weight", ["all", "layers", "mlp"]),
    ("model.layers.1.mlp_norm.weight", ["all", "layers"]), ("model.embed_tokens.weight", ["all"])])
def test_weights_belong_to_parts_by_their_place_in_the_model(name, parts):
    assert [part for part in editing.EDITED_PARTS if editing.in_part(name, part)] == parts


def test_a_part_that_is_unknown_or_not_there_is_refused():
    with pytest.raises(ValueError, match="part 'heads': one of all, layers, mlp"):
        editing.allow_edits(Tables(), "heads")
    with pytest.raises(ValueError, match="part 'mlp': Tables has no such weights"):
        editing.allow_edits(Tables(), "mlp")
