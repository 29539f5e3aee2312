"""Change of the reverse loss in a training step: predicted to first order from gradients, and realised.

Theorem 4.6 and its corollary say that a small step against the gradient of a *forward query's* loss lowers the
reverse loss, by the inner product of the two gradients to first order. Training takes other steps: the gradient of
the whole training loss, through AdamW, of a size that is not small. `predicted_and_realised` takes such a step and
compares, for the reverse loss l_r (mean cross-entropy over all reverse queries, nats),

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
from lib.one_layer.training import Trainer

STEPS = ("adamw", "sgd", "forward")
#: what `predicted_and_realised` reports of each member
MEASURES = (
    *(f"{step}_{kind}" for step in STEPS for kind in ("predicted", "realised")),
    "cosine_training", "cosine_blocking", "cosine_rest", "cosine_forward",
)


def batch_gradients(
    trainer: Trainer,
) -> tuple[Float[Tensor, "members parameters"], Float[Tensor, "members parameters"]]:
    """Gradient of the coming step's batch: that of placeholders right of a visible capital, and that of the rest."""
    tokens, rows, targets, weights = trainer.batch(trainer.steps_taken)
    blocking = torch.stack([
        torch.as_tensor(interventions.right_of_capital(MaskedBatch(*(part.cpu().numpy() for part in one))))
        for one in zip(tokens, rows, targets, weights, strict=True)
    ])
    trainer.ensemble.training = False

    def gradient(weights: Tensor) -> Tensor:
        logits = trainer.ensemble.logits(tokens, rows)
        return trainer.ensemble.gradient(objectives.losses(logits, targets, weights, trainer.recipe.batch))

    return gradient(weights * blocking), gradient(weights * ~blocking)


def predicted_and_realised(trainer: Trainer) -> dict[str, list[float]]:
    """Take one training step, and report `MEASURES` for every member; changes of the loss in nats.

    Dropout is off in all that is compared; the step itself is the trainer's own.
    """
    forward, reverse = metrics.queries(trainer.settings)
    before = Ensemble(trainer.settings, trainer.ensemble.parameters.clone())
    # gradients: of the reverse loss l_r, of the forward queries' loss (the theory's step), of the training batch
    loss, g_reverse = metrics.query_loss_and_gradient(before, reverse)
    g_reverse, g_forward = g_reverse.double(), metrics.query_loss_and_gradient(before, forward)[1].double()
    blocking, rest = (part.double() for part in batch_gradients(trainer))
    # displacements of equal length: the trainer's own step, and descent along two of the gradients
    trainer.step()
    adamw = trainer.ensemble.parameters.double() - before.parameters.double()
    size = adamw.norm(dim=1, keepdim=True)
    descent = lambda gradient: -gradient * size / gradient.norm(dim=1, keepdim=True)
    found = {}
    for name, displacement in (("adamw", adamw), ("sgd", descent(blocking + rest)), ("forward", descent(g_forward))):
        after = Ensemble(trainer.settings, (before.parameters.double() + displacement).float())
        found[f"{name}_predicted"] = (g_reverse * displacement).sum(1)
        found[f"{name}_realised"] = metrics.query_loss_and_gradient(after, reverse)[0] - loss
    # cosines with the reverse gradient
    scale = (blocking + rest).norm(dim=1) * g_reverse.norm(dim=1)
    found["cosine_blocking"] = (blocking * g_reverse).sum(1) / scale
    found["cosine_rest"] = (rest * g_reverse).sum(1) / scale
    found["cosine_training"] = found["cosine_blocking"] + found["cosine_rest"]
    found["cosine_forward"] = functional.cosine_similarity(g_forward, g_reverse, dim=1)
    return {name: found[name].tolist() for name in MEASURES}
