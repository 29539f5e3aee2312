"""What forward-only training converges to, with attention held fixed (this book's own).

Effective coordinates: a prompt is a vector of *features* ``phi``, for example the attention mass on each token, and its
logits are ``W phi``. Gradient descent on the cross-entropy then converges in direction to the multiclass
maximum-margin separator where the prompts are separable, and to the predictions of least loss where they are not.

The small model has N facts. A prompt of fact i has attention alpha on its evidence B_i and 1 - alpha on tokens that
all prompts share. Its *forward* prompt (P_+) has alpha_plus and the target A_i, its *placeholder* prompt (P_-) has
alpha_minus and the target 0. `Separator` is its maximum-margin separator in closed form,
`reverse_limit_with_placeholder` the limit of the reverse probability, `solve_flow` what happens before.
By symmetry all are functions of three numbers:

    u = W[A_i, B_i] - W[A_j, B_i]      the letter against another letter, on the evidence
    x = W[A_i, B_i] - W[0, B_i]        the letter against the placeholder, on the evidence
    y = W[A_i, rest] - W[0, rest]      the same on the shared tokens

so that at attention a the letter leads the placeholder by ``f(a) = a x + (1 - a) y`` and another letter by ``a u``.

`separator` computes the limit for any prompts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.integrate import solve_ivp
from scipy.special import expit, logit
from torch import Tensor

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


# The separator of given prompts -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Training prompts with fixed features: equal ones merged, their weights added up to a total of 1.

    :raises ValueError: for shapes that do not match, a target that is no class, a weight that is not positive
    """

    features: Float[Tensor, "prompts features"]
    targets: Int[Tensor, " prompts"]
    classes: int
    weights: Float[Tensor, " prompts"]

    @classmethod
    def merged(
        cls,
        features: Float[Tensor, "prompts features"],
        targets: Int[Tensor, " prompts"],
        classes: Count,
        weights: Float[Tensor, " prompts"] | None = None,
    ) -> Prompts:
        """The prompts in float64, each pair of features and target once.

        :raises ValueError: for no prompts, features that are not finite, or what the class refuses
        """
        classes = validation.whole_number("classes", classes, 2)
        if features.ndim != 2 or targets.shape != features.shape[:1] or not len(targets):
            raise ValueError(f"features must be (prompts, features) and targets (prompts,), at least one prompt, "
                             f"not {tuple(features.shape)} and {tuple(targets.shape)}")
        if int(targets.min()) < 0 or int(targets.max()) >= classes:
            raise ValueError(f"targets must lie between 0 and {classes - 1}")
        weights = torch.ones(len(targets)) if weights is None else weights
        if weights.shape != targets.shape or not bool((weights > 0).all()):
            raise ValueError("weights must be positive, one a prompt")
        rows = torch.cat([features.double(), targets[:, None].double()], 1)
        if not bool(rows.isfinite().all()):
            raise ValueError("features must be finite")
        unique, place = torch.unique(rows, dim=0, return_inverse=True)
        total = torch.zeros(len(unique), dtype=torch.float64).index_add_(0, place, weights.double())
        return cls(unique[:, :-1].contiguous(), unique[:, -1].long(), classes, total / total.sum())

    def logits(self, storage: Float[Tensor, "classes features"]) -> Float[Tensor, "prompts classes"]:
        """``W phi`` of every prompt."""
        return self.features @ storage.T

    def leads(self, logits: Float[Tensor, "prompts classes"]) -> Float[Tensor, "prompts classes"]:
        """Target's logit minus every class's: the margins, 0 at the target itself."""
        return logits.gather(1, self.targets[:, None]) - logits

    def competitors(self) -> Bool[Tensor, "prompts classes"]:
        """Every class but the prompt's target."""
        return torch.arange(self.classes) != self.targets[:, None]

    def row_margins(self, storage: Float[Tensor, "classes features"]) -> Float[Tensor, " prompts"]:
        """Of each prompt the smallest margin of its target over another class."""
        return self.leads(self.logits(storage)).masked_fill(~self.competitors(), torch.inf).amin(1)

    def smallest_margin(self, storage: Float[Tensor, "classes features"]) -> float:
        """The smallest margin of any prompt's target over another class; positive where W separates the prompts."""
        return float(self.row_margins(storage).min())

    def subset(self, rows: Bool[Tensor, " prompts"]) -> Prompts:
        """Some of the prompts, with the weights that they have."""
        return dataclasses.replace(self, features=self.features[rows], targets=self.targets[rows],
                                   weights=self.weights[rows])


