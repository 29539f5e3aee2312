"""Theorem 4.3 and Assumption 4.2 on the queries and keys of a language model, head by head, with no training.

A head scores evidence at position j from position i by s_ij = q^T R(j - i) k, with query q and key k before their
rotation. With evidence Delta = j - i to the right that is the forward score q^T R(Delta) k, and as far to the left
the reverse score q^T R(-Delta) k. `head_states` reads q and k of every layer and head from real text. The theorem
speaks of one query and of evidence that varies: `score_premises` takes queries one by one, each against the keys of all
tokens of the texts, and compares

* the *measured* correlation of the two scores over the evidence;
* the query's own *bound* sum_i w_i c_i, w_i = |q_i|^2 / |q|^2, c_i = cos(2 Delta theta_i): exact for isotropic keys,
  and a lower bound under Assumption 4.2;
* the *guarantee* T_d(2 Delta) = (1/m) sum_i c_i, what is left of the bound if all planes have E w_i = 1/m;
* the rungs between bound and measurement, `lib.theory.premises.RUNGS`, at which one part of the assumption after the
  other gives way to what the keys are.

Keys are contextual: in a causal model they have seen what precedes them, in a masked one both sides. A key is put
at both distances as it is; in a model of several layers it would change a little with its place. The first token of a
text, on which trained models park attention, counts neither as query nor as evidence.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.language_models import synthetic_facts
from lib.language_models.signatures import evaluating
from lib.record import report
from lib.theory import premises, routing
from lib.theory.bounds import first_zero, trace_bound
from lib.theory.certificates import guaranteed_context
from lib.theory.validation import Number

#: distances Delta, in positions
DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128)
#: measure of a premise -> what it is, and its value where Assumption 4.2 and a normal query hold
PREMISE_MEASURES = {
    "planes": ("planes that carry the query, share of m", "1"),
    "traces": ("spread of the traces over planes, in means", "0"),
    "alignment": ("alignment kappa, weighted by score variance", "at least 0"),
    "misaligned": ("share of score variance in planes with kappa below 0", "0"),
    "roundness": ("roundness of a plane", "1 for isotropic keys"),
    "forward": ("variance of forward scores over that of their planes", "1"),
    "reverse": ("variance of reverse scores over that of their planes", "1"),
}

# Queries and keys --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HeadStates:
    """Queries and keys before their rotation, in the theory's order: plane i has coordinates (2 i, 2 i + 1)."""

    queries: Float[np.ndarray, "layer head token dim"]
    keys: Float[np.ndarray, "layer key_head token dim"]  # each serves head / key_head query heads in a row
    text: Int[np.ndarray, " token"]  # which text a token stands in
    base: float  # theta_i = base^(-2 i / dim)

    def __post_init__(self) -> None:
        if self.queries.shape[1] % self.keys.shape[1]:
            raise ValueError(f"{self.queries.shape[1]} query heads cannot share {self.keys.shape[1]} key heads evenly")

    def shared(self, layer: int, key_head: int) -> Float[np.ndarray, "sharing token dim"]:
        """The queries of all heads that share this key head, in float64."""
        sharing = self.queries.shape[1] // self.keys.shape[1]
        return self.queries[layer, key_head * sharing : (key_head + 1) * sharing].astype(float)


