"""The one-layer task of Sec. 5 and App. D.1: a letter, its capital, and placeholders.

A *fact* pairs a lowercase letter (the target, A) with its capital (the evidence, B); there are 26. A
training sequence holds one pair and placeholders ``0``, the lowercase letter first: ``0d00D``. A query
hides the lowercase letter and shows everything else: *forward* ``0_00D``, mask to the left of the evidence
as in training, or *reverse* ``0D00_``.

A causal model meets the same sequences but can only be asked for what comes later. Following Sec. 2.1, its
forward question shows the first letter of the training order and asks for the second (``0d000`` -> ``D``);
its reverse question shows the second and asks for the first (``0D000`` -> ``d``). Both ask for the *last*
token: there, and only there, the training data leave one answer to the forward question; earlier, a
placeholder may always come first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

LETTERS = 26
ALPHABET = "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "0_"
PLACEHOLDER, MASK = 52, 53
DIRECTIONS = ("forward", "reverse")  # in which a fact is asked
#: clean tokens (a model's outputs), and all tokens (its inputs)
CLEAN, TOKENS = 53, 54
#: a causal model's first input; it never meets the mask, so the symbol is free
START = MASK
_IGNORED = -100


class StackedGenerators:
    """Several generators as one, each of which draws its equal share of the first axis.

    What is drawn of each batch alone is so drawn for many batches at a time, with the random numbers of each.
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = generators

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        return np.concatenate([each.random(self._share(size)) for each in self.generators])

    def integers(self, high: int, size: int | tuple[int, ...]) -> np.ndarray:
        return np.concatenate([each.integers(high, size=self._share(size)) for each in self.generators])

    def permutation(self, x: object) -> np.ndarray:
        """Refused: a permutation mixes batches.

        :raises TypeError: always
        """
        raise TypeError("a permutation mixes batches: draw it for one batch at a time")

    def _share(self, size: int | tuple[int, ...]) -> tuple[int, ...]:
        count, *rest = (size,) if isinstance(size, int) else size
        return count // len(self.generators), *rest


Rng = np.random.Generator | StackedGenerators


def check_length(length: int) -> int:
    """A usable sequence length.

    :raises ValueError: for anything but an integer of at least 2
    """
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 2:
        raise ValueError(f"length must be an integer of at least 2 (a pair has two letters), not {length!r}")
    return int(length)


def spell(tokens: Int[Tensor, " length"] | Int[np.ndarray, " length"]) -> str:
    """Tokens as text: ``0d00D``, the mask as ``_``."""
    return "".join(ALPHABET[int(token)] for token in tokens)


def read(text: str) -> Int[Tensor, " length"]:
    """Text as tokens; the inverse of `spell`.

    :raises ValueError: for a character that is no token
    """
    for character in text:
        if character not in ALPHABET:
            raise ValueError(f"{character!r} is no token; tokens are {ALPHABET}")
    return torch.tensor([ALPHABET.index(character) for character in text])


def sequences(
    count: int, length: int, rng: Rng, reversed_share: float = 0.0, facts: int = LETTERS, fillers: int = 1
) -> Int[np.ndarray, "count length"]:
    """Training sequences: letter and pair of positions uniform; the lowercase letter comes first.

    :param reversed_share: expected share (0 to 1) of sequences in the other order; the paper has none
    :param facts: how many pairs there are, the first of the alphabet
    :param fillers: kinds of placeholder, see `filler_tokens`
    """
    check_length(length)
    letter = rng.integers(facts, size=count)
    # the pair of positions by its rank among length * (length - 1) / 2, so that all are equally likely
    first, second = _pairs(length)
    rank = rng.integers(len(first), size=count)
    first, second = first[rank], second[rank]
    if reversed_share:
        swap = rng.random(count) < reversed_share
        first, second = np.where(swap, second, first), np.where(swap, first, second)
    tokens = np.full(count * length, PLACEHOLDER, dtype=np.int64)
    if fillers > 1:
        tokens[:] = filler_tokens(facts, fillers)[rng.integers(fillers, size=count * length)]
    start = np.arange(0, count * length, length)
    tokens[start + first], tokens[start + second] = letter, letter + LETTERS
    return tokens.reshape(count, length)


