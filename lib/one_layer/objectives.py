"""What a training step asks for: which tokens are hidden, which positions are asked, and what each answer
weighs.

Every objective returns `MaskedBatch`; the loss of a sequence is the weighted sum of -log p over its asked
positions, and the loss of a batch the mean over sequences. For masked diffusion its expectation is the same
bound on -log p(x), in nats a sequence, in all three forms (Ou et al. 2025):

* ``t_dce``: time t uniform in (0, 1], each token masked with probability (1 - EPSILON) t (log-linear
  noise), weight 1/t;
* ``lambda_dce``: masking probability lambda uniform in (0, 1), weight 1/lambda;
* ``stratified``: lambda integrated out. Under uniform lambda the number k of masks is uniform on 0..L, the
  subset uniform given k, and E[1/lambda | k] = (L + 1)/k; hence k uniform on 1..L with weight L/k has the
  same expectation. The batch's counts come from equally spaced quantiles, so they are almost the same in
  every step: less variance, and as many questions in every batch and for every member of an ensemble.

``fixed_rate`` masks each token with probability `RATE`, as masked language models do (Devlin et al. 2019,
without their random replacements); ``autoregressive`` asks for every token given those before it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lib.one_layer import task
from lib.one_layer.task import Draw

OBJECTIVES = ("masked_diffusion", "fixed_rate", "autoregressive")
DRAWS = ("stratified", "lambda_dce", "t_dce")
EPSILON = 1e-3  # log-linear noise stops this short of masking everything
RATE = 0.15

Tokens = Int[np.ndarray, "batch length"]


@dataclasses.dataclass(frozen=True)
class MaskedBatch:
    """One batch of questions: inputs, asked rows of the flattened batch, right answers, and their weights."""

    tokens: Int[np.ndarray, "batch positions"]
    rows: Int[np.ndarray, " rows"]  # in ascending order
    targets: Int[np.ndarray, " rows"]
    weights: Float[np.ndarray, " rows"]

    def steps(self, size: int) -> list[MaskedBatch]:
        """The same in batches of ``size`` sequences."""
        reach = size * self.tokens.shape[1]
        starts = np.arange(reach, self.tokens.size, reach)
        parts = (np.split(part, np.searchsorted(self.rows, starts))
                 for part in (self.rows % reach, self.targets, self.weights))
        return [MaskedBatch(*each) for each in zip(np.split(self.tokens, len(starts) + 1), *parts, strict=True)]


def check_objective(objective: str, draws: str) -> None:
    """Refuse an unknown objective or way of drawing masks, naming the valid ones."""
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; one of {', '.join(OBJECTIVES)}")
    if draws not in DRAWS:
        raise ValueError(f"unknown draws {draws!r}; one of {', '.join(DRAWS)}")
    if objective != "masked_diffusion" and draws != "stratified":
        raise ValueError(f"draws {draws!r} belongs to masked_diffusion, not to {objective}")


def ask(
    objective: str, tokens: Tokens, draw: Draw, quantiles: np.ndarray, draws: str = "stratified"
) -> MaskedBatch:
    """One batch under an objective; ``quantiles`` (see `quantiles`) set the counts where they are stratified."""
    check_objective(objective, draws)
    if objective == "autoregressive":
        return autoregressive(tokens)
    if objective == "fixed_rate":
        return fixed_rate(tokens, draw, quantiles)
    if draws == "stratified":
        return stratified(tokens, draw, quantiles)
    return (t_dce if draws == "t_dce" else lambda_dce)(tokens, draw)


def quantiles(count: int, draw: Draw, batches: int = 1) -> Float[np.ndarray, " batches_count"]:
    """Equally spaced quantiles, shifted together: each is uniform on (0, 1), all of them are even.

    :param batches: that many times so, one after the other, each with a shift of its own
    """
    return ((np.arange(count) + draw.random((batches, 1))) / count).reshape(-1)


# Masked objectives ----------------------------------------------------------------------------------------


def t_dce(tokens: Tokens, draw: Draw) -> MaskedBatch:
    """Denoising cross-entropy in time: weight sigma e^(-sigma_bar) / (1 - e^(-sigma_bar)) = 1/t."""
    time = 1.0 - draw.random(len(tokens))
    masked = draw.random(tokens.shape) < (1 - EPSILON) * time[:, None]
    return hide(tokens, masked, 1 / time)


def lambda_dce(tokens: Tokens, draw: Draw) -> MaskedBatch:
    """The same after substituting the masking probability lambda for time: weight 1/lambda."""
    probability = 1.0 - draw.random(len(tokens))
    masked = draw.random(tokens.shape) < probability[:, None]
    return hide(tokens, masked, 1 / probability)


def stratified(tokens: Tokens, draw: Draw, quantiles: np.ndarray) -> MaskedBatch:
    """The same with lambda integrated out and mask counts spread evenly: k uniform on 1..L, weight L/k."""
    length = tokens.shape[1]
    counts = np.minimum((quantiles * length).astype(np.int64), length - 1) + 1
    return hide(tokens, subsets(counts, length, draw), length / counts)


def fixed_rate(tokens: Tokens, draw: Draw, quantiles: np.ndarray) -> MaskedBatch:
    """Each token masked with probability `RATE`; counts from even binomial quantiles, weight 1/RATE."""
    length = tokens.shape[1]
    counts = np.searchsorted(binomial_distribution(length), quantiles)
    return hide(tokens, subsets(counts, length, draw), np.full(len(tokens), 1 / RATE))


@functools.lru_cache
def binomial_distribution(length: int) -> np.ndarray:
    """P(count <= k), k = 0..length, of the masks that `RATE` puts into a sequence."""
    each = [math.comb(length, count) * RATE**count * (1 - RATE) ** (length - count) for count in range(length + 1)]
    return np.cumsum(each).clip(max=1.0)


def subsets(counts: np.ndarray, length: int, draw: Draw) -> Bool[np.ndarray, "batch length"]:
    """For each row a subset of that many positions, all such subsets equally likely."""
    drawn = draw.random((len(counts), length))
    smallest = np.sort(drawn, axis=1).reshape(-1)  # masked are the counts[i] smallest of row i
    limit = smallest[np.arange(-1, len(smallest) - 1, length) + counts]
    limit[counts == 0] = -1.0
    return drawn <= limit[:, None]


def hide(tokens: Tokens, masked: Bool[np.ndarray, "batch length"], weights: np.ndarray) -> MaskedBatch:
    """Mask and ask for the masked tokens; ``weights`` (batch,) weigh every answer of their sequence."""
    rows = np.flatnonzero(masked)
    hidden = tokens.copy()
    hidden.reshape(-1)[rows] = task.MASK
    return MaskedBatch(hidden, rows, tokens.reshape(-1)[rows], weights[rows // tokens.shape[1]])


def autoregressive(tokens: Tokens) -> MaskedBatch:
    """Each token from those before it; the first from the start symbol."""
    start = np.full((len(tokens), 1), task.START)
    inputs = np.concatenate([start, tokens], axis=1)
    width = inputs.shape[1]
    rows = np.arange(inputs.size).reshape(inputs.shape)[:, : width - 1].reshape(-1)
    return MaskedBatch(inputs, rows, tokens.reshape(-1), np.ones(tokens.size))


# Loss -----------------------------------------------------------------------------------------------------


def stack(batches: Sequence[MaskedBatch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One batch a member as tensors (members, ...): tokens, rows, targets, weights.

    Where members are asked at different numbers of rows, short ones repeat a row at weight zero.

    :raises ValueError: if a member is asked nothing
    """
    most = max(len(batch.rows) for batch in batches)
    if min(len(batch.rows) for batch in batches) == 0:
        raise ValueError("batch: not a single position is asked for; take a larger batch")

    def padded(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.repeat(values[:1], most - len(values))])

    weights = [np.concatenate([batch.weights, np.zeros(most - len(batch.rows))]) for batch in batches]
    return (
        torch.as_tensor(np.stack([batch.tokens for batch in batches])),
        torch.as_tensor(np.stack([padded(batch.rows) for batch in batches])),
        torch.as_tensor(np.stack([padded(batch.targets) for batch in batches])),
        torch.as_tensor(np.stack(weights)).float(),
    )


def losses(
    logits: Float[Tensor, "members rows clean"],
    targets: Int[Tensor, "members rows"],
    weights: Float[Tensor, "members rows"],
    batch: int,
) -> Float[Tensor, " members"]:
    """Weighted cross-entropy a sequence, in nats: one loss a member."""
    each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (each.view_as(weights) * weights).sum(1) / batch