def separator(
    features: Float[Tensor, "prompts features"],
    targets: Int[Tensor, " prompts"],
    classes: Count,
    *,
    weights: Float[Tensor, " prompts"] | None = None,
    penalty: Number = 1e-8,
) -> Float[Tensor, "classes features"]:
    """The end of the regularisation path: where the minimiser of cross-entropy plus ridge goes as the penalty vanishes.

    Minimises ``sum_k w_k (-log p_k(target)) + penalty / 2 |W|^2`` (weights scaled to a total of 1) along a path of
    falling penalties down to ``penalty``. If that W classifies every prompt rightly the prompts are separable: the
    limit is then a direction, and what is returned is the multiclass maximum-margin separator, the W of smallest norm
    whose margins are all at least 1. Otherwise the last minimiser is returned. If only some prompts are separable,
    its part that grows without bound is as large as it is at ``penalty``.

    Only the sign of a margin has a meaning for separable prompts; the scale is by convention.

    :param features: of each prompt, for example the attention mass on each token; equal prompts may be repeated
    :param targets: class of each prompt; equal features may have several targets
    :param weights: positive, one a prompt: how often each occurs; all equal where not given
    :param penalty: last one of the path; the minimiser of prompts that are not separable is off by terms of its order
    :return: W in float64, shape (classes, features); every column sums to 0 over the classes
    :raises ValueError: for shapes that do not match, a target that is no class, weights or a penalty not above 0
    """
    prompts = Prompts.merged(features, targets, classes, weights)
    storage = _ridge_path(prompts, validation.positive("penalty", penalty))
    return _maximum_margin(prompts, storage) if prompts.smallest_margin(storage) > 0 else storage


def loss_minimiser(
    features: Float[Tensor, "prompts features"], answers: Float[Tensor, "prompts classes"], *, penalty: Number = 1e-8
) -> Float[Tensor, "classes features"]:
    """Minimiser of the expected loss of prompts whose answers are known by their chances, not by a sample.

    Minimises ``-sum_kc answers_kc log p_k(c) + penalty / 2 |W|^2`` (answers scaled to a total of 1) along a path of
    falling penalties, as `separator` does for single targets.

    :param answers: not negative: of each prompt the chance of every class, times the prompt's weight
    :return: W in float64, shape (classes, features); every column sums to 0 over the classes
    :raises ValueError: for shapes that do not match, answers that are negative, not finite or all 0, and a penalty not
        above 0
    """
    features, answers = features.double(), answers.double()
    last = validation.positive("penalty", penalty)
    if features.ndim != 2 or answers.ndim != 2 or len(features) != len(answers) or answers.shape[1] < 2:
        raise ValueError("features must be (prompts, features) and answers (prompts, classes), at least two classes, "
                         f"not {tuple(features.shape)} and {tuple(answers.shape)}")
    if not bool(answers.isfinite().all()) or bool((answers < 0).any()) or not float(answers.sum()):
        raise ValueError("answers must be finite, not negative, and not all 0")
    # equal prompts are one, with the answers of all of them
    features, place = torch.unique(features, dim=0, return_inverse=True)
    answers = answers.new_zeros(len(features), answers.shape[1]).index_add_(0, place, answers / answers.sum())
    storage, ridge = answers.new_zeros(answers.shape[1], features.shape[1]), max(1.0, 100 * last)
    while ridge > last:
        ridge = max(last, ridge / 100)
        tolerance = 1e-2 if ridge > last else 1e-10  # of the loss, in nats
        storage = _minimise(_expected_loss(features, answers, ridge), features, storage, tolerance)
    return storage - storage.mean(0)


def logit_margins(
    storage: Float[Tensor, "classes features"],
    features: Float[Tensor, "*prompts features"],
    target: Int[Tensor, "*prompts"] | int,
    competitor: Int[Tensor, "*prompts"] | int,
) -> Float[Tensor, "*prompts"]:
    """Logit of ``target`` minus that of ``competitor`` at the given features; one class for all, or one a prompt."""
    difference = storage[target] - storage[competitor]
    return (features.to(difference) * difference).sum(-1)


# A convex function of the logits of all prompts, and its minimisation by Newton steps ---------------------------


