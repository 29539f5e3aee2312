"""Forward training and the reverse prediction: one step (Sec. 4.3, A.5), then the whole flow (App. C.3).

**One step.** Two masked prompts, forward ``f`` and reverse ``r``, ask for the same target A and both show the
evidence token B. Column B of the storage ``W`` (vocab x (vocab + 1), one column a clean token and one for the
mask) is shared; a prompt sees it through its attention mass ``alpha`` on B (the routing weight). Logits are
``W @ mass``, predictions their softmax ``p``, losses ``-log p(A)``.

**The flow.** A mask and one evidence token: logits ``z = sigmoid(s) W[:, B]`` with a forward score ``s_f``
and a reverse score ``s_r``, trained by gradient flow on the forward loss alone. Time is kept as a logarithm,
so that ``log t`` in the hundreds does not overflow.

Words: *margin* ``m_v = W[A, B] - W[v, B]``; *reverse margin* ``z_r(A) - z_r(v)``, which is ``alpha_r m_v`` in
the flow. Every function refuses a bad argument with a ``ValueError`` that names it.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp, softmax

_SUM_TOLERANCE = 1e-6  # a float32 softmax sums to 1 within this

# Arguments --------------------------------------------------------------------------------------------------


def _numbers(name: str, value: Any) -> np.ndarray:
    """``value`` as an array of finite floats."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or an array of numbers, not {value!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, not {value!r}")
    return array


def _scalar(name: str, value: Any) -> float:
    array = _numbers(name, value)
    if array.ndim:
        raise ValueError(f"{name} must be one number, not an array of shape {array.shape}")
    return float(array)


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
    p = _numbers(name, value)
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


def loss(logits: Float[np.ndarray, "*batch vocab"], target: int) -> Float[np.ndarray, "*batch"]:
    """Cross-entropy ``-log p(A)`` of logits along their last axis."""
    return -log_softmax(logits, axis=-1)[..., target]


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
    eta: float,
    column: int | None = None,
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

    alpha_f: float
    alpha_r: float
    p_f: np.ndarray
    p_r: np.ndarray
    target: int
    eta: float

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
