"""Forward training and the reverse prediction: one step (Sec. 4.3, A.5), then the whole flow (App. C.3).

**One step.** Two masked prompts, forward ``f`` and reverse ``r``, ask for the same target A and both show the
evidence token B. Column B of the storage ``W`` (vocab x (vocab + 1), one column a clean token and one for the
mask) is shared; a prompt sees it through its attention mass ``alpha`` on B (the routing weight). Logits are
``W @ mass``, predictions their softmax ``p``, losses ``-log p(A)``.

**The flow.** A mask and one evidence token: logits ``z = sigmoid(s) W[:, B]`` with a forward score ``s_f``
and a reverse score ``s_r``, trained by gradient flow on the forward loss alone. Time is kept as a logarithm,
so that ``log t`` in the hundreds does not overflow.

Words: *margin* ``m_v = W[A, B] - W[v, B]``; *reverse margin* ``z_r(A) - z_r(v)``, which is ``alpha_r m_v`` in
the flow. A bad argument is refused with a ``ValueError`` that names it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax, wrightomega

from lib.theory import validation
from lib.theory.validation import Count, Number

_SUM_TOLERANCE = 1e-6  # a float32 softmax sums to 1 within this
_LARGEST_SCORE = 700.0  # beyond it e^s leaves the range of float64

# Arguments --------------------------------------------------------------------------------------------------


def _scalar(name: str, value: Any) -> float:
    number = validation.array(name, value)
    if number.ndim:
        raise ValueError(f"{name} must be one number, not an array of shape {number.shape}")
    return float(number)


def _positive(name: str, value: Any) -> float:
    number = _scalar(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, not {number}")
    return number


def _weight(name: str, value: Any) -> float:
    """A routing weight: attention mass in (0, 1]."""
    number = _scalar(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must lie in (0, 1], not {number}")
    return number


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if isinstance(value, (bool, np.bool_)) or number < least:
        raise ValueError(f"{name} must be a whole number >= {least}, not {value!r}")
    return number


def _distribution(name: str, value: Any) -> np.ndarray:
    p = validation.array(name, value)
    if p.ndim != 1 or len(p) < 2:
        raise ValueError(f"{name} must be a vector of at least 2 probabilities, not of shape {p.shape}")
    if (p < 0).any():
        raise ValueError(f"{name} must not be negative; its smallest entry is {p.min()}")
    if abs(p.sum() - 1) > _SUM_TOLERANCE:
        raise ValueError(f"{name} must sum to 1, not to {p.sum()}")
    return p


# One step on the shared column (Sec. 4.3, A.5) --------------------------------------------------------------


def prediction(
    storage: Float[np.ndarray, "vocab tokens"], mass: Float[np.ndarray, " tokens"]
) -> Float[np.ndarray, " vocab"]:
    """Prediction ``p`` of a prompt whose masked position puts attention ``mass`` on each token (Sec. 3)."""
    return softmax(storage @ mass)


def log_odds(logits: Float[np.ndarray, "*batch vocab"], target: int) -> Float[np.ndarray, "*batch"]:
    """``log p(A)/(1 - p(A))`` of logits along their last axis; keeps its digits where p(A) rounds to 0 or 1."""
    return np.asarray(logits[..., target] - logsumexp(np.delete(logits, target, axis=-1), axis=-1))


def loss(logits: Float[np.ndarray, "*batch vocab"], target: int) -> Float[np.ndarray, "*batch"]:
    """Cross-entropy ``-log p(A)`` of logits along their last axis."""
    return np.asarray(np.logaddexp(0, -log_odds(logits, target)))


def column_gradient(alpha: Any, p: Any, target: int) -> Float[np.ndarray, " vocab"]:
    """Gradient of the loss in column B: ``alpha (p - e_A)`` (A.5).

    ``alpha`` is the attention mass on B, the sum over all its occurrences; 0 where B is absent.
    """
    error = _distribution("p", p).copy()
    error[_target(target, len(error))] -= 1
    return _scalar("alpha", alpha) * error


def forward_step(
    storage: Float[np.ndarray, "vocab tokens"],
    mass: Float[np.ndarray, " tokens"],
    target: int,
    eta: Number,
    column: Count | None = None,
) -> Float[np.ndarray, "vocab tokens"]:
    """Storage after one gradient step of rate ``eta`` on a prompt's loss: in one ``column`` or in all."""
    error = prediction(storage, mass)
    error[target] -= 1
    gradient = np.outer(error, mass)
    if column is not None:
        gradient[:, np.arange(len(mass)) != column] = 0
    return storage - eta * gradient


