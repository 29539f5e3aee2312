"""Every draw gone through once, against sums over masks by hand and against random draws."""

import itertools

import numpy as np
import pytest
import torch

from lib.one_layer import exhaustive, objectives, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig

torch.set_num_threads(1)


def model():
    made = Ensemble.from_seeds(ModelConfig(length=3, width=8), [0])
    made.flat.add_(0.3 * torch.randn(made.flat.shape, generator=torch.Generator().manual_seed(0)))
    return made.member(0)


def by_hand(spelled, weight):
    """Sum over sets of masks, each with a weight, of the nats of its masked tokens."""
    made, tokens, total = model(), task.read(spelled), 0.0
    for masked in itertools.product((False, True), repeat=len(spelled)):
        hidden = torch.tensor(masked)
        if hidden.any():
            logs = made(tokens.masked_fill(hidden, task.MASK)[None]).logits[0].log_softmax(-1).detach()
            total += weight(sum(masked)) * -float(logs[torch.arange(3), tokens][hidden].sum())
    return total


@pytest.mark.parametrize("spelled", ["dD0", "0aA"])
def test_losses_are_sums_over_masks(spelled):
    # E over lambda of lambda^(k-1) (1 - lambda)^(3-k): Beta(k, 4 - k)
    beta = {1: 1 / 3, 2: 1 / 6, 3: 1 / 3}
    bound = by_hand(spelled, beta.get)
    for loss in ("masked_diffusion", "t_dce", "lambda_dce"):
        assert exhaustive.expected(loss, model(), spelled) == pytest.approx(bound, rel=1e-4), loss
    fixed = by_hand(spelled, lambda k: objectives.RATE ** (k - 1) * (1 - objectives.RATE) ** (3 - k))
    assert exhaustive.expected("fixed_rate", model(), spelled) == pytest.approx(fixed, rel=1e-4)
    assert abs(by_hand(spelled, lambda k: 1 / 3) - bound) > 0.1 * bound  # weights matter


def test_every_set_of_masks_is_met_equally_often_given_its_size():
    asked = exhaustive.every_draw("masked_diffusion")
    masks, counts = np.unique(asked.tokens == task.MASK, axis=0, return_counts=True)
    assert len(masks) == 7
    for size in (1, 2, 3):
        same = counts[masks.sum(1) == size]
        assert len(set(same.tolist())) == 1 and same.sum() == len(asked.tokens) / 3
