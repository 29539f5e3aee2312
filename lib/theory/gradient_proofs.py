"""What Apps. C.1 and C.2 state about the full gradient, decided by computer algebra.

Each function takes the statement's own numbers, or what breaks it, and returns whether the statement holds. The
derivatives are those of `storage`, `gradients` and `parameter_gradients`. In *effective coordinates* the parameters
are W, W_Q W_E and W_K W_E; the *original matrices* are W_E, W_Q, W_K, W_V and U. Unless a docstring says more, sizes
are n = 3 for errors and two RoPE planes (d = 4) for scores, and every entry is a symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from lib.theory import gradients, storage, symbolic
from lib.theory.parameter_gradients import (
    Parameters,
    PromptSpec,
    backpropagate,
    closed_form_gradient,
    derived_gradient,
    matrix_inner_products,
    symbolic_parameters,
    truncated_loss,
)
from lib.theory.routing import block_rotation

#: angles of the two planes in the forward prompt, Delta_1 theta_i, and in the reverse prompt, Delta_2 theta_i
FORWARD_ANGLES = sp.symbols("phi_0:2", real=True)
REVERSE_ANGLES = sp.symbols("psi_0:2", real=True)
#: R(Delta_1 + Delta_2), R(Delta_1 - Delta_2), and the two rotations between query and key, R(Delta_1), R(-Delta_2)
TOTAL_ROTATION = block_rotation([phi + psi for phi, psi in zip(FORWARD_ANGLES, REVERSE_ANGLES, strict=True)])
DIFFERENCE_ROTATION = block_rotation([phi - psi for phi, psi in zip(FORWARD_ANGLES, REVERSE_ANGLES, strict=True)])
ROPE_MAPS = block_rotation(FORWARD_ANGLES), block_rotation([-psi for psi in REVERSE_ANGLES])

# Errors and storage (effective coordinates) -------------------------------------------------------------------


def storage_gradients_align(reverse_target: int) -> bool:
    """Whether `storage.gradients_align` for two prompts of length 4; the forward prompt has target 1."""
    return storage.gradients_align(storage.storage_model((3, 0, 2, 2), 3, 1, "a"),
                                   storage.storage_model((2, 3, 0, 0), 3, reverse_target, "b"))


def error_cosine_at_least_half(wrong: int, *, same_target: bool = True) -> bool:
    """Whether 4 <eps_f, eps_r>^2 >= |eps_f|^2 |eps_r|^2 and <eps_f, eps_r> >= 0, for so many wrong tokens.

    Written in the masses on the wrong tokens, which are not negative, neither may have a negative coefficient.
    """
    u, w = sp.symbols(f"u0:{wrong}"), sp.symbols(f"w0:{wrong}")
    forward = sp.Matrix([-sum(u), *u])
    reverse = sp.Matrix([-sum(w), *w] if same_target else [*w, -sum(w)])
    inner = forward.dot(reverse)
    gap = 4 * inner**2 - forward.dot(forward) * reverse.dot(reverse)
    return all(coefficient >= 0 for part in (gap, inner) for coefficient in sp.Poly(part, *u, *w).coeffs())


def error_norm_leaves_different_tokens(*, factor: int = 2) -> bool:
    """Whether factor U^2 - |eps|^2 is the sum of u_v u_v' over v != v', for any number of wrong tokens.

    u_v is the probability of the wrong token v and U their sum, so that |eps|^2 = U^2 + sum_v u_v^2.
    """
    u, same = sp.IndexedBase("u"), sp.KroneckerDelta
    return symbolic.same_double_sum(lambda v, w: (factor - 1 - same(v, w)) * u[v] * u[w],
                                    lambda v, w: (1 - same(v, w)) * u[v] * u[w])


def spread_errors_have_cosine(tokens: int, cosine: sp.Expr) -> bool:
    """Whether errors have this cosine if each prompt spreads its wrong mass evenly over ``tokens`` own tokens."""
    share = [sp.Rational(1, tokens)] * tokens
    forward, reverse = sp.Matrix([-1, *share, *[0] * tokens]), sp.Matrix([-1, *[0] * tokens, *share])
    return bool(forward.dot(reverse) / sp.sqrt(forward.dot(forward) * reverse.dot(reverse)) == cosine)


def error_cosine_exceeds_half(wrong: int, *, all_positive: bool = True) -> bool:
    """Whether 4 <eps_f, eps_r>^2 > |eps_f|^2 |eps_r|^2 for all predictions with so many wrong tokens.

    :param all_positive: every token has a positive probability, as in a softmax; else each prompt's wrong mass is on
        one token, not the same one
    """
    u, w = (sp.symbols(f"{name}0:{wrong}", positive=True) for name in "uw")
    if not all_positive:
        u, w = [u[0], *[0] * (wrong - 1)], [0, w[1], *[0] * (wrong - 2)]
    forward, reverse = sp.Matrix([-sum(u), *u]), sp.Matrix([-sum(w), *w])
    gap = sp.expand(4 * forward.dot(reverse) ** 2 - forward.dot(forward) * reverse.dot(reverse))
    return bool(gap.is_positive)


def errors_align(reverse_target: int) -> bool:
    """Whether <eps_f, eps_r> > 0 for any weights, for prompts of length 2 and 3; the forward target is 1."""
    pair = storage.storage_model((2, 3), 3, 1, "a"), storage.storage_model((3, 2, 0), 3, reverse_target, "b")
    return bool(storage.error_product(*pair).is_positive)


# Scores (effective coordinates) -------------------------------------------------------------------------------


def score_cosines_are(pair: gradients.ScorePair, turn: sp.Matrix) -> bool:
    """Whether gradients of the two scores have inner products k^T turn k (W_Q) and q^T turn q (W_K), norms |k|, |q|."""
    product, sides = gradients.score_gradient_product, ((pair.query_weights, pair.key), (pair.key_weights, pair.query))
    inner = all(symbolic.vanishes(product(weights, pair.forward, pair.reverse) - (x.T * turn * x)[0])
                for weights, x in sides)
    norms = all(symbolic.vanishes(product(weights, score, score) - x.dot(x))
                for weights, x in sides for score in (pair.forward, pair.reverse))
    return inner and norms


def cosine_is_a_weighted_mean(*, equal_weights: bool = False) -> bool:
    """Whether k^T R k / |k|^2 = sum_i w_i cos(angle_i) for every k, with w_i = |k_i|^2 / |k|^2."""
    key = sp.Matrix(sp.symbols("k_0:4", real=True))
    cosine = (key.T * block_rotation(FORWARD_ANGLES) * key)[0] / key.dot(key)
    weights = [key[i : i + 2, :].dot(key[i : i + 2, :]) / key.dot(key) for i in (0, 2)]
    if equal_weights:
        weights = [sp.Rational(1, 2)] * 2
    return symbolic.vanishes(cosine - sum(w * sp.cos(a) for w, a in zip(weights, FORWARD_ANGLES, strict=True)))


# The contrast -------------------------------------------------------------------------------------------------

_A, _MASK, _REST = sp.symbols("a_B a_M a_0", positive=True)  # attention mass on evidence, mask and placeholder
FORWARD_OVERLAP = _SQUARE = _MASK**2 + _REST**2  # r^2, rho of a prompt with itself
_A_R, _MASK_R, _REST_R = sp.symbols("b_B b_M b_0", positive=True)  # the same in a reverse prompt
_ON_OTHERS, _ON_REST = sp.symbols("X Y", positive=True)  # an error on the other facts' targets, on the other tokens


def contrast_slope_is(formula: Callable[..., Any] = gradients.contrast_slope_formula) -> bool:
    """Whether the slope built from the definitions is the closed form, for all N <= n from 2 to 5, masses symbolic."""
    slope = lambda facts, n: gradients.contrast_slope(facts, n, _A, (_MASK, _REST))
    return all(symbolic.vanishes(slope(facts, n) - formula(facts, n, _A, _SQUARE))
               for n in (2, 3, 4, 5) for facts in range(1, n + 1))


def uniform_contrast_slope(facts: int) -> bool:
    """Whether the slope under uniform attention is (1 - 1/n) (L - 2) (L - 3) / L^2, for any n and L."""
    length, n = sp.Symbol("L", integer=True, positive=True), sp.Symbol("n")
    slope = gradients.contrast_slope_formula(facts, n, 1 / length, (1 + (length - 2) ** 2) / length**2)
    return symbolic.vanishes(slope - (1 - 1 / n) * (length - 2) * (length - 3) / length**2)


def flow_keeps_its_law(other: int) -> bool:
    """Whether contrast and log(y / x) follow from the errors X and Y so far, for all 2 <= N < n from 3 to 5.

    :param other: the fact whose target gives x; 1 for another fact's, 0 breaks it
    """

    def holds(facts: int, n: int) -> bool:
        model = facts, n, _A, (_MASK, _REST), _ON_OTHERS, _ON_REST
        _, seen, stored = gradients.error_masses_storage(*model)
        logits = stored * seen
        drift = (_A**2 * _ON_OTHERS - (_A**2 + n * _SQUARE) * _ON_REST) / facts
        contrast = gradients.contrast_slope_formula(facts, n, _A, _SQUARE, _ON_OTHERS, _ON_REST)
        return (symbolic.vanishes(gradients.contrast_slope(*model) - contrast)
                and symbolic.vanishes(logits[n - 1] - logits[other] - drift))

    return all(holds(facts, n) for n in (3, 4, 5) for facts in range(2, n))


def reverse_contrast_is(overlap: sp.Expr = _MASK * _MASK_R + _REST * _REST_R) -> bool:
    """Whether a reverse prompt's contrast is minus `gradients.reverse_contrast_parts` times x_r and y_r, over N.

    For all 2 <= N <= n from 2 to 5, with all masses of the forward and the reverse prompt free.

    :param overlap: rho
    """
    so_far, error = (_ON_OTHERS, _ON_REST), sp.symbols("x_r y_r", positive=True)

    def holds(facts: int, n: int) -> bool:
        found = gradients.reverse_contrast(facts, n, (_A, _MASK, _REST), (_A_R, _MASK_R, _REST_R), so_far, error)
        parts = gradients.reverse_contrast_parts(facts, n, _A, _A_R, overlap, so_far)
        return symbolic.vanishes(facts * found + parts[0] * error[0] + parts[1] * error[1])

    return all(holds(facts, n) for n in (2, 3, 4, 5) for facts in range(2, n + 1))


def late_contrast_is_negative(least: int) -> bool:
    """Whether Q of `gradients.reverse_contrast_parts` ends above 0 for every N >= ``least``, n and masses.

    At Y = gamma X and the largest overlap, rho = (1 - a_r(B)) r, it is a positive multiple of
    a_B^2 - a_B r + (N - 1) r^2, which has no zero.
    """
    facts, n, r = sp.symbols("N n r", positive=True)
    gamma = _A**2 / (_A**2 + n * r**2)
    late = gradients.reverse_contrast_parts(facts, n, _A, _A_R, (1 - _A_R) * r, (1, gamma))[1]
    square = _A**2 - _A * r + (facts - 1) * r**2
    multiple = (n - facts) * (1 - _A_R) * _A * n / (_A**2 + n * r**2)
    under_the_root = sp.discriminant(square, _A).subs(facts, least + sp.Symbol("j", nonnegative=True))
    return symbolic.vanishes(late - multiple * square) and bool(sp.expand(under_the_root).is_negative)


# The original matrices ----------------------------------------------------------------------------------------


def gradients_are_outer_products(stated_target: int) -> bool:
    """Whether the five gradients of the truncated loss with target 0 are the closed forms of Prop. C.1.

    D = d = d_v = n = 2, all parameters, the map P and the bias symbolic.
    """
    model = symbolic_parameters(2, 2, 2, 2)
    position, bias = sp.symarray("P", (2, 2), real=True), sp.Symbol("b", real=True)
    derived = derived_gradient(truncated_loss, model, PromptSpec(position, bias, 0, 1))
    stated = closed_form_gradient(model, PromptSpec(position, bias, stated_target, 1))
    return all(symbolic.vanishes(one - other) for name in vars(model)
               for one, other in zip(getattr(derived, name).flat, getattr(stated, name).flat, strict=True))


_LOW, _HIGH = sp.symbols("lambda Lambda", positive=True)  # smallest and largest eigenvalue of U U^T on sum-zero vectors
#: U U^T with Lambda along the difference of two wrong tokens and lambda elsewhere: the worst case
STRETCHED = _LOW * sp.eye(3) + (_HIGH - _LOW) / 2 * sp.Matrix([[0, 0, 0], [0, 1, -1], [0, -1, 1]])
ISOTROPIC = _LOW * sp.eye(3)
#: spectra in units of lambda: any Lambda below 3 lambda, and one beyond
BELOW_THREE, FOUR = 3 / (1 + sp.Symbol("m", positive=True)), sp.Integer(4)


def signals_are_scaled_errors(gram: sp.Matrix) -> bool:
    """Whether <delta_f, delta_r> = lambda <eps_f, eps_r> for any errors, with this U U^T."""
    forward, reverse = (sp.Matrix(sp.symbols(f"{name}0:3")) for name in "ef")
    return symbolic.vanishes((forward.T * gram * reverse)[0] - _LOW * forward.dot(reverse))


def worst_case_is(constant: int) -> bool:
    """Whether errors with disjoint wrong mass give (constant lambda - Lambda) / 2 under `STRETCHED`."""
    forward, reverse = sp.Matrix([-1, 1, 0]), sp.Matrix([-1, 0, 1])
    return symbolic.vanishes((forward.T * STRETCHED * reverse)[0] - (constant * _LOW - _HIGH) / 2)


def worst_case_is_positive(spread: sp.Expr) -> bool:
    """Whether [(1 + c) - spread (1 - c)] / 2 > 0 for every cosine c of the errors in (1/2, 1), any n."""
    excess = sp.Symbol("x", positive=True)
    cosine = sp.Rational(1, 2) + excess / (2 * (1 + excess))
    return symbolic.sign(_LOW * (1 + cosine) - spread * _LOW * (1 - cosine)) == 1


def errors_and_signals_align(spread: sp.Expr, reverse_target: int = 1) -> bool:
    """Mechanism 3 of the first version: `errors_align`, and so do signals of an output map with this spread."""
    return errors_align(reverse_target) and worst_case_is_positive(spread)


def score_directions_are(maps: Sequence[sp.Matrix], turn: sp.Matrix) -> bool:
    """Whether <grad_q s_f, grad_q s_r> = k^T turn k and <grad_k s_f, grad_k s_r> = q^T turn q, with q, k from W_E."""
    model = symbolic_parameters(2, 4, 1, 2)  # D = 2, d = 4
    query, key = sp.Matrix(model.query @ model.embedding[:, -1]), sp.Matrix(model.key @ model.embedding[:, 1])
    f, r = (backpropagate(model, PromptSpec(np.array(one), sp.Symbol("b"), 0, 1)) for one in maps)
    pairs = (f.query_direction @ r.query_direction, key), (f.key_direction @ r.key_direction, query)
    return all(symbolic.vanishes(found - (x.T * turn * x)[0]) for found, x in pairs)


def cross_terms_are_affine(evidence_embedding: tuple[int, int]) -> bool:
    """Whether C is of degree one in the entry (0, 1) of W_K, and attention and gamma do not depend on it.

    :param evidence_embedding: x_B; the entry moves the key unless the second coordinate is 0
    """
    model, (first, second) = symbolic_parameters(2, 2, 2, 2), evidence_embedding
    embedding = np.array([[0, first, 1], [0, second, 1]]) * sp.Integer(1)
    model = Parameters(embedding, model.query, model.key, model.value, model.unembedding)
    prompts = [PromptSpec(sp.symarray(name, (2, 2), real=True), sp.Integer(0), 0, 1) for name in ("P", "N")]
    entry, inner = model.key[0, 1], [backpropagate(model, prompt) for prompt in prompts]
    unmoved = all(sp.diff(point, entry) == 0 for back in inner for point in (back.attention, back.score_gradient))
    slope = sp.diff(matrix_inner_products(model, *prompts)["embedding_cross"], entry)
    return unmoved and slope != 0 and sp.diff(slope, entry) == 0


def factored_step_lowers_the_entry(mask_value: int) -> bool:
    """Whether a step of size 1/10 on U, W_V and W_E lowers W_{A,B} where a step on W raises it (App. A.1).

    Two tokens, scalar embeddings and values, evidence and mask seen with weight 1/2 each, U zero at the start.
    """
    eta, half = sp.Rational(1, 10), sp.Rational(1, 2)
    u, v, e = sp.zeros(2, 1), sp.Matrix([[1]]), sp.Matrix([[1, mask_value]])  # columns of W_E: B, M
    gradient = sp.Matrix([-half, half]) * sp.Matrix([[half, half]])  # error at the uniform prediction times mass
    stepped = (u - eta * gradient * e.T * v.T) * (v - eta * u.T * gradient * e.T) * (e - eta * v.T * u.T * gradient)
    return bool(stepped[0, 0] < 0 < -eta * gradient[0, 0])
