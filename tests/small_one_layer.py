"""Small one-layer models of random weights, none of which stays at the special value that it starts with."""

import torch

from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig, Transformer, initialise


def random_model(scale, seed=0, **settings):
    """A model in float64, its weights moved by normal numbers of this standard deviation."""
    made = initialise(Transformer(ModelConfig(**{"width": 8, **settings})), seed).double().eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
    return made


def random_ensemble(scale, members, seed=0, **settings):
    """Models that start from seeds 0, 1, ..., their weights moved by normal numbers of this standard deviation."""
    made = Ensemble.from_seeds(ModelConfig(**{"width": 8, **settings}), list(range(members)))
    made.parameters.add_(scale * torch.randn(made.parameters.shape, generator=torch.Generator().manual_seed(seed)))
    return made
