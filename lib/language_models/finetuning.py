"""Forward-only fine-tuning with LoRA (App. D.2), for masked and for causal models.

What is asked of a sentence is a choice (`lib.language_models.objectives`): LLaDA publishes one objective, and the paper
needs another.

The text of the paper lost its rank, scaling, rates and epochs; those of `FineTuningConfig` are chosen here, and each
can be set. Every draw is a function of seed, step and forward pass, so a run that is resumed is the run that was
interrupted, and several processes that share the passes of a step (`lib.language_models.training_loop`) make the run
that one would make alone.

Adapters stay beside the weights instead of being merged into them (`load_adapters`): in bfloat16 a merged weight would
lose most of what a small adapter adds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.language_models import checkpoint_files, checkpoints, objectives
from lib.language_models.facts import Example
from lib.language_models.objectives import EVERY_MASKING, TokenisedExample
from lib.language_models.training_loop import Pass, Processes, TrainingRun, train
from lib.record import accepted, options, processor, provenance
from lib.record.training_state import Checkpoint

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
    cooling: float | int = 0.0  # last part of the steps, over which it falls
    autocast: bool = False  # products in bfloat16, where the device multiplies it by itself; weights as they are
    clip: float = 1.0  # norm to which gradients are cut
    masking: str = options.option("response", choices=EVERY_MASKING)  # what may be masked
    replay: float | int = 0.0  # share of each batch taken from other text
    seed: int = 0  # of adapters, order, masks and dropout

    def __post_init__(self) -> None:
        accepted.one_of(self, masking=EVERY_MASKING)
        accepted.at_least(self, seed=0, rank=0, epochs=1, batch=1, accumulation=1, scaling=1, warmup=0)
        accepted.check_seeds([self.seed])  # not too large
        accepted.within(self, replay="[0, 1)", dropout="[0, 1)", cooling="[0, 1]", learning_rate="(0, inf)",
                       clip="(0, inf)", weight_decay="[0, inf)")
        total = self.batch * self.accumulation
        if total > MOST_EXAMPLES:
            raise ValueError(f"batch: {total} examples a step (batch times accumulation), at most {MOST_EXAMPLES}")
        if round(total * self.replay) == total:
            raise ValueError(f"replay {self.replay} leaves no room in a batch of {total}")


# Data --------------------------------------------------------------------------------------------------------


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


def rate_of_step(config: FineTuningConfig, steps: int, step: int) -> float:
    """The rate of a step: rising over the warm-up, falling to a twentieth over the last part of the run, if told to."""
    left = (steps - step) / (config.cooling * steps) if config.cooling else 1.0
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup), max(0.05, left))


# The run -----------------------------------------------------------------------------------------------------


def finetune(
    model: Any, tokenizer: Any, examples: Sequence[Example], config: FineTuningConfig, *,
    replay: Sequence[Example] = (), checkpoint: Checkpoint | None = None, every: int = 50, keep: bool = False,
    on_step: Callable[[int, float], None] | None = None, curves: Mapping[str, list] | None = None,
    processes: Processes | None = None, before: Callable[[int], None] | None = None,
) -> list[float]:
    """Train what is trainable in ``model`` (see `add_adapters`) on examples in the trained direction.

    :param replay: other text, mixed in at the share that the configuration says
    :param checkpoint: with ``every``, ``keep`` and ``on_step``, as in `lib.language_models.training_loop.train`
    :param curves: lists that ``on_step`` appends to; a resumed run fills them again
    :param processes: those that share the run, each called with the same arguments
    :param before: called before each step with its number, from 0
    :return: the loss of every step
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ValueError: for fewer passes a step than processes, or nothing to replay or to train
    :raises ArithmeticError: if the run diverges; the last checkpoint stays
    """
    own = objectives.sentences(examples, tokenizer)
    other = objectives.sentences(replay, tokenizer) if replay else []
    run = finetuning_run(model, tokenizer, config, own, other, processes=processes, curves=curves,
                         before=before)
    return train(run, step_count(len(own), config), checkpoint=checkpoint, every=every, keep=keep, on_step=on_step)


def finetuning_run(
    model: Any, tokenizer: Any, config: FineTuningConfig, own: Sequence[TokenisedExample],
    other: Sequence[TokenisedExample] = (), *, processes: Processes | None = None,
    curves: Mapping[str, list] | None = None, before: Callable[[int], None] | None = None,
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
        if before is not None:
            before(step)
        mine, replayed = batches(len(own), len(other), config, step)
        chosen = [own[i] for i in mine] + [other[i] for i in replayed]
        parts = [chosen[i : i + config.batch] for i in range(0, len(chosen), config.batch)]
        return [Pass(len(part) / len(chosen), functools.partial(_loss, model, tokenizer, config, part, (step, place)))
                for place, part in enumerate(parts)]

    return TrainingRun(
        model, passes, functools.partial(rate_of_step, config, step_count(len(own), config)),
        clip=config.clip, weight_decay=config.weight_decay, identity=_identity(model, config, own, other),
        processes=processes, curves=curves)


def _loss(model: Any, tokenizer: Any, config: FineTuningConfig, part: Sequence[TokenisedExample],
          place: tuple[int, int]) -> Float[Tensor, ""]:
    """The loss of one pass; ``place`` is its step and its number within it, of which all its draws are functions."""
    seeds = [int(np.random.default_rng([config.seed, purpose, *place]).integers(2**62)) for purpose in (2, 3)]
    device = next(model.parameters()).device
    given = objectives.padded(part, tokenizer.eos_token_id, device)
    torch.manual_seed(seeds[0])  # dropout
    rng = torch.Generator().manual_seed(seeds[1])
    rough = config.autocast and processor.multiplies_bfloat16(device)
    with torch.autocast(device.type, torch.bfloat16) if rough else contextlib.nullcontext():
        return objectives.batch_loss(model, given, tokenizer.mask_token_id, config.masking, rng)


def _identity(model: nn.Module, config: FineTuningConfig, own: Sequence[TokenisedExample],
              other: Sequence[TokenisedExample]) -> dict[str, Any]:
    """What a checkpoint must agree with: configuration, data, and the model that training starts from."""
    data = json.dumps([own, other])
    return {"protocol": dataclasses.asdict(config), "data": hashlib.sha256(data.encode()).hexdigest(),
            "weights": {name: list(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad},
            "dtype": sorted({str(weight.dtype) for weight in model.parameters()}), "start": fingerprint(model)}


def fingerprint(model: nn.Module, values: int = 64) -> str:
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


def save_trained(adapted: Any, tokenizer: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write what was trained: the adapters (`save_adapters`), or where there are none the whole model.

    `load_adapters` reads the first, `lib.language_models.checkpoints.load` the second. A whole model takes the place of
    everything in its folder: what a run that was interrupted here has left.

    :param dtype: that adapters are rounded to; their own where not given
    :raises OSError: naming the file, if it cannot be written
    """
    if any(is_adapter(name) for name, _ in adapted.named_parameters()):
        save_adapters(adapted, folder, dtype)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints.save(adapted, tokenizer, folder)


