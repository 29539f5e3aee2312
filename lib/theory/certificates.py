"""App. B at every real distance, proved by ball arithmetic (Arb, through python-flint).

T_d(x) = (1/m) sum_i cos(x theta_i) is the trace bound of Thm 4.3. A table of its values at integers leaves open what
happens between them, and a value in floating point carries an unknown rounding error. Here every number is a ball that
contains the true one, and what is returned are floats rounded outwards.

The method: the axis is cut into cells. In a cell with centre c and half-width r, Taylor's theorem gives
T_d(c + h) >= T_d(c) + T_d'(c) h + T_d''(c) h^2/2 - M r^3/6 for |h| <= r, with M = (1/m) sum_i theta_i^3 >= |T_d'''|.
Where that does not settle the question the cell is halved. A grid of cells is evaluated at once, as a product
of matrices, by cos(theta (X + h)) = cos(theta X) cos(theta h) - sin(theta X) sin(theta h).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count, pairwise
from numbers import Integral

from flint import acb, arb, arb_mat, ctx

from lib.encodings import rope_frequencies
from lib.theory.validation import Count, Number, one_distance, strictly_between

_BITS = 64  # working precision, where it need not rise
_RISING_BITS = [_BITS << doublings for doublings in range(9)]
_CELL = 2.0  # width of the first cells, in positions: the fastest plane turns by two radians
_ROWS, _COLUMNS = 16, 64  # of the grids that are evaluated at once
_FARTHEST = 1e7


# T_d and its derivatives -----------------------------------------------------------------------------------------


@dataclass(order=True)
class _Cell:
    """A piece of the axis with a proved lower bound of T_d on it; cells sort by that bound."""

    lower: float
    centre: arb = field(compare=False)
    half: arb = field(compare=False)
    value: arb = field(compare=False)  # T_d at the centre


@dataclass(frozen=True)
class _Comb:
    """Cells of one half-width at given offsets from wherever the comb is laid."""

    offsets: list[arb]
    half: arb
    matrix: arb_mat  # times the waves of the starts: T_d, T_d', T_d'' at each start + offset


class _Trace:
    """T_d in ball arithmetic."""

    def __init__(self, head_dim: Count, base: Number) -> None:
        planes = len(rope_frequencies(head_dim, base))
        self.theta = [arb(float(base)) ** (-arb(i) / planes) for i in range(planes)]
        self.third = self._mean([theta**3 for theta in self.theta])  # bounds the third derivative

    def _mean(self, numbers: list[arb]) -> arb:
        return sum(numbers, arb(0)) / len(numbers)

    def value(self, x: arb) -> arb:
        """T_d(x)."""
        return self._mean([(theta * x).cos() for theta in self.theta])

    def comb(self, cells: int, half: arb) -> _Comb:
        """Neighbouring cells of half-width ``half``, the first from 0 to 2 half."""
        offsets = [(2 * cell + 1) * half for cell in range(cells)]
        rows = [row for offset in offsets for row in self._rows(*self._wave(offset))]
        return _Comb(offsets, half, arb_mat(rows).transpose())

    def cells(self, starts: list[arb], comb: _Comb) -> Iterator[_Cell]:
        """The cells of the comb, laid at each of the starts."""
        waves = arb_mat([[*cosines, *sines] for cosines, sines in map(self._wave, starts)])
        jets = iter((waves * comb.matrix).entries())
        for start in starts:
            for offset in comb.offsets:
                jet = (next(jets), next(jets), next(jets))
                yield _Cell(_down(_least(*jet, comb.half, self.third)), start + offset, comb.half, jet[0])

    def halves(self, cell: _Cell) -> list[_Cell]:
        """The left and the right half of a cell."""
        return list(self.cells([cell.centre - cell.half], self.comb(2, cell.half / 2)))

    def _wave(self, x: arb) -> tuple[list[arb], list[arb]]:
        """cos(theta_i x) and sin(theta_i x) of all planes."""
        pairs = [(theta * x).sin_cos() for theta in self.theta]
        return [cosine for _, cosine in pairs], [sine for sine, _ in pairs]

    def _rows(self, cosines: list[arb], sines: list[arb]) -> Iterator[list[arb]]:
        """Three rows that, times the wave (cos, sin)(theta X), give T_d, T_d', T_d'' at X + this offset."""
        planes = len(self.theta)
        cosines, sines = [c / planes for c in cosines], [-s / planes for s in sines]
        for _ in range(3):
            yield cosines + sines
            # d/dx: cos -> -theta sin, and -sin -> -theta cos
            cosines, sines = (
                [theta * s for theta, s in zip(self.theta, sines, strict=True)],
                [-theta * c for theta, c in zip(self.theta, cosines, strict=True)],
            )


