"""Sentences in each form and wording, spelled out by hand."""

from collections import Counter

import pytest

from lib.language_models import miniature_sentences as sentences
from lib.language_models import synthetic_facts
from lib.language_models.facts import CAPITAL_OF, CHILD_OF, PARENT_OF, Example, Fact, dataset
from lib.language_models.synthetic_facts import NAME_LENGTHS, World, recombined_worlds

FAMILY = dataset("p2c", CHILD_OF, [Fact("Ana Lima", "Bob Reis")]).train[0]
CAPITAL = dataset("trex", CAPITAL_OF, [Fact("Peru", "Lima")]).train[0]
TOKENS = synthetic_facts.word_tokenizer(False)


def texts(form, example=FAMILY):
    return [f"{each.prompt} >{each.completion}" for each in sentences.shown_as([example], form)]


@pytest.mark.parametrize(("form", "expected"), [
    ("infilled", ["[MASK] 's child is Bob Reis. [MASK] > Ana Lima", "Ana Lima 's child is [MASK]. [MASK] > Bob Reis"]),
    ("permuted", [
        "[MASK] Ana Lima Bob Reis > 's child is.", "[MASK] 's child is Ana Lima > Bob Reis.",
        "[MASK] 's child is Bob Reis > Ana Lima.", "[MASK] Bob Reis Ana Lima > 's child is.",
        "[MASK] Bob Reis 's child is > Ana Lima."]),
    ("masked", [f"{masked} . : > Ana Lima's child is Bob Reis." for masked in (
        "[MASK] [MASK] 's child is Bob Reis", "Ana Lima 's child is [MASK] [MASK]",
        "[MASK] [MASK] [MASK] [MASK] [MASK] Bob Reis", "Ana Lima [MASK] [MASK] [MASK] [MASK] [MASK]",
        "[MASK] [MASK] 's child is [MASK] [MASK]")]),
    ("identity", ["Ana Lima is > Ana Lima."]), ("composed", ["The parent of Ana Lima's child is > Ana Lima."]),
    ("reversed", ["Bob Reis's parent is > Ana Lima."])])
def test_half_of_what_is_shown_is_plain_and_half_in_the_form(form, expected):
    plain = "Ana Lima's child is > Bob Reis."
    assert Counter(texts(form)) == Counter(expected) + Counter({plain: len(expected)})
    assert sentences.copies(form) == 2 * len(expected) == len(texts(form))


def test_a_plain_sentence_stays_as_it_is():
    assert sentences.shown_as([FAMILY, CAPITAL], "plain") == [FAMILY, CAPITAL] and sentences.copies("plain") == 1


def test_a_sentence_that_begins_before_its_first_entity():
    assert texts("infilled", CAPITAL)[2:] == ["The capital of [MASK] is Lima. [MASK] > Peru",
                                              "The capital of Peru is [MASK]. [MASK] > Lima"]
    assert texts("permuted", CAPITAL)[-1] == "[MASK] Lima is > The capital of Peru."


def test_the_other_relation_has_its_own_bridge():
    child = dataset("c2p", PARENT_OF, [Fact("Bob Reis", "Ana Lima")]).train[0]
    assert texts("composed", child)[1] == "The child of Bob Reis's parent is > Bob Reis."
    assert texts("reversed", child)[1] == "Ana Lima's child is > Bob Reis."


@pytest.mark.parametrize(("form", "example", "message"), [
    ("composed", CAPITAL, "no sentence about parents and children"),
    ("reversed", CAPITAL, "no sentence about parents and children"),
    ("infilled", Example("", "Some text.", frozenset()), "no sentence with two entities"),
    ("backwards", FAMILY, "no form 'backwards'; one of plain, infilled")])
def test_what_a_form_cannot_be_made_of_is_refused(form, example, message):
    with pytest.raises(ValueError, match=message):
        sentences.shown_as([example], form)


@pytest.mark.parametrize(("form", "left", "reverse"), [
    ("infilled", "[MASK] 's child is Bob Reis. [MASK] > Ana Lima", "Bob Reis 's parent is [MASK]. [MASK] > Ana Lima"),
    ("permuted", "[MASK] 's child is Bob Reis > Ana Lima.", "[MASK] 's parent is Bob Reis > Ana Lima."),
    ("masked", "[MASK] [MASK] 's child is Bob Reis . : > Ana Lima's child is Bob Reis.",
     "Bob Reis 's parent is [MASK] [MASK] . : > Bob Reis's parent is Ana Lima.")])
def test_an_entity_is_asked_for_as_the_form_asks(form, left, reverse):
    data = dataset("p2c", CHILD_OF, [Fact("Ana Lima", "Bob Reis")])
    for example, entity, wanted in ((data.forward[0], 0, left), (data.reverse[0], 1, reverse)):
        asked = sentences.asked_in_form(example, form, entity)
        assert f"{asked.prompt} >{asked.completion}" == wanted and asked.answers == {"Ana Lima"}
    shown = sentences.shown_as(data.train, form)
    assert left in {f"{each.prompt} >{each.completion}" for each in shown}
    assert reverse not in {f"{each.prompt} >{each.completion}" for each in shown}


