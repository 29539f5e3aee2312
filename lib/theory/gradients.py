"""App. C.1: what the full gradient adds to the shared column, in the effective coordinates W, W_Q W_E and W_K W_E.

Three parts: the derivative of the loss in an attention score, with every size symbolic; the gradients of one score in
the query and key weights; and the contrast h_B - h_bar, negative where a forward step raises the attention score of the
evidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from lib.theory import symbolic
from lib.theory.storage import descend, prediction_errors

# Sensitivity to a score -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScoreDerivative:
    """The loss differentiated in the score s_j, for any n, L, sequence and target: indexed sums throughout."""

    derivative: sp.Expr
    weight: sp.Expr  # alpha_j, the attention weight of position j
    error_here: sp.Expr  # h_{x_j} = sum_y (p(y) - 1[y = A]) W_{y, x_j}
    error_mean: sp.Expr  # h_bar = sum_l alpha_l h_{x_l} = sum_y (p(y) - 1[y = A]) z(y)


def general_sensitivity() -> ScoreDerivative:
    """Differentiate -log softmax(W sum_l alpha_l e_{x_l})_A, alpha = softmax(s), in s_j by sympy.

    The differentiated sums carry Kronecker deltas, which collapse at l = j (1 <= j <= L is understood).
    """
    n, length = sp.symbols("n L", integer=True, positive=True)
    target, y, place, other, j = sp.symbols("A y l r j", integer=True)
    weights, scores, x = sp.IndexedBase("W"), sp.IndexedBase("s"), sp.IndexedBase("x")
    partition = sp.Sum(sp.exp(scores[other]), (other, 1, length))

    def logit(token: sp.Symbol) -> sp.Expr:
        return sp.Sum(sp.exp(scores[place]) * weights[token, x[place]], (place, 1, length)) / partition

    def mean_error(value: sp.Expr) -> sp.Expr:
        average = sp.Sum(sp.exp(logit(y)) * value, (y, 1, n)) / total
        return average - value.subs(y, target)

    total = sp.Sum(sp.exp(logit(y)), (y, 1, n))
    derivative = sp.diff(sp.log(total) - logit(target), scores[j])
    for index in (place, other):
        derivative = symbolic.collapse_deltas(derivative, index)
    weight = sp.exp(scores[j]) / partition
    return ScoreDerivative(derivative, weight, mean_error(weights[y, x[j]]), mean_error(logit(y)))


# Gradients of one score -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScorePair:
    """The forward and the reverse score on B as functions of the effective weights; columns are tokens (M, B)."""

    query_weights: sp.Matrix  # W_Q W_E, (d, 2)
    key_weights: sp.Matrix  # W_K W_E, (d, 2)
    forward: sp.Expr
    reverse: sp.Expr

    @property
    def query(self) -> sp.Matrix:
        """q, the query of the mask, shape (d, 1)."""
        return self.query_weights[:, 0]

    @property
    def key(self) -> sp.Matrix:
        """k, the key of the evidence, shape (d, 1)."""
        return self.key_weights[:, 1]


def score_gradient_product(weights: sp.Matrix, one: sp.Expr, other: sp.Expr) -> sp.Expr:
    """Frobenius inner product of the gradients of two scores in ``weights``, each entry differentiated."""
    return sp.Add(*(sp.diff(one, entry) * sp.diff(other, entry) for entry in weights))


def score_pair(forward_map: sp.Matrix, reverse_map: sp.Matrix, forward_bias: Any = 0, reverse_bias: Any = 0
               ) -> ScorePair:
    """Scores q^T P k + bias with symbolic weights: P = R(Delta_1), R(-Delta_2) for RoPE, the identity for ALiBi.

    :raises ValueError: if the maps are not square of one size
    """
    dim = forward_map.rows
    if not dim == forward_map.cols == reverse_map.rows == reverse_map.cols:
        raise ValueError(f"both maps must be {dim} x {dim}, not {forward_map.shape} and {reverse_map.shape}")
    queries = sp.Matrix(dim, 2, lambda i, t: sp.Symbol(f"Q_{i}{'MB'[t]}", real=True))
    keys = sp.Matrix(dim, 2, lambda i, t: sp.Symbol(f"K_{i}{'MB'[t]}", real=True))
    score = lambda turn, bias: (queries[:, 0].T * turn * keys[:, 1])[0] + bias
    return ScorePair(queries, keys, score(forward_map, forward_bias), score(reverse_map, reverse_bias))


# The contrast -----------------------------------------------------------------------------------------------


def score_contrast(
    storage: Float[np.ndarray, "vocab tokens"], mass: Float[np.ndarray, " tokens"], target: int, evidence: int
) -> float:
    """h_B - h_bar of one prompt: negative if more attention on B would lower its loss.

    :param mass: total attention mass on each token, summing to 1
    """
    error = prediction_errors(storage, mass[None], np.array([target]))[0]
    pull = error @ storage  # h_v, the gradient of the loss in the mass on v
    return float(pull[evidence] - pull @ mass)


def fact_masses(facts: int, vocabulary: int, length: int) -> Float[np.ndarray, "facts tokens"]:
    """Attention mass of each fact's prompt under uniform attention: one mask, one evidence, placeholders.

    Fact i has target i and evidence ``vocabulary + i``; then come the placeholder and the mask.

    :raises ValueError: for more facts than target tokens, or a length below 2
    """
    if not 1 <= facts <= vocabulary:
        raise ValueError(f"facts must lie between 1 and the vocabulary, {vocabulary}, not {facts}")
    if length < 2:
        raise ValueError(f"length must be at least 2, a mask and the evidence, not {length}")
    masses = np.zeros((facts, vocabulary + facts + 2))
    masses[np.arange(facts), vocabulary + np.arange(facts)] = 1 / length
    masses[:, -2:] = (length - 2) / length, 1 / length
    return masses


def trained_on_facts(
    length: int, facts: int, vocabulary: int, step_size: float, steps: int
) -> tuple[Float[np.ndarray, "steps vocab tokens"], Float[np.ndarray, "facts tokens"]]:
    """W after each step on the mean loss of `fact_masses`' prompts, from W = 0, and those masses."""
    masses = fact_masses(facts, vocabulary, length)
    path = descend(np.zeros((vocabulary, masses.shape[1])), masses, np.arange(facts), step_size / facts, steps)
    return path[1:], masses


