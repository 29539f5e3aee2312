"""A fact overwritten or erased through one question alone: gradient steps on that question and on nothing else.

A question gives every name that could answer it a score: the log-probability that the model gives the name, or what
follows the name.

* *Overwriting* raises the log-odds of the new name against all others until it leads each of them by a margin.
* *Erasing* lowers the score of the right name until some other one leads it by that margin.

A step moves all weights against the gradient by a fixed length, a small part of the norm that the weights had before.
To first order the scores of another question then change by the inner product of the two gradients, whose cosine is
the paper's second signature (Sec. 5, Fig. 3), and a step is as long in every model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.record import options


class FactQuestion(NamedTuple):
    """One question about one fact, for any model.

    :ivar scores: model -> log-probability of every possible answer, differentiable
    :ivar names: for each fact, the place among the scores of the name that this fact would have as its answer
    :ivar state: model -> what the answer is read from, layer by layer, (layers, width); None where no place is asked
    """

    scores: Callable[[Any], Tensor]
    names: tuple[int, ...]
    state: Callable[[Any], Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class EditConfig:
    """How an edit steps, and when it ends."""

    margin: float = 5.0  # nats by which the answer wanted must lead every other one
    stride: float = 0.001  # length of a step, as a part of the norm of all weights
    most: int = 300  # steps at most

    def __post_init__(self) -> None:
        options.at_least(self, most=1)
        options.within(self, margin="(0, inf)", stride="(0, 1)")


class EditPath(NamedTuple):
    """How an edit went."""

    steps: int
    reached: bool  # whether the margin was


def lead_over_others(scores: Float[Tensor, " names"], name: int) -> float:
    """How far a name is ahead of the best other one, in nats; negative where it is behind."""
    others = scores.detach().clone()
    others[name] = -math.inf
    return float(scores[name].detach() - others.max())


def name_log_odds(scores: Float[Tensor, " names"], name: int) -> Float[Tensor, ""]:
    """Log-odds of a name among all that could answer, in nats; unlike log p, its gradient never vanishes."""
    others = torch.arange(len(scores), device=scores.device) != name
    return scores[name] - scores[others].logsumexp(-1)


def overwrite(model: nn.Module, question: FactQuestion, new: int, config: EditConfig, steps: int | None = None
              ) -> EditPath:
    """Make the model answer with the name of another fact, in place.

    :param new: fact whose name is to be the answer
    :param steps: take exactly so many steps; by default, until the margin is reached
    :raises ArithmeticError: for a gradient that is zero or not finite
    """
    wanted = question.names[new]
    return _descend(model, question, lambda scores: -name_log_odds(scores, wanted),
                    lambda scores: lead_over_others(scores, wanted), config, steps)


def erase(model: nn.Module, question: FactQuestion, old: int, config: EditConfig) -> EditPath:
    """Make the model answer with anything but the name of a fact, in place.

    :param old: fact whose name is the answer now
    :raises ArithmeticError: as `overwrite`
    """
    unwanted = question.names[old]
    return _descend(model, question, lambda scores: scores[unwanted],
                    lambda scores: -lead_over_others(scores, unwanted), config)


def _descend(model: nn.Module, question: FactQuestion, loss: Callable[[Tensor], Tensor],
             ahead: Callable[[Tensor], float], config: EditConfig, steps: int | None = None) -> EditPath:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    length = config.stride * _norm(weights)
    for taken in range(config.most if steps is None else steps):
        scores = question.scores(model)
        if steps is None and ahead(scores) >= config.margin:
            return EditPath(taken, True)
        _step(weights, torch.autograd.grad(loss(scores), weights, allow_unused=True, materialize_grads=True), length)
    with torch.no_grad():
        reached = ahead(question.scores(model)) >= config.margin
    return EditPath(config.most if steps is None else steps, reached)


def _norm(tensors: Any) -> float:
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


@torch.no_grad()
def _step(weights: list[nn.Parameter], gradient: tuple[Tensor, ...], length: float) -> None:
    norm = _norm(gradient)
    if not 0 < norm < math.inf:
        raise ArithmeticError(f"the gradient of this question has norm {norm:g}; a step needs a positive, finite one")
    for weight, slope in zip(weights, gradient, strict=True):
        weight.sub_(slope, alpha=length / norm)


@contextlib.contextmanager
def weights_restored(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the model's weights are what they were, bit for bit."""
    kept = [weight.detach().clone() for weight in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(model.parameters(), kept, strict=True):
                weight.copy_(before)
