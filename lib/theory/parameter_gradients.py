"""App. C.2: the forward-reverse gradient inner product in the original matrices W_E, W_Q, W_K, W_V and U.

One mask, one evidence token, two routes: attention on the evidence is alpha = sigmoid(s) with score s = q^T
P k + bias, and the logits are cut to the evidence's part, z = alpha U v (the *truncated* model of Prop.
C.1), or keep the mask's own value, z = U (alpha v + (1 - alpha) v_M).

All functions work on arrays of floats and on object arrays of any number with +, *, / and ``exp()``, ``log()`` methods,
such as sympy's, ball arithmetic and truncated power series. Shapes: D embedding, d query and key, d_v value, n clean
tokens; column n of W_E is the mask's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flint
import numpy as np
import sympy as sp
from jaxtyping import Float, Shaped

from lib.encodings import rope_frequencies
from lib.theory.routing import rotation_matrix

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The original parameters of the one-layer model.

    :raises ValueError: if the embedding does not have one column a clean token and one for the mask
    """

    embedding: Shaped[Array, "D tokens"]  # W_E
    query: Shaped[Array, "d D"]  # W_Q
    key: Shaped[Array, "d D"]  # W_K
    value: Shaped[Array, "dv D"]  # W_V
    unembedding: Shaped[Array, "vocab dv"]  # U

    def __post_init__(self) -> None:
        if self.embedding.shape[1] != len(self.unembedding) + 1:
            raise ValueError(f"embedding must have one column more than unembedding has rows, "
                             f"{len(self.unembedding) + 1}, not {self.embedding.shape[1]}")

    def mapped(self, change: Any) -> Parameters:
        """``change`` applied to each matrix."""
        return Parameters(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class PromptSpec:
    """What the model's prediction depends on beside its parameters: the evidence's position, and the tokens."""

    position: Shaped[Array, "d d"]  # P: R(Delta_1), R(-Delta_2) for RoPE; the identity for ALiBi
    bias: Any  # 0 for RoPE; -mu Delta for ALiBi
    target: int  # A
    evidence: int  # B


#: the loss of a prompt under given parameters
PromptLoss = Callable[[Parameters, PromptSpec], Any]


def truncated_loss(parameters: Parameters, prompt: PromptSpec) -> Any:
    """-log p(A) with logits alpha U v."""
    attention = _attention(_score(parameters, prompt))
    logits = _scaled(attention, parameters.unembedding @ _value(parameters, prompt.evidence))
    return _cross_entropy(logits, prompt.target)


def whole_loss(parameters: Parameters, prompt: PromptSpec) -> Any:
    """-log p(A) with logits U (alpha v + (1 - alpha) v_M): the mask's own value is kept."""
    attention = _attention(_score(parameters, prompt))
    seen, mask = _value(parameters, prompt.evidence), _value(parameters, -1)
    mixed = _scaled(attention, seen) + _scaled(1 - attention, mask)
    return _cross_entropy(parameters.unembedding @ mixed, prompt.target)


def _value(parameters: Parameters, token: int) -> Array:
    return parameters.value @ parameters.embedding[:, token]


def _score(parameters: Parameters, prompt: PromptSpec) -> Any:
    query = parameters.query @ parameters.embedding[:, -1]
    return query @ (prompt.position @ (parameters.key @ parameters.embedding[:, prompt.evidence])) + prompt.bias


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
    """Derivatives of one prompt's loss at the inner points of the truncated model (App. C.2)."""

    attention: Any  # alpha
    error: Array  # epsilon = p - e_A, the gradient in the logits, (n,)
    signal: Array  # delta = U^T epsilon, the gradient in the attended value, (d_v,)
    score_gradient: Any  # gamma = alpha (1 - alpha) delta . v, the derivative in the score
    query_direction: Array  # gradient of the score in q, P k, (d,)
    key_direction: Array  # gradient of the score in k, P^T q, (d,)


def backpropagate(parameters: Parameters, prompt: PromptSpec) -> Backpropagated:
    """The quantities of Prop. C.1 for one prompt."""
    value = _value(parameters, prompt.evidence)
    attention = _attention(_score(parameters, prompt))
    weights = np.array([_exp(logit) for logit in attention * (parameters.unembedding @ value)])
    error = weights / sum(weights)
    error[prompt.target] = error[prompt.target] - 1
    signal = parameters.unembedding.T @ error
    query_direction = prompt.position @ (parameters.key @ parameters.embedding[:, prompt.evidence])
    key_direction = prompt.position.T @ (parameters.query @ parameters.embedding[:, -1])
    score_gradient = attention * (1 - attention) * (signal @ value)
    return Backpropagated(attention, error, signal, score_gradient, query_direction, key_direction)


def closed_form_gradient(parameters: Parameters, prompt: PromptSpec) -> Parameters:
    """Gradient of `truncated_loss` in every matrix, in closed form, products of columns and rows."""
    back = backpropagate(parameters, prompt)
    mask, seen = parameters.embedding[:, -1], parameters.embedding[:, prompt.evidence]
    embedding = np.zeros_like(parameters.embedding)
    embedding[:, -1] = back.score_gradient * (parameters.query.T @ back.query_direction)
    embedding[:, prompt.evidence] = (back.score_gradient * (parameters.key.T @ back.key_direction)
                                     + back.attention * (parameters.value.T @ back.signal))
    return Parameters(
        embedding,
        back.score_gradient * np.outer(back.query_direction, mask),
        back.score_gradient * np.outer(back.key_direction, seen),
        back.attention * np.outer(back.signal, seen),
        back.attention * np.outer(back.error, parameters.value @ seen),
    )


def matrix_inner_products(parameters: Parameters, forward: PromptSpec, reverse: PromptSpec) -> dict[str, Any]:
    """Prop. C.1: <grad_X loss_f, grad_X loss_r> for each matrix X of the truncated model, in closed form.

    Keys ``unembedding``, ``value``, ``query``, ``key`` and ``embedding``, and the four parts of the last:
    ``embedding_query``, ``embedding_key``, ``embedding_value`` and the cross terms ``embedding_cross``.

    :raises ValueError: if the prompts show different evidence
    """
    if forward.evidence != reverse.evidence:
        raise ValueError(f"both prompts must show one evidence, not {forward.evidence} and {reverse.evidence}")
    f, r = backpropagate(parameters, forward), backpropagate(parameters, reverse)
    mask, seen = parameters.embedding[:, -1], parameters.embedding[:, forward.evidence]
    value = parameters.value @ seen
    attention, scores = f.attention * r.attention, f.score_gradient * r.score_gradient
    by_query = parameters.query.T @ f.query_direction, parameters.query.T @ r.query_direction
    by_key = parameters.key.T @ f.key_direction, parameters.key.T @ r.key_direction
    by_value = parameters.value.T @ f.signal, parameters.value.T @ r.signal
    parts = {
        "unembedding": attention * (f.error @ r.error) * (value @ value),
        "value": attention * (f.signal @ r.signal) * (seen @ seen),
        "query": scores * (f.query_direction @ r.query_direction) * (mask @ mask),
        "key": scores * (f.key_direction @ r.key_direction) * (seen @ seen),
        "embedding_query": scores * (by_query[0] @ by_query[1]),
        "embedding_key": scores * (by_key[0] @ by_key[1]),
        "embedding_value": attention * (by_value[0] @ by_value[1]),
        "embedding_cross": f.score_gradient * r.attention * (by_key[0] @ by_value[1])
        + f.attention * r.score_gradient * (by_value[0] @ by_key[1]),
    }
    parts["embedding"] = sum(parts[name] for name in parts if name.startswith("embedding_"))
    return parts


def whole_inner_product(parts: Mapping[str, Any]) -> Any:
    """The inner product over all five matrices, from `matrix_inner_products`."""
    return sum(parts[field.name] for field in dataclasses.fields(Parameters))


def storage_inner_product(parts: Mapping[str, Any]) -> Any:
    """Its terms that do not pass through the score: U, W_V and the value path of W_E."""
    return parts["unembedding"] + parts["value"] + parts["embedding_value"]


# Random models --------------------------------------------------------------------------------------------------


def random_parameters(rng: np.random.Generator, vocabulary: int, embedding: int, head: int, value: int) -> Parameters:
    """Normal entries, of variance 1 over the number of columns, for sizes n, D, d and d_v."""
    shapes = ((embedding, vocabulary + 1), (head, embedding), (head, embedding), (value, embedding),
              (vocabulary, value))
    return Parameters(*(rng.normal(size=shape) / np.sqrt(shape[1]) for shape in shapes))


def rope_prompts(head_dim: int, forward: float, reverse: float) -> tuple[PromptSpec, PromptSpec]:
    """Forward and reverse prompt at distances Delta_1 and Delta_2 (positions), target 0, evidence 1."""
    frequencies = rope_frequencies(head_dim)
    first, second = (PromptSpec(rotation_matrix(offset * frequencies), 0.0, 0, 1) for offset in (forward, -reverse))
    return first, second


def alibi_prompts(head_dim: int, forward: float, reverse: float, slope: float = 0.1) -> tuple[PromptSpec, PromptSpec]:
    """Forward and reverse prompt at distances Delta_1 and Delta_2 (positions), target 0, evidence 1."""
    first, second = (PromptSpec(np.eye(head_dim), -slope * distance, 0, 1) for distance in (forward, reverse))
    return first, second


#: prompts at two distances, for a head dimension
PromptsAt = Callable[[int, float, float], tuple[PromptSpec, PromptSpec]]


def sampled_inner_products(
    prompts: PromptsAt, scale: float, models: int, seed: int
) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, " models"]]:
    """`whole_inner_product` and `storage_inner_product` of random models, at random distances from 1 to 19.

    :param scale: factor on all weights of `random_parameters`, n = 10, D = d_v = 16, d = 8
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(models):
        model = random_parameters(rng, 10, 16, 8, 16).mapped(lambda matrix: scale * matrix)
        parts = matrix_inner_products(model, *prompts(8, *rng.integers(1, 20, size=2).astype(float)))
        found.append((whole_inner_product(parts), storage_inner_product(parts)))
    whole, storage = np.array(found).T
    return whole, storage


# Derivatives of the loss itself ---------------------------------------------------------------------------------


def symbolic_parameters(embedding: int, head: int, value: int, vocabulary: int) -> Parameters:
    """Parameters that are sympy symbols, for sizes D, d, d_v and n."""
    shapes = {"E": (embedding, vocabulary + 1), "Q": (head, embedding), "K": (head, embedding),
              "V": (value, embedding), "U": (vocabulary, value)}
    return Parameters(*(sp.symarray(name, shape, real=True) for name, shape in shapes.items()))


def derived_gradient(loss: PromptLoss, parameters: Parameters, prompt: PromptSpec) -> Parameters:
    """Gradient of ``loss`` in every entry, by sympy; ``parameters`` holds symbols."""
    value = loss(parameters, prompt)
    differentiate = np.frompyfunc(lambda entry: sp.diff(value, entry), 1, 1)
    return parameters.mapped(differentiate)


def parameters_as_balls(parameters: Parameters) -> Parameters:
    """Float parameters as ball-arithmetic numbers of radius 0."""
    return parameters.mapped(_balls)


def prompt_as_balls(prompt: PromptSpec) -> PromptSpec:
    """A prompt's position map and bias as ball-arithmetic numbers of radius 0."""
    return dataclasses.replace(prompt, position=_balls(prompt.position), bias=flint.arb(float(prompt.bias)))


