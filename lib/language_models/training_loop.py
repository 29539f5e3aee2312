"""One training loop for fine-tuning and pretraining: steps of AdamW, checkpoints, and several processes.

A `TrainingRun` is given the passes of each step and its learning rate; `train` makes the steps. A run that is
interrupted and resumed is, bit for bit, the run that was not.

Started by ``accelerate launch --num_processes N -m MODULE ...``, N processes share a run, one device each: every
process holds the same weights, takes its part of each batch, and adds its gradients to those of the others, so that
all of them stay the same. The first process alone writes. Started plainly, there is one process, and accelerate is
not even imported. Where there is no GPU accelerate starts one process, however many are asked for; ``torchrun
--nproc_per_node N -m MODULE ...`` starts N there.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.record import training_state
from lib.record.training_state import Checkpoint

Item = TypeVar("Item")


class Processes:
    """The processes of a run, seen from one of them.

    :param device: what each computes on; ``cuda`` gives every process a device of its own
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.count, self.rank, self.device = 1, 0, torch.device(device)
        self._accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=self.device.type == "cpu")
            self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
            self.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of the items: every ``count``-th from its rank on."""
        return items[self.rank :: self.count]

    def add_gradients(self, weights: Iterable[Tensor]) -> None:
        """Give every process the sum of the gradients of all; a weight without one counts as zero."""
        if self.count == 1:
            return
        for weight in weights:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = self._accelerator.reduce(gradient, reduction="sum")

    def total(self, value: float | int) -> float | int:
        """The sum of one number of each process."""
        if self.count == 1:
            return value
        mine = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self._accelerator.reduce(mine, reduction="sum"))

    def wait(self) -> None:
        """Go on when all processes have come so far."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the others; nothing can be shared afterwards."""
        if self.count > 1:
            self._accelerator.end_training()


class Pass(NamedTuple):
    """One forward and backward pass of a step."""

    share: float  # of the step's examples, by which its loss counts
    loss: Callable[[], Float[Tensor, ""]]


class TrainingRun:
    """A run in progress: weights, optimiser, and the losses of the steps made so far.

    :param passes: the passes of a step, by its number; every random draw in them is a function of seed, step and pass
    :param learning_rate: of a step, by its number
    :param clip: norm to which the gradient of a step is cut
    :param identity: what fixes the run; a checkpoint must agree with it
    :param curves: lists that a caller appends to; they stand in the checkpoint, and a resumed run fills them again
    :raises ValueError: for a model without trainable weights
    """

    def __init__(
        self, model: nn.Module, passes: Callable[[int], Sequence[Pass]], learning_rate: Callable[[int], float], *,
        clip: float, weight_decay: float, identity: Mapping[str, Any], processes: Processes | None = None,
        curves: Mapping[str, list] | None = None,
    ) -> None:
        self.model, self.passes, self.learning_rate, self.clip = model, passes, learning_rate, clip
        self.identity, self.processes, self.curves = identity, processes or Processes(), curves or {}
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not self.weights:
            raise ValueError("model: nothing is trainable; give it adapters with `finetuning.add_adapters`")
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=learning_rate(0), weight_decay=weight_decay)
        self.losses: list[float] = []

    def step(self) -> float:
        """One optimiser step; its loss, the mean over the examples of the step.

        :raises ArithmeticError: before the weights change, if the loss or the gradient is not finite
        """
        number = len(self.losses)
        self.model.train()
        # forward and backward: gradients of this process's passes add up in the weights
        losses = [self._backward(one) for one in self.processes.share(self.passes(number))]
        # the whole batch: gradient and loss summed over processes, the gradient cut to norm `clip`
        self.processes.add_gradients(self.weights.values())
        norm = float(nn.utils.clip_grad_norm_(self.weights.values(), self.clip))
        loss = self.processes.total(sum(losses))
        rate = self.learning_rate(number)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise diverged(number + 1, f"loss {loss:g}, gradient norm {norm:g}, learning rate {rate:g}")
        # AdamW at this step's learning rate
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss)
        return loss

    def _backward(self, one: Pass) -> float:
        loss = one.loss()
        (loss * one.share).backward()
        return float(loss.detach()) * one.share

    def store(self, checkpoint: Checkpoint) -> None:
        """Save weights, both moments, losses and curves so far; the first process does it for all."""
        if not self.processes.first:
            return
        tensors = training_state.training_state(self.weights, self.optimiser)
        exact = {name: tensor.cpu().float() for name, tensor in tensors.items()}  # bfloat16 fits into float32
        checkpoint.identity.update(self.identity)
        checkpoint.save(exact, {"losses": self.losses, "curves": dict(self.curves)})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint if it has been saved.

        :raises lib.record.training_state.CheckpointError: for a checkpoint of another run, or a damaged one
        """
        checkpoint.identity.update(self.identity)
        found = checkpoint.load()
        if found is None:
            return
        tensors, progress = found
        training_state.restore_training(self.weights, self.optimiser, tensors)
        self.losses = list(progress["losses"])
        for name, values in self.curves.items():
            values[:] = progress.get("curves", {}).get(name, [])


def train(
    run: TrainingRun, step_count: int, *, checkpoint: Checkpoint | None = None, every: int = 50, keep: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Make a run's steps, from its checkpoint on if there is one; the model is left in evaluation mode.

    :param checkpoint: saved every so many steps, resumed from if it is there, and removed at the end
    :param keep: leave the checkpoint, then of the finished run, for the caller to remove
    :param on_step: called after each step with its number, from 0, and its loss
    :return: the loss of every step
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ArithmeticError: at the first step whose loss, gradient or, at the end, weights are not finite; the last
        checkpoint stays
    """
    if checkpoint is not None:
        run.restore(checkpoint)
    for number in range(len(run.losses), step_count):
        loss, last = run.step(), number + 1 == step_count
        if last and not all(weight.isfinite().all() for weight in run.weights.values()):
            raise diverged(step_count, "weights that are not finite")
        if on_step is not None:
            on_step(number, loss)
        if checkpoint is not None and ((number + 1) % every == 0 or (keep and last)):
            run.store(checkpoint)
    if checkpoint is not None and not keep and run.processes.first:
        checkpoint.remove()
    run.model.eval()
    return run.losses


def print_progress(line: str) -> None:
    """Show a line of progress on stderr at once."""
    print(line, file=sys.stderr, flush=True)


def loss_progress(total: int, every: int = 20) -> Callable[[int, float], None]:
    """What `train` may call after each step: shows the mean loss of so many steps, and how many are left.

    :param total: steps of the run
    """
    losses: list[float] = []

    def show(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % every == 0:
            print_progress(f"step {step + 1} of {total}, loss {statistics.fmean(losses[-every:]):.3f}")
    return show


def diverged(step: int, found: str) -> ArithmeticError:
    """The error of a run that cannot go on; ``step`` counts from 1."""
    return ArithmeticError(f"step {step}: the run has diverged ({found}); lower learning_rate")
