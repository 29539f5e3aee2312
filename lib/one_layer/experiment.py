"""Train one-layer models and record what Sec. 5 measures along the way.

    python -m lib.one_layer.experiment --length 10 --encoding rope --objective masked_diffusion --depth 1 --width 64 \\
        --steps 1500 --seeds 0 1 2 --out results/one_layer/rope.json

All seeds train together as one ensemble. The run keeps a checkpoint beside its output, continues from it after an
interruption to the identical result, and removes it at the end. Two options change what is made, ``--measure`` what is
recorded and ``--vary`` how many settings train:

``--measure interventions`` takes the reverse answers of masked models apart, for results/beyond:

* along training (``curves``, name -> [seed][point] at ``steps``): accuracies, the placeholder's share of the reverse
  errors, attention on the evidence, and the mean logit difference between target and placeholder, forward and reverse,
  in its parts (`lib.one_layer.attribution`; ``margin_forward_evidence`` and so on), nats;
* at `WATCHED` steps from each measured point on, the predicted and the realised change of the reverse loss
  (`lib.one_layer.loss_change`; ``first_order_steps`` and ``first_order_*``);
* at the end, for depth 1, the outcome of every patch (`lib.one_layer.patching`; metrics ``graft_*``), the accuracy
  under every attention weight of the evidence (``dose``, ``forward_by_dose``, ``reverse_by_dose``), and the quantiles
  of the queries' own (``quantile``, ``forward_shares``, ``reverse_shares``); for deeper models score correlation and
  gradient cosine of every layer (``*_layer_1`` and so on).

Steps and gradients are those of the weights in training; everything else is measured on their moving average.

``--measure answers`` records how forward and reverse questions are answered and nothing else, which is much faster;
``--measure protocols`` that, and the accuracy under every evaluation protocol (`lib.one_layer.evaluation`) at every
measured point; ``--measure limit`` that, and at the end (and where attention stops training, ``--attention-steps``)
what the training questions say the answers will come to (`lib.one_layer.frozen_attention`; ``RULE_reverse`` and so on).

``--vary learning_rate=0.0003,0.003 ema=0`` trains several settings side by side, as one ensemble: ``rope.json`` and,
with one setting changed at a time, ``rope_learning_rate_0.0003.json`` and so on, each what a run of its own would
record but for rounding and for what dropout draws. On a GPU, where one small model leaves most of the device idle, that
takes little longer than a single run. Whatever shapes a model or a batch cannot differ within an ensemble and is
refused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lib.one_layer import attribution, evaluation, frozen_attention, loss_change, metrics, patching
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.metrics import Measured
from lib.one_layer.model import ModelConfig
from lib.one_layer.results import STANDARD
from lib.one_layer.task import DIRECTIONS
from lib.one_layer.training import (
    SHARED_FIELDS,
    Curves,
    Trainer,
    TrainingConfig,
    append,
    select_members,
    train_ensemble,
)
from lib.record.accepted import check_seeds, device_named
from lib.record.experiment import recording
from lib.record.options import command, option
from lib.record.provenance import Result

FIRST_MEASURED = 30  # the first measured step after the start
POINTS, INTERVENTION_POINTS = 12, 16  # measurements along training, log-spaced, the one before it not counted
WATCHED = 2  # training steps from each of them on whose effect is predicted, for interventions
PROFILES = ("quick", "full")
#: what can be measured along training, and the name that the experiment is recorded under
EXPERIMENTS = {"signatures": "one_layer", "answers": "supervision", "protocols": "recipes", "limit": "late_training"}
#: what may differ between configurations that train side by side
FIELDS = tuple(field.name for field in dataclasses.fields(TrainingConfig) if field.name not in SHARED_FIELDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """What the command can be told."""

    model: ModelConfig = option(ModelConfig(), omit=("causal",))
    training: TrainingConfig = option(TrainingConfig())
    seeds: tuple[int, ...] = (0, 1, 2)  # one model a seed
    measure: Literal["signatures", "interventions", "answers", "protocols", "limit"] = "signatures"  # what is recorded
    vary: tuple[str, ...] = ()  # NAME=VALUE,VALUE ...: settings to change one at a time
    points: int | None = None  # measurements along training; 12 where not said, with interventions 16
    snapshots: Path | None = None  # folder for the weights at each measurement
    profile: Literal["quick", "full"] = "quick"  # recorded with the result
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto is a CUDA device if there is one
    out: Path = option()  # the JSON file to write

    def __post_init__(self) -> None:
        if self.vary and self.measure == "interventions":
            raise ValueError("vary: trains side by side, which --measure interventions does not")
        if self.vary and self.snapshots is not None:
            raise ValueError("snapshots keeps the weights of one run, and --vary makes several")
        device_named(self.device)
        check_seeds(self.seeds)

    @property
    def settings(self) -> ModelConfig:
        """The model's; the objective says whether it is causal."""
        return dataclasses.replace(self.model, causal=self.training.objective == "autoregressive")


