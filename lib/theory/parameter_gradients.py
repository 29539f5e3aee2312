"""App. C.2: the forward-reverse gradient inner product in the original matrices W_E, W_Q, W_K, W_V and U.

One mask, one evidence token, two routes: attention on the evidence is alpha = sigmoid(s) with score s = q^T
P k + bias, and the logits are cut to the evidence's part, z = alpha U v (the *truncated* model of Prop.
C.1), or keep the mask's own value, z = U (alpha v + (1 - alpha) v_M).

All functions work on arrays of floats and on object arrays of any number with +, *, / and ``exp()``,
``log()`` methods, such as ball arithmetic and truncated power series. Shapes: D embedding, d query and key,
d_v value, n clean tokens; column n of W_E is the mask's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flint
import numpy as np
import sympy as sp
from jaxtyping import Shaped

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Factors:
    """The original parameters of the one-layer model."""

    embedding: Shaped[Array, "D tokens"]  # W_E
    query: Shaped[Array, "d D"]  # W_Q
    key: Shaped[Array, "d D"]  # W_K
    value: Shaped[Array, "dv D"]  # W_V
    unembedding: Shaped[Array, "vocab dv"]  # U

    def __post_init__(self) -> None:
        if self.embedding.shape[1] != len(self.unembedding) + 1:
            raise ValueError(f"embedding must have one column more than unembedding has rows, "
                             f"{len(self.unembedding) + 1}, not {self.embedding.shape[1]}")

    def mapped(self, change: Any) -> Factors:
        """The same matrices with ``change`` applied to each."""
        return Factors(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a prompt adds to the model: where the evidence stands, and the tokens involved."""

    position: Shaped[Array, "d d"]  # P: R(Delta_1), R(-Delta_2) for RoPE; the identity for ALiBi
    bias: Any  # 0 for RoPE; -mu Delta for ALiBi
    target: int  # A
    evidence: int  # B


def truncated_loss(factors: Factors, prompt: Prompt) -> Any:
    """-log p(A) with logits alpha U v."""
    attention = _attention(_score(factors, prompt))
    return _cross_entropy(_scaled(attention, factors.unembedding @ _value(factors, prompt.evidence)), prompt.target)


def whole_loss(factors: Factors, prompt: Prompt) -> Any:
    """-log p(A) with logits U (alpha v + (1 - alpha) v_M): the mask's own value is kept."""
    attention = _attention(_score(factors, prompt))
    seen, mask = _value(factors, prompt.evidence), _value(factors, -1)
    mixed = _scaled(attention, seen) + _scaled(1 - attention, mask)
    return _cross_entropy(factors.unembedding @ mixed, prompt.target)


def _value(factors: Factors, token: int) -> Array:
    return factors.value @ factors.embedding[:, token]


def _score(factors: Factors, prompt: Prompt) -> Any:
    query = factors.query @ factors.embedding[:, -1]
    return query @ (prompt.position @ (factors.key @ factors.embedding[:, prompt.evidence])) + prompt.bias


def _attention(score: Any) -> Any:
    return 1 / (1 + _exp(-score))


def _cross_entropy(logits: Array, target: int) -> Any:
    return _log(sum(map(_exp, logits))) - logits[target]


def _scaled(number: Any, vector: Array) -> Array:
    """number * vector; a power series is a sequence to numpy, so the product is taken entry by entry."""
    return np.frompyfunc(lambda entry: number * entry, 1, 1)(vector).astype(vector.dtype)


def _exp(number: Any) -> Any:
    return _function(number, "exp")


def _log(number: Any) -> Any:
    return _function(number, "log")


def _function(number: Any, name: str) -> Any:
    if isinstance(number, sp.Basic):
        return getattr(sp, name)(number)
    return getattr(number, name)() if hasattr(number, name) else getattr(np, name)(number)


@dataclasses.dataclass(frozen=True)
class Backpropagated:
    """What one prompt's loss sends back through the truncated model (App. C.2)."""

    attention: Any  # alpha
    error: Array  # epsilon = p - e_A, (n,)
    signal: Array  # delta = U^T epsilon, (d_v,)
    leverage: Any  # gamma = alpha (1 - alpha) delta . v, the derivative of the loss in the score
    query_direction: Array  # gradient of the score in q, P k, (d,)
    key_direction: Array  # gradient of the score in k, P^T q, (d,)


def signals(factors: Factors, prompt: Prompt) -> Backpropagated:
    """The quantities of Prop. C.1 for one prompt."""
    value = _value(factors, prompt.evidence)
    attention = _attention(_score(factors, prompt))
    weights = np.array([_exp(logit) for logit in attention * (factors.unembedding @ value)])
    error = weights / sum(weights)
    error[prompt.target] = error[prompt.target] - 1
    signal = factors.unembedding.T @ error
    query_direction = prompt.position @ (factors.key @ factors.embedding[:, prompt.evidence])
    key_direction = prompt.position.T @ (factors.query @ factors.embedding[:, -1])
    return Backpropagated(attention, error, signal, attention * (1 - attention) * (signal @ value), query_direction,
                   key_direction)


def gradient(factors: Factors, prompt: Prompt) -> Factors:
    """Gradient of `truncated_loss` in every matrix, in closed form: products of columns and rows."""
    back = signals(factors, prompt)
    mask, seen = factors.embedding[:, -1], factors.embedding[:, prompt.evidence]
    embedding = np.zeros_like(factors.embedding)
    embedding[:, -1] = back.leverage * (factors.query.T @ back.query_direction)
    embedding[:, prompt.evidence] = (back.leverage * (factors.key.T @ back.key_direction)
                                     + back.attention * (factors.value.T @ back.signal))
    return Factors(
        embedding,
        back.leverage * np.outer(back.query_direction, mask),
        back.leverage * np.outer(back.key_direction, seen),
        back.attention * np.outer(back.signal, seen),
        back.attention * np.outer(back.error, factors.value @ seen),
    )