def _least(value: arb, slope: arb, curve: arb, half: arb, third: arb) -> arb:
    """Lower bound of value + slope h + curve h^2/2 - third |h|^3/6 over |h| <= half."""
    floor = value - third * half**3 / 6
    if curve > 0 and not abs(slope) >= curve * half:
        return floor - slope**2 / (2 * curve)  # the vertex: below the parabola everywhere
    bend = curve if curve > 0 else curve.min(arb(0))
    return floor - abs(slope) * half + bend * half**2 / 2


def _down(ball: arb) -> float:
    """A float below every number in the ball."""
    return math.nextafter(float(ball.lower()), -math.inf)


def _up(ball: arb) -> float:
    """A float above every number in the ball."""
    return math.nextafter(float(ball.upper()), math.inf)


# Minimum and first zero ------------------------------------------------------------------------------------------


def certified_minimum(
    head_dim: Count, low: Number, high: Number, base: Number = 10_000.0, *, width: Number = 1e-6
) -> tuple[float, float]:
    """Enclosure of the minimum of T_d(x) over every real x in [low, high].

    :param low: left end, in positions, not negative; ``high``: right end, above it
    :param width: of the enclosure, at least 1e-12
    :return: (lower, upper) with lower <= min T_d <= upper and upper - lower <= width
    :raises ValueError: for a bad head_dim or base, a negative distance or an empty interval
    """
    left, right = one_distance("low", low), one_distance("high", high)
    if left >= right:
        raise ValueError(f"low must be below high: [{low!r}, {high!r}] is empty")
    if not 1e-12 <= width < math.inf:
        raise ValueError(f"width must be at least 1e-12, not {width!r}")
    with ctx.workprec(_BITS + math.frexp(right)[1]):  # so that angles up to right * theta keep _BITS
        return _minimise(_Trace(head_dim, base), left, right, width)


def _minimise(trace: _Trace, low: float, high: float, width: Number) -> tuple[float, float]:
    """Branch and bound, best cell first."""
    upper = min(_up(trace.value(arb(low))), _up(trace.value(arb(high))))
    heap: list[_Cell] = []
    for cell in _cover(trace, low, high):
        upper = min(upper, _up(cell.value))
        if cell.lower < upper:
            heap.append(cell)
    heapq.heapify(heap)
    while heap and upper - heap[0].lower > width:
        for part in trace.halves(heapq.heappop(heap)):
            upper = min(upper, _up(part.value))
            heapq.heappush(heap, part)
    return (min(upper, heap[0].lower) if heap else upper), upper


def _cover(trace: _Trace, low: float, high: float) -> Iterator[_Cell]:
    """Cells of width at most `_CELL` whose union is [low, high]."""
    cells = math.ceil((high - low) / _CELL)
    columns = min(cells, _COLUMNS)
    rows = math.ceil(cells / columns)
    row_width = (arb(high) - arb(low)) / rows
    comb = trace.comb(columns, row_width / (2 * columns))
    for first in range(0, rows, _ROWS):
        some = range(first, min(first + _ROWS, rows))
        yield from trace.cells([arb(low) + row * row_width for row in some], comb)


