"""One training step of a one-layer masked model as a function: two readable formulations of the same loss.

For one member, one head and rotary encoding; written once for torch and for JAX:

* ``plain``: a transformer at every position;
* ``tables``: what `lib.one_layer.tables` computes, restricted to that case. Queries are asked at masks only and are one
  vector; keys and values belong to a token. So scores, (offsets, tokens), and stored values, (tokens, width), are
  computed for the vocabulary and looked up at the masked positions, and rows that are equal are computed once.

`training_step` adds gradient clipping, AdamW and the moving average of the weights to either.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib.encodings import rope_frequencies
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.task import CLEAN, MASK, TOKENS
from lib.one_layer.training import ADAM_EPSILON, BETAS, TrainingConfig

Weights = dict[str, Any]  # one member's, by name
Layout = list[tuple[str, slice, torch.Size]]  # of weights in a flat buffer, as `Ensemble.parameter_slices` gives it
ATTENTION = [f"blocks.0.attention.{name}.weight" for name in ("query", "key", "value", "output")]
MLP = [f"blocks.0.mlp.{name}" for name in ("up.weight", "up.bias", "down.weight", "down.bias")]


class FullBatch(NamedTuple):
    """A batch for a model that computes every position; with a leading axis over members where there are several."""

    tokens: Any  # (batch, length), with masks
    targets: Any  # (batch, length)
    weights: Any  # (batch, length), divided by the batch; 0 where there is no mask


class UniqueRows(NamedTuple):
    """A batch's different masked rows; with a leading axis over members where there are several."""

    tokens: Any  # (rows, length): the sequence that each row stands in
    position: Any  # (rows,): and where
    targets: Any  # (rows, clean): summed weights of each target


class Framework(NamedTuple):
    """What torch and JAX call differently."""

    constant: Callable  # from an array
    value_and_grad: Callable
    concatenate: Callable
    sqrt: Callable
    minimum: Callable
    softmax: Callable  # over the last axis, as are the next two
    log_softmax: Callable
    layer_norm: Callable  # of x, with a weight and no shift
    gelu: Callable  # in its tanh form
    look_up: Callable  # entries of a flat table
    by_token: Callable  # attention on each token, (rows, tokens), from attention on each position, (rows, length)


def torch_framework() -> Framework:
    """Functions that serve autograd, `torch.func` and `torch.compile` alike."""

    def value_and_grad(function: Callable) -> Callable:
        both = torch.func.grad_and_value(function)
        return lambda *arguments: both(*arguments)[::-1]

    def by_token(attention: Tensor, tokens: Tensor) -> Tensor:
        return attention.new_zeros(len(tokens), TOKENS).scatter_add(1, tokens, attention)

    return Framework(
        torch.from_numpy, value_and_grad, torch.cat, torch.sqrt, lambda x, most: x.clamp(max=most),
        lambda x: x.softmax(-1), lambda x: x.log_softmax(-1),
        lambda x, weight: functional.layer_norm(x, x.shape[-1:], weight),
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda table, place: table.gather(0, place.reshape(-1)).view(place.shape), by_token)


def jax_framework() -> Framework:
    """The same of JAX, on one thread.

    :raises ImportError: without JAX, which is no dependency of the project
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")

    def layer_norm(x: Any, weight: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight

    def by_token(attention: Any, tokens: Any) -> Any:  # on the CPU faster than a product with one-hot tokens
        rows = jnp.arange(len(tokens))[:, None]
        return jnp.zeros((len(tokens), TOKENS), attention.dtype).at[rows, tokens].add(attention)

    return Framework(
        jnp.asarray, jax.value_and_grad, jnp.concatenate, jnp.sqrt, jnp.minimum, jax.nn.softmax, jax.nn.log_softmax,
        layer_norm, jax.nn.gelu, lambda table, place: table[place], by_token)


# The loss of one member, in nats a sequence -----------------------------------------------------------------------


def tables_loss(config: ModelConfig, of: Framework) -> Callable[[Weights, UniqueRows], Any]:
    """By tables over the vocabulary."""
    length, width = config.length, config.width
    # q^T R(offset) k = (R(-offset) q)^T k, for offsets 1 - length, ..., length - 1
    angles = of.constant(rotary_angles(np.arange(length - 1, -length, -1), width))
    keys = of.constant(np.arange(length))

    def loss(weights: Weights, batch: UniqueRows) -> Any:
        query, key, value, output = (weights[name] for name in ATTENTION)
        normed = of.layer_norm(weights["embedding"], weights["blocks.0.norm1.weight"])
        queries = rotate(query @ normed[MASK], angles, of) @ key  # (offsets, width)
        scores = queries @ normed.T / math.sqrt(width)  # (offsets, tokens)
        stored = normed @ value.T @ output.T  # (tokens, width)
        offset = keys - batch.position[:, None] + length - 1
        attention = of.softmax(of.look_up(scores.reshape(-1), offset * TOKENS + batch.tokens))
        x = weights["embedding"][MASK] + of.by_token(attention, batch.tokens) @ stored
        return -(batch.targets * log_probabilities(x, weights, of)).sum()

    return loss


def plain_loss(config: ModelConfig, of: Framework) -> Callable[[Weights, FullBatch], Any]:
    """At every position, with real numbers alone: the module's complex ones are not for `torch.compile`."""
    angles = of.constant(rotary_angles(np.arange(config.length), config.width))
    clean = of.constant(np.arange(CLEAN))

    def loss(weights: Weights, batch: FullBatch) -> Any:
        query, key, value, output = (weights[name] for name in ATTENTION)
        x = weights["embedding"][batch.tokens]
        normed = of.layer_norm(x, weights["blocks.0.norm1.weight"])
        queries, keys = (rotate(normed @ weight.T, angles, of) for weight in (query, key))
        attention = of.softmax(queries @ keys.mT / math.sqrt(config.width))
        x = x + attention @ (normed @ value.T) @ output.T
        right = ((batch.targets[..., None] == clean) * log_probabilities(x, weights, of)).sum(-1)
        return -(right * batch.weights).sum()

    return loss


