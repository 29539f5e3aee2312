"""One forward step and the reverse prediction (Sec. 4.3, App. A.5, Theorem 4.6), exactly and to first order.

Two masked prompts, forward ``f`` and reverse ``r``, ask for one target A and both show the evidence token B. Column B
of the storage ``W`` (vocab x (vocab + 1), one column a clean token and one for the mask) is shared; a prompt reads it
through its attention mass ``alpha`` on B. Logits are ``W a``, predictions their softmax ``p``, losses ``-log p(A)``
in nats. The *reverse margin* of a token v is ``z_r(A) - z_r(v)``. Attention is held fixed; `flows` lets it move.

A bad argument is refused with a ``ValueError`` that names it. `SharedStep` predicts a step, `PromptPair` takes one in
the model; `dynamics_proofs` holds the algebra.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from lib.theory import validation
from lib.theory.storage import descend, prediction
from lib.theory.validation import Count, Number

# Predicted ----------------------------------------------------------------------------------------------------


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


def step_gain(alpha_f: Any, alpha_r: Any, p_f: Any, p_r: Any, target: Any, eta: Any) -> Float[np.ndarray, " vocab"]:
    """Change of every reverse margin ``z_r(A) - z_r(v)`` after one forward step on the shared column.

    ``eta alpha_f alpha_r (1 - p_f(A) + p_f(v))`` for every v but the target, where it is 0; exact for any
    ``eta > 0``. Arguments as in `SharedStep`; ``p_r`` is validated, but the value does not depend on it.

    :raises ValueError: for an argument outside its range
    """
    return SharedStep(alpha_f, alpha_r, p_f, p_r, target, eta).gain


# Taken in the model -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PromptPair:
    """Storage, and two prompts that ask for one target and both show the evidence token."""

    storage: Float[np.ndarray, "vocab tokens"]  # W
    mass_f: Float[np.ndarray, " tokens"]  # a_f, forward attention mass on each token
    mass_r: Float[np.ndarray, " tokens"]  # a_r
    target: int  # A
    evidence: int  # B

    @property
    def other(self) -> int:
        """Another target, A'."""
        return (self.target + 1) % len(self.storage)

    def predicted(self, eta: Number) -> SharedStep:
        """The forward step of size ``eta`` on column B, in the terms of the theorem."""
        return SharedStep(self.mass_f[self.evidence], self.mass_r[self.evidence], prediction(self.storage, self.mass_f),
                          prediction(self.storage, self.mass_r), self.target, eta)

    def stepped(
        self, eta: Number, *, all_columns: bool = False, target: int | None = None
    ) -> Float[np.ndarray, "vocab tokens"]:
        """W after a forward step on column B, or on all of W; ``target`` replaces A as what the step trains."""
        trained = self.target if target is None else target
        return descend(self.storage, self.mass_f, trained, eta, column=None if all_columns else self.evidence)[-1]

    def measured_change(self, eta: Number, *, all_columns: bool = False) -> float:
        """Change of the reverse loss in nats: the step is taken in the model, and the model is asked."""
        after = self.stepped(eta, all_columns=all_columns)
        return float(loss(after @ self.mass_r, self.target) - loss(self.storage @ self.mass_r, self.target))

    def cosine(self, reverse_target: int) -> float:
        """Cosine of the forward and the reverse gradient in column B (their attention masses cancel)."""
        f = column_gradient(1.0, prediction(self.storage, self.mass_f), self.target)
        r = column_gradient(1.0, prediction(self.storage, self.mass_r), reverse_target)
        return float(f @ r / np.sqrt((f @ f) * (r @ r)))


def random_pairs(count: Count, vocab: Count, length: Count, seed: Count) -> list[PromptPair]:
    """Normal storage of scale 2 and random prompts of ``length`` positions: the evidence, the mask, any tokens."""
    rng = np.random.default_rng(seed)

    def mass(evidence: int) -> Float[np.ndarray, " tokens"]:
        tokens = np.append(rng.integers(0, vocab + 1, length - 2), [evidence, vocab])  # the last is the mask
        return np.bincount(tokens, rng.dirichlet(np.ones(length)), vocab + 1)

    pairs = []
    for _ in range(count):
        target, evidence = map(int, rng.choice(vocab, 2, replace=False))
        storage = 2 * rng.standard_normal((vocab, vocab + 1))
        pairs.append(PromptPair(storage, mass(evidence), mass(evidence), target, evidence))
    return pairs


def remainder_slope(pairs: Sequence[PromptPair], all_columns: bool = False) -> float:
    """Median over pairs of the order in eta at which the measured change leaves first order, from eta = 0.1 to 1.

    The prediction counts column B alone, so a step on all of W leaves a first-order term behind.
    """

    def error(pair: PromptPair, eta: float) -> float:
        return pair.measured_change(eta, all_columns=all_columns) - pair.predicted(eta).first_order

    return float(np.median([np.log10(error(pair, 1.0) / error(pair, 0.1)) for pair in pairs]))


def remainder_enclosed(pairs: Sequence[PromptPair], all_columns: bool = False) -> bool:
    """Whether 0 <= measured change - first order <= max Gamma^2 / 8 for every pair and eta from 0.01 to 100.

    Measured losses are rounded, which 1e-12 allows for.
    """
    room = 1e-12
    steps = [(pair.predicted(eta), pair.measured_change(eta, all_columns=all_columns))
             for pair in pairs for eta in (0.01, 0.1, 1.0, 10.0, 100.0)]
    return all(-room <= change - step.first_order <= step.remainder_bound + room for step, change in steps)


