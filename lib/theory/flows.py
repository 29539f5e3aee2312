"""Gradient flow on the forward loss, attention learned (App. C.3): the limit of the reverse probability of one fact.

A mask and one evidence token: logits ``z = alpha W[:, B]``, ``alpha = sigmoid(s)``, with a forward score ``s_f`` and a
reverse score ``s_r``. The flow is trained on the forward loss alone. Time is kept as a logarithm, so that ``log t`` in
the hundreds does not overflow. `mask_flow` keeps the mask's own value column, which App. C.3 leaves out.

The *margin* of a token v is ``m_v = W[A, B] - W[v, B]``; the reverse logits have margins ``alpha_r m_v``. A bad
argument is refused with a ``ValueError`` that names it. `flow_proofs` holds the algebra and the runs that check it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import expit, log_expit, log_softmax, logit, logsumexp, softmax, wrightomega

from lib.theory import validation
from lib.theory.dynamics import log_odds
from lib.theory.routing import rotation_matrix
from lib.theory.validation import Count, Number

_LARGEST_SCORE = 700.0  # beyond it e^s leaves the range of float64

# Integrated ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FlowTrajectory:
    """A run of the flow: one row a time.

    ``log_time`` holds log(1 + t); ``column`` W[:, B], target first; ``query``, ``key`` (times, head_dim).
    """

    log_time: Float[np.ndarray, " times"]
    column: Float[np.ndarray, "times vocab"]
    query: Float[np.ndarray, "times head_dim"]
    key: Float[np.ndarray, "times head_dim"]
    forward_score: Float[np.ndarray, " times"]
    reverse_score: Float[np.ndarray, " times"]

    @property
    def margins(self) -> Float[np.ndarray, "times distractors"]:
        """Storage margins ``m_v``, v = 1, ..., vocab - 1."""
        return self.column[:, :1] - self.column[:, 1:]

    @property
    def forward_log_odds(self) -> Float[np.ndarray, " times"]:
        """``log p_f(A)/(1 - p_f(A))``."""
        return log_odds(expit(self.forward_score)[:, None] * self.column, 0)

    @property
    def reverse_log_odds(self) -> Float[np.ndarray, " times"]:
        """``log p_r(A)/(1 - p_r(A))``."""
        return log_odds(expit(self.reverse_score)[:, None] * self.column, 0)


@dataclasses.dataclass(frozen=True)
class TwoTokenFlow:
    """Gradient flow on the forward loss in W[:, B] and in the routing variables that ``learned`` names.

    Scores are ``s = q^T M k + b``. RoPE: ``M = R(Delta_1)`` forward, ``R(-Delta_2)`` reverse, ``b = 0``. ALiBi:
    ``M`` the identity, ``b = -mu Delta``. The target is token 0.

    :param learned: subset of {"query", "key"}
    :raises ValueError: for another name in ``learned``
    """

    forward_map: Float[np.ndarray, "head_dim head_dim"]
    reverse_map: Float[np.ndarray, "head_dim head_dim"]
    forward_bias: Number = 0.0
    reverse_bias: Number = 0.0
    learned: frozenset[str] = frozenset({"key"})

    @classmethod
    def rope(
        cls, forward: Float[np.ndarray, " planes"], reverse: Float[np.ndarray, " planes"],
        learned: Iterable[str] = ("key",),
    ) -> TwoTokenFlow:
        """RoPE, with the angles of its planes (radians): Delta_1 theta forward and Delta_2 theta in reverse."""
        return cls(rotation_matrix(forward), rotation_matrix(-reverse), learned=frozenset(learned))

    def __post_init__(self) -> None:
        unknown = set(self.learned) - {"query", "key"}
        if unknown:
            raise ValueError(f"learned may hold 'query' and 'key', not {sorted(unknown)}")

    def run(
        self,
        column: Float[np.ndarray, " vocab"],
        query: Float[np.ndarray, " head_dim"],
        key: Float[np.ndarray, " head_dim"],
        log_times: Float[np.ndarray, " times"],
    ) -> FlowTrajectory:
        """Integrate from t = 0, as an initial value problem in log(1 + t), to the given values of log(1 + t).

        :raises ArithmeticError: if the integrator fails
        """
        sizes = np.cumsum([len(column), len(query)])
        start = np.concatenate([column, query, key])
        solved = solve_ivp(lambda u, y: self._velocity(u, *np.split(y, sizes)), (0.0, log_times[-1]), start,
                           method="LSODA", t_eval=log_times, rtol=1e-11, atol=1e-13)
        if not solved.success:
            raise ArithmeticError(f"the flow could not be integrated to log t = {log_times[-1]}: {solved.message}")
        w, q, k = np.split(solved.y.T, sizes, axis=1)
        scores = [np.einsum("ti,ij,tj->t", q, M, k) for M in (self.forward_map, self.reverse_map)]
        return FlowTrajectory(log_times, w, q, k, scores[0] + self.forward_bias, scores[1] + self.reverse_bias)

    def _velocity(self, u: float, w: np.ndarray, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Minus the gradient of the forward loss, times ``dt/du = e^u``; the product is formed in logarithms."""
        score = q @ self.forward_map @ k + self.forward_bias
        log_p = log_softmax(expit(score) * w)
        miss = np.exp(u + log_expit(score) + log_p[1:])  # e^u alpha_f p_f(v), v != A
        to_column = np.concatenate([[miss.sum()], -miss])
        to_score = expit(-score) * (miss @ (w[0] - w[1:]))  # -e^u d loss / d s_f
        to_query = to_score * (self.forward_map @ k) * ("query" in self.learned)
        to_key = to_score * (self.forward_map.T @ q) * ("key" in self.learned)
        return np.concatenate([to_column, to_query, to_key])


