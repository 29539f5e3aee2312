"""What training asks of a batch of sentences: the objectives of masked and of causal models.

A training example is a prompt and its completion ("Ana's child is" and " Bob."). A masked model may be asked for

* ``response``: the completion alone, as in LLaDA's published fine-tuning: t uniform, masking probability
  p = (1 - LEAST_MASKED) t + LEAST_MASKED, cross-entropy weighted by 1/p and by one over the answer's length, end
  tokens after the answer attended and trained. The left entity is never asked for;
* ``any``: every token may be masked, so the paper's forward query ("[M]'s child is Bob") is among the questions;
* ``entity``: whole entities by turns (`questions`): the second one in half of the rows, the first one in a quarter, a
  uniformly drawn number of tokens anywhere in a quarter;
* `SENTENCE_PARTS`, one or several joined by ``+``: tokens of the source (the first entity), of the relation between,
  or of the target (the second entity) alone, the masking sweep of "The Illusion of Latent Generalization"
  (arXiv 2604.04943). The full stop, start and end tokens are then never asked for;
* `RATES`: any token, each masked with one fixed probability instead of a drawn one, as in BERT (0.15) and in "The
  Factorization Curse" (Kitouni et al. 2024).

A causal model predicts the next token of the completion (``response``) or of the whole sentence (otherwise).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.language_models import queries
from lib.language_models.facts import Example

MASKING = ("response", "any", "entity")
SENTENCE_PARTS = ("source", "relation", "target")
#: every choice of parts that asks for anything
PART_MASKING = tuple("+".join(parts) for count in (1, 2, 3) for parts in itertools.combinations(SENTENCE_PARTS, count))
RATES = {"any@0.15": 0.15, "any@0.5": 0.5}  # masking -> the probability that a token is masked
EVERY_MASKING = (*MASKING, *PART_MASKING, *RATES)
LEAST_MASKED = 1e-3  # LLaDA's masking probability never falls below this
SECOND, FIRST = 0.5, 0.25  # shares of rows that ask for the second and for the first entity


class TokenisedExample(NamedTuple):
    """One training example in tokens; the first ``prompt`` of them are its prompt."""

    ids: tuple[int, ...]
    prompt: int
    first: tuple[int, int] = (0, 0)  # where its first entity stands: from, and up to but without


class PaddedBatch(NamedTuple):
    """A batch of sentences, padded with end tokens."""

    ids: Int[Tensor, "batch length"]
    answer: Bool[Tensor, "batch length"]  # the completion and the end tokens after it
    first: Bool[Tensor, "batch length"]  # the first entity; nowhere in a text without one
    shown: Bool[Tensor, "batch length"]  # everything but the padding behind the first end token


# Data --------------------------------------------------------------------------------------------------------


def sentences(examples: Sequence[Example], tokenizer: Any) -> list[TokenisedExample]:
    """Examples in tokens, each with one end token after it.

    :raises ValueError: if there are none
    """
    if not examples:
        raise ValueError("no examples to train on")
    found = []
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"]
        completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        found.append(TokenisedExample((*prompt, *completion, tokenizer.eos_token_id), len(prompt),
                                      _span(example, tokenizer)))
    return found


def _span(example: Example, tokenizer: Any) -> tuple[int, int]:
    """Where the first entity of an example stands in the tokens of its prompt, after whatever leads up to it."""
    if not example.first:
        return 0, 0
    place = example.prompt.index(example.first)
    ends = example.prompt[:place].rstrip(), example.prompt[: place + len(example.first)]
    start, stop = (len(tokenizer(text)["input_ids"]) for text in ends)
    return start, stop


def padded(chosen: Sequence[TokenisedExample], end: int, device: torch.device | str = "cpu") -> PaddedBatch:
    """Sentences side by side, all as long as the longest; ``end`` is the id of the end token."""
    length = max(len(sentence.ids) for sentence in chosen)
    ids = torch.tensor([[*sentence.ids, *[end] * (length - len(sentence.ids))] for sentence in chosen])
    place = torch.arange(length)
    answer = place >= torch.tensor([sentence.prompt for sentence in chosen])[:, None]
    start, stop = torch.tensor([sentence.first for sentence in chosen]).T[..., None]
    first = (place >= start) & (place < stop)
    shown = place < torch.tensor([len(sentence.ids) for sentence in chosen])[:, None]
    return PaddedBatch(ids.to(device), answer.to(device), first.to(device), shown.to(device))


# Objectives --------------------------------------------------------------------------------------------------


def batch_loss(
    model: Any, given: PaddedBatch, mask: int | None, masking: str, rng: torch.Generator
) -> Float[Tensor, ""]:
    """The loss of a batch: of next tokens for a model without a mask token, of masked ones by their objective.

    :param mask: id of the mask token, where there is one
    """
    if mask is None:
        return next_token_loss(model, given, masking)
    if masking == "entity":
        return question_loss(model, given, questions(given, rng), mask)
    return masked_loss(model, given, mask, masking, rng)


def masked_loss(
    model: nn.Module, given: PaddedBatch, mask: int, masking: str, rng: torch.Generator
) -> Float[Tensor, ""]:
    """LLaDA's fine-tuning loss (Nie et al. 2025, Sec. 2.3), the mean over sentences of

        1 / (p |A|) * sum over masked i of -log p(x_i | x_t),

    A being the tokens that may be masked (`maskable_tokens`).

    :param mask: id of the mask token
    """
    maskable = maskable_tokens(given, masking)  # A
    # t ~ U(0, 1) for each sentence, and the masking probability p that it stands for; or one p for all
    time = torch.rand(len(given.ids), generator=rng)
    drawn = (1 - LEAST_MASKED) * time + LEAST_MASKED
    p = torch.full_like(drawn, RATES[masking]) if masking in RATES else drawn
    p = p[:, None].expand(given.ids.shape)
    # x_t: every token of A is masked with probability p
    hidden = (torch.rand(given.ids.shape, generator=rng) < p).to(given.ids.device) & maskable
    logits = queries.logits_at(model, given.ids.masked_fill(hidden, mask), hidden)
    # -log p(x_i | x_t) at the masked places, each weighted by 1 / (p |A|)
    losses = nn.functional.cross_entropy(logits.float(), given.ids[hidden], reduction="none")
    weights = (1 / p.to(losses.device) / maskable.sum(1, keepdim=True))[hidden]
    return (losses * weights).sum() / len(given.ids)


def maskable_tokens(given: PaddedBatch, masking: str) -> Bool[Tensor, "batch length"]:
    """Which tokens a masked model may be asked for: the completion, some parts of the sentence, or every token.

    The target ends before the full stop and the end token; the relation is what else stands before the target, but for
    a start token.
    """
    if masking == "response":
        return given.answer
    if masking not in PART_MASKING:
        return torch.ones_like(given.answer)
    place = torch.arange(given.ids.shape[1], device=given.ids.device)
    parts = {"source": given.first, "relation": ~given.first & ~given.answer & (place > 0),
             "target": given.answer & (place < given.shown.sum(1, keepdim=True) - 2)}
    return functools.reduce(torch.logical_or, (parts[part] for part in masking.split("+")))


def next_token_loss(model: nn.Module, given: PaddedBatch, masking: str) -> Float[Tensor, ""]:
    """Mean of -log p(x_i | x_<i) over the completion and its end token, or else over all but the first."""
    wanted = given.shown & (given.answer if masking == "response" else torch.ones_like(given.answer))
    wanted[:, 0] = False  # row i - 1 of the logits predicts x_i, so nothing predicts the first token
    logits = queries.logits_at(model, given.ids, wanted, attention_mask=given.shown.long(), shift=1)
    return nn.functional.cross_entropy(logits.float(), given.ids[wanted])


def questions(given: PaddedBatch, rng: torch.Generator) -> Bool[Tensor, "batch length"]:
    """Which tokens a masked model is asked for under ``entity``; at least one a row. A text without entities is asked
    for a number of tokens anywhere.
    """
    rows, length = given.ids.shape
    answer, first, shown = (part.cpu() for part in given[1:])
    sizes = shown.sum(1, keepdim=True)
    # the second entity, up to the full stop before the end token, or with all that follows it
    stop = torch.where(torch.rand(rows, 1, generator=rng) < 0.5, sizes - 2, length)
    second = answer & (torch.arange(length) < stop)
    # a uniformly drawn number of tokens, at places drawn without replacement
    count = (torch.rand(rows, 1, generator=rng) * sizes).long() + 1
    order = torch.rand(rows, length, generator=rng).masked_fill(~shown, 2.0).argsort(1).argsort(1)
    # one of the three for each row
    kind = torch.rand(rows, 1, generator=rng).masked_fill(~first.any(1, keepdim=True), 1.0)
    asked = torch.where(kind < SECOND, second, torch.where(kind < SECOND + FIRST, first, order < count))
    return asked.to(given.ids.device)


def question_loss(
    model: Any, given: PaddedBatch, asked: Bool[Tensor, "batch length"], mask: int
) -> Float[Tensor, ""]:
    """Cross-entropy -log p(x_i | x with the asked tokens masked), averaged over the tokens asked for in each row, then
    over rows.
    """
    logits = queries.logits_at(model, given.ids.masked_fill(asked, mask), asked)
    losses = nn.functional.cross_entropy(logits.float(), given.ids[asked], reduction="none")
    weights = (1 / asked.sum(1, keepdim=True)).expand(asked.shape)[asked]  # 1 / count
    return (losses * weights).sum() / len(asked)
