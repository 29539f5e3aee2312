"""Scores against one forward pass a candidate, ranks by hand, and answers without the tokens that are forbidden."""

import dataclasses

import numpy as np
import pytest
import torch
from elsewhere import Elsewhere, machine
from small_names import DATA, FAMILIES, STOCK, small

from lib.language_models import decoding, facts, name_ranks, synthetic_facts
from lib.language_models.facts import CAPITAL_OF, CHILD_OF, Example, Fact

torch.set_num_threads(1)
A, B, C, D, E, F = STOCK[:6]


# Scores ------------------------------------------------------------------------------------------------------


def test_questions_are_the_sentences_around_the_entity():
    words = synthetic_facts.word_tokenizer(True, 8)
    left, right = (words.convert_tokens_to_ids(name.split()) for name in (FAMILIES[0].left, FAMILIES[0].right))
    (start,), end = words("")["input_ids"], words.eos_token_id
    child, parent, of, be, stop = words.convert_tokens_to_ids(["child", "parent", "'s", "is", "."])
    asked = {kind: name_ranks.name_questions(DATA, kind, words)[0] for kind in ("forward", "reverse", "left")}
    assert [dataclasses.astuple(asked[kind]) for kind in ("forward", "reverse", "left")] == [
        ((start, *left, of, child, be), (stop, end), tuple(right)),
        ((start, *right, of, parent, be), (stop, end), tuple(left)),
        ((start,), (of, child, be, *right, stop, end), tuple(left))]


