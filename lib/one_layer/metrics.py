"""What is measured on one-layer models: accuracy, and the paper's three signatures (Sec. 5, App. D.1, Fig. 3).

Everything is measured for all members of an ensemble at once, on all queries: every fact at every placement.

* *Accuracy*: share of queries whose most likely token, of all clean tokens, is the target; and the same among
  letters of the target's case alone. ``placeholder_share`` is the share of reverse errors that are the placeholder.
* *Target probability*, forward and reverse, mean over queries; ``other`` is a neighbouring letter's: a control.
* *Score correlation*: over the 26 facts, at a fixed mask and evidence position each way, of the scores on the
  evidence; averaged over placements. In a one-layer model the mask's query is one vector, so this is the
  correlation of Thm 4.3 given q. ``mismatched`` pairs one fact's forward with another's reverse scores: a control.
* *Attention*: the weight alpha on the evidence, forward and reverse, mean over queries and heads.
* *Gradient cosine*: for each fact, forward loss against reverse loss (means over placements), all parameters; the
  mean over facts. ``mismatched`` pairs one fact's forward loss with another's reverse loss: a control.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lib.encodings import rope_frequencies
from lib.one_layer import task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.task import Queries

Measured = dict[str, list[float | None]]
#: where the weights of a module belong in the storage-routing account
PARTS = {
    "query": "query_key", "key": "query_key", "value": "storage", "output": "storage", "head": "storage",
    "mlp": "mlp", "embedding": "embedding", "position": "embedding", "value_position": "embedding",
    "norm": "norm", "norm1": "norm", "norm2": "norm",
}


def queries(settings: ModelConfig) -> tuple[Queries, Queries]:
    """The forward and reverse questions that suit the model."""
    return (task.paired_causal_queries if settings.causal else task.paired_queries)(settings.length)


def answers(ensemble: Ensemble, asked: Queries) -> Float[Tensor, "members queries clean"]:
    """Logits where each query asks."""
    return ensemble.logits(*_for_members(ensemble, asked))


def attention(ensemble: Ensemble, asked: Queries) -> Float[Tensor, "members queries"]:
    """Attention weight on the evidence, mean over heads (masked models of depth 1)."""
    weights = ensemble.attention(*_for_members(ensemble, asked)).mean(1)
    return weights[:, torch.arange(len(asked)), asked.evidence]


def _for_members(ensemble: Ensemble, asked: Queries) -> tuple[Tensor, Tensor]:
    """Tokens and asked rows of the flattened batch, the same for every member."""
    rows = torch.arange(len(asked)) * ensemble.settings.positions + asked.position - int(ensemble.settings.causal)
    return asked.tokens.expand(len(ensemble), -1, -1), rows.expand(len(ensemble), -1)


@torch.no_grad()
def evaluate(ensemble: Ensemble) -> Measured:
    """Every scalar measure of each member; accuracies and shares in percent."""
    forward, reverse = queries(ensemble.settings)
    measured: Measured = {}
    for name, asked in (("forward", forward), ("reverse", reverse)):
        logits = answers(ensemble, asked)
        measured |= {f"{name}_{key}": value for key, value in graded(logits, asked).items()}
        if name == "reverse":
            measured["placeholder_share"] = placeholder_share(logits, asked)
        if ensemble.settings.depth == 1 and not ensemble.settings.causal:
            measured[f"{name}_attention"] = attention(ensemble, asked).mean(1).tolist()
    cosines = gradient_cosines(ensemble)
    measured |= {name: list(map(float, values)) for name, values in cosines.items()}
    if not ensemble.settings.causal:
        measured["score_correlation"] = score_correlations(ensemble).mean((1, 2)).tolist()
        measured["score_correlation_mismatched"] = score_correlations(ensemble, 1).mean((1, 2)).tolist()
    if ensemble.settings.depth == 1 and not ensemble.settings.causal:
        measured["score_correlation_tokens"] = token_score_correlations(ensemble).mean((1, 2)).tolist()
    return measured


def graded(logits: Float[Tensor, "members queries clean"], asked: Queries) -> dict[str, list[float | None]]:
    """Accuracy, accuracy among letters of the target's case, probability of the target and of another letter."""
    case = (asked.target // task.LETTERS * task.LETTERS)[:, None] + torch.arange(task.LETTERS)
    restricted = logits.gather(2, case.expand(len(logits), -1, -1)).argmax(2)
    wrong = torch.where(asked.target % task.LETTERS == task.LETTERS - 1, asked.target - 1, asked.target + 1)
    both = torch.stack([asked.target, wrong], dim=-1).expand(len(logits), -1, -1)
    probability, other = logits.softmax(-1).gather(2, both).mean(1).T
    return {
        "accuracy": _percent(logits.argmax(2) == asked.target),
        "accuracy_lowercase": _percent(restricted == asked.target % task.LETTERS),
        "probability": probability.tolist(),
        "probability_other": other.tolist(),
    }


def placeholder_share(logits: Float[Tensor, "members queries clean"], asked: Queries) -> list[float | None]:
    """Percentage of a member's errors that are the placeholder; None where it makes no error."""
    said = logits.argmax(2)
    wrong = said != asked.target
    return [
        float((one[errors] == task.PLACEHOLDER).float().mean() * 100) if errors.any() else None
        for one, errors in zip(said, wrong, strict=True)
    ]


def _percent(right: Tensor) -> list[float | None]:
    return [float(value) for value in right.float().mean(1) * 100]


# Score correlation (Fig. 3 left) ------------------------------------------------------------------------------


@torch.no_grad()
def evidence_scores(ensemble: Ensemble) -> Float[Tensor, "members heads mask letter evidence"]:
    """Score from the mask at each position to each capital at each position, placeholders elsewhere (last layer)."""
    if ensemble.settings.depth == 1 and not ensemble.settings.causal:
        return ensemble.score_table()[:, :, :, task.LETTERS : 2 * task.LETTERS]
    return torch.stack([layer_scores(ensemble.member(index))[-1] for index in range(len(ensemble))])


@torch.no_grad()
def layer_scores(model: Transformer) -> Float[Tensor, "layers heads mask letter evidence"]:
    """The same of every layer of one model, by listening to it; the diagonal, mask upon evidence, is not defined."""
    length, heads = model.settings.length, model.settings.heads
    tables = torch.full((len(model.layers), heads, length, task.LETTERS, length), torch.nan)
    for asked in task.paired_queries(length):
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


@torch.no_grad()
def score_correlations(ensemble: Ensemble, shift: int = 0) -> Float[Tensor, "members forward reverse"]:
    """Correlation over facts of forward and reverse evidence scores, by distances Delta_1, Delta_2 = 1..L-1.

    The mean over all placements with those distances, and over heads.

    :param shift: pair fact f forward with fact f + shift in reverse; anything but 0 is a control
    """
    return correlations_by_distance(evidence_scores(ensemble), shift)


@torch.no_grad()
def token_score_correlations(ensemble: Ensemble) -> Float[Tensor, "members forward reverse"]:
    """The same over all clean tokens instead of the 26 capitals (masked models of depth 1).

    Most of this correlation says that letters get higher scores than the placeholder, on either side.
    """
    return correlations_by_distance(ensemble.score_table()[:, :, :, : task.CLEAN], 0)


def correlations_by_distance(
    scores: Float[Tensor, "members heads mask item evidence"], shift: int = 0
) -> Float[Tensor, "members forward reverse"]:
    """Correlation over items of forward and reverse scores, by distances; see `score_correlations`."""
    centred = scores.double() - scores.double().mean(3, keepdim=True)
    unit = centred / centred.norm(dim=3, keepdim=True)  # inner products over items are now correlations

    def along(sign: int) -> Tensor:
        # averaging unit vectors over placements first averages all their inner products
        distances = range(1, unit.shape[2])
        return torch.stack([unit.diagonal(sign * d, dim1=2, dim2=4).mean(-1) for d in distances], dim=2)

    return (along(1) @ along(-1).roll(-shift, -1).mT).mean(1)


@torch.no_grad()
def query_bound(ensemble: Ensemble) -> Float[np.ndarray, "members totals"]:
    """Thm 4.3 for the query at hand: sum_i w_i cos(x theta_i), w_i = |q_i|^2 / |q|^2, mean over heads.

    Rope only; x = Delta_1 + Delta_2 runs over 2..2L-2.
    """
    settings = ensemble.settings
    if settings.encoding != "rope" or settings.causal:
        raise ValueError(f"query_bound belongs to masked rope models, not to {settings.encoding}")
    squares = ensemble.mask_query()[:, :, 0].unflatten(-1, (-1, 2)).square().sum(-1)  # (members, heads, planes)
    shares = (squares / squares.sum(-1, keepdim=True)).double().cpu().numpy()
    totals = np.arange(2, 2 * settings.length - 1)
    cosines = np.cos(np.outer(rope_frequencies(settings.width // settings.heads), totals))
    return (shares @ cosines).mean(1)


# Gradient cosine (Fig. 3 middle) ------------------------------------------------------------------------------


def fact_gradients(ensemble: Ensemble, asked: Queries) -> Float[Tensor, "members letters parameters"]:
    """Gradient, for each fact, of its mean cross-entropy over placements.

    The facts stand in for members: 26 copies of each model, each with its own questions, make one pass.
    """
    copies = Ensemble(ensemble.settings, ensemble.flat.repeat_interleave(task.LETTERS, 0))
    each, positions = len(asked) // task.LETTERS, asked.tokens.shape[1]
    tokens = asked.tokens.view(task.LETTERS, each, positions).repeat(len(ensemble), 1, 1)
    rows = torch.arange(each) * positions + asked.position.view(task.LETTERS, each)
    targets = asked.target.view(task.LETTERS, each).repeat(len(ensemble), 1)
    with torch.enable_grad():
        logits = copies.logits(tokens, (rows - int(ensemble.settings.causal)).repeat(len(ensemble), 1))
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return copies.gradient(loss.view_as(targets).mean(1)).unflatten(0, (len(ensemble), -1))


def gradient_cosines(ensemble: Ensemble) -> dict[str, Float[Tensor, " members"]]:
    """Matched, mismatched and pooled cosine of forward and reverse gradients, and the matched one's parts.

    ``gradient_part_*`` are inner products over one group of parameters (`PARTS`) divided by the full norms,
    so they add up to ``gradient_cosine``.
    """
    forward, reverse = (fact_gradients(ensemble, asked).double() for asked in queries(ensemble.settings))
    scale_f, scale_r = forward.norm(dim=-1), reverse.norm(dim=-1)
    gram = forward @ reverse.mT / (scale_f[..., :, None] * scale_r[..., None, :])
    matched = gram.diagonal(dim1=1, dim2=2)
    others = task.LETTERS * (task.LETTERS - 1)
    pooled_f, pooled_r = forward.mean(1), reverse.mean(1)
    cosines = {
        "gradient_cosine": matched.mean(1),
        "gradient_cosine_mismatched": (gram.sum((1, 2)) - matched.sum(1)) / others,
        "gradient_cosine_pooled": functional.cosine_similarity(pooled_f, pooled_r, dim=1),
    }
    inner = forward * reverse / (scale_f * scale_r)[..., None]
    for name, columns in part_columns(ensemble).items():
        cosines[f"gradient_part_{name}"] = inner[..., columns].sum(-1).mean(1)
    return cosines


def part_columns(ensemble: Ensemble) -> dict[str, Tensor]:
    """Columns of the parameter buffer that belong to each part of `PARTS`."""
    found: dict[str, list[Tensor]] = {}
    for name, columns, _ in ensemble.layout():
        part = next(PARTS[word] for word in name.split(".") if word in PARTS)
        found.setdefault(part, []).append(torch.arange(columns.start, columns.stop))
    return {part: torch.cat(columns) for part, columns in found.items()}
