"""What training would come to if attention stayed as it is: the limit theorem's prediction for a trained model.

With attention held fixed the logits of a model without MLP and norms are W phi, where phi is what attention reads: the
weight on each token, where values hold positions the weight on each position, and where the stream holds the mask's own
position that as well. The training loss is then convex in W, and where it takes W decides every answer
(`lib.theory.separators`). Three rules follow, none of which has a parameter or is shown a reverse query:

* *limit*: W minimises the whole training loss, over a sample of its questions with the answers that they had;
* *expected*: the same with the chances of every answer in place of a sampled one (`answer_chances`). It is computed
  from two samples of questions; a query is *decided* where both predict the same outcome;
* *separator*: the same for those questions alone to which the data leave one answer: where they are separable this
  goes to the maximum-margin separator as the penalty vanishes;
* *window*: the same in one feature, fact by fact: the attention weight on the capital. The questions are those that
  hide the letter: to the capital's left with no other mask there (the letter), and to its right (the placeholder).

For a model with an MLP the same features are taken from its attention, and the rules are no theorem but a guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from lib.one_layer import interventions, metrics, objectives, prediction, tables, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.metrics import Measured
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.task import LETTERS, MASK, Queries
from lib.one_layer.training import TrainingConfig
from lib.theory import separators

QUESTIONS = 8_000  # of training that are sampled, about
EXPECTED_PENALTY = 1e-7  # of *expected*
UNSEEN_QUESTIONS = 400  # of those that show no letter, which are many and differ little
PENALTY = 1e-6  # last one of the path to the limit; at 1e-8 predicted accuracies move by less than half a point
RULES = ("limit", "separator", "window", "expected")
#: what `predictions` finds
NAMES = ("answered_forward", "answered_reverse", "additive_reverse", "expected_decided", "expected_decided_agreement",
         *(f"{rule}_{what}" for rule in RULES for what in ("reverse", "agreement", "agreement_other", "auc")),
         *(f"side_{part}" for part in ("evidence", "rest", "residual", "all")))


class Questions(NamedTuple):
    """Training questions: what is shown, where is asked, the right answer, and its weight in the loss."""

    tokens: Int[Tensor, "questions length"]
    position: Int[Tensor, " questions"]
    target: Int[Tensor, " questions"]
    weight: Float[Tensor, " questions"]

    def where(self, chosen: Bool[Tensor, " questions"] | Int[Tensor, " some"]) -> Questions:
        """Those of the questions that are chosen."""
        return Questions(*(part[chosen] for part in self))


def training_questions(
    settings: ModelConfig, recipe: TrainingConfig, count: int = QUESTIONS, seed: int = 0
) -> Questions:
    """A sample of what training asks, about ``count`` questions; the same for every model of these settings.

    :raises ValueError: for a causal model, and for a finite training set, of which a sample would be another
    """
    if settings.causal or recipe.training_set:
        raise ValueError("the limit is that of masked models trained on fresh sequences: "
                         f"causal={settings.causal}, training_set={recipe.training_set}")
    rng, size = np.random.default_rng(seed), max(1, 2 * count // (settings.length + 1))
    tokens = task.sequences(size, settings.length, rng, recipe.reversed_share, settings.facts, settings.fillers)
    asked = interventions.make_intervened_batch(
        recipe.intervention, recipe.objective, tokens, rng, objectives.stratified_uniforms(size, rng), recipe.draws)
    asked = interventions.weigh_right_of_capital(asked, recipe.right_weight)
    sequence, position = np.divmod(asked.rows, settings.length)
    found = Questions(*map(torch.as_tensor, (asked.tokens[sequence], position, asked.targets, asked.weights)))
    return found.where(found.weight > 0)


def answer_chances(asked: Questions) -> Float[Tensor, "questions clean"]:
    """Chance of every answer given what is shown, in forward-only data: letter and pair of positions are uniform.

    Where one letter of the pair is in sight, its partner is at any of the masks on its other side with equal chance;
    where none is, every pair of masks is as likely, and every letter.
    """
    place, rows = torch.arange(asked.tokens.shape[1]), torch.arange(len(asked.tokens))
    found = torch.zeros(len(rows), task.CLEAN, dtype=torch.float64)
    shown = {case: asked.tokens // LETTERS == case for case in (0, 1)}
    sees, masks = {case: shown[case].any(1) for case in (0, 1)}, asked.tokens == MASK
    for case, partner in ((1, 0), (0, LETTERS)):  # a capital has its letter to its left, a letter its capital right
        at = shown[case].float().argmax(1)[:, None]
        side = place < at if case else place > at
        alone = sees[case] & ~sees[1 - case] & side[rows, asked.position]
        fact = asked.tokens[rows, at[:, 0]] % LETTERS
        found[rows[alone], fact[alone] + partner] = 1 / (masks & side).sum(1)[alone].double()
    hidden = ~sees[0] & ~sees[1]
    count, before = masks.sum(1).double(), (masks & (place < asked.position[:, None])).sum(1).double()
    pairs = (count * (count - 1) / 2 * LETTERS)[:, None]
    found[hidden, :LETTERS] = ((count - 1 - before)[:, None] / pairs)[hidden]
    found[hidden, LETTERS : 2 * LETTERS] = (before[:, None] / pairs)[hidden]
    found[:, task.PLACEHOLDER] = (1 - found.sum(1)).clamp(min=0)
    return found


def expected_answers(
    settings: ModelConfig, recipe: TrainingConfig, seed: int, count: int = QUESTIONS
) -> tuple[Questions, Float[Tensor, "questions clean"]]:
    """A sample of questions before anything is dropped, and the weight in the loss of every answer to each.

    :raises ValueError: for an intervention whose weights are not known, and for reversed sequences
    """
    whole = dataclasses.replace(recipe, intervention="none", right_weight=1.0)
    asked = training_questions(settings, whole, count, seed)
    hidden = ~(asked.tokens < task.PLACEHOLDER).any(1)
    kept = torch.as_tensor(np.random.default_rng(seed).permutation(int(hidden.sum()))[:UNSEEN_QUESTIONS])
    unseen, seen = asked.where(hidden), asked.where(~hidden)
    scale = unseen.weight.sum() / unseen.weight[kept].sum()
    few = unseen.where(kept)._replace(weight=unseen.weight[kept] * scale)
    both = Questions(*map(torch.cat, zip(seen, few, strict=True)))
    return both, answer_chances(both) * _kept_weight(both, recipe)


def _kept_weight(asked: Questions, recipe: TrainingConfig) -> Float[Tensor, "questions clean"]:
    """Weight of every answer to each question under the recipe's intervention."""
    weight = asked.weight[:, None].expand(-1, task.CLEAN).clone()
    capital, small = (asked.tokens // LETTERS == 1), (asked.tokens < LETTERS).any(1)
    right = (capital.cumsum(1) > 0)[torch.arange(len(asked.tokens)), asked.position]
    parts = {"none": right, "drop_right_of_capital": right, "drop_right_letter_hidden": right & ~small,
             "drop_right_letter_shown": right & small}
    if recipe.reversed_share or recipe.intervention not in (*parts, "drop_random"):
        raise ValueError(f"intervention {recipe.intervention!r}, reversed_share {recipe.reversed_share}: the weights "
                         f"of its answers are known for {', '.join(parts)} and drop_random on forward-only data")
    if recipe.intervention in parts:
        weight[parts[recipe.intervention]] *= recipe.right_weight if recipe.intervention == "none" else 0.0
        return weight
    for masks in (asked.tokens == MASK).sum(1).unique():  # as many of each number of masks, anywhere
        alike = (asked.tokens == MASK).sum(1) == masks
        chance = answer_chances(asked.where(alike))[:, task.PLACEHOLDER] * asked.weight[alike]
        weight[alike, task.PLACEHOLDER] *= 1 - float(chance[right[alike]].sum() / chance.sum())
    return weight


def left_one_answer(asked: Questions) -> Bool[Tensor, " questions"]:
    """Whether forward-only data leave one answer, given what is shown.

    They do where the pair is in sight; on the placeholders' side of a visible letter; and at the only mask on the
    other side, which hides its partner.
    """
    return answer_chances(asked).amax(1) == 1


@torch.no_grad()
def attention_features(
    model: Transformer, tokens: Int[Tensor, "questions length"], position: Int[Tensor, " questions"]
) -> Float[Tensor, "questions features"]:
    """phi: attention weight on each token, head by head; then, where they matter, on each position, and the mask's own.

    :raises ValueError: for models that have no such table (`lib.one_layer.tables`)
    """
    settings = model.settings
    if settings.depth > 1 or settings.causal:
        raise ValueError("attention features: masked models of depth 1")
    scores = tables.make_tables(model).scores
    alpha = tables.look_up_scores(scores, tokens, position, settings.absolute).softmax(-1)
    entries = tokens.expand(len(alpha), -1, -1)
    parts = [torch.zeros(*alpha.shape[:2], task.TOKENS).scatter_add(2, entries, alpha)]
    if settings.values == "laden" or (settings.absolute and settings.values == "natural"):  # position in the values
        parts.append(alpha)
    if settings.absolute:  # and in the mask's own stream
        parts.append(functional.one_hot(position, settings.length)[None].float())
    return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1).double()


