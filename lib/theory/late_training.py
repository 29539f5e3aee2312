"""What forward-only training converges to, with attention held fixed, in a model of N facts (this book's own).

`separators` says where training ends for any prompts. Here they are of two kinds. A prompt of fact i has attention
alpha on its evidence B_i and 1 - alpha on tokens that all prompts share. Its *forward* prompt (P_+) has alpha_plus and
the target A_i, its *placeholder* prompt (P_-) has alpha_minus and the target 0. `Separator` is their maximum-margin
separator in closed form, `reverse_limit_with_placeholder` the limit of the reverse probability, `solve_flow` what
happens before. By symmetry all are functions of three numbers:

    u = W[A_i, B_i] - W[A_j, B_i]      the letter against another letter, on the evidence
    x = W[A_i, B_i] - W[0, B_i]        the letter against the placeholder, on the evidence
    y = W[A_i, rest] - W[0, rest]      the same on the shared tokens

so that at attention a the letter leads the placeholder by ``f(a) = a x + (1 - a) y`` and another letter by ``a u``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.integrate import solve_ivp
from scipy.special import expit, logit

from lib.theory import validation
from lib.theory.validation import Count, Number

# Forward and placeholder prompts ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
    """The small model's training prompts, one forward and one placeholder prompt a fact.

    :param alpha_plus: attention on the evidence in forward prompts, in (0, 1]
    :param alpha_minus: the same in placeholder prompts, in (0, 1]
    :param facts: N, at least 2
    :param forward_share: share of the loss that forward prompts have, strictly between 0 and 1
    :raises ValueError: for an argument outside its range
    """

    alpha_plus: Any
    alpha_minus: Any
    facts: Any
    forward_share: Any = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha_plus", "alpha_minus"):
            object.__setattr__(self, name, validation.attention_mass(name, getattr(self, name)))
        object.__setattr__(self, "facts", validation.whole_number("facts", self.facts, 2))
        share = validation.scalar("forward_share", self.forward_share)
        object.__setattr__(self, "forward_share", float(validation.strictly_between("forward_share", share, 0, 1)))

    @property
    def gap(self) -> float:
        """delta = alpha_plus - alpha_minus."""
        return float(self.alpha_plus - self.alpha_minus)

    @property
    def midpoint(self) -> float:
        """(alpha_plus + alpha_minus) / 2, the limit of the threshold."""
        return float(self.alpha_plus + self.alpha_minus) / 2

    def prompts(
        self,
    ) -> tuple[Float[np.ndarray, "prompts tokens"], Int[np.ndarray, " prompts"], Float[np.ndarray, " prompts"]]:
        """Features, targets and weights: forward prompts, then placeholder prompts.

        Tokens are the N evidence tokens and the rest; classes the N letters and, last, the placeholder.
        """
        count = self.facts
        masses = [fact_features(alpha, count) for alpha in (self.alpha_plus, self.alpha_minus)]
        targets = np.append(np.arange(count), np.full(count, count))
        return np.concatenate(masses), targets, np.repeat([self.forward_share, 1 - self.forward_share], count)


def fact_features(alpha: Number, facts: Count) -> Float[np.ndarray, "facts tokens"]:
    """Features of one prompt a fact: ``alpha`` on its evidence, the rest on the last token."""
    return np.hstack([alpha * np.eye(int(facts)), np.full((facts, 1), 1 - alpha)])


@dataclasses.dataclass(frozen=True)
class Separator:
    """Maximum-margin separator of a `Task`, in closed form, scaled so that the smallest margin is 1.

    :raises ValueError: where both attention masses are equal: there is no separator
    """

    task: Task

    def __post_init__(self) -> None:
        if self.task.gap == 0:
            raise ValueError(f"alpha_plus and alpha_minus must differ, not both be {self.task.alpha_plus}")

    @property
    def x(self) -> float:
        """Letter against placeholder on the evidence, ``2 (1 - midpoint) / delta``."""
        return 2 * (1 - self.task.midpoint) / self.task.gap

    @property
    def y(self) -> float:
        """Letter against placeholder on the rest, ``-2 midpoint / delta``."""
        return -2 * self.task.midpoint / self.task.gap

    @property
    def u(self) -> float:
        """Letter against letter on the evidence, ``max(1 / alpha_plus, x / 2)``."""
        return max(1 / self.task.alpha_plus, self.x / 2)

    @property
    def multipliers(self) -> tuple[float, float, float]:
        """Lagrange multipliers p, q, r of a fact's constraints.

        Forward prompt, letter over placeholder; forward prompt, letter over one other letter; placeholder prompt,
        placeholder over letter.
        """
        task, size = self.task, self.task.facts + 1
        g = task.facts * self.x - (task.facts - 1) * self.u
        p = ((1 - task.alpha_minus) * g - task.alpha_minus * self.y) / (size * task.gap)
        r = ((1 - task.alpha_plus) * g - task.alpha_plus * self.y) / (size * task.gap)
        return p, (2 * self.u - self.x) / (size * task.alpha_plus), r

    @property
    def storage(self) -> Float[np.ndarray, "classes tokens"]:
        """W, of the smallest norm: its columns sum to 0."""
        count = self.task.facts
        a = ((count - 1) * self.u + self.x) / (count + 1)
        storage = np.full((count + 1, count + 1), a - self.u)
        np.fill_diagonal(storage, a)
        storage[-1], storage[:, -1] = a - self.x, self.y / (count + 1)
        storage[-1, -1] = -count * self.y / (count + 1)
        return storage

    @property
    def lag(self) -> float:
        """kappa: by how much the placeholder prompt's margin ends above the forward prompt's, in nats.

        ``log(p (1 - s) / (r s))`` with s the share of forward prompts in the loss.
        """
        p, _, r = self.multipliers
        return math.log(p / r) - float(logit(self.task.forward_share))


def reverse_limit_with_placeholder(
    alpha_plus: Any, alpha_minus: Any, alpha_reverse: Any, facts: Any, *, forward_share: Any = 0.5
) -> tuple[float, float]:
    """Limit of the reverse probability of the letter under forward-only training, and the threshold on its attention.

    Attention held fixed, gradient descent with a small step on the cross-entropy of forward prompts (attention
    ``alpha_plus`` on the evidence, target the letter) and placeholder prompts (``alpha_minus``, target placeholder).

    * ``alpha_plus != alpha_minus``: the threshold is their midpoint. The limit is 1 where ``alpha_reverse`` lies on the
      side of ``alpha_plus``, 0 on the other side. Exactly on the midpoint it is ``1 / (1 + exp(kappa / 2))`` with
      kappa from `Separator.lag`: between 0 and 1, and dependent on ``facts`` and ``forward_share``.
    * ``alpha_plus == alpha_minus < 1``: the threshold is that attention. There the limit is ``forward_share``, above
      it 1 (from a start that treats all facts alike), below it 0.
    * Both 1: the shared tokens are never trained, so the limit depends on the start. From W = 0 it is the logistic
      function of ``alpha_reverse`` times the log odds of ``forward_share``, and there is no threshold: nan.
    * ``alpha_minus`` None, no placeholder prompts: the limit is 1 at every attention, and there is no threshold: nan.

    :param alpha_reverse: attention on the evidence in the reverse query, in (0, 1]
    :param facts: N, at least 2
    :param forward_share: share of the loss that forward prompts have; matters only at the threshold
    :return: limit of p_r(letter), and the threshold
    :raises ValueError: for an attention outside (0, 1], fewer than 2 facts, a share not strictly between 0 and 1
    """
    alone = alpha_minus is None
    task = Task(alpha_plus, alpha_plus if alone else alpha_minus, facts, forward_share)
    reverse = validation.attention_mass("alpha_reverse", alpha_reverse)
    if alone:
        return 1.0, math.nan
    if task.gap == 0 and task.alpha_plus == 1:
        return float(expit(reverse * logit(task.forward_share))), math.nan
    if math.isclose(reverse, task.midpoint, rel_tol=1e-12):
        return task.forward_share if task.gap == 0 else float(expit(-Separator(task).lag / 2)), task.midpoint
    return float((reverse > task.midpoint) == (task.gap >= 0)), task.midpoint


# The flow from a uniform start --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LateFlow:
    """Gradient flow of a `Task` from W = 0, all facts alike: u, x and y at each time."""

    task: Task
    log_time: Float[np.ndarray, " times"]  # log(1 + t)
    u: Float[np.ndarray, " times"]
    x: Float[np.ndarray, " times"]
    y: Float[np.ndarray, " times"]

    def lead(self, alpha: Number) -> Float[np.ndarray, " times"]:
        """``f(alpha)``: the letter's logit minus the placeholder's at this attention on the evidence."""
        return np.asarray(alpha * self.x + (1 - alpha) * self.y)

    def probability(self, alpha: Number) -> Float[np.ndarray, " times"]:
        """Probability of the letter at this attention on the evidence."""
        others = np.log(self.task.facts - 1) - alpha * self.u
        return np.asarray(np.exp(-np.logaddexp(0, np.logaddexp(-self.lead(alpha), others))))

    @property
    def threshold(self) -> Float[np.ndarray, " times"]:
        """Attention at which letter and placeholder are equally likely; nan at the start."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.y / (self.y - self.x))


