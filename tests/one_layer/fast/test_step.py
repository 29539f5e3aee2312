"""The memory and the tables of the step that is written out; its loss and gradient are in test_ensemble.py."""

import numpy as np
import pytest
import torch

from lib.one_layer import objectives, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.fast import step
from lib.one_layer.model import ModelConfig


def test_an_empty_question_is_refused():
    tokens = task.sequences(3, 4, np.random.default_rng(0))
    nothing = objectives.mask_tokens(tokens, np.ones(tokens.shape, dtype=bool), np.zeros(3))
    with pytest.raises(ValueError, match="batch: not a single position is asked for"):
        Ensemble.from_seeds(ModelConfig(length=4, width=8), [0]).loss_and_gradient([nothing], 3)


def test_a_workspace_keeps_its_memory_and_grows():
    workspace = step.Workspace(ModelConfig(length=4, width=8))
    a = workspace(4)
    assert a.hidden.tensor.shape == (4, 32) and a.attended.tensor.data_ptr() != a.mlp_input.tensor.data_ptr()
    assert all(one.array.ctypes.data == one.tensor.data_ptr() and one.array.shape == one.tensor.shape for one in a)
    assert workspace(4) is a and workspace(2).attended.tensor.data_ptr() == a.attended.tensor.data_ptr()
    assert len(workspace(40).logits.array) == 40 and len(workspace(4).attended.array) == 4
    assert workspace(4).attended.tensor.data_ptr() == workspace(40).attended.tensor.data_ptr()


@pytest.mark.parametrize("absolute", [False, True])
def test_places_and_strides_meet_every_entry_of_the_table(absolute):
    length = 4
    tokens = torch.arange(task.TOKENS)[:, None, None] * step.stride(length, absolute)
    found = (step.places(length, absolute) + tokens).unique()
    size = task.TOKENS * (length * length if absolute else 2 * length - 1)
    assert torch.equal(found, torch.arange(size))