# In closed form -----------------------------------------------------------------------------------------------


def route_energy(score: Any) -> Any:
    """``e^s + s``; ``route_energy(s_f) - |q|^2/2 |W[:, B]|^2`` is conserved where the key alone is learned.

    :raises ValueError: for a score above 700, whose exponential is no float64
    """
    if (validation.array("score", score) > _LARGEST_SCORE).any():
        raise ValueError(f"score must be at most {_LARGEST_SCORE:g}, not {np.max(score)}: e^score would overflow")
    return np.exp(score) + score


def learned_key_score(margin: Any, s_f0: Number, vocab: Count, q_norm2: Number) -> Any:
    """Forward score when all margins have grown from 0 to ``margin``, the key learned and the query fixed.

    Solves ``e^s + s = e^{s_f0} + s_f0 + q_norm2 (n - 1)/(2 n) margin^2`` by Wright's omega function.

    :raises ValueError: for a start score above 700 or a margin whose square is no float64
    """
    start = validation.scalar("s_f0", s_f0)
    if start > _LARGEST_SCORE:
        raise ValueError(f"s_f0 must be at most {_LARGEST_SCORE:g}, not {start}: e^s_f0 would overflow")
    if (np.abs(validation.array("margin", margin)) > 1e150).any():
        raise ValueError(f"margin must be at most 1e150, not {np.max(np.abs(margin))}: its square would overflow")
    energy = route_energy(start) + np.exp(_log_kappa(vocab, q_norm2)) * np.square(margin)
    root = wrightomega(energy)  # root + log(root) = energy
    return np.where(energy > 1, np.log(np.maximum(root, 0.5)), energy - root)[()]


def _log_kappa(vocab: Any, q_norm2: Any) -> float:
    """Logarithm of kappa = c (n - 1)/(2 n), c = |q|^2: late in the flow, ``e^{s_f} ~ kappa m^2``."""
    n = validation.whole_number("vocab", vocab, 2)
    return float(np.log(validation.positive("q_norm2", q_norm2)) + np.log((n - 1) / (2 * n)))


