"""Attention opened step by step: what is seen at the beginning, in between and at the end, and that draws repeat."""

import pytest
import torch

from lib.language_models import checkpoints, random_checkpoints
from lib.language_models.attention_opening import AttentionOpening, visible


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    model, _ = checkpoints.load(random_checkpoints.tiny(
        tmp_path_factory.mktemp("opening") / "model", "llama", width=16, scale=0.3))
    model.config.is_causal = False
    return model.train()


IDS = torch.arange(5, 17).reshape(2, 6)


def hidden(model, **given):
    torch.manual_seed(0)
    with torch.no_grad():
        return model.model(input_ids=IDS, **given).last_hidden_state


def sees(model, source, target, **given):
    """Does another token at one place change what is computed at another?"""
    def at(ids):
        torch.manual_seed(0)
        with torch.no_grad():
            return model.model(input_ids=ids, **given).last_hidden_state[0, target]
    other = IDS.clone()
    other[0, source] = 40
    return not torch.equal(at(IDS), at(other))


def test_attention_is_to_the_left_at_first_and_to_both_sides_at_last(masked):
    whole = hidden(masked)
    opening = AttentionOpening(masked, 8)
    try:
        assert not sees(masked, 4, 2) and sees(masked, 2, 4)
        narrow = hidden(masked)
        opening.before(4)
        half = hidden(masked)
        assert torch.equal(half, hidden(masked))  # the same draws, the same seed
        opening.before(8)
        assert sees(masked, 4, 2) and torch.equal(hidden(masked), whole)
        assert len({float(each.sum()) for each in (narrow, half, whole)}) == 3
        opening.before(0)
        masked.eval()
        assert torch.equal(hidden(masked), whole)  # what is measured in between is the open model
    finally:
        masked.train()
        opening.close()
    assert torch.equal(hidden(masked), whole)


def test_padding_stays_unseen(masked):
    padded = {"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]] * 2)}
    opening = AttentionOpening(masked, 8)
    try:
        opening.before(7)
        assert not sees(masked, 5, 2, **padded) and sees(masked, 1, 4, **padded)
    finally:
        opening.close()


def test_the_share_of_what_is_seen_to_the_right():
    torch.manual_seed(0)
    shown = visible(torch.zeros(50, 30, dtype=torch.long), 0.3)
    assert shown.shape == (50, 1, 30, 30) and shown.dtype == torch.bool
    right = torch.ones(30, 30, dtype=torch.bool).triu(1)
    assert shown[:, 0, ~right].all()
    assert float(shown[:, 0, right].double().mean()) == pytest.approx(0.3, abs=0.02)  # 21,750 draws: sd .003
    assert not torch.equal(shown[0], shown[1])
    assert not visible(torch.zeros(1, 9, dtype=torch.long), 0.0)[0, 0].triu(1).any()
