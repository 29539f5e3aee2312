"""One query's attention put into another: which part of the reverse computation keeps the letter from being said.

Reverse queries are the mirror images of forward ones (`task.paired_queries`), so whatever the forward query
computed at position p has its place in the reverse query at L - 1 - p. `heard` listens to a trained one-layer model,
`mirrored` reflects what was heard, `grafted` puts some of it in the place of the query's own, and `answers` lets the
rest of the model go on from there. What can be put in:

* ``score``: the score from the mask to the evidence, before the softmax;
* ``row``: all attention weights of the mask;
* ``values``: the value vectors at all positions;
* ``residual``: the mask's own embedding, with its position where positions are added.

These are all the inputs that the rest of the model has: row, values and residual together reproduce the forward
answer exactly, whatever the encoding. Under a relative encoding values and residual do not depend on position, so
there the row alone already does, and the other two change nothing.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer.model import Transformer
from lib.one_layer.task import LETTERS, PLACEHOLDER, Queries

POINTS = ("score", "row", "values", "residual")
#: shares of attention on the evidence that `doses` tries
DOSES = tuple(round(0.05 * step, 2) for step in range(20))
#: the part of the queries that put no more than this on the evidence, see `shares`
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Activations(NamedTuple):
    """What a one-layer model computed for each query; ``score`` and ``row`` are the mask's."""

    score: Float[Tensor, "queries heads length"]
    row: Float[Tensor, "queries heads length"]
    values: Float[Tensor, "queries heads length head_dim"]
    residual: Float[Tensor, "queries width"]


def check(model: Transformer) -> None:
    """Refuse models for which a mirror image of the computation does not exist."""
    if model.settings.depth > 1 or model.settings.causal:
        raise ValueError("grafts: defined for masked models of depth 1; deeper queries mix before the last layer")


@torch.no_grad()
def heard(model: Transformer, asked: Queries) -> Activations:
    """Scores and weights of the mask's row, all values, and the mask's embedding."""
    check(model)
    rows = torch.arange(len(asked))
    found: dict[str, Tensor] = {}
    attention = model.layers[0].attention
    with contextlib.ExitStack() as stack:
        for name in ("scores", "weights", "values"):
            listen = lambda module, inputs, output, name=name: found.__setitem__(name, output)
            stack.callback(getattr(attention, name).register_forward_hook(listen).remove)
        model(asked.tokens, rows=torch.zeros(1, dtype=torch.long))  # what follows attention is not needed
    scores, weights = (found[name][rows, :, asked.position] for name in ("scores", "weights"))
    # the same for all queries where position does not enter: shown as one each
    values = found["values"].expand(len(asked), -1, -1, -1)
    return Activations(scores, weights, values, model.embed(asked.tokens)[rows, asked.position])


def mirrored(source: Activations) -> Activations:
    """The same with every position p at L - 1 - p."""
    return Activations(source.score.flip(-1), source.row.flip(-1), source.values.flip(-2), source.residual)