def flow_speed(task: Any, u: Any, x: Any, y: Any, exp: Callable[[Any], Any] = np.exp) -> tuple[Any, Any, Any]:
    """Time derivatives of u, x and y: the loss is the sum over facts, forward and placeholder prompts by their shares.

    ``task`` is a `Task` or has its attributes; these and u, x, y may be symbols, with ``exp`` sympy's.
    """
    plus, minus, count, share = task.alpha_plus, task.alpha_minus, task.facts, task.forward_share

    def predicted(alpha: Any) -> tuple[Any, Any, Any]:
        """The letter's lead removed: probabilities of the letter, of one other letter and of the placeholder."""
        low = -(alpha * x + (1 - alpha) * y), -alpha * u
        scale = 0 if exp is not np.exp else max(0.0, *low)
        letter, zero, other = exp(-scale), exp(low[0] - scale), exp(low[1] - scale)
        total = letter + zero + (count - 1) * other
        return letter / total, other / total, zero / total

    _, other_f, zero_f = predicted(plus)
    letter_p, other_p, _ = predicted(minus)
    missed_f = zero_f + (count - 1) * other_f  # 1 - p(letter), without the rounding
    missed_p = letter_p + (count - 1) * other_p  # 1 - p(placeholder)
    forward, placeholder = share * plus, (1 - share) * minus
    u_speed = forward * (missed_f + other_f) - placeholder * (letter_p - other_p)
    x_speed = forward * (missed_f + zero_f) - placeholder * (letter_p + missed_p)
    y_speed = (count + 1) * (share * (1 - plus) * zero_f - (1 - share) * (1 - minus) * missed_p)
    return u_speed, x_speed, y_speed


def solve_flow(task: Task, log_t_max: Number = 60.0, times: Count = 600) -> LateFlow:
    """The flow from W = 0, integrated in log time, so that times up to e^600 are in reach."""
    log_time = np.linspace(0, validation.positive("log_t_max", log_t_max), times)

    def speed(log_t: float, state: Float[np.ndarray, " 3"]) -> list[float]:
        return [math.exp(log_t) * part for part in flow_speed(task, *state)]

    found = solve_ivp(speed, (0, log_t_max), np.zeros(3), "BDF", log_time, rtol=1e-8, atol=1e-10)
    return LateFlow(task, log_time, *found.y)
