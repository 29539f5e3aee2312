"""Training of one-layer models: how a batch becomes a step, and a step a run.

All seeds train together as one ensemble. Randomness is a function of (seed, step) alone, so a checkpoint needs no
generator state and a seed's batches do not depend on the other seeds trained with it. `lib.one_layer.experiment` runs,
measures and records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lib.one_layer import interventions, metrics, objectives, snapshots, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.interventions import INTERVENTIONS
from lib.one_layer.model import HEAD_SCALE, ModelConfig
from lib.one_layer.objectives import MASKING_SAMPLERS, OBJECTIVES
from lib.record.accepted import at_least, check_seeds, within
from lib.record.options import option
from lib.record.training_state import Checkpoint

BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8  # AdamW's
SHARED = 2**63  # the key of draws that all seeds share
TRAINING_SET = 2**63  # the step, which no training reaches, whose numbers draw a training set
_FRESH_STATE = np.random.Philox(key=0).state  # before the first draw
AHEAD = 16  # steps whose batches are drawn at a time: numpy is slow on few numbers
Curves = dict[str, Any]  # ``steps``, and name -> [member][point]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; the paper's own values are lost, these are ours.

    :raises ValueError: naming the field that cannot be
    """

    objective: str = option("masked_diffusion", choices=OBJECTIVES)  # what a batch asks for
    draws: str = option("stratified", choices=MASKING_SAMPLERS)  # how masks are drawn, see `lib.one_layer.objectives`
    intervention: str = option("none", choices=INTERVENTIONS)  # see `lib.one_layer.interventions`
    right_weight: float = 1.0  # of the loss on placeholders to the right of a visible capital
    reversed_share: float = 0.0  # expected share of training sequences in the other order
    training_set: int = 0  # sequences that training draws from, again and again; 0 draws fresh ones
    attention_steps: int = 0  # steps in which attention trains; later embedding, query and key stay; 0 is all
    steps: int = 1500  # training steps
    batch: int = 120  # sequences a step
    learning_rate: float = 1e-3  # AdamW's
    warmup: int = 100  # steps over which the rate rises; constant afterwards
    decay: int = 0  # last steps, over which the rate falls to zero in a line
    clip: float = 1.0  # largest gradient norm of a member
    weight_decay: float = 0.0  # of matrices alone
    ema: float = 0.99  # decay of the moving average of the weights, which is what gets measured
    unembedding: float = HEAD_SCALE  # standard deviation of its start; RADD's is 0

    def __post_init__(self) -> None:
        objectives.check_objective(self.objective, self.draws)
        interventions.check_intervention(self.intervention, self.objective, self.right_weight)
        at_least(self, steps=1, batch=1, warmup=1, training_set=0, attention_steps=0, decay=0)
        within(self, reversed_share="[0, 1]", learning_rate="(0, inf)", clip="(0, inf]", ema="[0, 1)",
               weight_decay="[0, inf)", right_weight="[0, inf)", unembedding="[0, inf)")


SHARED_FIELDS = ("steps", "batch")  # of configurations that train side by side


