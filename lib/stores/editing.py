"""A fact overwritten or erased through one question alone, by gradient steps that ask nothing else about it.

A question gives every name that could answer it a score: the log-probability that the model gives the name, or what
follows the name.

* *Overwriting* raises the log-odds of the new name against all others until it leads each of them by a margin.
* *Erasing* lowers the score of the right name until some other one leads it by that margin.

The shortest way to a new answer may be to forget everything: with less attention on any evidence, the name whose bias
has grown answers every question. So the answers to the same question about other facts are kept, by the divergence
KL(before || now) of their distributions, which is added to the loss with a weight.

A step moves all weights against the gradient by a fixed length, a small part of the norm that the weights had before.
To first order the scores of another question then change by the inner product of the two gradients, whose cosine is
the paper's second signature (Sec. 5, Fig. 3), and a step is as long in every model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.record import accepted


class FactQuestion(NamedTuple):
    """One question about one fact, for any model.

    :ivar together: model, what several questions of this kind show -> log-probability of every possible answer to each,
        (questions, names), differentiable
    :ivar shown: what this question shows
    :ivar names: for each fact, the place among the scores of the name that this fact would have as its answer
    :ivar state: model -> what the answer is read from, layer by layer, (layers, width); None where no place is asked
    """

    together: Callable[[Any, Sequence[Any]], Tensor]
    shown: Any
    names: tuple[int, ...]
    state: Callable[[Any], Tensor] | None = None

    def scores(self, model: Any) -> Float[Tensor, " names"]:
        """Log-probability of every possible answer."""
        return self.together(model, [self.shown])[0]


EDITED_PARTS = ("all", "layers", "mlp")  # which weights an edit may change


def allow_edits(model: nn.Module, part: str) -> None:
    """Let an edit change a part of a model's weights alone: the others are frozen, in place.

    :param part: ``all``; ``layers``, without what reads tokens in and out; or ``mlp``, the layers' MLPs alone
    :raises ValueError: for another part, or a model that has no such weights
    """
    if part not in EDITED_PARTS:
        raise ValueError(f"part {part!r}: one of {', '.join(EDITED_PARTS)}")
    for name, weight in model.named_parameters():
        weight.requires_grad_(in_part(name, part))
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"part {part!r}: {type(model).__name__} has no such weights")


def in_part(name: str, part: str) -> bool:
    """Whether a weight of this name belongs to a part."""
    layered = part == "all" or any(word in ("blocks", "layers") for word in name.split("."))
    return layered and (part != "mlp" or "mlp" in name.split("."))


@dataclasses.dataclass(frozen=True)
class EditConfig:
    """How an edit steps, what it keeps, and when it ends."""

    margin: float = 5.0  # nats by which the answer wanted must lead every other one
    stride: float = 0.001  # length of a step, as a part of the norm of all weights
    most: int = 300  # steps at most
    kept: int = 8  # other facts whose answers to the edited question are kept
    keeping: float = 10.0  # weight of their divergence in the loss

    def __post_init__(self) -> None:
        accepted.at_least(self, most=1, kept=0)
        accepted.within(self, margin="(0, inf)", stride="(0, 1)", keeping="[0, inf)")


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


def overwrite(model: nn.Module, question: FactQuestion, new: int, config: EditConfig,
              others: Sequence[FactQuestion] = (), steps: int | None = None) -> EditPath:
    """Make the model answer with the name of another fact, in place.

    :param new: fact whose name is to be the answer
    :param others: questions of this kind whose answers are kept
    :param steps: take exactly so many steps; by default, until the margin is reached
    :raises ArithmeticError: for a gradient that is zero or not finite
    """
    wanted = question.names[new]
    return _descend(model, question, lambda scores: -name_log_odds(scores, wanted),
                    lambda scores: lead_over_others(scores, wanted), config, others, steps)


def erase(model: nn.Module, question: FactQuestion, old: int, config: EditConfig,
          others: Sequence[FactQuestion] = ()) -> EditPath:
    """Make the model answer with anything but the name of a fact, in place.

    :param old: fact whose name is the answer now
    :param others: questions of this kind whose answers are kept
    :raises ArithmeticError: as `overwrite`
    """
    unwanted = question.names[old]
    return _descend(model, question, lambda scores: scores[unwanted],
                    lambda scores: -lead_over_others(scores, unwanted), config, others)


def _descend(model: nn.Module, question: FactQuestion, loss: Callable[[Tensor], Tensor],
             ahead: Callable[[Tensor], float], config: EditConfig, others: Sequence[FactQuestion],
             steps: int | None = None) -> EditPath:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    length, drift = config.stride * _norm(weights), divergence_from_now(model, others)
    for taken in range(config.most if steps is None else steps):
        scores = question.scores(model)
        if steps is None and ahead(scores) >= config.margin:
            return EditPath(taken, True)
        total = loss(scores) + (config.keeping * drift() if others else 0.0)
        _step(weights, torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True), length)
    with torch.no_grad():
        reached = ahead(question.scores(model)) >= config.margin
    return EditPath(config.most if steps is None else steps, reached)


def divergence_from_now(model: nn.Module, asked: Sequence[FactQuestion]) -> Callable[[], Float[Tensor, ""]]:
    """A function that says how far the answers to some questions of one kind have moved since it was made.

    :return: mean over questions of KL(then || now) of the distribution over names, in nats; differentiable
    """
    shown = [question.shown for question in asked]

    def answers() -> Float[Tensor, "questions names"]:
        return asked[0].together(model, shown).log_softmax(-1)

    with torch.no_grad():
        then = answers() if asked else torch.zeros(0, 1)
    return lambda: (then.exp() * (then - answers())).sum(-1).mean()


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
