"""What a training step asks for: which tokens are hidden, which positions are asked, what each answer weighs.

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
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lib.one_layer import task
from lib.one_layer.model import Transformer
from lib.one_layer.task import Rng, StackedGenerators

OBJECTIVES = ("masked_diffusion", "fixed_rate", "autoregressive")
MASKING_SAMPLERS = ("stratified", "lambda_dce", "t_dce")
LOG_LINEAR_EPSILON = 1e-3  # log-linear noise stops this short of masking everything
RATE = 0.15

TokenArray = Int[np.ndarray, "batch length"]
Uniforms = Float[np.ndarray, " batch"]  # one a sequence


@dataclasses.dataclass(frozen=True)
class MaskedBatch:
    """One batch of questions: inputs, asked rows of the flattened batch, right answers, and their weights."""

    tokens: Int[np.ndarray, "batch positions"]
    rows: Int[np.ndarray, " rows"]  # in ascending order
    targets: Int[np.ndarray, " rows"]
    weights: Float[np.ndarray, " rows"]

    def steps(self, size: int) -> list[MaskedBatch]:
        """The batch cut into batches of ``size`` sequences."""
        reach = size * self.tokens.shape[1]
        starts = np.arange(reach, self.tokens.size, reach)
        parts = (np.split(part, np.searchsorted(self.rows, starts))
                 for part in (self.rows % reach, self.targets, self.weights))
        return [MaskedBatch(*each) for each in zip(np.split(self.tokens, len(starts) + 1), *parts, strict=True)]


def check_objective(objective: str, draws: str) -> None:
    """Refuse an unknown objective or way of drawing masks.

    :raises ValueError: for one of them that is unknown, naming the valid ones, or two that do not go together
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; one of {', '.join(OBJECTIVES)}")
    if draws not in MASKING_SAMPLERS:
        raise ValueError(f"unknown draws {draws!r}; one of {', '.join(MASKING_SAMPLERS)}")
    if objective != "masked_diffusion" and draws != "stratified":
        raise ValueError(f"draws {draws!r} belongs to masked_diffusion, not to {objective}")


def make_batch(
    objective: str, tokens: TokenArray, rng: Rng, uniforms: Uniforms, masking_sampler: str = "stratified"
) -> MaskedBatch:
    """One batch under an objective.

    :param uniforms: of `stratified_uniforms`; they set the numbers of masks where those are stratified
    :raises ValueError: see `check_objective`
    """
    check_objective(objective, masking_sampler)
    if objective == "autoregressive":
        return autoregressive(tokens)
    if objective == "fixed_rate":
        return fixed_rate(tokens, rng, uniforms)
    if masking_sampler == "stratified":
        return stratified(tokens, rng, uniforms)
    return (t_dce if masking_sampler == "t_dce" else lambda_dce)(tokens, rng)


def stratified_uniforms(count: int, rng: Rng, batches: int = 1) -> Float[np.ndarray, " batches_count"]:
    """Equally spaced numbers, shifted together: each is uniform on (0, 1), all of them are evenly spread.

    :param batches: that many times so, one after the other, each with a shift of its own
    """
    return ((np.arange(count) + rng.random((batches, 1))) / count).reshape(-1)


# Masked objectives ----------------------------------------------------------------------------------------


def t_dce(tokens: TokenArray, rng: Rng) -> MaskedBatch:
    """Denoising cross-entropy in time: weight sigma e^(-sigma_bar) / (1 - e^(-sigma_bar)) = 1/t."""
    # t uniform in (0, 1], one a sequence
    time = 1.0 - rng.random(len(tokens))
    # each token masked with probability (1 - epsilon) t
    masked = rng.random(tokens.shape) < (1 - LOG_LINEAR_EPSILON) * time[:, None]
    return mask_tokens(tokens, masked, 1 / time)


def lambda_dce(tokens: TokenArray, rng: Rng) -> MaskedBatch:
    """Denoising cross-entropy with the masking probability lambda in the place of time: weight 1/lambda."""
    # lambda uniform in (0, 1], one a sequence
    probability = 1.0 - rng.random(len(tokens))
    # each token masked with probability lambda
    masked = rng.random(tokens.shape) < probability[:, None]
    return mask_tokens(tokens, masked, 1 / probability)


def stratified(tokens: TokenArray, rng: Rng, uniforms: Uniforms) -> MaskedBatch:
    """Denoising cross-entropy with lambda integrated out: k masks, k spread evenly over 1..L, weight L/k."""
    length = tokens.shape[1]
    # k uniform on 1..L, and as evenly as the uniforms are
    counts = np.minimum((uniforms * length).astype(np.int64), length - 1) + 1
    # which k tokens
    return mask_tokens(tokens, random_subsets(counts, length, rng), length / counts)