class Trainer:
    """An ensemble in training: weights, AdamW's moments, the weights' moving average, and the steps taken.

    :param recipe: or several, side by side: each trains a model a seed, and members follow recipe by recipe
    :raises ValueError: for recipes that differ in `SHARED_FIELDS` or do not fit the settings, and for seeds that repeat
    """

    def __init__(
        self, settings: ModelConfig, recipe: TrainingConfig | Sequence[TrainingConfig], seeds: Sequence[int]
    ) -> None:
        self.recipes = (recipe,) if isinstance(recipe, TrainingConfig) else tuple(recipe)
        self.recipe = self.recipes[0]  # for what all share
        self._check(settings)
        check_seeds(seeds)
        self.settings, self.seeds, self.steps_taken = settings, tuple(seeds), 0
        starts = [recipe.unembedding for recipe in self.recipes for _ in seeds]
        self.ensemble = Ensemble.from_seeds(settings, [*seeds] * len(self.recipes), starts)
        self.first, self.second = (torch.zeros_like(self.ensemble.parameters) for _ in range(2))
        self.average = self.ensemble.parameters.clone()
        matrix = [len(shape) > 1 for _, columns, shape in self.ensemble.parameter_slices()
                  for _ in range(columns.start, columns.stop)]
        self._matrices = torch.tensor(matrix).float()  # 1 where weights decay
        self._attention = torch.cat([torch.arange(columns.start, columns.stop)
                                     for name, columns, _ in self.ensemble.parameter_slices() if attends(name)])
        self._count = torch.zeros(())
        self._generators = [step_generator(SHARED, step) for step in range(AHEAD)]  # used again and again
        self._prefetched: dict[int, list[Any]] = {}
        self._training_sets: dict[tuple[Any, ...], np.ndarray] = {}
        self._own = [*zip(*(tensor.split(len(seeds)) for tensor in self.tensors().values()), strict=True)]

    def _check(self, settings: ModelConfig) -> None:
        for recipe in self.recipes:
            if settings.causal != (recipe.objective == "autoregressive"):
                raise ValueError(f"objective {recipe.objective!r} does not fit causal={settings.causal}")
            if settings.fillers > 1 and (recipe.intervention, recipe.right_weight) != ("none", 1):
                raise ValueError(f"intervention {recipe.intervention!r}, right_weight {recipe.right_weight}: "
                                 f"they know one placeholder, not fillers={settings.fillers}")
            for field in SHARED_FIELDS:
                if getattr(recipe, field) != getattr(self.recipe, field):
                    raise ValueError(f"{field}: what trains side by side shares it, but one recipe has "
                                     f"{getattr(self.recipe, field)} and another {getattr(recipe, field)}")

    def members(self, index: int) -> slice:
        """The members that the recipe of that index trains."""
        return slice(index * len(self.seeds), (index + 1) * len(self.seeds))

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold beside the number of steps."""
        return {"weights": self.ensemble.parameters, "first": self.first, "second": self.second,
                "average": self.average}

    def restore(self, tensors: Mapping[str, Tensor], steps_taken: int) -> None:
        """Continue from the tensors of a checkpoint."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.steps_taken = steps_taken

    def averaged(self) -> Ensemble:
        """The models that get measured: the moving average of the weights."""
        return Ensemble(self.settings, self.average.clone())

    # A step -------------------------------------------------------------------------------------------------

    def step(self) -> Float[Tensor, " members"]:
        """One step of AdamW for every member; returns the losses before it, nats a sequence."""
        if self.settings.dropout:
            torch.manual_seed(int(step_generator(SHARED, self.steps_taken).integers(2**62)))
        self.ensemble.training = True
        losses, gradient = self.ensemble.loss_and_gradient(self._next_batches(), self.recipe.batch)
        self._adamw(gradient.split(len(self.seeds)))
        self.steps_taken += 1
        return losses

    def _next_batches(self) -> list[Any]:
        """This step's batches, prepared for training, member by member."""
        alone = any(recipe.intervention in interventions.DRAWN_PER_BATCH for recipe in self.recipes)
        count = 1 if alone else AHEAD
        first = self.steps_taken - self.steps_taken % count
        if first not in self._prefetched:
            self._prefetched = {first: self._prefetch(first, count)}
        return [member[self.steps_taken - first] for member in self._prefetched[first]]

    def _prefetch(self, first: int, count: int) -> list[Any]:
        """Member by member, the prepared batches of several steps."""
        return [self.ensemble.prepare(one, self.recipe.batch) for one in self._batches(first, count)]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The batches of a step as tensors: tokens, rows, targets, weights, each with a leading axis over members."""
        return objectives.stack_batches(self.batches(step))

    def batches(self, step: int) -> list[objectives.MaskedBatch]:
        """The batches of a step, member by member."""
        return self._batches(step, 1)

    def _batches(self, first: int, count: int) -> list[objectives.MaskedBatch]:
        """Member by member, the batches of several steps, one after the other."""
        size, batches = self.recipe.batch, []
        # the same masking probabilities for all seeds: they differ in all else that they draw
        uniforms = objectives.stratified_uniforms(size, self._rng(SHARED, first, count), count)
        for recipe, seed in itertools.product(self.recipes, self.seeds):
            rng = self._rng(seed, first, count)
            tokens = self._sequences(recipe, seed, rng, count * size)
            asked = interventions.make_intervened_batch(
                recipe.intervention, recipe.objective, tokens, rng, uniforms, recipe.draws)
            batches.append(interventions.weigh_right_of_capital(asked, recipe.right_weight))
        return batches

    def _sequences(self, recipe: TrainingConfig, seed: int, rng: task.Rng, count: int) -> np.ndarray:
        """Fresh sequences, or some of the seed's training set."""
        settings = self.settings
        draw = functools.partial(task.sequences, length=settings.length, reversed_share=recipe.reversed_share,
                                 facts=settings.facts, fillers=settings.fillers)
        if not recipe.training_set:
            return draw(count, rng=rng)
        key = seed, recipe.training_set, recipe.reversed_share
        if key not in self._training_sets:
            self._training_sets[key] = draw(recipe.training_set, rng=step_generator(seed, TRAINING_SET))
        return self._training_sets[key][rng.integers(recipe.training_set, size=count)]

    def _rng(self, seed: int, first: int, count: int) -> task.Rng:
        """The random numbers of several steps; generators that gave earlier ones are set anew."""
        each = [step_generator(seed, first + step, reuse) for step, reuse in enumerate(self._generators[:count])]
        return each[0] if count == 1 else task.StackedGenerators(each)

    def _rates(self, recipe: TrainingConfig) -> tuple[float, float]:
        """The step's learning rate, and the part of the way that the average goes to the weights."""
        count = self.steps_taken + 1  # the average catches up quickly at first, as RADD's does
        rise = min(1.0, count / recipe.warmup)
        fall = min(1.0, (recipe.steps - self.steps_taken) / recipe.decay) if recipe.decay else 1.0
        return recipe.learning_rate * rise * fall, 1 - min(recipe.ema, count / (9 + count))

    @torch.inference_mode()
    def _adamw(self, gradients: Sequence[Float[Tensor, "members parameters"]]) -> None:
        """Clipping, AdamW and the moving average, recipe by recipe."""
        for recipe, slope, (weights, first, second, average) in zip(self.recipes, gradients, self._own, strict=True):
            rate, to_average = self._rates(recipe)
            # attention that no longer trains: as if its gradient and moments were zero
            if 0 < recipe.attention_steps <= self.steps_taken:
                for part in (slope, first, second):
                    part[:, self._attention] = 0
            # clip each member's gradient
            slope.renorm_(2, 0, recipe.clip)
            # decay, then torch.optim.AdamW's own single pass, without its bookkeeping
            if recipe.weight_decay:
                weights.mul_(1 - rate * recipe.weight_decay * self._matrices)
            torch._fused_adamw_(
                [weights], [slope], [first], [second], [], [self._count.fill_(self.steps_taken + 1)], lr=rate,
                beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=ADAM_EPSILON, amsgrad=False, maximize=False)
            # moving average
            average.lerp_(weights, to_average)


