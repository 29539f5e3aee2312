"""Layer by layer: one layer gives what `lib.one_layer.metrics` gives, and every layer is heard."""

import pytest
import torch

from lib.one_layer import layers, metrics
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig

torch.set_num_threads(1)


def ensemble(**settings):
    return Ensemble.from_seeds(ModelConfig(**{"length": 4, "width": 8, **settings}), (0, 1))


@pytest.mark.parametrize("settings", [{}, {"heads": 2}, {"encoding": "learned"}], ids=str)
@pytest.mark.parametrize("shift", [0, 1])
def test_one_layer_agrees_with_the_measurement(settings, shift):
    made = ensemble(**settings)
    expected = metrics.score_correlations(made, shift).mean((1, 2))
    assert torch.allclose(layers.score_correlations(made, shift)[:, 0], expected, atol=1e-5)


def test_the_last_layer_is_the_measurements_and_the_first_differs():
    made = ensemble(depth=3)
    found, last = layers.score_correlations(made), metrics.score_correlations(made).mean((1, 2))
    assert found.shape == (2, 3) and torch.allclose(found[:, 2], last, atol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 2], atol=1e-2)
    assert not any(module._forward_hooks for module in made.member(0).modules())


def test_gradient_cosines_are_those_of_one_fact_and_one_layer():
    made = ensemble(depth=2)
    found = layers.by_layer(made)
    model, wanted = made.member(1), []
    forward, reverse = metrics.queries(made.settings)
    for fact in range(26):
        vectors = []
        for asked, other in ((forward, 0), (reverse, 0), (reverse, 1)):
            mine = asked[asked.letter == (fact + other) % 26]
            logits = model(mine.tokens).logits[torch.arange(len(mine)), mine.position]
            loss = torch.nn.functional.cross_entropy(logits, mine.target)
            gradients = torch.autograd.grad(loss, model.layers[1].parameters())
            vectors.append(torch.cat([part.reshape(-1) for part in gradients]))
        wanted.append([torch.nn.functional.cosine_similarity(vectors[0], one, dim=0) for one in vectors[1:]])
    matched, mismatched = torch.tensor(wanted).mean(0).tolist()
    assert found["gradient_cosine_layer_2"][1] == pytest.approx(matched, abs=1e-4)
    assert found["gradient_cosine_mismatched_layer_2"][1] == pytest.approx(mismatched, abs=1e-4)
    assert len(found) == 8