def module_loss(config: ModelConfig) -> Callable[[Weights, FullBatch], Tensor]:
    """The same by `Transformer`, its weights given from outside."""
    model = Transformer(config)

    def loss(weights: Weights, batch: FullBatch) -> Tensor:
        logits = torch.func.functional_call(model, weights, (batch.tokens,)).logits
        each = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return (each * batch.weights.flatten()).sum()

    return loss


def log_probabilities(x: Any, weights: Weights, of: Framework) -> Any:
    """MLP and unembedding: (..., clean) from the residual stream after attention, (..., width)."""
    up, up_bias, down, down_bias = (weights[name] for name in MLP)
    hidden = of.gelu(of.layer_norm(x, weights["blocks.0.norm2.weight"]) @ up.T + up_bias)
    x = x + hidden @ down.T + down_bias
    return of.log_softmax(of.layer_norm(x, weights["norm.weight"]) @ weights["head.weight"].T + weights["head.bias"])


def rotary_angles(positions: np.ndarray, width: int) -> np.ndarray:
    """Their cosines and sines, (2, positions, width / 2)."""
    angles = positions[:, None] * rope_frequencies(width)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def rotate(x: Any, angles: Any, of: Framework) -> Any:
    """Neighbouring coordinates of x, (..., width), as a plane each, turned by `rotary_angles`."""
    (cosine, sine), even, odd = angles, x[..., 0::2], x[..., 1::2]
    pairs = of.concatenate([(even * cosine - odd * sine)[..., None], (even * sine + odd * cosine)[..., None]], -1)
    return pairs.reshape(*pairs.shape[:-2], -1)


# A training step of one member ------------------------------------------------------------------------------------


def schedule(training: TrainingConfig, count: int) -> np.ndarray:
    """(3,), at step ``count`` from 1: step size, root of the second moment's correction, how far the average moves."""
    rate, (beta1, beta2) = training.learning_rate * min(1.0, count / training.warmup), BETAS
    moved = 1 - min(training.ema, count / (9 + count))
    return np.array([rate / (1 - beta1**count), math.sqrt(1 - beta2**count), moved], dtype=np.float32)


def training_step(loss: Callable, layout: Layout, clip: float, of: Framework) -> Callable:
    """A function of weights, AdamW's two moments, the average of the weights, (parameters,) each, of `schedule` and of
    a batch; it returns the loss and the four anew."""
    (beta1, beta2), loss_and_gradients = BETAS, of.value_and_grad(loss)

    def step(weights: Any, first: Any, second: Any, average: Any, now: Any, batch: Any) -> tuple:
        by_name = {name: weights[columns].reshape(shape) for name, columns, shape in layout}
        value, gradients = loss_and_gradients(by_name, batch)
        gradient = of.concatenate([gradients[name].reshape(-1) for name, _, _ in layout])
        gradient = gradient * of.minimum(clip / (of.sqrt((gradient * gradient).sum()) + 1e-7), 1.0)
        first = first + (1 - beta1) * (gradient - first)
        second = beta2 * second + (1 - beta2) * gradient * gradient
        weights = weights - now[0] * first / (of.sqrt(second) / now[1] + ADAM_EPSILON)
        return value, weights, first, second, average + now[2] * (weights - average)

    return step
