"""Forward-only fine-tuning with LoRA (App. D.2), for masked and for causal models.

A training example is a prompt and its completion ("Ana's child is" and " Bob."). Two masked objectives are offered,
because the paper needs one and LLaDA publishes the other:

* ``response``: only the completion is masked, as in LLaDA's published fine-tuning: t uniform, masking probability
  p = (1 - EPSILON) t + EPSILON, cross-entropy weighted by 1/p and by one over the answer's length, end tokens after
  the answer attended and trained. The left entity is never asked for;
* ``any``: every token may be masked, so the paper's forward query ("[M]'s child is Bob") is among the questions.

Causal models predict the next token of the completion (``response``) or of the whole sentence (``any``).

The text of the paper lost its rank, scaling, rates and epochs; those of `FineTuningConfig` are chosen here, and each can be
set. Every draw is a function of seed, step and forward pass, so a run that is resumed is the run that was interrupted,
and several processes that share the passes of a step (`lib.language_models.training_loop`) make the run that one would make alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.language_models.facts import Example
from lib.language_models.training_loop import Processes
from lib.record import options, training_state

EPSILON = 1e-3  # LLaDA's masking probability never falls below this
MASKING = ("response", "any")


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    """What fixes a fine-tuning run but for model and data."""

    rank: int = 16  # of the adapters; 0 trains every weight instead
    scaling: int = 32  # alpha; the adapters' output is multiplied by alpha / rank
    dropout: int | float = 0.0  # on the adapters' input
    learning_rate: float = 1e-4
    weight_decay: int | float = 0.01
    epochs: int = 10
    batch: int = 8  # examples a forward pass
    accumulation: int = 1  # forward passes a step, shared by the processes of a run
    warmup: int = 10  # steps over which the learning rate rises
    clip: float = 1.0  # norm to which gradients are cut
    masking: str = "response"
    replay: int | float = 0.0  # share of each batch taken from other text
    seed: int = 0

    def __post_init__(self) -> None:
        if self.masking not in MASKING:
            raise ValueError(f"masking must be one of {', '.join(MASKING)}, not {self.masking!r}")
        options.at_least(self, epochs=1, batch=1, accumulation=1, scaling=1, warmup=0, seed=0)
        if self.rank < 0:
            raise ValueError(f"rank must be 0 (train every weight) or more, not {self.rank}")
        for field in ("replay", "dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} must be a share in [0, 1), not {getattr(self, field)}")
        for field in ("learning_rate", "clip"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be positive and finite, not {getattr(self, field)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, not {self.weight_decay}")


class TokenisedExample(NamedTuple):
    """One training example in tokens; the first ``prompt`` of them are its prompt."""

    ids: tuple[int, ...]
    prompt: int


class PaddedBatch(NamedTuple):
    """A batch of sentences, padded with end tokens."""

    ids: Int[Tensor, "batch length"]
    answer: Bool[Tensor, "batch length"]  # the completion and the end tokens after it
    shown: Bool[Tensor, "batch length"]  # everything but the padding behind the first end token


# Data --------------------------------------------------------------------------------------------------------


def sentences(examples: Sequence[Example], tokenizer: Any) -> list[TokenisedExample]:
    """Examples in tokens, each with one end token after it."""
    if not examples:
        raise ValueError("no examples to train on")
    found = []
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"]
        completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        found.append(TokenisedExample((*prompt, *completion, tokenizer.eos_token_id), len(prompt)))
    return found


def padded(chosen: Sequence[TokenisedExample], end: int, device: torch.device | str = "cpu") -> PaddedBatch:
    """Sentences side by side, all as long as the longest."""
    length = max(len(sentence.ids) for sentence in chosen)
    ids = torch.tensor([[*sentence.ids, *[end] * (length - len(sentence.ids))] for sentence in chosen])
    place = torch.arange(length)
    answer = place >= torch.tensor([sentence.prompt for sentence in chosen])[:, None]
    shown = place < torch.tensor([len(sentence.ids) for sentence in chosen])[:, None]
    return PaddedBatch(ids.to(device), answer.to(device), shown.to(device))


def batches(own: int, other: int, protocol: FineTuningConfig, step: int) -> tuple[list[int], list[int]]:
    """Which sentences a step takes: of its own, in an order drawn anew each epoch, and of the replayed text."""
    draw = np.random.default_rng([protocol.seed, 1, step])
    total = protocol.batch * protocol.accumulation
    replayed = round(total * protocol.replay) if other else 0
    first = step * (total - replayed)
    mine = []
    for place in range(first, first + total - replayed):
        order = np.random.default_rng([protocol.seed, 0, place // own]).permutation(own)
        mine.append(int(order[place % own]))
    return mine, draw.integers(other, size=replayed).tolist() if replayed else []


def steps(own: int, protocol: FineTuningConfig) -> int:
    """Optimiser steps of a run: ``epochs`` passes over ``own`` sentences."""
    total = protocol.batch * protocol.accumulation
    fresh = total - round(total * protocol.replay)
    if fresh < 1:
        raise ValueError(f"replay {protocol.replay} leaves no room in a batch of {total}")
    return -(-own * protocol.epochs // fresh)


# Objectives --------------------------------------------------------------------------------------------------


def masked_loss(
    model: nn.Module, given: PaddedBatch, mask: int, masking: str, draw: torch.Generator
) -> Float[Tensor, ""]:
    """LLaDA's fine-tuning loss, or the same with every token maskable; Dream's shift applied where it has one."""
    maskable = given.answer if masking == "response" else torch.ones_like(given.answer)
    time = torch.rand(len(given.ids), generator=draw)
    rate = ((1 - EPSILON) * time + EPSILON)[:, None].expand(given.ids.shape)
    hidden = (torch.rand(given.ids.shape, generator=draw) < rate).to(given.ids.device) & maskable
    logits = aligned(model, given.ids.masked_fill(hidden, mask))
    losses = nn.functional.cross_entropy(logits[hidden].float(), given.ids[hidden], reduction="none")
    weights = (1 / rate.to(losses.device) / maskable.sum(1, keepdim=True))[hidden]
    return (losses * weights).sum() / len(given.ids)


def aligned(model: nn.Module, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
    """Logits with row i for position i."""
    logits = model(input_ids=ids).logits
    shift = getattr(model, "config").logits_shift  # noqa: B009
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if shift else logits


def next_token_loss(model: nn.Module, given: PaddedBatch, masking: str) -> Float[Tensor, ""]:
    """Mean cross-entropy of the completion's tokens and its end token, or of all tokens but the first."""
    wanted = given.shown & (given.answer if masking == "response" else torch.ones_like(given.answer))
    logits = model(input_ids=given.ids, attention_mask=given.shown.long()).logits[:, :-1]
    wanted, targets = wanted[:, 1:], given.ids[:, 1:]
    return nn.functional.cross_entropy(logits[wanted].float(), targets[wanted])


