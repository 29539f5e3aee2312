"""The first layer's scores against Theorem 4.3."""

import pytest
import torch

from lib.language_models import checkpoints, first_layer_scores, random_checkpoints

torch.set_num_threads(1)


def test_the_first_layer_follows_the_theorem(tmp_path):
    model, tokenizer = checkpoints.load(random_checkpoints.tiny(tmp_path / "x", "llada", width=128, heads=2, layers=2))
    mask = tokenizer.mask_token_id
    for distance in (1, 6):
        measured = first_layer_scores.first_layer_correlation(model, mask, distance, range(500), 10)
        predicted = first_layer_scores.first_layer_prediction(model, mask, distance)
        assert measured == pytest.approx(predicted, abs=0.12)
    assert len(model.model.layers) == 2
    assert first_layer_scores.first_layer_prediction(model, mask, 0) == pytest.approx([1, 1])
