"""A pretend accelerator: tensors that say they live elsewhere, compute on the CPU, and refuse to meet a CPU tensor.

It shows, without one, that a computation would run on a GPU: a tensor made in the wrong place, or a generator of the
wrong device, is refused where CUDA would refuse it. ``meta`` lends its name as the one device type that needs no
driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_TRANSFERS = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """Wraps the CPU tensor that holds its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=held.requires_grad)
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers held; the result is where its inputs are, or where it is asked to be."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    away = any(isinstance(one, Elsewhere) for one in tensors)
    asked = kwargs.get("device")
    there = away if asked is None else torch.device(asked).type == DEVICE.type
    if away and operation not in _TRANSFERS:
        for one in tensors:
            if not isinstance(one, Elsewhere) and one.dim():
                raise RuntimeError(f"{operation}: a tensor of shape {tuple(one.shape)} on the CPU meets one elsewhere")
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operation}: a generator on the CPU draws numbers elsewhere")
    if operation is torch.ops.aten._conj.default:  # the lazy kind is not resolved beneath a dispatch mode
        operation = torch.ops.aten.conj_physical.default
    given = kwargs if asked is None else {**kwargs, "device": torch.device("cpu")}
    found = operation(*tree_map(_held, args), **tree_map(_held, given))
    if found is None or operation._schema.name.endswith("_"):
        return None if found is None or not operation._schema.returns else args[0]
    return tree_map(lambda one: Elsewhere(one) if isinstance(one, torch.Tensor) else one, found) if there else found


def _held(one: Any) -> Any:
    return one.held if isinstance(one, Elsewhere) else one


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """``tolist`` is not dispatched."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.tolist:
            return _held(args[0]).tolist()
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def elsewhere() -> Iterator[torch.device]:
    """New tensors are made elsewhere."""
    with _Operations(), DEVICE, _Functions():
        yield DEVICE
