"""The three signatures of Fig. 4 for a language model, fact by fact, layer by layer.

From the command line, for one model and one dataset of `lib.language_models.facts`:

    python -m lib.language_models.signature_run --model GSAI-ML/LLaDA-8B-Instruct --dataset p2c --facts 100 \\
        --device cuda

``--model tiny:llada`` (or dream, llama, qwen2, qwen3_5) makes a random checkpoint on the spot, and ``--data generated``
takes facts from `lib.language_models.synthetic_facts`: with both, the whole path runs without a network. ``--adapter
FOLDER`` probes the model after fine-tuning, with the adapters that `lib.language_models.reversal_run` left there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.encodings import rope_frequencies
from lib.language_models import (
    attention_scores,
    checkpoints,
    finetuning,
    published_facts,
    queries,
    signatures,
    synthetic_facts,
)
from lib.language_models.facts import DATASETS, Dataset, Fact
from lib.language_models.queries import EncodedQuery
from lib.language_models.random_checkpoints import tiny
from lib.language_models.signatures import GradientCosine
from lib.record.experiment import finished, recording
from lib.record.options import at_least, command, device_named, json_file, option

_EXPERIMENT = "language_model_signatures"
#: put before the second entity to vary the distance between mask and evidence
GAPS = ("", " indeed", ", as is well known,", ", as everybody in this town knows very well,")
#: before every sentence, so that an entity has the same tokens in both directions
LEAD = "Fact:"


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


def measure(
    model: nn.Module, tokenizer: Any, data: Dataset, facts: Sequence[Fact], *, lead: str = LEAD,
    gaps: Sequence[str] = GAPS,
) -> Signatures:
    """The three signatures on the paper's query pairs: both ask for the left entity from the right one.

    Gradients and probabilities are taken without a gap, scores at every gap.

    :raises ValueError: for fewer than two facts (a mismatched pair needs another)
    """
    if len(facts) < 2:
        raise ValueError(f"facts: {len(facts)} given, at least two needed")
    device = next(model.parameters()).device
    pairs = [encoded_pair(data, fact, tokenizer, lead=lead) for fact in facts]
    batches = [tuple(queries.batch([prompt], device) for prompt in pair) for pair in pairs]
    placed = [encoded_pair(data, fact, tokenizer, lead=lead, gap=gap) for fact in facts for gap in gaps]
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


def encoded_pair(
    data: Dataset, fact: Fact, tokenizer: Any, *, lead: str = LEAD, gap: str = ""
) -> tuple[EncodedQuery, EncodedQuery]:
    """The forward and the reverse query of a fact, in tokens; the target's are the same in both.

    :raises ValueError: if they are not, as happens where a name begins the sentence
    """
    forward, reverse = (queries.encode(query, tokenizer) for query in data.queries(fact, lead=lead, gap=gap))
    if forward.labels[list(forward.target)].tolist() != reverse.labels[list(reverse.target)].tolist():
        raise ValueError(f"{fact}: the target has other tokens in reverse; give a lead")
    return forward, reverse


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


# The theorem in the first layer ------------------------------------------------------------------------------


def first_layer_correlation(
    model: Any, mask: int, distance: int, evidence: Sequence[int], filler: int
) -> Float[np.ndarray, " head"]:
    """Correlation, over evidence tokens, of the first layer's scores ``distance`` to the right and to the left."""
    found = []
    for mask_at, evidence_at in ((0, distance), (distance, 0)):
        tokens = torch.full((len(evidence), distance + 1), filler)
        tokens[:, mask_at], tokens[:, evidence_at] = mask, torch.tensor(evidence)
        with _first_layer_only(model.model) as shallow:
            parts = [attention_scores.scores_and_weights(shallow, part.to(model.device), [mask_at], [evidence_at])
                     for part in tokens.split(64)]
        found.append(torch.cat([part.scores[:, 0, :, 0, 0] for part in parts]).numpy())
    return np.array([signatures.score_correlation(f, r) for f, r in zip(found[0].T, found[1].T, strict=True)])


@contextlib.contextmanager
def _first_layer_only(stack: Any) -> Iterator[Any]:
    """The stack of layers, for the moment with its first one alone."""
    layers = stack.layers
    stack.layers = layers[:1]
    try:
        yield stack
    finally:
        stack.layers = layers


@torch.no_grad()
def first_layer_prediction(model: Any, mask: int, distance: int | float) -> Float[np.ndarray, " head"]:
    """Sum_i w_i cos(2 Delta theta_i) of Thm 4.3, with w_i from the mask's own query: exact for isotropic keys.

    In the first layer the mask's query is one vector q whatever the prompt, and w_i = |q_i|^2 / |q|^2.
    """
    layer, config = model.model.layers[0], model.config
    hidden = layer.input_layernorm(model.model.embed_tokens(torch.tensor([mask], device=model.device)))
    q = layer.self_attn.q_proj(hidden)[0].double().cpu().view(config.num_attention_heads, 2, -1)
    energy = (q**2).sum(1)  # (head, plane): coordinates i and i + d/2 turn together
    theta = rope_frequencies(2 * energy.shape[1], config.rope_parameters["rope_theta"])
    turned: Tensor = energy @ torch.tensor(np.cos(2 * distance * theta)) / energy.sum(1)
    return turned.numpy()


