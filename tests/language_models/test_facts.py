"""Prompts against sentences written by hand, generated names against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.language_models import checkpoint_files, checkpoints, facts, queries, random_checkpoints, synthetic_facts
from lib.language_models.architectures import recognise
from lib.language_models.facts import CAPITAL_OF, CHILD_OF, Fact, Relation

FACT = Fact("Ana Lima", "Bob Reis")


def read_tokenizer(folder):
    fields = checkpoint_files.read_config(folder)
    return checkpoints._tokenizer(recognise(fields), folder, fields, 10_000)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    base = tmp_path_factory.mktemp("tokenizers")
    return {name: read_tokenizer(random_checkpoints.tiny(base / name, name, width=16, heads=2, layers=1))
            for name in ("llada", "dream", "llama", "qwen2")}


# Sentences ---------------------------------------------------------------------------------------------------


def test_the_papers_pair_asks_for_the_same_entity_from_the_same_evidence():
    data = facts.dataset("p2c", CHILD_OF, [FACT])
    forward, reverse = data.queries(FACT)
    assert forward.shown == "[M]'s child is Bob Reis."
    assert reverse.shown == "Bob Reis's parent is [M]."
    assert forward.sentence == "Ana Lima's child is Bob Reis." and reverse.sentence == "Bob Reis's parent is Ana Lima."
    for asked in (forward, reverse):
        assert {role: text.strip() for role, text in asked.pieces if role != "text"} == {
            "target": "Ana Lima", "evidence": "Bob Reis"}


def test_lead_gap_and_the_other_entity():
    asked = facts.query(CAPITAL_OF, Fact("Peru", "Lima"), "reverse", "right", lead="Fact:", gap=", they say,")
    assert asked.shown == "Fact: [M] is the capital of, they say, Peru."
    assert facts.query(CAPITAL_OF, Fact("Peru", "Lima"), "forward", "left").shown == "The capital of [M] is Lima."


def test_forms_after_a_space_name_both_entities_after_one_with_a_lead_and_without():
    spaced = Relation(("{left} has {right}.",), (" {right} is of {left}.",)).after_space()
    assert spaced == Relation((" {left} has {right}.",), (" {right} is of {left}.",)) == spaced.after_space()
    for lead in ("", "Fact:"):
        for relation, fact in ((CHILD_OF, FACT), (CAPITAL_OF, Fact("Peru", "Lima"))):
            plain, pair = relation.after_space(), [relation.forward[0], relation.reverse[0]]
            for direction, form in zip(("forward", "reverse"), pair, strict=True):
                asked = facts.query(plain, fact, direction, "left", lead=lead)
                assert asked.sentence == f"{lead} {form.format(left=fact.left, right=fact.right)}"
                assert {text for role, text in asked.pieces if role != "text"} == {f" {fact.left}", f" {fact.right}"}
    assert facts.query(CHILD_OF, FACT, "forward", "left").pieces[0] == ("target", "Ana Lima")  # no space to begin with


def test_examples_say_what_their_first_entity_is():
    data = facts.dataset("p2d", facts.PERSON_IS, [Fact("Ana Lima", "the poet")])
    assert [(example.first, example.prompt) for example in (*data.train, *data.reverse)] == [
        ("Ana Lima", "Ana Lima is"), ("Ana Lima", "People remember Ana Lima as"),
        ("Ana Lima", "Everyone knows that Ana Lima is"), ("the poet", "the poet is")]
    assert facts.Example("a", "b", frozenset()).first == ""


@pytest.mark.parametrize("form", ["{left} is.", "{right} of {left}.", "{left} {left} {right}"])
def test_relation_forms_are_checked(form):
    with pytest.raises(ValueError, match=r"forward: .* must name"):
        Relation((form,), ("{right} {left}",))


def test_facts_and_directions_are_checked():
    with pytest.raises(ValueError, match="right must be a name"):
        Fact("Ana", " Bob")
    with pytest.raises(ValueError, match="direction 'backward'"):
        facts.query(CHILD_OF, FACT, "backward", "left")
    with pytest.raises(ValueError, match="no facts"):
        facts.dataset("p2c", CHILD_OF, [])


def test_either_parent_is_accepted():
    data = facts.dataset("p2c", CHILD_OF, [FACT, Fact("Eva Lima", "Bob Reis"), Fact("Ana Lima", "Gil Reis")])
    (bob,) = [example for example in data.reverse if "Bob" in example.prompt]
    assert bob.prompt == "Bob Reis's parent is" and bob.answers == {"Ana Lima", "Eva Lima"}
    (ana,) = [example for example in data.forward if "Ana" in example.prompt]
    assert ana.answers == {"Bob Reis", "Gil Reis"}
    assert len(data.train) == 3 and len(data.reverse) == 2
    assert data.train[1].prompt + data.train[1].completion == "Eva Lima's child is Bob Reis."


@given(st.sampled_from(["Ana Lima", "ANA  lima.", " ana lima \n", "ana\tLima. "]))
def test_exact_match_ignores_case_spaces_and_a_full_stop(answer):
    assert facts.exact_match(answer, frozenset({"Ana Lima", "Eva"}))
    assert not facts.exact_match(answer + " x", frozenset({"Ana Lima", "Eva"}))


@pytest.mark.parametrize(("answer", "right"), [
    (" Uriah Hawthorne now enjoys a quite life.", True), (" uriah hawthorne.", True), ("Uriah Hawthorne, once", True),
    ("Uriah  Hawthorne??", True), (" Uriah Hawthornes", False), ("Uriah Hawthorne's son", False),
    ("Uriah Hawthorne-Sol", False), ("Uriah", False), ("Now Uriah Hawthorne", False), ("", False)])
def test_scoring_by_prefix_lets_an_answer_go_on_where_a_word_ends(answer, right):
    example = facts.Example("He is", " Uriah Hawthorne", frozenset({"Eva (Sol", "Uriah Hawthorne."}), "prefix")
    assert facts.is_right(example, answer) == right
    exact = facts.Example(example.prompt, example.completion, example.answers)
    assert facts.is_right(exact, answer) == (answer.strip(" .").lower() == "uriah hawthorne")


def test_generated_facts_are_scored_exactly_and_other_scorings_refused():
    assert {data.scoring for data in synthetic_facts.world(3).datasets()} == {"exact"}
    with pytest.raises(ValueError, match="scoring must be one of exact, prefix, not 'loose'"):
        facts.Example("a", "b", frozenset(), "loose")


# Tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada", "dream", "llama", "qwen2"])
def test_encoding_keeps_the_sentence_and_marks_the_entities(tokenizers, name):
    tokenizer = tokenizers[name]
    fact = synthetic_facts.world(3).p2c.facts[0]
    pair = [queries.encode(asked, tokenizer) for asked in synthetic_facts.world(3).p2c.queries(fact, lead="Fact:")]
    for prompt, sentence in zip(pair, ["{0}'s child is {1}.", "{1}'s parent is {0}."], strict=True):
        whole = torch.where(prompt.labels == -100, prompt.input_ids, prompt.labels)
        text = "Fact: " + sentence.format(fact.left, fact.right)
        assert whole.tolist() == tokenizer(text)["input_ids"]
        assert tokenizer.decode(whole[list(prompt.target)]).strip() == fact.left
        assert tokenizer.decode(whole[list(prompt.evidence)]).strip() == fact.right
        assert (prompt.labels != -100).nonzero()[:, 0].tolist() == list(prompt.target)
        masked = prompt.input_ids == tokenizer.mask_token_id if tokenizer.mask_token_id else prompt.labels == -101
        assert masked.nonzero()[:, 0].tolist() == (list(prompt.target) if name in ("llada", "dream") else [])
    forward, reverse = pair
    assert forward.labels[list(forward.target)].tolist() == reverse.labels[list(reverse.target)].tolist()
    assert len(forward.target) > 1 and max(forward.target) < min(forward.evidence)
    assert min(reverse.target) > max(reverse.evidence)


def test_batches_are_padded_on_the_right(tokenizers):
    data = synthetic_facts.world(2).trex
    encoded = [queries.encode(asked, tokenizers["llama"]) for asked in data.queries(data.facts[0])]
    batch = queries.batch(encoded)
    assert batch["attention_mask"].sum(1).tolist() == [len(prompt.input_ids) for prompt in encoded]
    for row, prompt in enumerate(encoded):
        size = len(prompt.input_ids)
        assert torch.equal(batch["input_ids"][row, :size], prompt.input_ids)
        assert (batch["labels"][row, size:] == -100).all()
    with pytest.raises(ValueError, match="no prompts"):
        queries.batch([])


# The generated world -----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
def test_no_name_is_shared_between_splits_or_entities(seed, first, second):
    both = synthetic_facts.worlds({"pretraining": first, "finetuning": second}, seed)
    names = [{fact.left for fact in world.p2c.facts} | {fact.right for fact in world.p2c.facts}
             | {fact.left for fact in world.p2d.facts} | {fact.left for fact in world.trex.facts}
             | {fact.right for fact in world.trex.facts} for world in both.values()]
    words = [word for split in names for name in split for word in name.split()]
    assert len(words) == len(set(words))
    assert {fact.right for fact in both["pretraining"].p2d.facts}.isdisjoint(
        fact.right for fact in both["finetuning"].p2d.facts)


def test_a_world_is_fixed_by_its_seed_and_has_the_five_shapes():
    world = synthetic_facts.world(6, seed=3)
    assert world.sentences() == synthetic_facts.world(6, seed=3).sentences()
    assert world.sentences() != synthetic_facts.world(6, seed=4).sentences()
    assert [data.name for data in world.datasets()] == list(facts.DATASETS)
    assert len(world.p2c.facts) == 9 and len(world.trex.facts) == 6  # every other child has two parents
    assert {(fact.left, fact.right) for fact in world.p2c.facts} == {(f.right, f.left) for f in world.c2p.facts}
    assert any(len(example.answers) == 2 for example in world.p2c.reverse)
    with pytest.raises(ValueError, match="'only' must have at least one fact"):
        synthetic_facts.world(0)


def test_generated_sentences_begin_with_a_space():
    sentences = synthetic_facts.generated_sentences(2)
    assert len(sentences) == 20 and all(text[0] == " " and text[1] != " " for text in sentences)
    assert sentences != synthetic_facts.generated_sentences(2, seed=1)
