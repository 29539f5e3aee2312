"""What a masked model of depth 1 computes of its vocabulary alone, for all members at once, and its gradient.

Queries are asked only at masks, so they are one vector a position; keys and values belong to a token (and, where
positions are added, to a position) and not to a sequence. Three tables hold all that the rows of a batch look up:
scores, stored values, and the residual stream of a mask. Under a relative encoding a score is a function of offset and
token: q^T R(o) k = (R(-o) q)^T k, and W_K acts on the few turned queries instead of on the keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.encodings import encoding
from lib.one_layer.fast.kernels import NORM_EPSILON, NormPass, TorchAndNumpy
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import MASK, TOKENS

Weights = dict[str, Tensor]
BLOCK, ATTENTION = "blocks.0", "blocks.0.attention"
layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
#: the weights that act through the tables
THROUGH = ("embedding", "position", f"{BLOCK}.norm1", f"{ATTENTION}.")


class Tables(NamedTuple):
    """The three tables, or the gradients in them; for one member without the axis over members.

    ``scores`` run over offsets 1 - L, ..., L - 1, then tokens; under an absolute encoding over the mask's position,
    then tokens, then the key's position. ``places`` is L where position enters, else 1.
    """

    scores: Float[Tensor, "*members heads entries"]
    stored: Float[Tensor, "*members heads tokens places width"]  # W_O W_V applied
    stream: Float[Tensor, "*members places width"]


class EnsembleTables:
    """The tables of an ensemble's weights.

    Inside, tokens and places are one axis, *entries*, where places run fastest; so are members and heads, *matrices*.

    :param weights: by name, each with a leading axis over members
    """

    def __init__(self, settings: ModelConfig, weights: dict[str, Tensor]) -> None:
        self.settings, self.weights, self.heads = settings, weights, settings.heads
        self.encoding = encoding(settings.encoding, settings.positions, settings.width, settings.heads)
        self.scale = 1 / math.sqrt(settings.width // settings.heads)

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream that each token (and position) starts with, and what queries and keys, and what values
        see of it: (members, tokens, places, width) each."""
        self._read()
        x, seen, kept = (part.unflatten(1, (TOKENS, -1)) for part in (self.x, self.seen.out, self.kept.out))
        return x, seen, kept

    def _read(self) -> None:
        self.x = self._placed(self.encoding.position_embedding(self.weights.get("position")))
        self.seen = self.kept = self._norm(self.x)
        if self.settings.values != "natural":
            self.kept = self._norm(self._placed(self.weights.get(f"{ATTENTION}.value_position")))
        places = self.x.shape[1] // TOKENS
        self.masks = slice(MASK * places, (MASK + 1) * places)
        self.asking = self.seen.out[:, self.masks]

    def _placed(self, added: Float[Tensor, "*members places width"] | None) -> Float[Tensor, "members entries width"]:
        """The embedding of every token with what each place adds to it."""
        embedding = self.weights["embedding"]
        if added is None:
            return embedding
        return (embedding[:, :, None] + (added if added.dim() == 2 else added[:, None])).flatten(1, 2)

    def forward(self) -> Tables:
        """All tables; keeps what `backward` needs."""
        self._read()
        return Tables(self._scores(), self._stored(), self.x[:, self.masks])

    def backward(self, g: Tables, out: dict[str, Tensor]) -> None:
        """Fill ``out``, by name, with the gradient in every weight of `THROUGH`, given the gradients in the tables."""
        g_seen = self._scores_backward(g.scores, out)
        if self.kept is self.seen:
            self._stored_backward(g.stored, g_seen, out)
        g_x = self._norm_backward(g_seen, self.seen, out)
        g_x[:, self.masks].add_(g.stream)
        if g_x.shape[1] == TOKENS:
            out["embedding"].copy_(g_x)
        else:
            g_x = g_x.unflatten(1, (TOKENS, -1))
            torch.sum(g_x, 2, out=out["embedding"])
            if "position" in self.weights:
                torch.sum(g_x, 1, out=out["position"])
        if self.kept is not self.seen:
            self._kept_backward(g.stored, out)

    def _kept_backward(self, g_stored: Tensor, out: dict[str, Tensor]) -> None:
        """What of the gradient goes through the values, where they see another stream than queries and keys."""
        g_kept = self._stored_backward(g_stored, torch.zeros_like(self.kept.out), out)
        g_x = self._norm_backward(g_kept, self.kept, out, more=True).unflatten(1, (TOKENS, -1))
        out["embedding"] += g_x.sum(2)
        if self.settings.values == "laden":
            torch.sum(g_x, 1, out=out[f"{ATTENTION}.value_position"])

    # Scores -------------------------------------------------------------------------------------------------

    def query(self) -> Float[Tensor, "matrices places head_dim"]:
        """The mask's query, before the encoding turns it; one a position only under an absolute encoding. After
        `read`."""
        return self._split(torch.bmm(self.asking, self.weights[f"{ATTENTION}.query.weight"].mT))

    def _scores(self) -> Tensor:
        query, members = self.query() * self.scale, len(self.x)
        self.met = query if self.settings.absolute else self.encoding.relative_queries(query)
        asked = torch.bmm(self.met, self._key())  # W_K applied to queries
        self.asked = asked.view(members, -1, asked.shape[2])  # (members, heads * offsets or places, width)
        table = torch.bmm(self.asked, self.seen.out.mT)
        bias = None if self.settings.absolute else self.encoding.score_bias_by_offset(self.weights.get("position"))
        if bias is not None:
            table = table.view(members, *bias.shape[-2:], -1) + bias[..., None]
        return table.view(members, self.heads, -1)

    def _scores_backward(self, g_scores: Tensor, out: dict[str, Tensor]) -> Tensor:
        """Gradient in what queries and keys see."""
        g_table = g_scores.view(len(self.x), self.asked.shape[1], -1)
        if not self.settings.absolute and "position" in self.weights:
            g_bias = g_table.sum(-1).view(len(g_table), self.heads, -1)
            out["position"].copy_(self.encoding.score_bias_backward(g_bias))
        g_seen = torch.bmm(g_table.mT, self.asked)
        g_asked = torch.bmm(g_table, self.seen.out).view(*self.met.shape[:2], -1)
        self._fill(out[f"{ATTENTION}.key.weight"], self.met.mT, g_asked, lambda g: g.view(len(self.x), -1, g.shape[2]))
        g_met = torch.bmm(g_asked, self._key().mT)
        g_met = g_met if self.settings.absolute else self.encoding.relative_queries_backward(g_met)
        g_query = self._joined(g_met)
        out[f"{ATTENTION}.query.weight"].baddbmm_(g_query.mT, self.asking, beta=0, alpha=self.scale)
        g_seen[:, self.masks].baddbmm_(g_query, self.weights[f"{ATTENTION}.query.weight"], alpha=self.scale)
        return g_seen

    def _key(self) -> Float[Tensor, "matrices head_dim width"]:
        """W_K's rows for each head."""
        weight = self.weights[f"{ATTENTION}.key.weight"]
        return weight if self.heads == 1 else weight.reshape(len(weight) * self.heads, -1, weight.shape[2])

    # Stored values ------------------------------------------------------------------------------------------

    def _stored(self) -> Tensor:
        self.values = self._split(torch.bmm(self.kept.out, self.weights[f"{ATTENTION}.value.weight"].mT))
        stored = torch.bmm(self.values, self._output().mT)
        return stored.view(len(self.x), self.heads, TOKENS, -1, stored.shape[2])

    def _stored_backward(self, g_stored: Tensor, g_kept: Tensor, out: dict[str, Tensor]) -> Tensor:
        """Adds to the gradient in what values see."""
        g_stored = g_stored.view(*self.values.shape[:2], -1)
        self._fill(out[f"{ATTENTION}.output.weight"], g_stored.mT, self.values, self._joined)
        g_values = self._joined(torch.bmm(g_stored, self._output()))
        torch.bmm(g_values.mT, self.kept.out, out=out[f"{ATTENTION}.value.weight"])
        return g_kept.baddbmm_(g_values, self.weights[f"{ATTENTION}.value.weight"])

    def _output(self) -> Float[Tensor, "matrices width head_dim"]:
        """W_O's columns for each head."""
        return self._split(self.weights[f"{ATTENTION}.output.weight"])

    def _split(self, x: Float[Tensor, "members rows width"]) -> Float[Tensor, "matrices rows head_dim"]:
        if self.heads == 1:
            return x
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2).flatten(0, 1)

    def _joined(self, x: Float[Tensor, "matrices rows head_dim"]) -> Float[Tensor, "members rows width"]:
        if self.heads == 1:
            return x
        return x.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)

    def _fill(self, out: Tensor, left: Tensor, right: Tensor, arranged: Callable[[Tensor], Tensor]) -> None:
        """``out`` = the product for every head, arranged as the weight is."""
        if self.heads == 1:
            torch.bmm(left, right, out=out)
        else:
            out.copy_(arranged(torch.bmm(left, right)))

    # The first norm -----------------------------------------------------------------------------------------

    def _norm(self, x: Tensor) -> _Normed:
        if not self.settings.norm:
            return _Normed(x, x, x, None, ())
        weight = self.weights[f"{BLOCK}.norm1.weight"]
        own = weight[0] if len(weight) == 1 else None  # layer norm takes one weight, not one a member
        unit, *statistics = torch.native_layer_norm(x, x.shape[-1:], own, None, NORM_EPSILON)
        return _Normed(unit if own is not None else unit * weight[:, None], x, unit, own, tuple(statistics))

    def _norm_backward(self, g: Tensor, normed: _Normed, out: dict[str, Tensor], more: bool = False) -> Tensor:
        """Gradient in what was normed; writes that in the norm's weight, or adds ``more``."""
        if not self.settings.norm:
            return g
        name, own = f"{BLOCK}.norm1.weight", normed.own
        g_unit = g if own is not None else g * self.weights[name][:, None]
        g_x, g_own, _ = layer_norm_backward(
            g_unit, normed.x, g.shape[-1:], *normed.statistics, own, None, [True, own is not None, False])
        g_weight = g_own if own is not None else (g * normed.unit).sum(1)
        out[name].add_(g_weight) if more else out[name].copy_(g_weight)
        return g_x


