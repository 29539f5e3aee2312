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
_ATEN = torch.ops.aten
_TRANSFERS = (_ATEN._to_copy.default, _ATEN.copy_.default)
_INDEXED = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)  # by indices on the CPU if need be


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
        indices = tree_leaves(args[1]) if operation in _INDEXED and isinstance(args[0], Elsewhere) else []
        for one in tensors:
            if not isinstance(one, Elsewhere) and one.dim() and not any(one is index for index in indices):
                raise RuntimeError(f"{operation}: a tensor of shape {tuple(one.shape)} on the CPU meets one elsewhere")
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operation}: a generator on the CPU draws numbers elsewhere")
    if operation is _ATEN._conj.default:  # the lazy kind is not resolved beneath a dispatch mode
        operation = _ATEN.conj_physical.default
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
    """What is not dispatched: ``tolist``, tensors made of numbers, and lists as indices."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.tolist:
            return _held(args[0]).tolist()
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            target, index, *rest = args
            made = lambda one: torch.tensor(one) if isinstance(one, list) else one
            args = (target, tuple(map(made, index)) if isinstance(index, tuple) else made(index), *rest)
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


@contextlib.contextmanager
def elsewhere() -> Iterator[torch.device]:
    """New tensors are made elsewhere."""
    with machine(), DEVICE:
        yield DEVICE


@contextlib.contextmanager
def machine() -> Iterator[None]:
    """There is an elsewhere; tensors are made on the CPU all the same."""
    with _Operations(), _Functions():
        yield