def contrast_path(
    length: int, facts: int, vocabulary: int, step_size: float, steps: int
) -> Float[np.ndarray, " steps"]:
    """h_B - h_bar of the first fact after each step on the mean loss, from W = 0, attention uniform."""
    path, masses = trained_on_facts(length, facts, vocabulary, step_size, steps)
    return np.array([score_contrast(storage, masses[0], 0, vocabulary) for storage in path])


def last_reverse_contrasts(
    prompts: int, length: int, facts: int, vocabulary: int, step_size: float, steps: int, seed: int
) -> Float[np.ndarray, " prompts"]:
    """h_B - h_bar of the first fact in reverse prompts that are not trained, after the last step of `contrast_path`.

    Their masses on evidence, placeholder and mask are random, uniform on the simplex.
    """
    path, masses = trained_on_facts(length, facts, vocabulary, step_size, steps)
    asked = np.zeros((prompts, masses.shape[1]))
    asked[:, [vocabulary, -2, -1]] = np.random.default_rng(seed).dirichlet(np.ones(3), prompts)
    return np.array([score_contrast(path[-1], mass, 0, vocabulary) for mass in asked])


def error_cosines(
    forward: Float[np.ndarray, "pairs vocab"], reverse: Float[np.ndarray, "pairs vocab"], reverse_target: int = 0
) -> Float[np.ndarray, " pairs"]:
    """cos(eps_f, eps_r) of pairs of predictions; the forward target is token 0."""
    first, second = (p - np.eye(p.shape[1])[target] for p, target in ((forward, 0), (reverse, reverse_target)))
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def error_masses_storage(
    facts: int, vocabulary: int, evidence_mass: Any, shared_masses: Sequence[Any], other: Any = None, rest: Any = None
) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """Error (n, 1) and masses of the first of ``facts`` facts, and the storage (n, tokens) that all of them wrote.

    All facts have targets and evidence of their own, mass ``evidence_mass`` on the evidence and ``shared_masses`` on
    tokens that every prompt shows. Each wrote minus its error times its masses, over the number of facts.

    :param other: what the error puts on the target of each other fact; the target has minus the rest of the sum
    :param rest: what it puts on each token that is no fact's target; both 1/n, as at W = 0, where not given
    """
    other, rest = (sp.Rational(1, vocabulary) if given is None else given for given in (other, rest))
    wrong = (facts - 1) * other + (vocabulary - facts) * rest
    masses = [sp.Matrix([evidence_mass if i == fact else 0 for i in range(facts)] + list(shared_masses))
              for fact in range(facts)]
    errors = [sp.Matrix([-wrong if v == fact else other if v < facts else rest for v in range(vocabulary)])
              for fact in range(facts)]
    storage = sp.zeros(vocabulary, facts + len(shared_masses))
    for error, mass in zip(errors, masses, strict=True):
        storage -= error * mass.T / facts
    return errors[0], masses[0], storage


