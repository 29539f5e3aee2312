"""The steps of App. C.3's proofs, and of what this book adds to them, each as a decision.

By computer algebra, or by a run of the flow where a statement is about its limit. Every function is true as the proofs
state it; what it takes beyond its data breaks one hypothesis or changes the formula. Symbols as in `flows`; ``E`` is
``e^{s_f}``, the forward attention odds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import mpmath
import numpy as np
import sympy as sp
from scipy.special import expit

from lib.encodings import rope_frequencies
from lib.theory import flows, routing, symbolic
from lib.theory.dynamics_proofs import (
    ALPHA_F,
    OTHER,
    TARGET,
    TOKEN,
    general_gradient,
    step_raises_any_margin,
    sum_over_vocabulary,
)
from lib.theory.validation import Count, Number

_N = sp.Symbol("n", integer=True, positive=True)
_E, _C, _KAPPA = sp.symbols("E C kappa", positive=True)
_HALF = sp.Rational(1, 2)

# Margins and scores -------------------------------------------------------------------------------------------


def loss_pays_for_the_path(planes: int, gated: bool = True) -> bool:
    """Whether dl/dt = -|d theta/dt|^2 under the speeds of `c3-margins`, query and key learned, three tokens.

    :param gated: the softmax gate 1 - alpha in the speed of the score
    """
    alpha, *w = sp.symbols("alpha w_0:3", real=True)
    q, k = (sp.Matrix(sp.symbols(f"{name}_0:{2 * planes}", real=True)) for name in "qk")
    turn = routing.block_rotation(sp.symbols(f"phi_0:{planes}", real=True))
    p = symbolic.softmax([alpha * x for x in w])
    force = alpha * (1 - alpha) ** int(gated) * sum(p[v] * (w[0] - w[v]) for v in (1, 2))  # beta
    to_column = [-alpha * (p[v] - int(v == 0)) for v in range(3)]
    to_query, to_key = force * turn * k, force * turn.T * q
    loss, score = symbolic.cross_entropy([alpha * x for x in w], 0), (q.T * turn * k)[0]
    score_speed = sum(sp.diff(score, x) * v for x, v in zip([*q, *k], [*to_query, *to_key], strict=True))
    fall = sum(sp.diff(loss, x) * v for x, v in zip(w, to_column, strict=True))
    fall += sp.diff(loss, alpha) * alpha * (1 - alpha) * score_speed
    return symbolic.vanishes(fall + sum(v**2 for v in (*to_column, *to_query, *to_key)))


def margins_and_route_are_pushed(same_target: bool = True) -> bool:
    """The derivatives in `c3-margins`, vocabulary symbolic: dm_v/dt = alpha (1 - p(A) + p(v)) and -dl/dalpha = sum p m.

    Also ``sigma' = sigma (1 - sigma)``.

    :param same_target: the flow is trained on A, whose margins these are
    """
    alpha, s, w, y = sp.Symbol("alpha", positive=True), sp.Symbol("s", real=True), sp.IndexedBase("w"), TOKEN
    trained = TARGET if same_target else OTHER
    weight = sp.exp(alpha * w[y])
    partition, weighted = sp.Sum(weight, (y, 1, _N)), sp.Sum(weight * w[y], (y, 1, _N))
    force = -sp.diff(sp.log(partition) - alpha * w[trained], alpha)
    sigmoid = 1 / (1 + sp.exp(-s))
    return (
        step_raises_any_margin(same_target)
        and sp.simplify(sp.expand((force - w[TARGET]) * partition + weighted)) == 0  # sum p (w_A - w_v)
        and symbolic.vanishes(sp.diff(sigmoid, s) - sigmoid * (1 - sigmoid))
    )


def rope_score_speeds(planes: int, reverse_sign: int = -1) -> bool:
    """Whether dk/dt along the gradient of s_f moves s_f by |q|^2 and s_r by g(q), for any frequencies and distances.

    :param reverse_sign: side of B in the reverse prompt; 1 is the side it has in the forward one
    """
    q, k = (sp.Matrix(sp.symbols(f"{name}_0:{2 * planes}", real=True)) for name in "qk")
    there, back, *theta = sp.symbols(f"Delta_1 Delta_2 theta_0:{planes}", real=True)
    forward = routing.block_rotation([there * a for a in theta])
    reverse = routing.block_rotation([reverse_sign * back * a for a in theta])
    force = (q.T * forward * k).jacobian(k).T  # gradient of s_f in k
    g = sum((q[2 * i] ** 2 + q[2 * i + 1] ** 2) * sp.cos((there + back) * a) for i, a in enumerate(theta))
    speeds = (q.T * forward * force)[0], (q.T * reverse * force)[0]
    return symbolic.vanishes(speeds[0] - q.dot(q)) and symbolic.vanishes(speeds[1] - g)


def alibi_score_speed(both_learned: bool = True) -> bool:
    """Whether the ALiBi score moves by |q|^2 + |k|^2 where query and key are learned; three coordinates."""
    q, k = (sp.Matrix(sp.symbols(f"{name}_0:3", real=True)) for name in "qk")
    speed = sum(sp.diff(q.dot(k), x) ** 2 for x in ([*q, *k] if both_learned else k))
    return symbolic.vanishes(speed - q.dot(q) - k.dot(k))


def rope_reaches_one(*, count: Count, dim: Count, low: float, high: float, vocab: int, log_t_max: Number,
                     seed: Count) -> bool:
    """Whether both probabilities miss 1 by less than 1e-6 at the end of each integrated flow.

    Query, key and distances (1 to 50) are random, with rho between ``low`` and ``high``.
    """
    rng, theta = np.random.default_rng(seed), rope_frequencies(int(dim))
    while count:
        query, key = rng.standard_normal((2, dim)) / dim**0.25
        there, back = rng.integers(1, 51, 2)
        if not low < query @ routing.rotation_matrix((there + back) * theta) @ query / (query @ query) < high:
            continue
        count -= 1
        path = flows.TwoTokenFlow.rope(there * theta, back * theta).run(
            np.zeros(vocab), query, key, np.linspace(1, log_t_max, 120))
        if min(path.forward_log_odds[-1], path.reverse_log_odds[-1]) <= np.log(1e6):
            return False
    return True


def alibi_flow(
    learned: Sequence[str], biases: tuple[float, float], vocab: int, log_t_max: Number, seed: Count, turn: int = 1
) -> flows.FlowTrajectory:
    """The integrated ALiBi flow from a random query and key of four coordinates.

    :param biases: -mu Delta_1 and -mu Delta_2
    :param turn: -1 turns the reverse score by half a turn
    """
    query, key = np.random.default_rng(seed).standard_normal((2, 4)) / 2
    flow = flows.TwoTokenFlow(np.eye(4), turn * np.eye(4), *biases, frozenset(learned))
    return flow.run(np.zeros(vocab), query, key, np.linspace(1, log_t_max, 120))


def alibi_reaches_one(biases: tuple[float, float], vocab: int, log_t_max: Number, seed: Count, turn: int = 1) -> bool:
    """Whether both probabilities rise all the way, with nothing, the key or both learned.

    At the end forward misses 1 by less than 1e-6 and reverse by less than 0.1.
    """
    for learned in ((), ("key",), ("query", "key")):
        path = alibi_flow(learned, biases, vocab, log_t_max, seed, turn)
        forward, reverse = path.forward_log_odds, path.reverse_log_odds
        rising = (np.diff(forward) > 0).all() and (np.diff(reverse) > 0).all()
        if not (rising and forward[-1] > np.log(1e6) and reverse[-1] > np.log(9)):
            return False
    return True


# Conserved quantities -----------------------------------------------------------------------------------------


def energy_is_conserved(gated: bool = True) -> bool:
    """Whether e^s + s - c/2 |W_B|^2 has derivative 0 with the key learned, vocabulary and start symbolic.

    :param gated: the softmax gate 1 - alpha in the speed of the score
    """
    w, p, (s, c) = sp.IndexedBase("w"), sp.IndexedBase("p"), sp.symbols("s c", positive=True)
    alpha = sp.exp(s) / (1 + sp.exp(s))
    mean = sp.Sum(p[TOKEN] * w[TOKEN], (TOKEN, 1, _N))
    score_speed = c * alpha * (1 - alpha) ** int(gated) * (w[TARGET] - mean)
    to_target = sum_over_vocabulary(sp.KroneckerDelta(TOKEN, TARGET) * w[TOKEN])
    half_square_speed = alpha * (to_target - mean)  # sum of w_v dw_v/dt
    return bool(sp.simplify((1 + sp.exp(s)) * score_speed - c * half_square_speed) == 0)


def matrix_is_conserved(dim: int, query_learned: bool = True) -> bool:
    """Whether q q^T - k k^T and (|q|^2 + |k|^2)^2 - 4 (q.k)^2 are constant under dq/dt = beta k, dk/dt = beta q."""
    q, k = (sp.Matrix(sp.symbols(f"{name}_0:{dim}", real=True)) for name in "qk")
    speed = dict(zip([*q, *k], [*(k * int(query_learned)), *q], strict=True))
    conserved = [*(q * q.T - k * k.T), (q.dot(q) + k.dot(k)) ** 2 - 4 * q.dot(k) ** 2]
    return all(sp.expand(sum(sp.diff(f, x) * speed[x] for x in speed)) == 0 for f in conserved)


def any_start_keeps_the_route(gated: bool = True) -> bool:
    """The steps of `n7-any-start`, vocabulary, column and start symbolic.

    The first integral; e^s + s rises with s from minus infinity, so it bounds s below; and d(m_v - m_u)/dt =
    alpha (p(v) - p(u)) has the sign of -(m_v - m_u), as p(v)/p(u) = exp(-alpha (m_v - m_u)).

    :param gated: as in `energy_is_conserved`
    """
    s, rest = sp.Symbol("s", real=True), sp.IndexedBase("rest")
    energy = sp.exp(s) + s
    bounds_below = bool(sp.diff(energy, s).is_positive) and sp.limit(energy, s, -sp.oo) == -sp.oo
    derivative, p = (part.subs({rest[token]: 0 for token in (TARGET, OTHER, TOKEN)})
                     for part in general_gradient(ALPHA_F, TARGET))
    margin_speed = derivative - derivative.subs(TOKEN, TARGET)  # W_v moves by minus the derivative
    w, hits = sp.IndexedBase("w"), {sp.KroneckerDelta(TARGET, token): 0 for token in (OTHER, TOKEN)}
    gap_speed = (margin_speed - margin_speed.subs(TOKEN, OTHER)).subs(hits)
    ratio = p / p.subs(TOKEN, OTHER)
    narrows = (sp.simplify(gap_speed - ALPHA_F * (p - p.subs(TOKEN, OTHER))) == 0
               and sp.simplify(ratio * sp.exp(ALPHA_F * (w[OTHER] - w[TOKEN]))) == 1)  # m_v - m_u = w_u - w_v
    return energy_is_conserved(gated) and bounds_below and narrows


def route_recovers_from_any_start(vocab: int, q_norm2: Number, seed: Count, learned: Iterable[str] = ("key",)) -> bool:
    """Whether s_f falls and recovers, margins end large and m_v - m_u never widens, from two columns against A."""
    rng = np.random.default_rng(seed)
    query, half = np.array([np.sqrt(q_norm2), 0.0]), np.array([0.6])
    for _ in range(2):
        column = 2 * rng.standard_normal(vocab)
        column[0] = column.min() - 2  # the start prefers every other token
        flow = flows.TwoTokenFlow.rope(half, half, learned)
        path = flow.run(column, query, np.array([0.3, -0.2]), np.linspace(1, 100, 50))
        gaps, route = np.ptp(path.margins, axis=1), path.forward_score
        recovers = route[:3].min() < route[0] < route[-1]
        if not (recovers and (np.diff(gaps) <= 1e-8).all() and path.margins[-1].min() > 90):
            return False
    return True


# Rates --------------------------------------------------------------------------------------------------------


def fixed_routing_is_solved(size_offset: int = 0) -> bool:
    """Whether e^y + (n - 1) y = 1 + n alpha^2 t, differentiated, is the flow of y = alpha m, for any n.

    :param size_offset: added to n - 1
    """
    n, y, alpha = sp.symbols("n y alpha", positive=True)
    speed = alpha * alpha * n / (sp.exp(y) + n - 1)  # alpha dm/dt
    total = sp.exp(y) + (n - 1 + size_offset) * y
    return symbolic.vanishes(sp.diff(total, y) * speed - n * alpha**2) and bool(total.subs(y, 0) == 1)


def fixed_routing_rate(
    biases: tuple[float, float], vocab: int, log_t_max: Number, seed: Count, factor: float = 1.0
) -> bool:
    """Whether log(1 - p) of the integrated flow ends at the stated forward and reverse rates, to 1e-6.

    :param factor: of the reverse exponent alpha_r / alpha_f
    """
    path = alibi_flow((), biases, vocab, log_t_max, seed)
    alpha_f, alpha_r = expit(path.forward_score[-1]), expit(path.reverse_score[-1])
    scaled = np.log(vocab * alpha_f**2) + path.log_time[-1]  # log(n alpha_f^2 t)
    stated = np.log(vocab - 1) - scaled * np.array([1, factor * alpha_r / alpha_f])
    found = -np.logaddexp(0, [path.forward_log_odds[-1], path.reverse_log_odds[-1]])
    return bool(np.allclose(found, stated, atol=1e-6))


def learned_key_rate(vocab: int, q_norm2: Number, shift: float = 0.0) -> bool:
    """Whether the late formula's error in log(1 - p_r) shrinks from m = 100 to 1000, for six rho from 1 to -0.2.

    :param shift: added to rho in the formula
    """
    solved = flows.solve_learned_key(np.array([100.0, 1000.0]), 0.4, vocab, q_norm2)
    for rho in (1, 0.75, 0.5, 0.3, 0, -0.2):
        log_miss = -np.logaddexp(0, solved.log_odds(solved.reverse_score(rho, -0.2)))
        stated = flows.log_miss_late(solved.log_time, rho + shift, 0.4, -0.2, vocab, q_norm2)
        early, late = np.abs(log_miss - stated)
        if not (late < 0.03 and late < early / 2):
            return False
    return True


def exponents_have_ratio(inverted: bool = False) -> bool:
    """Whether log(1 - p_r) / log(1 - p_f) tends to alpha_r / alpha_f as m grows, routing fixed, for any n and weights.

    ``1 - p = (n - 1) e^(-y) / (1 + (n - 1) e^(-y))`` with ``y = alpha m``: minus its logarithm over y tends to 1.

    :param inverted: expects alpha_f / alpha_r
    """
    n, m, alpha_f, alpha_r = sp.symbols("n m alpha_f alpha_r", positive=True)
    y = sp.Symbol("y", positive=True)
    per_y = sp.limit(sp.log((n - 1) / (sp.exp(y) + n - 1)) / y, y, sp.oo)
    found = per_y * alpha_r * m / (per_y * alpha_f * m)
    return bool(per_y == -1 and sp.simplify(found - (alpha_f / alpha_r if inverted else alpha_r / alpha_f)) == 0)


def rates_stay_apart(
    learned: Sequence[str], biases: tuple[float, float], vocab: int, log_t_max: Number, seed: Count
) -> bool:
    """Whether log(1 - p_r) / log(1 - p_f) of the integrated ALiBi flow ends more than a tenth away from 1."""
    path = alibi_flow(learned, biases, vocab, log_t_max, seed)
    reverse, forward = (np.logaddexp(0, odds[-1]) for odds in (path.reverse_log_odds, path.forward_log_odds))
    return bool(abs(reverse / forward - 1) > 0.1)


# The threshold ------------------------------------------------------------------------------------------------


def evidence_limit_as_stated(rho: sp.Rational, threshold: sp.Rational = -_HALF) -> bool:
    """Whether alpha_r m along the conserved quantity tends to infinity above the threshold, to K at it, to 0 below."""
    start = sp.Symbol("E_0", real=True)
    margin = sp.sqrt((_E + sp.log(_E) - start) / _KAPPA)
    odds = _C * _E**rho  # e^{s_r}, C = e^{s_r(0) - rho s_f(0)}
    found = sp.limit(margin * odds / (1 + odds), _E, sp.oo)
    stated = sp.oo if rho > threshold else _C / sp.sqrt(_KAPPA) if rho == threshold else sp.S.Zero
    return bool(found == stated or sp.simplify(found - stated) == 0)


def solved_flow_reaches(limit: Callable[..., float], seed: Count) -> bool:
    """Whether p_r at a margin of 1e100 is the claimed limit to 0.02, for eleven rho and random starts, n and c.

    :param limit: of rho, s_f(0), s_r(0), n and c, as `flows.reverse_limit`
    """
    rng = np.random.default_rng(seed)
    for rho in (1, 0.3, 0, -0.2, -0.45, -0.49, -0.5, -0.51, -0.55, -0.8, -1):
        s_f0, s_r0, c = *rng.normal(size=2), rng.uniform(0.5, 10)
        n = int(rng.integers(2, 50))
        s_r = s_r0 + rho * (flows.learned_key_score(1e100, s_f0, n, c) - s_f0)
        if not np.isclose(expit(flows.log_odds_at(s_r, 1e100, n)), limit(rho, s_f0, s_r0, n, c), atol=0.02):
            return False
    return True


def integrated_flow_reaches(rho: float, vocab: int, q_norm2: Number, log_t_max: Number, seed: Count) -> bool:
    """Whether alpha_r m_v of the flow from a random column ends at K, the limit at rho = -1/2, to two percent."""
    half, query = np.array([np.arccos(rho) / 2]), np.array([np.sqrt(q_norm2), 0.0])
    frame = np.stack([query @ routing.rotation_matrix(half), query @ routing.rotation_matrix(-half)])
    s_f0, s_r0 = 0.5, 0.2
    key = np.linalg.solve(frame, [s_f0, s_r0])  # starts both scores there
    column = np.random.default_rng(seed).standard_normal(vocab)
    path = flows.TwoTokenFlow.rope(half, half).run(column, query, key, np.linspace(1, log_t_max, 120))
    K = np.exp(s_r0 + s_f0 / 2) * np.sqrt(2 * vocab / (q_norm2 * (vocab - 1)))
    return bool(np.allclose(expit(path.reverse_score[-1]) * path.margins[-1], K, rtol=0.02))


def learned_query_scores(vocab: int, log_t_max: Number, seed: Count, learned: Iterable[str] = ("query", "key")) -> bool:
    """Whether both score formulas of `n7-learned-query` hold along four integrated flows of two planes, to 1e-6."""
    rng = np.random.default_rng(seed)
    for _ in range(4):
        query, key, (forward, reverse) = rng.standard_normal(4), rng.standard_normal(4), rng.uniform(0, 3, (2, 2))
        path = flows.TwoTokenFlow.rope(forward, reverse, learned).run(
            np.zeros(vocab), query, key, np.linspace(1, log_t_max, 120))
        there, R = routing.rotation_matrix(forward), routing.rotation_matrix(forward + reverse)
        a, b = query + there @ key, query - there @ key
        growth = ((path.query + path.key @ there.T) ** 2).sum(1) / (a @ a)  # e^(2 theta)
        s_f = (growth * (a @ a) - (b @ b) / growth) / 4
        s_r = (growth * (a @ R @ a) - (b @ R @ b) / growth + a @ (R - R.T) @ b) / 4
        if not (np.allclose(s_f, path.forward_score, atol=1e-6) and np.allclose(s_r, path.reverse_score, atol=1e-6)):
            return False
    return True


def learned_query_limit_as_stated(rho: sp.Rational, boundary_opens: bool = False) -> bool:
    """Whether alpha_r m along m^2 = n/(n-1) e^s/s tends to infinity above rho = -1/2 and to 0 from there down.

    Also that this growth of m^2 is the right one, as a ratio of derivatives.

    :param boundary_opens: counts rho = -1/2 as above
    """
    s, C, const = sp.symbols("s C B", positive=True)
    odds = const * sp.exp(rho * s)
    evidence = sp.sqrt(_KAPPA * sp.exp(s) / s) * odds / (1 + odds)
    growth = (1 + sp.exp(s)) / sp.sqrt(C + 4 * s**2) / sp.diff(sp.exp(s) / (2 * s), s)
    stated = sp.oo if rho > -_HALF or (rho == -_HALF and boundary_opens) else 0
    return bool(sp.limit(evidence, s, sp.oo) == stated and sp.limit(growth, s, sp.oo) == 1)


# Full gradients -----------------------------------------------------------------------------------------------


def full_inner_product_holds(seed: Count, reverse_sign: int = -1) -> bool:
    """Whether sympy's gradients over column and key have the inner product of `n5-full-gradient`, at rational points.

    To 30 digits, n = 3, one plane, equal margins m, five random points.

    :param reverse_sign: side of B in the reverse prompt; 1 is the side it has in the forward one
    """
    n, w, (m, x, y) = 3, sp.symbols("w_0:3", real=True), sp.symbols("m x y", real=True)
    q, k = (sp.Matrix(sp.symbols(f"{name}_0:2", real=True)) for name in "qk")

    def loss(angle: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        alpha = 1 / (1 + sp.exp(-(q.T * routing.rotation(angle) * k)[0]))
        return symbolic.cross_entropy([alpha * value for value in w], 0), alpha

    (loss_f, alpha_f), (loss_r, alpha_r) = loss(x), loss(reverse_sign * y)
    inner = sum(sp.diff(loss_f, v) * sp.diff(loss_r, v) for v in (*w, *k))
    missed = [(n - 1) / (sp.exp(alpha * m) + n - 1) for alpha in (alpha_f, alpha_r)]
    bracket = sp.Rational(n, n - 1) + (1 - alpha_f) * (1 - alpha_r) * m**2 * q.dot(q) * sp.cos(x + y)
    gap = inner - alpha_f * alpha_r * missed[0] * missed[1] * bracket
    gap = gap.subs({w[0]: m + w[-1], **dict.fromkeys(w[1:-1], w[-1])})
    evaluate = sp.lambdify([*q, *k, m, x, y, w[-1]], gap, "mpmath", cse=True)
    rng = np.random.default_rng(seed)
    with mpmath.workdps(40):
        points = [[mpmath.mpf(int(number)) / 7 for number in rng.integers(-9, 10, 8)] for _ in range(5)]
        return all(abs(evaluate(*point)) < 1e-30 for point in points)


def late_agreement_as_stated(gated: bool = True) -> bool:
    """Whether the bracket of `n5-full-gradient` tends to 1 + 2 rho along the conserved quantity, rho = -1/4, -3/4.

    :param gated: the forward softmax gate 1 - alpha_f
    """
    margin2 = (_E + sp.log(_E)) / _KAPPA

    def limit(rho: sp.Rational) -> sp.Expr:
        bracket = 1 + 2 * _KAPPA * rho * margin2 / (1 + _E) ** int(gated) / (1 + _C * _E**rho)
        return sp.limit(bracket, _E, sp.oo)

    return all(limit(rho) == 1 + 2 * rho for rho in (-sp.Rational(1, 4), -sp.Rational(3, 4)))


def gradients_oppose_where_reverse_falls(solved: flows.SolvedFlow, rho: float) -> bool:
    """Whether the inner product is negative somewhere along the flow, and the reverse probability falls just there.

    At 98 percent of the points at least.
    """
    odds = solved.log_odds(solved.reverse_score(rho))
    falls, negative = np.gradient(odds, solved.margin) < 0, solved.agreement(rho) < 0
    return bool(negative.any() and (falls == negative).mean() > 0.98)
