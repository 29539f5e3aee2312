"""Train one-layer models and record what Sec. 5 measures along the way.

    python -m lib.one_layer.training --length 10 --encoding rope --objective masked_diffusion --depth 1 --width 64 \\
        --steps 1500 --seeds 0 1 2 --out results/one_layer/rope.json

All seeds train together as one ensemble. The run writes a checkpoint beside its output, continues from it
after an interruption to the identical result, and removes it at the end. `--help` lists everything that can
be varied.

Randomness is a function of (seed, step) alone, so a checkpoint needs no generator state and a seed's
batches do not depend on the other seeds trained with it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lib.encodings import ENCODINGS
from lib.one_layer import interventions, metrics, objectives, snapshots, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.fast import kernels
from lib.one_layer.model import VALUES, ModelConfig
from lib.record import options, provenance, training_state

BETAS, TINY = (0.9, 0.999), 1e-8  # AdamW's
SHARED = 2**63  # the key of draws that all seeds share
START = np.random.Philox(key=0).state  # before the first draw
AHEAD = 16  # steps whose questions are drawn at a time: numpy is slow on few numbers
CHECKPOINT_SECONDS = 20.0
FIRST, POINTS = 30, 12  # measurements along training: the first after the start, and how many, log-spaced
PROFILES = ("quick", "full")
Curves = dict[str, Any]  # ``steps``, and name -> [member][point]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; the paper's own values are lost, these are ours."""

    objective: str = "masked_diffusion"
    draws: str = "stratified"  # how masks are drawn, see `lib.one_layer.objectives`
    intervention: str = "none"  # see `lib.one_layer.interventions`
    reversed_share: float = 0.0  # expected share of training sequences in the other order
    steps: int = 1500
    batch: int = 120  # sequences a step
    learning_rate: float = 1e-3
    warmup: int = 100  # steps over which the rate rises; constant afterwards
    clip: float = 1.0  # largest gradient norm of a member
    weight_decay: float = 0.0
    ema: float = 0.99  # decay of the moving average of the weights, which is what gets measured

    def __post_init__(self) -> None:
        objectives.check_objective(self.objective, self.draws)
        interventions.check(self.intervention, self.objective)
        if not 0 <= self.reversed_share <= 1:
            raise ValueError(f"reversed_share must lie in [0, 1], not {self.reversed_share!r}")
        options.at_least(self, steps=1, batch=1, warmup=1)
        for field in ("learning_rate", "clip"):
            if not getattr(self, field) > 0 or (field == "learning_rate" and math.isinf(self.learning_rate)):
                raise ValueError(f"{field} must be positive, not {getattr(self, field)!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), not {self.ema!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must not be negative, and finite, not {self.weight_decay!r}")


SHARED_FIELDS = ("steps", "batch")  # of recipes that train side by side