def _target(target: Any, vocab: int) -> int:
    index = _whole("target", target, 0)
    if index >= vocab:
        raise ValueError(f"target must be an index below the vocabulary size {vocab}, not {index}")
    return index


@dataclasses.dataclass(frozen=True)
class SharedStep:
    """One forward step of rate ``eta`` on the shared column, seen from the reverse prompt.

    :param alpha_f: forward attention mass on B, in (0, 1]
    :param alpha_r: reverse attention mass on B, in (0, 1]. Only ``alpha_f * alpha_r`` matters: a step on all
        of W is the same with the inner product ``a_f . a_r`` of the two mass vectors in its place
    :param p_f: forward prediction before the step
    :param p_r: reverse prediction before the step
    :param target: index of A, the same in both prompts
    :param eta: learning rate, any positive number
    """

    alpha_f: Any
    alpha_r: Any
    p_f: Any
    p_r: Any
    target: Any
    eta: Any

    def __post_init__(self) -> None:
        for name in ("alpha_f", "alpha_r"):
            object.__setattr__(self, name, _weight(name, getattr(self, name)))
        for name in ("p_f", "p_r"):
            object.__setattr__(self, name, _distribution(name, getattr(self, name)))
        if len(self.p_f) != len(self.p_r):
            raise ValueError(f"p_f and p_r must have one length, not {len(self.p_f)} and {len(self.p_r)}")
        object.__setattr__(self, "target", _target(self.target, len(self.p_f)))
        object.__setattr__(self, "eta", _positive("eta", self.eta))

    @property
    def inner_product(self) -> float:
        """Theorem 4.6: inner product of the two gradients in column B, a sum of non-negative terms."""
        others = np.arange(len(self.p_f)) != self.target
        distractors = self.p_f[others] @ self.p_r[others]
        hit = (1 - self.p_f[self.target]) * (1 - self.p_r[self.target])
        return float(self.alpha_f * self.alpha_r * (hit + distractors))

    @property
    def gain(self) -> Float[np.ndarray, " vocab"]:
        """Rise of every reverse margin: ``eta alpha_f alpha_r (1 - p_f(A) + p_f(v))``; 0 at the target."""
        gain = self.eta * self.alpha_f * self.alpha_r * (1 - self.p_f[self.target] + self.p_f)
        gain[self.target] = 0
        return gain

    @property
    def least_gain(self) -> float:
        """Gamma: the rise that every reverse margin has at least."""
        return float(np.delete(self.gain, self.target).min())

    @property
    def change(self) -> float:
        """Exact change of the reverse loss: ``log E exp(-gain)``, the mean over the reverse prediction."""
        small = self.p_r @ np.expm1(-self.gain)  # keeps its digits where the change is tiny
        return float(np.log1p(small) if small > -0.5 else logsumexp(-self.gain, b=self.p_r))

    @property
    def first_order(self) -> float:
        """Predicted change of the reverse loss to first order: ``-eta`` times the inner product."""
        return -self.eta * self.inner_product

    @property
    def remainder_bound(self) -> float:
        """The exact change exceeds the first-order one by between 0 and this (Hoeffding's lemma)."""
        return float(self.gain.max() ** 2 / 8)

    @property
    def odds_change(self) -> float:
        """Bound on the change from the least gain alone; exact where all gains are equal, as for n = 2."""
        return float(np.log1p(np.expm1(-self.least_gain) * (1 - self.p_r[self.target])))

    @property
    def smoothness_change(self) -> float:
        """Bound on the change from smoothness (the Hessian of the cross-entropy is at most 1/2)."""
        moved = column_gradient(self.eta * self.alpha_f * self.alpha_r, self.p_f, self.target)
        return float(self.first_order + moved @ moved / 4)

    @property
    def smoothness_limit(self) -> float:
        """``eta*``: below this rate the smoothness bound promises a decrease. The truth needs no limit."""
        moved = column_gradient(self.alpha_f * self.alpha_r, self.p_f, self.target)
        return float(4 * self.inner_product / (moved @ moved))


def step_gain(
    alpha_f: Any, alpha_r: Any, p_f: Any, p_r: Any, target: Any, eta: Any
) -> Float[np.ndarray, " vocab"]:
    """Change of every reverse margin ``z_r(A) - z_r(v)`` after one forward step on the shared column.

    ``eta alpha_f alpha_r (1 - p_f(A) + p_f(v))`` for every v but the target, where it is 0; exact for any
    ``eta > 0``. Arguments as in `SharedStep`; ``p_r`` does not enter the value, only the checks.
    """
    return SharedStep(alpha_f, alpha_r, p_f, p_r, target, eta).gain