@dataclasses.dataclass(frozen=True)
class _Local:
    """A convex function of W at one point: a sum over prompts of a function of their logits, and a ridge."""

    value: float
    gradient: Float[Tensor, "classes features"]
    curvature: Callable[[Tensor], Tensor]  # Hessian in the logits, times a direction (prompts, classes)
    diagonal: Float[Tensor, "prompts classes"]  # of that Hessian
    ridge: float

    def newton_step(self, features: Float[Tensor, "prompts features"], rounds: int = 200) -> Tensor:
        """Solution of Hessian times step = -gradient, by conjugate gradients preconditioned class by class."""
        factors = torch.linalg.cholesky(torch.stack([self._block(features, weight) for weight in self.diagonal.T]))

        def conditioned(residual: Tensor) -> Tensor:
            return torch.cholesky_solve(residual[:, :, None], factors)[:, :, 0]

        step, residual = torch.zeros_like(self.gradient), -self.gradient
        direction = conditioned(residual)
        size = start = float((residual * direction).sum())
        for _ in range(rounds):
            if size <= min(0.01, start) * start:
                break
            product = self.curvature(features @ direction.T).T @ features + self.ridge * direction
            along = size / float((direction * product).sum())
            step, residual = step + along * direction, residual - along * product
            scaled = conditioned(residual)
            before, size = size, float((residual * scaled).sum())
            direction = scaled + size / before * direction
        return step

    def _block(self, features: Float[Tensor, "prompts features"], weight: Float[Tensor, " prompts"]) -> Tensor:
        """The Hessian in one class's row of W; prompts of vanishing weight are left out."""
        heavy = weight > 1e-6 * weight.max()
        shown = features[heavy]
        return (shown * weight[heavy, None]).T @ shown + self.ridge * torch.eye(features.shape[1], dtype=torch.float64)


def _minimise(
    function: Callable[[Tensor], _Local], features: Tensor, start: Tensor, tolerance: float, steps: int = 100
) -> Tensor:
    """Newton's method with backtracking; ends when a step promises less than ``tolerance``."""
    point, local = start, function(start)
    for _ in range(steps):
        step = local.newton_step(features)
        promised = -float((local.gradient * step).sum())
        if promised <= tolerance:
            break
        length = 1.0
        while (after := function(point + length * step)).value > local.value - 0.1 * length * promised:
            length /= 2
            if length < 1e-6:
                break
        if after.value >= local.value:  # rounding: no shorter step helps
            break
        point, local = point + length * step, after
    return point


def _cross_entropy(prompts: Prompts, ridge: float) -> Callable[[Tensor], _Local]:
    """Weighted cross-entropy plus ``ridge / 2 |W|^2``: the expected loss of answers that are certain."""
    certain = torch.nn.functional.one_hot(prompts.targets, prompts.classes)
    return _expected_loss(prompts.features, prompts.weights[:, None] * certain, ridge)


def _expected_loss(features: Tensor, answers: Tensor, ridge: float) -> Callable[[Tensor], _Local]:
    """The loss of `loss_minimiser`."""
    weights = answers.sum(1, keepdim=True)

    def local(storage: Tensor) -> _Local:
        log_p = torch.log_softmax(features @ storage.T, 1)
        p = log_p.exp()

        def curvature(change: Tensor) -> Tensor:
            return weights * p * (change - (p * change).sum(1, keepdim=True))

        return _Local(ridge / 2 * float(storage.square().sum()) - float((answers * log_p).sum()),
                      (weights * p - answers).T @ features + ridge * storage, curvature, weights * p * (1 - p), ridge)

    return local


def _ridge_path(prompts: Prompts, last: float, factor: float = 10.0) -> Tensor:
    """Minimiser at the penalty ``last``, or near the first one of the path that separates the prompts."""
    storage = torch.zeros(prompts.classes, prompts.features.shape[1], dtype=torch.float64)
    ridge = max(1.0, factor * last)
    while ridge > last and prompts.smallest_margin(storage) <= 0:
        ridge = max(last, ridge / factor)
        tolerance = 1e-3 if ridge > last else 1e-13  # of the loss, in nats
        storage = _minimise(_cross_entropy(prompts, ridge), prompts.features, storage, tolerance)
    return storage - storage.mean(0)  # a shift common to all classes is in no logit difference, and costs