# The rules ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predicted_leads(
    model: Transformer, asked: Questions, queries: Queries, samples: Sequence[tuple[Questions, Tensor]] = ()
) -> dict[str, Float[Tensor, " queries"]]:
    """How far each rule has the target ahead of its best competitor; positive where it predicts a right answer.

    :param samples: of `expected_answers`; each gives one *expected*
    """
    features = attention_features(model, asked.tokens, asked.position)
    shown = attention_features(model, queries.tokens, queries.position)
    certain = left_one_answer(asked)
    found = {}
    for rule, some in (("limit", torch.ones_like(certain)), ("separator", certain)):
        if not some.any():
            continue
        answers = asked.weight[some, None] * functional.one_hot(asked.target[some], task.CLEAN)
        storage = separators.loss_minimiser(features[some], answers, penalty=PENALTY)
        found[rule] = lead(shown @ storage.T, queries.target)
    found["window"] = window_leads(model, asked, queries)
    for number, (sample, answers) in enumerate(samples):
        features = attention_features(model, sample.tokens, sample.position)
        storage = separators.loss_minimiser(features, answers, penalty=EXPECTED_PENALTY)
        found[f"expected {number}"] = lead(shown @ storage.T, queries.target)
    return found


def lead(logits: Float[Tensor, "queries classes"], target: Int[Tensor, " queries"]) -> Float[Tensor, " queries"]:
    """Target's logit less the largest other one."""
    others = logits.scatter(1, target[:, None], -torch.inf)
    return logits.gather(1, target[:, None])[:, 0] - others.max(1).values


