"""One run shared by several processes, one device each; one process alone is the usual case.

Started by ``accelerate launch --num_processes N -m MODULE ...``, every process holds the same weights, takes its
part of each batch, and adds its gradients to those of the others, so that all of them stay the same. The first
process alone writes. Started plainly, nothing here does anything, and accelerate is not even imported.

Where there is no GPU accelerate starts one process, however many are asked for; ``torchrun --nproc_per_node N -m
MODULE ...`` starts N there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

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