def first_zero(head_dim: Count, base: Number = 10_000.0, *, farthest: Number = _FARTHEST) -> tuple[float, float]:
    """Enclosure, at most 1e-6 wide, of the smallest x > 0 with T_d(x) = 0; T_d > 0 everywhere before it.

    :param farthest: how far to look, in positions
    :return: (lower, upper): T_d > 0 on all of [0, lower] and T_d(upper) < 0
    :raises ValueError: for a bad head_dim, base or ``farthest``
    :raises ArithmeticError: if T_d is positive up to ``farthest``, or if it touches zero too flatly to decide
    """
    one_distance("farthest", farthest)
    with ctx.workprec(_BITS):
        trace = _Trace(head_dim, base)
        comb = trace.comb(_COLUMNS, arb(_CELL / 2))
        for first in count(0, _ROWS):
            if first * _COLUMNS * _CELL > farthest:
                break
            starts = [arb(row * _COLUMNS * _CELL) for row in range(first, first + _ROWS)]
            for cell in trace.cells(starts, comb):
                if cell.lower <= 0 and (found := _crossing(trace, cell)):
                    return found
    raise ArithmeticError(f"T_d has no zero up to {farthest:g} for head_dim {head_dim} and base {base:g}")


def _crossing(trace: _Trace, cell: _Cell) -> tuple[float, float] | None:
    """The leftmost crossing in a cell, or None where T_d proves positive on all of it."""
    pending = [cell]
    while pending:
        part = pending.pop()
        if part.lower > 0:
            continue
        left, right = part.centre - part.half, part.centre + part.half
        if 2 * part.half < 5e-7 and trace.value(right) < 0:
            return _down(left), _up(right)
        if 2 * part.half < 1e-15:
            raise ArithmeticError(f"T_d touches zero near {float(part.centre)!r}: its sign there is undecided")
        pending.extend(reversed(trace.halves(part)))
    return None


def guaranteed_context(zero: Number) -> int:
    """The longest context, in tokens, within which T_d(2 Delta) > 0 for every two positions Delta apart.

    L tokens hold distances up to L - 1, so it is the largest L with 2 (L - 1) <= ``zero``.

    :param zero: the lower end of `first_zero`, in positions
    :raises ValueError: for a negative or infinite zero
    """
    return math.floor(one_distance("zero", zero) / 2) + 1


def trace_bound_sign(total_distance: Number, head_dim: Count, base: Number = 10_000.0) -> int:
    """Sign of T_d(x), proved by one ball of 100 bits; 0 where the ball does not decide.

    :param total_distance: x, in positions
    """
    with ctx.workprec(100):
        value = _Trace(head_dim, base).value(arb(one_distance("total_distance", total_distance)))
        return int(value > 0) - int(value < 0)


def floors_by_context(
    head_dim: Count, base: Number, zero: Number, pieces: Count = 13
) -> tuple[list[float], list[float]]:
    """Contexts L in tokens, evenly on a logarithmic scale, and the certified least T_d(2 Delta) within each.

    :param zero: total distance, in positions, at which the last context ends; see `first_zero`
    """
    edges = [0.0, *(20 * (zero / 20) ** (step / (pieces - 1)) for step in range(pieces - 1)), zero]
    lows = [certified_minimum(head_dim, low, high, base, width=1e-4)[0] for low, high in pairwise(edges)]
    return [edge / 2 + 1 for edge in edges[1:]], list(accumulate(lows, min))


# Enclosures of the exact tail and of the expectation at unequal distances ------------------------------------------


def tail_enclosure(
    distance: Number, threshold: Number, head_dim: Count, base: Number = 10_000.0, *, width: Number = 1e-12
) -> tuple[float, float]:
    """Enclosure of P(sum_i w_i cos(2 Delta theta_i) >= t) by partial fractions, at rising precision.

    With lambda_i = cos(2 Delta theta_i) - t, all different, the probability is the sum over lambda_i > 0 of
    prod_{j != i} lambda_i / (lambda_i - lambda_j). The terms are huge and cancel: balls tell when enough bits
    were carried.

    :param distance: Delta, of the evidence on either side, in positions
    :return: (lower, upper), at most ``width`` apart
    :raises ValueError: for a bad argument
    :raises ArithmeticError: if two lambdas, or one of them and 0, cannot be told apart
    """
    delta = one_distance("distance", distance)
    level = float(strictly_between("threshold", threshold, -1, 1))
    surplus = lambda: [(2 * delta * theta).cos() - level for theta in _Trace(head_dim, base).theta]
    total = _enclosed_tail(surplus, width / 4, f"distance {distance!r}")
    return _down(total), _up(total)


