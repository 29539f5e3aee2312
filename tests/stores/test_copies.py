"""Two copies look like one to measures of states, and an edit tells them apart."""

import pytest
import torch

from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.stores import copies
from lib.stores.one_layer_questions import letter_questions


def layer(**settings):
    made = initialise(Transformer(ModelConfig(length=6, width=16, mlp=False, norm=False, **settings)), 0, 0.3).double()
    return made, letter_questions(made)


def measured(separate=True):
    return copies.small_copies(separate=separate)


def test_copies_have_the_measures_of_one_model_and_no_transfer():
    found = measured()
    assert copies.only_edits_differ(found) and found["copies"]["ends_distance_ratio"] > 0.9
    assert found["one"]["transfer"] > 0.5 and found["copies"]["transfer"] == 0


def test_one_model_in_both_places_transfers():
    found = measured(separate=False)
    assert found["copies"] == found["one"] and not copies.only_edits_differ(found)


@pytest.mark.parametrize("who, name, value", [
    ("copies", "left_distance_ratio", 0.0), ("copies", "transfer", 0.01), ("one", "transfer", 0.4)])
def test_each_part_of_the_check_counts(who, name, value):
    found = measured()
    found[who][name] = value
    assert not copies.only_edits_differ(found)


@pytest.mark.parametrize("name, value", [("left_distance_ratio", 0.95), ("left_fact_probe", 80.0)])
def test_the_measures_must_say_one_entry(name, value):
    found = measured()
    for each in found.values():
        each[name] = value
    assert not copies.only_edits_differ(found)


def test_forward_questions_alone_are_put_to_the_first_copy():
    model, facts = layer()
    both, asked = copies.two_copies(model, facts)
    with torch.no_grad():
        before = [question.scores(both) for question in asked[3]]
        model.embedding.mul_(2)
        after = [question.scores(both) for question in asked[3]]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, True]


def test_a_question_without_a_place_has_none_in_a_copy():
    _, asked = copies.two_copies(*layer(causal=True))
    assert asked[0].forward.state is None and asked[0].reverse.state is not None