def inner_products(factors: Factors, forward: Prompt, reverse: Prompt) -> dict[str, Any]:
    """Prop. C.1: <grad_X loss_f, grad_X loss_r> for each matrix X of the truncated model, in closed form.

    Keys ``unembedding``, ``value``, ``query``, ``key`` and ``embedding``, and the four parts of the last:
    ``embedding_query``, ``embedding_key``, ``embedding_value`` and the cross terms ``embedding_cross``.

    :raises ValueError: if the prompts show different evidence
    """
    if forward.evidence != reverse.evidence:
        raise ValueError(f"both prompts must show one evidence, not {forward.evidence} and {reverse.evidence}")
    f, r = signals(factors, forward), signals(factors, reverse)
    mask, seen = factors.embedding[:, -1], factors.embedding[:, forward.evidence]
    value = factors.value @ seen
    attention, leverage = f.attention * r.attention, f.leverage * r.leverage
    by_key = factors.key.T @ f.key_direction, factors.key.T @ r.key_direction
    by_value = factors.value.T @ f.signal, factors.value.T @ r.signal
    parts = {
        "unembedding": attention * (f.error @ r.error) * (value @ value),
        "value": attention * (f.signal @ r.signal) * (seen @ seen),
        "query": leverage * (f.query_direction @ r.query_direction) * (mask @ mask),
        "key": leverage * (f.key_direction @ r.key_direction) * (seen @ seen),
        "embedding_query": leverage * ((factors.query.T @ f.query_direction) @ (factors.query.T @ r.query_direction)),
        "embedding_key": leverage * (by_key[0] @ by_key[1]),
        "embedding_value": attention * (by_value[0] @ by_value[1]),
        "embedding_cross": f.leverage * r.attention * (by_key[0] @ by_value[1])
        + f.attention * r.leverage * (by_value[0] @ by_key[1]),
    }
    parts["embedding"] = sum(parts[name] for name in parts if name.startswith("embedding_"))
    return parts


# Derivatives of the loss itself ---------------------------------------------------------------------------------


def symbols(embedding: int, head: int, value: int, vocabulary: int) -> Factors:
    """Parameters that are sympy symbols, for sizes D, d, d_v and n."""
    shapes = {"E": (embedding, vocabulary + 1), "Q": (head, embedding), "K": (head, embedding),
              "V": (value, embedding), "U": (vocabulary, value)}
    return Factors(*(symbol_matrix(name, *shape) for name, shape in shapes.items()))


def symbol_matrix(name: str, rows: int, columns: int) -> Shaped[Array, "rows columns"]:
    """A matrix of real symbols name_ij."""
    return np.array([[sp.Symbol(f"{name}_{i}{j}", real=True) for j in range(columns)] for i in range(rows)])


def derived_gradient(loss: Callable[[Factors, Prompt], Any], factors: Factors, prompt: Prompt) -> Factors:
    """Gradient of ``loss`` in every entry, by sympy; ``factors`` holds symbols."""
    value = loss(factors, prompt)
    differentiate = np.frompyfunc(lambda entry: sp.diff(value, entry), 1, 1)
    return factors.mapped(differentiate)


def balls(factors: Factors) -> Factors:
    """The same parameters as exact ball-arithmetic numbers."""
    return factors.mapped(lambda matrix: np.vectorize(lambda entry: flint.arb(float(entry)), otypes=[object])(matrix))


def exact_prompt(prompt: Prompt) -> Prompt:
    """The same prompt with its map and bias as balls."""
    position = np.vectorize(lambda entry: flint.arb(float(entry)), otypes=[object])(prompt.position)
    return dataclasses.replace(prompt, position=position, bias=flint.arb(float(prompt.bias)))


def enclosed_gradient(loss: Callable[[Factors, Prompt], Any], factors: Factors, prompt: Prompt, bits: int = 200
                      ) -> Factors:
    """Gradient of ``loss`` in every entry of every matrix, as balls that contain it.

    Automatic differentiation: one entry at a time becomes the power series entry + x, the loss is evaluated in
    series cut after x, and its coefficient of x is the derivative. Nothing of App. C.2 is used.

    :param factors: object arrays of balls, see `balls`
    :param bits: working precision
    """
    before = flint.ctx.prec, flint.ctx.cap
    flint.ctx.prec, flint.ctx.cap = bits, 2
    try:
        names = [field.name for field in dataclasses.fields(factors)]
        return Factors(*(_partials(loss, factors, prompt, name) for name in names))
    finally:
        flint.ctx.prec, flint.ctx.cap = before


def _partials(loss: Callable[[Factors, Prompt], Any], factors: Factors, prompt: Prompt, name: str) -> Array:
    matrix = getattr(factors, name)
    partials = np.empty(matrix.shape, dtype=object)
    for place in np.ndindex(matrix.shape):
        moved = matrix.copy()
        moved[place] = flint.arb_series([matrix[place], 1])
        value = loss(dataclasses.replace(factors, **{name: moved}), prompt)
        partials[place] = value[1] if isinstance(value, flint.arb_series) else flint.arb(0)  # entry not used
    return partials


def frobenius(one: Array, other: Array) -> Any:
    """Inner product of two matrices."""
    return (one * other).sum()
