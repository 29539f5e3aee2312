"""Inner products of full-parameter gradients without ever storing a weight gradient.

For y = x W^T the gradient of W is a sum of outer products, sum_i d_i x_i^T, with x_i the input and d_i the
gradient of the output at position i. Two such gradients have the inner product

    <g, g'> = sum_ij (d_i . d'_j) (x_i . x'_j),

which needs activations only: a few megabytes at short prompts, where two stored gradients of an 8B model
need twice its weights. An embedding fits the same form with d_i replaced by the one-hot vector of its token,
so tied input and output embeddings are handled too, cross terms included.

The factors are recorded where they arise, at the calls of `linear` and `embedding` in `torch.nn.functional`
(every `nn.Linear` and `nn.Embedding` ends there). A weight that takes part in anything else (an einsum, a
convolution, a transposed product) and every parameter that is no matrix get their gradient from autograd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Loss = Callable[[], Float[Tensor, ""]]

#: reading these of a weight is no use of it
_HARMLESS = {"shape", "size", "dim", "ndim", "numel", "dtype", "device", "layout", "requires_grad", "is_cuda",
             "is_cpu", "is_meta", "is_nested", "is_floating_point", "is_contiguous", "stride"}


class OuterProducts(NamedTuple):
    """One use of a weight: its gradient is the sum over rows of the outer products of ``left`` and ``right``.

    ``left`` is (rows, out), or (rows,) of token ids standing for one-hot vectors; ``right`` is (rows, in).
    """

    left: Tensor
    right: Tensor


class Gradient(NamedTuple):
    """A gradient in parts: outer products for the matrices recorded, plain tensors for all other parameters."""

    outer: dict[str, list[OuterProducts]]
    tensors: dict[str, Tensor]


class _Use(NamedTuple):
    weight: Tensor
    given: Tensor  # the input of a linear map, or token ids
    version: int
    output: Tensor
    skipped: int  # the padding row of an embedding, which gets no gradient; -1 where there is none


class LinearRecorder(TorchFunctionMode):
    """Records the uses of ``weights``; ``elsewhere`` collects those that are used in any other way."""

    def __init__(self, weights: set[Tensor], keep: bool) -> None:
        super().__init__()
        self.weights, self.keep = weights, keep
        self.uses: list[_Use] = []
        self.recorded: set[Tensor] = set()
        self.elsewhere: set[Tensor] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        use = self._recognise(func, args, kwargs)
        if use is None:
            self._note_other_uses(func, (*args, *kwargs.values()))
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        weight, given, skipped = use
        self.recorded.add(weight)
        if not self.keep:
            return output
        if not output.requires_grad:
            output.requires_grad_(True)
        self.uses.append(_Use(weight, given.detach(), given._version, output, skipped))
        return output.clone()  # what follows may work in place: the gradient asked for is that of `output`

    def _recognise(self, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, int] | None:
        if func is nn.functional.linear:
            given, weight = _arguments(args, kwargs, "input", "weight")
            if weight in self.weights and given not in self.weights:
                return weight, given, -1
        if func is nn.functional.embedding:
            names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
            given, weight, padding, max_norm, _, by_frequency, sparse = _arguments(args, kwargs, *names)
            if weight in self.weights and max_norm is None and not by_frequency and not sparse:
                return weight, given, -1 if padding is None else int(padding) % len(weight)
        return None

    def _note_other_uses(self, func: Any, values: Any) -> None:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _HARMLESS:
            return
        for value in values:
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(item, Tensor) and item in self.weights:
                    self.elsewhere.add(item)


def _arguments(args: Any, kwargs: Any, *names: str) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def recordable(model: nn.Module, losses: Sequence[Loss], names: set[str]) -> set[str]:
    """Which parameters serve as linear or embedding weights and as nothing else in computing ``losses``."""
    wanted: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters() if name in names}
    matrices = {parameter for parameter in wanted if parameter.dim() == 2}
    scout = LinearRecorder(matrices, keep=False)
    with torch.no_grad(), scout:
        for loss_of in losses:
            loss_of()
    return {wanted[parameter] for parameter in scout.recorded - scout.elsewhere}


def gradient(model: nn.Module, loss_of: Loss, recorded: set[str], plain: set[str]) -> Gradient:
    """The gradient of ``loss_of()``: outer products for the parameters ``recorded``, tensors for those ``plain``.

    :param loss_of: computes the loss with ``model``
    :param recorded: among `recordable`, by the names of `nn.Module.named_parameters`
    :raises ValueError: if the model changes the input of a linear map in place
    """
    parameters = dict(model.named_parameters())
    name_of: dict[Tensor, str] = {parameters[name]: name for name in recorded}
    rest = {name: parameters[name] for name in sorted(plain)}
    with requiring_only(model, set(rest.values())), torch.enable_grad():
        with LinearRecorder(set(name_of), keep=True) as recorder:
            loss = loss_of()
        outputs = [use.output for use in recorder.uses]
        inputs = [*outputs, *rest.values()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    outer: dict[str, list[OuterProducts]] = {name: [] for name in recorded}
    for use, output_gradient in zip(recorder.uses, gradients, strict=False):
        outer[name_of[use.weight]].append(_outer_products(use, output_gradient, name_of[use.weight]))
    return Gradient(outer, dict(zip(rest, gradients[len(outputs):], strict=True)))


@contextlib.contextmanager
def requiring_only(model: nn.Module, chosen: set[Tensor]) -> Iterator[None]:
    """Gradients for the parameters ``chosen`` and no other; afterwards as before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter in chosen)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _outer_products(use: _Use, output_gradient: Tensor, name: str) -> OuterProducts:
    """OuterProducts of one use; rows that carry no gradient are dropped."""
    if use.given._version != use.version:
        raise ValueError(f"{name}: its input is changed in place after use, so its gradient is lost")
    rows = output_gradient.detach().reshape(-1, output_gradient.shape[-1])
    alive = rows.any(-1)
    if not use.given.is_floating_point():  # an embedding: one-hot vectors on the left
        ids = use.given.reshape(-1)
        alive &= ids != use.skipped
        return OuterProducts(ids[alive], rows[alive])
    return OuterProducts(rows[alive], use.given.reshape(-1, use.given.shape[-1])[alive])


def inner_products(first: Gradient, second: Gradient) -> dict[str, float]:
    """<g, g'> for every parameter, in float64."""
    products = {name: float((tensor.double() * second.tensors[name].double()).sum())
                for name, tensor in first.tensors.items()}
    for name, own in first.outer.items():
        products[name] = sum((_product(a, b) for a in own for b in second.outer[name]), 0.0)
    return products


def _product(first: OuterProducts, second: OuterProducts) -> float:
    left = _overlap(first.left, second.left)
    return float((left * (first.right.double() @ second.right.double().T)).sum())


def _overlap(first: Tensor, second: Tensor) -> Float[Tensor, "rows other_rows"]:
    """Inner products of left factors, either of which may be token ids that stand for one-hot vectors."""
    if first.dim() == 1 and second.dim() == 1:
        return (first[:, None] == second[None, :]).double()
    if first.dim() == 1:
        return second.double()[:, first].T
    if second.dim() == 1:
        return first.double()[:, second]
    return first.double() @ second.double().T
