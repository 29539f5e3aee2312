"""The three signatures of Fig. 4 for a language model, fact by fact and layer by layer.

Forward and reverse query of a fact ask for the same left entity from the same right one
(`lib.language_models.queries.encoded_pair`). Of each pair: attention scores and weights on the evidence in every layer
and head, the cosine of the two loss gradients, and the probability of the whole target. `signature_run` measures them
from the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.language_models import attention_scores, checkpoints, finetuning, queries, signatures
from lib.language_models.facts import Dataset, Fact
from lib.language_models.queries import EncodedQuery
from lib.language_models.signatures import GradientCosine

#: put before the second entity to vary the distance between mask and evidence
GAPS = ("", " indeed", ", as is well known,", ", as everybody in this town knows very well,")


@dataclasses.dataclass(frozen=True)
class Signatures:
    """What `measure` found; a *placement* is one fact with one gap."""

    scores_forward: Float[np.ndarray, "placement layer head"]  # mean over the sub-tokens of mask and evidence
    scores_reverse: Float[np.ndarray, "placement layer head"]
    weights_forward: Float[np.ndarray, "placement layer head"]  # attention mass on the evidence, mean over masks
    weights_reverse: Float[np.ndarray, "placement layer head"]
    layers: tuple[int, ...]  # those with attention scores
    matched: tuple[dict[str, GradientCosine], ...]  # by parameter, one a fact
    mismatched: tuple[dict[str, GradientCosine], ...]  # forward query of a fact, reverse of the next
    probability_forward: Float[np.ndarray, " fact"]
    probability_reverse: Float[np.ndarray, " fact"]

    def correlation(self, matched: bool = True) -> Float[np.ndarray, "layer head"]:
        """Correlation over placements of forward and reverse scores, for each head by itself; NaN if constant.

        :param matched: with the reverse scores of the same fact, not of the next one at the same gap
        """
        gaps = len(self.scores_forward) // len(self.matched)
        reverse = self.scores_reverse if matched else np.roll(self.scores_reverse, -gaps, 0)
        pairs = zip(np.moveaxis(self.scores_forward, 0, -1), np.moveaxis(reverse, 0, -1), strict=True)
        return np.array([[_correlation(f, r) for f, r in zip(*layer, strict=True)] for layer in pairs])

    def cosines(self, matched: bool = True) -> Float[np.ndarray, " fact"]:
        """Gradient cosine over all parameters, one a fact."""
        return np.array([signatures.whole(parts).cosine for parts in (self.matched if matched else self.mismatched)])

    def cosines_by_layer(self, matched: bool = True) -> dict[int | str, np.ndarray]:
        """Gradient cosine within each layer, one a fact."""
        found = [signatures.alignment_by_layer(parts) for parts in (self.matched if matched else self.mismatched)]
        return {layer: np.array([parts[layer].cosine for parts in found]) for layer in found[0]}


def _correlation(forward: np.ndarray, reverse: np.ndarray) -> float:
    constant = min(np.ptp(forward), np.ptp(reverse)) == 0
    return float("nan") if constant else signatures.score_correlation(forward, reverse)


# Measurement --------------------------------------------------------------------------------------------------


def measure(
    model: nn.Module, tokenizer: Any, data: Dataset, facts: Sequence[Fact], *, lead: str = queries.LEAD,
    gaps: Sequence[str] = GAPS,
) -> Signatures:
    """The three signatures on the paper's query pairs: both ask for the left entity from the right one.

    Gradients and probabilities are taken without a gap, scores at every gap.

    :raises ValueError: for fewer than two facts (a mismatched pair needs another)
    """
    if len(facts) < 2:
        raise ValueError(f"facts: {len(facts)} given, at least two needed")
    device = next(model.parameters()).device
    pairs = [queries.encoded_pair(data, fact, tokenizer, lead=lead) for fact in facts]
    batches = [tuple(queries.batch([prompt], device) for prompt in pair) for pair in pairs]
    placed = [queries.encoded_pair(data, fact, tokenizer, lead=lead, gap=gap) for fact in facts for gap in gaps]
    found = [[_evidence_attention(model, prompt) for prompt in pair] for pair in placed]
    scores, weights = ([np.stack([pair[side][i] for pair in found]) for side in (0, 1)] for i in (0, 1))
    probability = [np.array([float(signatures.target_probability(model, pair[side])) for pair in batches])
                   for side in (0, 1)]
    others = batches[1:] + batches[:1]
    return Signatures(
        scores_forward=scores[0], scores_reverse=scores[1],
        weights_forward=weights[0], weights_reverse=weights[1],
        layers=found[0][0][2],
        matched=tuple(_alignment(model, *pair) for pair in batches),
        mismatched=tuple(_alignment(model, pair[0], other[1])
                         for pair, other in zip(batches, others, strict=True)),
        probability_forward=probability[0], probability_reverse=probability[1],
    )


def _alignment(model: nn.Module, forward: queries.Batch, reverse: queries.Batch) -> dict[str, GradientCosine]:
    """Gradient cosines of the model's own weights, adapters aside.

    W in W + BA has the gradient of the merged weight, so a model before and after fine-tuning is compared over the
    parameters that both have.
    """
    parts = signatures.gradient_alignment(model, forward, reverse)
    return {name: part for name, part in parts.items() if not finetuning.is_adapter(name)}


def _evidence_attention(model: nn.Module, prompt: EncodedQuery) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Scores pooled over sub-tokens, attention mass on the evidence, and the layers that have them.

    A masked model looks from the masks; a causal one from the rows that predict the target.
    """
    device = next(model.parameters()).device
    rows = [position - queries.is_causal(model) for position in prompt.target]
    found = attention_scores.scores_and_weights(model, prompt.input_ids.to(device), rows, prompt.evidence)
    return attention_scores.pooled(found.scores).numpy(), found.weights.sum(-1).mean(-1).numpy(), found.layers