def log_time(
    margins: Float[np.ndarray, " times"], score: Callable[[np.ndarray], Any], vocab: Count
) -> Float[np.ndarray, " times"]:
    """log t at which all margins, grown from 0, reach each of ``margins`` (ascending, > 0).

    ``t = int_0^m (e^{alpha mu} + n - 1)/(n alpha) d mu`` with ``alpha = sigmoid(score(mu))``, by Gauss-Legendre
    panels summed in logarithms.

    :param score: the forward score at a margin; a constant function for fixed routing
    :raises ValueError: for margins that are not positive and ascending
    """
    if margins[0] <= 0 or (np.diff(margins) <= 0).any():
        raise ValueError("margins must be above 0 and ascending")
    fine = np.linspace(0, margins[-1], int(8 * margins[-1]) + 2)
    edges = np.union1d(fine, margins)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    width = np.diff(edges)[:, None] / 2
    at = edges[:-1, None] + width * (1 + nodes)
    log_alpha = log_expit(score(at))
    slowness = np.logaddexp(np.exp(log_alpha) * at, np.log(vocab - 1)) - np.log(vocab) - log_alpha
    panels = logsumexp(slowness + np.log(width * weights), axis=1)
    return np.logaddexp.accumulate(panels)[np.searchsorted(edges, margins) - 1]


def log_odds_at(score: Any, margin: Any, vocab: Count) -> Any:
    """`log_odds` of a prompt with this routing score and all margins equal: ``alpha m - log(n - 1)``."""
    return expit(score) * margin - np.log(vocab - 1)


@dataclasses.dataclass(frozen=True)
class SolvedFlow:
    """The flow from the uniform start, where all margins are equal; one entry a time."""

    margin: Float[np.ndarray, " times"]  # m
    forward_score: Float[np.ndarray, " times"]
    log_time: Float[np.ndarray, " times"]  # log(1 + t)
    start: float  # s_f at time 0
    vocab: int
    q_norm2: float = 0.0  # c = |q|^2; 0 where routing is fixed

    def reverse_score(self, rho: Number, s_r0: Number | None = None) -> Float[np.ndarray, " times"]:
        """RoPE's s_r = s_r(0) + rho (s_f - s_f(0)); s_r(0) is the forward start where not given."""
        return (self.start if s_r0 is None else s_r0) + rho * (self.forward_score - self.start)

    def log_odds(self, score: Any) -> Float[np.ndarray, " times"]:
        """``log p(A)/(1 - p(A))`` of a prompt with this routing score, at each time or at all."""
        return log_odds_at(score, self.margin, self.vocab)

    def probability(self, score: Any) -> Float[np.ndarray, " times"]:
        """``p(A)`` of a prompt with this routing score."""
        return expit(self.log_odds(score))

    def agreement(self, rho: Number) -> Float[np.ndarray, " times"]:
        """Full inner product of both gradients over its storage part, RoPE, both scores started alike.

        ``1 + (n - 1)/n (1 - alpha_f)(1 - alpha_r) m^2 c rho``: below 0 the gradients oppose each other.
        """
        gates = expit(-self.forward_score) * expit(-self.reverse_score(rho))
        return 1 + gates * self.margin**2 * self.q_norm2 * rho * (self.vocab - 1) / self.vocab

    def probability_with_second_fact(self, rho: Number, rho_other: Number) -> Float[np.ndarray, " times"]:
        """Reverse probability of A with B and B' in the prompt, each learned from its own forward prompts.

        Scores start at 0, and the two columns push for different answers.

        :param rho: of the fact (A, B); ``rho_other`` of the fact (A', B')
        """
        scores = [self.reverse_score(rho), self.reverse_score(rho_other), np.zeros_like(self.margin)]
        mine, other, _ = softmax(scores, axis=0)
        return 1 / (1 + np.exp((other - mine) * self.margin) + (self.vocab - 2) * np.exp(-mine * self.margin))


def solve_learned_key(margin: Float[np.ndarray, " times"], start: Number, vocab: Count, q_norm2: Number) -> SolvedFlow:
    """The flow with the key learned and the query fixed, at each of ``margin`` (ascending, > 0)."""
    score = lambda m: learned_key_score(m, start, vocab, q_norm2)
    time = np.logaddexp(0, log_time(margin, score, vocab))
    return SolvedFlow(margin, score(margin), time, float(start), int(vocab), float(q_norm2))


def solve_fixed_routing(margin: Float[np.ndarray, " times"], score: Number, vocab: Count) -> SolvedFlow:
    """The flow with query and key fixed, at each of ``margin`` (ascending, > 0)."""
    time = np.logaddexp(0, log_time(margin, lambda m: score, vocab))
    return SolvedFlow(margin, np.full_like(margin, score), time, float(score), int(vocab))


