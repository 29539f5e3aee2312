"""Train one-layer models on changed questions, take their reverse answers apart, and record what blocks them.

    python -m lib.causes --length 10 --encoding rope --intervention drop_right_of_capital --steps 3000 \\
        --seeds 0 1 2 3 4 --out results/beyond/full_rope_drop_right_of_capital.json

All options of `lib.training` apply, and so does its promise: the run continues from its checkpoint to the identical
result. What is recorded besides the final measures of `lib.measurement`:

* along training (``curves``, name -> [seed][point] at ``steps``): accuracies, the placeholder's share of the reverse
  errors, attention on the evidence, and the mean margin of the target's logit over the placeholder's, forward and
  reverse, in its parts (`lib.decomposition`; ``margin_forward_evidence`` and so on), nats;
* at `WATCHED` steps from each measured point on, the predicted and the realised change of the reverse loss
  (`lib.first_order`; ``first_order_steps`` and ``first_order_*``);
* at the end, for masked models of depth 1, the outcome of every graft (`lib.grafts`; metrics ``graft_*``) and the
  accuracy under every share of attention on the evidence (``dose``, ``forward_by_dose``, ``reverse_by_dose``); for
  deeper ones score correlation and gradient cosine of every layer (`lib.layers`; ``*_layer_1`` and so on).

Steps and gradients are those of the weights in training; everything else is measured on their moving average.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import decomposition, first_order, grafts, layers, measurement, provenance, resume, snapshots, training
from lib.ensemble import Ensemble
from lib.training import Recipe, Trainer
from lib.transformer import Settings

POINTS = 16  # measurements along training, the one before it not counted
WATCHED = 2  # training steps from each of them on whose effect is predicted
Curves = dict[str, Any]


def experiment(
    settings: Settings, recipe: Recipe, seeds: Sequence[int], out: Path, profile: str = "quick", points: int = POINTS,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Train, measure, and record at ``out``; resumes from the checkpoint of an interrupted run.

    :param points: how many measurements along training, the one before it not counted
    :param kept: folder for the weights at each of them, see `lib.snapshots`
    :return: the result, as `provenance.load` reads it
    :raises ValueError: for a causal model, and where an intervention does not fit the objective
    :raises resume.CheckpointError: if the checkpoint beside ``out`` belongs to another run or is damaged
    """
    if settings.causal:
        raise ValueError("objective 'autoregressive': the interventions change masked questions")
    if profile not in training.PROFILES:
        raise ValueError(f"unknown profile {profile!r}; one of {', '.join(training.PROFILES)}")
    run, trainer = provenance.Run(), Trainer(settings, recipe, seeds)
    parameters = {**dataclasses.asdict(settings), **dataclasses.asdict(recipe), "profile": profile}
    del parameters["causal"]
    checkpoint = training.checkpoint_path(out)
    curves = train(trainer, checkpoint, {**parameters, "seeds": list(seeds), "points": points, "causes": True}, kept)
    metrics, more = final(trainer.averaged())
    result = provenance.save(
        out, experiment="beyond", parameters=parameters, seeds=seeds, metrics=metrics, curves=curves | more, run=run
    )
    checkpoint.unlink(missing_ok=True)
    return result


def train(trainer: Trainer, checkpoint: Path, identity: dict[str, Any], kept: Path | None = None) -> Curves:
    """Run to the end, measuring; returns the curves."""
    curves: Curves = {"steps": [], "first_order_steps": []}
    if checkpoint.exists():
        tensors, progress = resume.load(checkpoint, identity)
        trainer.restore(tensors, progress["step"])
        curves = progress["curves"]
    due = training.measured_steps(trainer.recipe.steps, identity["points"])
    watched = {step + further for step in due for further in range(WATCHED)}
    saved = time.monotonic()
    while True:
        if trainer.step in due and trainer.step not in curves["steps"]:
            append(curves, "steps", trainer.step, measure(trainer.averaged()))
            snapshots.keep(kept, trainer.tensors(), identity, trainer.step)
            show(trainer, curves)
        if trainer.step >= trainer.recipe.steps:
            return curves
        if trainer.step in watched:
            step, found = trainer.step, first_order.observed(trainer)
            append(curves, "first_order_steps", step, {f"first_order_{name}": list(found[name]) for name in found})
        else:
            trainer.advance()
        if time.monotonic() - saved > training.CHECKPOINT_SECONDS:
            resume.save(checkpoint, trainer.tensors(), identity, {"step": trainer.step, "curves": curves})
            saved = time.monotonic()


