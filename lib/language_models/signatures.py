"""The three signatures of Secs. 5 and 6, one interface for the one-layer model and for language models.

* `score_correlation`: forward against reverse attention scores on the evidence (Figs. 3 and 4, left);
* `gradient_cosine`: cosine of the forward and reverse loss gradients over all parameters (middle);
* `target_probability`: probability of the whole target entity (right).

A batch holds ``input_ids``, ``labels`` and maybe ``attention_mask`` (`lib.language_models.queries`). Any module works
whose call ``model(input_ids=..., attention_mask=...)`` returns an object with ``.logits`` (batch, length, vocabulary).
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.language_models import gradient_products
from lib.language_models.queries import Batch, asked, asked_logits, check_batch

_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks)\.(\d+)\.")


class GradientCosine(NamedTuple):
    """Inner product, norms and cosine of a forward gradient and a reverse gradient."""

    inner: float
    norm_f: float
    norm_r: float
    cosine: float


# The loss ---------------------------------------------------------------------------------------------------


def mean_cross_entropy(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy over the positions asked for: the loss whose gradients are compared.

    :raises ValueError: for a malformed batch (see `check_batch`), or a target outside the vocabulary
    """
    logits = asked_logits(model, batch)
    targets = batch["labels"][asked(batch)]
    if int(targets.max()) >= logits.shape[-1] or int(targets.min()) < 0:
        raise ValueError(f"labels: a target lies outside the vocabulary of {logits.shape[-1]} tokens")
    return nn.functional.cross_entropy(logits, targets)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off for the duration; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


# The three signatures ---------------------------------------------------------------------------------------


def score_correlation(scores_forward: object, scores_reverse: object) -> float:
    """Pearson correlation of paired attention scores (Figs. 3 and 4, left), over all their entries.

    :param scores_forward: scores on the evidence in forward prompts, any shape
    :param scores_reverse: the paired reverse scores, same shape
    :raises ValueError: for different shapes, fewer than two pairs, a value not finite, or constant scores
    """
    pair = {"scores_forward": _values(scores_forward), "scores_reverse": _values(scores_reverse)}
    forward, reverse = pair.values()
    if forward.shape != reverse.shape:
        raise ValueError(f"scores_forward has shape {forward.shape}, scores_reverse {reverse.shape}")
    if forward.size < 2:
        raise ValueError("a correlation needs at least two pairs of scores")
    for name, values in pair.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds a value that is not finite (leave masked entries out)")
        if np.ptp(values) <= 1e-12 * np.abs(values).max():
            raise ValueError(f"{name} is constant, so its correlation with anything is undefined")
    forward, reverse = (values.ravel() - values.mean() for values in (forward, reverse))
    cosine = forward @ reverse / (np.linalg.norm(forward) * np.linalg.norm(reverse))
    return float(np.clip(cosine, -1, 1))


def _values(scores: object) -> np.ndarray:
    if isinstance(scores, Tensor):
        scores = scores.detach().double().cpu().numpy()
    return np.asarray(scores, dtype=np.float64)


def gradient_cosine(
    model: nn.Module, forward_batch: Batch, reverse_batch: Batch, *, scope: str = "all"
) -> GradientCosine:
    """Cosine of the forward and the reverse gradient over all parameters (Figs. 3 and 4, middle).

    The loss of a batch is its mean cross-entropy over the positions asked for. Dropout is off; the ``.grad``
    fields stay as they were. A gradient of exactly zero leaves the cosine undefined (NaN). No weight gradient
    is stored (`lib.language_models.gradient_products`), so the peak in memory stays near the weights themselves.

    :param scope: ``all`` parameters, or only the ``trainable`` ones (adapters, where the rest is frozen)
    :raises ValueError: for a malformed batch (see `check_batch`), or another scope
    """
    return whole(gradient_alignment(model, forward_batch, reverse_batch, scope=scope))


