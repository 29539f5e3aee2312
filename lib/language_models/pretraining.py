"""Pretraining of a small model of one architecture on a world told to it (`lib.language_models.miniature_world`).

The classes, and the configuration fields but for size, are those of the published models (`lib.language_models.architectures`);
weights start as those classes start them. Every model of one seed sees the same sentences in the same order, for as
many steps, at the same width.

Causal models predict the next token. Masked models of this size stay at chance for long under the plain objective
(t uniform, weight 1/t), so masking is drawn by question: in half the rows the second entity is asked for, with or
without what follows it; in a quarter the first entity; in a quarter a uniformly drawn number of tokens anywhere. The
cross-entropy is averaged over the tokens asked for in each row, which is weight 1/count.

A masked model may begin as an autoregressive one, as Dream began: ``causal_steps`` of next-token training under a
causal mask come first, with a learning-rate schedule of their own; AdamW's moments go on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.language_models import checkpoints, finetuning, miniature_world
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Example
from lib.language_models.finetuning import PaddedBatch, TokenisedExample
from lib.language_models.random_checkpoints import Size, config_fields
from lib.record import options, training_state

SECOND, FIRST = 0.5, 0.25  # shares of rows that ask for the second and for the first entity
_COOLING = 0.3  # last part of the steps, over which the learning rate falls


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """What fixes a pretraining run."""

    architecture: str = "llada"
    orders: str = "both"
    facts: int = 240  # families, and as many descriptions and capitals
    kinds: tuple[str, ...] = ("p2c",)  # datasets whose facts are told
    stock: int = 60  # first words, and second words, of names
    width: int = 128
    layers: int = 2
    heads: int = 4
    steps: int = 1300  # as what the architecture is
    causal_steps: int = 0  # before those, of a masked model trained as an autoregressive one
    batch: int = 48
    learning_rate: float = 2e-3
    warmup: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"no architecture {self.architecture!r}; one of {', '.join(ARCHITECTURES)}")
        if self.orders not in miniature_world.ORDERS:
            raise ValueError(f"orders must be one of {', '.join(miniature_world.ORDERS)}, not {self.orders!r}")
        options.at_least(self, facts=1, stock=1, layers=1, steps=1, causal_steps=0, batch=1, warmup=1)
        if self.causal_steps and ARCHITECTURES[self.architecture].causal:
            raise ValueError(f"causal_steps: {self.architecture} is causal throughout; give it more steps")
        if self.heads < 1 or self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice the {self.heads} heads, not {self.width}")


def new_model(settings: PretrainingConfig, tokenizer: Any) -> Any:
    """An untrained model, as `lib.language_models.checkpoints.load` would return it, self-test included."""
    kind = ARCHITECTURES[settings.architecture]
    size = Size(settings.width, settings.layers, settings.heads, settings.heads, 3 * settings.width,
                -(-len(tokenizer) // 32) * 32)
    ids = tokenizer.convert_tokens_to_ids([miniature_world.END, miniature_world.MASK])
    config: Any = kind.configure(config_fields(settings.architecture, size, ids))
    config.is_causal, config.logits_shift = kind.causal, kind.logits_shift
    torch.manual_seed(settings.seed)
    model: Any = kind.model_class(config)
    model.architecture = kind.name
    checkpoints.self_test(model.eval(), causal=kind.causal)
    return model


# What is asked -----------------------------------------------------------------------------------------------


def questions(
    given: PaddedBatch, first: Bool[Tensor, "batch length"], draw: torch.Generator
) -> Bool[Tensor, "batch length"]:
    """Which tokens a masked model is asked for; at least one a row.

    :param first: where the first entity of each sentence stands
    """
    rows, length = given.ids.shape
    sizes = given.shown.sum(1, keepdim=True)
    stop = torch.where(torch.rand(rows, 1, generator=draw) < 0.5, sizes - 2, length)  # before the full stop, or all
    second = given.answer & (torch.arange(length) < stop)
    count = (torch.rand(rows, 1, generator=draw) * sizes).long() + 1
    order = torch.rand(rows, length, generator=draw).masked_fill(~given.shown, 2.0).argsort(1).argsort(1)
    kind = torch.rand(rows, 1, generator=draw)
    return torch.where(kind < SECOND, second, torch.where(kind < SECOND + FIRST, first, order < count))


def masked_loss(
    model: Any, given: PaddedBatch, asked: Bool[Tensor, "batch length"], mask: int
) -> Float[Tensor, ""]:
    """Cross-entropy, averaged over the tokens asked for in each row, then over rows."""
    logits = finetuning.aligned(model, given.ids.masked_fill(asked, mask))
    losses = nn.functional.cross_entropy(logits[asked], given.ids[asked], reduction="none")
    weights = (1 / asked.sum(1, keepdim=True)).expand(asked.shape)[asked]
    return (losses * weights).sum() / len(asked)


def first_entity(sentence: TokenisedExample, names: frozenset[int]) -> list[bool]:
    """Where the first entity of a sentence stands: the words of names before its second entity."""
    return [place < sentence.prompt and token in names for place, token in enumerate(sentence.ids)]


# The run -----------------------------------------------------------------------------------------------------


def pretrain(
    settings: PretrainingConfig, text: Sequence[Example], tokenizer: Any, *, checkpoint: Path | None = None,
    every: int = 200, watch: Callable[[int, float], None] | None = None,
) -> tuple[Any, list[float]]:
    """A pretrained model in evaluation mode, and the loss of every step.

    :param checkpoint: written every so many steps and at the end, and gone on from if it is there; a finished one is
        returned as it is
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    """
    run = _Run(settings, text, tokenizer)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    last = settings.causal_steps + settings.steps
    for step in range(len(run.losses), last):
        run.advance(step)
        if watch is not None:
            watch(step, run.losses[-1])
        if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == last):
            run.store(checkpoint)
    return run.model.eval(), run.losses


class _Run:
    """A run in progress."""

    def __init__(self, settings: PretrainingConfig, text: Sequence[Example], tokenizer: Any) -> None:
        self.settings, self.mask, self.end = settings, tokenizer.mask_token_id, tokenizer.eos_token_id
        self.model = new_model(settings, tokenizer)
        self.sentences = finetuning.sentences(text, tokenizer)
        names = frozenset(tokenizer.convert_tokens_to_ids(miniature_world.name_words(settings.stock)))
        self.first = [first_entity(sentence, names) for sentence in self.sentences]
        self.weights = dict(self.model.named_parameters())
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=settings.learning_rate, weight_decay=0.01)
        self.losses: list[float] = []

    def advance(self, step: int) -> None:
        """One optimiser step; every draw is a function of seed and step."""
        self.model.train()
        self.model.config.is_causal = self._causal(step)
        chosen = np.random.default_rng([self.settings.seed, 0, step]).integers(
            len(self.sentences), size=self.settings.batch)
        loss = self._loss(step, chosen.tolist(), np.random.default_rng([self.settings.seed, 1, step]))
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(float(loss.detach()))

    def _causal(self, step: int) -> bool:
        return self.mask is None or step < self.settings.causal_steps

    def _rate(self, step: int) -> float:
        """Rising over the warm-up, falling over the last part of the run, or of either phase of it."""
        start = self.settings.causal_steps
        done, steps = (step, start) if step < start else (step - start, self.settings.steps)
        left = (steps - done) / (_COOLING * steps)
        return min(1.0, (done + 1) / self.settings.warmup, max(0.05, left))

    def _loss(self, step: int, chosen: list[int], numbers: np.random.Generator) -> Tensor:
        given = finetuning.padded([self.sentences[i] for i in chosen], self.end)
        if self._causal(step):
            return finetuning.next_token_loss(self.model, given, "any")
        length = given.ids.shape[1]
        first = torch.tensor([self.first[i] + [False] * (length - len(self.first[i])) for i in chosen])
        draw = torch.Generator().manual_seed(int(numbers.integers(2**62)))
        return masked_loss(self.model, given, questions(given, first, draw), self.mask)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        told = json.dumps([sentence.ids for sentence in self.sentences])
        return dataclasses.asdict(self.settings) | {"text": hashlib.sha256(told.encode()).hexdigest()}

    def store(self, path: Path) -> None:
        """Write weights, both moments and the losses so far."""
        tensors = training_state.training_state(self.weights, self.optimiser)
        training_state.save(path, tensors, self.identity(), {"losses": self.losses})

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of this very run."""
        tensors, progress = training_state.load(path, self.identity())
        training_state.restore_training(self.weights, self.optimiser, tensors)
        self.losses = list(progress["losses"])