def _balls(matrix: Array) -> Array:
    return np.vectorize(lambda entry: flint.arb(float(entry)), otypes=[object])(matrix)


def enclosed_gradient(loss: PromptLoss, parameters: Parameters, prompt: PromptSpec, bits: int = 200) -> Parameters:
    """Gradient of ``loss`` in every entry of every matrix, as balls that contain it.

    Automatic differentiation: one entry at a time becomes the power series entry + x, the loss is evaluated in
    series cut after x, and its coefficient of x is the derivative. Nothing of App. C.2 is used.

    :param parameters: object arrays of balls, see `parameters_as_balls`
    :param bits: working precision
    """
    series_length, flint.ctx.cap = flint.ctx.cap, 2
    try:
        with flint.ctx.workprec(bits):
            names = [field.name for field in dataclasses.fields(parameters)]
            return Parameters(*(_partials(loss, parameters, prompt, name) for name in names))
    finally:
        flint.ctx.cap = series_length


def _partials(loss: PromptLoss, parameters: Parameters, prompt: PromptSpec, name: str) -> Array:
    matrix = getattr(parameters, name)
    partials = np.empty(matrix.shape, dtype=object)
    for place in np.ndindex(matrix.shape):
        moved = matrix.copy()
        moved[place] = flint.arb_series([matrix[place], 1])
        value = loss(dataclasses.replace(parameters, **{name: moved}), prompt)
        partials[place] = value[1] if isinstance(value, flint.arb_series) else flint.arb(0)  # entry not used
    return partials


