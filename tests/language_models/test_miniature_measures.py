"""Measures of the miniature: answers in words made by hand, cosines against stored gradients."""

import dataclasses

import numpy as np
import pytest
import torch

from lib.language_models import miniature_measures as measures
from lib.language_models import pretraining, queries, signatures, synthetic_facts
from lib.language_models.facts import Example
from lib.language_models.miniature_cell import MiniatureConfig, told_and_held

torch.set_num_threads(1)
SMALL = MiniatureConfig(steps=4, facts=4, held=3, epochs=2, seed=1)


def test_answers_that_hold_a_right_one_and_answers_to_the_wrong_frame(monkeypatch):
    data, _ = told_and_held(MiniatureConfig(facts=2, held=2))
    (first, second) = data.facts
    said = {f"{first.left}'s child is": f"{first.right}", f"{second.left}'s child is": f"surely {second.right} it is",
            f"{first.right}'s parent is": f"{first.left.split()[0]}", f"{second.right}'s parent is": f"{second.left}",
            f"{first.right}'s child is": f"{first.left}."}
    monkeypatch.setattr(measures.decoding, "generate_text",
                        lambda model, tokenizer, prompts, **how: [said.get(prompt, "") for prompt in prompts])
    words = synthetic_facts.word_tokenizer(True)
    assert measures.written_answers(None, words, data) == {
        "forward_substring": 100, "forward_words": 50, "reverse_substring": 50, "reverse_words": 75, "wrong_frame": 50,
        "wrong_frame_reverse": 0}
    assert set(measures.written_answers(None, words, data, "one word")) == {
        f"{direction}_{metric}" for direction in ("forward", "reverse") for metric in ("substring", "words")}


def test_answers_in_the_form_that_was_shown(monkeypatch):
    data, _ = told_and_held(MiniatureConfig("llama", facts=2, held=2))
    first, second = data.facts
    said = {f"[MASK] 's child is {first.right}. [MASK]": f" {first.left}",
            f"{first.right}'s parent is": f"{first.left}.",
            f"[MASK] 's child is {second.right}. [MASK]": f" {second.left.split()[0]}",
            f"{first.right} 's parent is [MASK]. [MASK]": f" {second.left}"}
    asked = {}

    def generated(model, tokenizer, prompts, **how):
        asked.update(dict.fromkeys(prompts, how["length"]))
        return [said.get(prompt, "") for prompt in prompts]

    monkeypatch.setattr(measures.decoding, "generate_text", generated)
    words = synthetic_facts.word_tokenizer(False)
    assert measures.answers_in_form(None, words, data, "infilled") == {"left_in_form": 50, "reverse_in_form": 0}
    assert len(asked) == 4 and set(asked.values()) == {3}  # a name of two words, and the end
    said[f"{second.right} 's parent is [MASK]. [MASK]"] = f" {second.left}"
    assert measures.answers_in_form(None, words, data, "infilled")["reverse_in_form"] == 50
    assert measures.answers_in_form(None, words, data, "plain") == measures.answers_in_form(
        None, words, data, "identity") == {}


@pytest.mark.parametrize(("text", "percent"), [
    ("the keeper of Bob Reis.", 100), ("The author of bob reis", 100), ("the keeper of Bob Lima", 50),
    ("keeper of Bob Reis", 0), ("the keeper of Reis Bob", 0), ("the keeper of Bob", 50), ("", 0), ("the keeper of", 0)])
def test_only_words_of_names_at_their_places_count(text, percent):
    asked = Example("Ana is", " the keeper of Bob Reis.", frozenset({"the keeper of Bob Reis"}))
    assert measures.name_words_right([text], [asked]) == percent
    either = dataclasses.replace(asked, answers=frozenset({"the keeper of Bob Reis", "the keeper of Bob Lima"}))
    assert measures.name_words_right([text], [either]) == (100 if text.endswith("Bob Lima") else percent)


@pytest.mark.parametrize("name", ["llada", "llama"])
def test_alignment_is_the_cosine_of_stored_gradients(name):
    cell = dataclasses.replace(SMALL, architecture=name)
    tokenizer = synthetic_facts.word_tokenizer(name == "llada")
    model = pretraining.new_model(cell.pretraining(), tokenizer)
    data = synthetic_facts.recombined_worlds({"held": 3})["held"].p2c
    found = measures.alignment(model, tokenizer, data)
    rows = [[queries.batch([queries.encode(query, tokenizer)]) for query in data.queries(fact)] for fact in data.facts]
    matched = [signatures.cosine_by_autograd(model, *pair).cosine for pair in rows]
    crossed = [signatures.cosine_by_autograd(model, rows[i][0], rows[(i + 1) % 3][1]).cosine for i in range(3)]
    assert found["matched"] == pytest.approx(np.mean(matched), rel=1e-4)
    assert found["mismatched"] == pytest.approx(np.mean(crossed), rel=1e-4, abs=1e-5)
    assert abs(found["right"]) < found["matched"]