def contrast_slope(
    facts: int, vocabulary: int, evidence_mass: Any, shared_masses: Sequence[Any], other: Any = None, rest: Any = None
) -> Any:
    """h_B - h_bar of each fact for the error and storage of `error_masses_storage`, from the definitions.

    Without ``other`` and ``rest`` it is d/d eta at 0 of the contrast after one step of size eta from W = 0: there the
    change of the error does not enter at first order.
    """
    error, mass, storage = error_masses_storage(facts, vocabulary, evidence_mass, shared_masses, other, rest)
    pull = error.T * storage
    return sp.expand(pull[0] - (pull * mass)[0])


def contrast_slope_formula(
    facts: Any, vocabulary: Any, evidence_mass: Any, shared_square: Any, other: Any = None, rest: Any = None
) -> Any:
    """`contrast_slope` in closed form; r^2 = ``shared_square`` is the sum of the squared masses of the shared tokens.

    It is -[a_B (1 - a_B) (E^2 + (N - 1) other^2 + (n - N) rest^2) - r^2 (n - N) n rest^2] / N with
    E = (N - 1) other + (n - N) rest. From W = 0 that is -[a_B (1 - a_B) (1 - 1/n) - r^2 (1 - N/n)] / N, and for one
    fact -(1 - 1/n) (a_B - |a|^2).
    """
    facts, vocabulary = sp.sympify(facts), sp.sympify(vocabulary)
    other, rest = (1 / vocabulary if given is None else given for given in (other, rest))
    free = vocabulary - facts
    square = ((facts - 1) * other + free * rest) ** 2 + (facts - 1) * other**2 + free * rest**2
    return -(evidence_mass * (1 - evidence_mass) * square - shared_square * free * vocabulary * rest**2) / facts


def reverse_contrast(
    facts: int, vocabulary: int, masses: Sequence[Any], reverse_masses: Sequence[Any], so_far: Sequence[Any],
    error: Sequence[Any],
) -> Any:
    """h_B - h_bar of the first of ``facts`` facts in a prompt that is not trained, from the definitions.

    Masses are those on the evidence and then on each shared token. Errors of the trained prompts so far and of this
    prompt now are given by what they put on each other fact's target and on each token that is no fact's target.

    :param masses: of every trained prompt; ``reverse_masses``: of this one
    :param so_far: X and Y of the storage; ``error``: x_r and y_r
    """
    storage = error_masses_storage(facts, vocabulary, masses[0], masses[1:], *so_far)[2]
    wrong, seen, _ = error_masses_storage(facts, vocabulary, reverse_masses[0], reverse_masses[1:], *error)
    pull = wrong.T * storage
    return sp.expand(pull[0] - (pull * seen)[0])


def reverse_contrast_parts(
    facts: Any, vocabulary: Any, evidence_mass: Any, reverse_evidence_mass: Any, overlap: Any, so_far: Sequence[Any]
) -> tuple[Any, Any]:
    """P and Q in N (h_B - h_bar) = -(P x_r + Q y_r), the closed form of `reverse_contrast`.

    With E = (N - 1) X + (n - N) Y, P = (N - 1) a_B (1 - a_r(B)) (E + X) and
    Q = (n - N) [a_B (1 - a_r(B)) (E + Y) - n rho Y].

    :param overlap: rho, the inner product of both prompts' masses on the shared tokens
    """
    on_others, on_rest = so_far
    every = (facts - 1) * on_others + (vocabulary - facts) * on_rest
    evidence = evidence_mass * (1 - reverse_evidence_mass)
    return ((facts - 1) * evidence * (every + on_others),
            (vocabulary - facts) * (evidence * (every + on_rest) - vocabulary * overlap * on_rest))
