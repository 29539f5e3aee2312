"""Many models of equal settings trained as one: every weight has a leading axis over members.

All weights live in one buffer (members, parameters), so optimiser, clipping, moving average and checkpoint are a few
operations on plain matrices. `Ensemble.member` gives the i-th model as a plain `Transformer`, and that plain model,
mapped over members by ``torch.func``, is the forward pass of all of them.

`Ensemble.loss_and_gradient` is what a training step needs. It is the one way to `lib.one_layer.tables`, which computes
the loss of masked models of depth 1; the loss of every other model is that of the plain forward pass. Gradients are
autograd's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, vmap

from lib.one_layer import objectives, tables, task
from lib.one_layer.model import HEAD_SCALE, ModelConfig, Transformer, initialise
from lib.one_layer.objectives import MaskedBatch
from lib.one_layer.unique import UniqueBatch, unique_rows, unique_rows_by_step


class Ensemble:
    """Weights of several models, their logits, losses and gradients.

    :param settings: shared by all members
    :param parameters: (members, parameters) in the order of ``Transformer.named_parameters()``; used, not copied
    :raises ValueError: for another number of parameters than the settings have
    """

    def __init__(self, settings: ModelConfig, parameters: Float[Tensor, "members parameters"]) -> None:
        self.settings, self.training = settings, False
        self.model = Transformer(settings).requires_grad_(False)  # its forward pass serves every member
        count = sum(weight.numel() for weight in self.model.parameters())
        if parameters.shape[1] != count:
            raise ValueError(f"parameters: {parameters.shape[1]} a member, but these settings have {count}")
        self.parameters = parameters.detach()
        self.weights = {
            name: self.parameters[:, columns].view(len(parameters), *shape).requires_grad_()
            for name, columns, shape in self.parameter_slices()
        }

    @classmethod
    def from_seeds(cls, settings: ModelConfig, seeds: Sequence[int],
                   unembedding: float | Sequence[float] = HEAD_SCALE) -> Ensemble:
        """Fresh weights, one member a seed.

        :param unembedding: standard deviation of its start, of all members or of each
        """
        scales = [unembedding] * len(seeds) if isinstance(unembedding, (int, float)) else unembedding
        return cls.from_models([initialise(Transformer(settings), *each) for each in zip(seeds, scales, strict=True)])

    @classmethod
    def from_models(cls, models: Sequence[Transformer]) -> Ensemble:
        """An ensemble of copies of plain models of equal settings."""
        rows = [torch.cat([weight.detach().reshape(-1) for weight in model.parameters()]) for model in models]
        return cls(models[0].settings, torch.stack(rows))

    def __len__(self) -> int:
        return len(self.parameters)

    def parameter_slices(self) -> list[tuple[str, slice, torch.Size]]:
        """Name, columns of the buffer, and shape of each weight."""
        found, start = [], 0
        for name, weight in self.model.named_parameters():
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

    def members(self) -> list[Transformer]:
        """Copies of all members."""
        return [self.member(index) for index in range(len(self))]

    def logits(
        self, tokens: Int[Tensor, "members batch length"], rows: Int[Tensor, "members rows"]
    ) -> Float[Tensor, "members rows clean"]:
        """Logits at the given rows of each member's flattened batch, with dropout if ``training`` is set.

        :raises ValueError: if a masked model is asked at a row that is no mask
        """
        if not self.settings.causal and not bool((tokens.flatten(1).gather(1, rows) == task.MASK).all()):
            raise ValueError("rows: a masked model is asked at masked positions only")
        self.model.train(self.training)
        plain = lambda weights, tokens, rows: functional_call(self.model, weights, (tokens,), {"rows": rows}).logits
        return vmap(plain, randomness="different")(self.weights, tokens, rows)

    def gradient(self, losses: Float[Tensor, " members"]) -> Float[Tensor, "members parameters"]:
        """Gradient of each member's loss in its own weights, in the buffer's order."""
        parts = torch.autograd.grad(losses.sum(), list(self.weights.values()), materialize_grads=True)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    # A training step ----------------------------------------------------------------------------------------

    @functools.cached_property
    def by_tables(self) -> bool:
        """Whether the loss of a step is that of `lib.one_layer.tables`."""
        return tables.tables_serve(self.settings, self.parameters.device)

    @functools.cached_property
    def _in_place(self) -> list[Transformer]:
        """The members as plain models whose weights lie in the buffer."""
        models = [copy.deepcopy(self.model).requires_grad_() for _ in range(len(self))]
        for index, model in enumerate(models):
            for name, weight in model.named_parameters():
                weight.data = self.weights[name].data[index]
        return models

    def prepare(self, batches: MaskedBatch, size: int) -> list[MaskedBatch] | list[UniqueBatch]:
        """Batches of several steps, ``size`` sequences each, step by step in the form that is fastest to train on."""
        return unique_rows_by_step(batches, size, size) if self.by_tables else batches.steps(size)

    def loss_and_gradient(
        self, batches: Sequence[MaskedBatch] | Sequence[UniqueBatch], size: int
    ) -> tuple[Float[Tensor, " members"], Float[Tensor, "members parameters"]]:
        """Loss of each member on its own batch, in nats a sequence, and its gradient in the buffer's order.

        :param batches: one a member, prepared or not
        :param size: sequences in each
        :raises ValueError: for a batch that asks nothing, or a masked model asked at a row that is no mask
        """
        if self.by_tables:
            unique = [unique_rows(batch, size) if isinstance(batch, MaskedBatch) else batch for batch in batches]
            losses, gradients = zip(*map(tables.loss_and_gradient, self._in_place, unique), strict=True)
            return torch.stack(losses), torch.stack(gradients)
        plain = objectives.stack_batches(cast(Sequence[MaskedBatch], batches))
        tokens, rows, targets, weights = (part.to(self.parameters.device) for part in plain)
        found = objectives.losses(self.logits(tokens, rows), targets, weights, size)
        return found.detach(), self.gradient(found)
