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
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lib.encodings import rope_frequencies
from lib.one_layer import task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.objectives import MaskedBatch
from lib.one_layer.task import Queries

Measured = dict[str, list[float | None]]
QUERIES_AT_ONCE = 2000  # asked in one pass: what attention keeps of long sequences grows fast
#: where the weights of a module belong in the storage-routing account
PARAMETER_GROUPS = {
    "query": "query_key", "key": "query_key", "value": "storage", "output": "storage", "head": "storage",
    "mlp": "mlp", "embedding": "embedding", "position": "embedding", "value_position": "embedding",
    "norm": "norm", "norm1": "norm", "norm2": "norm",
}


def queries(settings: ModelConfig) -> tuple[Queries, Queries]:
    """The forward and reverse questions that suit the model."""
    if settings.causal:
        return task.paired_causal_queries(settings.length)
    return task.paired_queries(settings.length, settings.facts, settings.fillers)


def query_logits(ensemble: Ensemble, asked: Queries) -> Float[Tensor, "members queries clean"]:
    """Logits where each query asks."""
    parts = []
    for some in asked.split(QUERIES_AT_ONCE):
        tokens, rows = some.tokens, asked_rows(ensemble.settings, some)
        parts.append(ensemble.logits(*(part.expand(len(ensemble), *part.shape) for part in (tokens, rows))))
    return torch.cat(parts, 1)


def asked_rows(settings: ModelConfig, asked: Queries) -> Int[Tensor, " queries"]:
    """Rows of the flattened queries whose logits answer: at the mask, or before it for a causal model."""
    return torch.arange(len(asked)) * settings.positions + asked.position - int(settings.causal)


def query_batch(settings: ModelConfig, asked: Queries) -> MaskedBatch:
    """The queries as a batch to train on, each of weight one."""
    tokens, rows, targets = (part.cpu().numpy() for part in (asked.tokens, asked_rows(settings, asked), asked.target))
    return MaskedBatch(tokens, rows, targets, weights=np.ones(len(asked)))


@torch.no_grad()
def attention_on_evidence(ensemble: Ensemble, asked: Queries) -> Float[Tensor, "members queries"]:
    """Attention weight alpha on the evidence, mean over heads (masked models of depth 1)."""
    rows, found = torch.arange(len(asked)), []
    for model in ensemble.members():
        # alpha = softmax over j of the score from the mask to the token at j: (heads, queries, length)
        scores = score_table(model)[:, asked.position[:, None], asked.tokens, torch.arange(asked.tokens.shape[1])]
        found.append(scores.softmax(-1)[:, rows, asked.evidence].mean(0))
    return torch.stack(found)


@torch.no_grad()
def query_answers(ensemble: Ensemble) -> Measured:
    """How each member answers, forward and in reverse: accuracies and shares in percent, attention on the evidence."""
    settings, measured = ensemble.settings, Measured()
    fillers = torch.as_tensor(task.filler_tokens(settings.facts, settings.fillers))
    for name, asked in zip(task.DIRECTIONS, queries(settings), strict=True):
        logits = query_logits(ensemble, asked)
        graded = accuracy_and_probability(logits, asked, settings.facts)
        measured |= {f"{name}_{key}": value for key, value in graded.items()}
        if name == "reverse":
            measured["placeholder_share"] = placeholder_share(logits, asked, fillers)
        if not settings.causal and settings.depth == 1:
            measured[f"{name}_attention"] = attention_on_evidence(ensemble, asked).mean(1).tolist()
    return measured


@torch.no_grad()
def evaluate(ensemble: Ensemble) -> Measured:
    """Every scalar measure of each member: `query_answers`, and the signatures.

    :raises ValueError: where not all letters are in facts: the signatures are correlations over 26
    """
    if ensemble.settings.facts < task.LETTERS:
        raise ValueError(f"facts={ensemble.settings.facts}: signatures are measured over {task.LETTERS} facts; "
                         "take `--measure answers`")
    masked = not ensemble.settings.causal
    one_layer = masked and ensemble.settings.depth == 1
    measured = query_answers(ensemble)
    measured |= {name: values.tolist() for name, values in gradient_cosines(ensemble).items()}
    if masked:
        scores = evidence_scores(ensemble)
        for name, shift in (("score_correlation", 0), ("score_correlation_mismatched", 1)):
            measured[name] = correlations_by_distance(scores, shift).mean((1, 2)).tolist()
    if one_layer:
        measured["score_correlation_tokens"] = token_score_correlations(ensemble).mean((1, 2)).tolist()
    return measured


