"""The bounds of App. B against mpmath, quadrature, sampling and ball arithmetic."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from lib.encodings import rope_frequencies
from lib.theory import bound_proofs, bounds, certificates, routing

dims = st.sampled_from([2, 4, 6, 16, 64, 128, 200, 256])
bases = st.sampled_from([2.0, 50, 10_000, 5e5, 1e6])
somewhere = st.floats(0, 300)


def cosines(x, d, base):
    """cos(x theta_i) in 40 digits."""
    with mpmath.workdps(40):
        return [mpmath.cos(mpmath.mpf(x) * mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / d)) for i in range(d // 2)]


# Trace bound ------------------------------------------------------------------------------------------------------


@given(somewhere, dims, bases)
@settings(max_examples=60, deadline=None)
def test_trace_bound_in_forty_digits(x, d, base):
    exact = mpmath.fsum(cosines(x, d, base)) / (d // 2)
    assert bounds.trace_bound(x, d, base) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("d, minimum, at", [(64, 0.33655, 48), (128, 0.38441, 48), (256, 0.41041, 49)])
def test_minima_over_the_integers_of_table_3(d, minimum, at):
    values = bounds.trace_bound(2 * np.arange(1, 51), d)
    assert values.min() == pytest.approx(minimum, abs=5e-6) and values.argmin() + 1 == at


def test_a_number_gives_a_float_and_an_array_an_array():
    assert type(bounds.trace_bound(3, 64)) is float and bounds.trace_bound(0, 64) == 1
    for function, arguments in (
        (bounds.trace_bound, (64,)),
        (bounds.trace_bound_limit, ()),
        (bounds.cantelli, (0.1, 64)),
        (bounds.exact_tail, (0.1, 64)),
        (bounds.asymmetric, (3, 64)),
        (bounds.unequal_correlation_floor, (3, 64)),
        (bounds.trace_bound_limit_error, (64,)),
    ):
        one, row = function(2.5, *arguments), function([2.5, 7.0], *arguments)
        assert type(one) is float and row.shape == (2,) and row[0] == pytest.approx(one, abs=1e-15)
        assert function(np.full((2, 3), 2.5), *arguments).shape == (2, 3)


@given(st.floats(1e-9, 5000), st.sampled_from([1.5, 100, 10_000, 1e6]))
@settings(max_examples=40, deadline=None)
def test_limit_is_a_difference_of_cosine_integrals(x, base):
    with mpmath.workdps(30):
        exact = (mpmath.ci(x) - mpmath.ci(mpmath.mpf(x) / base)) / mpmath.log(base)
    assert bounds.trace_bound_limit(x, base) == pytest.approx(float(exact), abs=1e-11)


def test_limit_is_one_at_zero_and_the_dimension_goes_there():
    assert bounds.trace_bound_limit(0.0) == 1 and bounds.trace_bound_limit(5e-324) == 1
    assert list(bounds.trace_bound_limit([0.0, 100.0])) == [1, pytest.approx(0.43677, abs=5e-6)]
    x = np.linspace(0, 100, 51)
    gaps = [np.abs(bounds.trace_bound(x, d) - bounds.trace_bound_limit(x)).max() for d in (256, 4096, 65536)]
    assert gaps[0] > 10 * gaps[1] > 100 * gaps[2] and gaps[2] < 5e-5


@given(st.floats(0, 40), st.sampled_from([2, 64]), st.sampled_from([1.5, 10_000]))
@settings(max_examples=30, deadline=None)
def test_limit_error_is_the_variation_over_m_and_holds(x, d, base):
    turns = [k * np.pi for k in range(1, 13) if x / base < k * np.pi < x]
    variation = quad(lambda y: abs(np.sin(y)), x / base, x, points=turns or None, limit=200)[0]
    error = bounds.trace_bound_limit_error(x, d, base)
    assert error == pytest.approx(variation / (d // 2), abs=1e-8)
    assert abs(bounds.trace_bound(x, d, base) - bounds.trace_bound_limit(x, base)) <= error + 1e-12


# High probability -------------------------------------------------------------------------------------------------


@given(st.floats(0, 200), st.floats(-0.99, 0.99), dims, bases)
@settings(max_examples=60, deadline=None)
def test_cantelli_from_its_definition(delta, t, d, base):
    c = cosines(2 * mpmath.mpf(delta), d, base)
    with mpmath.workdps(40):
        mean = mpmath.fsum(c) / len(c)
        second = mpmath.fsum(v * v for v in c) / len(c)
        variance, gap = (second - mean**2) / (len(c) + 1), mean - mpmath.mpf(t)
        exact = gap**2 / (gap**2 + variance) if gap > 0 else mpmath.mpf(0)
    if abs(gap) > 1e-9:
        assert bounds.cantelli(delta, t, d, base) == pytest.approx(float(exact), abs=1e-9)


def test_cantelli_says_nothing_above_the_mean():
    assert bounds.cantelli(50, 0.9, 64) == 0
    assert bounds.cantelli(0, 0.9, 64) == 1
    assert bounds.cantelli([1, 20, 50], [[0.1], [0.9]], 64).shape == (2, 3)


TABLE_4 = {
    10: (0.978, 0.966, 0.941, 0.989, 0.983, 0.970),
    20: (0.959, 0.930, 0.859, 0.982, 0.969, 0.938),
    30: (0.947, 0.905, 0.791, 0.977, 0.958, 0.906),
    40: (0.942, 0.893, 0.753, 0.974, 0.952, 0.885),
    50: (0.956, 0.922, 0.828, 0.973, 0.949, 0.874),
}


def test_table_4():
    ours = {x: tuple(bounds.cantelli(x, t, d) for d in (128, 256) for t in (0.1, 0.2, 0.3)) for x in TABLE_4}
    assert {x: pytest.approx(row, abs=5e-4) for x, row in ours.items()} == TABLE_4


@pytest.mark.parametrize(
    "delta, t, d, base",
    [
        (10, 0.3, 64, 1e4),
        (50, 0.3, 128, 1e4),
        (33.7, -0.2, 256, 5e5),
        (0.01, 0.99999, 64, 1e4),
        (1e-5, 0.99999999995, 128, 1e4),
        (50, 0.8, 256, 1e4),
        (900.5, 0.05, 32, 1e6),
    ],
)
def test_exact_tail_lies_in_its_enclosure(delta, t, d, base):
    low, high = certificates.tail_enclosure(delta, t, d, base)
    assert low - 1e-11 <= bounds.exact_tail(delta, t, d, base) <= high + 1e-11


@given(st.floats(0.1, 60), st.floats(-0.5, 0.9), st.sampled_from([4, 16, 64]))
@settings(max_examples=15, deadline=None)
def test_exact_tail_by_inverting_the_characteristic_function(delta, t, d):
    surplus = np.cos(2 * delta * 10_000.0 ** (-np.arange(d // 2) / (d // 2))) - t

    def integrand(u):
        return np.imag(np.prod(1 / (1 - 1j * u * surplus))) / u

    # u = tan(angle) maps the half-line to a finite interval
    inner = quad(lambda angle: integrand(np.tan(angle)) / np.cos(angle) ** 2, 0, np.pi / 2, limit=400, epsabs=1e-10)[0]
    if np.abs(surplus).min() > 1e-3:
        assert bounds.exact_tail(delta, t, d) == pytest.approx(0.5 + inner / np.pi, abs=1e-6)


def test_exact_tail_by_sampling():
    w = np.random.default_rng(0).dirichlet(np.ones(32), 50_000)
    for delta, t in ((5.0, 0.6), (24.3, 0.5), (48.0, 0.3)):
        share = (w @ np.cos(2 * delta * 10_000.0 ** (-np.arange(32) / 32)) >= t).mean()
        assert abs(bounds.exact_tail(delta, t, 64) - share) < 5 * 0.5 / 50_000**0.5


def test_exact_tail_at_the_edges():
    assert bounds.exact_tail(0, 0.999, 64) == 1
    assert bounds.exact_tail(1.0, -0.42, 2) == 1 and bounds.exact_tail(1.0, -0.41, 2) == 0  # one plane: cos 2 = -0.416
    # frequencies so close that planes coincide in floating point
    assert bounds.exact_tail(2.0, -0.6, 64, 1 + 1e-15) == 0 and bounds.exact_tail(2.0, -0.7, 64, 1 + 1e-15) == 1
    assert bounds.exact_tail([[1.0], [2.0]], [0.1, 0.2, 0.3], 64).shape == (2, 3)


@given(st.floats(0, 100), dims)
@settings(max_examples=30, deadline=None)
def test_cantelli_never_exceeds_the_exact_tail(delta, d):
    t = np.linspace(-0.95, 0.95, 39)
    tails = bounds.exact_tail(delta, t, d)
    assert (bounds.cantelli(delta, t, d) <= tails + 1e-12).all() and (np.diff(tails) <= 1e-12).all()


# Unequal distances ------------------------------------------------------------------------------------------------


def integral(delta1, delta2, d, base):
    """The expected worst-case surrogate over u = s / (1 + s), in 20 digits."""
    with mpmath.workdps(20):
        planes = []
        for a, b in zip(
            cosines(mpmath.mpf(delta1) + delta2, d, base),
            cosines(abs(mpmath.mpf(delta1) - delta2), d, base),
            strict=True,
        ):
            planes.append((a + b, 1 + a * b) if b < 0 else (a, mpmath.mpf(1)))

        def integrand(u):
            s, value = u / (1 - u), mpmath.mpf(1)
            for _, bottom in planes:
                value /= 1 + s * bottom
            return value * sum(top / (1 + s * bottom) for top, bottom in planes) / (1 - u) ** 2

        return float(mpmath.quad(integrand, [0, 0.02, 0.1, 0.3, 0.6, 1]))


@pytest.mark.parametrize(
    "delta1, delta2, d, base",
    [(21, 50, 64, 1e4), (3.3, 7.7, 16, 1e4), (0, 30, 32, 1e4), (5, 1, 4, 1e4), (40, 2.5, 24, 5e5)],
)
def test_asymmetric_by_another_quadrature(delta1, delta2, d, base):
    assert bounds.asymmetric(delta1, delta2, d, base) == pytest.approx(integral(delta1, delta2, d, base), abs=1e-11)


@pytest.mark.parametrize(
    "pair, d, value",
    [
        ((21, 50), 64, 0.18593),
        ((22, 50), 128, 0.27310),
        ((34, 50), 256, 0.32702),
        ((0, 29), 64, 0.27583),
        ((25, 29), 128, 0.36417),
        ((0, 30), 256, 0.39660),
    ],
)
def test_asymmetric_at_the_minima_of_two_grids(pair, d, value):
    assert bounds.asymmetric(*pair, d) == pytest.approx(value, abs=6e-6)


@given(st.floats(0, 60), st.floats(0, 60), dims)
@settings(max_examples=30, deadline=None)
def test_asymmetric_is_symmetric_and_bounded_by_the_trace(delta1, delta2, d):
    value = bounds.asymmetric(delta1, delta2, d)
    assert value == pytest.approx(bounds.asymmetric(delta2, delta1, d), abs=1e-12)
    assert value <= bounds.trace_bound(delta1 + delta2, d) + 1e-11  # kappa = 0 is admissible
    repaired = bounds.unequal_correlation_floor(delta1, delta2, d)
    assert value - 1 - 1e-11 <= repaired <= value + 1e-11


@given(st.floats(0, 60), dims, bases)
@settings(max_examples=20, deadline=None)
def test_equal_distances_give_the_trace_bound(delta, d, base):
    assert bounds.asymmetric(delta, delta, d, base) == pytest.approx(bounds.trace_bound(2 * delta, d, base), abs=1e-11)


def test_two_planes_by_hand():
    # d = 4, base 16: theta = 1, 1/4; distances 3 and 0: a = b = cos 3 < 0 in plane 0, cos 0.75 > 0 in plane 1
    slow, fast = np.cos(0.75), np.cos(3)
    n, d = np.array([2 * fast, slow]), np.array([1 + fast**2, 1.0])
    assert np.allclose(bounds.unequal_distance_planes(3, 0, 4, 16), [n, d], atol=1e-15)
    chance = 1 - 2 * abs(fast) / (2 * abs(fast) + slow)  # P(w n0 + (1 - w) n1 < 0) = |n0| / (|n0| + n1)
    assert bounds.unequal_correlation_floor(3, 0, 4, 16) == pytest.approx(
        bounds.asymmetric(3, 0, 4, 16) - (1 - chance), abs=1e-12
    )


def dinkelbach(weights, a, b):
    """inf_kappa N / D by the paper's fractional programming: from a level, the kappa that minimises N - level D.

    Returns (queries,) minima and the number of levels after the first, the repeated last one included.
    """
    level, levels = weights @ a, 0  # kappa = 0
    while True:
        levels += 1
        kappa = b * (1 - level[:, None] * a) < 0
        lower = (weights * (a + kappa * b)).sum(-1) / (weights * (1 + kappa * a * b)).sum(-1)
        if np.allclose(lower, level, rtol=0, atol=1e-15):
            return lower, levels
        level = lower


@pytest.mark.parametrize("pair", [(3, 17), (40, 11), (25, 31), (0, 9), (12, 12)])
def test_surrogate_minimum_over_all_corners_and_by_iteration(pair):
    w = np.random.default_rng(1).dirichlet(np.ones(6), 40)
    theta = 10_000.0 ** (-np.arange(6) / 6)
    a, b = np.cos(sum(pair) * theta), np.cos((pair[0] - pair[1]) * theta)
    corners = np.stack(np.meshgrid(*[[0, 1]] * 6), -1).reshape(-1, 6)
    least = ((w @ (a + corners * b).T) / (w @ (1 + corners * a * b).T)).min(1)
    assert np.allclose(bounds.surrogate_minimum(w, *pair, 12), least, rtol=0, atol=1e-13)
    values, levels = dinkelbach(w, a, b)
    assert np.allclose(values, least, rtol=0, atol=1e-13)
    assert levels == (1 if (b >= 0).all() else 2)


def test_correlation_and_surrogate_at_given_alignments():
    rng = np.random.default_rng(3)
    query, kappa = rng.normal(size=(5, 8)), rng.uniform(size=(3, 4))
    weights = routing.plane_weights(query)
    exact, surrogate = bounds.correlation_and_surrogate(weights, kappa, 6.0, 2.0)
    assert exact.shape == surrogate.shape == (5, 3)
    for case, aligned in enumerate(kappa):
        covariance = routing.key_covariance(query, aligned)
        assert exact[:, case] == pytest.approx(routing.rope_score_correlation(query, covariance, 6.0, 2.0), abs=1e-12)
    worst = 1.0 * (np.cos(4.0 * rope_frequencies(8)) < 0)
    least = bounds.correlation_and_surrogate(weights, worst, 6.0, 2.0)[1]
    assert least == pytest.approx(bounds.surrogate_minimum(weights, 6.0, 2.0, 8), abs=1e-12)


def test_grid_moments_and_simulated_minima():
    mean, variance = bounds.grid_moments(4, 16)
    assert mean.shape == variance.shape == (5, 5)
    assert mean[3, 1] == pytest.approx(bounds.asymmetric(3, 1, 16), abs=1e-12)
    values = bounds.surrogate_minimum(np.random.default_rng(0).dirichlet(np.ones(8), 40_000), 3, 1, 16)
    assert variance[3, 1] == pytest.approx(values.var(), rel=0.05)
    few, many = (bounds.simulated_minima(mean, variance, n, 0, 50) for n in (10, 10_000))
    assert few.shape == (50,) and few.mean() < many.mean() < mean.min() + 1e-9


def test_chebyshev_is_weaker_than_cantelli():
    assert bounds.chebyshev(50.0, 0.3, 128) == pytest.approx(2 - 1 / bounds.cantelli(50.0, 0.3, 128), abs=1e-12)


def test_one_distance_can_be_an_array():
    grid = bounds.asymmetric(np.arange(3)[:, None], np.arange(4), 16)
    assert grid.shape == (3, 4) and grid[2, 3] == pytest.approx(bounds.asymmetric(2, 3, 16), abs=1e-15)


def test_the_base_is_ten_thousand_unless_said():
    for function, arguments in (
        (bounds.trace_bound, (40.0, 64)),
        (bounds.trace_bound_limit, (40.0,)),
        (bounds.trace_bound_limit_error, (40.0, 64)),
        (bounds.cantelli, (20.0, 0.1, 64)),
        (bounds.exact_tail, (20.0, 0.4, 64)),
        (bounds.unequal_distance_planes, (20.0, 3.0, 64)),
        (bounds.asymmetric, (20.0, 3.0, 64)),
        (bounds.unequal_correlation_floor, (20.0, 3.0, 64)),
        (bounds.surrogate_minimum, (np.ones(32), 20.0, 3.0, 64)),
        (bounds.chebyshev, (20.0, 0.1, 64)),
        (bounds.grid_moments, (3, 16)),
        (bounds.certified_minimum, (64, 3.0, 4.0)),
        (bounds.first_zero, (8,)),
        (certificates.tail_enclosure, (20.0, 0.4, 16)),
        (certificates.unequal_distance_enclosure, (20.0, 3.0, 16)),
        (certificates.grid_floor, (16, 3)),
        (certificates.correlation_floor, (16, 3)),
    ):
        usual, named, other = (function(*arguments, *base) for base in ((), (10_000.0,), (10_001.0,)))
        first = (lambda result: result[0]) if isinstance(usual, tuple) else (lambda result: result)
        assert np.array_equal(first(usual), first(named)) and not np.array_equal(first(usual), first(other)), function


# Refusals ---------------------------------------------------------------------------------------------------------

UNEQUAL = {"delta1": 1.0, "delta2": 2.0, "head_dim": 8}
EVERY = {
    "trace_bound": lambda **k: bounds.trace_bound(**{"total_distance": 1.0, "head_dim": 8, **k}),
    "trace_bound_limit_error": lambda **k: bounds.trace_bound_limit_error(
        **{"total_distance": 1.0, "head_dim": 8, **k}
    ),
    "cantelli": lambda **k: bounds.cantelli(**{"distance": 1.0, "threshold": 0.1, "head_dim": 8, **k}),
    "exact_tail": lambda **k: bounds.exact_tail(**{"distance": 1.0, "threshold": 0.1, "head_dim": 8, **k}),
    "asymmetric": lambda **k: bounds.asymmetric(**{**UNEQUAL, **k}),
    "unequal_correlation_floor": lambda **k: bounds.unequal_correlation_floor(**{**UNEQUAL, **k}),
    "certified_minimum": lambda **k: bounds.certified_minimum(**{"low": 0.0, "high": 2.0, "head_dim": 8, **k}),
    "first_zero": lambda **k: bounds.first_zero(**{"head_dim": 8, **k}),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "argument, value",
    [
        ("head_dim", 7),
        ("head_dim", 0),
        ("head_dim", -4),
        ("base", 1),
        ("base", 1.0),
        ("base", -3.0),
        ("base", float("nan")),
        ("base", float("inf")),
    ],
)
def test_every_function_refuses_a_bad_head_or_base(name, argument, value):
    with pytest.raises(ValueError, match=argument):
        EVERY[name](**{argument: value})


NAN, INF = float("nan"), float("inf")
BAD = {
    ("trace_bound", "trace_bound_limit_error"): {"total_distance": (-1, NAN, INF)},
    ("cantelli", "exact_tail"): {
        "distance": (-1e-9, NAN, [1.0, -2.0], [[1.0], [1.0, 2.0]]),
        "threshold": (1, -1, 1.5, -7, NAN, [0.1, 1.0]),
    },
    ("asymmetric", "unequal_correlation_floor"): {
        "delta1": (-1, NAN, INF, [3.0, -1.0]),
        "delta2": (-1, NAN, INF, [3.0, -1.0]),
    },
    ("certified_minimum",): {"low": (-1.0, NAN, 2.0, 3.0), "high": (INF, NAN), "width": (0.0, 9e-13, NAN)},
    ("first_zero",): {"farthest": (NAN, -1.0)},
}
CASES = [(name, a, v) for names, bad in BAD.items() for name in names for a, values in bad.items() for v in values]


@pytest.mark.parametrize("name, argument, value", CASES)
def test_bad_arguments_are_refused_by_name(name, argument, value):
    with pytest.raises(ValueError, match=argument):
        EVERY[name](**{argument: value})


def test_bad_arguments_of_the_limit_and_shapes_that_do_not_fit():
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="total_distance must"):
            bounds.trace_bound_limit(value)
    with pytest.raises(ValueError, match="base must"):
        bounds.trace_bound_limit(1.0, 0.5)
    for function in (bounds.cantelli, bounds.exact_tail):
        with pytest.raises(ValueError, match=r"distance of shape \(2,\) and threshold of shape \(3,\)"):
            function([1.0, 2.0], [0.1, 0.2, 0.3], 8)
    with pytest.raises(ValueError, match=r"delta1 of shape \(2,\) and delta2 of shape \(3,\)"):
        bounds.asymmetric([1.0, 2.0], [0.1, 0.2, 0.3], 8)


# Statements -------------------------------------------------------------------------------------------------------


def test_an_enclosure_of_a_minimum_is_narrow_and_holds_it():
    low, high = bounds.certified_minimum(16, 0, 100)
    assert bound_proofs.minima_enclosed({16: (low, high)})
    for moved in ((low - 1e-5, low - 9e-6), (high + 9e-6, high + 1e-5), (low - 1e-5, high)):
        assert not bound_proofs.minima_enclosed({16: moved})


def test_an_enclosure_of_a_first_zero_is_narrow_and_holds_it():
    (low, high), bases = bounds.first_zero(8), {"usual": 1e4}
    assert bound_proofs.first_zeros_enclosed({("usual", 8): (low, high)}, bases)
    for moved in ((low - 1e-3, low), (high, high + 1e-3), (low - 1e-3, high)):
        assert not bound_proofs.first_zeros_enclosed({("usual", 8): moved}, bases)


@pytest.mark.parametrize("moved", [-1e-9, 1e-9])
def test_a_tail_on_either_side_of_its_enclosure_is_noticed(monkeypatch, moved):
    tail = bounds.exact_tail
    assert bound_proofs.tail_within_enclosures()
    monkeypatch.setattr(bounds, "exact_tail", lambda *given: tail(*given) + moved)
    assert not bound_proofs.tail_within_enclosures()


def test_a_share_lies_within_four_and_a_half_standard_errors(monkeypatch):
    mean_is, exact = bound_proofs.mean_is, bounds.exact_tail(20.0, 0.2, 64)
    monkeypatch.setattr(bound_proofs, "mean_is", lambda values, *given: mean_is(values.astype(float), *given))
    assert 0.9 < exact < 0.99
    for errors, holds in ((4.2, True), (4.8, False)):
        share = exact - errors * (exact * (1 - exact) / 10_000) ** 0.5
        values = np.where(np.arange(10_000) < round(10_000 * share), 0.5, -0.5)
        assert bound_proofs.share_is_exact_tail(values, 0.2, 20.0, 64) == holds


@pytest.mark.parametrize(("below", "holds"), [(0.0, True), (1e-9, False)])
def test_a_correlation_just_below_the_surrogate_is_noticed(monkeypatch, below, holds):
    def surrogate(query, kappa, one, other):
        a, b = (np.cos(turn * rope_frequencies(16)) for turn in (one + other, one - other))
        weights = routing.plane_weights(query)
        return (weights * (a + kappa * b)).sum(-1) / (weights * (1 + kappa * a * b)).sum(-1) - below

    monkeypatch.setattr(routing, "key_covariance", lambda query, kappa: kappa)
    monkeypatch.setattr(routing, "rope_score_correlation", surrogate)
    assert bound_proofs.surrogate_below_correlation(0) == holds
