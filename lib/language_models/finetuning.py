"""Forward-only fine-tuning with LoRA (App. D.2), for masked and for causal models.

A training example is a prompt and its completion ("Ana's child is" and " Bob."). Two masked objectives are offered,
because the paper needs one and LLaDA publishes the other:

* ``response``: only the completion is masked, as in LLaDA's published fine-tuning: t uniform, masking probability
  p = (1 - LEAST_MASKED) t + LEAST_MASKED, cross-entropy weighted by 1/p and by one over the answer's length, end
  tokens after the answer attended and trained. The left entity is never asked for;
* ``any``: every token may be masked, so the paper's forward query ("[M]'s child is Bob") is among the questions.

Causal models predict the next token of the completion (``response``) or of the whole sentence (``any``).

The text of the paper lost its rank, scaling, rates and epochs; those of `FineTuningConfig` are chosen here, and each
can be set. Every draw is a function of seed, step and forward pass, so a run that is resumed is the run that was
interrupted, and several processes that share the passes of a step (`lib.language_models.training_loop`) make the run
that one would make alone.

Adapters stay beside the weights instead of being merged into them (`load_adapters`): in bfloat16 a merged weight would
lose most of what a small adapter adds.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.language_models import checkpoints, queries
from lib.language_models.facts import Example
from lib.language_models.training_loop import Pass, Processes, TrainingRun, train
from lib.record import options
from lib.record.training_state import Checkpoint

LEAST_MASKED = 1e-3  # LLaDA's masking probability never falls below this
MASKING = ("response", "any")
MOST_EXAMPLES = 2**20  # of a step


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    """What fixes a fine-tuning run but for model and data."""

    rank: int = 16  # of the adapters; 0 trains every weight instead
    scaling: int = 32  # alpha; the adapters' output is multiplied by alpha / rank
    dropout: float | int = 0.0  # on the adapters' input
    learning_rate: float = 1e-4  # of AdamW, after the warm-up
    weight_decay: float | int = 0.01  # of AdamW
    epochs: int = 10  # passes over the training sentences
    batch: int = 8  # examples a forward pass
    accumulation: int = 1  # forward passes a step, shared by the processes of a run
    warmup: int = 10  # steps over which the learning rate rises
    clip: float = 1.0  # norm to which gradients are cut
    masking: str = options.option("response", choices=MASKING)  # what may be masked
    replay: float | int = 0.0  # share of each batch taken from other text
    seed: int = 0  # of adapters, order, masks and dropout

    def __post_init__(self) -> None:
        options.one_of(self, masking=MASKING)
        options.check_seeds([self.seed])
        options.at_least(self, rank=0, epochs=1, batch=1, accumulation=1, scaling=1, warmup=0)
        options.within(self, replay="[0, 1)", dropout="[0, 1)", learning_rate="(0, inf)", clip="(0, inf)",
                       weight_decay="[0, inf)")
        total = self.batch * self.accumulation
        if total > MOST_EXAMPLES:
            raise ValueError(f"batch: {total} examples a step (batch times accumulation), at most {MOST_EXAMPLES}")
        if round(total * self.replay) == total:
            raise ValueError(f"replay {self.replay} leaves no room in a batch of {total}")


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
    """Examples in tokens, each with one end token after it.

    :raises ValueError: if there are none
    """
    if not examples:
        raise ValueError("no examples to train on")
    found = []
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"]
        completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        found.append(TokenisedExample((*prompt, *completion, tokenizer.eos_token_id), len(prompt)))
    return found


def padded(chosen: Sequence[TokenisedExample], end: int, device: torch.device | str = "cpu") -> PaddedBatch:
    """Sentences side by side, all as long as the longest; ``end`` is the id of the end token."""
    length = max(len(sentence.ids) for sentence in chosen)
    ids = torch.tensor([[*sentence.ids, *[end] * (length - len(sentence.ids))] for sentence in chosen])
    place = torch.arange(length)
    answer = place >= torch.tensor([sentence.prompt for sentence in chosen])[:, None]
    shown = place < torch.tensor([len(sentence.ids) for sentence in chosen])[:, None]
    return PaddedBatch(ids.to(device), answer.to(device), shown.to(device))


def batches(own: int, other: int, config: FineTuningConfig, step: int) -> tuple[list[int], list[int]]:
    """Which sentences a step takes: of its own, in an order drawn anew each epoch, and of the replayed text.

    :param own: how many sentences there are to learn
    :param other: how many there are to replay
    """
    total = config.batch * config.accumulation
    replayed = round(total * config.replay) if other else 0
    first = step * (total - replayed)
    mine = []
    for place in range(first, first + total - replayed):
        order = np.random.default_rng([config.seed, 0, place // own]).permutation(own)
        mine.append(int(order[place % own]))
    rng = np.random.default_rng([config.seed, 1, step])
    return mine, rng.integers(other, size=replayed).tolist() if replayed else []


def step_count(own: int, config: FineTuningConfig) -> int:
    """Optimiser steps of a run: ``epochs`` passes over ``own`` sentences."""
    total = config.batch * config.accumulation
    return -(-own * config.epochs // (total - round(total * config.replay)))


# Objectives --------------------------------------------------------------------------------------------------


def masked_loss(
    model: nn.Module, given: PaddedBatch, mask: int, masking: str, rng: torch.Generator
) -> Float[Tensor, ""]:
    """LLaDA's fine-tuning loss (Nie et al. 2025, Sec. 2.3), the mean over sentences of

        1 / (p |A|) * sum over masked i of -log p(x_i | x_t),

    A being the tokens that may be masked: the completion, or with ``any`` the whole sentence.

    :param mask: id of the mask token
    """
    maskable = given.answer if masking == "response" else torch.ones_like(given.answer)  # A
    # t ~ U(0, 1) for each sentence, and the masking probability p that it stands for
    time = torch.rand(len(given.ids), generator=rng)
    p = ((1 - LEAST_MASKED) * time + LEAST_MASKED)[:, None].expand(given.ids.shape)
    # x_t: every token of A is masked with probability p
    hidden = (torch.rand(given.ids.shape, generator=rng) < p).to(given.ids.device) & maskable
    logits = queries.aligned_logits(model, model(input_ids=given.ids.masked_fill(hidden, mask)).logits)
    # -log p(x_i | x_t) at the masked places, each weighted by 1 / (p |A|)
    losses = nn.functional.cross_entropy(logits[hidden].float(), given.ids[hidden], reduction="none")
    weights = (1 / p.to(losses.device) / maskable.sum(1, keepdim=True))[hidden]
    return (losses * weights).sum() / len(given.ids)


def next_token_loss(model: nn.Module, given: PaddedBatch, masking: str) -> Float[Tensor, ""]:
    """Mean of -log p(x_i | x_<i) over the completion and its end token, or with ``any`` over all but the first."""
    wanted = given.shown & (given.answer if masking == "response" else torch.ones_like(given.answer))
    logits = model(input_ids=given.ids, attention_mask=given.shown.long()).logits
    # row i - 1 of the logits predicts x_i, so nothing predicts the first token
    logits, wanted, targets = logits[:, :-1], wanted[:, 1:], given.ids[:, 1:]
    return nn.functional.cross_entropy(logits[wanted].float(), targets[wanted])


# The run -----------------------------------------------------------------------------------------------------


def finetune(
    model: Any, tokenizer: Any, examples: Sequence[Example], config: FineTuningConfig, *,
    replay: Sequence[Example] = (), checkpoint: Checkpoint | None = None, every: int = 50, keep: bool = False,
    on_step: Callable[[int, float], None] | None = None, curves: Mapping[str, list] | None = None,
    processes: Processes | None = None,
) -> list[float]:
    """Train what is trainable in ``model`` (see `add_adapters`) on examples in the trained direction.

    :param replay: other text, mixed in at the share that the configuration says
    :param checkpoint: with ``every``, ``keep`` and ``on_step``, as in `lib.language_models.training_loop.train`
    :param curves: lists that ``on_step`` appends to; a resumed run fills them again
    :param processes: those that share the run, each called with the same arguments
    :return: the loss of every step
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ValueError: for fewer passes a step than processes, or nothing to replay or to train
    :raises ArithmeticError: if the run diverges; the last checkpoint stays
    """
    own, other = sentences(examples, tokenizer), sentences(replay, tokenizer) if replay else []
    run = finetuning_run(model, tokenizer, config, own, other, processes=processes, curves=curves)
    return train(run, step_count(len(own), config), checkpoint=checkpoint, every=every, keep=keep, on_step=on_step)


def finetuning_run(
    model: Any, tokenizer: Any, config: FineTuningConfig, own: Sequence[TokenisedExample],
    other: Sequence[TokenisedExample] = (), *, processes: Processes | None = None,
    curves: Mapping[str, list] | None = None,
) -> TrainingRun:
    """The run that `finetune` makes, before its first step.

    :param own: sentences to learn
    :param other: sentences to replay
    :raises ValueError: as `finetune`
    """
    processes = processes or Processes()
    if config.accumulation < processes.count:
        raise ValueError(f"accumulation={config.accumulation} leaves some of {processes.count} processes "
                         "without work; take a smaller batch and a multiple of the processes")
    if config.replay and not other:
        raise ValueError(f"replay is {config.replay} but no text to replay is given")

    def passes(step: int) -> list[Pass]:
        mine, replayed = batches(len(own), len(other), config, step)
        chosen = [own[i] for i in mine] + [other[i] for i in replayed]
        parts = [chosen[i : i + config.batch] for i in range(0, len(chosen), config.batch)]
        return [Pass(len(part) / len(chosen), functools.partial(_loss, model, tokenizer, config, part, (step, place)))
                for place, part in enumerate(parts)]

    return TrainingRun(
        model, passes, lambda step: config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup)),
        clip=config.clip, weight_decay=config.weight_decay, identity=_identity(model, config, own, other),
        processes=processes, curves=curves)


def _loss(model: Any, tokenizer: Any, config: FineTuningConfig, part: Sequence[TokenisedExample],
          place: tuple[int, int]) -> Float[Tensor, ""]:
    """The loss of one pass; ``place`` is its step and its number within it, of which all its draws are functions."""
    seeds = [int(np.random.default_rng([config.seed, purpose, *place]).integers(2**62)) for purpose in (2, 3)]
    given = padded(part, tokenizer.eos_token_id, next(model.parameters()).device)
    torch.manual_seed(seeds[0])  # dropout
    if tokenizer.mask_token_id is None:
        return next_token_loss(model, given, config.masking)
    rng = torch.Generator().manual_seed(seeds[1])
    return masked_loss(model, given, tokenizer.mask_token_id, config.masking, rng)


def _identity(model: nn.Module, config: FineTuningConfig, own: Sequence[TokenisedExample],
              other: Sequence[TokenisedExample]) -> dict[str, Any]:
    """What a checkpoint must agree with: configuration, data, and the model that training starts from."""
    data = json.dumps([own, other])
    return {"protocol": dataclasses.asdict(config), "data": hashlib.sha256(data.encode()).hexdigest(),
            "weights": {name: list(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad},
            "dtype": sorted({str(weight.dtype) for weight in model.parameters()}), "start": _fingerprint(model)}


def _fingerprint(model: nn.Module, values: int = 64) -> str:
    """Digest of names, shapes, precisions and a few values, evenly spaced, of all weights that a run starts from.

    Adapters are left out: the seed draws them, and differently on each device. Where all is trained, all counts.
    """
    weights = dict(model.named_parameters())
    frozen = {name: weight for name, weight in weights.items() if not weight.requires_grad}
    digest = hashlib.sha256()
    for name, weight in (frozen or weights).items():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // values)].cpu().double()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


# Adapters ----------------------------------------------------------------------------------------------------

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapters(model: Any, config: FineTuningConfig) -> Any:
    """The model with adapters on every linear map but the unembedding; with rank 0, as it is, all of it trainable.

    :raises ValueError: for a rank above every dimension of these maps
    """
    if config.rank == 0:
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    unembedding = model.get_output_embeddings()
    targets = {name: max(module.weight.shape) for name, module in model.named_modules()
               if isinstance(module, nn.Linear) and module is not unembedding}
    if config.rank > max(targets.values()):
        raise ValueError(f"rank {config.rank} is above the largest dimension of this model, {max(targets.values())}")
    torch.manual_seed(config.seed)  # peft draws the adapters from the global stream
    settings = LoraConfig(r=config.rank, lora_alpha=config.scaling, lora_dropout=float(config.dropout),
                          target_modules=list(targets))
    return get_peft_model(model, settings)


def is_adapter(name: str) -> bool:
    """Does a parameter of a model with adapters belong to them?"""
    return ".lora_" in name


def load_adapters(model: Any, folder: Path) -> None:
    """Give a loaded model the adapters that a run of `lib.language_models.reversal_run` left in a folder, in place.

    :raises FileNotFoundError: if there are none
    :raises ValueError: for damaged files, or adapters of another model; names the file
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / _WEIGHTS
    fields = checkpoints.read_fields(folder / _CONFIG, "so these are no adapters")
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{folder / _CONFIG}: peft_type={fields.get('peft_type')!r}, but LORA is what is trained here")
    stored = checkpoints.tensor_shapes(path, "train them again")
    try:
        adapted = get_peft_model(model, LoraConfig.from_pretrained(str(folder)))
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder / _CONFIG}: does not fit this model ({reason})") from None
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _check_shapes(path, stored, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: tensor {name!r} is not finite; train it again with a lower learning rate")
    set_peft_model_state_dict(adapted, tensors)
    model.eval()


def _check_shapes(path: Path, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted({*stored, *expected}):
        if stored.get(name) != expected.get(name):
            raise ValueError(f"{path}: adapters of another model: {name} is {stored.get(name, 'missing')} there, "
                             f"{expected.get(name, 'missing')} in this model")