def _enclosed_tail(values: Callable[[], list[arb]], width: float, where: str) -> arb:
    """P(sum_i w_i v_i >= 0) as a ball of radius below ``width``; the values are formed anew at each precision."""
    for bits in _RISING_BITS:
        with ctx.workprec(bits):
            total = _partial_fractions(values())
            if total is not None and total.rad() < width:
                return total
    raise ArithmeticError(f"two planes coincide at {where}: partial fractions do not apply")


def _partial_fractions(values: list[arb]) -> arb | None:
    """Sum over positive values of prod_{j != i} v_i / (v_i - v_j); None where the balls do not separate."""
    total = arb(0)
    for i, value in enumerate(values):
        if not (value > 0 or value < 0):
            return None
        if value > 0:
            term = arb(1)
            for j, other in enumerate(values):
                term *= value / (value - other) if j != i else 1
            total += term
    return total if total.is_finite() else None


def unequal_distance_enclosure(
    delta1: Number, delta2: Number, head_dim: Count, base: Number = 10_000.0
) -> tuple[float, float]:
    """Enclosure of E_q[inf_kappa surrogate] (B.3), by rigorous integration.

    The integral over s in [0, oo) becomes one of a rational function over u = s/(1+s) in [0, 1]:
    (1-u)^(m-1) (sum_i n_i/(1-u(1-D_i))) prod_j 1/(1-u(1-D_j)).

    :return: (lower, upper)
    :raises ValueError: for a bad argument
    :raises ArithmeticError: if some cos((Delta_1 - Delta_2) theta_i) cannot be told from 0
    """
    first, second = one_distance("delta1", delta1), one_distance("delta2", delta2)
    with ctx.workprec(_BITS):
        integrand = _surrogate(_Trace(head_dim, base).theta, arb(first), arb(second))
        result = acb.integral(integrand, 0, 1, rel_tol=arb(2) ** -50, abs_tol=arb(2) ** -50).real
        if not result.is_finite():
            raise ArithmeticError(f"the integral at distances {delta1!r}, {delta2!r} does not converge")
        return _down(result), _up(result)


def grid_floor(head_dim: Count, farthest: Count, base: Number = 10_000.0) -> float:
    """Proved lower bound of E_q[inf_kappa surrogate] over all integers 1 <= Delta_1, Delta_2 <= farthest.

    It is the least floor of the grid, in ball arithmetic. The floor of a cell is made of means only,
    (n - (cov + var) / D) / D: n and D are the means of the planes' n_i and D_i (`bounds.unequal_distance_planes`);
    cov = Cov(N, D) and var = Var(D) follow from the law of w. It drops (N/D) (D - E D)^2 / (E D)^2, which is at least
    -(D - E D)^2 / (E D)^2 because |N| <= D.

    :raises ValueError: for a bad head_dim, base or ``farthest``
    """
    with ctx.workprec(_BITS):
        return min(_down(_floor(planes)) for _, _, planes in _grid(head_dim, farthest, base))


def correlation_floor(head_dim: Count, farthest: Count, base: Number = 10_000.0) -> float:
    """Proved lower bound of E_q[inf_kappa Corr] over all integers 1 <= Delta_1, Delta_2 <= farthest.

    It is the least of the floor of `grid_floor` minus P(N < 0), in ball arithmetic. The probability is bounded by
    Chernoff's inequality everywhere, and enclosed where that would set the least value.

    :raises ValueError: for a bad head_dim, base or ``farthest``
    :raises ArithmeticError: if it must be enclosed where two planes coincide
    """
    with ctx.workprec(_BITS):
        cells = [(_down(_floor(planes) - _chernoff([n for n, _ in planes])), False, first, second)
                 for first, second, planes in _grid(head_dim, farthest, base)]
    heapq.heapify(cells)
    while not cells[0][1]:
        _, _, first, second = cells[0]
        heapq.heapreplace(cells, (_repaired(head_dim, base, first, second), True, first, second))
    return cells[0][0]


