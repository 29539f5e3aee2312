"""Questions that are the same, asked once.

Sequences that look alike after masking (in a batch where nearly everything is hidden, many do) share their rows, and a
row may carry several answers. Answers of weight zero are not asked. Neither changes the loss or its gradient by more
than rounding.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lib.one_layer.objectives import MaskedBatch
from lib.one_layer.task import CLEAN, MASK, TOKENS


class UniqueBatch(NamedTuple):
    """One member's different questions, and the answers to each."""

    tokens: Int[np.ndarray, "sequences length"]
    sequence: Int[np.ndarray, " rows"]  # that each row stands in
    position: Int[np.ndarray, " rows"]  # and where
    answers: Int[np.ndarray, " answers"]  # row * CLEAN + right token, the place of each answer in the flattened logits
    weights: Float[np.ndarray, " answers"]


def unique_rows(asked: MaskedBatch, batch: int = 1) -> UniqueBatch:
    """Ask what is asked several times once, and what weighs nothing not at all; weights a sequence of the batch.

    :raises ValueError: if a row is no mask, or for a token that does not exist
    """
    return unique_rows_by_step(asked, len(asked.tokens), batch)[0]


def unique_rows_by_step(asked: MaskedBatch, size: int, batch: int = 1) -> list[UniqueBatch]:
    """`unique_rows` of every ``size`` sequences, which belong to one step; many steps at a time take little longer.

    :raises ValueError: for a token that does not exist: a look-up would find another one's entry
    """
    length, reach = asked.tokens.shape[1], size * asked.tokens.shape[1]
    _check_range("tokens: they", asked.tokens, TOKENS)
    _check_range("targets: clean tokens", asked.targets, CLEAN)
    if (asked.tokens.reshape(-1)[asked.rows] != MASK).any():
        raise ValueError("rows: a masked model is asked at masked positions only")
    # the first row that asks what each answer is the answer to
    counted = np.flatnonzero(asked.weights)
    sequence, position = np.divmod(asked.rows[counted], length)
    question = _representatives(asked.tokens, size)[sequence] * length + position
    # rows that ask, in order, and the number of each
    rows, row = np.unique(question, return_inverse=True)
    # cut by step, rows and answers numbered within each
    ends = np.arange(0, asked.tokens.size + 1, reach)
    of_rows, of_answers = np.searchsorted(rows, ends), np.searchsorted(sequence * length, ends)
    answers = (row - of_rows[:-1].repeat(np.diff(of_answers))) * CLEAN + asked.targets[counted]
    weights = (asked.weights[counted] / batch).astype(np.float32)
    parts = (_cut(ends // length, asked.tokens), *(_cut(of_rows, part) for part in np.divmod(rows % reach, length)),
             *(_cut(of_answers, part) for part in (answers, weights)))
    return [UniqueBatch(*each) for each in zip(*parts, strict=True)]


def _check_range(what: str, found: np.ndarray, count: int) -> None:
    if found.size and (found.min() < 0 or found.max() >= count):
        raise ValueError(f"{what} run from 0 to {count - 1}, but there are {found.min()} to {found.max()}")


def _cut(ends: Int[np.ndarray, " some"], part: np.ndarray) -> list[np.ndarray]:
    """The pieces between ends."""
    return [part[start:end] for start, end in itertools.pairwise(ends.tolist())]


def _representatives(tokens: Int[np.ndarray, "sequences length"], size: int) -> Int[np.ndarray, " sequences"]:
    """For each sequence the first of those in the same step that look like it.

    Sequences are told apart by a random number each; those that share it by chance are merely not merged.
    """
    own = np.arange(len(tokens))
    hashes = tokens @ _hash_weights(tokens.shape[1]) + own // size
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    found = first[same]
    return np.where((tokens[found] == tokens).all(1) & (found // size == own // size), found, own)


@functools.cache
def _hash_weights(length: int) -> Int[np.ndarray, " length"]:
    """A random number a position."""
    return np.random.default_rng(0).integers(2**63, size=length)