def window_leads(model: Transformer, asked: Questions, queries: Queries) -> Float[Tensor, " queries"]:
    """The separator in the attention weight on the capital alone, fact by fact; 1 where nothing opposes the letter."""
    on_capital = lambda tokens, position, letter: attention_features(model, tokens, position).gather(
        1, letter[:, None] + LETTERS)[:, 0]
    capital = (asked.tokens // LETTERS == 1)
    opposing = ~(asked.tokens < LETTERS).any(1) & capital.any(1) & left_one_answer(asked)
    some = asked.where(opposing)
    letter = some.tokens.where(capital[opposing], 0).sum(1) - LETTERS
    weight, own = on_capital(some.tokens, some.position, letter), on_capital(
        queries.tokens, queries.position, queries.letter)
    found = torch.ones(len(queries), dtype=torch.float64)
    for fact in letter.unique():
        mine, here = letter == fact, queries.letter == fact
        answers = (some.target[mine] == task.PLACEHOLDER).long()
        if answers.min() == answers.max():
            found[here] = 1.0 - 2.0 * answers[0]
            continue
        pair = lambda mass: torch.stack([mass, 1 - mass], 1)
        weighed = functional.one_hot(answers, 2) * some.weight[mine, None]
        line = separators.loss_minimiser(pair(weight[mine]), weighed)
        found[here] = separators.logit_margins(line, pair(own[here]), 0, 1)
    return found


# What is recorded -------------------------------------------------------------------------------------------------


@torch.no_grad()
def predictions(ensemble: Ensemble, recipe: TrainingConfig) -> Measured:
    """What each rule predicts for each member, beside what the member answers.

    ``RULE_reverse``: predicted reverse accuracy; ``RULE_agreement``: share of reverse queries whose outcome, right or
    wrong, is as predicted, and ``RULE_agreement_other`` as predicted for the next member; ``RULE_auc``: how well its
    leads rank the right answers above the wrong ones (None where all outcomes are alike). ``expected_decided`` is the
    share of reverse queries that are decided, ``expected_decided_agreement`` the agreement on these.
    ``additive_reverse`` is the additive rule's accuracy (`lib.one_layer.prediction`), ``answered_reverse`` the measured
    one. All in percent but the AUC; ``side_PART`` is the AUC of `side_by_feature`.
    """
    asked = training_questions(ensemble.settings, recipe)
    samples = [expected_answers(ensemble.settings, recipe, seed) for seed in (1, 2)]
    members = ensemble.members()
    found = {name: [None] * len(members) for name in NAMES} | {
        f"side_{part}": list(each) for part, each in _by_name(map(side_by_feature, members)).items()}
    forward, reverse = metrics.queries(ensemble.settings)
    leads = [predicted_leads(model, asked, reverse, samples) for model in members]
    right = [_answered(model, reverse) for model in members]
    found["answered_forward"] = [_percent(_answered(model, forward)) for model in members]
    found["answered_reverse"] = list(map(_percent, right))
    for rule, each in _by_name(leads).items():
        _add(found, rule.split()[0], each, right)
    _add_decided(found, leads, right)
    if ensemble.settings.length > 2 and ensemble.settings.facts == LETTERS:
        found["additive_reverse"] = list(prediction.features(ensemble)["additive_share"])
    return found


def _by_name(each: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    rows = list(each)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _answered(model: Transformer, queries: Queries) -> Bool[Tensor, " queries"]:
    rows = torch.arange(len(queries)) * model.settings.length + queries.position
    return model(queries.tokens, rows=rows).logits.argmax(1) == queries.target


def _add(found: Measured, rule: str, leads: Sequence[Tensor], right: Sequence[Tensor]) -> None:
    """What is recorded of one rule; of several predictions (samples) of it, the mean."""
    agreement = lambda one, other: _percent((one > 0) == other)
    values = {"reverse": [_percent(lead > 0) for lead in leads], "agreement": list(map(agreement, leads, right)),
              "agreement_other": list(map(agreement, [*leads[1:], leads[0]], right)),
              "auc": list(map(area_under_curve, leads, right))}
    for name, each in values.items():
        before = found[f"{rule}_{name}"]
        found[f"{rule}_{name}"] = [new if old is None or new is None else (old + new) / 2
                                   for old, new in zip(before, each, strict=True)]


def _add_decided(found: Measured, leads: Sequence[Mapping[str, Tensor]], right: Sequence[Tensor]) -> None:
    for index, (lead, outcome) in enumerate(zip(leads, right, strict=True)):
        first, second = (lead[f"expected {number}"] > 0 for number in (0, 1))
        decided = first == second
        found["expected_decided"][index] = _percent(decided)
        if decided.any():
            found["expected_decided_agreement"][index] = _percent((first == outcome)[decided])


def area_under_curve(score: Float[Tensor, " items"], positive: Bool[Tensor, " items"]) -> float | None:
    """Chance that a positive item scores above a negative one, ties half; None where there are not both."""
    if positive.all() or not positive.any():
        return None
    ranks = torch.as_tensor(rankdata(score.numpy()))
    count = int(positive.sum())
    above = float(ranks[positive].sum()) - count * (count + 1) / 2
    return above / (count * (len(positive) - count))


def _percent(right: Bool[Tensor, " some"]) -> float | None:
    return float(right.double().mean() * 100)


def side_by_feature(model: Transformer) -> Mapping[str, float | None]:
    """How well the side that is asked can be told from parts of what a query reads: the AUC of a probe.

    Probes are logistic in the part and its squares, fitted on the first half of the facts and tested on the other:
    ``evidence``, the attention weight on the evidence; ``rest``, all other features, scaled to a total of 1, so that
    the evidence's weight is not among them; ``residual``, the mask's own position in the stream; ``all``, together.
    """
    forward, reverse = metrics.queries(model.settings)
    parts: dict[str, list[Tensor]] = {}
    for queries in (forward, reverse):
        for name, part in _parts(model, queries).items():
            parts.setdefault(name, []).append(part)
    first = torch.cat([forward.letter, reverse.letter]) < model.settings.facts // 2
    side = torch.arange(2).repeat_interleave(len(forward))
    return {name: _probe(torch.cat(each), side, first) for name, each in parts.items()}


def _parts(model: Transformer, queries: Queries) -> dict[str, Tensor]:
    features = attention_features(model, queries.tokens, queries.position)
    at, own = queries.letter + LETTERS, model.settings.length if model.settings.absolute else 0
    rows = torch.arange(len(queries))
    evidence = features[rows, at][:, None]
    rest = features[:, : features.shape[1] - own].clone()
    rest[rows, at] = 0
    # which capital it is says nothing of the side
    rest = torch.cat([rest[:, task.PLACEHOLDER : task.TOKENS], rest[:, task.TOKENS :]], 1)
    rest = rest / rest.sum(1, keepdim=True)
    residual = features[:, features.shape[1] - own :] if own else torch.zeros(len(rows), 1, dtype=torch.float64)
    return {"evidence": evidence, "rest": rest, "residual": residual, "all": torch.cat([evidence, rest, residual], 1)}


def _probe(part: Float[Tensor, "items features"], side: Int[Tensor, " items"], first: Bool[Tensor, " items"]) -> float:
    """AUC, on the items that are not first, of a logistic probe fitted on the first."""
    centred = (part - part[first].mean(0)) / part[first].std(0).clamp_min(1e-9)
    inputs = torch.cat([torch.ones(len(part), 1, dtype=torch.float64), centred, centred.square()], 1)
    weight = _logistic(inputs[first], 1 - side[first].double())
    found = area_under_curve(inputs[~first] @ weight, side[~first] == 0)
    return 0.5 if found is None else found


def _logistic(inputs: Float[Tensor, "items features"], answer: Float[Tensor, " items"], ridge: float = 1e-4) -> Tensor:
    """Weights of a logistic regression with a small ridge, by Newton's method."""
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64)
    for _ in range(50):
        chance = (inputs @ weight).sigmoid()
        slope = inputs.T @ (chance - answer) / len(inputs) + ridge * weight
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(inputs)
        step = torch.linalg.solve(curvature + ridge * torch.eye(len(weight), dtype=torch.float64), slope)
        weight = weight - step
        if float(step.norm()) < 1e-8:
            break
    return weight