def certified_gap(prompts: PromptsAt, seed: int, dropped: str = "", bits: int = 200) -> float:
    """Largest relative distance of Prop. C.1's closed forms from enclosed inner products, over the five matrices.

    One random model, n = 7, D = 6, d = 4, d_v = 5, at distances 3 and 5; both sides in ball arithmetic.

    :param dropped: a part of the embedding's inner product to leave out
    """
    exact = parameters_as_balls(random_parameters(np.random.default_rng(seed), 7, 6, 4, 5))
    pair = [prompt_as_balls(prompt) for prompt in prompts(4, 3.0, 5.0)]
    forward, reverse = (enclosed_gradient(truncated_loss, exact, prompt, bits) for prompt in pair)
    with flint.ctx.workprec(bits):
        stated = matrix_inner_products(exact, *pair)
        if dropped:
            stated["embedding"] -= stated[dropped]
        found = {name: (getattr(forward, name) * getattr(reverse, name)).sum() for name in vars(exact)}
        return max(float(abs(stated[name] - found[name]).upper() / abs(found[name]).lower()) for name in found)


def takes_both_signs(part: Callable[[Mapping[str, Any]], Any], seed: int) -> bool:
    """Whether a part of `matrix_inner_products` is enclosed above 0 in one random model and below 0 in another.

    60 models: n = 3, D = d = d_v = 2, embeddings, keys and unembeddings three times as large, RoPE distances 3 and 5.
    """
    rng, signs = np.random.default_rng(seed), set()
    for _ in range(60):
        small = random_parameters(rng, 3, 2, 2, 2)
        small = dataclasses.replace(small, embedding=3 * small.embedding, key=3 * small.key,
                                    unembedding=3 * small.unembedding)
        pair = [prompt_as_balls(prompt) for prompt in rope_prompts(2, 3.0, 5.0)]
        value = part(matrix_inner_products(parameters_as_balls(small), *pair))
        signs |= {1} if value > 0 else {-1} if value < 0 else set()
    return signs == {1, -1}
