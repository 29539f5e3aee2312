"""How well candidate answers do under some logits, and what competes with the right one.

Candidates are given in tokens, the right one first; a shorter one is scored over the tokens that it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lib.language_models.queries import IGNORED, EncodedQuery

#: candidate answers in tokens, the right one first; a shorter one is scored over the tokens that it has
Candidates = Sequence[Sequence[int]]


def mean_log_probabilities(
    logits: Float[Tensor, "variant target vocab"], candidates: Candidates
) -> Float[Tensor, "variant candidate"]:
    """Mean log-probability over the tokens of each candidate, in nats.

    :raises ValueError: for a candidate without tokens, or with more than are asked for
    """
    asked = logits.shape[1]
    if not all(1 <= len(candidate) <= asked for candidate in candidates):
        raise ValueError(f"candidates: {[*map(len, candidates)]} tokens, but {asked} are asked for")
    found = logits.float().log_softmax(-1)
    return torch.stack([found[:, range(len(each)), list(each)].mean(-1) for each in candidates], -1)


def shown_names(pairs: Sequence[tuple[EncodedQuery, EncodedQuery]]) -> list[Candidates]:
    """The competitor of each fact that a model may copy: the name shown as evidence, cut to the answer's length.

    A knockout of the evidence also hinders the copying, so that the logit difference over this competitor can rise
    while the right answer loses: compare the right answer's own log-probability.
    """
    return [[tokens_at(reverse, reverse.evidence)[:len(reverse.target)]] for _, reverse in pairs]


def tokens_at(prompt: EncodedQuery, positions: Sequence[int]) -> list[int]:
    """The tokens of a query at some positions, with the answer filled in."""
    filled = torch.where(prompt.labels == IGNORED, prompt.input_ids, prompt.labels)
    return filled[list(positions)].tolist()


def shows_target(prompt: EncodedQuery) -> bool:
    """Whether the answer stands in the text, as it does for a causal model, and is not masked."""
    target = list(prompt.target)
    return torch.equal(prompt.input_ids[target], prompt.labels[target])


def with_answer(prompt: EncodedQuery, answer: Sequence[int]) -> EncodedQuery:
    """The query with the first tokens of its answer replaced."""
    positions = torch.tensor(prompt.target[:len(answer)])
    return prompt._replace(input_ids=prompt.input_ids.index_put((positions,), torch.tensor(answer)))
