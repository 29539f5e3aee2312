"""The figure on what RoPE guarantees: its numbers are those of `lib.theory`, and the exact correlation is exact."""

import numpy as np
import played
import pytest

from lib.theory import bounds, routing
from lib.theory.certificates import first_zero, guaranteed_context
from lib.theory.figures_routing import rope_guarantee

#: head dimension, base, both distances, alignment
SETTINGS = [(128, 10_000, 50, 50, 0.5), (64, 10_000, 50, 50, 0.0), (256, 1_000, 1, 1, 1.0),
            (32, 500_000, 10, 304, 0.25), (64, 1_000_000, 7, 50, -0.5), (64, 2_000, 304, 10, 1.0),
            (32, 1_000, 2_048, 1, -0.3), (128, 5_000, 1, 20_176, 0.8),
            (128, 20_000, 117, 335, 0.05), (32, 10_000, 117, 117, -0.25)]


@pytest.fixture(scope="module")
def figure():
    return rope_guarantee(base=10_000.0)


@pytest.fixture(scope="module")
def page(browser, figure):
    with played.opened(browser, figure) as page:
        yield page


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_page_shows_what_the_library_computes(page, figure, setting):
    head_dim, base, forward, reverse, kappa = setting
    found = played.shown(page, figure, head_dim=head_dim, base=base, forward=forward, reverse=reverse, kappa=kappa)
    low, high = first_zero(head_dim, base)
    assert found["bound"] == pytest.approx(bounds.trace_bound(forward + reverse, head_dim, base), abs=1e-6)
    assert found["exact"] == pytest.approx(
        bounds.expected_correlation(forward, reverse, kappa, head_dim, base), abs=1e-6)
    assert found["least"] == pytest.approx(bounds.asymmetric(forward, reverse, head_dim, base), abs=1e-6)
    assert low - 1e-6 <= found["zero"] <= high + 1e-6
    assert found["context"] == guaranteed_context(low)


def test_each_slider_moves_the_numbers_that_depend_on_it_and_no_others(page, figure):
    start = {"head_dim": 128, "base": 10_000, "forward": 50, "reverse": 50, "kappa": 0.5}
    before = played.shown(page, figure, **start)
    for name, value, moved in (("head_dim", 64, {"bound", "exact", "least", "zero", "context"}),
                               ("base", 500_000, {"bound", "exact", "least", "zero", "context"}),
                               ("forward", 117, {"bound", "exact", "least"}),
                               ("reverse", 117, {"bound", "exact", "least"}), ("kappa", 0.0, {"exact"})):
        found = played.shown(page, figure, **start | {name: value})
        assert {key for key in found if found[key] != before[key]} == moved, name


@pytest.mark.parametrize(("setting", "said"), [
    ({}, "at every shorter distance"), ({"kappa": -0.5}, "against Assumption 4.2"),
    ({"reverse": 117}, "The distances differ"), ({"forward": 5_313, "reverse": 5_313}, "promises nothing")])
def test_it_says_whether_the_theorem_applies(page, figure, setting, said):
    start = {"head_dim": 128, "base": 10_000, "forward": 50, "reverse": 50, "kappa": 0.5}
    played.shown(page, figure, **start | setting)
    assert said in page.locator(".play-words").inner_text()


def test_the_figure_begins_where_it_is_told(figure):
    own = rope_guarantee(head_dim=64, base=123_456.0, distance=33.5, kappa=0.2)
    starts = {slider.name: slider.start for slider in own.sliders}
    assert starts == {"head_dim": 64, "base": 123_456.0, "forward": 33.5, "reverse": 33.5, "kappa": 0.2}
    assert len(figure.html) < 100_000
    with pytest.raises(ValueError, match="head_dim"):
        rope_guarantee(head_dim=48)


# The exact correlation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forward", "reverse", "kappa"), [(3, 3, 0.5), (3, 40, 0.5), (25, 2, -0.5), (60, 7, 1.0)])
def test_the_exact_correlation_is_the_mean_over_queries(forward, reverse, kappa):
    queries = np.random.default_rng(0).normal(size=(20_000, 16))
    covariance = routing.key_covariance(queries, kappa)
    sample = routing.rope_score_correlation(queries, covariance, forward, reverse, 100.0)
    error = sample.std() / len(sample) ** 0.5
    found = bounds.expected_correlation(forward, reverse, kappa, 16, 100.0)
    assert abs(found - sample.mean()) < 4 * error
    assert abs(bounds.expected_correlation(forward, reverse, 0.3, 16, 100.0) - sample.mean()) > 10 * error


def test_isotropic_keys_have_the_trace_and_aligned_ones_one():
    x = np.array([1.0, 7.5, 40.0])
    assert bounds.expected_correlation(x, 2 * x, 0.0, 64) == pytest.approx(bounds.trace_bound(3 * x, 64), abs=1e-12)
    assert bounds.expected_correlation(x, x, 1.0, 64) == pytest.approx(np.ones(3), abs=1e-12)
    assert isinstance(bounds.expected_correlation(1, 2, 0.5, 4), float)


def test_nodes_enough_agree_and_too_few_do_not():
    exact = bounds.expected_correlation(3, 40, 1.0, 16)
    assert bounds.expected_correlation(3, 40, 1.0, 16, nodes=32) == pytest.approx(exact, abs=1e-12)
    assert abs(bounds.expected_correlation(3, 40, 1.0, 16, nodes=1) - exact) > 1e-6


@pytest.mark.parametrize("kappa", [-1, 1.01, float("nan")])
def test_an_alignment_that_cannot_be_is_refused(kappa):
    with pytest.raises(ValueError, match="kappa"):
        bounds.expected_correlation(1, 1, kappa, 4)


def test_shapes_that_do_not_fit_and_no_nodes_are_refused():
    with pytest.raises(ValueError, match=r"their shapes are \(2,\), \(3,\), \(\)"):
        bounds.expected_correlation([1, 2], [1, 2, 3], 0.5, 4)
    with pytest.raises(ValueError, match="nodes"):
        bounds.expected_correlation(1, 2, 0.5, 4, nodes=0)