def half_is_realised(pairs: Sequence[PromptPair], multiple: Number = 1) -> bool:
    """Whether each pair's exact decrease is at least half of the first-order one at ``multiple`` times the stated eta.

    The stated step size is ``(1 - p_r(A)) / (alpha_f alpha_r (1 - p_f(A)))``.
    """

    def step(pair: PromptPair) -> SharedStep:
        unit, target = pair.predicted(1.0), pair.target
        weight = unit.alpha_f * unit.alpha_r * (1 - unit.p_f[target])
        return pair.predicted(multiple * (1 - unit.p_r[target]) / weight)

    return all(one.change <= one.first_order / 2 for one in map(step, pairs))


def target_margins(logits: Float[np.ndarray, " vocab"], target: int) -> Float[np.ndarray, " vocab"]:
    """``z(A) - z(v)`` of every token v."""
    return np.asarray(logits[target] - logits)


def step_on_storage_gains(pairs: Sequence[PromptPair], same_target: bool = True) -> bool:
    """Whether a step on all of W raises every reverse margin by `step_gain`, ``a_f . a_r`` in place of the two alphas.

    For eta = 0.01, 1 and 1000, to nine digits. ``same_target``: whether the step trains the reverse prompt's target.
    """
    for pair in pairs:
        before, step = target_margins(pair.storage @ pair.mass_r, pair.target), pair.predicted(1.0)
        for eta in (0.01, 1.0, 1000.0):
            after = pair.stepped(eta, all_columns=True, target=pair.target if same_target else pair.other)
            rise = target_margins(after @ pair.mass_r, pair.target) - before
            gain = step_gain(pair.mass_f @ pair.mass_r, 1.0, step.p_f, step.p_r, pair.target, eta)
            if not np.allclose(rise, gain, rtol=1e-9, atol=1e-10) or (np.delete(gain, pair.target) <= 0).any():
                return False
    return True


def step_on_unembedding_gains(
    count: Count, vocab: Count, seed: Count, aligned: bool = True, dim: Count = 6, eta: Number = 3.0
) -> bool:
    """Whether a step on U alone raises each margin, by ``eta <h_f, h_r> (1 - p_f(A) + p_f(v))``, for random U and h.

    :param aligned: the attended values h have a positive inner product; else a negative one
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        unembedding, h_f, h_r = rng.standard_normal((vocab, dim)), *rng.standard_normal((2, dim))
        h_r = h_r if (h_f @ h_r > 0) == aligned else -h_r
        p_f = prediction(unembedding, h_f)
        moved = (descend(unembedding, h_f, 0, eta)[-1] - unembedding) @ h_r
        rise = target_margins(moved, 0)[1:]
        if not np.allclose(rise, eta * (h_f @ h_r) * (1 - p_f[0] + p_f[1:])) or (rise <= 0).any():
            return False
    return True


def reverse_path(pair: PromptPair, steps: Count, seed: Count, second_fact: bool = False) -> Float[np.ndarray, " times"]:
    """Reverse probability of A at the start and after each forward step, eta drawn from 0.001 to 1000.

    :param second_fact: every other step trains B on another target
    """
    rng = np.random.default_rng(seed)
    storage, path = pair.storage, [prediction(pair.storage, pair.mass_r)[pair.target]]
    for count in range(steps):
        trained = pair.other if second_fact and count % 2 else pair.target
        storage = descend(storage, pair.mass_f, trained, 10 ** rng.uniform(-3, 3), column=pair.evidence)[-1]
        path.append(prediction(storage, pair.mass_r)[pair.target])
    return np.array(path)


# Two facts with one evidence token ----------------------------------------------------------------------------


def two_facts_path(vocab: int, alternate: bool) -> Float[np.ndarray, "times 2"]:
    """Reverse probabilities of B's targets 0 and 1 from W = 0, attention one half on B in every prompt.

    300 steps of size 0.8.

    :param alternate: train both targets in turn; else the first alone
    """
    storage, mass = np.zeros((vocab, vocab + 1)), np.zeros(vocab + 1)
    mass[[2, vocab]] = 0.5
    path = []
    for step in range(300):
        path.append(prediction(storage, mass)[:2])
        storage = descend(storage, mass, step % 2 if alternate else 0, 0.8, column=2)[-1]
    return np.array(path)


def second_fact_is_hurt(vocab: int, shared: bool = True) -> bool:
    """Whether a step on one fact from W = 0 lowers a second's margin as it should, and raises its reverse loss.

    The fall is ``eta alpha_f alpha_r``, because ``1 - p_f(A) + p_f(A') = 1`` at the start.

    :param shared: the second fact has the same evidence; else evidence of its own
    """
    storage, mass_f, mass_r = np.zeros((vocab, vocab + 1)), *np.zeros((2, vocab + 1))
    mass_f[[2, vocab]], mass_r[[2 if shared else 3, vocab]] = (0.6, 0.4), (0.3, 0.7)
    before, after = storage @ mass_r, descend(storage, mass_f, 0, 0.1, column=2)[-1] @ mass_r
    fall = (after[1] - after[0]) - (before[1] - before[0])
    return bool(np.isclose(fall, -0.1 * 0.6 * 0.3) and loss(after, 1) > loss(before, 1))


def literal_step_hurts(vocab: int, same_target: bool = False) -> bool:
    """Whether a step of size 0.1 on p(B | A), all of W moving from W = 0, raises the loss of p(A | B).

    Each prompt shows the other's target and the mask; A is token 0 and B token 1.

    :param same_target: the first prompt asks for A too
    """
    storage, mass_f, mass_r = np.zeros((vocab, vocab + 1)), *np.zeros((2, vocab + 1))
    mass_f[[0, vocab]], mass_r[[1, vocab]] = (0.6, 0.4), (0.3, 0.7)
    after = descend(storage, mass_f, int(not same_target), 0.1)[-1]
    return bool(loss(after @ mass_r, 0) > loss(storage @ mass_r, 0) + 1e-6)
