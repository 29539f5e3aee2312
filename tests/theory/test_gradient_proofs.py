"""What the statements of Apps. C.1 and C.2 rest on, at numbers; the chapter runs each with its control."""

import numpy as np
import pytest
import sympy as sp

from lib.theory import gradient_proofs, gradients


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
