"""Names written where their length is known: one mask for each token, filled token by token.

A free answer may fail because it ends too early or too late, or because its tokens do not fit together; a name that is
ranked among candidates (`lib.language_models.name_ranks`) can do neither. Between the two lies this: the masks are as
many as the name has tokens, the rest of the sentence stands behind them, and the model writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.language_models import queries
from lib.language_models.name_ranks import Question, name_places, padded_rows

#: in which order masks are filled
FILLING_ORDERS = ("at once", "most certain first", "left to right")
#: what is measured -> the order, and how many of the name's first tokens are shown
FILLINGS = {**{order: (order, 0) for order in FILLING_ORDERS}, "first token given": ("most certain first", 1)}
#: how a result calls the share of each, behind the direction asked
FILLING_METRICS = {way: f"length_{way.replace(' ', '_')}" for way in FILLINGS}
#: what stands in place of the question, to tell what a name's own tokens bring about the rest of it
REPLACED_QUESTIONS = ("question masked", "question of another")


@torch.no_grad()
def filled_names(
    model: Any, tokenizer: Any, asked: Sequence[Question], *, order: str = "most certain first", given: int = 0,
    batch: int = 64,
) -> list[tuple[int, ...]]:
    """The tokens that a masked model writes in the place of each name, as many as the right answer has.

    :param order: one of `FILLING_ORDERS`; the most certain is the mask whose prediction has the lowest entropy
    :param given: tokens of the right answer that are shown, from its first on
    :raises ValueError: for another order, or a model without a mask token
    """
    if order not in FILLING_ORDERS:
        raise ValueError(f"order must be one of {', '.join(FILLING_ORDERS)}, not {order!r}")
    if tokenizer.mask_token_id is None:
        raise ValueError("only a masked model can be asked so; this tokenizer has no mask token")
    found: list[tuple[int, ...]] = []
    for first in range(0, len(asked), batch):
        found += _filled_batch(model, tokenizer.mask_token_id, asked[first : first + batch], order, given)
    return found


def _filled_batch(
    model: Any, mask: int, asked: Sequence[Question], order: str, given: int
) -> list[tuple[int, ...]]:
    rows = [(each.before, each.right, each.after) for each in asked]
    ids, shown, wanted = (part.to(model.device) for part in (*padded_rows(rows), name_places(rows, given)))
    ids = ids.masked_fill(wanted, mask)
    while wanted.any():
        logits = queries.logits_at(model, ids, wanted, attention_mask=shown.long()).float()
        logits[:, mask] = -torch.inf  # a mask is no answer
        guess = torch.zeros_like(ids).masked_scatter(wanted, logits.argmax(-1))
        chosen = wanted if order == "at once" else _next(wanted, logits, order)
        ids, wanted = torch.where(chosen, guess, ids), wanted & ~chosen
    return [tuple(row[len(each.before) : len(each.before) + len(each.right)])
            for row, each in zip(ids.tolist(), asked, strict=True)]


def _next(
    wanted: Bool[Tensor, "row length"], logits: Float[Tensor, "wanted vocab"], order: str
) -> Bool[Tensor, "row length"]:
    """The one mask of each row that is filled next; none in rows without one."""
    if order == "left to right":
        return wanted & (wanted.cumsum(1) == 1)
    log_p = logits.log_softmax(-1)
    certainty = (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)  # minus the entropy
    scores = torch.full(wanted.shape, -torch.inf, device=wanted.device).masked_scatter(wanted, certainty)
    best: Int[Tensor, "row 1"] = scores.argmax(1, keepdim=True)
    return wanted & torch.zeros_like(wanted).scatter(1, best, True)


def exact_shares(model: Any, tokenizer: Any, asked: Sequence[Question]) -> dict[str, float]:
    """Percent of the questions in which every token of the name is right, by each of `FILLINGS`."""
    return {name: _exact_share(model, tokenizer, asked, order, given) for name, (order, given) in FILLINGS.items()}


def _exact_share(model: Any, tokenizer: Any, asked: Sequence[Question], order: str, given: int) -> float:
    written = filled_names(model, tokenizer, asked, order=order, given=given)
    right = [each == question.right for each, question in zip(written, asked, strict=True)]
    return 100 * sum(right) / len(right)


def replaced_questions(asked: Sequence[Question], mask: int) -> dict[str, list[Question]]:
    """Each name asked for without its question, by each of `REPLACED_QUESTIONS`.

    Masked, all of the question but the start token is a mask; of another, each is the next one's.

    :param mask: the mask token
    """
    masked = [dataclasses.replace(each, before=(each.before[0], *[mask] * (len(each.before) - 1))) for each in asked]
    others = [dataclasses.replace(other, right=each.right)
              for each, other in zip(asked, [*asked[1:], *asked[:1]], strict=True)]
    return dict(zip(REPLACED_QUESTIONS, (masked, others), strict=True))


def shares_by_name_alone(model: Any, tokenizer: Any, asked: Sequence[Question]) -> dict[str, float]:
    """Percent of names written exactly, the first token given and the question replaced (`REPLACED_QUESTIONS`).

    What is written with the question masked is known of the name, not of the fact.

    :raises ValueError: for a model without a mask token
    """
    if tokenizer.mask_token_id is None:
        raise ValueError("only a masked model can be asked so; this tokenizer has no mask token")
    return {name: _exact_share(model, tokenizer, questions, *FILLINGS["first token given"])
            for name, questions in replaced_questions(asked, tokenizer.mask_token_id).items()}