def first_layer(
    model: Any, mask: int, distances: Sequence[int], *, evidence: int = 500
) -> Float[np.ndarray, "distance 2 head"]:
    """Measured and predicted correlation at each distance (positions), over evenly chosen evidence tokens."""
    tokens = np.linspace(0, mask - 1, evidence).astype(int).tolist()
    return np.array([[first_layer_correlation(model, mask, distance, tokens, filler=10),
                      first_layer_prediction(model, mask, distance)] for distance in distances])


def first_layer_agrees(found: Float[np.ndarray, "*model distance 2 head"], *, turning: bool = True) -> bool:
    """Whether the root mean square of measured minus predicted correlation is below 0.1.

    :param turning: False is the control: keys that do not turn, for which 1 is predicted
    """
    measured, predicted = np.moveaxis(found, -2, 0)
    return bool(np.sqrt(np.mean((measured - (predicted if turning else 1.0)) ** 2)) < 0.1)


# From the command line ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignatureOptions:
    """What the command can be told."""

    model: str = option()  # hub id, folder, or tiny:ARCHITECTURE
    dataset: str = option("p2c", choices=DATASETS)  # of the paper's five
    data: str = option("published", choices=("published", "generated"))  # whose facts
    facts: int = 50  # facts drawn from the dataset
    dtype: str | None = option(None, choices=("float32", "bfloat16", "float16"))  # of the weights; their own if absent
    device: str = "cpu"  # cpu, cuda, cuda:1, ...; auto
    seed: int = 0  # draws the facts, and a tiny model's weights
    adapter: Path | None = None  # folder of adapters with which the model is probed
    out: Path | None = option(None, names=("--output",))  # write a result here (JSON)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must be a hub id, a folder or tiny:ARCHITECTURE, not empty")
        at_least(self, facts=2, seed=0)
        device_named(self.device)
        if self.out:
            json_file("--output", self.out)


def source_of(model: str, folder: str | Path, seed: int = 0) -> str | Path:
    """What `lib.language_models.checkpoints.load` reads for a model's name.

    :param folder: where ``tiny:llada`` and the like are made
    """
    if not model.startswith("tiny:"):
        return model
    kind = model.removeprefix("tiny:")
    return tiny(Path(folder) / kind, kind, layers=4, seed=seed)


def facts_of(dataset: str, data: str, count: int, seed: int = 0) -> Dataset:
    """A dataset of the generated world or as published, cut to ``count`` facts drawn with ``seed``.

    :raises ValueError: for another dataset, or other data
    """
    if data not in ("generated", "published"):
        raise ValueError(f"data must be 'generated' or 'published', not {data!r}")
    if dataset not in DATASETS:
        raise ValueError(f"no dataset {dataset!r}; one of {', '.join(DATASETS)}")
    published = data == "published"
    whole = published_facts.load(dataset) if published else getattr(synthetic_facts.world(count, seed), dataset)
    chosen = np.random.default_rng(seed).permutation(len(whole.facts))[:count]
    return dataclasses.replace(whole, facts=tuple(whole.facts[i] for i in sorted(chosen)))


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


def curves(found: Signatures) -> dict[str, list]:
    """Score correlation and gradient cosine by layer, means over heads and facts."""
    layers = found.cosines_by_layer()
    return {"layers": list(found.layers),
            "score_correlation": np.nan_to_num(found.correlation()).mean(1).tolist(),
            "gradient_layers": [str(layer) for layer in layers],
            "gradient_cosine": [float(values.mean()) for values in layers.values()]}


def size_of(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def measure_and_record(options: SignatureOptions) -> None:
    """Measure, print one line a signature, and write the result where asked; one that is there already stays."""
    data = facts_of(options.dataset, options.data, options.facts, options.seed)
    asked = {"model": options.model, "dataset": options.dataset, "data": options.data, "facts": len(data.facts),
             "adapter": str(options.adapter or ""), **({"dtype": options.dtype} if options.dtype else {})}
    if not options.out:
        _measure_and_print(options, data)
    elif finished(options.out, experiment=_EXPERIMENT, parameters=asked, seeds=[options.seed], name="--output"):
        print(f"{options.out}: this run is done, and its result stays")
    else:
        with recording({options.out: asked}, experiment=_EXPERIMENT, seeds=[options.seed],
                       device=device_named(options.device)) as recorded:
            model, found = _measure_and_print(options, data)
            recorded.save({name: [value] for name, value in signature_means(found).items()}, curves(found),
                          architecture=model.architecture, size=size_of(model),
                          dtype=str(model.dtype).removeprefix("torch."))


def _measure_and_print(options: SignatureOptions, data: Dataset) -> tuple[Any, Signatures]:
    dtype = getattr(torch, options.dtype) if options.dtype else None
    with tempfile.TemporaryDirectory() as folder:
        source = source_of(options.model, folder, options.seed)
        model, tokenizer = checkpoints.load(source, dtype, device_named(options.device))
    if options.adapter:
        try:
            finetuning.load_adapters(model, options.adapter)
        except (ValueError, OSError) as error:
            raise ValueError(f"--adapter {error}") from None
    found = measure(model, tokenizer, data, data.facts)
    print(*(f"{name:28s}{value:10.4f}" for name, value in signature_means(found).items()), sep="\n")
    return model, found


main = command(SignatureOptions, measure_and_record)

if __name__ == "__main__":
    main()
