"""Two of the paper's signatures layer by layer, for models deeper than the theory's single layer.

* *Score correlation*: as in `lib.one_layer.metrics`, of the scores on the evidence in one layer, mean over heads and over
  pairs of distances. Above the first layer queries and keys depend on the whole sequence, not on the token alone.
* *Gradient cosine*: of each fact's forward and reverse loss, over the weights of one layer alone (its attention, MLP
  and norms), mean over facts.

Both come with the mismatched control: one fact's forward against the next fact's reverse.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer import metrics
from lib.one_layer.ensemble import Ensemble


def score_correlations(ensemble: Ensemble, shift: int = 0) -> Float[Tensor, "members layers"]:
    """Correlation over facts of forward and reverse scores, mean over all pairs of placements and heads.

    :param shift: pair fact f forward with fact f + shift in reverse; anything but 0 is a control
    """
    tables = (metrics.layer_scores(ensemble.member(index)) for index in range(len(ensemble)))
    return torch.stack([metrics.correlations_by_distance(table, shift).mean((1, 2)) for table in tables])


def gradient_cosines(ensemble: Ensemble) -> tuple[Float[Tensor, "members layers"], Float[Tensor, "members layers"]]:
    """Cosine of matched facts, and of each fact with the next, over the weights of each layer."""
    forward, reverse = (
        metrics.fact_gradients(ensemble, asked).double() for asked in metrics.queries(ensemble.settings))
    matched, mismatched = [], []
    for layer in range(ensemble.settings.depth):
        columns = torch.cat([torch.arange(part.start, part.stop) for name, part, _ in ensemble.layout()
                             if name.startswith(f"blocks.{layer}.")])
        first, second = forward[..., columns], reverse[..., columns]
        cosine = torch.nn.functional.cosine_similarity
        matched.append(cosine(first, second, dim=-1).mean(1))
        mismatched.append(cosine(first, second.roll(-1, 1), dim=-1).mean(1))
    return torch.stack(matched, 1), torch.stack(mismatched, 1)


def by_layer(ensemble: Ensemble) -> metrics.Measured:
    """Both signatures and their controls as metrics: name_layer_1, ..., one value a member."""
    matched, mismatched = gradient_cosines(ensemble)
    tables = {
        "score_correlation": score_correlations(ensemble),
        "score_correlation_mismatched": score_correlations(ensemble, 1),
        "gradient_cosine": matched, "gradient_cosine_mismatched": mismatched,
    }
    return {f"{name}_layer_{layer + 1}": table[:, layer].tolist()
            for name, table in tables.items() for layer in range(ensemble.settings.depth)}
