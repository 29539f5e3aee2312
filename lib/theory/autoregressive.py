"""The autoregressive side: two models of Zhu et al. (2024) in which training on A -> B leaves B -> A alone.

*Bilinear*: p(y | x) = softmax over y of u_x^T Theta u_y, with fixed token embeddings u. *Causal*: one layer in
effective weights, logits W sum_l alpha_l e_{x_l} over the tokens seen so far (Sec. 3 with a causal mask); it is
trained by `storage.descend` on the masses of `next_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from lib.theory.storage import descend, prompt_losses

# Bilinear -----------------------------------------------------------------------------------------------------


def random_embeddings(vocabulary: int, dim: int, seed: int) -> Float[np.ndarray, "vocab dim"]:
    """Normal embeddings with variance 1 / dim: lengths near 1, overlaps of order 1 / sqrt(dim)."""
    return np.random.default_rng(seed).normal(size=(vocabulary, dim)) / dim**0.5


def bilinear_losses(
    embeddings: Float[np.ndarray, "vocab dim"], theta: Float[np.ndarray, "dim dim"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, " pairs"]:
    """-log p(y | x) of each pair (x, y), in nats."""
    return prompt_losses(embeddings @ theta.T, embeddings[pairs[:, 0]], pairs[:, 1])


def train_bilinear(
    embeddings: Float[np.ndarray, "vocab dim"], pairs: Int[np.ndarray, "pairs 2"], eta: float, steps: int
) -> Float[np.ndarray, "times dim dim"]:
    """Gradient descent on Theta from zero on the summed loss of all pairs; Theta at the start and after each step.

    The logits of x are U Theta^T u_x, so this is descent on Theta^T with the embeddings U as fixed unembedding.
    """
    start = np.zeros((embeddings.shape[1],) * 2)
    path = descend(start, embeddings[pairs[:, 0]], pairs[:, 1], eta, steps, unembedding=embeddings)
    return path.swapaxes(1, 2)


# Causal -------------------------------------------------------------------------------------------------------


def causal_masses(
    tokens: Sequence[int], vocabulary: int, attention: Float[np.ndarray, "length length"] | None = None
) -> Float[np.ndarray, "length vocab"]:
    """Attention mass on each token at each position, which sees itself and what is left of it.

    :param attention: scores, row = position that looks; uniform where not given
    :raises ValueError: for a token outside the vocabulary
    """
    if not all(0 <= token < vocabulary for token in tokens):
        raise ValueError(f"tokens must lie between 0 and {vocabulary - 1}, not {list(tokens)}")
    scores = np.zeros((len(tokens), len(tokens))) if attention is None else attention
    weights = softmax(np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf), axis=1)
    return weights @ np.eye(vocabulary)[list(tokens)]


def next_tokens(
    sequences: Sequence[Sequence[int]], vocabulary: int
) -> tuple[Float[np.ndarray, "rows vocab"], Int[np.ndarray, " rows"]]:
    """Masses and targets of next-token training: every position but the last predicts its successor."""
    masses = [causal_masses(tokens, vocabulary)[:-1] for tokens in sequences]
    targets = [token for tokens in sequences for token in tokens[1:]]
    return np.concatenate(masses), np.array(targets)