def evidence_gradient(model: Any, prompt: EncodedQuery) -> float:
    """Norm of the loss gradient at the evidence's embeddings: zero where the model cannot see the evidence."""
    caught: list[Tensor] = []
    listener = model.get_input_embeddings().register_forward_hook(lambda *call: caught.append(call[-1]))
    try:
        with signatures.evaluating(model), torch.enable_grad():
            loss = signatures.mean_cross_entropy(model, queries.batch([prompt], model.device))
            (gradient,) = torch.autograd.grad(loss, caught)
    finally:
        listener.remove()
    return float(gradient[0, list(prompt.evidence)].double().norm())


# Models side by side ------------------------------------------------------------------------------------------


class ProbedModel(NamedTuple):
    """A model, and what `measure` found in it."""

    model: Any
    tokenizer: Any
    found: Signatures

    @property
    def causal(self) -> bool:
        """Whether its positions see only what stands to their left."""
        return queries.is_causal(self.model)


def probe(source: str | Path, data: Dataset, dtype: str = "float32", device: str = "cpu") -> ProbedModel:
    """Load a model and measure it on every fact of a dataset.

    :param source: what `lib.language_models.checkpoints.load` reads
    """
    model, tokenizer = checkpoints.load(source, getattr(torch, dtype), device)
    return ProbedModel(model, tokenizer, measure(model, tokenizer, data, data.facts))


def mean_correlations(probed: Mapping[str, ProbedModel], matched: bool = True) -> dict[str, float]:
    """Mean score correlation over heads and layers, of each model."""
    return {title: float(np.nanmean(each.found.correlation(matched))) for title, each in probed.items()}


def mean_cosines(probed: Mapping[str, ProbedModel], matched: bool = True) -> dict[str, float]:
    """Mean gradient cosine over facts, of each model."""
    return {title: float(each.found.cosines(matched).mean()) for title, each in probed.items()}


def signature_means(found: Signatures) -> dict[str, float]:
    """One number for each signature: means over heads, layers and facts."""
    return {
        "score_correlation": float(np.nanmean(found.correlation())),
        "gradient_cosine": float(found.cosines().mean()),
        "gradient_cosine_mismatched": float(found.cosines(matched=False).mean()),
        "probability_forward": float(found.probability_forward.mean()),
        "probability_reverse": float(found.probability_reverse.mean()),
        "attention_forward": float(found.weights_forward.mean()),
        "attention_reverse": float(found.weights_reverse.mean()),
    }
