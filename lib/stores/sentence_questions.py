"""The questions about the facts of a language model (`lib.language_models.facts`), a sentence each.

The possible answers are the names of all facts of the dataset. A masked model is shown as many masks as a name has
tokens, and a name's score is the sum of its tokens' log-probabilities there. A causal model is given each name in turn
and scored by what follows: the name and the rest of the sentence where the name comes last, the rest alone where it
comes first, since what a model expects at the beginning of a sentence says nothing about the fact.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.language_models import name_ranks, queries
from lib.language_models.facts import Dataset
from lib.language_models.name_ranks import Question
from lib.stores.editing import FactQuestion
from lib.stores.transfer import FactQuestions

#: our question -> `name_ranks.name_questions`' word for it
_ASKED = {"forward": "left", "reverse": "reverse", "right": "forward"}


def fact_questions(data: Dataset, tokenizer: Any) -> list[FactQuestions]:
    """The three questions about each fact of a dataset.

    :raises ValueError: where two facts share a name of the same side: then one answer would be two
    """
    for side in ("left", "right"):
        names = [getattr(fact, side) for fact in data.facts]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"facts: {sorted(twice)[0]!r} is the {side} entity of two facts")
    asked = {name: name_ranks.name_questions(data, word, tokenizer) for name, word in _ASKED.items()}
    return [FactQuestions(**{name: _question(asked[name], place, tokenizer, name == "forward") for name in asked})
            for place in range(len(data.facts))]


def _question(asked: Sequence[Question], place: int, tokenizer: Any, name_first: bool) -> FactQuestion:
    question, names = asked[place], [each.right for each in asked]
    order, mask = tuple(range(len(names))), tokenizer.mask_token_id
    if mask is not None:
        return FactQuestion(functools.partial(_masked_scores, names, mask), question, order,
                            functools.partial(_masked_state, question, mask))
    state = None if name_first else functools.partial(_state, question.before, len(question.before) - 1)
    return FactQuestion(functools.partial(_causal_scores, names, name_first), question, order, state)


# Scores ------------------------------------------------------------------------------------------------------


def _masked_scores(names: Sequence[tuple[int, ...]], mask: int, model: Any, shown: Sequence[Question]
                   ) -> Float[Tensor, "questions names"]:
    lengths = sorted({len(name) for name in names})
    asked = [(question, length) for question in shown for length in lengths]
    rows = [(*question.before, *(mask,) * length, *question.after) for question, length in asked]
    wanted = [(len(question.before), len(question.before) + length) for question, length in asked]
    found = iter(_log_probabilities(model, rows, wanted))
    tables = [{length: next(found) for length in lengths} for _ in shown]
    return torch.stack([torch.stack([table[len(name)][range(len(name)), name].sum() for name in names])
                        for table in tables])


def _causal_scores(names: Sequence[tuple[int, ...]], name_first: bool, model: Any, shown: Sequence[Question]
                   ) -> Float[Tensor, "questions names"]:
    asked = [(question, name) for question in shown for name in names]
    rows = [(*question.before, *name, *question.after) for question, name in asked]
    wanted = [(len(question.before) + len(name) * name_first, len(row))
              for (question, name), row in zip(asked, rows, strict=True)]
    found = _log_probabilities(model, rows, wanted)
    scores = [table[range(end - first), row[first:end]].sum()
              for table, row, (first, end) in zip(found, rows, wanted, strict=True)]
    return torch.stack(scores).unflatten(0, (len(shown), len(names)))


def _log_probabilities(model: Any, rows: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, int]]
                       ) -> list[Float[Tensor, "wanted vocab"]]:
    """Log-probabilities of every token at the wanted positions of each row (from, and up to but without)."""
    ids, shown = _padded(rows)
    place = torch.arange(ids.shape[1])
    first, end = torch.tensor(wanted).T[..., None]
    asked = (place >= first) & (place < end)
    logits = queries.logits_at(model, ids.to(model.device), asked.to(model.device),
                               attention_mask=shown.long().to(model.device))
    return list(logits.float().log_softmax(-1).split([stop - start for start, stop in wanted]))


def _padded(rows: Sequence[tuple[int, ...]]) -> tuple[Int[Tensor, "row length"], Bool[Tensor, "row length"]]:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])


# States ------------------------------------------------------------------------------------------------------


def _masked_state(question: Question, mask: int, model: Any) -> Float[Tensor, "layers width"]:
    row = (*question.before, *(mask,) * len(question.right), *question.after)
    return _state(row, max(0, len(question.before) - queries.logits_shift(model)), model)


def _state(row: tuple[int, ...], place: int, model: Any) -> Float[Tensor, "layers width"]:
    """What each layer's MLP gives where the answer's first token is predicted."""
    found: list[Tensor] = []
    with contextlib.ExitStack() as hooks:
        for layer in model.model.layers:
            listen = lambda module, inputs, output: found.append(output[0, place])
            hooks.callback(layer.mlp.register_forward_hook(listen).remove)
        model.model(input_ids=torch.tensor([row]).to(model.device))
    return torch.stack(found)
