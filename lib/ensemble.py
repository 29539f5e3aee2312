"""Many models of equal settings trained as one: every weight has a leading axis over members.

All weights live in one buffer (members, parameters), so optimiser, clipping, moving average and checkpoint
are a few operations on plain matrices. `Ensemble.member` gives the i-th model as a plain `Transformer`.

A one-layer masked model needs little of a transformer's work (*the short way*): queries are only asked at
masks, so they are one vector a position; keys and values depend on (token, position), or on the token
alone, and are computed once for the vocabulary and not once for each token of each sequence; scores are
then looked up. With values free of position, attention reduces to the mass it puts on each token, and W_O
W_V is applied to the vocabulary: the storage-routing decomposition, sum over tokens of mass x stored value,
is how the program computes. What is left, and dominates, is the MLP and the unembedding at masked
positions. Deeper and causal models go *the full way*: the first layer's projections still come from the
vocabulary, and the last MLP and the unembedding still act at the asked rows alone. `Transformer` is the plain
definition of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lib import letters
from lib.encodings import encoding
from lib.kernels import gelu_mlp
from lib.transformer import Settings, Transformer, initialise


class Ensemble:
    """Weights of several models, and their logits.

    :param settings: shared by all members
    :param flat: (members, parameters) in the order of `Transformer.named_parameters`; used, not copied
    """

    def __init__(self, settings: Settings, flat: Float[Tensor, "members parameters"]) -> None:
        self.settings = settings
        self.template = Transformer(settings)
        self.template.requires_grad_(False)
        count = sum(weight.numel() for weight in self.template.parameters())
        if flat.shape[1] != count:
            raise ValueError(f"flat has {flat.shape[1]} parameters a member; these settings have {count}")
        self.flat = flat.detach()
        self.weights = {
            name: self.flat[:, part].view(len(flat), *shape).requires_grad_()
            for name, part, shape in self.layout()
        }
        self.encoding = encoding(settings.encoding, settings.positions, settings.width, settings.heads)
        self.training = False

    @classmethod
    def from_seeds(cls, settings: Settings, seeds: Sequence[int]) -> Ensemble:
        """Fresh weights, one member a seed."""
        return cls.of([initialise(Transformer(settings), seed) for seed in seeds])

    @classmethod
    def of(cls, models: Sequence[Transformer]) -> Ensemble:
        """An ensemble of copies of plain models."""
        flat = [torch.cat([weight.detach().reshape(-1) for weight in model.parameters()]) for model in models]
        return cls(models[0].settings, torch.stack(flat))

    def __len__(self) -> int:
        return len(self.flat)

    def layout(self) -> list[tuple[str, slice, torch.Size]]:
        """Name, columns of the buffer, and shape of each weight."""
        found, start = [], 0
        for name, weight in self.template.named_parameters():
            found.append((name, slice(start, start + weight.numel()), weight.shape))
            start += weight.numel()
        return found

    def member(self, index: int) -> Transformer:
        """A copy of one member as a plain model."""
        model = Transformer(self.settings)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(self.weights[name][index])
        return model.eval()

    def gradient(self, losses: Float[Tensor, " members"]) -> Float[Tensor, "members parameters"]:
        """Gradient of each member's loss in its own weights, in the buffer's layout."""
        parts = torch.autograd.grad(losses.sum(), list(self.weights.values()), materialize_grads=True)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    # Logits -------------------------------------------------------------------------------------------------

    def logits(
        self, tokens: Int[Tensor, "members batch length"], rows: Int[Tensor, "members rows"]
    ) -> Float[Tensor, "members rows clean"]:
        """Logits at the given rows of each member's flattened batch.

        :raises ValueError: if a masked model of depth 1 is asked at a row that is no mask
        """
        if self.settings.causal or self.settings.depth > 1:
            return self._full(tokens, rows)
        if not bool((tokens.flatten(1).gather(1, rows) == letters.MASK).all()):
            raise ValueError("rows: a masked model is asked at masked positions only")
        return self._short(tokens, rows)

    def _full(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Any depth, masked or causal: attention everywhere, the last MLP and the unembedding at the rows."""
        x = self._look_up(self._embedded(), tokens)
        last = self.settings.depth - 1
        for layer in range(self.settings.depth):
            x = x + self._drop(self._attended(x, tokens, layer))
            x = x.flatten(1, 2)
            if layer == last:
                x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
            x = self._thought(x, layer)
            if layer < last:
                x = x.unflatten(1, tokens.shape[1:])
        return self._linear(self._norm(x, "norm"), "head")

    def _attended(self, x: Tensor, tokens: Tensor, layer: int) -> Tensor:
        """What attention adds at every position: (members, batch, length, width)."""
        block = f"blocks.{layer}.attention"
        inputs = self._inputs() if layer == 0 else self._norm(x, f"blocks.{layer}.norm1")
        stored = self._value_inputs() if layer == 0 else inputs

        def projected(name: str, inputs: Tensor = inputs) -> Tensor:  # (members, batch, heads, length, head dimension)
            found = self._linear(inputs, f"{block}.{name}")
            found = self._look_up(found, tokens) if layer == 0 else found
            return found.unflatten(-1, (self.settings.heads, -1)).transpose(2, 3)

        q, k = (self.encoding.turned(projected(name)) for name in ("query", "key"))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        bias = self.encoding.bias(self.weights.get("position"))
        if bias is not None:
            scores = scores + (bias if bias.dim() == 3 else bias[:, None])
        if self.settings.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
        mixed = scores.softmax(-1) @ projected("value", stored)
        return self._linear(mixed.transpose(2, 3).flatten(3), f"{block}.output")

    def _look_up(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Rows of a table (members, tokens, 1 or length, width) for each token at its position."""
        members, _, places, width = table.shape
        index = (torch.arange(members).view(-1, 1, 1) * letters.TOKENS + tokens) * places
        if places > 1:
            index = index + torch.arange(places)
        return functional.embedding(index, table.reshape(-1, width))

    def _short(self, tokens: Tensor, rows: Tensor) -> Tensor:
        weights = self.attention(tokens, rows)
        x = self._stream(rows % self.settings.length)
        x = x + self._drop(self._retrieved(weights, self._context(tokens, rows)))
        return self._linear(self._norm(self._thought(x, 0), "norm"), "head")

    def _context(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """The whole sequence that each row stands in, (members, rows, length)."""
        length = self.settings.length
        return tokens.gather(1, (rows // length)[..., None].expand(-1, -1, length))

    def attention(
        self, tokens: Int[Tensor, "members batch length"], rows: Int[Tensor, "members rows"]
    ) -> Float[Tensor, "members heads rows length"]:
        """Attention weights alpha of masked rows (depth 1): the scores looked up, and their softmax."""
        length, table = self.settings.length, self.score_table()
        context = self._context(tokens, rows) * length + torch.arange(length)
        place = (rows % length)[..., None] * (letters.TOKENS * length) + context
        place = place[:, None].expand(-1, table.shape[1], -1, -1)
        return table.flatten(2).gather(2, place.flatten(2)).view(place.shape).softmax(-1)

    def score_table(self) -> Float[Tensor, "members heads length tokens length"]:
        """Score from a mask at i to token v at j; at depth 1 no other token matters."""
        length = self.settings.length
        keys = self._heads(self._linear(self._inputs(), "blocks.0.attention.key"))
        keys = self.encoding.turned(keys.expand(-1, -1, -1, length, -1))
        queries = self.encoding.turned(self.mask_query().expand(-1, -1, length, -1))
        queries = queries / math.sqrt(keys.shape[-1])
        table = (queries @ keys.flatten(2, 3).mT).unflatten(-1, keys.shape[2:4])
        bias = self.encoding.bias(self.weights.get("position"))
        return table if bias is None else table + bias.unsqueeze(-2)

    def mask_query(self) -> Float[Tensor, "members heads place head_dim"]:
        """The mask's query, before the encoding turns it; one a position only under an absolute encoding."""
        mask = self._inputs()[:, letters.MASK :]
        return self._heads(self._linear(mask, "blocks.0.attention.query"))[:, :, 0]

    def _embedded(self) -> Tensor:
        """The residual stream that each token (and position) starts with: (members, tokens, 1 or length, width)."""
        x = self.weights["embedding"][:, :, None]
        added = self.encoding.added(self.weights.get("position"))
        return x if added is None else x + (added if added.dim() == 2 else added[:, None])

    def _inputs(self) -> Tensor:
        """What the first attention layer sees of it."""
        return self._norm(self._embedded(), "blocks.0.norm1")

    def _value_inputs(self) -> Tensor:
        """The same as values see it: (members, tokens, 1 or length, width)."""
        if self.settings.values == "natural":
            return self._inputs()
        x = self.weights["embedding"][:, :, None]
        if self.settings.values == "laden":
            x = x + self.weights["blocks.0.attention.value_position"][:, None]
        return self._norm(x, "blocks.0.norm1")

    def _retrieved(self, weights: Tensor, context: Tensor) -> Tensor:
        """What attention adds to the residual stream at each row: (members, rows, width)."""
        stored = self._stored()  # (members, heads, tokens, 1 or length, width)
        members, heads, rows, length = weights.shape
        tokens = context[:, None].expand(-1, heads, -1, -1)
        if stored.shape[3] == 1:
            mass = weights.new_zeros(members, heads, rows, letters.TOKENS).scatter_add(3, tokens, weights)
            return (mass @ stored[:, :, :, 0]).sum(1)
        tables = torch.arange(members * heads).view(members, heads, 1, 1)
        place = (tables * letters.TOKENS + tokens) * length + torch.arange(length)
        mixed = functional.embedding_bag(
            place.reshape(-1, length), stored.reshape(-1, stored.shape[-1]), mode="sum",
            per_sample_weights=weights.reshape(-1, length),
        )
        return mixed.view(members, heads, rows, -1).sum(1)

    def _stored(self) -> Tensor:
        """W_O W_V applied to the vocabulary, head by head."""
        values = self._heads(self._linear(self._value_inputs(), "blocks.0.attention.value"))
        output = self.weights["blocks.0.attention.output.weight"]  # (members, width, heads * head dimension)
        output = output.unflatten(-1, (self.settings.heads, -1)).permute(0, 2, 3, 1)
        return (values.flatten(2, 3) @ output).unflatten(2, values.shape[2:4])

    def _stream(self, position: Tensor) -> Tensor:
        """The residual stream at a mask before the block: (members, rows or 1, width)."""
        mask = self._embedded()[:, letters.MASK]
        if mask.shape[1] == 1:
            return mask
        return mask.gather(1, position[..., None].expand(-1, -1, mask.shape[-1]))

    def _heads(self, x: Tensor) -> Tensor:
        """(members, tokens, positions, width) to (members, heads, tokens, positions, head dimension)."""
        return x.unflatten(-1, (self.settings.heads, -1)).permute(0, 3, 1, 2, 4)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        flat = x.reshape(len(x), -1, x.shape[-1])
        product = flat @ weight.mT if bias is None else torch.baddbmm(bias[:, None], flat, weight.mT)
        return product.view(*x.shape[:-1], -1)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if not self.settings.norm:
            return x
        weight = self.weights[f"{name}.weight"]
        return functional.layer_norm(x, x.shape[-1:]) * weight.view(len(weight), *[1] * (x.dim() - 2), -1)

    def _thought(self, x: Tensor, layer: int) -> Tensor:
        """The residual stream (members, rows, width) after the MLP."""
        if not self.settings.mlp:
            return x
        names = ("up.weight", "up.bias", "down.weight", "down.bias")
        mlp = (self.weights[f"blocks.{layer}.mlp.{name}"] for name in names)
        return x + self._drop(gelu_mlp(self._norm(x, f"blocks.{layer}.norm2"), *mlp))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.settings.dropout, self.training)