def filler_tokens(facts: int = LETTERS, fillers: int = 1) -> Int[np.ndarray, " fillers"]:
    """What may stand where no letter of the pair does: `PLACEHOLDER`, then letters and capitals that are in no fact.

    :raises ValueError: for fewer than one, or more than the letters that the facts leave
    """
    for name, value, most in (("facts", facts, LETTERS), ("fillers", fillers, 1 + 2 * (LETTERS - facts))):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
            raise ValueError(f"{name} must be an integer from 1 to {most}, not {value!r}: there are {LETTERS} letters, "
                             f"{facts!r} of them in facts, and the others serve as fillers")
    unused = np.arange(facts, LETTERS)
    return np.array([PLACEHOLDER, *np.stack([unused, unused + LETTERS], 1).ravel()])[:fillers]


@functools.lru_cache
def _pairs(length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second position of every pair."""
    return np.triu_indices(length, 1)


@dataclasses.dataclass(frozen=True)
class Queries:
    """Questions with one right answer each; forward and reverse sets are paired row by row.

    ``tokens`` (queries, length) show `MASK` at ``position``, where ``target`` belongs; ``evidence`` is the
    position of the visible letter and ``letter`` (0 to 25) the fact.
    """

    tokens: Int[Tensor, "queries length"]
    position: Int[Tensor, " queries"]
    evidence: Int[Tensor, " queries"]
    target: Int[Tensor, " queries"]
    letter: Int[Tensor, " queries"]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def offset(self) -> Int[Tensor, " queries"]:
        """Evidence position minus mask position: Delta_1 forward, minus Delta_2 in reverse."""
        return self.evidence - self.position

    def batch(self) -> dict[str, Tensor]:
        """As the probes take it: ``input_ids`` and ``labels``, -100 where nothing is asked."""
        labels = torch.full_like(self.tokens, _IGNORED)
        labels[torch.arange(len(self)), self.position] = self.target
        return {"input_ids": self.tokens, "labels": labels}

    def split(self, size: int) -> list[Queries]:
        """The queries in order, at most ``size`` at a time."""
        return [self[rows] for rows in torch.arange(len(self)).split(size)]

    def __getitem__(self, rows: Bool[Tensor, " queries"] | Int[Tensor, " some"]) -> Queries:
        return Queries(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def paired_queries(length: int, facts: int = LETTERS, fillers: int = 1) -> tuple[Queries, Queries]:
    """Every forward query of a masked model and, row by row, its mirror image, the reverse query.

    :param fillers: kinds of placeholder; where there are several, which of them stands where is drawn once
    :return: forward and reverse, each with facts * length * (length - 1) / 2 rows, letter by letter
    """
    check_length(length)
    left, right = torch.triu_indices(length, length, 1)
    letter = torch.arange(facts).repeat_interleave(len(left))
    left, right = left.repeat(facts), right.repeat(facts)
    forward = _ask(length, left, right, target=letter, evidence=letter + LETTERS, letter=letter)
    last = length - 1
    reverse = _ask(length, last - left, last - right, target=letter, evidence=letter + LETTERS, letter=letter)
    if fillers > 1:
        draw = np.random.default_rng(0).integers(fillers, size=forward.tokens.shape)
        drawn = torch.as_tensor(filler_tokens(facts, fillers)[draw])
        for queries, shown in ((forward, drawn), (reverse, drawn.flip(1))):
            places = queries.tokens == PLACEHOLDER
            queries.tokens[places] = shown[places]
    return forward, reverse


def paired_causal_queries(length: int) -> tuple[Queries, Queries]:
    """Every question to a causal model, forward (capital from letter) and reverse (letter from capital).

    Sequences begin with `START`; the last of the ``length`` tokens is asked for.

    :return: forward and reverse, each with 26 * (length - 1) rows of length + 1 tokens
    """
    check_length(length)
    shown = torch.arange(1, length).repeat(LETTERS)
    letter = torch.arange(LETTERS).repeat_interleave(length - 1)
    last, capital = torch.full_like(shown, length), letter + LETTERS
    forward = _ask(length + 1, last, shown, target=capital, evidence=letter, letter=letter)
    reverse = _ask(length + 1, last, shown, target=letter, evidence=capital, letter=letter)
    for queries in (forward, reverse):
        queries.tokens[:, 0] = START
    return forward, reverse


def _ask(
    length: int, position: Tensor, where: Tensor, *, target: Tensor, evidence: Tensor, letter: Tensor
) -> Queries:
    tokens = torch.full((len(position), length), PLACEHOLDER)
    rows = torch.arange(len(position))
    tokens[rows, position], tokens[rows, where] = MASK, evidence
    return Queries(tokens, position, where, target, letter)
