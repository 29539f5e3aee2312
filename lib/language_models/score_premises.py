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

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.language_models.head_states import (
    HeadStates,
    exchanged_planes,
    head_states,
    isotropic_keys,
    rotated_heads,
    untrained,
)
from lib.theory import premises
from lib.theory.bounds import first_zero, trace_bound
from lib.theory.certificates import guaranteed_context
from lib.theory.validation import Number

#: distances Delta, in positions
DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128)


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


def guaranteed_distance(dim: int, base: Number) -> int:
    """The largest Delta, in positions, up to which T_d(2 Delta) > 0 is certain for every distance."""
    return guaranteed_context(first_zero(dim, base)[0]) - 1


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
