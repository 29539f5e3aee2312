"""Where gradient descent on the cross-entropy ends, for any prompts with fixed features (this book's own).

Effective coordinates: a prompt is a vector of *features* ``phi``, for example the attention mass on each token, and its
logits are ``W phi``. Gradient descent converges in direction to the multiclass maximum-margin separator where the
prompts are separable, and to the predictions of least loss where they are not. `separator` computes either.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.theory import validation
from lib.theory.validation import Count, Number


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