def save_adapters(adapted: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model's adapters into a folder, whole or not at all, in place of those that are there; all else stays.

    :param dtype: that they are rounded to; their own where not given
    :raises OSError: naming the file, if it cannot be written
    """
    with provenance.replacing(folder / _CONFIG) as draft:
        adapted.save_pretrained(draft.parent, save_embedding_layers=False)
        weights = draft.with_name(_WEIGHTS)
        if dtype is not None:
            rounded = {name: tensor.to(dtype) for name, tensor in load_file(weights).items()}
            save_file(rounded, weights, {"format": "pt"})
        (folder / _CONFIG).unlink(missing_ok=True)  # adapters without it are none: never the parts of two
        weights.replace(folder / _WEIGHTS)


def load_adapters(model: Any, folder: Path) -> None:
    """Give a loaded model the adapters that a run of `lib.language_models.reversal_run` left in a folder, in place.

    :raises FileNotFoundError: if there are none
    :raises ValueError: for damaged files, or adapters of another model; names the file
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / _WEIGHTS
    fields = checkpoint_files.read_fields(folder / _CONFIG, "so these are no adapters")
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{folder / _CONFIG}: peft_type={fields.get('peft_type')!r}, but LORA is what is trained here")
    stored = checkpoint_files.tensor_shapes(path, "train them again")
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