def append(curves: Curves, axis: str, step: int, values: dict[str, list[float | None]]) -> None:
    """One more point of every curve that belongs to ``axis``."""
    curves[axis].append(step)
    for name, each in values.items():
        for run, value in zip(curves.setdefault(name, [[] for _ in each]), each, strict=True):
            run.append(value)


@torch.no_grad()
def measure(models: Ensemble) -> measurement.Measured:
    """What is followed along training, one value a member."""
    found: measurement.Measured = {}
    one_layer = models.settings.depth == 1
    for name, asked in zip(("forward", "reverse"), measurement.queries(models.settings), strict=True):
        logits = measurement.answers(models, asked)
        graded = measurement.graded(logits, asked)
        found |= {f"{name}_{key}": graded[key] for key in ("accuracy", "accuracy_lowercase", "probability")}
        if name == "reverse":
            found["placeholder_share"] = measurement.placeholder_share(logits, asked)
        if one_layer:
            found[f"{name}_attention"] = measurement.attention(models, asked).mean(1).tolist()
        take_apart = decomposition.route_margins if one_layer else decomposition.margins
        margins = [take_apart(models.member(index), asked) for index in range(len(models))]
        for part in margins[0]:
            found[f"margin_{name}_{part}"] = [float(margin[part].mean()) for margin in margins]
    return found


def final(models: Ensemble) -> tuple[measurement.Measured, Curves]:
    """The measures of the trained models: metrics, one value a member, and what figures draw."""
    metrics = measurement.evaluate(models)
    curves: Curves = {}
    if models.settings.depth == 1:
        forward, reverse = measurement.queries(models.settings)
        members = [models.member(index) for index in range(len(models))]
        tried = [grafts.outcomes(model, forward, reverse) for model in members]
        metrics |= {name: [one[name] for one in tried] for name in tried[0]}
        curves["dose"] = list(grafts.DOSES)
        for name, asked in (("forward", forward), ("reverse", reverse)):
            curves[f"{name}_by_dose"] = [grafts.doses(model, asked) for model in members]
    else:
        metrics |= layers.by_layer(models)
    return metrics, curves


def show(trainer: Trainer, curves: Curves) -> None:
    """One line a measurement."""
    accuracies = [np.mean([run[-1] for run in curves[f"{way}_accuracy"]]) for way in ("forward", "reverse")]
    text = "forward {:.1f} %, reverse {:.1f} %".format(*accuracies)
    name = f"{trainer.settings.encoding} {trainer.recipe.intervention}"
    print(f"{name}: step {trainer.step}/{trainer.recipe.steps}, {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `lib.training`, with this module's experiment at its end."""
    command = training.parser()
    command.prog, command.description = "python -m lib.causes", __doc__.split("\n")[0]
    command.set_defaults(points=POINTS)
    given = vars(command.parse_args(arguments))
    torch.set_num_threads(1)
    own = lambda kind: {field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given}
    try:
        settings = Settings(**own(Settings), causal=given["objective"] == "autoregressive")
        experiment(settings, Recipe(**own(Recipe)), given["seeds"], given["out"], given["profile"], given["points"],
                   given["snapshots"])
    except ValueError as error:
        command.error(str(error))


if __name__ == "__main__":
    main()
