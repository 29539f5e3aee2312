"""Storage (Sec. 4.1, App. A.2): Proposition 4.1 in computer algebra, and the one gradient descent on W.

``W`` is the storage, n x (n + 1) with one row a clean token and one column a token (the last is the mask's). A masked
position puts attention mass ``a`` on each token; its logits are ``W a``, its prediction ``p = softmax(W a)``, its loss
``-log p(A)`` for the target A. ``alpha`` is the attention weight of one position, ``B`` the evidence token.

`storage_model` derives a concrete sequence, `general_storage` leaves vocabulary, length and sequence symbolic. The
numeric half holds attention fixed, as Prop. 4.1 does: attention weights do not depend on W.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import sympy as sp
import torch
from jaxtyping import Float, Int
from scipy.special import log_softmax, softmax
from sympy.simplify.simplify import factor_sum
from torch import Tensor

from lib.theory import symbolic
from lib.theory.validation import Count, Number

# Proposition 4.1 for a concrete sequence ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StorageModel:
    """One masked position of the one-layer model of Sec. 3; its attention weights do not depend on W."""

    tokens: tuple[int, ...]
    target: int
    weights: sp.Matrix  # W, (n, n + 1)
    attention: tuple[sp.Symbol, ...]  # alpha_ij, one a position, positive
    logits: sp.Matrix  # z_i, (n, 1)

    @property
    def probabilities(self) -> sp.Matrix:
        """p_i = softmax(z_i), shape (n, 1)."""
        return sp.Matrix(symbolic.softmax(self.logits))

    @property
    def loss(self) -> sp.Expr:
        """Cross-entropy -log p_i(target)."""
        return symbolic.cross_entropy(self.logits, self.target)

    @property
    def errors(self) -> list[sp.Expr]:
        """p_i - e_A, factored, so that each entry shows its sign."""
        return [sp.factor(p - int(v == self.target)) for v, p in enumerate(self.probabilities)]

    def mass(self, evidence: int) -> sp.Expr:
        """Total attention mass alpha_bar_B on all occurrences of the evidence token."""
        pairs = zip(self.tokens, self.attention, strict=True)
        return sp.Add(*(alpha for token, alpha in pairs if token == evidence))

    def gradient(self, evidence: int) -> sp.Matrix:
        """Derivative of the loss in the column W_{:,B}, taken by sympy, shape (n, 1)."""
        return sp.Matrix(sp.diff(self.loss, self.weights[:, evidence]))


def storage_model(tokens: Sequence[int], vocabulary: int, target: int, weight: str = "alpha") -> StorageModel:
    """The model on a concrete sequence; token ``vocabulary`` (the last column of W) is the mask.

    :param weight: name of the attention weights; two prompts with weights of their own need two names

    :raises ValueError: for a vocabulary below 2, a token or a target outside it
    """
    if vocabulary < 2:
        raise ValueError(f"vocabulary must hold at least 2 tokens, not {vocabulary}")
    if not 0 <= target < vocabulary:
        raise ValueError(f"target must be a clean token, 0 to {vocabulary - 1}, not {target}")
    if not all(0 <= token <= vocabulary for token in tokens):
        raise ValueError(f"tokens must lie between 0 and {vocabulary} (the mask), not {list(tokens)}")
    weights = sp.Matrix(vocabulary, vocabulary + 1, lambda v, b: sp.Symbol(f"W_{v}{b}", real=True))
    attention = sp.symbols(f"{weight}_0:{len(tokens)}", positive=True)
    logits = sum((alpha * weights[:, token] for alpha, token in zip(attention, tokens, strict=True)),
                 sp.zeros(vocabulary, 1))
    return StorageModel(tuple(tokens), target, weights, attention, logits)


def error_product(forward: StorageModel, reverse: StorageModel) -> sp.Expr:
    """<eps_f, eps_r> of two prompts over one W."""
    return sp.Add(*(one * other for one, other in zip(forward.errors, reverse.errors, strict=True)))


def gradients_align(forward: StorageModel, reverse: StorageModel) -> bool:
    """Whether grad_W l = eps a^T for both prompts, with <eps_f, eps_r> > 0 and <a_f, a_r> > 0.

    The inner product of the two gradients is then the product of the two, and positive.
    """
    tokens = range(forward.weights.cols)
    outer = all(symbolic.vanishes(entry - error * model.mass(b)) for model in (forward, reverse) for b in tokens
                for entry, error in zip(model.gradient(b), model.errors, strict=True))
    masses = sp.Add(*(forward.mass(b) * reverse.mass(b) for b in tokens))
    return outer and bool(error_product(forward, reverse).is_positive and masses.is_positive)


def gradient_is_mass_times_error(
    tokens: Sequence[int], vocabulary: int, target: int, evidence: int, *, one_weight: bool = False,
    error_at: int | None = None,
) -> bool:
    """Whether dl/dW_{v,B} = mass (p(v) - 1[v = A]) for every v, whatever W and the attention (Prop. 4.1).

    :param one_weight: the control: the attention weight of position 1 in place of the total mass on the evidence
    :param error_at: the control: a token that takes the target's place in the error
    """
    model = storage_model(tokens, vocabulary, target)
    mass = model.attention[1] if one_weight else model.mass(evidence)
    asked = target if error_at is None else error_at
    claimed = [mass * (p - int(v == asked)) for v, p in enumerate(model.probabilities)]
    return all(symbolic.vanishes(g - c) for g, c in zip(model.gradient(evidence), claimed, strict=True))


def step_pushes_apart(tokens: Sequence[int], vocabulary: int, target: int, evidence: int, *, share: int = 0) -> bool:
    """Whether dl/dW_{A,B} < -share a (1 - p(A)) and dl/dW_{v,B} > share a p(v) elsewhere, whatever W and the attention.

    ``a`` is the attention weight of position 1, where the evidence stands first.
    """
    model = storage_model(tokens, vocabulary, target)
    rest = [g - share * model.attention[1] * (p - int(v == target))
            for v, (g, p) in enumerate(zip(model.gradient(evidence), model.probabilities, strict=True))]
    return [symbolic.sign(r) for r in rest] == [-1 if v == target else 1 for v in range(vocabulary)]


# Proposition 4.1 for every sequence ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GeneralStorage:
    """Proposition 4.1 for any vocabulary n, length L, sequence x and tokens A, B, v, all of them symbols."""

    n: sp.Symbol
    length: sp.Symbol
    v: sp.Symbol
    target: sp.Symbol
    evidence: sp.Symbol
    position: sp.Symbol
    alpha: sp.IndexedBase
    x: sp.IndexedBase
    derivative: sp.Expr
    probability: sp.Expr

    @property
    def mass(self) -> sp.Expr:
        """Total attention mass on the evidence token, an indexed sum over positions."""
        place = self.position
        present = sp.KroneckerDelta(self.evidence, self.x[place])
        return sp.Sum(present * self.alpha[place], (place, 1, self.length))

    def derivative_is(self, mass: sp.Expr) -> bool:
        """Whether the derivative is ``mass`` times the error p(v) - 1[v = A]."""
        error = self.probability - sp.KroneckerDelta(self.v, self.target)
        return symbolic.vanishes(self.derivative - mass * error)


def general_storage() -> GeneralStorage:
    """Differentiate the loss in W_{v,B} with n, L, x, A, B and v symbolic.

    The loss is -sum_l alpha_l W_{A,x_l} + log sum_y exp(sum_l alpha_l W_{y,x_l}). sympy differentiates the indexed
    sums, which yields Kronecker deltas; deltas that do not depend on the position leave the sum over positions, and
    the sum over the vocabulary collapses at y = v (1 <= v <= n is understood).
    """
    n, length = sp.symbols("n L", integer=True, positive=True)
    v, target, evidence, y, place = sp.symbols("v A B y l", integer=True)
    weights, alpha, x = sp.IndexedBase("W"), sp.IndexedBase("alpha"), sp.IndexedBase("x")

    def logit(token: sp.Symbol) -> sp.Expr:
        return sp.Sum(alpha[place] * weights[token, x[place]], (place, 1, length))

    partition = sp.Sum(sp.exp(logit(y)), (y, 1, n))
    derivative = sp.diff(sp.log(partition) - logit(target), weights[v, evidence])
    derivative = derivative.replace(lambda part: symbolic.is_sum_over(part, place), factor_sum)
    derivative = symbolic.collapse_deltas(derivative, y)
    probability = sp.exp(logit(v)) / partition
    return GeneralStorage(n, length, v, target, evidence, place, alpha, x, derivative, probability)


# Gradient descent on W ----------------------------------------------------------------------------------------


def prediction(
    storage: Float[np.ndarray, "vocab tokens"], mass: Float[np.ndarray, " tokens"]
) -> Float[np.ndarray, " vocab"]:
    """Prediction ``p = softmax(W a)`` of one prompt, from its attention mass on each token (Sec. 3)."""
    return softmax(storage @ mass)


def prompt_losses(
    storage: Float[np.ndarray, "vocab tokens"],
    masses: Float[np.ndarray, "prompts tokens"],
    targets: Int[np.ndarray, " prompts"],
) -> Float[np.ndarray, " prompts"]:
    """``-log p(A)`` of each prompt, in nats."""
    return -log_softmax(masses @ storage.T, axis=1)[np.arange(len(targets)), targets]


def prediction_errors(
    storage: Float[np.ndarray, "vocab tokens"],
    masses: Float[np.ndarray, "prompts tokens"],
    targets: Int[np.ndarray, " prompts"],
) -> Float[np.ndarray, "prompts vocab"]:
    """``p - e_A`` of each prompt, the gradient of its loss in its logits."""
    errors = softmax(masses @ storage.T, axis=1)
    errors[np.arange(len(targets)), targets] -= 1
    return errors


def descend(
    storage: Float[np.ndarray, "rows tokens"],
    masses: Float[np.ndarray, "*prompts tokens"],
    targets: Int[np.ndarray, "*prompts"] | int,
    eta: Number,
    steps: Count = 1,
    *,
    weights: Float[np.ndarray, " prompts"] | None = None,
    column: Count | None = None,
    unembedding: Float[np.ndarray, "vocab rows"] | None = None,
) -> Float[np.ndarray, "times rows tokens"]:
    """Gradient descent on W, attention fixed: W at the start and after each step, shape (steps + 1, ...).

    The loss is the sum over prompts of ``weights`` (1 where not given) times ``-log p(A)``; its gradient is the sum of
    error times mass, as in Prop. 4.1. For the mean loss divide ``eta`` by the number of prompts.

    :param masses: attention mass on each token, one prompt or a row a prompt; ``targets`` likewise
    :param eta: step size
    :param column: the only column of W that moves; all of them where not given
    :param unembedding: fixed U where W is the product U ``storage`` and descent is on the second factor alone
    """
    masses, targets = np.atleast_2d(masses), np.atleast_1d(targets)
    path = [storage]
    for _ in range(steps):
        logit_map = path[-1] if unembedding is None else unembedding @ path[-1]
        errors = prediction_errors(logit_map, masses, targets)  # p - e_A
        if weights is not None:
            errors = weights[:, None] * errors
        if unembedding is not None:
            errors = errors @ unembedding  # chain rule: U^T (p - e_A)
        gradient = errors.T @ masses  # sum over prompts of (p - e_A) a^T
        if column is not None:
            gradient[:, np.arange(gradient.shape[1]) != column] = 0
        path.append(path[-1] - eta * gradient)
    return np.stack(path)


# One step, by automatic differentiation -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ExampleStep:
    """One gradient step on W from a random start: what changes in which column."""

    tokens: Int[Tensor, " length"]  # one mask, one B, placeholders
    attention: Float[Tensor, " length"]
    storage: Float[Tensor, "vocab tokens"]  # W before the step
    change: Float[Tensor, "vocab tokens"]  # of W, by automatic differentiation
    step_size: float
    target: int  # A
    evidence: int  # B

    def agrees(self, column: int, limit: float) -> bool:
        """Whether the column of B changes as Prop. 4.1 says, with the attention mass on the token ``column``."""
        mass = self.attention[self.tokens == column].sum()
        error = torch.softmax(self.storage[:, self.tokens] @ self.attention, 0)
        error[self.target] -= 1
        return bool((self.change[:, self.evidence] + self.step_size * mass * error).abs().max() < limit)


def example_step(vocabulary: int, length: int, step_size: float, seed: int) -> ExampleStep:
    """A random W, random attention weights, and one step on the loss of A (token 1) where B (the last) is visible."""
    rng = torch.Generator().manual_seed(seed)
    target, evidence, mask = 1, vocabulary - 1, vocabulary
    tokens = torch.tensor([mask, 0, evidence] + [0] * (length - 3))
    start = torch.randn(vocabulary, vocabulary + 1, generator=rng, dtype=torch.float64).mul_(0.3).requires_grad_()
    attention = torch.softmax(torch.randn(length, generator=rng, dtype=torch.float64), 0)
    loss = -torch.log_softmax(start[:, tokens] @ attention, 0)[target]  # -log p(A)
    change = -step_size * torch.autograd.grad(loss, start)[0]
    return ExampleStep(tokens, attention, start.detach(), change, step_size, target, evidence)
