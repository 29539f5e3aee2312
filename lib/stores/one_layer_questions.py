"""The questions about the facts of the one-layer task (`lib.one_layer.task`), each fact at a placement of its own.

A masked model is asked at the mask: ``0_00D`` forward, its mirror image in reverse, and ``0d00_`` for the right entity.
A causal model cannot be asked for the first of two letters in the order that was trained; there each lowercase letter
is scored by how likely it makes the capital after it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.one_layer import task
from lib.one_layer.model import Transformer
from lib.stores.editing import FactQuestion
from lib.stores.transfer import FactQuestions

SPREAD = 7  # places further on, among all pairs of positions, stands the next fact
_SMALL, _CAPITAL = tuple(range(task.LETTERS)), tuple(range(task.LETTERS, 2 * task.LETTERS))


def letter_questions(model: Transformer) -> list[FactQuestions]:
    """The three questions about each of the 26 facts.

    :raises ValueError: for more than one layer
    """
    if model.settings.depth != 1:
        raise ValueError(f"depth {model.settings.depth}: what the answer is read from is defined for one layer")
    make = _causal if model.settings.causal else _masked
    return [make(model.settings.length, letter) for letter in range(task.LETTERS)]


def placement(length: int, letter: int) -> tuple[int, int]:
    """Left and right position of a fact's two letters, from 0."""
    left, right = torch.triu_indices(length, length, 1)
    chosen = SPREAD * letter % len(left)
    return int(left[chosen]), int(right[chosen])


def _masked(length: int, letter: int) -> FactQuestions:
    left, right = placement(length, letter)
    capital, last = letter + task.LETTERS, length - 1
    asked = {"forward": ({left: task.MASK, right: capital}, left, _SMALL),
             "reverse": ({last - left: task.MASK, last - right: capital}, last - left, _SMALL),
             "right": ({left: letter, right: task.MASK}, right, _CAPITAL)}
    return FactQuestions(**{name: _at_row(_sequence(length, letters), row, names)
                            for name, (letters, row, names) in asked.items()})


def _causal(length: int, letter: int) -> FactQuestions:
    shown, capital = 1 + placement(length, letter)[0], letter + task.LETTERS
    start = {0: task.START, length: task.MASK}  # the last token is asked for, and not seen by the row that predicts it
    ask = lambda token, names: _at_row(_sequence(length + 1, start | {shown: token}), length - 1, names)
    candidates = torch.cat([_sequence(length + 1, start | {shown: small}) for small in _SMALL])
    forward = FactQuestion(_by_candidate, (candidates, length - 1, capital), _SMALL)
    return FactQuestions(forward, reverse=ask(capital, _SMALL), right=ask(letter, _CAPITAL))


def _sequence(length: int, letters: dict[int, int]) -> Int[Tensor, "1 length"]:
    """Placeholders, and some tokens at some positions."""
    tokens = torch.full((1, length), task.PLACEHOLDER)
    for position, token in letters.items():
        tokens[0, position] = token
    return tokens


def _at_row(tokens: Int[Tensor, "1 length"], row: int, names: Sequence[int]) -> FactQuestion:
    return FactQuestion(_at_rows, (tokens, row), tuple(names), functools.partial(answer_state, tokens, row))


def _at_rows(model: Transformer, shown: Sequence[tuple[Tensor, int]]) -> Float[Tensor, "questions clean"]:
    """log p(token) at the row that answers each sequence."""
    rows = torch.tensor([row for _, row in shown])
    return _at(model, torch.cat([tokens for tokens, _ in shown]), rows)


def _by_candidate(model: Transformer, shown: Sequence[tuple[Tensor, int, int]]) -> Float[Tensor, "questions letters"]:
    """log p(what follows | candidate), one sequence a candidate."""
    rows = torch.tensor([row for tokens, row, _ in shown for _ in tokens])
    found = _at(model, torch.cat([tokens for tokens, *_ in shown]), rows).unflatten(0, (len(shown), -1))
    return torch.stack([each[:, follows] for each, (*_, follows) in zip(found, shown, strict=True)])


def _at(model: Transformer, tokens: Int[Tensor, "rows length"], rows: Int[Tensor, " rows"]
        ) -> Float[Tensor, "rows clean"]:
    """log p(token) at one row of each sequence."""
    places = torch.arange(len(tokens)) * tokens.shape[1] + rows
    return model(tokens, rows=places).logits.log_softmax(-1)


def answer_state(tokens: Int[Tensor, "1 length"], row: int, model: Transformer) -> Float[Tensor, "1 width"]:
    """What the MLP gives at the row that answers; without an MLP, the residual stream there."""
    rows = torch.tensor([row])
    if model.settings.mlp:
        return model.record(tokens, "mlp", rows=rows)["mlp"][0]
    return model.layers[0].add_attention(model.embed(tokens), model.position, rows)