def reverse_limit(rho: Any, s_f0: Any, s_r0: Any, vocab: Any, q_norm2: Any) -> Any:
    """Limit of ``p_r(A)`` under the RoPE flow with a learned key (Prop. C.2, sharpened).

    1 for ``rho > -1/2``, ``1/n`` for ``rho < -1/2``; at ``-1/2`` exactly, ``1/(1 + (n - 1) e^{-K})`` with
    ``K = e^{s_r0 + s_f0/2} sqrt(2 n/(c (n - 1)))``.

    :param rho: ``g(q)/|q|^2 = q^T R(Delta_1 + Delta_2) q/|q|^2``, in [-1, 1]; a number or an array
    :param s_f0: forward score at time 0; a number or an array
    :param s_r0: reverse score at time 0; a number or an array
    :param vocab: n, clean tokens, at least 2
    :param q_norm2: c = ``|q|^2``, above 0
    :return: a float, or an array of the arguments' common shape
    :raises ValueError: for an argument outside its range
    """
    ratio = validation.array("rho", rho)
    start_f, start_r = validation.array("s_f0", s_f0), validation.array("s_r0", s_r0)
    if (np.abs(ratio) > 1).any():
        raise ValueError(f"rho must lie in [-1, 1], not {rho!r}")
    with np.errstate(over="ignore"):  # K may be infinite; the limit is then 1
        at_threshold = np.exp(start_r + start_f / 2 - _log_kappa(vocab, q_norm2) / 2)
    evidence = np.where(ratio > -0.5, np.inf, np.where(ratio < -0.5, 0.0, at_threshold))
    return validation.as_scalar_or_array(np.asarray(expit(evidence - np.log(int(vocab) - 1))))


def log_miss_late(log_t: Any, rho: Number, s_f0: Number, s_r0: Number, vocab: Count, q_norm2: Number) -> Any:
    """Late ``log(1 - p_r(A))`` under the RoPE flow with a learned key; the error tends to 0 for ``rho > -1/2``.

    ``log(n - 1) - sigmoid(s_r) m`` with ``m = log(n t)`` and ``s_r = s_r0 + rho (log(kappa m^2) - s_f0)``,
    kappa = c (n - 1)/(2 n).
    """
    margin = np.log(vocab) + log_t
    score = s_r0 + rho * (_log_kappa(vocab, q_norm2) + 2 * np.log(margin) - s_f0)
    return np.log(vocab - 1) - expit(score) * margin


# With the mask's value column ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MaskFlow:
    """A run of the two-route flow with the mask's value column kept; one entry a time."""

    clock: Float[np.ndarray, " times"]  # tau = integral of 1 - p_f
    evidence_margin: Float[np.ndarray, " times"]  # m_B, the same for every wrong token
    mask_margin: Float[np.ndarray, " times"]  # m_M
    score: Float[np.ndarray, " times"]  # s_f

    @property
    def attention(self) -> Float[np.ndarray, " times"]:
        """alpha_f, attention on the evidence."""
        return expit(self.score)


def mask_flow(attention: float, vocabulary: int, query_square: float, clock: Float[np.ndarray, " times"]) -> MaskFlow:
    """Gradient flow on one fact from W = 0 with logits alpha W_B + (1 - alpha) W_M and a learned key.

    By symmetry all margins of a column are equal. In the clock tau, d tau = (1 - p_f) dt:
    m_B' = alpha n / (n - 1), m_M' = (1 - alpha) n / (n - 1), s' = c alpha (1 - alpha) (m_B - m_M).

    :param attention: alpha_f at the start, in (0, 1)
    :param query_square: c = |q|^2
    :raises ValueError: for an attention outside (0, 1)
    """
    if not 0 < attention < 1:
        raise ValueError(f"attention must lie in (0, 1), not {attention}")
    growth = vocabulary / (vocabulary - 1)

    def speed(_: float, state: np.ndarray) -> list[float]:
        alpha = expit(state[2])
        return [growth * alpha, growth * (1 - alpha), query_square * alpha * (1 - alpha) * (state[0] - state[1])]

    start = [0.0, 0.0, float(logit(attention))]
    run = solve_ivp(speed, (clock[0], clock[-1]), start, t_eval=clock, rtol=1e-10, atol=1e-12)
    return MaskFlow(run.t, *run.y)