def fixed_rate(tokens: TokenArray, rng: Rng, uniforms: Uniforms) -> MaskedBatch:
    """Each token masked with probability `RATE`; counts from even binomial quantiles, weight 1/RATE."""
    length = tokens.shape[1]
    counts = np.searchsorted(binomial_distribution(length), uniforms)
    return mask_tokens(tokens, random_subsets(counts, length, rng), np.full(len(tokens), 1 / RATE))


@functools.lru_cache
def binomial_distribution(length: int) -> Float[np.ndarray, " counts"]:
    """P(count <= k), k = 0..length, of the masks that `RATE` puts into a sequence."""
    each = [math.comb(length, count) * RATE**count * (1 - RATE) ** (length - count) for count in range(length + 1)]
    return np.cumsum(each).clip(max=1.0)


def random_subsets(counts: Int[np.ndarray, " batch"], length: int, rng: Rng) -> Bool[np.ndarray, "batch {length}"]:
    """For each row a subset of that many positions, all such subsets equally likely."""
    drawn = rng.random((len(counts), length))
    smallest = np.sort(drawn, axis=1).reshape(-1)  # masked are the counts[i] smallest of row i
    limit = smallest[np.arange(-1, len(smallest) - 1, length) + counts]
    limit[counts == 0] = -1.0
    return drawn <= limit[:, None]


def mask_tokens(
    tokens: TokenArray, masked: Bool[np.ndarray, "batch length"], weights: Float[np.ndarray, " batch"]
) -> MaskedBatch:
    """Mask and ask for the masked tokens; ``weights`` weigh every answer of their sequence."""
    rows = np.flatnonzero(masked)
    hidden = tokens.copy()
    hidden.reshape(-1)[rows] = task.MASK
    return MaskedBatch(hidden, rows, tokens.reshape(-1)[rows], weights[rows // tokens.shape[1]])


def autoregressive(tokens: TokenArray) -> MaskedBatch:
    """Each token from those before it; the first from the start symbol."""
    start = np.full((len(tokens), 1), task.START)
    inputs = np.concatenate([start, tokens], axis=1)
    width = inputs.shape[1]
    rows = np.arange(inputs.size).reshape(inputs.shape)[:, : width - 1].reshape(-1)
    return MaskedBatch(inputs, rows, tokens.reshape(-1), np.ones(tokens.size))


# Loss -----------------------------------------------------------------------------------------------------


def stack_batches(batches: Sequence[MaskedBatch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    """Weighted cross-entropy a sequence, in nats: one loss a member.

    :param batch: sequences in each member's batch
    """
    # -log p of every answer, then (1 / batch) sum of weight x -log p
    each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (each.view_as(weights) * weights).sum(1) / batch


# The expectation of a loss -----------------------------------------------------------------------------------------

PROBABILITIES, PER_TOKEN = 8, 16  # points of the grid: masking probabilities, and random numbers a token
GRID_QUANTILES = 1200  # of the number of masks, where counts are stratified; a multiple of every short length


class FixedDraws(StackedGenerators):
    """Hands out arrays made beforehand, in place of random ones."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = list(arrays)

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        return self.arrays.pop(0)


def every_batch(loss: str, spelled: str = "dD0") -> MaskedBatch:
    """What a sequence is asked under a loss, for every draw on an even grid, as one batch: nothing is left to chance.

    :param loss: an objective, or one of ``t_dce`` and ``lambda_dce``
    """
    length = len(spelled)
    copies = lambda count: np.tile(task.read(spelled).numpy(), (count, 1))
    if loss in ("t_dce", "lambda_dce"):  # a masking probability a sequence, a number a token
        rate, *each = _grid(_middles(PROBABILITIES), *[_middles(PER_TOKEN)] * length)
        fixed = FixedDraws(1 - rate, np.stack(each, 1))
        return make_batch("masked_diffusion", copies(len(rate)), fixed, rate, loss)
    orders = np.array(list(itertools.permutations(_middles(length))))
    # a number of masks, and an order of the tokens
    quantile, order = _grid(_middles(GRID_QUANTILES), np.arange(len(orders)))
    return make_batch(loss, copies(len(order)), FixedDraws(orders[order]), quantile)


def expected_loss(loss: str, model: Transformer, spelled: str = "dD0") -> float:
    """A loss of one model on one sequence, mean over all draws, nats."""
    asked = every_batch(loss, spelled)
    patterns, which = np.unique(asked.tokens, axis=0, return_inverse=True)
    with torch.no_grad():
        said = model(torch.as_tensor(patterns)).logits.log_softmax(-1).numpy()
    sequence, position = np.divmod(asked.rows, len(spelled))
    nats = -said[which.ravel()[sequence], position, asked.targets]
    return float((asked.weights * nats).sum() / len(asked.tokens))


def _middles(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _grid(*axes: np.ndarray) -> list[np.ndarray]:
    return [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
