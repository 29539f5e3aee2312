"""The expectation of a masked loss with nothing left to chance: every draw gone through once, on an even grid."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from lib.one_layer import objectives, task
from lib.one_layer.model import Transformer
from lib.one_layer.objectives import MaskedBatch
from lib.one_layer.task import StackedGenerators

PROBABILITIES, PER_TOKEN = 8, 16  # points of the grid: masking probabilities, and random numbers a token
QUANTILES = 1200  # of the number of masks, where counts are stratified; a multiple of every short length


class FixedDraws(StackedGenerators):
    """Hands out arrays made beforehand, in place of random ones."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = list(arrays)

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        return self.arrays.pop(0)


def every_draw(loss: str, spelled: str = "dD0") -> MaskedBatch:
    """What a sequence is asked under a loss, for every draw on an even grid, as one batch.

    :param loss: an objective, or one of ``t_dce`` and ``lambda_dce``
    """
    length = len(spelled)
    copies = lambda count: np.tile(task.read(spelled).numpy(), (count, 1))
    if loss in ("t_dce", "lambda_dce"):  # a masking probability a sequence, a number a token
        rate, *each = _grid(_middles(PROBABILITIES), *[_middles(PER_TOKEN)] * length)
        return objectives.ask("masked_diffusion", copies(len(rate)), FixedDraws(1 - rate, np.stack(each, 1)), rate, loss)
    orders = np.array(list(itertools.permutations(_middles(length))))
    # a number of masks, and an order of the tokens
    quantile, order = _grid(_middles(QUANTILES), np.arange(len(orders)))
    return objectives.ask(loss, copies(len(order)), FixedDraws(orders[order]), quantile)


def expected(loss: str, model: Transformer, spelled: str = "dD0") -> float:
    """A loss of one model on one sequence, mean over all draws, nats."""
    asked = every_draw(loss, spelled)
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