class Trainer:
    """An ensemble in training: weights, AdamW's moments, the weights' moving average, and the step.

    :param recipe: or several, side by side: each trains a model a seed, and members follow recipe by recipe
    :raises ValueError: for recipes that differ in `SHARED_FIELDS` or do not fit the settings, and for seeds that repeat
    """

    def __init__(self, settings: ModelConfig, recipe: TrainingConfig | Sequence[TrainingConfig], seeds: Sequence[int]) -> None:
        self.recipes = (recipe,) if isinstance(recipe, TrainingConfig) else tuple(recipe)
        self.recipe = self.recipes[0]  # for what all share
        self._check(settings, seeds)
        self.settings, self.seeds, self.step = settings, tuple(seeds), 0
        self.ensemble = Ensemble.from_seeds(settings, [*seeds] * len(self.recipes))
        self.first, self.second = (torch.zeros_like(self.ensemble.flat) for _ in range(2))
        self.average = self.ensemble.flat.clone()
        matrix = [len(shape) > 1 for _, columns, shape in self.ensemble.layout()
                  for _ in range(columns.start, columns.stop)]
        self._count = torch.zeros(())
        self._used = [generator(SHARED, step) for step in range(AHEAD)]
        self._ahead: dict[int, list[Any]] = {}
        self._matrices = torch.tensor(matrix).float()
        self._own = [*zip(*(tensor.split(len(seeds)) for tensor in self.tensors().values()), strict=True)]
        self._update = self._here if self.ensemble.flat.device.type == "cpu" else self._elsewhere

    def _check(self, settings: ModelConfig, seeds: Sequence[int]) -> None:
        for recipe in self.recipes:
            if settings.causal != (recipe.objective == "autoregressive"):
                raise ValueError(f"objective {recipe.objective!r} does not fit causal={settings.causal}")
            for field in SHARED_FIELDS:
                if getattr(recipe, field) != getattr(self.recipe, field):
                    raise ValueError(f"{field}: what trains side by side shares it, but one recipe has "
                                     f"{getattr(self.recipe, field)} and another {getattr(recipe, field)}")
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds must be different non-negative integers, not {list(seeds)!r}")

    def members(self, index: int) -> slice:
        """The members that the recipe of that index trains."""
        return slice(index * len(self.seeds), (index + 1) * len(self.seeds))

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold beside the step."""
        return {"weights": self.ensemble.flat, "first": self.first, "second": self.second, "average": self.average}

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue from the tensors of a checkpoint."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.step = step

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The questions of a step: tokens, rows, targets, weights, each with a leading axis over members."""
        return objectives.stack(self.asked(step))

    def asked(self, step: int) -> list[objectives.MaskedBatch]:
        """The same member by member."""
        return self._asked(step, 1)

    def _asked(self, first: int, count: int) -> list[objectives.MaskedBatch]:
        """The same of several steps, one after the other."""
        batch, asked = self.recipe.batch, []
        spread = objectives.quantiles(batch, self._draw(SHARED, first, count), count)
        for recipe, seed in itertools.product(self.recipes, self.seeds):
            draw = self._draw(seed, first, count)
            tokens = task.sequences(count * batch, self.settings.length, draw, recipe.reversed_share)
            asked.append(
                interventions.ask(recipe.intervention, recipe.objective, tokens, draw, spread, recipe.draws)
            )
        return asked

    def _draw(self, seed: int, first: int, count: int) -> task.Draw:
        """`generator` of several steps; what was drawn from earlier ones has served."""
        each = [generator(seed, first + step, used) for step, used in enumerate(self._used[:count])]
        return each[0] if count == 1 else task.StackedGenerators(each)

    def _prepared(self) -> list[Any]:
        """This step's questions, as `Ensemble.descend` likes them, member by member; drawn for some steps ahead."""
        mixing = any(recipe.intervention in interventions.MIXING for recipe in self.recipes)
        count = 1 if mixing else AHEAD
        first = self.step - self.step % count
        if first not in self._ahead:
            asked = self._asked(first, count)
            self._ahead = {first: [self.ensemble.prepared(one, self.recipe.batch) for one in asked]}
        return [member[self.step - first] for member in self._ahead[first]]

    def advance(self) -> Float[Tensor, " members"]:
        """One step of AdamW for every member; returns the losses before it, nats a sequence."""
        if self.settings.dropout:
            torch.manual_seed(int(generator(SHARED, self.step).integers(2**62)))
        self.ensemble.training = True
        losses, gradient = self.ensemble.descend(self._prepared(), self.recipe.batch)
        self._update(gradient.split(len(self.seeds)))
        self.step += 1
        return losses

    def _rates(self, recipe: TrainingConfig) -> tuple[float, float]:
        """The step's learning rate, and the part of the way that the average goes to the weights."""
        count = self.step + 1  # the average catches up quickly at first, as RADD's does
        return recipe.learning_rate * min(1.0, count / recipe.warmup), 1 - min(recipe.ema, count / (9 + count))

    def _here(self, gradients: Sequence[Float[Tensor, "members parameters"]]) -> None:
        """AdamW, recipe by recipe, in one pass over each member."""
        for recipe, slopes, held in zip(self.recipes, gradients, self._own, strict=True):
            rate, moved = self._rates(recipe)
            for slope, weights, first, second, average in zip(slopes, *held, strict=True):
                kernels.adamw(*(part.numpy() for part in (weights, slope, first, second, average, self._matrices)),
                              self.step + 1, rate, recipe.weight_decay, recipe.clip, *BETAS, TINY, moved)

    @torch.inference_mode()
    def _elsewhere(self, gradients: Sequence[Float[Tensor, "members parameters"]]) -> None:
        """The same by torch's own passes."""
        for recipe, slope, (weights, first, second, average) in zip(self.recipes, gradients, self._own, strict=True):
            rate, moved = self._rates(recipe)
            slope.renorm_(2, 0, recipe.clip)  # clips each member's norm
            if recipe.weight_decay:
                weights.mul_(1 - rate * recipe.weight_decay * self._matrices)
            torch._fused_adamw_(  # torch.optim.AdamW's own single pass, without its bookkeeping
                [weights], [slope], [first], [second], [], [self._count.fill_(self.step + 1)], lr=rate,
                beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=TINY, amsgrad=False, maximize=False)
            average.lerp_(weights, moved)

    def averaged(self) -> Ensemble:
        """The models that get measured: the moving average of the weights."""
        return Ensemble(self.settings, self.average.clone())


