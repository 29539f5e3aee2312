"""The logits of a one-layer model without MLP, written out as sums over what the mask attends to (Sec. 3).

The mask at position i gives token t at position j the score s; attention weights are the softmax of the scores; each
token adds its weight times its stored value to the mask's own embedding; the last norm divides the sum by its size, and
the unembedding reads the logits off. So each token's *contribution* to a logit is its weight times a number that
depends on the token alone, over the size of the whole. `TokenAccount` holds these numbers, few enough for a page.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer import metrics, task
from lib.one_layer.model import ModelConfig, Norm, Transformer

NORM_EPSILON = 1e-5  # what a layer norm adds to the variance


@dataclasses.dataclass(frozen=True)
class TokenAccount:
    """The numbers; sources are the capitals of the facts, the placeholder, the mask, and the mask's own embedding."""

    scores: Float[np.ndarray, "tokens mask position"]  # of the capitals and, last, the placeholder
    own: Float[np.ndarray, " mask"]  # score of the mask upon itself
    readout: Float[np.ndarray, "clean sources"]  # logit of each source before the last norm divides
    gram: Float[np.ndarray, "sources sources"]  # what the variance of the sum is made of
    bias: Float[np.ndarray, " clean"]

    @property
    def letters(self) -> int:
        """How many facts it covers, the first of the alphabet."""
        return len(self.scores) - 1

    def answer(self, letter: int, mask: int, evidence: int) -> Answer:
        """What the model makes of one query, placeholders elsewhere.

        :param mask: position of the mask, ``evidence``: of the capital; both from 0
        :raises ValueError: if they share a position
        """
        if mask == evidence:
            raise ValueError(f"mask and evidence share position {mask}: a query shows the evidence beside the mask")
        score = self.scores[-1, mask].copy()
        score[evidence], score[mask] = self.scores[letter, mask, evidence], self.own[mask]
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        source = np.full(len(score), self.letters)  # which source stands at each position
        source[evidence], source[mask] = letter, self.letters + 1
        total = np.append(np.bincount(source, weight, self.letters + 2), 1.0)
        size = float(np.sqrt(total @ self.gram @ total + NORM_EPSILON))
        difference = (self.readout[letter] - self.readout[task.PLACEHOLDER]) / size
        logits = self.readout @ total / size + self.bias
        return Answer(score, weight, weight * difference[source],
                      float(difference[-1] + self.bias[letter] - self.bias[task.PLACEHOLDER]), logits)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One query taken apart."""

    scores: Float[np.ndarray, " length"]
    weights: Float[np.ndarray, " length"]  # attention weights of the mask
    contributions: Float[np.ndarray, " length"]  # to the logit difference letter - placeholder
    rest: float  # the contribution of the mask's own embedding and of the bias
    logits: Float[np.ndarray, " clean"]

    @property
    def probabilities(self) -> Float[np.ndarray, " clean"]:
        """Of every clean token."""
        shifted = np.exp(self.logits - self.logits.max())
        return np.asarray(shifted / shifted.sum())


@torch.no_grad()
def token_account(model: Transformer, letters: int = task.LETTERS) -> TokenAccount:
    """The account of a trained model, in double precision.

    :param letters: how many facts, the first of the alphabet
    :raises ValueError: for a model whose logits are not such sums
    """
    _check(model.settings)
    exact = copy.deepcopy(model).double()
    table, places = metrics.score_table(exact)[0], torch.arange(model.settings.length)  # (mask, tokens, position)
    tokens = [*range(task.LETTERS, task.LETTERS + letters), task.PLACEHOLDER]
    attention, norm = exact.layers[0].attention, exact.norm
    assert isinstance(norm, Norm)
    stored = attention.output(attention.value(exact.layers[0].norm1(exact.embedding[[*tokens, task.MASK]])))
    sources = torch.cat([stored, exact.embedding[None, task.MASK]])
    centred = sources - sources.mean(-1, keepdim=True)
    numbers = (table[:, tokens].transpose(0, 1), table[places, task.PLACEHOLDER, places],
               exact.head.weight @ (norm.weight * centred).T, centred @ centred.T / centred.shape[-1], exact.head.bias)
    return TokenAccount(*map(_plain, numbers))


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _check(settings: ModelConfig) -> None:
    simple = settings.norm and not settings.mlp and settings.depth == settings.heads == 1
    if not simple or settings.causal or settings.absolute or settings.values != "natural":
        raise ValueError("a token account needs causal=False, depth=1, heads=1, mlp=False, norm=True, a relative "
                         "encoding and its natural values")