def attends(name: str) -> bool:
    """Whether attention weights depend on a parameter (at depth 1)."""
    return name in ("embedding", "position") or any(f".{part}." in name for part in ("query", "key", "norm1"))


def step_generator(seed: int, step: int, reuse: np.random.Generator | None = None) -> np.random.Generator:
    """The random numbers of one step of one seed; streams of different keys are independent.

    :param reuse: a generator made here whose numbers are used up; set anew, which is much faster than making one
    """
    key = np.array([seed, step], dtype=np.uint64)
    if reuse is None:
        return np.random.Generator(np.random.Philox(key=key))
    reuse.bit_generator.state = {**_FRESH_STATE, "state": {"counter": _FRESH_STATE["state"]["counter"], "key": key}}
    return reuse


# A run --------------------------------------------------------------------------------------------------------


def train_ensemble(
    trainer: Trainer, checkpoint: Checkpoint, measured_at: Sequence[int], snapshot_folder: Path | None = None, *,
    measure: Callable[[Ensemble], metrics.Measured] = metrics.evaluate,
    step: Callable[[Trainer, Curves], Tensor | None] = lambda trainer, curves: trainer.step(),
) -> Curves:
    """Run to the end, measuring, from the checkpoint if there is one; returns the curves.

    :param measured_at: steps after which the averaged models are measured
    :param snapshot_folder: for the weights at each of them, see `lib.one_layer.snapshots`
    :param measure: what is measured; both accuracies are shown along the way
    :param step: takes one step, may add curves of its own, and returns the losses if it knows them
    :raises lib.record.training_state.CheckpointError: if the checkpoint belongs to another run or is damaged
    """
    curves: Curves = {"steps": []}
    # resume
    if (found := checkpoint.load()) is not None:
        tensors, progress = found
        trainer.restore(tensors, progress["step"])
        curves = progress["curves"]
    with _progress(trainer) as bar:
        while True:
            # measure
            if trainer.steps_taken in measured_at and trainer.steps_taken not in curves["steps"]:
                append(curves, "steps", trainer.steps_taken, measure(trainer.averaged()))
                snapshots.keep_snapshot(snapshot_folder, trainer.tensors(), checkpoint.identity, trainer.steps_taken)
                bar.show(curves)
            if trainer.steps_taken >= trainer.recipe.steps:
                return curves
            # train
            bar.count(step(trainer, curves))
            # keep
            if checkpoint.due():
                checkpoint.save(trainer.tensors(), {"step": trainer.steps_taken, "curves": curves})


def append(curves: Curves, axis: str, step: int, values: Mapping[str, Sequence[float | None]]) -> None:
    """One more point, at ``step`` on ``axis``, of every curve that is named; one value a member."""
    curves.setdefault(axis, []).append(step)
    for name, each in values.items():
        for run, value in zip(curves.setdefault(name, [[] for _ in each]), each, strict=True):
            run.append(value)


def select_members(curves: Mapping[str, Any], some: slice) -> Curves:
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
        means = [np.mean([run[-1] for run in curves[f"{way}_accuracy"]]) for way in task.DIRECTIONS]
        text = f"{self.loss}forward {means[0]:.1f} %, reverse {means[1]:.1f} %"
        self.bar.set_postfix_str(text)
        if self.bar.disable:
            recipe = self.trainer.recipe
            run = f"{recipe.objective} {self.trainer.settings.encoding}"
            run += f" {recipe.intervention}" if recipe.intervention != "none" else ""
            print(f"{run}: step {self.trainer.steps_taken}/{recipe.steps}, {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress(trainer: Trainer) -> Iterator[_Progress]:
    quiet = not sys.stderr.isatty()
    with tqdm(total=trainer.recipe.steps, initial=trainer.steps_taken, disable=quiet, unit="step") as bar:
        yield _Progress(trainer, bar)
