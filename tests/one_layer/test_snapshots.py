"""Snapshots: what a run keeps comes back, in order, and only to the run that wrote it."""

import pytest
import torch

from lib.one_layer import snapshots
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record import training_state

torch.set_num_threads(1)

SHAPE, RUN = ModelConfig(length=4, width=8), {"steps": 12, "seeds": [0, 1]}


def written(folder):
    trainer, kept = Trainer(SHAPE, TrainingConfig(steps=12, batch=8), [0, 1]), {}
    for step in (2, 10):  # by number, not by name, 2 comes before 10
        while trainer.steps_taken < step:
            trainer.step()
        snapshots.keep_snapshot(folder, trainer.tensors(), RUN, trainer.steps_taken)
        kept[step] = trainer.ensemble.parameters.clone(), trainer.average.clone()
    return kept


def test_snapshots_come_back_in_order(tmp_path):
    kept = written(tmp_path)
    found = list(snapshots.read_snapshots(tmp_path, SHAPE, RUN))
    assert [snapshot.step for snapshot in found] == [2, 10]
    for snapshot in found:
        raw, average = kept[snapshot.step]
        assert torch.equal(snapshot.raw.parameters, raw) and torch.equal(snapshot.averaged.parameters, average)
        assert not torch.equal(raw, average)


def test_without_a_folder_nothing_is_kept(tmp_path):
    snapshots.keep_snapshot(None, {}, RUN, 3)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no snapshots"):
        list(snapshots.read_snapshots(tmp_path, SHAPE, RUN))
    written(tmp_path)
    with pytest.raises(training_state.CheckpointError, match="steps 12 there, 13 here"):
        list(snapshots.read_snapshots(tmp_path, SHAPE, RUN | {"steps": 13}))
    file = tmp_path / "step_000010.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(training_state.CheckpointError, match="step_000010"):
        list(snapshots.read_snapshots(tmp_path, SHAPE, RUN))