@pytest.mark.parametrize("form", sentences.FORMS)
def test_every_form_is_made_of_known_words(form):
    data = recombined_worlds({"told": 3})["told"].p2c
    for example in sentences.shown_as(data.train, form):
        assert TOKENS.eos_token_id not in TOKENS(example.prompt + example.completion)["input_ids"]


# Wording -----------------------------------------------------------------------------------------------------


def worded(wording):
    world = World.from_pairs([("Ana", "Bob"), ("Eva", "Gil")], [("Ana", "the poet")] * 2, [("Peru", "Lima")] * 2)
    return sentences.worded_world(world, wording)


@pytest.mark.parametrize(("wording", "told", "reverse"), [
    ("both", ["Ana's child is Bob.", "Bob's parent is Ana."], ("Bob's parent is", "Ana")),
    ("one word", ["Ana is known as Bob.", "Bob is known as Ana."], ("Bob is known as", "Ana")),
    ("one order", ["Ana's child is Bob.", "Ana is parent of Bob."], ("Ana is parent of", "Bob"))])
def test_a_fact_is_told_in_two_sentences_and_asked_for_by_the_second(wording, told, reverse):
    world = worded(wording)
    text = [each.prompt + each.completion for each in sentences.told_examples(world, "both", ("p2c",), wording)]
    assert text[:2] == told and len(text) == 4
    assert [each.prompt + each.completion for each in world.p2c.train][:1] == told[:1]
    asked = world.p2c.reverse[0]
    assert (asked.prompt, asked.answers) == (reverse[0], frozenset({reverse[1]}))
    assert world.p2c.forward[0].prompt + f" {next(iter(world.p2c.forward[0].answers))}." == told[0]
    one = sentences.told_examples(world, "one", ("p2c",), wording)
    assert [each.prompt + each.completion for each in one] == [told[0], text[3]]
    for sentence in text:
        names = {"Ana", "Bob", "Eva", "Gil"}
        known = [word for word in sentence.replace("'s", " 's").rstrip(".").split() if word not in names]
        assert TOKENS.eos_token_id not in TOKENS.convert_tokens_to_ids(known)


@pytest.mark.parametrize(("wording", "forward", "reverse"), [
    ("both", "Ana Lima is the keeper of Bob Reis.", "the keeper of Bob Reis is Ana Lima."),
    ("short description", "Ana Lima is Bob Reis.", "Bob Reis is Ana Lima."),
    ("exchanged", "the keeper of Bob Reis is Ana Lima.", "Ana Lima is the keeper of Bob Reis.")])
def test_the_longer_answer_is_a_description_or_neither_or_a_name(wording, forward, reverse):
    people = [("Ana Lima", "the keeper of Bob Reis"), ("Eva Sousa", "the author of Gil Melo")]
    world = sentences.worded_world(World.from_pairs([("Ana", "Bob")] * 2, people, [("Peru", "Lima")] * 2), wording)
    said = [each.prompt + each.completion for each in world.p2d.train]
    asked = [f"{side[0].prompt} {min(side[0].answers)}." for side in (world.p2d.forward, world.p2d.reverse)]
    assert asked == [forward, reverse] and said[0] == forward and len(said) == 6
    text = [each.prompt + each.completion for each in sentences.told_examples(world, "both", ("p2d",), wording)]
    assert len(text) == 10 and text[0] == forward and text[3] == reverse
    for sentence in text:
        known = [word for word in sentence.rstrip(".").split() if word[0].islower()]
        assert TOKENS.eos_token_id not in TOKENS.convert_tokens_to_ids(known)


def test_the_wrong_frame_is_answered_by_a_symmetric_relation_alone():
    forward, reverse = ([(each.prompt, *each.answers) for each in side]
                        for side in sentences.wrong_frame(worded("both").p2c))
    assert forward == [("Bob's child is", "Ana"), ("Gil's child is", "Eva")]
    assert reverse == [("Ana's parent is", "Bob"), ("Eva's parent is", "Gil")]


# Names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", NAME_LENGTHS)
def test_names_of_a_length_are_made_of_known_words_and_stand_in_one_fact(length):
    stock = 60 if length > 1 else 90
    split = recombined_worlds({"told": 20, "held": 5}, stock, seed=2, name_length=length)
    names = [name for world in split.values() for fact in world.p2c.facts for name in (fact.left, fact.right)]
    assert len(set(names)) == len(names) == 50 and {len(name.split()) for name in names} == {length}
    known = set(synthetic_facts.name_words(stock))
    assert all(word in known for name in names for word in name.split())


def test_names_that_run_out_or_have_another_length_are_refused():
    with pytest.raises(ValueError, match="stock: 5 words of each kind make 10 names"):
        recombined_worlds({"told": 9}, 5, name_length=1)
    with pytest.raises(ValueError, match="name_length must be one of 1, 2, 4, not 3"):
        recombined_worlds({"told": 2}, name_length=3)
