"""Weights kept along training, so that a finished run can be measured again and in other ways.

A folder holds one file a measured step, a checkpoint (`lib.record.training_state`) that names its run: the weights and
their moving average. Snapshots are for the machine that trained; the record in ``results/`` never needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.record import training_state

KEPT = ("weights", "average")


class Snapshot(NamedTuple):
    """All members of a run after ``step`` steps."""

    step: int
    raw: Ensemble
    averaged: Ensemble


def keep_snapshot(folder: Path | None, tensors: Mapping[str, Tensor], identity: Mapping[str, Any], step: int) -> None:
    """Write one snapshot; without a folder, do nothing.

    :param tensors: of a trainer; `KEPT` are written
    :param identity: everything that fixes the run
    """
    if folder is not None:
        kept = {name: tensors[name] for name in KEPT}
        training_state.save(folder / f"step_{step:06d}.safetensors", kept, identity, {"step": step})


def read_snapshots(folder: Path, settings: ModelConfig, identity: Mapping[str, Any]) -> Iterator[Snapshot]:
    """Snapshots in the order of their steps.

    :raises FileNotFoundError: if the folder holds none
    :raises lib.record.training_state.CheckpointError: for a cut or altered file, or one of another run
    """
    files = sorted(folder.glob("step_*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: no snapshots; `python -m lib.one_layer.experiment --snapshots {folder}` makes them")
    for file in files:
        tensors, progress = training_state.load(file, identity)
        yield Snapshot(progress["step"], *(Ensemble(settings, tensors[name]) for name in KEPT))
