"""Tests compute on one thread each: pytest runs several at once, and threads that fight are slower than none."""

import json

import pytest
import torch

from lib.one_layer.training import Trainer

torch.set_num_threads(1)


@pytest.fixture
def interrupted(monkeypatch):
    """Run something until the training step of that number, counted from its start, is interrupted by hand."""

    def until(stop, made):
        advance, count = Trainer.step, iter(range(1000))

        def failing(self):
            if next(count) == stop:
                raise KeyboardInterrupt
            return advance(self)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "step", failing)
            made()

    return until


@pytest.fixture
def content():
    """What a recorded result holds but for its provenance, which differs from run to run."""
    return lambda path: {key: value for key, value in json.loads(path.read_text()).items() if key != "provenance"}
