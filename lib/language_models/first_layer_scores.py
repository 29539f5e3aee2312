"""Theorem 4.3 in the first layer of a language model, where the mask's query is one vector whatever the prompt.

Measured: the correlation, over many evidence tokens, of the first layer's scores with the evidence ``distance``
positions to the right and as far to the left of the mask. Predicted: sum_i w_i cos(2 Delta theta_i), exact for
isotropic keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.encodings import rope_frequencies
from lib.language_models import attention_scores, signatures


def first_layer_correlation(
    model: Any, mask: int, distance: int, evidence: Sequence[int], filler: int
) -> Float[np.ndarray, " head"]:
    """Correlation, over evidence tokens, of the first layer's scores ``distance`` to the right and to the left."""
    found = []
    for mask_at, evidence_at in ((0, distance), (distance, 0)):
        tokens = torch.full((len(evidence), distance + 1), filler)
        tokens[:, mask_at], tokens[:, evidence_at] = mask, torch.tensor(evidence)
        with _first_layer_only(model.model) as shallow:
            parts = [attention_scores.scores_and_weights(shallow, part.to(model.device), [mask_at], [evidence_at])
                     for part in tokens.split(64)]
        found.append(torch.cat([part.scores[:, 0, :, 0, 0] for part in parts]).numpy())
    return np.array([signatures.score_correlation(f, r) for f, r in zip(found[0].T, found[1].T, strict=True)])


@contextlib.contextmanager
def _first_layer_only(stack: Any) -> Iterator[Any]:
    """The stack of layers, for the moment with its first one alone."""
    layers = stack.layers
    stack.layers = layers[:1]
    try:
        yield stack
    finally:
        stack.layers = layers


@torch.no_grad()
def first_layer_prediction(model: Any, mask: int, distance: int | float) -> Float[np.ndarray, " head"]:
    """Sum_i w_i cos(2 Delta theta_i) of Thm 4.3, with w_i from the mask's own query: exact for isotropic keys.

    In the first layer the mask's query is one vector q whatever the prompt, and w_i = |q_i|^2 / |q|^2.
    """
    layer, config = model.model.layers[0], model.config
    hidden = layer.input_layernorm(model.model.embed_tokens(torch.tensor([mask], device=model.device)))
    q = layer.self_attn.q_proj(hidden)[0].double().cpu().view(config.num_attention_heads, 2, -1)
    energy = (q**2).sum(1)  # (head, plane): coordinates i and i + d/2 turn together
    theta = rope_frequencies(2 * energy.shape[1], config.rope_parameters["rope_theta"])
    turned: Tensor = energy @ torch.tensor(np.cos(2 * distance * theta)) / energy.sum(1)
    return turned.numpy()


def first_layer(
    model: Any, mask: int, distances: Sequence[int], *, evidence: int = 500
) -> Float[np.ndarray, "distance 2 head"]:
    """Measured and predicted correlation at each distance (positions), over evenly chosen evidence tokens."""
    tokens = np.linspace(0, mask - 1, evidence).astype(int).tolist()
    return np.array([[first_layer_correlation(model, mask, distance, tokens, filler=10),
                      first_layer_prediction(model, mask, distance)] for distance in distances])


def first_layer_agrees(found: Float[np.ndarray, "*model distance 2 head"], *, turning: bool = True) -> bool:
    """Whether the root mean square of measured minus predicted correlation is below 0.1.

    :param turning: False is the control: keys that do not turn, for which 1 is predicted
    """
    measured, predicted = np.moveaxis(found, -2, 0)
    return bool(np.sqrt(np.mean((measured - (predicted if turning else 1.0)) ** 2)) < 0.1)
