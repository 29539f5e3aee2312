"""Where the right name stands among all names that could be the answer, and what is answered instead.

Exact match asks for every token of a name; a model may know a fact and still write something else. So every question is
also put with every answer of the dataset as its *candidate*, and the candidates are ranked by

    log p(name | question),   and by   log p(name | question) - mean over other questions of log p(name | question'),

the second with the *prior* of each name taken out: some names are likely whatever is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.language_models import decoding, queries
from lib.language_models.facts import Dataset, Example, is_right, normalise

#: what an answer may be, see `answer_kind`
ANSWER_KINDS = ("right", "shown name", "other name", "mixture", "nothing", "other text")


@dataclasses.dataclass(frozen=True)
class Question:
    """A sentence with one entity asked for, in tokens: what stands before it and what follows it."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    right: tuple[int, ...]  # tokens of the right answer


def name_questions(data: Dataset, asked: str, tokenizer: Any) -> list[Question]:
    """The questions about every fact, with an end token after the sentence.

    :param asked: ``forward`` (the right entity, in the trained order), ``reverse`` (the left one, in the other order),
        or ``left`` (the left one, in the trained order)
    """
    direction, entity = {"forward": ("forward", "right"), "reverse": ("reverse", "left"),
                         "left": ("forward", "left")}[asked]
    found = []
    for fact in data.facts:
        form = getattr(data.relation, direction)[0]
        filled = {"left": fact.left, "right": fact.right, entity: "\0"}
        before, after = form.format(**filled).split("\0")
        right = tokenizer(f" {getattr(fact, entity)}", add_special_tokens=False)["input_ids"]
        found.append(Question(tuple(tokenizer(before.rstrip())["input_ids"]),
                              (*tokenizer(after, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id),
                              tuple(right)))
    return found


@torch.no_grad()
def log_probabilities(
    model: Any, tokenizer: Any, asked: Sequence[Question], batch: int = 64
) -> Float[np.ndarray, "question candidate"]:
    """log p(candidate | question); candidate j is the right answer of question j.

    A masked model sees as many masks as the candidate has tokens, and predicts all of them at once. A causal model is
    given the candidate token by token, and the score counts what follows it up to the end token: so a name's beginning
    is no answer, and where the name comes first in the sentence its score is that of the whole sentence.
    """
    candidates = [question.right for question in asked]
    if tokenizer.mask_token_id is None:
        rows = [(question.before, name, question.after) for question in asked for name in candidates]
        found = [float(part.sum()) for part in _predicted(model, rows, batch)]
        return np.array(found).reshape(len(asked), len(asked))
    lengths = sorted({len(name) for name in candidates})
    rows = [(question.before, (tokenizer.mask_token_id,) * length, question.after)
            for question in asked for length in lengths]
    tables = dict(zip(itertools.product(range(len(asked)), lengths), _at_masks(model, rows, batch), strict=True))
    return np.array([[float(tables[i, len(name)][range(len(name)), name].double().sum()) for name in candidates]
                     for i in range(len(asked))])


Rows = Sequence[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]  # before, the name or its masks, after


def _at_masks(model: Any, rows: Rows, batch: int) -> Iterator[Float[Tensor, "name vocab"]]:
    """Log-probabilities of every token at the masks of each row."""
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        ids, shown = padded_rows(part)
        logits = queries.logits_at(model, ids.to(model.device), name_places(part).to(model.device),
                                   attention_mask=shown.long().to(model.device))
        yield from logits.float().log_softmax(-1).cpu().split([len(row[1]) for row in part])


def _predicted(model: Any, rows: Rows, batch: int) -> Iterator[Float[Tensor, " follows"]]:
    """Log-probabilities of the tokens of each row that follow what stands before the name, by a causal model."""
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        ids, shown = padded_rows(part)
        wanted = shown & (torch.arange(ids.shape[1]) >= torch.tensor([[len(row[0])] for row in part]))
        logits = queries.logits_at(model, ids.to(model.device), wanted.to(model.device),
                                   attention_mask=shown.long().to(model.device), shift=1)
        each = logits.float().log_softmax(-1).cpu().gather(1, ids[wanted][:, None])[:, 0].double()
        yield from each.split(wanted.sum(1).tolist())


def padded_rows(rows: Rows) -> tuple[Int[Tensor, "row length"], Bool[Tensor, "row length"]]:
    """Rows padded on the right, and what of them is not padding."""
    whole = [torch.tensor([*before, *name, *after]) for before, name, after in rows]
    ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in whole])


def name_places(rows: Rows, skipped: int = 0) -> Bool[Tensor, "row length"]:
    """Where the names of `padded_rows` stand.

    :param skipped: so many tokens of each name, from its first on, are left out
    """
    place = torch.arange(max(sum(map(len, row)) for row in rows))
    start, stop = (torch.tensor([[len(row[0]) + end * len(row[1])] for row in rows]) for end in (0, 1))
    return (place >= start + skipped) & (place < stop)


