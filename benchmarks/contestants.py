"""Who takes part in `benchmarks.one_layer`: one training step of all members of an ensemble, in different ways.

All train on the batches that ours trains on, with the same loss, clipped AdamW and moving average. ``ours`` are the
tables of `lib.one_layer.tables`, ``plain`` is the package's plain module, each by autograd and torch's fused AdamW,
member by member. Each of the two formulations of `benchmarks.formulations`, ``plain`` and ``tables``, runs

* ``_compiled``: the whole step through `torch.compile`, member by member;
* ``_vmap``: through `torch.func.vmap` over members; ``_vmap_compiled``: `torch.compile` of that;
* ``_jax``: through JAX's `jit` of `vmap`; JAX is no dependency of the project, and is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import formulations
from benchmarks.formulations import Framework, FullBatch, UniqueRows
from benchmarks.radd import published_code, published_model
from lib.one_layer import task
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.objectives import MaskedBatch
from lib.one_layer.training import ADAM_EPSILON, BETAS, Trainer, TrainingConfig
from lib.one_layer.unique import UniqueBatch, unique_rows_by_step

STATE = "weights", "first", "second", "average"  # what training changes, by its names in `Trainer.tensors`
Arrays = dict[str, np.ndarray]


class Size(NamedTuple):
    """What is trained: ``members`` models.

    ``ahead`` is the number of steps whose batches are drawn at a time; ``rows`` the number of rows to which batches of
    unique rows are padded, for those who want one shape.
    """

    config: ModelConfig
    training: TrainingConfig
    members: int
    ahead: int = 16
    rows: int = 0

    def trainer(self) -> Trainer:
        return Trainer(self.config, self.training, range(self.members))


class Contestant(NamedTuple):
    """``step`` takes one training step of all members and returns the losses before it, (members,), in nats a sequence;
    ``state`` gives what `STATE` names, (members, parameters) each, in the layout of `Ensemble`."""

    step: Callable[[], Any]
    state: Callable[[], Arrays]


def trace(contestant: Contestant, steps: int) -> Arrays:
    """The losses of that many steps, and the state after them."""
    losses = np.array([np.asarray(contestant.step(), np.float64) for _ in range(steps)])
    return {"losses": losses} | {name: np.array(values) for name, values in contestant.state().items()}


def disagreement(one: Arrays, other: Arrays) -> float:
    """The largest relative difference, by the norm, of losses, weights, AdamW's moments (the gradient) and average."""
    return max(float(np.linalg.norm(one[name] - other[name]) / np.linalg.norm(other[name])) for name in other)


# Batches ----------------------------------------------------------------------------------------------------------


def draw(size: Size) -> Iterator[list[MaskedBatch]]:
    """For each member the batches of the next ``size.ahead`` steps, one after the other, as `Trainer` draws them."""
    trainer = size.trainer()
    for first in itertools.count(0, size.ahead):
        yield trainer._batches(first, size.ahead)


def full_batches(size: Size) -> Iterator[list[FullBatch]]:
    """Step by step, one a member."""
    for members in draw(size):
        for batches in zip(*(member.steps(size.training.batch) for member in members), strict=True):
            yield [_full_batch(one, size.training.batch) for one in batches]


def _full_batch(masked: MaskedBatch, batch: int) -> FullBatch:
    targets, weights = masked.tokens.clip(max=task.CLEAN - 1), np.zeros(masked.tokens.size, np.float32)
    targets.reshape(-1)[masked.rows], weights[masked.rows] = masked.targets, masked.weights / batch
    return FullBatch(masked.tokens, targets, weights.reshape(targets.shape))


def unique_rows(size: Size) -> Iterator[list[UniqueRows]]:
    """Step by step, one a member."""
    batch = size.training.batch
    for members in draw(size):
        for batches in zip(*(unique_rows_by_step(member, batch, batch) for member in members), strict=True):
            yield [_unique_rows(one, size.rows) for one in batches]


def _unique_rows(unique: UniqueBatch, least: int) -> UniqueRows:
    rows = len(unique.position)
    count = max(rows, least)
    tokens, position = np.zeros((count, unique.tokens.shape[1]), np.int64), np.zeros(count, np.int64)
    tokens[:rows], position[:rows] = unique.tokens[unique.sequence], unique.position
    targets = np.bincount(unique.answers, unique.weights, count * task.CLEAN)
    return UniqueRows(tokens, position, targets.astype(np.float32).reshape(count, -1))


