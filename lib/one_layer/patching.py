"""Activation patching: which part of the reverse computation keeps the letter from being answered.

Reverse queries are the mirror images of forward ones (`task.paired_queries`), so whatever the forward query computed at
position p has its place in the reverse query at L - 1 - p. `record_activations` takes down what a trained one-layer
model computes, `mirror` reflects it, `patch` replaces some of the query's own by it, and `logits_from` runs the rest of
the model. What can be patched (`SITES`):

* ``score``: the score from the mask to the evidence, before the softmax;
* ``row``: the attention distribution of the mask, all its weights;
* ``values``: the value vectors at all positions;
* ``residual``: the mask's own embedding, with its position where positions are added.

These are all the inputs that the rest of the model has: row, values and residual together reproduce the forward
answer exactly, whatever the encoding. Under a relative encoding values and residual do not depend on position, so
there the row alone already does, and the other two change nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer.model import Transformer
from lib.one_layer.task import LETTERS, PLACEHOLDER, Queries

SITES = ("score", "row", "values", "residual")
#: shares of attention on the evidence that `accuracy_by_attention` tries
ATTENTION_SHARES = tuple(round(0.05 * step, 2) for step in range(20))
#: the part of the queries that put no more than this on the evidence, see `attention_quantiles`
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Activations(NamedTuple):
    """What a one-layer model computed for each query; ``score`` and ``row`` are the mask's."""

    score: Float[Tensor, "queries heads length"]
    row: Float[Tensor, "queries heads length"]
    values: Float[Tensor, "queries heads length head_dim"]
    residual: Float[Tensor, "queries width"]


def check(model: Transformer) -> None:
    """Refuse models for which a mirror image of the computation does not exist.

    :raises ValueError: for a causal model, and for one of several layers
    """
    if model.settings.depth > 1 or model.settings.causal:
        raise ValueError("patching: defined for masked models of depth 1; deeper queries mix before the last layer")


@torch.no_grad()
def record_activations(model: Transformer, asked: Queries) -> Activations:
    """Scores and weights of the mask's row, all values, and the mask's embedding.

    :raises ValueError: see `check`
    """
    check(model)
    rows, points = torch.arange(len(asked)), ("attention.scores", "attention.weights", "attention.values")
    scores, weights, values = (found[0] for found in model.record(asked.tokens, *points).values())
    score, row = (found[rows, :, asked.position] for found in (scores, weights))
    return Activations(score, row, values, model.embed(asked.tokens)[rows, asked.position])


def mirror(source: Activations) -> Activations:
    """The computation reflected: what was at position p is at L - 1 - p."""
    return Activations(source.score.flip(-1), source.row.flip(-1), source.values.flip(-2), source.residual)


