"""The one-layer model in effective coordinates, trained: storage W, one query q, keys K, and nothing else.

Every position that is predicted holds the mask, so there is one query, q = W_Q W_E e_M; K = W_K W_E holds
one key a token. Position acts through RoPE on the scores alone (Sec. 3). The gradients in q and K split by
the position that a score belongs to: the route through the evidence, and the rest (App. C.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.encodings import rope_frequencies
from lib.one_layer import task


def rotate_planes(x: Float[Tensor, "*lead dim"], angles: Float[Tensor, "*lead half"]) -> Float[Tensor, "*lead dim"]:
    """R x with one angle for each pair of neighbouring coordinates, counter-clockwise."""
    first, second = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos * first - sin * second, sin * first + cos * second), -1).flatten(-2)


@dataclasses.dataclass(frozen=True)
class Effective:
    """The parameters; ``storage`` has one row a clean token, one column a token."""

    storage: Float[Tensor, "vocab tokens"]  # W
    query: Float[Tensor, " dim"]  # q
    keys: Float[Tensor, "dim tokens"]  # K

    def angles(self, tokens: Tensor, position: Int[Tensor, " batch"]) -> Float[Tensor, "batch length half"]:
        """Angle of each plane for each key, offset = key position minus mask position."""
        offsets = torch.arange(tokens.shape[1]) - position[:, None]
        return offsets[..., None] * torch.as_tensor(rope_frequencies(len(self.query)), dtype=self.query.dtype)

    def attention(
        self, tokens: Int[Tensor, "batch length"], position: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch length"]:
        """Attention weights of the masked ``position`` of each row."""
        angles = self.angles(tokens, position)
        turned = rotate_planes(self.query.expand(*angles.shape[:2], -1), -angles)  # R^T q, one for each offset
        return (turned * self.keys.T[tokens]).sum(-1).softmax(-1)

    def mass(self, tokens: Int[Tensor, "batch length"], attention: Float[Tensor, "batch length"]
             ) -> Float[Tensor, "batch tokens"]:
        """Total attention on each token, a of App. C.1."""
        return attention.new_zeros(len(tokens), self.storage.shape[1]).scatter_add(1, tokens, attention)

    def logits(
        self, tokens: Int[Tensor, "batch length"], position: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch vocab"]:
        """Logits at the masked position of each row."""
        return self.mass(tokens, self.attention(tokens, position)) @ self.storage.T

    def evidence_weight(self, queries: task.Queries) -> Float[Tensor, " batch"]:
        """Attention weight on the evidence of each query."""
        return self.attention(queries.tokens, queries.position)[torch.arange(len(queries)), queries.evidence]


def initial(head_dim: int, seed: int) -> Effective:
    """Storage zero; query standard normal, keys normal with variance 1 / head_dim: scores of order 1."""
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(head_dim, generator=rng)
    keys = torch.randn(head_dim, task.TOKENS, generator=rng) / head_dim**0.5
    return Effective(torch.zeros(task.CLEAN, task.TOKENS), query, keys)


def train_effective_model(
    model: Effective, length: int, steps: int, seed: int, every: int, rate: float = 0.03, slower: float = 30.0,
    batch: int = 64,
) -> Iterator[Effective]:
    """Masked training on forward-only sequences of the letters task (Adam); yields the model every few steps.

    Each row masks at a rate of its own, drawn uniformly, and every masked token is asked for.

    :param rate: Adam's rate for the storage; query and keys learn ``slower`` times slower
    """
    storage, *routing = parameters = [tensor.clone().requires_grad_() for tensor in vars(model).values()]
    groups = [{"params": [storage], "lr": rate}, {"params": routing, "lr": rate / slower}]
    optimiser = torch.optim.Adam(groups)
    rng, numpy_rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for step in range(1, steps + 1):
        # a batch; each row masks its tokens at a rate of its own
        clean = torch.from_numpy(task.sequences(batch, length, numpy_rng)).long()
        masked = torch.rand(clean.shape, generator=rng) < torch.rand(batch, 1, generator=rng)
        # -log p of every masked token
        rows, position = masked.nonzero(as_tuple=True)
        seen = torch.where(masked, task.MASK, clean)[rows]
        logits = Effective(*parameters).logits(seen, position)
        loss = torch.nn.functional.cross_entropy(logits, clean[rows, position])
        # Adam
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0:
            yield Effective(*(tensor.detach().clone() for tensor in parameters))


@dataclasses.dataclass(frozen=True)
class GradientByRoute:
    """The gradient of each query's loss, split: storage as error and mass; q and K by route."""

    error: Float[Tensor, "batch vocab"]
    mass: Float[Tensor, "batch tokens"]
    query: Float[Tensor, "batch 2 dim"]  # route through the evidence, the rest
    keys: Float[Tensor, "batch 2 tokens dim"]

    @property
    def norm(self) -> Float[Tensor, " batch"]:
        """Norm of the whole gradient."""
        whole = (self.query.sum(1) ** 2).sum(-1) + (self.keys.sum(1) ** 2).sum((-2, -1))
        return ((self.error**2).sum(-1) * (self.mass**2).sum(-1) + whole).sqrt()


def gradient_by_route(model: Effective, queries: task.Queries) -> GradientByRoute:
    """Split the gradients of the given queries; closed forms of App. C.1."""
    tokens, rows = queries.tokens, torch.arange(len(queries))
    attention, angles = model.attention(tokens, queries.position), model.angles(tokens, queries.position)
    mass = model.mass(tokens, attention)
    error = (mass @ model.storage.T).softmax(-1)
    error[rows, queries.target] -= 1
    pull = (error @ model.storage).gather(1, tokens)  # h at each position
    sensitivity = attention * (pull - (attention * pull).sum(1, keepdim=True))  # dl/ds
    evidence = torch.arange(tokens.shape[1]) == queries.evidence[:, None]
    split = torch.stack((sensitivity * evidence, sensitivity * ~evidence), 1)  # (batch, 2, length)
    by_query = torch.einsum("brl,bld->brd", split, rotate_planes(model.keys.T[tokens], angles))
    directions = split[..., None] * rotate_planes(model.query.expand(*angles.shape[:2], -1), -angles)[:, None]
    where = tokens[:, None, :, None].expand(directions.shape)
    empty = directions.new_zeros(len(rows), 2, model.keys.shape[1], len(model.query))
    return GradientByRoute(error, mass, by_query, empty.scatter_add(2, where, directions))


def shares(forward: GradientByRoute, reverse: GradientByRoute) -> dict[str, Float[Tensor, " batch"]]:
    """Contributions to the cosine of the two gradients: ``storage``, ``evidence`` route, ``rest``. Their sum is it."""
    product = lambda one, other: (one * other).flatten(1).sum(1)
    norms = forward.norm * reverse.norm
    storage = product(forward.error, reverse.error) * product(forward.mass, reverse.mass)
    evidence = product(forward.query[:, 0], reverse.query[:, 0]) + product(forward.keys[:, 0], reverse.keys[:, 0])
    whole = product(forward.query.sum(1), reverse.query.sum(1)) + product(forward.keys.sum(1), reverse.keys.sum(1))
    return {"storage": storage / norms, "evidence": evidence / norms, "rest": (whole - evidence) / norms}


def mean_shares(model: Effective, forward: task.Queries, reverse: task.Queries) -> dict[str, float]:
    """Mean over pairs of queries of `shares`."""
    found = shares(gradient_by_route(model, forward), gradient_by_route(model, reverse))
    return {name: float(share.mean()) for name, share in found.items()}