def most_rows(size: Size, steps: int) -> int:
    """The largest number of unique rows of any member in these steps, rounded up to a multiple of 16."""
    batch, parts = size.training.batch, itertools.islice(draw(size), -(-steps // size.ahead))
    most = max(len(unique.position) for members in parts for member in members
               for unique in unique_rows_by_step(member, batch, batch))
    return -(-most // 16) * 16


# Ways to run a step -----------------------------------------------------------------------------------------------


def by_autograd(loss: Callable, size: Size, batches: Iterator[list]) -> Contestant:
    """Member by member, by autograd and torch's own optimiser."""
    ensemble, count = size.trainer().ensemble, itertools.count(1)
    members = [_Member(loss, ensemble.member(index), size.training) for index in range(size.members)]

    def step() -> list[float]:
        now = next(count)
        return [member.step(_constants(torch.from_numpy, batch), now)
                for member, batch in zip(members, next(batches), strict=True)]

    return Contestant(step, lambda: _state(map(np.stack, zip(*(member.state() for member in members), strict=True))))


class _Member:
    """One model in training."""

    def __init__(self, loss: Callable, model: Transformer, training: TrainingConfig) -> None:
        self.loss, self.training, self.by_name = loss, training, dict(model.named_parameters())
        self.weights = list(self.by_name.values())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimiser = torch.optim.AdamW(self.weights, betas=BETAS, eps=ADAM_EPSILON, weight_decay=0.0, fused=True)

    def step(self, batch: Any, count: int) -> float:
        training = self.training
        self.optimiser.param_groups[0]["lr"] = training.learning_rate * min(1.0, count / training.warmup)
        self.optimiser.zero_grad()
        loss = self.loss(self.by_name, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, training.clip)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, float(formulations.schedule(training, count)[2]))
        return loss.item()

    def state(self) -> list[np.ndarray]:
        state = [self.optimiser.state[weight] for weight in self.weights]
        moments = ([each[name] for each in state] for name in ("exp_avg", "exp_avg_sq"))
        return [torch.cat([part.detach().reshape(-1) for part in parts]).numpy()
                for parts in (self.weights, *moments, self.average)]


def one_by_one(training_step: Callable, size: Size, batches: Iterator[list]) -> Contestant:
    """Member by member, by a function such as `formulations.training_step` makes of torch's functions."""
    tensors, count = size.trainer().tensors(), itertools.count(1)
    members = [[tensors[name][index].clone() for name in STATE] for index in range(size.members)]

    def step() -> list[float]:
        now, losses = torch.from_numpy(formulations.schedule(size.training, next(count))), []
        for state, batch in zip(members, next(batches), strict=True):
            loss, *state[:] = training_step(*state, now, _constants(torch.from_numpy, batch))
            losses.append(loss.item())
        return losses

    return Contestant(step, lambda: _state(torch.stack(values).numpy() for values in zip(*members, strict=True)))


def all_at_once(training_step: Callable, size: Size, batches: Iterator[list], constant: Callable) -> Contestant:
    """All members in one call, by a function whose state and batch have a leading axis over members.

    :param constant: see `Framework`
    """
    tensors, count = size.trainer().tensors(), itertools.count(1)
    state = [constant(tensors[name].numpy().copy()) for name in STATE]

    def step() -> np.ndarray:
        members = next(batches)
        batch = type(members[0])(*map(np.stack, zip(*members, strict=True)))
        now = constant(formulations.schedule(size.training, next(count)))
        losses, *state[:] = training_step(*state, now, _constants(constant, batch))
        return np.asarray(losses)

    return Contestant(step, lambda: _state(map(np.asarray, state)))


def _constants(constant: Callable, batch: Any) -> Any:
    return type(batch)(*map(constant, batch))


def _state(values: Any) -> Arrays:
    return dict(zip(STATE, values, strict=True))


# Contestants ------------------------------------------------------------------------------------------------------


def ours(size: Size) -> Contestant:
    """The step of `lib.one_layer.training`."""
    trainer = size.trainer()
    return Contestant(trainer.step, lambda: {name: trainer.tensors()[name].numpy() for name in STATE})


def plain(size: Size) -> Contestant:
    return by_autograd(formulations.module_loss(size.config), size, full_batches(size))


def compiled(form: str, size: Size) -> Contestant:
    step, batches = _step(form, size, formulations.torch_framework())
    return one_by_one(_compile(step), size, batches)


def vmap(form: str, size: Size) -> Contestant:
    of = formulations.torch_framework()
    step, batches = _step(form, size, of)
    if form == "plain":
        step = _with_optimiser(formulations.module_loss(size.config), size, of)
    return all_at_once(_over_members(torch.func.vmap, step), size, batches, of.constant)


def vmap_compiled(form: str, size: Size) -> Contestant:
    of = formulations.torch_framework()
    step, batches = _step(form, size, of)
    return all_at_once(_compile(_over_members(torch.func.vmap, step)), size, batches, of.constant)


def jax(form: str, size: Size) -> Contestant:
    """:raises ImportError: without JAX"""
    of, library = formulations.jax_framework(), importlib.import_module("jax")
    step, batches = _step(form, size, of)
    step = library.jit(_over_members(library.vmap, step), donate_argnums=(0, 1, 2, 3))
    return all_at_once(step, size, batches, of.constant)


def _step(form: str, size: Size, of: Framework) -> tuple[Callable, Iterator[list]]:
    """The training step of one member, and the batches of all."""
    loss, batches = {"plain": (formulations.plain_loss, full_batches),
                     "tables": (formulations.tables_loss, unique_rows)}[form]
    return _with_optimiser(loss(size.config, of), size, of), batches(size)


def _with_optimiser(loss: Callable, size: Size, of: Framework) -> Callable:
    return formulations.training_step(loss, size.trainer().ensemble.parameter_slices(), size.training.clip, of)


def _over_members(vectorise: Callable, step: Callable) -> Callable:
    """All members have the same schedule."""
    return vectorise(step, (0, 0, 0, 0, None, 0))


def _compile(step: Callable) -> Callable:
    """:raises ImportError: without a C++ compiler"""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ImportError("torch.compile needs a C++ compiler")
    return torch.compile(step, dynamic=False, fullgraph=True)


GENERAL: dict[str, Callable[[Size], Contestant]] = {"plain": plain} | {
    f"{form}_{way.__name__}": lambda size, form=form, way=way: way(form, size)
    for form in ("plain", "tables") for way in (compiled, vmap, vmap_compiled, jax)}


def radd(folder: Path, size: Size) -> Callable[[], Any]:
    """RADD's own training step (its t_DCE loss, model and moving average), model by model, on sequences like ours.

    :raises ImportError: if the checkout or what it needs is missing
    """
    code, config, training = published_code(folder), size.config, size.training
    loss_fn = code.get_loss_fn(code.LogLinearNoise(), task.TOKENS, train=True, loss_type="t_DCE")

    def one() -> Callable[[], None]:
        model = published_model(code, config.width, config.depth, config.heads, dropout=0.0)
        weights, average = list(model.parameters()), code.ExponentialMovingAverage(model.parameters(), 0.99)
        optimiser = torch.optim.AdamW(weights, training.learning_rate, weight_decay=0.0)

        def step() -> None:
            tokens = torch.from_numpy(task.sequences(training.batch, config.length, np.random.default_rng()))
            optimiser.zero_grad()
            loss_fn(model, tokens).mean().backward()
            torch.nn.utils.clip_grad_norm_(weights, training.clip)
            optimiser.step()
            average.update(weights)

        return step

    members = [one() for _ in range(size.members)]
    return lambda: [step() for step in members]


def products(size: Size, unique: bool) -> Callable[[], Any]:
    """The matrix products of the MLP and the unembedding at the masked positions of one batch, nothing else.

    :param unique: at the unique rows among them only
    """
    (masked,) = Trainer(size.config, size.training, [0]).batches(0)
    rows = len(unique_rows_by_step(masked, size.training.batch)[0].position if unique else masked.rows)
    width, work = size.config.width, []
    for inner, outer in ((width, 4 * width), (4 * width, width), (width, task.CLEAN)):
        x, w, g = torch.randn(rows, inner), torch.randn(inner, outer), torch.randn(rows, outer)
        work += [(x, w, torch.empty(rows, outer)), (g, w.T, torch.empty_like(x)), (x.T, g, torch.empty_like(w))]

    def step() -> None:
        for left, right, out in work * size.members:
            torch.mm(left, right, out=out)

    return step
