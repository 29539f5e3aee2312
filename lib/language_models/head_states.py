"""Queries and keys of every layer and head before their rotation, read from real text, and controls made of them.

A head scores evidence at position j from position i by s_ij = q^T R(j - i) k. Keys are contextual: in a causal model
they have seen what precedes them, in a masked one both sides. The first token of a text, on which trained models park
attention, counts neither as query nor as evidence.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.language_models.signatures import evaluating


@dataclasses.dataclass(frozen=True)
class HeadStates:
    """Queries and keys before their rotation, in the theory's order: plane i has coordinates (2 i, 2 i + 1)."""

    queries: Float[np.ndarray, "layer head token dim"]
    keys: Float[np.ndarray, "layer key_head token dim"]  # each serves head / key_head query heads in a row
    text: Int[np.ndarray, " token"]  # which text a token stands in
    base: float  # theta_i = base^(-2 i / dim)

    def __post_init__(self) -> None:
        if self.queries.shape[1] % self.keys.shape[1]:
            raise ValueError(f"{self.queries.shape[1]} query heads cannot share {self.keys.shape[1]} key heads evenly")

    def shared(self, layer: int, key_head: int) -> Float[np.ndarray, "sharing token dim"]:
        """The queries of all heads that share this key head, in float64."""
        sharing = self.queries.shape[1] // self.keys.shape[1]
        return self.queries[layer, key_head * sharing : (key_head + 1) * sharing].astype(float)


@torch.no_grad()
def head_states(model: Any, tokenizer: Any, texts: Sequence[str]) -> HeadStates:
    """Queries and keys of every token but the first, in every layer and head, one pass a text.

    :param model: a Llama, or another with plain rotary attention and linear maps for queries and keys
    :param tokenizer: puts a start token before a text, if the model is used to one
    :raises ValueError: for no text, a text of one token, or a model that treats queries or keys in another way
    """
    if not texts:
        raise ValueError("texts: at least one is needed")
    attentions, device = _plain_attentions(model), next(model.parameters()).device
    rows = [tokenizer(text, return_tensors="pt").input_ids.to(device) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if row.shape[1] < 2:
            raise ValueError(f"texts: {text!r} has {row.shape[1]} tokens, at least 2 are needed")
    found: dict[str, list[list[Tensor]]] = {name: [[] for _ in attentions] for name in ("q_proj", "k_proj")}
    listeners = [getattr(attention, name).register_forward_hook(_listener(kept[layer]))
                 for name, kept in found.items() for layer, attention in enumerate(attentions)]
    try:
        with evaluating(model):
            for row in rows:
                model.model(input_ids=row)
    finally:
        for listener in listeners:
            listener.remove()
    read = [np.stack([_by_planes(torch.cat(layer), attentions[0].head_dim) for layer in kept])
            for kept in found.values()]
    places = np.repeat(np.arange(len(rows)), [row.shape[1] - 1 for row in rows])
    return HeadStates(read[0], read[1], places, float(model.config.rope_parameters["rope_theta"]))


def _listener(kept: list[Tensor]) -> Any:
    return lambda module, given, made: kept.append(made[0, 1:].float().cpu())


def _by_planes(states: Float[Tensor, "token width"], dim: int) -> Float[np.ndarray, "head token dim"]:
    """Coordinates i and i + dim/2, which turn together in transformers' models, side by side."""
    split = states.unflatten(1, (-1, 2, dim // 2))  # token, head, part, plane
    return split.permute(1, 0, 3, 2).flatten(2).contiguous().numpy()


def _plain_attentions(model: Any) -> list[Any]:
    """The attention of each layer, after a look at whether query and key are what their linear maps give."""
    layers = getattr(getattr(model, "model", None), "layers", [])
    attentions = [getattr(layer, "self_attn", None) for layer in layers]
    rope = getattr(getattr(model, "config", None), "rope_parameters", None) or {}
    if not attentions or not all(hasattr(a, "q_proj") and hasattr(a, "k_proj") for a in attentions):
        raise ValueError("model: every layer needs linear maps q_proj and k_proj, as a Llama has")
    if any(hasattr(a, "q_norm") for a in attentions):
        raise ValueError("model: its queries are normalised after the linear map, so that is not the query rotated")
    if rope.get("rope_type") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"model: its rotation is not plain RoPE over the whole head: {dict(rope)}")
    return attentions


# Controls -----------------------------------------------------------------------------------------------------


def exchanged_planes(states: HeadStates, seed: int = 0) -> HeadStates:
    """Planes given to other frequencies at random, alike in queries and keys; one permutation a key head.

    Content scores q . k, traces, alignments and what planes share stay; which plane turns how fast does not.
    """
    rng, dim = np.random.default_rng(seed), states.keys.shape[-1]
    return _turned(states, lambda: np.eye(dim)[:, (2 * rng.permutation(dim // 2)[:, None] + [0, 1]).ravel()])


def rotated_heads(states: HeadStates, seed: int = 0) -> HeadStates:
    """Queries and keys in a random orthonormal basis of their head, alike; one basis a key head.

    Content scores q . k stay; planes are mixed.
    """
    rng, dim = np.random.default_rng(seed), states.keys.shape[-1]

    def basis() -> np.ndarray:
        orthogonal, triangle = np.linalg.qr(rng.normal(size=(dim, dim)))
        return np.asarray(orthogonal * np.sign(np.diag(triangle)))

    return _turned(states, basis)


def _turned(states: HeadStates, matrix: Any) -> HeadStates:
    """Queries and keys of each key head times a matrix of its own."""
    queries, keys = np.empty_like(states.queries, dtype=float), np.empty_like(states.keys, dtype=float)
    sharing = queries.shape[1] // keys.shape[1]
    for layer in range(keys.shape[0]):
        for head in range(keys.shape[1]):
            turn, same = matrix(), slice(head * sharing, (head + 1) * sharing)
            queries[layer, same] = states.queries[layer, same] @ turn
            keys[layer, head] = states.keys[layer, head] @ turn
    return dataclasses.replace(states, queries=queries, keys=keys)


def isotropic_keys(states: HeadStates, seed: int = 0) -> HeadStates:
    """The model's queries, but as many independent standard normal keys: Assumption 4.2 with kappa = 0."""
    return dataclasses.replace(states, keys=np.random.default_rng(seed).normal(size=states.keys.shape))


def untrained(model: Any, seed: int = 0) -> Any:
    """A model of the same class and configuration with fresh random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(copy.deepcopy(model.config)).eval()