def generator(seed: int, step: int, used: np.random.Generator | None = None) -> np.random.Generator:
    """The random numbers of one step of one seed; streams of different keys are independent.

    :param used: a generator made here that has served; set anew, which is much faster than making one
    """
    key = np.array([seed, step], dtype=np.uint64)
    if used is None:
        return np.random.Generator(np.random.Philox(key=key))
    used.bit_generator.state = {**START, "state": {"counter": START["state"]["counter"], "key": key}}
    return used


# A recorded experiment ----------------------------------------------------------------------------------------


def measured_steps(steps: int, points: int) -> list[int]:
    """Steps after which a run is measured: 0, then log-spaced from `FIRST` (or the end) to the end."""
    return [0, *sorted({round(step) for step in np.geomspace(min(FIRST, steps), steps, points)})]


def experiment(
    settings: ModelConfig, recipe: TrainingConfig, seeds: Sequence[int], out: Path, profile: str = "quick",
    points: int | None = None, kept: Path | None = None,
) -> dict[str, Any]:
    """Train, measure, and record at ``out``; resumes from the checkpoint of an interrupted run.

    A result that is there already stays until the new one is whole, and is then replaced.

    :param points: how many measurements along training, the one before it not counted; `POINTS` where not said
    :param kept: folder for the weights at each of them, see `lib.one_layer.snapshots`
    :return: the result, as `provenance.load` reads it
    :raises resume.CheckpointError: if the checkpoint beside ``out`` belongs to another run or is damaged
    """
    points = POINTS if points is None else points
    parameters = prepared(settings, recipe, out, profile, points)
    run, trainer = provenance.Run(torch.get_default_device()), Trainer(settings, recipe, seeds)
    start, due = trainer.averaged(), measured_steps(recipe.steps, points)
    curves = train(trainer, checkpoint_path(out), {**parameters, "seeds": list(seeds)}, due, kept)
    result = recorded(out, parameters, seeds, curves, start, trainer.averaged(), run)
    checkpoint_path(out).unlink(missing_ok=True)
    return result


def recorded(
    out: Path, parameters: Mapping[str, Any], seeds: Sequence[int], curves: Curves, start: Ensemble, end: Ensemble,
    run: provenance.Run,
) -> dict[str, Any]:
    """The result of a finished run, written at ``out``: its curves, and what is measured of untrained and trained."""
    settings, more = end.settings, {}
    final = {name: [run_of[-1] for run_of in runs] for name, runs in curves.items() if name != "steps"}
    if not settings.causal:
        more["score_correlation_by_distance"] = metrics.score_correlations(end).tolist()
        more["score_correlation_by_distance_at_start"] = metrics.score_correlations(start).tolist()
    if settings.encoding == "rope" and not settings.causal and settings.depth == 1:
        more["query_bound"] = metrics.query_bound(end).tolist()
    return provenance.save(out, experiment="one_layer", parameters=parameters, seeds=seeds, metrics=final,
                           curves=curves | more, run=run)


