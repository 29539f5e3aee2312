"""What the statements of Apps. C.1 and C.2 rest on, at numbers; the chapter runs each with its control."""

import numpy as np
import pytest
import sympy as sp

from lib.theory import gradient_proofs, gradients, storage
from lib.theory.parameter_gradients import closed_form_gradient


def test_worst_spectrum_has_the_stated_eigenvalues():
    low, high = sp.symbols("lambda Lambda", positive=True)
    assert gradient_proofs.STRETCHED.eigenvals() == {low: 2, high: 1}
    along = sp.Matrix([0, 1, -1])
    assert sp.simplify(gradient_proofs.STRETCHED * along - high * along) == sp.zeros(3, 1)


def test_error_norm_at_numbers():
    wrong = np.random.default_rng(0).dirichlet(np.ones(6)) * 0.8
    squares = wrong.sum() ** 2 + (wrong**2).sum()  # |eps|^2
    products = sum(u * w for i, u in enumerate(wrong) for j, w in enumerate(wrong) if i != j)
    assert 2 * wrong.sum() ** 2 - squares == pytest.approx(products)


@pytest.mark.parametrize("wrong", [1, 5])
def test_error_cosine_floor_for_other_sizes(wrong):
    assert gradient_proofs.error_cosine_at_least_half(wrong)


def test_spread_is_positive_just_below_three_only():
    assert gradient_proofs.worst_case_is_positive(sp.Rational(299, 100))
    assert not gradient_proofs.worst_case_is_positive(sp.Rational(301, 100))


def test_factored_step_in_numbers():
    for mask_value in (-3, 1):
        u, (e_b, e_m) = np.zeros(2), (1.0, mask_value)
        mixture = (e_b + e_m) / 2  # W_V = 1, attention 1/2 each
        stepped = (u - 0.1 * np.array([-0.5, 0.5]) * mixture) * e_b  # W_V and W_E do not move while U = 0
        assert gradient_proofs.factored_step_lowers_the_entry(mask_value) == (stepped[0] < 0)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_evenly_spread_disjoint_errors(tokens):
    assert gradient_proofs.spread_errors_have_cosine(tokens, sp.Rational(tokens, tokens + 1))
    assert not gradient_proofs.spread_errors_have_cosine(tokens, sp.Rational(tokens + 1, tokens + 2))


def test_a_softmax_never_attains_one_half():
    rng = np.random.default_rng(3)
    sharp = np.exp(rng.normal(size=(2, 500, 6)) * 3)
    forward, reverse = sharp / sharp.sum(-1, keepdims=True)
    assert gradients.error_cosines(forward, reverse).min() > 0.5
    assert gradient_proofs.error_cosine_exceeds_half(5)


def test_late_contrast_needs_two_facts():
    assert gradient_proofs.late_contrast_is_negative(3)
    a, r = 0.2, 0.6  # one fact: a^2 - a r is negative where the shared tokens' masses outweigh the evidence's
    assert a**2 - a * r < 0 < a**2 - a * r + r**2


def test_two_prompts_have_one_storage_and_their_own_weights(monkeypatch):
    pairs = []
    monkeypatch.setattr(storage, "gradients_align", lambda *pair: pairs.append(pair) or True)
    assert gradient_proofs.storage_gradients_align(0)
    (forward, reverse), = pairs
    assert forward.weights == reverse.weights and forward.weights.shape == (3, 4)
    assert not {*forward.attention} & {*reverse.attention}
    assert (forward.target, reverse.target) == (1, 0)
    assert 3 in forward.tokens and 3 in reverse.tokens  # the mask


def test_five_gradients_are_compared_in_one_prompt(monkeypatch):
    """The closed form of target 0 in the place of the derivative, which `test_parameter_gradients` checks."""
    symbols = np.frompyfunc(sp.sympify, 1, 1)
    monkeypatch.setattr(gradient_proofs, "derived_gradient",
                        lambda _, model, prompt: closed_form_gradient(model, prompt).mapped(symbols))
    assert gradient_proofs.gradients_are_outer_products(0) and not gradient_proofs.gradients_are_outer_products(1)


def sizes_seen(monkeypatch, function):
    """Pairs of N and n for which a function of `gradients` is called from now on; it returns 0."""
    seen = set()
    monkeypatch.setattr(gradients, function, lambda facts, n, *_: seen.add((facts, n)) or sp.Integer(0))
    return seen


def test_contrasts_are_compared_at_every_size(monkeypatch):
    reverse, slope = (sizes_seen(monkeypatch, name) for name in ("reverse_contrast", "contrast_slope"))
    monkeypatch.setattr(gradients, "reverse_contrast_parts", lambda *_: (sp.Integer(0), sp.Integer(0)))
    monkeypatch.setattr(gradients, "contrast_slope_formula", lambda *_: sp.Integer(0))
    assert gradient_proofs.reverse_contrast_is() and gradient_proofs.flow_keeps_its_law(1)
    assert reverse == {(2, 2), (2, 3), (3, 3), (2, 4), (3, 4), (4, 4), (2, 5), (3, 5), (4, 5), (5, 5)}
    assert slope == {(2, 3), (2, 4), (3, 4), (2, 5), (3, 5), (4, 5)}