def without_prior(scores: Float[np.ndarray, "question candidate"]) -> Float[np.ndarray, "question candidate"]:
    """Scores less the mean of the same candidate's score over the other questions.

    :raises ValueError: for fewer than two questions
    """
    count = len(scores)
    if count < 2:
        raise ValueError("a prior is a mean over other questions; at least two questions are needed")
    return scores - (scores.sum(0) - scores) / (count - 1)


def first_of_all(scores: Float[np.ndarray, "question candidate"]) -> float:
    """Percent of questions whose right answer has a higher score than every other candidate; a tie is none.

    By chance it is 100 divided by the number of candidates.
    """
    others = scores.copy()
    np.fill_diagonal(others, -np.inf)
    return float(100 * (np.diag(scores) > others.max(1)).mean())


def mean_percentile(scores: Float[np.ndarray, "question candidate"]) -> float:
    """Percent of the other candidates that the right answer beats, mean over questions; 50 by chance, a tie is half."""
    right = np.diag(scores)[:, None]
    beaten = (right > scores).sum(1) + ((right == scores).sum(1) - 1) / 2
    return float(100 * (beaten / (scores.shape[1] - 1)).mean())


# What is answered --------------------------------------------------------------------------------------------


def answer_kind(answer: str, example: Example, data: Dataset) -> str:
    """Which of `ANSWER_KINDS` an answer is: right, the name in the prompt, another name of the dataset, a mixture of
    words that all stand in names of the dataset, nothing, or other text.
    """
    said, names = normalise(answer), [name for fact in data.facts for name in (fact.left, fact.right)]
    if is_right(example, answer):
        return ANSWER_KINDS[0]
    if said == normalise(example.first):
        return ANSWER_KINDS[1]
    if said in {normalise(name) for name in names}:
        return ANSWER_KINDS[2]
    words = set(re.findall(r"[\w'’.-]+", said))
    known = {word for name in names for word in normalise(name).split()}
    if not words:
        return ANSWER_KINDS[4]
    return ANSWER_KINDS[3] if words <= known else ANSWER_KINDS[5]


def answer_kind_shares(answers: Sequence[str], asked: Sequence[Example], data: Dataset) -> dict[str, float]:
    """Percent of the answers of each of `ANSWER_KINDS`."""
    found = Counter(answer_kind(answer, example, data) for answer, example in zip(answers, asked, strict=True))
    return {kind: 100 * found[kind] / len(answers) for kind in ANSWER_KINDS}


def contained_share(answers: Sequence[str], asked: Sequence[Example]) -> float:
    """Percent of the answers in which a right one stands somewhere, whatever stands around it."""
    def holds(answer: str, right: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(normalise(right))}(?!\w)", normalise(answer)) is not None
    found = [any(holds(answer, right) for right in example.answers)
             for answer, example in zip(answers, asked, strict=True)]
    return 100 * sum(found) / len(found)


def token_accuracy(answers: Sequence[str], asked: Sequence[Example], tokenizer: Any) -> float:
    """Percent of the right answer's tokens that are written at their places, mean over questions.

    Where several answers are right, the one that agrees most counts.
    """
    def agreement(answer: str, right: str) -> float:
        wanted, said = (tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
                        for text in (right, answer))
        return sum(one == other for one, other in zip(wanted, said, strict=False)) / len(wanted)
    return 100 * float(np.mean([max(agreement(answer, right) for right in example.answers)
                                for answer, example in zip(answers, asked, strict=True)]))


def answers_without(
    model: Any, tokenizer: Any, asked: Sequence[Example], data: Dataset, *, length: int, batch: int = 16
) -> list[str]:
    """What the model writes when no token of the name in the prompt may be written.

    Where the right answer has such a token, a piece of another word, it cannot be written either and counts as wrong.
    """
    found = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        banned = [_tokens(example.first, tokenizer) for example in part]
        with _forbidding(model, banned):
            found += decoding.generate_text(model, tokenizer, [example.prompt for example in part], length=length,
                                            batch=batch)
    return found


def _tokens(name: str, tokenizer: Any) -> set[int]:
    return set(tokenizer(f" {name}", add_special_tokens=False)["input_ids"])


@contextlib.contextmanager
def _forbidding(model: Any, banned: Sequence[set[int]]) -> Iterator[None]:
    """In each row of a batch these tokens have no chance."""
    def forbid(module: Any, given: Any, logits: Tensor) -> Tensor:
        mask: Bool[Tensor, "batch vocab"] = torch.zeros(len(banned), logits.shape[-1], dtype=torch.bool)
        for row, tokens in enumerate(banned):
            mask[row, list(tokens)] = True
        return logits.masked_fill(mask[:, None].to(logits.device), -torch.inf)

    handle = model.get_output_embeddings().register_forward_hook(forbid)
    try:
        yield
    finally:
        handle.remove()