# The flow on one evidence token (App. C.3) ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Path:
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
    """

    forward_map: Float[np.ndarray, "head_dim head_dim"]
    reverse_map: Float[np.ndarray, "head_dim head_dim"]
    forward_bias: Number = 0.0
    reverse_bias: Number = 0.0
    learned: frozenset[str] = frozenset({"key"})

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
    ) -> Path:
        """Integrate from t = 0, as an initial value problem in log(1 + t), to the given values of log(1 + t)."""
        sizes = np.cumsum([len(column), len(query)])
        start = np.concatenate([column, query, key])
        solved = solve_ivp(lambda u, y: self._velocity(u, *np.split(y, sizes)), (0.0, log_times[-1]), start,
                           method="LSODA", t_eval=log_times, rtol=1e-11, atol=1e-13)
        if not solved.success:
            raise ArithmeticError(f"the flow could not be integrated to log t = {log_times[-1]}: {solved.message}")
        w, q, k = np.split(solved.y.T, sizes, axis=1)
        scores = [np.einsum("ti,ij,tj->t", q, M, k) for M in (self.forward_map, self.reverse_map)]
        return Path(log_times, w, q, k, scores[0] + self.forward_bias, scores[1] + self.reverse_bias)

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
    start = _scalar("s_f0", s_f0)
    if start > _LARGEST_SCORE:
        raise ValueError(f"s_f0 must be at most {_LARGEST_SCORE:g}, not {start}: e^s_f0 would overflow")
    if (np.abs(validation.array("margin", margin)) > 1e150).any():
        raise ValueError(f"margin must be at most 1e150, not {np.max(np.abs(margin))}: its square would overflow")
    energy = route_energy(start) + np.exp(_log_kappa(vocab, q_norm2)) * np.square(margin)
    root = wrightomega(energy)  # root + log(root) = energy
    return np.where(energy > 1, np.log(np.maximum(root, 0.5)), energy - root)[()]


def _log_kappa(vocab: Any, q_norm2: Any) -> float:
    """Logarithm of kappa = c (n - 1)/(2 n), c = |q|^2: late in the flow, ``e^{s_f} ~ kappa m^2``."""
    n = _whole("vocab", vocab, 2)
    return float(np.log(_positive("q_norm2", q_norm2)) + np.log((n - 1) / (2 * n)))


def log_time(
    margins: Float[np.ndarray, " times"], score: Callable[[np.ndarray], Any], vocab: Count
) -> Float[np.ndarray, " times"]:
    """log t at which all margins, grown from 0, reach each of ``margins`` (ascending, > 0).

    ``t = int_0^m (e^{alpha mu} + n - 1)/(n alpha) d mu`` with ``alpha = sigmoid(score(mu))``, by Gauss-Legendre
    panels summed in logarithms. ``score`` gives the forward score at a margin: a constant for fixed routing.
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
    """
    ratio = validation.array("rho", rho)
    start_f, start_r = validation.array("s_f0", s_f0), validation.array("s_r0", s_r0)
    if (np.abs(ratio) > 1).any():
        raise ValueError(f"rho must lie in [-1, 1], not {rho!r}")
    with np.errstate(over="ignore"):  # K may be infinite; the limit is then 1
        at_threshold = np.exp(start_r + start_f / 2 - _log_kappa(vocab, q_norm2) / 2)
    evidence = np.where(ratio > -0.5, np.inf, np.where(ratio < -0.5, 0.0, at_threshold))
    return validation.plain(np.asarray(expit(evidence - np.log(operator.index(vocab) - 1))))


def reverse_tail(log_t: Any, rho: Number, s_f0: Number, s_r0: Number, vocab: Count, q_norm2: Number) -> Any:
    """Late ``log(1 - p_r(A))`` under the RoPE flow with a learned key; the error tends to 0 for ``rho > -1/2``.

    ``log(n - 1) - sigmoid(s_r) m`` with ``m = log(n t)`` and ``s_r = s_r0 + rho (log(kappa m^2) - s_f0)``,
    kappa = c (n - 1)/(2 n).
    """
    margin = np.log(vocab) + log_t
    score = s_r0 + rho * (_log_kappa(vocab, q_norm2) + 2 * np.log(margin) - s_f0)
    return np.log(vocab - 1) - expit(score) * margin
