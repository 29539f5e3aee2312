"""What is measured of a miniature: before fine-tuning, after it, and in what it then writes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lib.language_models import decoding, miniature_sentences, queries, reversal_run, signatures
from lib.language_models import facts as facts_module
from lib.language_models.facts import Dataset, Example, Fact


def measured_before(
    model: Any, tokenizer: Any, data: Dataset, text: Sequence[Example]
) -> dict[str, float]:
    """Gradient cosines, and how much of the told text the pretrained model completes, in percent."""
    cosines = {f"cosine_{name}": value for name, value in alignment(model, tokenizer, data).items()}
    return cosines | {"told_accuracy": reversal_run.recall(model, tokenizer, text)}


def measured_after(
    model: Any, tokenizer: Any, data: Dataset, text: Sequence[Example]
) -> dict[str, float]:
    """What the tuned model still knows of the text, and how likely the left entity is, from either side."""
    asked = [[queries.encode(query, tokenizer) for query in data.queries(fact)] for fact in data.facts]
    likely = {f"probability_{side}": float(signatures.target_probability(model, queries.batch(rows)).mean())
              for side, rows in zip(("forward", "reverse"), zip(*asked, strict=True), strict=True)}
    return likely | {"kept_accuracy": reversal_run.recall(model, tokenizer, text)}


def written_answers(model: Any, tokenizer: Any, data: Dataset, wording: str = "both") -> dict[str, float]:
    """What the tuned model writes beside exact matches, in percent.

    ``forward_substring`` and ``reverse_substring``: answers that hold a right one. ``forward_words`` and
    ``reverse_words``: words of names that stand at their places (`name_words_right`). ``wrong_frame`` and
    ``wrong_frame_reverse``: errors of `lib.language_models.miniature_sentences.wrong_frame`, which exist only where the
    wording tells the directions apart.
    """
    length = reversal_run.answer_length(data, tokenizer)
    written = lambda examples: decoding.generate_text(
        model, tokenizer, [example.prompt for example in examples], length=length, batch=32)
    found: dict[str, float] = {}
    for direction, examples in (("forward", data.forward), ("reverse", data.reverse)):
        texts = written(examples)
        found |= {f"{direction}_substring": _share_that_holds_an_answer(texts, examples),
                  f"{direction}_words": name_words_right(texts, examples)}
    if wording == "both":
        for name, examples in zip(("wrong_frame", "wrong_frame_reverse"), miniature_sentences.wrong_frame(data),
                                  strict=True):
            found[name] = _share_that_holds_an_answer(written(examples), examples)
    return found


def answers_in_form(model: Any, tokenizer: Any, data: Dataset, form: str) -> dict[str, float]:
    """Answers, in percent, where the question is put in the form that half of the rows were shown in.

    ``left_in_form``: the left entity of the trained sentence; ``reverse_in_form``: that of the reverse sentence, which
    was never shown. Nothing where the form asks in no way of its own.

    :param form: one of `lib.language_models.miniature_sentences.FORMS`
    """
    if form not in miniature_sentences.ASKED_FORMS:
        return {}
    found = {}
    for name, sentences, entity in (("left", data.forward, 0), ("reverse", data.reverse, 1)):
        asked = [miniature_sentences.asked_in_form(example, form, entity) for example in sentences]
        texts = decoding.generate_text(model, tokenizer, [each.prompt for each in asked],
                                       length=reversal_run.completion_length(asked, tokenizer), batch=32)
        found[f"{name}_in_form"] = _share_that_holds_an_answer(texts, asked)
    return found


def _share_that_holds_an_answer(texts: Sequence[str], examples: Sequence[Example]) -> float:
    held = [any(facts_module.normalise(right) in facts_module.normalise(text) for right in example.answers)
            for example, text in zip(examples, texts, strict=True)]
    return 100 * float(np.mean(held))


def name_words_right(texts: Sequence[str], examples: Sequence[Example]) -> float:
    """Percent of the right answers' words of names that are written at their places, mean over questions.

    A word of a name begins with a capital; the others ("the", "keeper", "of") stand in many answers and don't count.
    Where several answers are right, the one that agrees most counts.
    """
    def agreement(text: str, right: str) -> float:
        said = itertools.chain(facts_module.normalise(text).split(), itertools.repeat(""))
        return float(np.mean([word.lower() == other for word, other in zip(right.split(), said, strict=False)
                              if word[0].isupper()]))
    return 100 * float(np.mean([max(agreement(text, right) for right in example.answers)
                                for text, example in zip(texts, examples, strict=True)]))


def alignment(model: Any, tokenizer: Any, data: Dataset, facts: int = 8) -> dict[str, float]:
    """Mean gradient cosine, over facts, of a query about the forward sentence with the reverse query.

    ``matched`` asks for the left entity, as the reverse query does; ``mismatched`` too, but of another fact;
    ``right`` asks for the right entity of the same fact.
    """
    pairs = [data.queries(fact) for fact in data.facts[:facts]]
    left, reverse = ([_batch(pair[side], tokenizer) for pair in pairs] for side in (0, 1))
    right = [_batch(_right_query(data, fact), tokenizer) for fact in data.facts[:facts]]
    asked = {"matched": (left, reverse), "mismatched": (left, reverse[1:] + reverse[:1]), "right": (right, reverse)}
    return {name: float(np.mean([signatures.gradient_cosine(model, *pair).cosine for pair in zip(*both, strict=True)]))
            for name, both in asked.items()}


def _right_query(data: Dataset, fact: Fact) -> facts_module.Query:
    return facts_module.query(data.relation, fact, "forward", "right")


def _batch(query: facts_module.Query, tokenizer: Any) -> dict[str, torch.Tensor]:
    return queries.batch([queries.encode(query, tokenizer)])
