"""The vocabulary's tables: the gradient written by hand against autograd's, for every setting that changes them."""

import pytest
import torch

from lib.encodings import ENCODINGS
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.fast.tables import THROUGH, EnsembleTables, Tables
from lib.one_layer.model import ModelConfig

torch.set_num_threads(1)

CASES = [
    *({"encoding": name, "heads": heads} for name in ENCODINGS for heads in (1, 2)),
    {"encoding": "rope", "norm": False}, {"encoding": "learned", "norm": False},
    {"encoding": "learned", "values": "free"}, {"encoding": "sinusoidal", "values": "free", "heads": 2},
    {"encoding": "rope", "values": "laden", "heads": 2}, {"encoding": "t5", "values": "laden"},
]


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize("settings", CASES, ids=str)
def test_the_gradient_by_hand_is_autograds(settings, seeds):
    made = Ensemble.from_seeds(ModelConfig(**{"length": 5, "width": 8, **settings}), seeds)
    made.parameters.add_(0.3 * torch.randn(made.parameters.shape, generator=torch.Generator().manual_seed(0)))
    by_autograd = EnsembleTables(made.settings, made.weights).forward()
    by_hand = EnsembleTables(made.settings, {name: weight.detach() for name, weight in made.weights.items()})
    draw = torch.Generator().manual_seed(1)
    signals = Tables(*(torch.randn(table.shape, generator=draw) for table in by_hand.forward()))
    names = [name for name in made.weights if name.startswith(THROUGH)]
    expected = torch.autograd.grad(by_autograd, [made.weights[name] for name in names], signals)
    found = {name: torch.full_like(made.weights[name], torch.nan) for name in names}
    by_hand.backward(signals, found)
    for name, slope in zip(names, expected, strict=True):
        assert found[name].shape == slope.shape, name
        assert (found[name] - slope).norm() <= 1e-5 * slope.norm(), name


def test_tables_are_as_small_as_the_encoding_allows():
    shapes = {}
    for name, values in (("rope", "natural"), ("learned", "natural"), ("learned", "free"), ("rope", "laden")):
        made = Ensemble.from_seeds(ModelConfig(length=5, width=8, encoding=name, values=values), [0])
        shapes[name, values] = [tuple(table.shape) for table in EnsembleTables(made.settings, made.weights).forward()]
    assert shapes["rope", "natural"] == [(1, 1, 9 * 54), (1, 1, 54, 1, 8), (1, 1, 8)]
    assert shapes["learned", "natural"] == [(1, 1, 25 * 54), (1, 1, 54, 5, 8), (1, 5, 8)]
    assert shapes["learned", "free"] == [(1, 1, 25 * 54), (1, 1, 54, 1, 8), (1, 5, 8)]
    assert shapes["rope", "laden"] == [(1, 1, 9 * 54), (1, 1, 54, 5, 8), (1, 1, 8)]
