"""The autoregressive side: two models of Zhu et al. (2024) in which training on A -> B leaves B -> A alone.

*Bilinear*: p(y | x) = softmax over y of u_x^T Theta u_y, with fixed token embeddings u. *Causal*: one layer
in effective weights, logits W sum_l alpha_l e_{x_l} over the tokens seen so far (Sec. 3 with a causal
mask).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, softmax

# Bilinear ---------------------------------------------------------------------------------------------------


def random_embeddings(vocabulary: int, dim: int, seed: int) -> Float[np.ndarray, "vocab dim"]:
    """Normal embeddings with variance 1 / dim: lengths near 1, overlaps of order 1 / sqrt(dim)."""
    return np.random.default_rng(seed).normal(size=(vocabulary, dim)) / dim**0.5


def bilinear_losses(
    embeddings: Float[np.ndarray, "vocab dim"], theta: Float[np.ndarray, "dim dim"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, " pairs"]:
    """-log p(y | x) of each pair (x, y)."""
    logits = embeddings[pairs[:, 0]] @ theta @ embeddings.T
    return -log_softmax(logits, axis=1)[np.arange(len(pairs)), pairs[:, 1]]


def bilinear_gradient(
    embeddings: Float[np.ndarray, "vocab dim"], theta: Float[np.ndarray, "dim dim"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, "dim dim"]:
    """Gradient of the summed loss: sum over pairs of u_x (sum_v (p(v | x) - 1[v = y]) u_v)^T."""
    inputs = embeddings[pairs[:, 0]]
    errors = softmax(inputs @ theta @ embeddings.T, axis=1)
    errors[np.arange(len(pairs)), pairs[:, 1]] -= 1
    return inputs.T @ errors @ embeddings


def train_bilinear(
    embeddings: Float[np.ndarray, "vocab dim"], pairs: Int[np.ndarray, "pairs 2"], eta: float, steps: int
) -> Float[np.ndarray, "steps dim dim"]:
    """Gradient descent from zero on the summed loss of all pairs; Theta at the start and after each step."""
    path = [np.zeros((embeddings.shape[1],) * 2)]
    for _ in range(steps):
        path.append(path[-1] - eta * bilinear_gradient(embeddings, path[-1], pairs))
    return np.stack(path)


# Causal -----------------------------------------------------------------------------------------------------


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


def prompt_losses(
    storage: Float[np.ndarray, "vocab tokens"],
    masses: Float[np.ndarray, "rows tokens"],
    targets: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, " rows"]:
    """-log p(target) of each prompt, given as attention masses; any one-layer model, causal or not."""
    return -log_softmax(masses @ storage.T, axis=1)[np.arange(len(targets)), targets]


def prompt_gradient(
    storage: Float[np.ndarray, "vocab tokens"],
    masses: Float[np.ndarray, "rows tokens"],
    targets: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, "vocab tokens"]:
    """Gradient of the summed loss in W: sum over prompts of error times mass, as in Prop. 4.1."""
    errors = softmax(masses @ storage.T, axis=1)
    errors[np.arange(len(targets)), targets] -= 1
    return errors.T @ masses


def next_tokens(
    sequences: Sequence[Sequence[int]], vocabulary: int
) -> tuple[Float[np.ndarray, "rows vocab"], Int[np.ndarray, " rows"]]:
    """Masses and targets of next-token training: every position but the last predicts its successor."""
    masses = [causal_masses(tokens, vocabulary)[:-1] for tokens in sequences]
    targets = [token for tokens in sequences for token in tokens[1:]]
    return np.concatenate(masses), np.array(targets)


def train_prompts(
    masses: Float[np.ndarray, "rows tokens"], targets: Int[np.ndarray, " rows"], vocabulary: int, eta: float, steps: int
) -> Float[np.ndarray, "steps vocab tokens"]:
    """Gradient descent on W from zero, summed loss, attention fixed; W at the start and after each step."""
    path = [np.zeros((vocabulary, masses.shape[1]))]
    for _ in range(steps):
        path.append(path[-1] - eta * prompt_gradient(path[-1], masses, targets))
    return np.stack(path)
