"""Checkpoints of a training run: one file, written whole or not at all, and refused unless it fits.

A checkpoint is a safetensors file whose metadata hold a JSON record: what run it belongs to, how far it is,
and a digest of all of it. It is written beside its place and moved there in one step, so that a run killed
at any moment leaves the previous checkpoint or the next one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from lib.record import provenance

_RECORD, _DIGEST = "record", "digest"
SECONDS = 20.0  # between checkpoints


class CheckpointError(ValueError):
    """A checkpoint that must not be resumed from; it is left as it was."""


class Checkpoint:
    """The checkpoint of one run: saved now and then, gone on from, removed when the result is safe.

    :param path: where it lies; without a path nothing is kept, and every call does nothing
    :param identity: everything that fixes what is computed; a run that differs in any of it cannot resume from here
    :param kept: nor one that differs in what is kept along the way, such as how often it measures
    :ivar seconds: that the run took until this process went on with it
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> None:
        self.path, self.identity, self.kept, self.seconds = path, dict(identity), dict(kept or {}), 0.0
        self._start = self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and progress, where there are some.

        :raises CheckpointError: as `load` does
        """
        if self.path is None or not self.path.exists():
            return None
        tensors, progress = load(self.path, {**self.identity, **self.kept})
        self.seconds = progress.pop("seconds", 0.0)
        return tensors, progress

    def due(self) -> bool:
        """Whether the last one was written long enough ago."""
        return self.path is not None and time.monotonic() - self._saved > SECONDS

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Write one in the place of the last."""
        if self.path is not None:
            seconds = self.seconds + time.monotonic() - self._start
            save(self.path, tensors, {**self.identity, **self.kept}, {**progress, "seconds": seconds})
            self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove it: its run is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def save(path: Path, tensors: Mapping[str, Tensor], identity: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Write a checkpoint in one step.

    :param identity: everything that fixes the run; a run that differs in any of it cannot resume from here
    :param progress: what else the run needs to go on
    :raises OSError: naming ``path``, where it cannot be written
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = json.dumps({"identity": dict(identity), "progress": dict(progress)}, sort_keys=True, default=str)
    metadata = {_RECORD: record, _DIGEST: _digest(record, tensors)}
    with provenance.replacing(path) as draft:
        try:
            save_file(tensors, draft, metadata=metadata)
        except SafetensorError as error:  # such as a full disk
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number)) from error


def training_state(weights: Mapping[str, Tensor], optimiser: Optimizer) -> dict[str, Tensor]:
    """Weights and what an optimiser keeps of each (AdamW: step and both moments), as tensors of a checkpoint."""
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        tensors |= {f"{key}.{name}": value for key, value in optimiser.state[weight].items()}
    return tensors


@torch.no_grad()
def restore_training(weights: Mapping[str, Tensor], optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Fill weights and AdamW's state with what `training_state` gave; moments go where their weights are."""
    for name, weight in weights.items():
        weight.copy_(tensors[f"weight.{name}"])
        moments = {key: tensors[f"{key}.{name}"].to(weight) for key in ("exp_avg", "exp_avg_sq")}
        optimiser.state[weight] = {"step": tensors[f"step.{name}"], **moments}


def load(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and progress of the run that ``identity`` describes.

    :raises CheckpointError: for a cut or altered file, or one of another run; the message names file and
      difference
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error}); delete it to start again") from None
    record = metadata.get(_RECORD, "")
    if metadata.get(_DIGEST) != _digest(record, tensors):
        raise CheckpointError(f"{path}: altered after it was written; delete it to start again")
    content = json.loads(record)
    _same_run(path, content["identity"], json.loads(json.dumps(dict(identity), default=str)))
    return tensors, content["progress"]


def _same_run(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differing = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
    if differing:
        what = "; ".join(f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in differing)
        raise CheckpointError(f"{path}: a checkpoint of another run ({what}); move it away or use its settings")


def _digest(record: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
