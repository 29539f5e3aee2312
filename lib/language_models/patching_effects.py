"""What the reverse query gains by the attention of forward queries, patch by patch and fact by fact.

The forward query "[M]'s child is Bob" and the reverse query "Bob's parent is [M]" ask for the same name from the same
evidence. If the attention to the evidence carries the answer, the reverse query should gain when it is given the
attention of the forward query (`lib.language_models.attention_patching`). `measure_patching` tries that in one layer at
a time, or wherever it is told to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.language_models.answer_scores import (
    Candidates,
    mean_log_probabilities,
    shows_target,
    tokens_at,
    with_answer,
)
from lib.language_models.attention_patching import (
    PATCH_KINDS,
    EvidenceAttention,
    Patch,
    logits_under_patch,
    patched_rows,
    record_attention,
    resized,
    single_layers,
)
from lib.language_models.queries import EncodedQuery

#: what `measure_patching` tries: the kind, then where it comes from. ``matched`` is the forward query of the same fact,
#: ``mismatched`` that of another one, ``itself`` the query's own; all of them are given to the reverse query.
#: A knockout names the query whose attention to the evidence is zero.
PATCHES = ("weights_matched", "weights_mismatched", "total_weight_matched", "total_weight_mismatched",
           "output_matched", "output_mismatched", "knockout_reverse", "knockout_forward")
_SOURCES = ("matched", "mismatched", "itself")


class AnswerScores(NamedTuple):
    """How well the right answer does, in nats a token."""

    log_probability: Float[np.ndarray, "*fact"]  # mean over its tokens
    logit_difference: Float[np.ndarray, "*fact"]  # that, minus the competitors', of which the mean is taken


@dataclasses.dataclass(frozen=True)
class PatchingEffects:
    """What `measure_patching` found; a variant is a layer, unless it was told otherwise."""

    forward: AnswerScores  # unpatched, one a fact
    reverse: AnswerScores
    patched: Mapping[str, AnswerScores]  # by name of the patch, (fact, variant)
    layers: tuple[int, ...]  # those with softmax attention
    resized: Bool[np.ndarray, " fact"]  # the mismatched source had other numbers of tokens

    def gap(self, score: str = "logit_difference") -> Float[np.ndarray, " fact"]:
        """Score of the forward query minus that of the reverse query, unpatched, in nats."""
        return getattr(self.forward, score) - getattr(self.reverse, score)

    def change(self, name: str, score: str = "logit_difference") -> Float[np.ndarray, "fact variant"]:
        """What a patch adds to the score of the query that it is made in, in nats."""
        own = self.forward if name == "knockout_forward" else self.reverse
        return getattr(self.patched[name], score) - getattr(own, score)[:, None]


def measure_patching(
    model: nn.Module, pairs: Sequence[tuple[EncodedQuery, EncodedQuery]], competitors: Sequence[Candidates], *,
    patches: Sequence[str] = PATCHES, where: Bool[Tensor, "variant layer head"] | None = None, rows: str = "both",
    batch: int = 32,
) -> PatchingEffects:
    """Patch the reverse query of every fact with the attention of forward queries.

    Pairs given the other way round measure what the attention of the reverse query does to the forward query. Where
    the answer is in the text (a causal model's), each candidate is scored with its own tokens in its place.

    :param pairs: forward and reverse query of each fact, as `lib.language_models.queries.encoded_pair` makes
    :param competitors: of each fact, such as `lib.language_models.answer_scores.shown_names`
    :param patches: names as in `PATCHES`, or ``weights_itself`` and the like, which change nothing
    :param where: the variants of layers and heads, one layer each where not given (`single_layers`)
    :param rows: one of `PATCHED_ROWS`
    :param batch: variants in one forward pass
    :raises ValueError: for fewer than two facts, an unknown patch, and what `logits_under_patch` refuses
    """
    if len(pairs) < 2 or len(pairs) != len(competitors):
        raise ValueError(f"{len(pairs)} pairs, {len(competitors)} competitors: need two facts, and competitors of each")
    _check_names(patches)
    sources = [record_attention(model, forward, rows) for forward, _ in pairs]
    others = [_other_fact(pairs, place) for place in range(len(pairs))]
    settings = _Settings(patches, single_layers(sources[0]) if where is None else where, rows, batch)
    found = [_scores_of_fact(model, pair, sources[other], [tokens_at(pair[1], pair[1].target), *rivals], settings)
             for pair, other, rivals in zip(pairs, others, competitors, strict=True)]
    scores = {name: _answer_scores([each[name] for each in found]) for name in found[0]}
    forward, reverse = (AnswerScores(*(part[:, 0] for part in scores.pop(name))) for name in ("forward", "reverse"))
    unlike = [_sizes(pairs[other]) != _sizes(own) for own, other in zip(pairs, others, strict=True)]
    return PatchingEffects(forward, reverse, scores, sources[0].layers, np.array(unlike))


class _Settings(NamedTuple):
    """What is the same for every fact; see `measure_patching`."""

    patches: Sequence[str]
    where: Tensor
    rows: str
    batch: int


def _check_names(patches: Sequence[str]) -> None:
    for name in patches:
        kind, _, source = name.rpartition("_")
        if kind not in PATCH_KINDS or source not in (("forward", "reverse") if kind == "knockout" else _SOURCES):
            raise ValueError(f"no patch {name!r}; the names are like {', '.join(PATCHES)} or weights_itself")


def _sizes(pair: tuple[EncodedQuery, EncodedQuery]) -> tuple[int, int]:
    return len(pair[0].target), len(pair[0].evidence)


def _other_fact(pairs: Sequence[tuple[EncodedQuery, EncodedQuery]], place: int) -> int:
    """The next fact with another answer; one with the same numbers of tokens where there is one."""
    right = tokens_at(pairs[place][0], pairs[place][0].target)
    turned = [*range(place + 1, len(pairs)), *range(place)]
    others = [each for each in turned if tokens_at(pairs[each][0], pairs[each][0].target) != right]
    if not others:
        raise ValueError("pairs: every fact has the same answer, so none has a mismatched one")
    return next((each for each in others if _sizes(pairs[each]) == _sizes(pairs[place])), others[0])


def _scores_of_fact(
    model: nn.Module, pair: tuple[EncodedQuery, EncodedQuery], other: EvidenceAttention, answers: Candidates,
    settings: _Settings,
) -> dict[str, Float[Tensor, "variant candidate"]]:
    """Scores of one fact's candidates under every patch, and unpatched by the names of the two queries."""
    mismatched = resized(other, len(patched_rows(model, pair[1], settings.rows)), len(pair[1].evidence))
    if not shows_target(pair[1]):
        return _scores_of_pair(model, pair, mismatched, answers, settings)
    each = [_scores_of_pair(model, (with_answer(pair[0], answer), with_answer(pair[1], answer)), mismatched,
                            [answer], settings) for answer in answers]
    return {name: torch.cat([found[name] for found in each], 1) for name in each[0]}


def _scores_of_pair(
    model: nn.Module, pair: tuple[EncodedQuery, EncodedQuery], mismatched: EvidenceAttention, answers: Candidates,
    settings: _Settings,
) -> dict[str, Float[Tensor, "variant candidate"]]:
    asked = dict(zip(("forward", "reverse"), pair, strict=True))
    own = {name: record_attention(model, prompt, settings.rows) for name, prompt in asked.items()}
    sources = {"matched": own["forward"], "mismatched": mismatched, "itself": own["reverse"]}
    nowhere = torch.zeros_like(settings.where[:1])
    found = {name: _scores(model, prompt, Patch("knockout"), nowhere, answers, settings)
             for name, prompt in asked.items()}
    for name in settings.patches:
        kind, _, source = name.rpartition("_")
        prompt = asked["forward" if name == "knockout_forward" else "reverse"]
        found[name] = _scores(model, prompt, Patch(kind, sources.get(source)), settings.where, answers, settings)
    return found


def _scores(
    model: nn.Module, prompt: EncodedQuery, patch: Patch, where: Tensor, answers: Candidates, settings: _Settings
) -> Float[Tensor, "variant candidate"]:
    parts = (logits_under_patch(model, prompt, patch, part, settings.rows) for part in where.split(settings.batch))
    return torch.cat([mean_log_probabilities(part, answers).cpu() for part in parts])


def _answer_scores(found: Sequence[Float[Tensor, "variant candidate"]]) -> AnswerScores:
    """Scores of facts, whose numbers of candidates may differ, side by side."""
    right = torch.stack([scores[:, 0] for scores in found])
    rivals = torch.stack([scores[:, 1:].mean(-1) for scores in found])
    return AnswerScores(right.numpy(), (right - rivals).numpy())