# The run -----------------------------------------------------------------------------------------------------


def adapt(model: Any, protocol: FineTuningConfig) -> Any:
    """The model with adapters on every linear map but the unembedding; with rank 0, as it is, all of it trainable."""
    if protocol.rank == 0:
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    unembedding = model.get_output_embeddings()
    targets = [name for name, module in model.named_modules()
               if isinstance(module, nn.Linear) and module is not unembedding]
    torch.manual_seed(protocol.seed)  # peft draws the adapters from the global stream
    settings = LoraConfig(r=protocol.rank, lora_alpha=protocol.scaling, lora_dropout=float(protocol.dropout),
                          target_modules=targets)
    return get_peft_model(model, settings)


def finetune(
    model: Any, tokenizer: Any, examples: Sequence[Example], protocol: FineTuningConfig, *,
    replay: Sequence[Example] = (), checkpoint: Path | None = None, every: int = 50, keep: bool = False,
    watch: Callable[[int, float], None] | None = None, curves: Mapping[str, list] | None = None,
    processes: Processes | None = None,
) -> list[float]:
    """Train what is trainable in ``model`` (see `adapt`) on examples in the trained direction.

    :param replay: other text, mixed in at the protocol's share
    :param checkpoint: written every so many steps, resumed from if it is there, and removed at the end
    :param keep: leave the checkpoint, then of the finished run, for the caller to remove
    :param watch: called after each step with its number and loss
    :param curves: lists that ``watch`` appends to; they stand in the checkpoint, and a resumed run fills them again
    :param processes: those that share the run, each called with the same arguments
    :return: the loss of every step
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ValueError: for fewer passes a step than processes
    :raises ArithmeticError: at the first step whose loss or gradient is not finite; the last checkpoint stays
    """
    own, other = sentences(examples, tokenizer), sentences(replay, tokenizer) if replay else []
    if protocol.replay and not other:
        raise ValueError(f"replay is {protocol.replay} but no text to replay is given")
    run = _Run(model, tokenizer, protocol, own, other, processes, curves)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    total = steps(len(own), protocol)
    for step in range(len(run.losses), total):
        run.advance(step)
        if watch is not None:
            watch(step, run.losses[-1])
        if checkpoint is not None and ((step + 1) % every == 0 or (keep and step + 1 == total)):
            run.store(checkpoint)
    if checkpoint is not None and not keep and run.processes.first:
        checkpoint.unlink(missing_ok=True)
    model.eval()
    return run.losses


