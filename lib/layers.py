"""Two of the paper's signatures layer by layer, for models deeper than the theory's single layer.

* *Score correlation*: as in `lib.measurement`, of the scores on the evidence in one layer, mean over heads and over
  pairs of distances. Above the first layer queries and keys depend on the whole sequence, not on the token alone.
* *Gradient cosine*: of each fact's forward and reverse loss, over the weights of one layer alone (its attention, MLP
  and norms), mean over facts.

Both come with the mismatched control: one fact's forward against the next fact's reverse.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lib import letters, measurement
from lib.ensemble import Ensemble
from lib.transformer import Transformer


@torch.no_grad()
def evidence_scores(model: Transformer) -> list[Float[Tensor, "heads mask letter evidence"]]:
    """Score from the mask to the capital in every layer, placeholders elsewhere; the diagonal is not defined."""
    length, heads = model.settings.length, model.settings.heads
    tables = [torch.full((heads, length, letters.LETTERS, length), torch.nan) for _ in model.layers]
    for asked in letters.paired_queries(length):
        rows = torch.arange(len(asked))
        for table, scores in zip(tables, _heard(model, asked.tokens), strict=True):
            seen = scores[rows, :, asked.position, asked.evidence]  # (queries, heads)
            table[:, asked.position, asked.letter, asked.evidence] = seen.T
    return tables


def _heard(model: Transformer, tokens: Tensor) -> list[Tensor]:
    """Scores of every layer, first to last: (queries, heads, length, length)."""
    found: list[Tensor] = []
    listen = lambda module, inputs, scores: found.append(scores)
    handles = [block.attention.scores.register_forward_hook(listen) for block in model.layers]
    try:
        model(tokens, rows=torch.zeros(1, dtype=torch.long))
    finally:
        for handle in handles:
            handle.remove()
    return found


def score_correlations(ensemble: Ensemble, shift: int = 0) -> Float[Tensor, "members layers"]:
    """Correlation over facts of forward and reverse scores, mean over all pairs of placements and heads.

    :param shift: pair fact f forward with fact f + shift in reverse; anything but 0 is a control
    """
    found = []
    for index in range(len(ensemble)):
        tables = torch.stack(evidence_scores(ensemble.member(index))).double()
        centred = tables - tables.mean(3, keepdim=True)
        unit = centred / centred.norm(dim=3, keepdim=True)
        found.append((_side(unit, 1) * _side(unit, -1).roll(-shift, -1)).sum(-1).mean(1))
    return torch.stack(found)


def _side(unit: Tensor, sign: int) -> Float[Tensor, "layers heads letter"]:
    """Mean over distances of the mean over placements with that distance, to the right (1) or left (-1)."""
    distances = range(1, unit.shape[2])
    return torch.stack([unit.diagonal(sign * each, dim1=2, dim2=4).mean(-1) for each in distances]).mean(0)


def gradient_cosines(ensemble: Ensemble) -> tuple[Float[Tensor, "members layers"], Float[Tensor, "members layers"]]:
    """Cosine of matched facts, and of each fact with the next, over the weights of each layer."""
    forward, reverse = (
        measurement.fact_gradients(ensemble, asked).double() for asked in measurement.queries(ensemble.settings))
    matched, mismatched = [], []
    for layer in range(ensemble.settings.depth):
        columns = torch.cat([torch.arange(part.start, part.stop) for name, part, _ in ensemble.layout()
                             if name.startswith(f"blocks.{layer}.")])
        first, second = forward[..., columns], reverse[..., columns]
        cosine = torch.nn.functional.cosine_similarity
        matched.append(cosine(first, second, dim=-1).mean(1))
        mismatched.append(cosine(first, second.roll(-1, 1), dim=-1).mean(1))
    return torch.stack(matched, 1), torch.stack(mismatched, 1)


def by_layer(ensemble: Ensemble) -> measurement.Measured:
    """Both signatures and their controls as metrics: name_layer_1, ..., one value a member."""
    matched, mismatched = gradient_cosines(ensemble)
    tables = {
        "score_correlation": score_correlations(ensemble),
        "score_correlation_mismatched": score_correlations(ensemble, 1),
        "gradient_cosine": matched, "gradient_cosine_mismatched": mismatched,
    }
    return {f"{name}_layer_{layer + 1}": table[:, layer].tolist()
            for name, table in tables.items() for layer in range(ensemble.settings.depth)}
