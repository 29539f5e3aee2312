"""Is first-order transfer visible? The change of the reverse loss in a training step, predicted from gradients and
realised.

Theorem 4.6 and its corollary say that a small step against the gradient of a *forward query's* loss lowers the
reverse loss, by the inner product of the two gradients to first order. Training takes other steps: the gradient of
the whole training loss, through AdamW, of a size that is not small. `observed` takes such a step and compares, for
the reverse loss l_r (mean cross-entropy over all reverse queries, nats),

    predicted  <grad l_r, displacement>        realised  l_r(after) - l_r(before)

for three displacements of equal length: ``adamw``, the step that training takes; ``sgd``, against the gradient of the
training batch; ``forward``, against the gradient of the forward queries' loss, the step of the theory.

The gradient of the training batch is a sum over questions, so its inner product with the reverse gradient is, too:
``cosine_blocking`` is the part of placeholder questions to the right of a visible capital, ``cosine_rest`` that of
all others, and they add up to ``cosine_training``. Positive means that descent along it lowers the reverse loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lib.one_layer import interventions, metrics, objectives
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.objectives import MaskedBatch
from lib.one_layer.task import Queries
from lib.one_layer.training import Trainer

STEPS = ("adamw", "sgd", "forward")
#: what `observed` reports of each member
NAMES = (
    *(f"{step}_{kind}" for step in STEPS for kind in ("predicted", "realised")),
    "cosine_training", "cosine_blocking", "cosine_rest", "cosine_forward",
)


def query_losses(ensemble: Ensemble, asked: Queries) -> Float[Tensor, " members"]:
    """Mean cross-entropy over the queries, nats."""
    logits = metrics.answers(ensemble, asked)
    targets = asked.target.repeat(len(ensemble))
    return functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none").view(len(ensemble), -1).mean(1)


def batch_gradients(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Gradient of the coming step's batch: that of placeholders right of a visible capital, and that of the rest."""
    tokens, rows, targets, weights = trainer.batch(trainer.step)
    blocking = torch.stack([
        torch.as_tensor(interventions.right_of_capital(MaskedBatch(*(part.cpu().numpy() for part in one))))
        for one in zip(tokens, rows, targets, weights, strict=True)
    ])
    trainer.ensemble.training = False

    def gradient(weights: Tensor) -> Tensor:
        logits = trainer.ensemble.logits(tokens, rows)
        return trainer.ensemble.gradient(objectives.losses(logits, targets, weights, trainer.recipe.batch))

    return gradient(weights * blocking), gradient(weights * ~blocking)


def observed(trainer: Trainer) -> dict[str, list[float]]:
    """Take one training step, and report `NAMES` for every member.

    Dropout is off in all that is compared; the step itself is the trainer's own.
    """
    forward, reverse = metrics.queries(trainer.settings)
    before = Ensemble(trainer.settings, trainer.ensemble.flat.clone())
    loss = query_losses(before, reverse)
    towards = before.gradient(loss).double()
    theory = before.gradient(query_losses(before, forward)).double()
    blocking, rest = (part.double() for part in batch_gradients(trainer))
    trainer.advance()
    moved = trainer.ensemble.flat.double() - before.flat.double()
    size = moved.norm(dim=1, keepdim=True)
    against = lambda gradient: -gradient * size / gradient.norm(dim=1, keepdim=True)
    found = {}
    for name, displacement in (("adamw", moved), ("sgd", against(blocking + rest)), ("forward", against(theory))):
        after = Ensemble(trainer.settings, (before.flat.double() + displacement).float())
        found[f"{name}_predicted"] = (towards * displacement).sum(1)
        found[f"{name}_realised"] = (query_losses(after, reverse) - loss).detach()
    scale = (blocking + rest).norm(dim=1) * towards.norm(dim=1)
    found["cosine_blocking"] = (blocking * towards).sum(1) / scale
    found["cosine_rest"] = (rest * towards).sum(1) / scale
    found["cosine_training"] = found["cosine_blocking"] + found["cosine_rest"]
    found["cosine_forward"] = functional.cosine_similarity(theory, towards, dim=1)
    return {name: found[name].tolist() for name in NAMES}