class _Normed(NamedTuple):
    """A normed tensor and what its gradient needs."""

    out: Tensor
    x: Tensor
    unit: Tensor  # before the norm's weight; where there is an own one, after it
    own: Tensor | None  # a single member's weight
    statistics: tuple[Tensor, ...]


# One head, one member at a time --------------------------------------------------------------------------------


def one_head_suffices(settings: ModelConfig, weights: Weights) -> bool:
    """Whether these settings are the common case."""
    return (settings.heads == 1 and settings.norm and settings.values == "natural" and not settings.absolute
            and "position" not in weights)


class OneHeadTables:
    """The tables of one member, and their gradient. The weights may change in place.

    :param weights: by name
    :param g: of the same names, filled with the gradient in each that acts through the tables
    """

    def __init__(self, settings: ModelConfig, weights: Weights, g: Weights) -> None:
        width, offsets = settings.width, 2 * settings.length - 1
        self.encoding = encoding(settings.encoding, settings.positions, width, 1)
        bias = self.encoding.score_bias_by_offset(None)
        self.bias = None if bias is None else bias.view(-1, 1)
        self.scale = 1 / math.sqrt(width)
        names = [f"{ATTENTION}.{name}.weight" for name in ("query", "key", "value", "output")]
        self.query, self.key, self.value, self.output = (weights[name] for name in names)
        self.g_query, self.g_key, self.g_value, self.g_output = (g[name] for name in names)
        self.embedding, self.g_embedding = (TorchAndNumpy.from_tensor(part["embedding"]) for part in (weights, g))
        self.norm = NormPass(weights[f"{BLOCK}.norm1.weight"], g[f"{BLOCK}.norm1.weight"])
        self.seen, self.g_seen = (TorchAndNumpy.from_tensor(torch.empty(TOKENS, width)) for _ in "sg")
        self.values, self.g_values, self.stored = (torch.empty(TOKENS, width) for _ in range(3))
        self.asked, self.g_asked, self.g_met = (torch.empty(offsets, width) for _ in range(3))
        self.scores = torch.empty(offsets, TOKENS)
        self.masks = slice(MASK, MASK + 1)
        self.tables = Tables(self.scores.view(1, -1), self.stored.view(1, TOKENS, 1, width),
                             self.embedding.tensor[self.masks])

    def forward(self) -> Tables:
        """The tables; keeps what `backward` needs."""
        seen = self.norm.forward(self.embedding, self.seen).tensor
        asking = torch.mm(seen[self.masks], self.query.T).mul_(self.scale)
        self.met = self.encoding.relative_queries(asking[None])[0]
        torch.mm(self.met, self.key, out=self.asked)  # W_K applied to queries
        torch.mm(self.asked, seen.T, out=self.scores)
        if self.bias is not None:
            self.scores.add_(self.bias)
        torch.mm(seen, self.value.T, out=self.values)
        torch.mm(self.values, self.output.T, out=self.stored)
        return self.tables

    def backward(self, g: Tables) -> None:
        """Fill the gradient in every weight that acts through the tables, given the gradients in them."""
        seen, g_seen = self.seen.tensor, self.g_seen.tensor
        g_scores, g_stored = g.scores.view(self.scores.shape), g.stored.view(self.stored.shape)
        torch.mm(g_scores.T, self.asked, out=g_seen)
        torch.mm(g_scores, seen, out=self.g_asked)
        torch.mm(self.met.T, self.g_asked, out=self.g_key)
        torch.mm(self.g_asked, self.key.T, out=self.g_met)
        g_asking = self.encoding.relative_queries_backward(self.g_met[None])[0].mul_(self.scale)
        torch.mm(g_asking.T, seen[self.masks], out=self.g_query)
        g_seen[self.masks].addmm_(g_asking, self.query)
        torch.mm(g_stored.T, self.values, out=self.g_output)
        torch.mm(g_stored, self.output, out=self.g_values)
        torch.mm(self.g_values.T, seen, out=self.g_value)
        g_seen.addmm_(self.g_values, self.value)
        self.g_embedding.tensor.zero_()[self.masks] = g.stream
        self.norm.backward(self.g_seen, self.g_embedding, np.empty(seen.shape[1], np.float32))