class _Run:
    """A run in progress: weights, optimiser and losses so far."""

    def __init__(self, model: Any, tokenizer: Any, protocol: FineTuningConfig, own: list[TokenisedExample], other: list[TokenisedExample],
                 processes: Processes | None = None, curves: Mapping[str, list] | None = None):
        self.model, self.protocol, self.own, self.other = model, protocol, own, other
        self.processes, self.curves = processes or Processes(), curves or {}
        if protocol.accumulation < self.processes.count:
            raise ValueError(f"accumulation={protocol.accumulation} leaves some of {self.processes.count} processes "
                             "without work; take a smaller batch and a multiple of the processes")
        self.mask, self.end = tokenizer.mask_token_id, tokenizer.eos_token_id
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not self.weights:
            raise ValueError("model: nothing is trainable; give it adapters with `adapt`")
        self.start = _fingerprint(model)
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=protocol.learning_rate,
                                           weight_decay=protocol.weight_decay)
        self.losses: list[float] = []

    def advance(self, step: int) -> None:
        """One optimiser step."""
        protocol = self.protocol
        self.model.train()
        mine, replayed = batches(len(self.own), len(self.other), protocol, step)
        chosen = [self.own[i] for i in mine] + [self.other[i] for i in replayed]
        passes = [chosen[i : i + protocol.batch] for i in range(0, len(chosen), protocol.batch)]
        losses = [self._backward(part, (step, place), len(part) / len(chosen))
                  for place, part in self.processes.share(list(enumerate(passes)))]
        self.processes.add_gradients(self.weights.values())
        norm = float(nn.utils.clip_grad_norm_(self.weights.values(), protocol.clip))
        loss = self.processes.total(sum(losses))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ArithmeticError(f"step {step + 1}: the run has diverged (loss {loss:g}, gradient norm {norm:g}); "
                                  f"lower learning_rate, which is {protocol.learning_rate:g}")
        for group in self.optimiser.param_groups:
            group["lr"] = protocol.learning_rate * min(1.0, (step + 1) / max(1, protocol.warmup))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss)

    def _backward(self, part: list[TokenisedExample], place: tuple[int, int], share: float) -> float:
        """Add one pass's share of the gradient; ``place`` is its step and its number within it."""
        given = padded(part, self.end, next(iter(self.weights.values())).device)
        torch.manual_seed(self._seed(2, place))  # dropout
        if self.mask is None:
            loss = next_token_loss(self.model, given, self.protocol.masking)
        else:
            draw = torch.Generator().manual_seed(self._seed(3, place))
            loss = masked_loss(self.model, given, self.mask, self.protocol.masking, draw)
        (loss * share).backward()
        return float(loss.detach()) * share

    def _seed(self, purpose: int, place: tuple[int, int]) -> int:
        return int(np.random.default_rng([self.protocol.seed, purpose, *place]).integers(2**62))

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: protocol, data, and the model that training started from."""
        data = json.dumps([self.own, self.other])
        return {"protocol": dataclasses.asdict(self.protocol), "data": hashlib.sha256(data.encode()).hexdigest(),
                "weights": {name: list(weight.shape) for name, weight in self.weights.items()},
                "dtype": sorted({str(weight.dtype) for weight in self.model.parameters()}), "start": self.start}

    def store(self, path: Path) -> None:
        """Write weights, both moments, losses and curves so far; the first process does it for all."""
        if not self.processes.first:
            return
        tensors = training_state.training_state(self.weights, self.optimiser)
        exact = {name: tensor.cpu().float() for name, tensor in tensors.items()}  # bfloat16 fits into float32
        training_state.save(path, exact, self.identity(), {"losses": self.losses, "curves": dict(self.curves)})

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of this very run."""
        tensors, progress = training_state.load(path, self.identity())
        training_state.restore_training(self.weights, self.optimiser, tensors)
        self.losses = list(progress["losses"])
        for name, values in self.curves.items():
            values[:] = progress.get("curves", {}).get(name, [])


def _fingerprint(model: nn.Module, values: int = 64) -> str:
    """Digest of names, shapes, precisions and a few values, evenly spaced, of all weights that a run starts from.

    Adapters are left out: the seed draws them, and differently on each device. Where all is trained, all counts.
    """
    weights = dict(model.named_parameters())
    digest = hashlib.sha256()
    for name, weight in ({name: weight for name, weight in weights.items() if not weight.requires_grad}
                         or weights).items():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // values)].cpu().double()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()