class Texts(list):
    """In the place of a tokenizer: every text is one token, and its place in this list is its id."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        self.append(text)
        return {"input_ids": [len(self) - 1] if text else []}


def test_every_part_of_a_question_begins_where_a_word_does():
    data = facts.dataset("trex", CAPITAL_OF.after_space(), [Fact("Peru", "Lima")])
    found = []
    for kind in ("forward", "reverse", "left"):
        texts = Texts(["END"])
        (question,) = name_ranks.name_questions(data, kind, texts)
        found.append(tuple([texts[token] for token in part] for part in dataclasses.astuple(question)))
    assert found == [([" The capital of Peru is"], [".", "END"], [" Lima"]),
                     ([" Lima is the capital of"], [".", "END"], [" Peru"]),
                     ([" The capital of"], [" is Lima.", "END"], [" Peru"])]


def one_by_one(model, words, question, name):
    """log p of a name, from a forward pass of its own and all of its logits."""
    mask, start = words.mask_token_id, len(question.before)
    whole = [*question.before, *name, *question.after]
    if mask is None:
        wanted = range(start, len(whole))
        shown, shift = whole, 1
    else:
        wanted = range(start, start + len(name))
        shown = [*question.before, *[mask] * len(name), *question.after]
        shift = getattr(model.config, "logits_shift", 0)
    log_p = model(torch.tensor([shown])).logits[0].double().log_softmax(-1)
    return float(sum(log_p[place - shift, whole[place]] for place in wanted))


@pytest.mark.parametrize("asked", ["forward", "reverse", "left"])
@pytest.mark.parametrize(("name", "shift"), [("llada", 0), ("dream", 1), ("opened", 1), ("llama", 1)])
@torch.no_grad()
def test_scores_are_those_of_one_forward_pass_a_candidate(name, shift, asked):
    model, words = small(name)
    assert model.config.logits_shift == shift
    questions = name_ranks.name_questions(DATA, asked, words)
    expected = [[one_by_one(model, words, question, other.right) for other in questions] for question in questions]
    for batch in (2, 64):
        found = name_ranks.log_probabilities(model, words, questions, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.ptp(expected, 1).min() > 0.1


@pytest.mark.parametrize("name", ["llada", "dream", "llama"])
def test_a_model_on_another_device_scores_and_answers_the_same(name):
    model, words = small(name)

    def found():
        questions = name_ranks.name_questions(DATA, "reverse", words)
        return (name_ranks.log_probabilities(model, words, questions, 4),
                name_ranks.answers_without(model, words, DATA.reverse, DATA, length=3))

    here = found()
    with machine():
        model._apply(lambda tensor: Elsewhere(tensor.detach().clone()))
        model.tie_weights()
        there = found()
    np.testing.assert_allclose(there[0], here[0], rtol=1e-4)
    assert there[1] == here[1]


# Ranks -------------------------------------------------------------------------------------------------------


SCORES = np.array([[-1.0, -2.0, -9.0], [-1.0, -3.0, -6.0], [-4.0, -4.0, -3.0]])


def test_the_prior_of_a_name_is_its_mean_over_the_other_questions():
    plain = name_ranks.without_prior(SCORES)
    np.testing.assert_allclose(plain, [[1.5, 1.5, -4.5], [1.5, 0.0, 0.0], [-3.0, -1.5, 4.5]])
    with pytest.raises(ValueError, match="at least two questions"):
        name_ranks.without_prior(SCORES[:1, :1])
    liked = SCORES + np.array([5.0, 0.0, -5.0])  # what is liked whatever the question falls out
    np.testing.assert_allclose(name_ranks.without_prior(liked), plain)


def test_first_is_alone_at_the_top_and_a_tie_is_half_beaten():
    assert name_ranks.first_of_all(SCORES) == pytest.approx(200 / 3)
    assert name_ranks.mean_percentile(SCORES) == pytest.approx((100 + 50 + 100) / 3)
    plain = name_ranks.without_prior(SCORES)  # a tie at the top in the first row, one at the bottom in the second
    assert name_ranks.first_of_all(plain) == pytest.approx(100 / 3)
    assert name_ranks.mean_percentile(plain) == pytest.approx((75 + 25 + 100) / 3)
    same = np.zeros((4, 4))
    assert name_ranks.first_of_all(same) == 0 and name_ranks.mean_percentile(same) == 50
    assert SCORES[0, 0] == -1 and name_ranks.first_of_all(-SCORES) == 0


# What is answered --------------------------------------------------------------------------------------------


PEOPLE = facts.dataset("p2c", CHILD_OF.after_space(), [
    Fact("Ana Lima", "Bob Reis"), Fact("Eva Sol", "Gil Mar"), Fact("Ana Lim", "Rob O'Dea Jr.")])


@pytest.mark.parametrize(("answer", "kind"), [
    (" Bob Reis.", "right"), ("bob  reis", "right"), (" Ana Lima.", "shown name"), ("Ana Lima", "shown name"),
    (" Gil Mar.", "other name"), ("Eva Sol", "other name"), ("ana lim", "other name"), ("Rob O'Dea Jr", "other name"),
    ("Bob Mar.", "mixture"), ("Bob", "mixture"), (" Ana Reis Sol", "mixture"), ("Ana O'Dea", "mixture"),
    ("", "nothing"), (" .", "nothing"), ("Bob Lee", "other text"), ("Bob Reis and Gil Mar", "other text"),
    ("Reisx", "other text")])
def test_what_kind_an_answer_is(answer, kind):
    assert name_ranks.answer_kind(answer, PEOPLE.forward[0], PEOPLE) == kind


def test_a_right_name_within_other_text_is_contained_and_a_longer_word_is_not():
    right = PEOPLE.forward[0]
    (name,) = right.answers
    for answer, share in ((name, 100), (f"It is {name.upper()}, they say.", 100), (f"{name}son", 0), ("", 0)):
        assert name_ranks.contained_share([answer], [right]) == share, answer
    assert name_ranks.contained_share([name, "nobody"], [right, right]) == 50
    with pytest.raises(ValueError, match="longer"):
        name_ranks.contained_share([name], [right, right])


def test_tokens_count_at_their_places_of_the_answer_that_agrees_most():
    class Letters:
        def __call__(self, text, add_special_tokens):
            assert text.startswith(" ") and not text.startswith("  ") and not add_special_tokens
            return {"input_ids": list(text[1:])}

    asked = [Example("", "", frozenset({"abcd"})), Example("", "", frozenset({"ab", "xyz"}))]
    score = lambda *answers: name_ranks.token_accuracy(answers, asked, Letters())
    assert score("abcd", "ab") == 100 and score("abcd and more", " xyz") == 100
    assert score("abce", "ab") == pytest.approx(100 * (0.75 + 1) / 2)
    assert score("bcd", "axz") == pytest.approx(100 * (0 + 0.5) / 2)  # moved by one; xyz agrees in one of three
    assert score("", "") == 0


def test_a_name_that_another_begins_with_is_not_the_one_that_is_shown():
    assert name_ranks.answer_kind("Ana Lim", PEOPLE.forward[2], PEOPLE) == "shown name"
    assert name_ranks.answer_kind("Ana Lima", PEOPLE.forward[2], PEOPLE) == "other name"


def test_shares_add_up_over_all_kinds():
    answers = [" Bob Reis.", "", "Eva Sol"]
    assert name_ranks.answer_kind_shares(answers, PEOPLE.forward, PEOPLE) == pytest.approx({
        "right": 100 / 3, "shown name": 0, "other name": 100 / 3, "mixture": 0, "nothing": 100 / 3, "other text": 0})
    assert name_ranks.answer_kind_shares(answers[::-1], PEOPLE.forward, PEOPLE)["other name"] == pytest.approx(200 / 3)
    with pytest.raises(ValueError):
        name_ranks.answer_kind_shares(answers[:2], PEOPLE.forward, PEOPLE)


TWO = facts.dataset("p2c", CHILD_OF.after_space(), [Fact(f"{A} {B}", f"{C} {D}"), Fact(f"{E} {F}", f"{A} {C}")])


@pytest.mark.parametrize("name", ["llada", "dream", "opened", "llama"])
def test_no_token_of_the_shown_name_is_written(name, monkeypatch):
    """By a model that wants to write the names it is shown most of all, those of the first prompt first."""
    model, words = small(name)
    liked = torch.zeros(model.config.vocab_size)
    liked[words.convert_tokens_to_ids([A, B, E, F])] = torch.tensor([60.0, 50.0, 40.0, 30.0])
    model.lm_head.register_forward_hook(lambda module, given, logits: logits + liked)
    used = []
    for kind in ("llada", "dream", "greedy"):
        original = getattr(decoding, kind)
        monkeypatch.setattr(decoding, kind, lambda *given, _kind=kind, _original=original, **told: (
            used.append(_kind), _original(*given, **told))[1])
    prompts = [example.prompt for example in TWO.forward]
    free = decoding.generate_text(model, words, prompts, length=4)
    assert [set(answer.split()) for answer in free] == [{A}, {A}]
    hooks = len(model.lm_head._forward_hooks)
    for batch in (1, 2):
        found = name_ranks.answers_without(model, words, TWO.forward, TWO, length=4, batch=batch)
        assert [set(answer.split()) for answer in found] == [{E}, {A}]  # each row has its own forbidden tokens
    assert len(model.lm_head._forward_hooks) == hooks
    assert decoding.generate_text(model, words, prompts, length=4) == free
    assert set(used) == {{"llada": "llada", "llama": "greedy"}.get(name, "dream")}


def test_nothing_is_forbidden_after_a_decoder_that_failed(monkeypatch):
    model, words = small("llama")

    def fail(*_, **__):
        assert model.lm_head._forward_hooks
        raise MemoryError

    monkeypatch.setattr(decoding, "generate_text", fail)
    with pytest.raises(MemoryError):
        name_ranks.answers_without(model, words, TWO.forward, TWO, length=4)
    assert not model.lm_head._forward_hooks
