"""The value path under a U that is not isotropic: angles of its rows, and the law of a random one."""

import numpy as np
import pytest
from scipy import integrate, stats

from lib.theory import random_unembedding as unembedding


def signals(u, target, rng):
    """delta of two random predictions with one target."""
    return [u.T @ (p - np.eye(len(u))[target]) for p in rng.dirichlet(np.full(len(u), 0.1), 2)]


def test_rows_at_a_right_angle_and_an_equilateral_triangle():
    assert unembedding.smallest_cosine(np.array([[0.0, 0], [1, 0], [0, 1]])) == pytest.approx(0)
    assert unembedding.smallest_cosine(np.eye(4)) == pytest.approx(0.5)
    assert unembedding.smallest_cosine(np.array([[0.0], [1], [2]])) == pytest.approx(-1)


@pytest.mark.parametrize("width", [3, 40])
def test_the_sign_is_kept_for_all_predictions_exactly_if_no_angle_is_obtuse(width):
    rng = np.random.default_rng(0)
    for _ in range(5):
        u = rng.normal(size=(6, width))
        shares = [np.dot(*signals(u, target, rng)) for target in range(6) for _ in range(400)]
        assert (min(shares) > 0) == (unembedding.smallest_cosine(u) > 0)


def test_spread_is_that_of_the_eigenvalues_on_sum_zero_vectors():
    u = np.random.default_rng(1).normal(size=(5, 9))
    centre = np.eye(5) - 0.2
    eigenvalues = np.linalg.eigvalsh(centre @ u @ u.T @ centre)
    assert unembedding.eigenvalue_spread(u) == pytest.approx(eigenvalues[-1] / eigenvalues[1])
    assert unembedding.eigenvalue_spread(np.eye(4)) == pytest.approx(1)
    assert unembedding.eigenvalue_spread(u[:, :3]) == np.inf


def test_least_spread_is_that_of_the_matrices_drawn():
    some = {"count": 3, "vocabulary": 8, "seed": 2}
    drawn = np.random.default_rng(2).normal(size=(3, 8, 20))
    assert unembedding.least_spread(20, **some) == pytest.approx(min(map(unembedding.eigenvalue_spread, drawn)))
    assert unembedding.acute_though_spread(20, **some) == all(unembedding.smallest_cosine(u) > 0 for u in drawn)


@pytest.mark.parametrize(("cosine", "width"), [(0.5, 4), (0.7, 6), (0.5, 16)])
def test_negative_probability_by_integration(cosine, width):
    """P((1 + c) X <= (1 - c) Y), over the law of Y."""
    law = stats.chi2(width)
    exact, _ = integrate.quad(lambda y: law.pdf(y) * law.cdf((1 - cosine) / (1 + cosine) * y), 0, np.inf)
    assert unembedding.negative_probability(cosine, width) == pytest.approx(exact, rel=1e-6)


def test_negative_probability_keeps_its_digits_far_out():
    assert unembedding.negative_probability(0.5, 64) == pytest.approx(9.576e-6, rel=1e-3)
    assert unembedding.negative_probability(0.5, 4096) == pytest.approx(1.663e-258, rel=1e-3)
    assert unembedding.within_the_bound(0.9, (1, 2, 64))


def test_one_hot_errors_meet_at_sixty_degrees_with_one_target():
    for same_target, cosine in ((True, 0.5), (False, -0.5)):
        forward, reverse = unembedding.one_hot_errors(same_target=same_target)
        assert forward @ reverse / np.sqrt((forward @ forward) * (reverse @ reverse)) == pytest.approx(cosine)
        assert forward.sum() == reverse.sum() == 0


def test_sampled_interval_holds_the_share_and_narrows():
    errors = unembedding.one_hot_errors(vocabulary=4)
    wide, narrow = (unembedding.sampled_interval(errors, 4, draws, 3) for draws in (200, 5000))
    assert narrow[0] < 0.15625 < narrow[1] and narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3


def test_a_random_unembedding_is_isotropic_to_a_factor_of_three_from_fourteen_times_the_vocabulary():
    rng, vocabulary = np.random.default_rng(4), 150
    spreads = [unembedding.eigenvalue_spread(rng.normal(size=(vocabulary, share * vocabulary))) for share in (10, 18)]
    assert spreads[0] > 3 > spreads[1]
    root = np.sqrt(1 / (7 + 4 * np.sqrt(3)))  # sqrt(n / d_v)
    assert ((1 + root) / (1 - root)) ** 2 == pytest.approx(3)