def gradient_alignment(
    model: nn.Module, forward_batch: Batch, reverse_batch: Batch, *, scope: str = "all"
) -> dict[str, GradientCosine]:
    """`gradient_cosine` of each parameter by itself; inner products and squared norms add up to the whole's."""
    names = _scope(model, scope)
    losses = [functools.partial(mean_cross_entropy, model, batch) for batch in (forward_batch, reverse_batch)]
    with evaluating(model):
        recorded = gradient_products.recordable(model, losses, names)
        forward, reverse = (
            gradient_products.gradient(model, loss_of, recorded, names - recorded) for loss_of in losses
        )
    inner, square_f, square_r = (
        gradient_products.inner_products(a, b)
        for a, b in ((forward, reverse), (forward, forward), (reverse, reverse))
    )
    order = [name for name, _ in model.named_parameters() if name in names]
    return {name: cosine_of(inner[name], square_f[name], square_r[name]) for name in order}


def _scope(model: nn.Module, scope: str) -> set[str]:
    if scope not in ("all", "trainable"):
        raise ValueError(f"scope must be 'all' or 'trainable', not {scope!r}")
    names = {name for name, weight in model.named_parameters() if scope == "all" or weight.requires_grad}
    if not names:
        raise ValueError(f"scope {scope!r}: the model has no such parameter")
    return names


def whole(parts: Mapping[str, GradientCosine]) -> GradientCosine:
    """The cosine of gradients put together from parts (orthogonal coordinates)."""
    return cosine_of(
        sum(part.inner for part in parts.values()),
        sum(part.norm_f**2 for part in parts.values()),
        sum(part.norm_r**2 for part in parts.values()),
    )


def alignment_by_layer(parts: Mapping[str, GradientCosine]) -> dict[int | str, GradientCosine]:
    """Parts put together by layer; what belongs to no layer goes under the name of its module."""
    groups: dict[int | str, dict[str, GradientCosine]] = {}
    for name, part in parts.items():
        groups.setdefault(_layer(name), {})[name] = part
    return {layer: whole(members) for layer, members in groups.items()}


def _layer(name: str) -> int | str:
    match = _LAYER.search(name)
    return int(match[1]) if match else name.removesuffix(".weight").split(".")[-1]


def cosine_by_autograd(model: nn.Module, forward_batch: Batch, reverse_batch: Batch) -> GradientCosine:
    """`gradient_cosine` from two stored gradients: twice the weights in memory, and the reference for the products."""
    forward, reverse = (_gradient(model, batch) for batch in (forward_batch, reverse_batch))
    inner, square_f, square_r = (
        sum(float((left.double() * right.double()).sum()) for left, right in zip(a, b, strict=True))
        for a, b in ((forward, reverse), (forward, forward), (reverse, reverse))
    )
    return cosine_of(inner, square_f, square_r)


def cosine_of(inner: float, square_f: float, square_r: float) -> GradientCosine:
    """The four numbers from an inner product and two squared norms."""
    norm_f, norm_r = math.sqrt(max(square_f, 0.0)), math.sqrt(max(square_r, 0.0))
    return GradientCosine(inner, norm_f, norm_r, inner / (norm_f * norm_r) if norm_f and norm_r else math.nan)


def _gradient(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    parameters = list(model.parameters())
    with evaluating(model), gradient_products.requiring_only(model, set(parameters)), torch.enable_grad():
        loss = mean_cross_entropy(model, batch)
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


@torch.no_grad()
def target_probability(model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
    """Probability of each row's whole target: the product over its positions (Figs. 3 and 4, right).

    The positions are predicted in one pass, so for a masked model with a target of several tokens this is the
    parallel (not the iterative) probability; for a causal model it is the teacher-forced one.

    :raises ValueError: for a malformed batch, or a row that asks for nothing
    """
    check_batch(batch)
    wanted = asked(batch)
    if not wanted.any(1).all():
        raise ValueError(f"labels[{int((~wanted.any(1)).nonzero()[0])}]: this row asks for nothing")
    with evaluating(model):
        log_probabilities = asked_logits(model, batch).log_softmax(-1)
    targets = batch["labels"][wanted]
    each = log_probabilities.gather(1, targets[:, None])[:, 0]
    total = torch.zeros(len(wanted), dtype=each.dtype, device=each.device)
    return total.index_add(0, wanted.nonzero()[:, 0], each).exp()
