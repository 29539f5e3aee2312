"""Attention maps show the weights that the model itself computes, on the queries that they name."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lib.one_layer import figures_maps, task
from lib.one_layer.kept_models import centred_pairs, read_queries
from lib.one_layer.model import ModelConfig, Transformer, initialise

LENGTH = 6
FRAMES = {"forward": 1, "reverse": 4}  # row of the mask at distance 3


@pytest.fixture(scope="module")
def model():
    """Untrained weights, made large enough for its attention weights to differ."""
    found = initialise(Transformer(ModelConfig(length=LENGTH, width=16, mlp=False)), 0)
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(2)
    return found


@pytest.fixture
def panels(model):
    figure = figures_maps.attention_maps(model, letter=5)
    yield dict(zip(task.DIRECTIONS, figure.axes[:2], strict=True))
    plt.close(figure)


def test_a_map_holds_the_models_own_weights(model):
    for asked in centred_pairs(LENGTH, 5, [3]):
        scores = model.record(asked.tokens, "attention.scores")["attention.scores"][0][0, 0].detach()
        weights = figures_maps.attention_map(model, asked)
        torch.testing.assert_close(weights, scores.softmax(-1))
        torch.testing.assert_close(weights[asked.position[0]], read_queries(model, asked).weights[0])
        assert weights[asked.position[0]].max() - weights[asked.position[0]].min() > 0.01


def test_both_maps_show_their_query_on_one_scale(model, panels):
    for (way, axes), asked in zip(panels.items(), centred_pairs(LENGTH, 5, [3]), strict=True):
        (picture,) = axes.images
        np.testing.assert_allclose(np.array(picture.get_array()), figures_maps.attention_map(model, asked).numpy())
        assert picture.get_clim() == (0, 1)
        spelled = {"forward": "0_00F0", "reverse": "0F00_0"}[way]
        assert "".join(text.get_text() for text in axes.get_xticklabels()) == spelled
        assert "".join(text.get_text() for text in axes.get_yticklabels()) == spelled


def test_the_masks_row_is_framed_and_its_weight_on_the_evidence_written(model, panels):
    for (way, axes), asked in zip(panels.items(), centred_pairs(LENGTH, 5, [3]), strict=True):
        (frame,) = axes.patches
        assert (frame.get_x(), frame.get_y()) == (-0.5, FRAMES[way] - 0.5)
        assert (frame.get_width(), frame.get_height()) == (LENGTH, 1)
        (written,) = axes.texts
        assert written.get_position() == (int(asked.evidence), FRAMES[way])
        weight = figures_maps.attention_map(model, asked)[FRAMES[way], int(asked.evidence)]
        assert written.get_text() == f"{weight:.2f}"


def test_the_title_says_what_the_model_answers(model, panels):
    for (way, axes), asked in zip(panels.items(), centred_pairs(LENGTH, 5, [3]), strict=True):
        chances = model(asked.tokens).logits[0, asked.position[0]].softmax(-1)
        assert axes.get_title() == f"{way} query: $p(f)={chances[5]:.2f}$, $p(0)={chances[task.PLACEHOLDER]:.2f}$"


def test_what_has_no_such_map_is_refused(model):
    forward, _ = centred_pairs(LENGTH, 5, [1, 2])
    with pytest.raises(ValueError, match="one query, not 2"):
        figures_maps.attention_map(model, forward)
    with pytest.raises(ValueError, match="distance must lie between 1 and 5, not 6"):
        figures_maps.attention_maps(model, distance=6)
    deep = initialise(Transformer(ModelConfig(length=LENGTH, width=16, depth=2)), 0)
    with pytest.raises(ValueError, match="depth 1"):
        figures_maps.attention_maps(deep)
