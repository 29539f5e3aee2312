"""One forward step and the reverse prediction (Sec. 4.3, App. A.5, Theorem 4.6), exactly and to first order.

Two masked prompts, forward ``f`` and reverse ``r``, ask for one target A and both show the evidence token B. Column B
of the storage ``W`` (vocab x (vocab + 1), one column a clean token and one for the mask) is shared; a prompt reads it
through its attention mass ``alpha`` on B. Logits are ``W a``, predictions their softmax ``p``, losses ``-log p(A)``
in nats. The *reverse margin* of a token v is ``z_r(A) - z_r(v)``. Attention is held fixed; `flows` lets it move.

A bad argument is refused with a ``ValueError`` that names it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from lib.theory import validation


def log_odds(logits: Float[np.ndarray, "*batch vocab"], target: int) -> Float[np.ndarray, "*batch"]:
    """``log p(A)/(1 - p(A))`` of logits along their last axis; accurate even where p(A) rounds to 0 or 1."""
    return np.asarray(logits[..., target] - logsumexp(np.delete(logits, target, axis=-1), axis=-1))


def loss(logits: Float[np.ndarray, "*batch vocab"], target: int) -> Float[np.ndarray, "*batch"]:
    """Cross-entropy ``-log p(A)``, in nats, of logits along their last axis; accurate even where p(A) rounds to 1."""
    return np.asarray(np.logaddexp(0, -log_odds(logits, target)))


def column_gradient(alpha: Any, p: Any, target: int) -> Float[np.ndarray, " vocab"]:
    """Gradient of a prompt's loss in column B: ``alpha (p - e_A)`` (A.5).

    :param alpha: attention mass on B, the sum over all its occurrences; 0 where B is absent
    :param p: the prompt's prediction
    :raises ValueError: for an alpha that is no number, a p that is no distribution, or a target outside it
    """
    error = validation.distribution("p", p).copy()
    error[validation.token("target", target, len(error))] -= 1
    return validation.scalar("alpha", alpha) * error


@dataclasses.dataclass(frozen=True)
class SharedStep:
    """One forward step of size ``eta`` on the shared column, seen from the reverse prompt.

    :param alpha_f: forward attention mass on B, in (0, 1]
    :param alpha_r: reverse attention mass on B, in (0, 1]. Only ``alpha_f * alpha_r`` matters: a step on all
        of W is the same with the inner product ``a_f . a_r`` of the two mass vectors in its place
    :param p_f: forward prediction before the step
    :param p_r: reverse prediction before the step
    :param target: index of A, the same in both prompts
    :param eta: step size, any positive number
    :raises ValueError: for an argument outside its range
    """

    alpha_f: Any
    alpha_r: Any
    p_f: Any
    p_r: Any
    target: Any
    eta: Any

    def __post_init__(self) -> None:
        refuse = {"alpha_f": validation.attention_mass, "alpha_r": validation.attention_mass,
                  "p_f": validation.distribution, "p_r": validation.distribution, "eta": validation.positive}
        for name, validated in refuse.items():
            object.__setattr__(self, name, validated(name, getattr(self, name)))
        if len(self.p_f) != len(self.p_r):
            raise ValueError(f"p_f and p_r must have one length, not {len(self.p_f)} and {len(self.p_r)}")
        object.__setattr__(self, "target", validation.token("target", self.target, len(self.p_f)))

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
        """Gamma, the smallest rise of a reverse margin."""
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
        """``eta*``: below this step size the smoothness bound promises a decrease; the exact change needs no limit."""
        moved = column_gradient(self.alpha_f * self.alpha_r, self.p_f, self.target)
        return float(4 * self.inner_product / (moved @ moved))


def step_gain(
    alpha_f: Any, alpha_r: Any, p_f: Any, p_r: Any, target: Any, eta: Any
) -> Float[np.ndarray, " vocab"]:
    """Change of every reverse margin ``z_r(A) - z_r(v)`` after one forward step on the shared column.

    ``eta alpha_f alpha_r (1 - p_f(A) + p_f(v))`` for every v but the target, where it is 0; exact for any
    ``eta > 0``. Arguments as in `SharedStep`; ``p_r`` is validated, but the value does not depend on it.

    :raises ValueError: for an argument outside its range
    """
    return SharedStep(alpha_f, alpha_r, p_f, p_r, target, eta).gain
