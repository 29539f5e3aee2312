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

import functools
import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lib.encodings import encoding
from lib.one_layer import objectives, task
from lib.one_layer.fast import one_head, step
from lib.one_layer.fast.kernels import gelu
from lib.one_layer.fast.tables import Tables, Vocabulary
from lib.one_layer.fast.unique import UniqueBatch, merge, merge_steps
from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.one_layer.objectives import MaskedBatch


class Ensemble:
    """Weights of several models, and their logits.

    :param settings: shared by all members
    :param flat: (members, parameters) in the order of `Transformer.named_parameters`; used, not copied
    """

    def __init__(self, settings: ModelConfig, flat: Float[Tensor, "members parameters"]) -> None:
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
        self.vocabulary = Vocabulary(settings, self.weights)
        self.training = False

    @classmethod
    def from_seeds(cls, settings: ModelConfig, seeds: Sequence[int]) -> Ensemble:
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

    @functools.cached_property
    def written_out(self) -> bool:
        """Whether a step's gradient is written out, and not autograd's."""
        short = self.settings.depth == 1 and not self.settings.causal and not self.settings.dropout
        return short and self.flat.device.type == "cpu" and self.flat.dtype == torch.float32

    def prepared(self, asked: MaskedBatch, batch: int) -> list[MaskedBatch] | list[UniqueBatch]:
        """Questions of several steps, ``batch`` sequences each, as `descend` likes them best, step by step."""
        return merge_steps(asked, batch, batch) if self.written_out else asked.steps(batch)

    def descend(self, asked: Sequence[MaskedBatch] | Sequence[UniqueBatch], batch: int) -> tuple[Tensor, Tensor]:
        """Loss of each member on its own questions, in nats a sequence, and its gradient in the buffer's layout.

        The gradient lies in memory that the next call writes to.

        :param asked: one a member, prepared or not
        :param batch: sequences that each member was asked about
        """
        if self.written_out:
            return self._own_descent.descend([merge(one, batch) if isinstance(one, MaskedBatch) else one for one in asked])
        unmerged = cast(Sequence[MaskedBatch], asked)  # nothing is merged where the gradient is autograd's
        tokens, rows, targets, weights = (part.to(self.flat.device) for part in objectives.stack(unmerged))
        losses = objectives.losses(self.logits(tokens, rows), targets, weights, batch)
        return losses.detach(), self.gradient(losses)

    @functools.cached_property
    def _own_descent(self) -> FastStep:
        return FastStep(self)

    # Logits -------------------------------------------------------------------------------------------------

    def logits(
        self, tokens: Int[Tensor, "members batch length"], rows: Int[Tensor, "members rows"]
    ) -> Float[Tensor, "members rows clean"]:
        """Logits at the given rows of each member's flattened batch.

        :raises ValueError: if a masked model of depth 1 is asked at a row that is no mask
        """
        if self.settings.causal or self.settings.depth > 1:
            return self._full(tokens, rows)
        if not bool((tokens.flatten(1).gather(1, rows) == task.MASK).all()):
            raise ValueError("rows: a masked model is asked at masked positions only")
        return self._short(tokens, rows)

    def _full(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Any depth, masked or causal: attention everywhere, the last MLP and the unembedding at the rows."""
        x = self._look_up(self.vocabulary.read()[0], tokens)
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
        if layer == 0:
            _, inputs, stored = self.vocabulary.read()
        else:
            inputs = stored = self._norm(x, f"blocks.{layer}.norm1")

        def projected(name: str, inputs: Tensor = inputs) -> Tensor:  # (members, batch, heads, length, head dimension)
            found = self._linear(inputs, f"{block}.{name}")
            found = self._look_up(found, tokens) if layer == 0 else found
            return found.unflatten(-1, (self.settings.heads, -1)).transpose(2, 3)

        q, k = (self.encoding.rotate(projected(name)) for name in ("query", "key"))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        bias = self.encoding.score_bias(self.weights.get("position"))
        if bias is not None:
            scores = scores + (bias if bias.dim() == 3 else bias[:, None])
        if self.settings.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
        mixed = scores.softmax(-1) @ projected("value", stored)
        return self._linear(mixed.transpose(2, 3).flatten(3), f"{block}.output")

    def _look_up(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Rows of a table (members, tokens, 1 or length, width) for each token at its position."""
        members, _, places, width = table.shape
        index = (torch.arange(members).view(-1, 1, 1) * task.TOKENS + tokens) * places
        if places > 1:
            index = index + torch.arange(places)
        return functional.embedding(index, table.reshape(-1, width))

    def _short(self, tokens: Tensor, rows: Tensor) -> Tensor:
        tables = self.vocabulary.forward()
        weights = self._attention(tables.scores, tokens, rows)
        x = self._stream(tables.stream, rows % self.settings.length)
        x = x + self._drop(self._retrieved(tables.stored, weights, self._context(tokens, rows)))
        return self._linear(self._norm(self._thought(x, 0), "norm"), "head")

    def _context(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """The whole sequence that each row stands in, (members, rows, length)."""
        length = self.settings.length
        return tokens.gather(1, (rows // length)[..., None].expand(-1, -1, length))

    def attention(
        self, tokens: Int[Tensor, "members batch length"], rows: Int[Tensor, "members rows"]
    ) -> Float[Tensor, "members heads rows length"]:
        """Attention weights alpha of masked rows (depth 1): the scores looked up, and their softmax."""
        return self._attention(self.vocabulary.forward().scores, tokens, rows)

    def _attention(self, scores: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        length, absolute = self.settings.length, self.settings.absolute
        place = step.places(length, absolute)[rows % length]
        place = place + self._context(tokens, rows) * step.stride(length, absolute)
        place = place[:, None].expand(-1, scores.shape[1], -1, -1)
        return scores.gather(2, place.flatten(2)).view(place.shape).softmax(-1)

    def score_table(self) -> Float[Tensor, "members heads length tokens length"]:
        """Score from a mask at i to token v at j; at depth 1 no other token matters."""
        length, absolute = self.settings.length, self.settings.absolute
        place = step.places(length, absolute)[:, None]
        place = place + torch.arange(task.TOKENS)[:, None] * step.stride(length, absolute)
        return self.vocabulary.forward().scores[:, :, place]

    def mask_query(self) -> Float[Tensor, "members heads place head_dim"]:
        """The mask's query, before the encoding turns it; one a position only under an absolute encoding."""
        self.vocabulary.read()
        return self.vocabulary.query().unflatten(0, (len(self), -1))

    def _retrieved(self, stored: Tensor, weights: Tensor, context: Tensor) -> Tensor:
        """What attention adds to the residual stream at each row: (members, rows, width)."""
        members, heads, rows, length = weights.shape
        tokens = context[:, None].expand(-1, heads, -1, -1)
        if stored.shape[3] == 1:
            mass = weights.new_zeros(members, heads, rows, task.TOKENS).scatter_add(3, tokens, weights)
            return (mass @ stored[:, :, :, 0]).sum(1)
        tables = torch.arange(members * heads).view(members, heads, 1, 1)
        place = (tables * task.TOKENS + tokens) * length + torch.arange(length)
        mixed = functional.embedding_bag(
            place.reshape(-1, length), stored.reshape(-1, stored.shape[-1]), mode="sum",
            per_sample_weights=weights.reshape(-1, length),
        )
        return mixed.view(members, heads, rows, -1).sum(1)

    def _stream(self, mask: Tensor, position: Tensor) -> Tensor:
        """The residual stream at a mask before the block: (members, rows or 1, width)."""
        if mask.shape[1] == 1:
            return mask
        return mask.gather(1, position[..., None].expand(-1, -1, mask.shape[-1]))

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
        mlp = f"blocks.{layer}.mlp"
        hidden = self._linear(self._norm(x, f"blocks.{layer}.norm2"), f"{mlp}.up")
        return x + self._drop(self._linear(gelu(hidden), f"{mlp}.down"))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.settings.dropout, self.training)


class FastStep:
    """`Ensemble.descend` for masked models of depth 1 without dropout."""

    def __init__(self, ensemble: Ensemble) -> None:
        settings, self.gradient = ensemble.settings, torch.zeros_like(ensemble.flat)
        views = lambda flat: {name: flat[..., part].view(*flat.shape[:-1], *shape)
                              for name, part, shape in ensemble.layout()}
        members = [(views(one), views(slopes)) for one, slopes in zip(ensemble.flat, self.gradient, strict=True)]
        attention, buffers = step.Attention(settings), step.Workspace(settings)
        self.members = [step.MemberStep(*each, attention, buffers) for each in members]
        common = one_head.serves(settings, ensemble.weights)
        self.apart = [one_head.OneHead(settings, *each) for each in members] if common else None
        self.slopes, self.vocabulary = views(self.gradient), Vocabulary(settings, views(ensemble.flat))
        self.in_tables = Tables(*(torch.empty_like(table) for table in self.vocabulary.forward()))
        self.in_own = [Tables(*own) for own in zip(*self.in_tables, strict=True)]  # by member

    def descend(self, asked: Sequence[UniqueBatch]) -> tuple[Tensor, Tensor]:
        """Losses, and the gradient in memory that the next call writes to."""
        return torch.tensor(self._losses(asked)), self.gradient

    @torch.inference_mode()  # less to keep account of in every operation
    def _losses(self, asked: Sequence[UniqueBatch]) -> list[float]:
        if self.apart is not None:
            return [self._alone(*each) for each in zip(self.members, asked, self.apart, self.in_own, strict=True)]
        own = zip(*self.vocabulary.forward(), strict=True)
        losses = [member(one, Tables(*tables), g) for member, one, tables, g
                  in zip(self.members, asked, own, self.in_own, strict=True)]
        self.vocabulary.backward(self.in_tables, self.slopes)
        return losses

    def _alone(self, member: step.MemberStep, asked: UniqueBatch, vocabulary: one_head.OneHead, g: Tables) -> float:
        """One member whose tables are its own affair."""
        loss = member(asked, vocabulary.forward(), g)
        vocabulary.backward(g)
        return loss
