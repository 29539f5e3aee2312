"""Enclosures by ball arithmetic: they contain the truth, they are narrow, and they know when they cannot be."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar

from lib.theory import bounds, certificates, dirichlet


def true_minimum(d, low, high, base):
    """Minimum over a fine sample, polished around its lowest points."""
    x = np.linspace(low, high, 200 * max(1, math.ceil(high - low)) + 1)
    values = bounds.trace_bound(x, d, base)
    best = values.min()
    for i in np.argsort(values)[:8]:
        left, right = x[max(i - 1, 0)], x[min(i + 1, len(x) - 1)]
        best = min(
            best,
            minimize_scalar(
                lambda at: bounds.trace_bound(at, d, base),
                bounds=(left, right),
                method="bounded",
                options={"xatol": 1e-10},
            ).fun,
        )
    return best


@given(
    st.sampled_from([2, 4, 10, 64, 128]), st.floats(0, 200), st.floats(0.001, 60), st.sampled_from([3.0, 10_000, 5e5])
)
@settings(max_examples=25, deadline=None)
def test_minimum_is_enclosed(d, low, length, base):
    lower, upper = certificates.certified_minimum(d, low, low + length, base)
    truth = true_minimum(d, low, low + length, base)
    assert lower <= truth + 1e-12 and truth <= upper + 1e-9 and 0 <= upper - lower <= 1e-6


@pytest.mark.parametrize(
    "low, high, minimum",
    [
        (0, 50, -1),
        (3, 3.3, -1),
        (0, 1, math.cos(1)),
        (4, 5, math.cos(4)),
        (6.2, 6.4, math.cos(6.4)),
        (0, math.pi, -1),
        (3.5, 9, math.cos(3.5)),
        (4, 9.4, math.cos(9.4)),
        (4, 9.5, -1),
    ],
)
def test_minimum_of_one_plane_is_that_of_the_cosine(low, high, minimum):
    lower, upper = certificates.certified_minimum(2, low, high)
    assert lower <= minimum + 1e-15 and minimum - 1e-15 <= upper and upper - lower <= 1e-6


@pytest.mark.parametrize("base", [10_000, 500_000, 1_000_000])
@pytest.mark.parametrize("d", [64, 128, 256])
@pytest.mark.parametrize("high", [50, 100])
def test_minima_of_the_book(d, high, base):
    lower, upper = certificates.certified_minimum(d, 0, high, base)
    sample = bounds.trace_bound(np.linspace(0, high, 40_001), d, base).min()
    assert lower <= sample <= upper + 5e-6 and upper - lower <= 1e-6
    assert lower <= upper <= bounds.trace_bound(2 * np.arange(high // 2 + 1), d, base).min() + 1e-12


@pytest.mark.parametrize("width", [1e-2, 1e-9, 1e-12])
def test_width_is_kept(width):
    lower, upper = certificates.certified_minimum(64, 90, 100, width=width)
    assert upper - lower <= width and lower <= 0.33374536475 and upper >= 0.33374536465


def test_a_long_interval_takes_many_grids():
    lower, upper = certificates.certified_minimum(16, 0.25, 5000.5, 2e4)
    sample = bounds.trace_bound(np.linspace(0.25, 5000.5, 400_001), 16, 2e4).min()
    assert lower <= sample <= upper + 1e-3 and upper - lower <= 1e-6


@given(st.floats(-1, 1), st.floats(-2, 2), st.floats(-3, 3), st.floats(0.001, 1.5), st.floats(0, 4))
@settings(max_examples=200, deadline=None)
def test_least_of_a_cell_is_below_the_polynomial_and_close_when_sure(value, slope, curve, half, third):
    h = np.linspace(-half, half, 4001)
    parabola = value + slope * h + curve * h**2 / 2
    bound = float(certificates._least(*(arb(x) for x in (value, slope, curve, half, third))).mid())
    assert bound <= (parabola - third * abs(h) ** 3 / 6).min() + 1e-9
    sharp = float(certificates._least(*(arb(x) for x in (value, slope, curve, half, 0.0))).mid())
    assert sharp == pytest.approx(parabola.min(), abs=1e-5)


def test_least_of_a_cell_allows_for_unsure_coefficients():
    value, slope, curve = arb(0.5, 0.01), arb(0.1, 0.2), arb(0.1, 0.3)
    bound = certificates._least(value, slope, curve, arb(0.5), arb(1))
    for v in (0.49, 0.51):
        for s in (-0.1, 0.3):
            for c in (-0.2, 0.4):
                h = np.linspace(-0.5, 0.5, 101)
                assert float(bound.lower()) <= (v + s * h + c * h**2 / 2 - abs(h) ** 3 / 6).min() + 1e-12


def test_third_derivative_is_bounded_by_the_mean_cube_of_the_frequencies():
    trace = certificates._Trace(4, 16)                                       # frequencies 1 and 1/4
    assert trace.third.contains(arb(1 + 4.0**-3) / 2) and trace.third.rad() < 1e-15


def test_minimum_at_the_very_ends_is_exact():
    # T_2 = cos: falling on [0, 3], rising on [4, 6], so the upper end of the enclosure is the end's own value
    for low, high, end in ((0, 3, 3), (4, 6, 4)):
        lower, upper = certificates.certified_minimum(2, low, high)
        assert upper == pytest.approx(math.cos(end), abs=1e-15) and lower <= math.cos(end)


def test_cells_hold_value_derivatives_and_a_true_lower_bound():
    trace = certificates._Trace(16, 10_000)
    comb = trace.comb(5, arb(0.25))
    cells = list(trace.cells([arb(7), arb(30)], comb))
    assert [float(cell.centre) for cell in cells[:2]] == [7.25, 7.75] and float(cells[5].centre) == 30.25
    for cell in cells:
        centre = float(cell.centre)
        x = np.linspace(centre - 0.25, centre + 0.25, 501)
        assert float(cell.value) == pytest.approx(bounds.trace_bound(centre, 16), abs=1e-14)
        assert cell.lower <= bounds.trace_bound(x, 16).min() <= cell.lower + 0.01
    left, right = trace.halves(cells[0])
    assert (float(left.centre), float(right.centre), float(left.half)) == (7.125, 7.375, 0.125)
    assert left.lower > cells[0].lower and right.lower > cells[0].lower


# First zero ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, base, zero", [(2, 10_000, math.pi / 2), (4, 4, 2 * math.pi / 3), (4, 9, 3 * math.pi / 4)])
def test_first_zero_in_closed_form(d, base, zero):
    lower, upper = certificates.first_zero(d, base)
    assert lower <= zero <= upper and upper - lower <= 1e-6


@pytest.mark.parametrize("d, base", [(16, 1e4), (64, 1e4), (128, 1e4), (32, 5e5), (34, 777.5), (8, 1e6), (256, 50)])
def test_first_zero_against_a_scan(d, base):
    lower, upper = certificates.first_zero(d, base)
    x = np.arange(0, upper + 1, 0.01)
    values = bounds.trace_bound(x, d, base)
    first = np.argmax(values < 0)
    zero = brentq(lambda at: bounds.trace_bound(at, d, base), x[first - 1], x[first], xtol=1e-12)
    assert lower <= zero + 1e-9 and zero - 1e-9 <= upper and 0 < upper - lower <= 1e-6


def test_no_zero_in_reach_and_a_zero_that_is_only_touched():
    with pytest.raises(ArithmeticError, match="no zero up to 1000 for head_dim 256 and base 500000"):
        certificates.first_zero(256, 5e5, farthest=1000)
    assert certificates.first_zero(64, farthest=1000)[0] > 724
    # (cos x + cos(1e-150 x)) / 2 all but touches zero at pi
    with pytest.raises(ArithmeticError, match=r"touches zero near 3\.14159"):
        certificates.first_zero(4, 1e300)


def test_dips_that_stay_positive_are_passed():
    # d = 16 comes within 0.05 of zero before it crosses
    lower, _ = certificates.first_zero(16, 10_000)
    before = bounds.trace_bound(np.linspace(0, lower, 20_001), 16)
    assert (before > -1e-9).all() and bounds.trace_bound(lower + 0.01, 16) < 0
    trace = certificates._Trace(16, 10_000)
    cell = next(trace.cells([arb(0)], trace.comb(1, arb(4))))
    assert cell.lower <= 0 and certificates._crossing(trace, cell) is None


@pytest.mark.parametrize("zero, tokens", [(10.0, 6), (9.999, 5), (10.001, 6), (0.5, 1), (1706.0578, 854)])
def test_context(zero, tokens):
    assert certificates.guaranteed_context(zero) == tokens
    with pytest.raises(ValueError, match="zero"):
        certificates.guaranteed_context(-zero)


# Enclosures of probabilities and expectations ------------------------------------------------------------------------


def test_partial_fractions_of_whole_numbers():
    values = [3, -1, 5, -7, 2, -4]
    exact = Fraction(0)
    for i, v in enumerate(values):
        if v > 0:
            exact += math.prod((Fraction(v, v - w) for j, w in enumerate(values) if j != i), start=Fraction(1))
    total = certificates._partial_fractions([arb(v) for v in values])
    assert total.contains(arb(exact.numerator) / exact.denominator) and total.rad() < 1e-12
    assert certificates._partial_fractions([arb(1), arb(1), arb(-1)]) is None
    assert certificates._partial_fractions([arb(1), arb(0, 0.1)]) is None
    assert certificates._partial_fractions([arb(-1), arb(-2)]) == 0


def test_tail_enclosure_of_two_planes():
    a, b = math.cos(2) - 0.1, math.cos(0.5) - 0.1  # d = 4, base 16, Delta = 1
    low, high = certificates.tail_enclosure(1, 0.1, 4, 16)
    assert low <= b / (b - a) + 1e-15 and b / (b - a) - 1e-15 <= high and high - low <= 1e-12


def test_tail_enclosure_needs_more_bits_for_more_planes_and_says_when_it_fails():
    low, high = certificates.tail_enclosure(3.5, 0.6, 256, width=1e-40)
    assert low <= bounds.exact_tail(3.5, 0.6, 256) + 1e-12 and high - low < 1e-15
    with pytest.raises(ArithmeticError, match="coincide at distance 0"):
        certificates.tail_enclosure(0, 0.5, 4)
    for arguments in ((-1, 0.5, 4), (1, 1.0, 4), (1, 0.5, 5), (float("nan"), 0.5, 4)):
        with pytest.raises(ValueError):
            certificates.tail_enclosure(*arguments)


@pytest.mark.parametrize(
    "pair, d, base",
    [((21, 50), 64, 1e4), ((3.3, 7.7), 128, 1e4), ((0, 30), 256, 1e4), ((5, 1), 2, 1e4), ((40, 2.5), 24, 5e5)],
)
def test_unequal_distance_enclosure(pair, d, base):
    low, high = certificates.unequal_distance_enclosure(*pair, d, base)
    assert low - 2e-13 <= bounds.asymmetric(*pair, d, base) <= high + 2e-13 and high - low < 1e-12


def test_unequal_distance_enclosure_of_one_plane_is_its_ratio():
    a, b = math.cos(6), math.cos(4)
    low, high = certificates.unequal_distance_enclosure(5, 1, 2)
    assert low <= (a + b) / (1 + a * b) + 1e-15 and (a + b) / (1 + a * b) - 1e-15 <= high


def test_bad_distances_of_the_unequal_distance_enclosure():
    for name, arguments in (("delta1", (-1, 2)), ("delta2", (1, float("nan")))):
        with pytest.raises(ValueError, match=name):
            certificates.unequal_distance_enclosure(*arguments, 8)


def cell_floor(delta1, delta2, d, base=1e4):
    """The floor of `certificates.grid_floor` in floating point, for distances that may be arrays."""
    numerators, denominators = bounds.unequal_distance_planes(delta1, delta2, d, base)
    centre, mean = denominators.mean(-1), numerators.mean(-1)
    spread = (denominators - centre[..., None]) * (numerators + denominators)
    return (mean - spread.mean(-1) / (d // 2 + 1) / centre) / centre


@given(st.floats(0, 60), st.floats(0, 60), st.sampled_from([2, 4, 6, 16, 64, 128, 200, 256]))
@settings(max_examples=30, deadline=None)
def test_the_floor_is_below_the_expectation_and_exact_at_equal_distances(delta1, delta2, d):
    assert cell_floor(delta1, delta2, d) <= bounds.asymmetric(delta1, delta2, d) + 1e-11
    for base in (50, 1e4, 1e6):
        assert cell_floor(delta1, delta1, d, base) == pytest.approx(bounds.trace_bound(2 * delta1, d, base), abs=1e-11)


def test_the_floor_of_two_planes_by_hand():
    # d = 4, base 16: theta = 1, 1/4; distances 3 and 0: a = b = cos 3 < 0 in plane 0, cos 0.75 > 0 in plane 1
    slow, fast = np.cos(0.75), np.cos(3)
    n, d = np.array([2 * fast, slow]), np.array([1 + fast**2, 1.0])
    spread = np.mean((d - d.mean()) * n) + np.mean((d - d.mean()) ** 2)
    expected = n.mean() / d.mean() - spread / 3 / d.mean() ** 2
    assert cell_floor(3, 0, 4, 16) == pytest.approx(expected, abs=1e-14)
    ball = certificates._floor([(arb(top), 1 - arb(bottom)) for top, bottom in zip(n, d, strict=True)])
    assert float(ball.mid()) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("d, farthest, base", [(64, 6, 1e4), (16, 12, 1e4), (128, 1, 5e5), (4, 9, 100)])
def test_grid_floor_is_the_least_floor_of_the_grid(d, farthest, base):
    grid = np.arange(1, farthest + 1)
    least = cell_floor(grid[:, None], grid, d, base).min()
    floor = certificates.grid_floor(d, farthest, base)
    assert least - 1e-12 <= floor <= least + 1e-13
    assert floor <= bounds.asymmetric(grid[:, None], grid, d, base).min() + 1e-12


@pytest.mark.parametrize("d, farthest, base", [(32, 14, 1e4), (16, 12, 1e4), (64, 16, 1e4), (4, 6, 100)])
def test_correlation_floor_is_the_least_repaired_floor_of_the_grid(d, farthest, base):
    grid = np.arange(1, farthest + 1)
    numerators, _ = bounds.unequal_distance_planes(grid[:, None], grid, d, base)
    negative = 1 - dirichlet.tail(numerators)
    least = (cell_floor(grid[:, None], grid, d, base) - negative).min()
    floor = certificates.correlation_floor(d, farthest, base)
    assert least - 2e-6 <= floor <= least + 1e-12
    assert negative.max() > 1e-3  # or the repair is not tested


@given(st.floats(0, 500), st.floats(0.001, 3000))
@settings(max_examples=20, deadline=None)
def test_cells_leave_no_gap(low, length):
    """A minimum in a gap would be missed, whatever the cells around it prove."""
    cells = sorted(certificates._cover(certificates._Trace(4, 1e4), low, low + length), key=lambda cell: cell.centre)
    ends = [(cell.centre - cell.half, cell.centre + cell.half) for cell in cells]
    assert not ends[0][0] > low and not ends[-1][1] < low + length
    assert all(not following > end for (_, end), (following, _) in itertools.pairwise(ends))
    assert all(2 * cell.half < certificates._CELL * 1.0001 for cell in cells)


def test_the_grid_has_every_pair_once_up_to_symmetry():
    found = [pair for *pair, _ in certificates._grid(8, 7, 1e4)]
    assert found == [[first, second] for first in range(1, 8) for second in range(1, first + 1)]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12, unique_by=lambda value: round(value, 3)))
def test_chernoff_is_above_the_probability(values):
    assert certificates._chernoff([arb(value) for value in values]) >= 1 - dirichlet.tail(np.array(values)) - 1e-9


@pytest.mark.parametrize("floor", [certificates.grid_floor, certificates.correlation_floor])
@pytest.mark.parametrize("farthest", [0, -1, 2.0, True])
def test_grid_floor_refuses_a_bad_range(floor, farthest):
    with pytest.raises(Exception, match="farthest"):
        floor(8, farthest)


def test_a_plane_whose_sign_is_unknown_is_refused():
    with pytest.raises(ArithmeticError, match="cannot be told from 0"):
        certificates._plane(arb(0.5), arb(0, 1e-9))
    assert [float(x) for x in certificates._plane(arb(0.5), arb(-0.25))] == [0.25, 0.125]
    assert [float(x) for x in certificates._plane(arb(0.5), arb(0.25))] == [0.5, 0]


def test_sign_of_the_trace_bound_in_one_ball():
    low, high = certificates.first_zero(8)
    assert certificates.trace_bound_sign(low, 8) == 1 and certificates.trace_bound_sign(high, 8) == -1
    assert certificates.trace_bound_sign(0.0, 8) == 1


def test_floors_by_context_fall_to_zero_at_the_first_zero():
    zero, _ = certificates.first_zero(32)
    lengths, floors = certificates.floors_by_context(32, 10_000.0, zero, pieces=4)
    assert lengths[0] == 11 and lengths[-1] == pytest.approx(zero / 2 + 1) and len(lengths) == len(floors) == 4
    assert floors == sorted(floors, reverse=True) and abs(floors[-1]) < 1e-3
    assert floors[0] == pytest.approx(certificates.certified_minimum(32, 0, 20)[0], abs=2e-4)