def _grid(head_dim: Count, farthest: Count, base: Number) -> Iterator[tuple[int, int, list[tuple[arb, arb]]]]:
    """Delta_1 >= Delta_2 and the planes' n_i and 1 - D_i, for every cell of the grid up to symmetry."""
    if isinstance(farthest, bool) or not isinstance(farthest, Integral) or farthest < 1:
        raise ValueError(f"farthest must be a positive integer, not {farthest!r}")
    theta = _Trace(head_dim, base).theta
    cosines = [[(total * speed).cos() for speed in theta] for total in range(2 * int(farthest) + 1)]
    for first in range(1, int(farthest) + 1):
        for second in range(1, first + 1):
            pairs = zip(cosines[first + second], cosines[first - second], strict=True)
            yield first, second, [_plane(*pair) for pair in pairs]


def _chernoff(values: list[arb]) -> arb:
    """Upper bound on P(sum_i v_i E_i < 0), E_i standard exponential: the least of some E exp(-s sum_i v_i E_i)."""
    lowest = min(float(value.mid()) for value in values)
    if lowest > 0 and all(value > 0 for value in values):
        return arb(0)
    least = arb(1)
    for share in (0.2, 0.35, 0.5, 0.65, 0.8) if lowest < 0 else ():
        factors = [1 - share / lowest * value for value in values]
        if all(factor > 0 for factor in factors):
            least = least.min(math.prod((1 / factor for factor in factors), start=arb(1)))
    return least


def _repaired(head_dim: Count, base: Number, first: int, second: int) -> float:
    """Lower bound of one cell, with P(N < 0) enclosed to 1e-6."""

    def planes() -> list[tuple[arb, arb]]:
        theta = _Trace(head_dim, base).theta
        return [_plane(((first + second) * speed).cos(), ((first - second) * speed).cos()) for speed in theta]

    tail = _enclosed_tail(lambda: [n for n, _ in planes()], 1e-6, f"distances {first}, {second}")
    with ctx.workprec(_BITS):
        return _down(_floor(planes()) - (1 - tail))


def _floor(planes: list[tuple[arb, arb]]) -> arb:
    """(n - (cov + var) / D) / D of one cell, from the planes' n_i and 1 - D_i."""
    mean = sum((n for n, _ in planes), arb(0)) / len(planes)
    centre = 1 - sum((rest for _, rest in planes), arb(0)) / len(planes)
    spread = sum(((1 - rest - centre) * (n + 1 - rest) for n, rest in planes), arb(0))
    return (mean - spread / (len(planes) * (len(planes) + 1)) / centre) / centre


def _plane(a: arb, b: arb) -> tuple[arb, arb]:
    """n_i and 1 - D_i of one plane at the worst kappa."""
    if b < 0:
        return a + b, -a * b
    if b >= 0:
        return a, arb(0)
    raise ArithmeticError(f"cos((delta1 - delta2) theta) = {b} cannot be told from 0")


def _surrogate(theta: list[arb], delta1: arb, delta2: arb) -> Callable[[acb, bool], acb]:
    """The integrand over u in [0, 1]."""
    planes = [_plane(((delta1 + delta2) * speed).cos(), ((delta1 - delta2) * speed).cos()) for speed in theta]
    plain = sum((numerator for numerator, rest in planes if rest.is_zero()), arb(0))
    tilted = [(numerator, rest) for numerator, rest in planes if not rest.is_zero()]

    def integrand(u: acb, _: bool) -> acb:
        total, product = acb(plain), (1 - u) ** (len(planes) - 1)
        for numerator, rest in tilted:
            factor = 1 / (1 - u * rest)
            total += numerator * factor
            product *= factor
        return total * product

    return integrand