def of_another_fact(source: Activations) -> Activations:
    """What the same model computed for the next fact at the same positions; queries come letter by letter."""
    return Activations(*(part.roll(len(part) // LETTERS, 0) for part in source))


def grafted(own: Activations, source: Activations, asked: Queries, points: tuple[str, ...]) -> Activations:
    """The query's own computation with that of ``source`` at the given points.

    :raises ValueError: for an unknown point, naming the valid ones
    """
    for point in points:
        if point not in POINTS:
            raise ValueError(f"unknown point {point!r}; one of {', '.join(POINTS)}")
    if "score" in points:
        rows, score = torch.arange(len(asked)), own.score.clone()
        score[rows, :, asked.evidence] = source.score[rows, :, asked.evidence]
        own = own._replace(score=score, row=score.softmax(-1))
    return own._replace(**{point: getattr(source, point) for point in points if point != "score"})


@torch.no_grad()
def answers(model: Transformer, heard: Activations) -> Float[Tensor, "queries clean"]:
    """Logits where each query asks, from row, values and residual on; the model's own where nothing was put in."""
    check(model)
    block = model.layers[0]
    mixed = (heard.row[:, :, None] @ heard.values).flatten(1)
    return model.head(model.norm(block.think(heard.residual + block.attention.output(mixed))))


def with_evidence(
    own: Activations, asked: Queries, mass: Float[Tensor, "queries heads"], draw: torch.Generator | None = None
) -> Activations:
    """Rows that put ``mass`` on the evidence; the rest as it was, or, with ``draw``, spread at random."""
    rows = torch.arange(len(asked))
    rest = own.row.clone()
    if draw is not None:  # on the CPU: the same numbers everywhere
        rest.copy_(torch.empty(rest.shape, dtype=rest.dtype, device="cpu").exponential_(generator=draw))
    rest[rows, :, asked.evidence] = 0
    row = rest / rest.sum(-1, keepdim=True) * (1 - mass)[..., None]
    row[rows, :, asked.evidence] = mass
    return own._replace(row=row)


def evidence_mass(source: Activations, asked: Queries) -> Float[Tensor, "queries heads"]:
    """Attention weight on the evidence."""
    return source.row[torch.arange(len(asked)), :, asked.evidence]


def shares(model: Transformer, asked: Queries) -> list[float]:
    """Attention weight on the evidence, mean over heads: its value at each of `QUANTILES` of the queries."""
    return np.quantile(evidence_mass(heard(model, asked), asked).mean(1).cpu(), QUANTILES).tolist()


# What a run records ---------------------------------------------------------------------------------------------


def trials(model: Transformer, forward: Queries, reverse: Queries, seed: int = 0) -> dict[str, Tensor]:
    """Logits of the reverse queries under every graft and every control, by name.

    ``X_forward`` takes X from the paired forward query; ``X_other`` from another fact's forward query; ``X_reverse``
    from another fact's reverse query, a copy that brings no direction; ``itself`` puts the query's own row, values
    and residual back. ``mass_forward`` has the forward query's evidence mass and a random rest; ``mass_reverse`` its
    own mass and a random rest.
    """
    own, theirs = heard(model, reverse), mirrored(heard(model, forward))
    sources = {"forward": theirs, "other": of_another_fact(theirs), "reverse": of_another_fact(own)}
    tried = {"itself": grafted(own, own, reverse, POINTS)}
    for name, source in sources.items():
        tried |= {f"{point}_{name}": grafted(own, source, reverse, (point,)) for point in POINTS}
    for pair in (("row", "values"), ("values", "residual"), ("row", "residual")):
        tried["_".join(pair) + "_forward"] = grafted(own, theirs, reverse, pair)
    tried["everything_forward"] = grafted(own, theirs, reverse, ("row", "values", "residual"))
    for name, source in (("forward", theirs), ("reverse", own)):
        draw = torch.Generator("cpu").manual_seed(seed)
        tried[f"mass_{name}"] = with_evidence(own, reverse, evidence_mass(source, reverse), draw)
    return {name: answers(model, one) for name, one in tried.items()}


def outcomes(model: Transformer, forward: Queries, reverse: Queries) -> dict[str, float | None]:
    """Reverse accuracy and the placeholder's share of the errors, in percent, under every one of `trials`."""
    found: dict[str, float | None] = broken(model, forward, reverse)
    for name, logits in trials(model, forward, reverse).items():
        said = logits.argmax(1)
        wrong = said[said != reverse.target]
        found[f"graft_{name}_accuracy"] = float((said == reverse.target).float().mean() * 100)
        found[f"graft_{name}_placeholder_share"] = (
            float((wrong == PLACEHOLDER).float().mean() * 100) if len(wrong) else None)
    return found


def broken(model: Transformer, forward: Queries, reverse: Queries) -> dict[str, float | None]:
    """Forward queries with nothing changed but their evidence's weight, which is that of the paired reverse query.

    If that weight is all that tells the sides apart, the forward query now fails where the reverse query does:
    ``broken_accuracy`` is then the reverse accuracy, and ``broken_agreement``, the percentage of pairs in which both
    are right or both are wrong, is 100. The same with ``_other`` takes the weight from another fact's reverse query.
    """
    heard_forward, heard_reverse = heard(model, forward), heard(model, reverse)
    right = answers(model, heard_reverse).argmax(1) == reverse.target
    mass, found = evidence_mass(heard_reverse, reverse), {}
    for name, weight in (("", mass), ("_other", mass.roll(len(mass) // LETTERS, 0))):
        said = answers(model, with_evidence(heard_forward, forward, weight)).argmax(1)
        found[f"broken_accuracy{name}"] = float((said == forward.target).float().mean() * 100)
        found[f"broken_agreement{name}"] = float(((said == forward.target) == right).float().mean() * 100)
    return dict(found)


def doses(model: Transformer, asked: Queries) -> list[float]:
    """Accuracy in percent if the evidence gets each share of attention in `DOSES`, the rest in proportion."""
    own, found = heard(model, asked), []
    for dose in DOSES:
        mass = torch.full(own.row.shape[:2], dose)
        said = answers(model, with_evidence(own, asked, mass)).argmax(1)
        found.append(float((said == asked.target).float().mean() * 100))
    return found