@torch.no_grad()
def head_states(model: Any, tokenizer: Any, texts: Sequence[str]) -> HeadStates:
    """Queries and keys of every token but the first, in every layer and head, one pass a text.

    :param model: a Llama, or another with plain rotary attention and linear maps for queries and keys
    :param tokenizer: puts a start token before a text, if the model is used to one
    :raises ValueError: for no text, a text of one token, or a model that treats queries or keys in another way
    """
    if not texts:
        raise ValueError("texts: at least one is needed")
    attentions, device = _plain_attentions(model), next(model.parameters()).device
    rows = [tokenizer(text, return_tensors="pt").input_ids.to(device) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if row.shape[1] < 2:
            raise ValueError(f"texts: {text!r} has {row.shape[1]} tokens, at least 2 are needed")
    found: dict[str, list[list[Tensor]]] = {name: [[] for _ in attentions] for name in ("q_proj", "k_proj")}
    listeners = [getattr(attention, name).register_forward_hook(_listener(kept[layer]))
                 for name, kept in found.items() for layer, attention in enumerate(attentions)]
    try:
        with evaluating(model):
            for row in rows:
                model.model(input_ids=row)
    finally:
        for listener in listeners:
            listener.remove()
    read = [np.stack([_by_planes(torch.cat(layer), attentions[0].head_dim) for layer in kept])
            for kept in found.values()]
    places = np.repeat(np.arange(len(rows)), [row.shape[1] - 1 for row in rows])
    return HeadStates(read[0], read[1], places, float(model.config.rope_parameters["rope_theta"]))


def _listener(kept: list[Tensor]) -> Any:
    return lambda module, given, made: kept.append(made[0, 1:].float().cpu())


def _by_planes(states: Float[Tensor, "token width"], dim: int) -> Float[np.ndarray, "head token dim"]:
    """Coordinates i and i + dim/2, which turn together in transformers' models, side by side."""
    split = states.unflatten(1, (-1, 2, dim // 2))  # token, head, part, plane
    return split.permute(1, 0, 3, 2).flatten(2).contiguous().numpy()


def _plain_attentions(model: Any) -> list[Any]:
    """The attention of each layer, after a look at whether query and key are what their linear maps give."""
    layers = getattr(getattr(model, "model", None), "layers", [])
    attentions = [getattr(layer, "self_attn", None) for layer in layers]
    rope = getattr(getattr(model, "config", None), "rope_parameters", None) or {}
    if not attentions or not all(hasattr(a, "q_proj") and hasattr(a, "k_proj") for a in attentions):
        raise ValueError("model: every layer needs linear maps q_proj and k_proj, as a Llama has")
    if any(hasattr(a, "q_norm") for a in attentions):
        raise ValueError("model: its queries are normalised after the linear map, so that is not the query rotated")
    if rope.get("rope_type") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"model: its rotation is not plain RoPE over the whole head: {dict(rope)}")
    return attentions


# Texts -------------------------------------------------------------------------------------------------------


def generated_sentences(facts: int = 3, seed: int = 0) -> list[str]:
    """Sentences about people, parents, descriptions and capitals that exist nowhere else; ten to a fact."""
    return [f" {sentence}" for sentence in synthetic_facts.world(facts, seed).sentences()]


# Measurement -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScorePremises:
    """What Theorem 4.3 says of each head, what is measured, and how far from true each premise is."""

    distances: tuple[int, ...]  # Delta, in positions
    base: float
    ladder: Float[np.ndarray, "layer head query rungs distance"]  # Corr(s_f, s_r | q), see `premises.RUNGS`
    weights: Float[np.ndarray, "layer head plane"]  # E w_i, mean over queries; 1/m under the assumption
    traces: Float[np.ndarray, "layer head"]  # standard deviation of tau_i^2 over planes, in units of their mean
    alignment: Float[np.ndarray, "layer head"]  # mean kappa_i, weights |q_i|^2 tau_i^2
    misaligned: Float[np.ndarray, "layer head"]  # share of those weights in planes with kappa_i < 0
    roundness: Float[np.ndarray, "layer head"]  # smaller over larger variance within a plane, mean over planes
    forward: Float[np.ndarray, "layer head"]  # variance of s_f over the sum of its planes' variances
    reverse: Float[np.ndarray, "layer head"]  # the same of s_r; both are means over queries and distances

    def rung(self, name: str) -> Float[np.ndarray, "layer head distance"]:
        """A rung of the ladder, mean over queries: the theorem's E_q.

        :raises ValueError: for a name that is none of `premises.RUNGS`
        """
        return np.asarray(self.ladder[:, :, :, premises.RUNGS.index(name)].mean(2))

    @property
    def measured(self) -> Float[np.ndarray, "layer head distance"]:
        """E_q Corr(s_f, s_r | q) over the evidence."""
        return self.rung("dependence")

    @property
    def bound(self) -> Float[np.ndarray, "layer head distance"]:
        """E_q sum_i w_i c_i, with the weights of the head's own queries."""
        return self.rung("bound")

    @property
    def guarantee(self) -> Float[np.ndarray, " distance"]:
        """T_d(2 Delta), the right-hand side of Theorem 4.3."""
        return np.asarray(trace_bound(2 * np.array(self.distances), 2 * self.weights.shape[2], self.base))

    @property
    def planes(self) -> Float[np.ndarray, "layer head"]:
        """1 / (m sum_i (E w_i)^2): the effective number of planes that carry the query, as a share of m."""
        return np.asarray(1 / (self.weights**2).sum(2) / self.weights.shape[2])


def score_premises(
    states: HeadStates, distances: Sequence[int] = DISTANCES, queries: int = 32
) -> ScorePremises:
    """Measure every head: each of ``queries`` query tokens, evenly chosen, against the keys of all tokens.

    A query is paired with evidence of every text, so given q the keys have one covariance, that of the tokens.

    :raises ValueError: for fewer than two tokens, no query, no distance or a negative one, or a query or key that
        vanishes in a whole plane
    """
    if queries < 1 or not distances or min(distances) < 0:
        raise ValueError(f"need at least one query and distances of 0 or more, not {queries} and {tuple(distances)}")
    chosen = np.linspace(0, len(states.text) - 1, min(queries, len(states.text))).astype(int)
    layers, key_heads = states.keys.shape[:2]
    found = [[_of_key_head(states.shared(layer, head)[:, chosen], states.keys[layer, head].astype(float), distances,
                           states.base) for head in range(key_heads)] for layer in range(layers)]
    joined = {name: np.stack([np.concatenate([part[name] for part in layer]) for layer in found])
              for name in found[0][0]}
    return ScorePremises(tuple(distances), states.base, **joined)


def _of_key_head(
    queries: Float[np.ndarray, "sharing query dim"], keys: Float[np.ndarray, "token dim"], distances: Sequence[int],
    base: float,
) -> dict[str, np.ndarray]:
    """The fields of `ScorePremises` for the heads that share these keys."""
    covariance = premises.item_covariance(keys)
    covariance = np.broadcast_to(covariance, (*queries.shape, queries.shape[-1]))
    seen = premises.plane_statistics(queries, covariance)
    variance = seen.share * seen.trace
    variance = variance / variance.sum(-1, keepdims=True)
    bend = np.hypot(seen.alignment, seen.tilt)  # eigenvalues of a plane are tau^2/2 (1 -+ bend)
    ratio = lambda side: np.mean([premises.variance_ratio(queries, covariance, side * delta, base)
                                  for delta in distances], axis=(0, 2))
    return {
        "ladder": premises.ladder(queries, covariance, distances, base),
        "weights": seen.share.mean(1),
        "traces": (seen.trace.std(-1) / seen.trace.mean(-1)).mean(1),
        "alignment": (variance * seen.alignment).sum(-1).mean(1),
        "misaligned": (variance * (seen.alignment < 0)).sum(-1).mean(1),
        "roundness": ((1 - bend) / (1 + bend)).mean((-1, 1)),
        "forward": ratio(1),
        "reverse": ratio(-1),
    }


def in_context_correlations(
    states: HeadStates, distances: Sequence[int] = DISTANCES, *, queries: int = 4, least: int = 32
) -> Float[np.ndarray, "layer head distance"]:
    """Measured correlation over the evidence of the query's own text alone, mean over texts and queries.

    Here query and keys may depend on each other through the text, which `score_premises` rules out.

    :param queries: evenly chosen in each text of at least ``least`` tokens
    :raises ValueError: if no text is that long
    """
    texts = [np.flatnonzero(states.text == text) for text in np.unique(states.text)]
    texts = [tokens for tokens in texts if len(tokens) >= least]
    if not texts:
        raise ValueError(f"texts: none has {least} tokens")
    sharing = states.queries.shape[1] // states.keys.shape[1]
    found = []
    for tokens in texts:
        chosen = tokens[np.linspace(0, len(tokens) - 1, queries).astype(int)]
        for one in chosen:
            keys = np.repeat(states.keys[:, :, tokens], sharing, 1).astype(float)
            found.append(premises.item_correlations(states.queries[:, :, one].astype(float), keys, distances,
                                                    states.base))
    return np.asarray(np.mean(found, axis=0))


def guaranteed_distance(dim: int, base: Number) -> int:
    """The largest Delta, in positions, up to which T_d(2 Delta) > 0 is certain for every distance."""
    return guaranteed_context(first_zero(dim, base)[0]) - 1


def bound_distance(found: ScorePremises, farthest: int = 8192) -> Int[np.ndarray, "layer head"]:
    """The largest Delta up to which a head's own bound E_q sum_i w_i c_i is positive at every whole distance.

    :param farthest: in positions; returned where the bound is positive that far
    """
    cosines = routing.plane_cosines(2 * np.arange(1, farthest + 1), 2 * found.weights.shape[2], found.base)
    negative = found.weights @ cosines.T <= 0
    return np.where(negative.any(2), negative.argmax(2), farthest)


# Controls ----------------------------------------------------------------------------------------------------


def exchanged_planes(states: HeadStates, seed: int = 0) -> HeadStates:
    """Planes given to other frequencies at random, alike in queries and keys; one permutation a key head.

    Content scores q . k, traces, alignments and what planes share stay; which plane turns how fast does not.
    """
    rng, dim = np.random.default_rng(seed), states.keys.shape[-1]
    return _turned(states, lambda: np.eye(dim)[:, (2 * rng.permutation(dim // 2)[:, None] + [0, 1]).ravel()])


def rotated_heads(states: HeadStates, seed: int = 0) -> HeadStates:
    """Queries and keys in a random orthonormal basis of their head, alike; one basis a key head.

    Content scores q . k stay; planes are mixed.
    """
    rng, dim = np.random.default_rng(seed), states.keys.shape[-1]

    def basis() -> np.ndarray:
        orthogonal, triangle = np.linalg.qr(rng.normal(size=(dim, dim)))
        return np.asarray(orthogonal * np.sign(np.diag(triangle)))

    return _turned(states, basis)


def _turned(states: HeadStates, matrix: Any) -> HeadStates:
    """Queries and keys of each key head times a matrix of its own."""
    queries, keys = np.empty_like(states.queries, dtype=float), np.empty_like(states.keys, dtype=float)
    sharing = queries.shape[1] // keys.shape[1]
    for layer in range(keys.shape[0]):
        for head in range(keys.shape[1]):
            turn, same = matrix(), slice(head * sharing, (head + 1) * sharing)
            queries[layer, same] = states.queries[layer, same] @ turn
            keys[layer, head] = states.keys[layer, head] @ turn
    return dataclasses.replace(states, queries=queries, keys=keys)


def isotropic_keys(states: HeadStates, seed: int = 0) -> HeadStates:
    """The model's queries, but as many independent standard normal keys: Assumption 4.2 with kappa = 0."""
    return dataclasses.replace(states, keys=np.random.default_rng(seed).normal(size=states.keys.shape))


def untrained(model: Any, seed: int = 0) -> Any:
    """A model of the same class and configuration with fresh random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(copy.deepcopy(model.config)).eval()


def measured_with_controls(
    model: Any, tokenizer: Any, texts: Sequence[str], *, distances: Sequence[int] = DISTANCES, queries: int = 32,
    seed: int = 0,
) -> dict[str, ScorePremises]:
    """`score_premises` of the model, of what becomes of its states in three controls, and of an untrained model.

    :return: by condition: ``trained``, ``planes exchanged``, ``rotated``, ``isotropic keys``, ``untrained``
    """
    own = head_states(model, tokenizer, texts)
    makes = {"trained": lambda: own, "planes exchanged": lambda: exchanged_planes(own, seed),
             "rotated": lambda: rotated_heads(own, seed), "isotropic keys": lambda: isotropic_keys(own, seed),
             "untrained": lambda: head_states(untrained(model, seed), tokenizer, texts)}
    return {name: score_premises(make(), distances, queries) for name, make in makes.items()}


# What it says ------------------------------------------------------------------------------------------------


def above_guarantee(found: ScorePremises) -> Float[np.ndarray, " distance"]:
    """Share of heads whose measured correlation is above T_d(2 Delta)."""
    return np.asarray((found.measured > found.guarantee).mean((0, 1)))


def most_heads_exceed_guarantee(found: ScorePremises, share: float = 0.7) -> bool:
    """Whether more than this share of heads lies above T_d at every distance."""
    return bool(above_guarantee(found).min() > share)


def keys_vary_across_queries(found: ScorePremises, share: float = 0.7) -> bool:
    """Whether more than this share of heads has a negative mean alignment, against Assumption 4.2."""
    return bool((found.alignment < 0).mean() > share)


def few_planes_carry_queries(found: ScorePremises, share: float = 0.35) -> bool:
    """Whether in the median head fewer than this share of planes carry the query, against E w_i = 1/m."""
    return bool(np.median(found.planes) < share)


def error_of(found: ScorePremises, rung: str = "bound", shift: int = 0) -> float:
    """Root mean square, over heads and distances, of a rung minus the measured correlation.

    :param rung: one of `premises.RUNGS`, or ``guarantee`` for T_d, the same for every head
    :param shift: take the rung of the head so many places on, instead of the head's own
    """
    heads = found.measured.reshape(-1, len(found.distances))
    stated = found.guarantee[None] if rung == "guarantee" else found.rung(rung).reshape(heads.shape)
    return float(np.sqrt(np.mean((np.roll(stated, shift, 0) - heads) ** 2)))


def own_bound_is_closer(found: ScorePremises, *, shift: int = 0, share: float = 0.45) -> bool:
    """Whether a head's own bound misses its correlation by less than ``share`` of what T_d misses it by.

    :param shift: see `error_of`; the bound of another head is the control
    """
    return error_of(found, shift=shift) < share * error_of(found, "guarantee")


def steps_from_guarantee(found: ScorePremises) -> dict[str, Float[np.ndarray, " distance"]]:
    """What leads from T_d to the measured correlation, means over heads; the steps add up to the difference.

    ``weights``: the head's own w_i instead of 1/m; then the parts of `premises.RUNGS` in their order.
    """
    means = [found.guarantee, *(found.rung(name).mean((0, 1)) for name in premises.RUNGS)]
    return dict(zip(("weights", *premises.RUNGS[1:]), np.diff(means, axis=0), strict=True))


def over_heads(values: Float[np.ndarray, "layer head"]) -> tuple[float, float, float]:
    """Median, least and greatest over all heads."""
    return float(np.median(values)), float(values.min()), float(values.max())


def correlation_table(found: Mapping[str, ScorePremises]) -> str:
    """A row for each distance: T_d, the own bound of the first condition, and each condition's correlation.

    Medians over heads, with the range.
    """
    first = next(iter(found.values()))
    head = [r"$\Delta$", r"$T_d(2\Delta)$", r"own $\sum_iw_ic_i$", *found]
    rows = [[delta, f"{first.guarantee[place]:.2f}", *(_range(values[:, :, place]) for values in
             (first.bound, *(each.measured for each in found.values())))]
            for place, delta in enumerate(first.distances)]
    return report.markdown(head, rows)


def premise_table(found: Mapping[str, ScorePremises]) -> str:
    """A row for each of `PREMISE_MEASURES`: what is assumed, and median and range over heads of each condition."""
    rows = [[title, wanted, *(_range(getattr(each, name)) for each in found.values())]
            for name, (title, wanted) in PREMISE_MEASURES.items()]
    return report.markdown(["", "wanted", *found], rows)


def _range(values: Float[np.ndarray, "layer head"]) -> str:
    middle, low, high = over_heads(values)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