# Maximum margin ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Constraints:
    """Margins that have to be at least 1: of the target of a prompt over one other class, for some pairs of them."""

    prompts: Prompts
    rows: Int[Tensor, " pairs"]
    rivals: Int[Tensor, " pairs"]

    @functools.cached_property
    def gram(self) -> Float[Tensor, "pairs pairs"]:
        """Inner products of the margins' gradients in W, ``(e_target - e_rival) phi^T``."""
        features, targets = self.prompts.features[self.rows], self.prompts.targets[self.rows]
        shared = _equal(targets, targets) - _equal(targets, self.rivals)
        return (features @ features.T) * (shared - _equal(self.rivals, targets) + _equal(self.rivals, self.rivals))

    def storage(self, multipliers: Float[Tensor, " pairs"]) -> Float[Tensor, "classes features"]:
        """W as the sum of the margins' gradients, each times its multiplier."""
        pulled = multipliers[:, None] * self.prompts.features[self.rows]
        storage = torch.zeros(self.prompts.classes, pulled.shape[1], dtype=torch.float64)
        storage.index_add_(0, self.prompts.targets[self.rows], pulled)
        return storage.index_add_(0, self.rivals, -pulled)

    def solve(self, start: Float[Tensor, " pairs"], tolerance: float) -> Float[Tensor, " pairs"]:
        """Multipliers of the W of smallest norm that meets these constraints, by the method of multipliers."""
        multipliers, stiffness, before = start, 1e4 / float(self.gram.diagonal().mean()), torch.inf
        for _ in range(100):
            updated = self._proximal(multipliers, stiffness)
            moved, multipliers = float((updated - multipliers).abs().max()) / stiffness, updated
            if moved < tolerance:
                break
            if moved > before / 4:  # slow, as where constraints nearly depend on each other
                stiffness *= 4
            before = moved
        return multipliers

    def _proximal(self, multipliers: Float[Tensor, " pairs"], stiffness: float) -> Float[Tensor, " pairs"]:
        """One outer step: the dual with a quadratic that holds it near ``multipliers``, by semi-smooth Newton steps.

        The primal it solves, over ``pull`` with W = storage(pull), is
        ``|W|^2 / 2 + |max(0, multipliers + stiffness (1 - margins))|^2 / (2 stiffness)``.
        """

        def short(margins: Tensor) -> Tensor:
            return (multipliers + stiffness * (1 - margins)).clamp(min=0)

        def value(pull: Tensor, margins: Tensor) -> float:
            return float(pull @ margins / 2 + short(margins).square().sum() / (2 * stiffness))

        pull, margins = multipliers, self.gram @ multipliers
        for _ in range(100):
            active = short(margins) > 0
            target = self._least_norm(active, multipliers / stiffness + 1, stiffness)
            step, moved, length = target - pull, self.gram @ target - margins, 1.0
            if bool(((short(margins + moved) > 0) == active).all()):  # the step is exact
                margins = margins + moved
                break
            while value(pull + length * step, margins + length * moved) >= value(pull, margins) and length > 1e-6:
                length /= 2
            pull, margins = pull + length * step, margins + length * moved
        return short(margins)

    def _least_norm(
        self, active: Bool[Tensor, " pairs"], wanted: Float[Tensor, " pairs"], stiffness: float
    ) -> Float[Tensor, " pairs"]:
        """Multipliers that give the active margins the wanted values, up to ``1 / stiffness``; 0 elsewhere."""
        system = self.gram[active][:, active]
        system.diagonal().add_(1 / stiffness)
        solution = torch.zeros_like(wanted)
        factor = torch.linalg.cholesky(system)
        solution[active] = torch.cholesky_solve(wanted[active][:, None], factor)[:, 0]
        return solution


def _equal(one: Int[Tensor, " left"], other: Int[Tensor, " right"]) -> Float[Tensor, "left right"]:
    return (one[:, None] == other).double()


def _maximum_margin(
    prompts: Prompts, start: Float[Tensor, "classes features"], tolerance: float = 1e-10, added: int = 500
) -> Float[Tensor, "classes features"]:
    """W of smallest norm with every margin at least 1; ``start`` separates the prompts.

    Few constraints decide it: it is solved for those, and the ones that fall short most are added until none does.
    """
    classes = prompts.classes
    leads = prompts.leads(prompts.logits(start)).masked_fill(~prompts.competitors(), torch.inf).flatten()
    held = leads.topk(min(added, len(leads) - len(prompts.targets)), largest=False).indices
    multipliers = torch.zeros(len(held), dtype=torch.float64)
    while True:
        constraints = _Constraints(prompts, held // classes, held % classes)
        multipliers = constraints.solve(multipliers, tolerance)
        storage = constraints.storage(multipliers)
        leads = prompts.leads(prompts.logits(storage)).masked_fill(~prompts.competitors(), torch.inf).flatten()
        worst = leads.topk(min(added, len(leads) - len(prompts.targets)), largest=False)
        short = worst.indices[(worst.values < 1 - 1e-7) & ~torch.isin(worst.indices, held)]
        if not len(short):
            return storage
        used = multipliers > 0
        held = torch.cat([held[used], short])
        multipliers = torch.cat([multipliers[used], torch.zeros(len(short), dtype=torch.float64)])