def prepared(settings: ModelConfig, recipe: TrainingConfig, out: Path, profile: str, points: int) -> dict[str, Any]:
    """The parameters that are recorded of a run, once its folder is there and nothing about it is refused."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)}")
    if points < 1:
        raise ValueError(f"points must be at least 1, not {points!r}: the end is measured in any case")
    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; name the JSON file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    parameters = {**dataclasses.asdict(settings), **dataclasses.asdict(recipe), "profile": profile}
    del parameters["causal"]  # the objective says so
    return parameters


def checkpoint_path(out: Path) -> Path:
    """Where the run that writes ``out`` keeps its checkpoint."""
    return out.with_name(f".{out.name}.checkpoint")


def train(
    trainer: Trainer, checkpoint: Path, identity: dict[str, Any], due: list[int], kept: Path | None = None, *,
    measure: Callable[[Ensemble], metrics.Measured] = metrics.evaluate,
    advance: Callable[[Trainer, Curves], Tensor | None] = lambda trainer, curves: trainer.advance(),
) -> Curves:
    """Run to the end, measuring, from the checkpoint if there is one; returns the curves.

    :param due: steps after which the averaged models are measured
    :param measure: what is measured; both accuracies are shown along the way
    :param advance: takes one step, may add curves of its own, and returns the losses if it knows them
    """
    curves: Curves = {"steps": []}
    if checkpoint.exists():
        tensors, progress = training_state.load(checkpoint, identity)
        trainer.restore(tensors, progress["step"])
        curves = progress["curves"]
    saved = time.monotonic()
    with _progress(trainer) as bar:
        while True:
            if trainer.step in due and trainer.step not in curves["steps"]:
                append(curves, "steps", trainer.step, measure(trainer.averaged()))
                snapshots.keep(kept, trainer.tensors(), identity, trainer.step)
                bar.show(curves)
            if trainer.step >= trainer.recipe.steps:
                return curves
            bar.count(advance(trainer, curves))
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                training_state.save(checkpoint, trainer.tensors(), identity, {"step": trainer.step, "curves": curves})
                saved = time.monotonic()


def append(curves: Curves, axis: str, step: int, values: Mapping[str, Sequence[float | None]]) -> None:
    """One more point, at ``step`` on ``axis``, of every curve that is named; one value a member."""
    curves.setdefault(axis, []).append(step)
    for name, each in values.items():
        for run, value in zip(curves.setdefault(name, [[] for _ in each]), each, strict=True):
            run.append(value)


def of_members(curves: Mapping[str, Any], some: slice) -> Curves:
    """The curves of some of the members."""
    return {name: runs if name == "steps" else runs[some] for name, runs in curves.items()}


class _Progress:
    """A bar on a terminal; elsewhere one line a measurement."""

    def __init__(self, trainer: Trainer, bar: tqdm) -> None:
        self.trainer, self.bar = trainer, bar
        self.loss = ""  # before the first step there is none

    def count(self, losses: Tensor | None) -> None:
        if losses is not None:
            self.loss = f"loss {float(losses.mean()):.3f}, "
        self.bar.update()

    def show(self, curves: Curves) -> None:
        means = [np.mean([run[-1] for run in curves[f"{way}_accuracy"]]) for way in ("forward", "reverse")]
        text = f"{self.loss}forward {means[0]:.1f} %, reverse {means[1]:.1f} %"
        self.bar.set_postfix_str(text)
        if self.bar.disable:
            recipe = self.trainer.recipe
            run = f"{recipe.objective} {self.trainer.settings.encoding}"
            run += f" {recipe.intervention}" if recipe.intervention != "none" else ""
            print(f"{run}: step {self.trainer.step}/{recipe.steps}, {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress(trainer: Trainer) -> Iterator[_Progress]:
    quiet = not sys.stderr.isatty()
    with tqdm(total=trainer.recipe.steps, initial=trainer.step, disable=quiet, unit="step") as bar:
        yield _Progress(trainer, bar)


# Command line -------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Options: every field of `ModelConfig` that shapes an experiment, every field of `TrainingConfig`, seeds and output."""
    command = argparse.ArgumentParser(prog="python -m lib.one_layer.training", description=__doc__.split("\n")[0])
    choices = {"encoding": tuple(ENCODINGS), "objective": objectives.OBJECTIVES, "draws": objectives.DRAWS,
               "intervention": tuple(interventions.NAMES), "values": tuple(VALUES)}
    for settings in (ModelConfig, TrainingConfig):
        for field in dataclasses.fields(settings):
            if field.name in ("causal", "mlp", "norm"):
                continue
            option = f"--{field.name.replace('_', '-')}"
            command.add_argument(option, type=type(field.default), default=field.default,
                                 choices=choices.get(field.name), help=f"default {field.default}")
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one model a seed")
    command.add_argument("--points", type=int, default=POINTS, help=f"measurements along training; default {POINTS}")
    command.add_argument("--snapshots", type=Path, help="folder for the weights at each measurement; default none")
    command.add_argument("--profile", choices=PROFILES, default="quick", help="recorded with the result")
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a CUDA device if there is one")
    command.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    return command


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; bad values end it with a message that names the option."""
    obey(parser(), experiment, argv)


def obey(command: argparse.ArgumentParser, made: Callable[..., Any], argv: Sequence[str] | None) -> None:
    """Make the experiment that the options of `parser` ask for; ``made`` takes what `experiment` takes."""
    given = vars(command.parse_args(argv))
    torch.set_num_threads(1)
    own = lambda kind: {field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given}
    try:
        settings = ModelConfig(**own(ModelConfig), causal=given["objective"] == "autoregressive")
        recipe = TrainingConfig(**own(TrainingConfig))
        with options.device_named(given["device"]):
            made(settings, recipe, given["seeds"], given["out"], given["profile"], given["points"],
                 given["snapshots"])
    except (ValueError, OSError) as error:
        command.error(str(error))


if __name__ == "__main__":
    main()
