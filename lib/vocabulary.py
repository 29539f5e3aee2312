"""What a masked model of depth 1 computes of its vocabulary alone, for all members at once, and its gradient.

Queries are asked only at masks, so they are one vector a position; keys and values belong to a token (and, where
positions are added, to a position) and not to a sequence. Three tables hold all that the rows of a batch look up:
scores, stored values, and the residual stream of a mask. Under a relative encoding a score is a function of offset and
token: q^T R(o) k = (R(-o) q)^T k, and W_K acts on the few turned queries instead of on the keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lib.encodings import encoding
from lib.kernels import TINY
from lib.letters import MASK
from lib.transformer import Settings

BLOCK, ATTENTION = "blocks.0", "blocks.0.attention"
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


class Vocabulary:
    """The tables of an ensemble's weights.

    :param weights: by name, each with a leading axis over members
    """

    def __init__(self, settings: Settings, weights: dict[str, Tensor]) -> None:
        self.settings, self.weights, self.heads = settings, weights, settings.heads
        self.encoding = encoding(settings.encoding, settings.positions, settings.width, settings.heads)
        self.scale = 1 / math.sqrt(settings.width // settings.heads)

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream that each token (and position) starts with, and what queries and keys, and what values
        see of it: (members, tokens, places, width) each."""
        embedded = self.weights["embedding"][:, :, None]
        added = self.encoding.added(self.weights.get("position"))
        x = embedded if added is None else embedded + (added if added.dim() == 2 else added[:, None])
        self.x, self.seen = x, self._norm(x)
        kind = self.settings.values
        if kind == "natural":
            self.kept = self.seen
        else:
            laden = self.weights[f"{ATTENTION}.value_position"][:, None] if kind == "laden" else 0.0
            self.kept = self._norm(embedded + laden)
        return x, self.seen.out, self.kept.out

    def forward(self) -> Tables:
        """All tables; keeps what `backward` needs."""
        self.read()
        return Tables(self._scores(), self._stored(), self.x[:, MASK])

    def backward(self, g: Tables) -> dict[str, Tensor]:
        """Gradient in every weight of `THROUGH`, by name, given the gradients in the tables."""
        found: dict[str, Tensor] = {}
        g_seen = self._scores_backward(g.scores, found)
        g_kept = self._stored_backward(g.stored, found)
        if self.kept is self.seen:
            g_seen += g_kept
            g_embedding: Tensor | float = 0.0
        else:
            g_x = self._norm_backward(g_kept, self.kept, found)
            g_embedding = g_x.sum(2)
            if self.settings.values == "laden":
                found[f"{ATTENTION}.value_position"] = g_x.sum(1)
        g_x = self._norm_backward(g_seen, self.seen, found)
        g_x[:, MASK] += g.stream
        found["embedding"] = g_x.sum(2) + g_embedding
        if self.settings.absolute and "position" in self.weights:
            found["position"] = g_x.sum(1)
        return found

    # Scores -------------------------------------------------------------------------------------------------

    def query(self) -> Float[Tensor, "members heads places head_dim"]:
        """The mask's query, before the encoding turns it; one a position only under an absolute encoding. After
        `read`."""
        return self._split(torch.bmm(self.seen.out[:, MASK], self.weights[f"{ATTENTION}.query.weight"].mT))

    def _scores(self) -> Tensor:
        query = self.query() * self.scale
        self.met = query if self.settings.absolute else self.encoding.met(query)
        asked = torch.bmm(self.met.flatten(0, 1), self._by_head("key"))  # W_K applied to queries
        self.asked = asked.view(len(query), -1, asked.shape[2])  # (members, heads * offsets or places, width)
        table = torch.bmm(self.asked, self.seen.out.flatten(1, 2).mT).view(*self.met.shape[:3], -1)
        bias = None if self.settings.absolute else self.encoding.bias_by_offset(self.weights.get("position"))
        return (table if bias is None else table.add_(bias[..., None])).flatten(2)

    def _scores_backward(self, g_scores: Tensor, found: dict[str, Tensor]) -> Tensor:
        members, heads, rows, _ = self.met.shape
        g_table = g_scores.view(members, heads, rows, -1)
        if not self.settings.absolute and "position" in self.weights:
            found["position"] = self.encoding.bias_backward(g_table.sum(-1))
        g_table = g_table.flatten(1, 2)
        g_seen = torch.bmm(g_table.mT, self.asked).view(self.x.shape)
        g_asked = torch.bmm(g_table, self.seen.out.flatten(1, 2)).view(members * heads, rows, -1)
        g_key = torch.bmm(self.met.flatten(0, 1).mT, g_asked)  # (matrices, head dimension, width)
        found[f"{ATTENTION}.key.weight"] = g_key.view(members, -1, g_key.shape[2])
        g_met = torch.bmm(g_asked, self._by_head("key").mT).view(self.met.shape)
        g_met = g_met if self.settings.absolute else self.encoding.met_backward(g_met)
        g_query = self._joined(g_met) * self.scale
        found[f"{ATTENTION}.query.weight"] = torch.bmm(g_query.mT, self.seen.out[:, MASK])
        g_seen[:, MASK].add_(torch.bmm(g_query, self.weights[f"{ATTENTION}.query.weight"]))
        return g_seen

    # Stored values ------------------------------------------------------------------------------------------

    def _stored(self) -> Tensor:
        inputs = self.kept.out.flatten(1, 2)
        self.values = self._split(torch.bmm(inputs, self.weights[f"{ATTENTION}.value.weight"].mT))
        stored = torch.bmm(self.values.flatten(0, 1), self._output().mT)
        return stored.view(*self.values.shape[:2], *self.kept.out.shape[1:])

    def _stored_backward(self, g_stored: Tensor, found: dict[str, Tensor]) -> Tensor:
        members, heads, rows, _ = self.values.shape
        g_stored = g_stored.view(members * heads, rows, -1)
        g_output = torch.bmm(g_stored.mT, self.values.flatten(0, 1)).view(members, heads, g_stored.shape[2], -1)
        found[f"{ATTENTION}.output.weight"] = self._joined(g_output)
        g_values = self._joined(torch.bmm(g_stored, self._output()).view(self.values.shape))
        found[f"{ATTENTION}.value.weight"] = torch.bmm(g_values.mT, self.kept.out.flatten(1, 2))
        return torch.bmm(g_values, self.weights[f"{ATTENTION}.value.weight"]).view(self.kept.out.shape)

    def _by_head(self, name: str) -> Float[Tensor, "matrices head_dim width"]:
        """A matrix that makes the heads' vectors, one a member and head."""
        weight = self.weights[f"{ATTENTION}.{name}.weight"]
        return weight.reshape(len(weight) * self.heads, -1, weight.shape[2])

    def _output(self) -> Float[Tensor, "matrices width head_dim"]:
        """W_O's columns for each head, one a member and head."""
        return self._split(self.weights[f"{ATTENTION}.output.weight"]).flatten(0, 1)

    def _split(self, x: Float[Tensor, "members rows width"]) -> Float[Tensor, "members heads rows head_dim"]:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _joined(self, x: Float[Tensor, "members heads rows head_dim"]) -> Float[Tensor, "members rows width"]:
        return x.transpose(1, 2).flatten(2)

    # The first norm -----------------------------------------------------------------------------------------

    def _norm(self, x: Tensor) -> _Normed:
        if not self.settings.norm:
            return _Normed(x, x, x, ())
        unit, *statistics = torch.native_layer_norm(x, x.shape[-1:], None, None, TINY)
        return _Normed(unit * self.weights[f"{BLOCK}.norm1.weight"][:, None, None], x, unit, tuple(statistics))

    def _norm_backward(self, g: Tensor, normed: _Normed, found: dict[str, Tensor]) -> Tensor:
        """Gradient in what was normed; adds that in the norm's weight."""
        if not self.settings.norm:
            return g
        name = f"{BLOCK}.norm1.weight"
        g_weight = (g * normed.unit).sum((1, 2))
        found[name] = found[name] + g_weight if name in found else g_weight
        g = g * self.weights[name][:, None, None]
        wanted = [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(
            g, normed.x, g.shape[-1:], *normed.statistics, None, None, wanted)[0]


class _Normed(NamedTuple):
    """A normed tensor and what its gradient needs."""

    out: Tensor
    x: Tensor
    unit: Tensor  # before the norm's weight
    statistics: tuple[Tensor, ...]