def accuracy_and_probability(
    logits: Float[Tensor, "members queries clean"], asked: Queries, facts: int = task.LETTERS
) -> dict[str, list[float | None]]:
    """Accuracy, accuracy among the facts' letters of the target's case, probability of the target and of another."""
    case = (asked.target // task.LETTERS * task.LETTERS)[:, None] + torch.arange(facts)
    restricted = logits.gather(2, case.expand(len(logits), -1, -1)).argmax(2)
    wrong = torch.where(asked.target % task.LETTERS == facts - 1, asked.target - 1, asked.target + 1)
    both = torch.stack([asked.target, wrong], dim=-1).expand(len(logits), -1, -1)
    probability, other = logits.softmax(-1).gather(2, both).mean(1).T
    return {
        "accuracy": _percent(logits.argmax(2) == asked.target),
        "accuracy_lowercase": _percent(restricted == asked.target % task.LETTERS),
        "probability": probability.tolist(),
        "probability_other": other.tolist(),
    }


def placeholder_share(
    logits: Float[Tensor, "members queries clean"], asked: Queries,
    fillers: Int[Tensor, " fillers"] | None = None,
) -> list[float | None]:
    """Percentage of a member's errors that are the placeholder, or one of several; None where it makes no error."""
    fillers = torch.tensor([task.PLACEHOLDER]) if fillers is None else fillers
    said = logits.argmax(2)
    wrong = said != asked.target
    return [
        float(torch.isin(one[errors], fillers).float().mean() * 100) if errors.any() else None
        for one, errors in zip(said, wrong, strict=True)
    ]


def _percent(right: Tensor) -> list[float | None]:
    return [float(value) for value in right.float().mean(1) * 100]


# Score correlation (Fig. 3 left) ------------------------------------------------------------------------------


@torch.no_grad()
def evidence_scores(ensemble: Ensemble) -> Float[Tensor, "members heads mask letter evidence"]:
    """Score from the mask at each position to each capital at each position, placeholders elsewhere (last layer)."""
    if ensemble.settings.depth == 1:  # there other tokens do not matter
        return torch.stack([score_table(model)[:, :, task.LETTERS : 2 * task.LETTERS] for model in ensemble.members()])
    return torch.stack([layer_scores(model)[-1] for model in ensemble.members()])


@torch.no_grad()
def score_table(model: Transformer) -> Float[Tensor, "heads mask tokens length"]:
    """Score from a mask at each position to every token at every position, for depth 1.

    Where token and mask would share a position, it is the mask's score upon itself.
    """
    length, masks = model.settings.length, torch.arange(model.settings.length)
    tokens = torch.arange(task.TOKENS)[None, :, None].repeat(length, 1, length)  # a sequence of one token for each mask
    tokens[masks, :, masks] = task.MASK
    (scores,) = model.record(tokens.flatten(0, 1), "attention.scores")["attention.scores"]
    by_mask = scores.unflatten(0, (length, task.TOKENS))[masks, :, :, masks]  # (mask, tokens, heads, length)
    return by_mask.permute(2, 0, 1, 3)


@torch.no_grad()
def layer_scores(model: Transformer) -> Float[Tensor, "layers heads mask letter evidence"]:
    """Scores on the evidence in every layer of one model, placeholders elsewhere; NaN where mask and evidence meet."""
    length, heads = model.settings.length, model.settings.heads
    tables = torch.full((len(model.layers), heads, length, task.LETTERS, length), torch.nan)
    for asked in task.paired_queries(length):
        rows = torch.arange(len(asked))
        found = model.record(asked.tokens, "attention.scores")["attention.scores"]
        for table, scores in zip(tables, found, strict=True):
            on_evidence = scores[rows, :, asked.position, asked.evidence]  # (queries, heads)
            table[:, asked.position, asked.letter, asked.evidence] = on_evidence.T
    return tables


@torch.no_grad()
def score_correlations(ensemble: Ensemble, shift: int = 0) -> Float[Tensor, "members forward reverse"]:
    """Correlation over facts of forward and reverse evidence scores, by distances Delta_1, Delta_2 = 1..L-1.

    The mean over all placements with those distances, and over heads.

    :param shift: pair fact f forward with fact f + shift in reverse; anything but 0 is a control
    """
    return correlations_by_distance(evidence_scores(ensemble), shift)


@torch.no_grad()
def token_score_correlations(ensemble: Ensemble) -> Float[Tensor, "members forward reverse"]:
    """As `score_correlations`, over all clean tokens instead of the 26 capitals (masked models of depth 1).

    Most of this correlation says that letters get higher scores than the placeholder, on either side.
    """
    scores = torch.stack([score_table(model)[:, :, : task.CLEAN] for model in ensemble.members()])
    return correlations_by_distance(scores)


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
def trained_query_bound(ensemble: Ensemble) -> Float[np.ndarray, "members totals"]:
    """Thm 4.3 for the query at hand: sum_i w_i cos(x theta_i), w_i = |q_i|^2 / |q|^2, mean over heads.

    Rope only; x = Delta_1 + Delta_2 runs over 2..2L-2.

    :raises ValueError: for causal models, and encodings other than rope
    """
    settings = ensemble.settings
    if settings.encoding != "rope" or settings.causal:
        raise ValueError(f"query_bound belongs to masked rope models, not to {settings.encoding}")
    queries = torch.stack([model.mask_query()[:, 0] for model in ensemble.members()])
    squares = queries.unflatten(-1, (-1, 2)).square().sum(-1)  # |q_i|^2, (members, heads, planes)
    shares = (squares / squares.sum(-1, keepdim=True)).double().cpu().numpy()
    totals = np.arange(2, 2 * settings.length - 1)
    cosines = np.cos(np.outer(rope_frequencies(settings.width // settings.heads), totals))
    return (shares @ cosines).mean(1)


# Gradient cosine (Fig. 3 middle) ------------------------------------------------------------------------------


def fact_gradients(ensemble: Ensemble, asked: Queries) -> Float[Tensor, "members letters parameters"]:
    """Gradient, for each fact, of its mean cross-entropy over placements.

    The facts stand in for members: 26 copies of each model, each with its own questions, make one pass.
    """
    facts = [query_batch(ensemble.settings, asked[asked.letter == letter]) for letter in range(task.LETTERS)]
    found = []
    for parameters in ensemble.parameters:
        copies = Ensemble(ensemble.settings, parameters.expand(task.LETTERS, -1).clone())
        with torch.enable_grad():
            found.append(copies.loss_and_gradient(facts, len(facts[0].tokens))[1])
    return torch.stack(found)


def query_loss_and_gradient(
    ensemble: Ensemble, asked: Queries
) -> tuple[Float[Tensor, " members"], Float[Tensor, "members parameters"]]:
    """Mean cross-entropy over the queries, nats, and its gradient in each member's weights."""
    loss, gradient = torch.zeros(len(ensemble)), torch.zeros_like(ensemble.parameters)
    for some in asked.split(QUERIES_AT_ONCE):
        batch = query_batch(ensemble.settings, some)
        part, slope = ensemble.loss_and_gradient([batch] * len(ensemble), len(asked))
        loss, gradient = loss + part, gradient + slope
    return loss, gradient


def gradient_cosines(ensemble: Ensemble) -> dict[str, Float[Tensor, " members"]]:
    """Matched, mismatched and pooled cosine of forward and reverse gradients, and the parts of the matched one.

    ``gradient_part_*`` are inner products over one group of parameters (`PARAMETER_GROUPS`) divided by the full
    norms, so they add up to ``gradient_cosine``.
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
    for name, columns in group_columns(ensemble).items():
        cosines[f"gradient_part_{name}"] = inner[..., columns].sum(-1).mean(1)
    return cosines


def group_columns(ensemble: Ensemble) -> dict[str, Int[Tensor, " columns"]]:
    """Columns of the parameter buffer that belong to each group of `PARAMETER_GROUPS`."""
    found: dict[str, list[Tensor]] = {}
    for name, columns, _ in ensemble.parameter_slices():
        part = next(PARAMETER_GROUPS[word] for word in name.split(".") if word in PARAMETER_GROUPS)
        found.setdefault(part, []).append(torch.arange(columns.start, columns.stop))
    return {part: torch.cat(columns) for part, columns in found.items()}


# Layer by layer -----------------------------------------------------------------------------------------------
#
# For models deeper than the theory's single layer. Above the first layer queries and keys depend on the whole sequence,
# not on the token alone. Gradients are over the weights of one layer (its attention, MLP and norms).


def layer_score_correlations(ensemble: Ensemble, shift: int = 0) -> Float[Tensor, "members layers"]:
    """Correlation over facts of forward and reverse scores, mean over all pairs of placements and heads.

    :param shift: pair fact f forward with fact f + shift in reverse; anything but 0 is a control
    """
    tables = map(layer_scores, ensemble.members())
    return torch.stack([correlations_by_distance(table, shift).mean((1, 2)) for table in tables])


def layer_gradient_cosines(
    ensemble: Ensemble,
) -> tuple[Float[Tensor, "members layers"], Float[Tensor, "members layers"]]:
    """Cosine of each fact's forward and reverse gradients over the weights of each layer, mean over facts.

    :return: of matched facts, and of each fact with the next
    """
    forward, reverse = (fact_gradients(ensemble, asked).double() for asked in queries(ensemble.settings))
    cosine, found = functional.cosine_similarity, []
    for layer in range(ensemble.settings.depth):
        columns = torch.cat([torch.arange(part.start, part.stop) for name, part, _ in ensemble.parameter_slices()
                             if name.startswith(f"blocks.{layer}.")])
        first, second = forward[..., columns], reverse[..., columns]
        found.append([cosine(first, other, dim=-1).mean(1) for other in (second, second.roll(-1, 1))])
    matched, mismatched = (torch.stack(layers, 1) for layers in zip(*found, strict=True))
    return matched, mismatched


def signatures_by_layer(ensemble: Ensemble) -> Measured:
    """Both signatures and their mismatched controls as metrics: name_layer_1, ..., one value a member."""
    matched, mismatched = layer_gradient_cosines(ensemble)
    tables = {
        "score_correlation": layer_score_correlations(ensemble),
        "score_correlation_mismatched": layer_score_correlations(ensemble, 1),
        "gradient_cosine": matched, "gradient_cosine_mismatched": mismatched,
    }
    return {f"{name}_layer_{layer + 1}": table[:, layer].tolist()
            for name, table in tables.items() for layer in range(ensemble.settings.depth)}