def of_another_fact(source: Activations) -> Activations:
    """What the same model computed for the next fact at the same positions; queries come letter by letter."""
    return Activations(*(part.roll(len(part) // LETTERS, 0) for part in source))


def patch(own: Activations, source: Activations, asked: Queries, sites: tuple[str, ...]) -> Activations:
    """The query's own computation with that of ``source`` at the given sites.

    :raises ValueError: for an unknown site, naming the valid ones
    """
    for site in sites:
        if site not in SITES:
            raise ValueError(f"unknown site {site!r}; one of {', '.join(SITES)}")
    if "score" in sites:
        rows, score = torch.arange(len(asked)), own.score.clone()
        score[rows, :, asked.evidence] = source.score[rows, :, asked.evidence]
        own = own._replace(score=score, row=score.softmax(-1))
    return own._replace(**{site: getattr(source, site) for site in sites if site != "score"})


@torch.no_grad()
def logits_from(model: Transformer, found: Activations) -> Float[Tensor, "queries clean"]:
    """Logits where each query asks, from row, values and residual on; the model's own where nothing is patched.

    :raises ValueError: see `check`
    """
    check(model)
    block = model.layers[0]
    mixed = (found.row[:, :, None] @ found.values).flatten(1)  # sum_j alpha_j v_j, head by head
    return model.unembed(block.add_mlp(found.residual + block.attention.output(mixed)))


def with_evidence(
    own: Activations, asked: Queries, mass: Float[Tensor, "queries heads"], rng: torch.Generator | None = None
) -> Activations:
    """Rows that put ``mass`` on the evidence; the rest as it was, or, with ``rng``, spread at random."""
    rows = torch.arange(len(asked))
    rest = own.row.clone()
    if rng is not None:  # on the CPU: the same numbers everywhere
        rest.copy_(torch.empty(rest.shape, dtype=rest.dtype, device="cpu").exponential_(generator=rng))
    rest[rows, :, asked.evidence] = 0
    row = rest / rest.sum(-1, keepdim=True) * (1 - mass)[..., None]
    row[rows, :, asked.evidence] = mass
    return own._replace(row=row)


def evidence_weight(source: Activations, asked: Queries) -> Float[Tensor, "queries heads"]:
    """Attention weight on the evidence."""
    return source.row[torch.arange(len(asked)), :, asked.evidence]


def attention_quantiles(model: Transformer, asked: Queries) -> list[float]:
    """Attention weight on the evidence, mean over heads: its value at each of `QUANTILES` of the queries."""
    return np.quantile(evidence_weight(record_activations(model, asked), asked).mean(1).cpu(), QUANTILES).tolist()


# What a run records ---------------------------------------------------------------------------------------------


def patched_logits(
    model: Transformer, forward: Queries, reverse: Queries, seed: int = 0
) -> dict[str, Float[Tensor, "queries clean"]]:
    """Logits of the reverse queries under every patch and every control, by name.

    ``X_forward`` takes X from the paired forward query; ``X_other`` from another fact's forward query; ``X_reverse``
    from another fact's reverse query, a copy that brings no direction; ``itself`` puts the query's own row, values
    and residual back. ``mass_forward`` has the forward query's evidence mass and a random rest; ``mass_reverse`` its
    own mass and a random rest.
    """
    own, theirs = record_activations(model, reverse), mirror(record_activations(model, forward))
    sources = {"forward": theirs, "other": of_another_fact(theirs), "reverse": of_another_fact(own)}
    tried = {"itself": patch(own, own, reverse, SITES)}
    for name, source in sources.items():
        tried |= {f"{site}_{name}": patch(own, source, reverse, (site,)) for site in SITES}
    for pair in (("row", "values"), ("values", "residual"), ("row", "residual")):
        tried["_".join(pair) + "_forward"] = patch(own, theirs, reverse, pair)
    tried["everything_forward"] = patch(own, theirs, reverse, ("row", "values", "residual"))
    for name, source in (("forward", theirs), ("reverse", own)):
        rng = torch.Generator("cpu").manual_seed(seed)
        tried[f"mass_{name}"] = with_evidence(own, reverse, evidence_weight(source, reverse), rng)
    return {name: logits_from(model, one) for name, one in tried.items()}


def patch_accuracies(model: Transformer, forward: Queries, reverse: Queries) -> dict[str, float | None]:
    """Reverse accuracy and the placeholder's share of the errors, in percent, under every one of `patched_logits`."""
    found = forward_with_reverse_weight(model, forward, reverse)
    for name, logits in patched_logits(model, forward, reverse).items():
        said = logits.argmax(1)
        wrong = said[said != reverse.target]
        found[f"graft_{name}_accuracy"] = float((said == reverse.target).float().mean() * 100)
        found[f"graft_{name}_placeholder_share"] = (
            float((wrong == PLACEHOLDER).float().mean() * 100) if len(wrong) else None)
    return found


def forward_with_reverse_weight(model: Transformer, forward: Queries, reverse: Queries) -> dict[str, float | None]:
    """Forward queries with nothing changed but their evidence's weight, which is that of the paired reverse query.

    If that weight is all that tells the sides apart, the forward query now fails where the reverse query does:
    ``broken_accuracy`` is then the reverse accuracy, and ``broken_agreement``, the percentage of pairs in which both
    are right or both are wrong, is 100. The same with ``_other`` takes the weight from another fact's reverse query.
    """
    own_forward, own_reverse = record_activations(model, forward), record_activations(model, reverse)
    right = logits_from(model, own_reverse).argmax(1) == reverse.target
    mass = evidence_weight(own_reverse, reverse)
    found: dict[str, float | None] = {}
    for name, weight in (("", mass), ("_other", mass.roll(len(mass) // LETTERS, 0))):
        said = logits_from(model, with_evidence(own_forward, forward, weight)).argmax(1)
        found[f"broken_accuracy{name}"] = float((said == forward.target).float().mean() * 100)
        found[f"broken_agreement{name}"] = float(((said == forward.target) == right).float().mean() * 100)
    return found


def accuracy_by_attention(model: Transformer, asked: Queries) -> list[float]:
    """Accuracy in percent with each of `ATTENTION_SHARES` as weight on the evidence, the others in proportion."""
    own, found = record_activations(model, asked), []
    for share in ATTENTION_SHARES:
        mass = torch.full(own.row.shape[:2], share)
        said = logits_from(model, with_evidence(own, asked, mass)).argmax(1)
        found.append(float((said == asked.target).float().mean() * 100))
    return found