def run_experiment(asked: ExperimentOptions) -> None:
    """Make the experiment that the options ask for."""
    torch.set_num_threads(1)
    settings, seeds, profile, points = asked.settings, asked.seeds, asked.profile, asked.points
    with device_named(asked.device):
        if asked.measure == "interventions":
            interventions_experiment(settings, asked.training, seeds, asked.out, profile, points, asked.snapshots)
        else:
            recipes = variations(asked.training, asked.vary, asked.out)
            side_by_side(settings, recipes, seeds, profile, points, asked.snapshots, asked.measure)


def measured_steps(steps: int, points: int) -> list[int]:
    """Steps after which a run is measured: 0, then log-spaced from `FIRST_MEASURED` (or the end) to the end."""
    return [0, *sorted({round(step) for step in np.geomspace(min(FIRST_MEASURED, steps), steps, points)})]


def validated_parameters(settings: ModelConfig, recipe: TrainingConfig, profile: str, points: int) -> dict[str, Any]:
    """The parameters that are recorded of a run.

    :raises ValueError: for an unknown profile or no points
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)}")
    if points < 1:
        raise ValueError(f"points must be at least 1, not {points!r}: the end is measured in any case")
    parameters = {**dataclasses.asdict(settings), **dataclasses.asdict(recipe), "profile": profile}
    del parameters["causal"]  # the objective says so
    return parameters


# The paper's signatures ---------------------------------------------------------------------------------------


def experiment(
    settings: ModelConfig, recipe: TrainingConfig, seeds: Sequence[int], out: Path, profile: str = "quick",
    points: int | None = None, snapshot_folder: Path | None = None,
) -> Result:
    """Train, measure, and record at ``out``; see `side_by_side`."""
    return side_by_side(settings, {out: recipe}, seeds, profile, points, snapshot_folder)[0]


def side_by_side(
    settings: ModelConfig, recipes: Mapping[Path, TrainingConfig], seeds: Sequence[int], profile: str = "quick",
    points: int | None = None, snapshot_folder: Path | None = None, measure: str = "signatures",
) -> list[Result]:
    """Train all recipes as one ensemble and record each in its file; resumes from the checkpoint of an interrupted run.

    A result that is there already stays until the new one is whole, and is then replaced.

    :param recipes: by file; the first names the checkpoint
    :param points: how many measurements along training, the one before it not counted; `POINTS` where not said
    :param snapshot_folder: for the weights at each of them, see `lib.one_layer.snapshots`
    :param measure: one of `EXPERIMENTS`
    :return: the results, in that order
    :raises ValueError: for recipes that do not go together, see `Trainer`
    :raises lib.record.training_state.CheckpointError: if the checkpoint belongs to another run or is damaged
    """
    points = POINTS if points is None else points
    parameters = {out: validated_parameters(settings, recipe, profile, points) for out, recipe in recipes.items()}
    identity: dict[str, Any] = {"points": points, "snapshots": snapshot_folder}
    identity |= {} if measure == "signatures" else {"measure": measure}
    with recording(parameters, experiment=EXPERIMENTS[measure], seeds=seeds, identity=identity, defaults=STANDARD,
                   device=torch.get_default_device()) as going:
        trainer = Trainer(settings, tuple(recipes.values()), seeds)
        start = trainer.averaged()
        measured_at = sorted({*measured_steps(trainer.recipe.steps, points), trainer.recipe.attention_steps})
        curves = train_ensemble(trainer, going.checkpoint, measured_at, snapshot_folder,
                                measure=functools.partial(measures(measure), trainer))
        end, results = trainer.averaged(), []
        for index, out in enumerate(recipes):
            own = trainer.members(index)
            before, after = (Ensemble(settings, ensemble.parameters[own]) for ensemble in (start, end))
            found = signatures if measure == "signatures" else last_values
            results.append(going.save(*found(select_members(curves, own), before, after), out=out))
    return results


def measures(measure: str) -> Callable[[Trainer, Ensemble], Measured]:
    """What is measured along training, of the trainer and its averaged models."""
    if measure == "protocols":
        return _answers_and_protocols
    if measure == "limit":
        return _answers_and_limit
    simple = {"signatures": metrics.evaluate, "answers": metrics.query_answers}[measure]
    return lambda trainer, models: simple(models)


def _answers_and_protocols(trainer: Trainer, models: Ensemble) -> Measured:
    found = evaluation.protocol_measures(models, Ensemble(models.settings, trainer.ensemble.parameters))
    return metrics.query_answers(models) | {name: [*values] for name, values in found.items()}


def _answers_and_limit(trainer: Trainer, models: Ensemble) -> Measured:
    found, names = metrics.query_answers(models), frozen_attention.NAMES
    if trainer.steps_taken not in (trainer.recipe.steps, trainer.recipe.attention_steps or trainer.recipe.steps):
        return found | {name: [None] * len(models) for name in names}
    predicted: Measured = {name: [] for name in names}
    for index, recipe in enumerate(trainer.recipes):
        own = Ensemble(models.settings, models.parameters[trainer.members(index)])
        for name, values in frozen_attention.predictions(own, recipe).items():
            predicted[name] += values
    return found | predicted


def last_values(curves: Curves, start: Ensemble, end: Ensemble) -> tuple[Measured, Curves]:
    """Metrics of a finished run: the last point of every curve, which is of the trained models."""
    return {name: [run_of[-1] for run_of in runs] for name, runs in curves.items() if name != "steps"}, curves


def signatures(curves: Curves, start: Ensemble, end: Ensemble) -> tuple[Measured, Curves]:
    """Metrics and curves of a finished run: what was measured along it, and of the untrained and trained models."""
    settings, more, (final, _) = end.settings, {}, last_values(curves, start, end)
    if not settings.causal:
        more["score_correlation_by_distance"] = metrics.score_correlations(end).tolist()
        more["score_correlation_by_distance_at_start"] = metrics.score_correlations(start).tolist()
    if settings.encoding == "rope" and not settings.causal and settings.depth == 1:
        more["query_bound"] = metrics.trained_query_bound(end).tolist()
    return final, curves | more


def variations(base: TrainingConfig, words: Sequence[str], out: Path) -> dict[Path, TrainingConfig]:
    """The base and each change of one setting, by the file it is recorded in.

    :param words: such as ``ema=0,0.999``
    :raises ValueError: for a setting or a value that cannot be, by name, and for what comes twice
    """
    found = {out: base}
    for word in words:
        name, _, values = word.partition("=")
        if name not in FIELDS:
            raise ValueError(f"--vary {word!r}: {name!r} cannot differ side by side; {', '.join(FIELDS)} can")
        for told in values.split(","):
            try:
                recipe = dataclasses.replace(base, **{name: type(getattr(base, name))(told)})
            except ValueError as error:
                raise ValueError(f"--vary {word!r}, value {told!r}: {error}") from None
            if recipe in found.values():
                raise ValueError(f"--vary {word!r}: {name}={told} comes twice, or is what the others have")
            found[out.with_name(f"{out.stem}_{name}_{told}.json")] = recipe
    return found


# Interventions ------------------------------------------------------------------------------------------------


def interventions_experiment(
    settings: ModelConfig, recipe: TrainingConfig, seeds: Sequence[int], out: Path, profile: str = "quick",
    points: int | None = None, snapshot_folder: Path | None = None,
) -> Result:
    """Train, take apart what is learned, and record at ``out``; parameters as in `side_by_side`.

    :raises ValueError: for a causal model, and where an intervention does not fit the objective
    :raises lib.record.training_state.CheckpointError: if the checkpoint belongs to another run or is damaged
    """
    if settings.causal:
        raise ValueError("objective 'autoregressive': the interventions change masked questions")
    points = INTERVENTION_POINTS if points is None else points
    parameters = validated_parameters(settings, recipe, profile, points)
    identity, measured_at = {"points": points, "snapshots": snapshot_folder}, measured_steps(recipe.steps, points)
    with recording({out: parameters}, experiment="beyond", seeds=seeds, identity=identity, defaults=STANDARD,
                   device=torch.get_default_device()) as going:
        trainer = Trainer(settings, recipe, seeds)
        curves = train_ensemble(trainer, going.checkpoint, measured_at, snapshot_folder, measure=measure_interventions,
                       step=watched_step(measured_at))
        final, more = final_interventions(trainer.averaged())
        return going.save(final, curves | more)


def watched_step(measured_at: Sequence[int]) -> Callable[[Trainer, Curves], Tensor | None]:
    """A step of training; its effect is predicted if it is one of the `WATCHED` that begin at a measured point."""
    watched = {step + further for step in measured_at for further in range(WATCHED)}

    def step(trainer: Trainer, curves: Curves) -> Tensor | None:
        if trainer.steps_taken not in watched:
            return trainer.step()
        before, found = trainer.steps_taken, loss_change.predicted_and_realised(trainer)
        append(curves, "first_order_steps", before, {f"first_order_{name}": found[name] for name in found})
        return None

    return step


@torch.no_grad()
def measure_interventions(models: Ensemble) -> Measured:
    """What is followed along training, one value a member."""
    found: Measured = {}
    one_layer = models.settings.depth == 1
    for name, asked in zip(DIRECTIONS, metrics.queries(models.settings), strict=True):
        # accuracies
        logits = metrics.query_logits(models, asked)
        graded = metrics.accuracy_and_probability(logits, asked)
        found |= {f"{name}_{key}": graded[key] for key in ("accuracy", "accuracy_lowercase", "probability")}
        if name == "reverse":
            found["placeholder_share"] = metrics.placeholder_share(logits, asked)
        # attention on the evidence
        if one_layer:
            found[f"{name}_attention"] = metrics.attention_on_evidence(models, asked).mean(1).tolist()
        # parts of the logit difference
        take_apart = attribution.margin_parts_by_source if one_layer else attribution.margin_parts
        margins = [take_apart(model, asked) for model in models.members()]
        for part in margins[0]:
            found[f"margin_{name}_{part}"] = [float(margin[part].mean()) for margin in margins]
    return found


def final_interventions(models: Ensemble) -> tuple[Measured, Curves]:
    """The measures of the trained models: metrics, one value a member, and what figures draw."""
    final = metrics.evaluate(models)
    curves: Curves = {}
    if models.settings.depth > 1:
        return final | metrics.signatures_by_layer(models), curves
    forward, reverse = metrics.queries(models.settings)
    members = models.members()
    tried = [patching.patch_accuracies(model, forward, reverse) for model in members]
    final |= {name: [one[name] for one in tried] for name in tried[0]}
    curves["dose"], curves["quantile"] = list(patching.ATTENTION_SHARES), list(patching.QUANTILES)
    for name, asked in zip(DIRECTIONS, (forward, reverse), strict=True):
        curves[f"{name}_by_dose"] = [patching.accuracy_by_attention(model, asked) for model in members]
        curves[f"{name}_shares"] = [patching.attention_quantiles(model, asked) for model in members]
    return final, curves


main = command(ExperimentOptions, run_experiment)

if __name__ == "__main__":
    main()
