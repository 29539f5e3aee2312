"""Train one-layer models on changed questions, take their reverse answers apart, and record what blocks them.

    python -m lib.one_layer.causes --length 10 --encoding rope --intervention drop_right_of_capital --steps 3000 \\
        --seeds 0 1 2 3 4 --out results/beyond/full_rope_drop_right_of_capital.json

All options of `lib.one_layer.training` apply, and so does its promise: the run continues from its checkpoint to the identical
result. What is recorded besides the final measures of `lib.one_layer.metrics`:

* along training (``curves``, name -> [seed][point] at ``steps``): accuracies, the placeholder's share of the reverse
  errors, attention on the evidence, and the mean margin of the target's logit over the placeholder's, forward and
  reverse, in its parts (`lib.one_layer.attribution`; ``margin_forward_evidence`` and so on), nats;
* at `WATCHED` steps from each measured point on, the predicted and the realised change of the reverse loss
  (`lib.one_layer.loss_change`; ``first_order_steps`` and ``first_order_*``);
* at the end, for masked models of depth 1, the outcome of every graft (`lib.one_layer.patching`; metrics ``graft_*``), the accuracy
  under every share of attention on the evidence (``dose``, ``forward_by_dose``, ``reverse_by_dose``), and the spread of
  the queries' own shares (``quantile``, ``forward_shares``, ``reverse_shares``); for deeper ones score correlation and
  gradient cosine of every layer (`lib.one_layer.layers`; ``*_layer_1`` and so on).

Steps and gradients are those of the weights in training; everything else is measured on their moving average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.one_layer import attribution, layers, loss_change, patching, training
from lib.one_layer import metrics as metrics_module
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Curves, Trainer, TrainingConfig
from lib.record import provenance

POINTS = 16  # measurements along training, the one before it not counted
WATCHED = 2  # training steps from each of them on whose effect is predicted


def experiment(
    settings: ModelConfig, recipe: TrainingConfig, seeds: Sequence[int], out: Path, profile: str = "quick", points: int = POINTS,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Train, measure, and record at ``out``; resumes from the checkpoint of an interrupted run.

    :param points: how many measurements along training, the one before it not counted
    :param kept: folder for the weights at each of them, see `lib.one_layer.snapshots`
    :return: the result, as `provenance.load` reads it
    :raises ValueError: for a causal model, and where an intervention does not fit the objective
    :raises resume.CheckpointError: if the checkpoint beside ``out`` belongs to another run or is damaged
    """
    if settings.causal:
        raise ValueError("objective 'autoregressive': the interventions change masked questions")
    parameters = training.prepared(settings, recipe, out, profile, points)
    run, trainer = provenance.Run(torch.get_default_device()), Trainer(settings, recipe, seeds)
    checkpoint, due = training.checkpoint_path(out), training.measured_steps(recipe.steps, points)
    identity = {**parameters, "seeds": list(seeds), "points": points, "causes": True}
    curves = training.train(trainer, checkpoint, identity, due, kept, measure=measure, advance=watching(due))
    metrics, more = final(trainer.averaged())
    result = provenance.save(
        out, experiment="beyond", parameters=parameters, seeds=seeds, metrics=metrics, curves=curves | more, run=run
    )
    checkpoint.unlink(missing_ok=True)
    return result


def watching(due: Sequence[int]) -> Callable[[Trainer, Curves], Tensor | None]:
    """A step of training, watched (`lib.one_layer.loss_change`) if it is one of the `WATCHED` that begin at a measured point."""
    watched = {step + further for step in due for further in range(WATCHED)}

    def advance(trainer: Trainer, curves: Curves) -> Tensor | None:
        if trainer.step not in watched:
            return trainer.advance()
        step, found = trainer.step, loss_change.observed(trainer)
        training.append(curves, "first_order_steps", step, {f"first_order_{name}": found[name] for name in found})
        return None

    return advance


@torch.no_grad()
def measure(models: Ensemble) -> metrics_module.Measured:
    """What is followed along training, one value a member."""
    found: metrics_module.Measured = {}
    one_layer = models.settings.depth == 1
    for name, asked in zip(("forward", "reverse"), metrics_module.queries(models.settings), strict=True):
        logits = metrics_module.answers(models, asked)
        graded = metrics_module.graded(logits, asked)
        found |= {f"{name}_{key}": graded[key] for key in ("accuracy", "accuracy_lowercase", "probability")}
        if name == "reverse":
            found["placeholder_share"] = metrics_module.placeholder_share(logits, asked)
        if one_layer:
            found[f"{name}_attention"] = metrics_module.attention(models, asked).mean(1).tolist()
        take_apart = attribution.route_margins if one_layer else attribution.margins
        margins = [take_apart(models.member(index), asked) for index in range(len(models))]
        for part in margins[0]:
            found[f"margin_{name}_{part}"] = [float(margin[part].mean()) for margin in margins]
    return found


def final(models: Ensemble) -> tuple[metrics_module.Measured, Curves]:
    """The measures of the trained models: metrics, one value a member, and what figures draw."""
    metrics = metrics_module.evaluate(models)
    curves: Curves = {}
    if models.settings.depth == 1:
        forward, reverse = metrics_module.queries(models.settings)
        members = [models.member(index) for index in range(len(models))]
        tried = [patching.outcomes(model, forward, reverse) for model in members]
        metrics |= {name: [one[name] for one in tried] for name in tried[0]}
        curves["dose"], curves["quantile"] = list(patching.DOSES), list(patching.QUANTILES)
        for name, asked in (("forward", forward), ("reverse", reverse)):
            curves[f"{name}_by_dose"] = [patching.doses(model, asked) for model in members]
            curves[f"{name}_shares"] = [patching.shares(model, asked) for model in members]
    else:
        metrics |= layers.by_layer(models)
    return metrics, curves


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `lib.one_layer.training`, with this module's experiment at its end."""
    command = training.parser()
    command.prog, command.description = "python -m lib.one_layer.causes", __doc__.split("\n")[0]
    command.set_defaults(points=POINTS)
    training.obey(command, experiment, arguments)


if __name__ == "__main__":
    main()
