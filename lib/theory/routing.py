"""Routing (Sec. 4.2, Apps. A.3 and A.4): how the forward and the reverse attention score correlate under RoPE.

Given the mask's query q, both scores s_f = q^T R(Delta_1) k and s_r = q^T R(-Delta_2) k are linear in the key k, so
their correlation needs nothing but q and Cov(k | q).

* *In numbers*: the exact correlation for any covariance; Assumption 4.2's covariances, and two that break it.
* *In symbols*: the moments of one plane and the pairwise identity, from which the proof of Thm 4.3 is made.

Symbols follow the paper: plane i has the coordinates (2 i, 2 i + 1), weight w_i = |q_i|^2 / |q|^2, cosine
c_i = cos(2 Delta theta_i) and alignment kappa_i; ``tau2`` is the trace of a plane's key covariance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from lib.encodings import rope_frequencies
from lib.theory.symbolic import Kernel, Moments, StandardNormal, pearson_correlation, vanishes
from lib.theory.validation import Count, Number, Reals

# In numbers ---------------------------------------------------------------------------------------------------


def rotate(x: Float[np.ndarray, "*batch dim"], angles: Float[np.ndarray, " half"]) -> Float[np.ndarray, "*batch dim"]:
    """R x: rotate plane i, coordinates (2 i, 2 i + 1), counter-clockwise by angles[i] radians.

    :raises ValueError: if there are not as many angles as planes
    """
    if x.shape[-1] != 2 * len(angles):
        raise ValueError(f"angles must hold one angle a plane, {x.shape[-1] // 2}, not {len(angles)}")
    first, second = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = np.cos(angles) * first - np.sin(angles) * second
    turned[..., 1::2] = np.sin(angles) * first + np.cos(angles) * second
    return turned


def rotation_matrix(angles: Float[np.ndarray, " half"]) -> Float[np.ndarray, "dim dim"]:
    """R with these plane angles, in radians."""
    return rotate(np.eye(2 * len(angles)), angles).T


def plane_weights(query: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch half"]:
    """w_i = |q_i|^2 / |q|^2, the weight of plane i in the bound sum_i w_i cos(2 Delta theta_i)."""
    energy = (query.reshape(*query.shape[:-1], -1, 2) ** 2).sum(-1)
    return energy / energy.sum(-1, keepdims=True)


def plane_cosines(
    total_distance: Reals, head_dim: Count, base: Number = 10_000.0
) -> Float[np.ndarray, "*distances planes"]:
    """c_i = cos((Delta_1 + Delta_2) theta_i) of every plane; distances in positions."""
    return np.cos(np.multiply.outer(total_distance, rope_frequencies(head_dim, base)))


def query_bound(
    query: Float[np.ndarray, "*batch dim"], distance: Reals, base: Number = 10_000.0
) -> Float[np.ndarray, "*batch *distances"]:
    """sum_i w_i cos(2 Delta theta_i), the bound of Thm 4.3 for a given query.

    :param distance: Delta in positions, of the evidence on either side; one or a row of them
    """
    return np.asarray(plane_weights(query) @ plane_cosines(2 * np.asarray(distance), query.shape[-1], base).T)


def plane_axes(
    query: Float[np.ndarray, "*batch dim"]
) -> tuple[Float[np.ndarray, "*batch half 2"], Float[np.ndarray, "*batch half 2"]]:
    """In each plane, the unit vector along q_i and the one a quarter turn from it, across q_i."""
    pairs = query.reshape(*query.shape[:-1], -1, 2)
    along = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    return along, np.stack([-along[..., 1], along[..., 0]], -1)


def key_covariance(
    query: Float[np.ndarray, "*batch dim"], kappa: Float[np.ndarray, "*#batch half"] | float,
    trace: Float[np.ndarray, " half"] | float = 2.0,
) -> Float[np.ndarray, "*batch dim dim"]:
    """Cov(k | q) of Assumption 4.2, block diagonal over the planes.

    :param kappa: alignment of each plane, in [-1, 1]: 0 isotropic, 1 along q_i, below 0 across it (then the
        assumption is broken)
    :param trace: tau^2, variance of a plane in squared key units; the assumption wants the same in every
        plane
    :raises ValueError: for kappa outside [-1, 1] or a trace that is not positive
    """
    if np.any(np.abs(kappa) > 1):
        raise ValueError("kappa must lie in [-1, 1]: a covariance has no negative variance")
    if np.any(np.asarray(trace) <= 0):
        raise ValueError("trace must be positive")
    unit, _ = plane_axes(query)
    along = np.broadcast_to(kappa, unit.shape[:-1])[..., None, None]
    half = np.broadcast_to(np.asarray(trace, dtype=float) / 2, unit.shape[:-1])[..., None, None]
    blocks = half * ((1 - along) * np.eye(2) + 2 * along * unit[..., :, None] * unit[..., None, :])
    covariance = np.zeros((*query.shape, query.shape[-1]))
    for i in range(unit.shape[-2]):
        covariance[..., 2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = blocks[..., i, :, :]
    return covariance


def linear_correlation(
    there: Float[np.ndarray, "*batch dim"], back: Float[np.ndarray, "*batch dim"],
    covariance: Float[np.ndarray, "*#batch dim dim"],
) -> Float[np.ndarray, "*batch"]:
    """Corr(there . k, back . k) of two linear functions of a key with this covariance; nothing is assumed of it."""
    variances = bilinear_form(there, covariance, there) * bilinear_form(back, covariance, back)
    return np.asarray(bilinear_form(there, covariance, back) / np.sqrt(variances))


def bilinear_form(
    left: Float[np.ndarray, "*batch dim"], matrix: Float[np.ndarray, "*#batch dim dim"],
    right: Float[np.ndarray, "*batch dim"],
) -> Float[np.ndarray, "*batch"]:
    """left^T M right, for each entry of the batch."""
    return np.asarray(np.einsum("...i,...ij,...j->...", left, matrix, right))


def rope_score_correlation(
    query: Float[np.ndarray, "*batch dim"], covariance: Float[np.ndarray, "*batch dim dim"],
    forward: Number, reverse: Number, base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch"]:
    """Corr(s_f, s_r | q), evidence ``forward`` positions right and ``reverse`` positions left of the mask.

    :param covariance: Cov(k | q); nothing is assumed of it
    :param forward: Delta_1 in positions; ``reverse``: Delta_2 in positions
    """
    frequencies = rope_frequencies(query.shape[-1], base)
    there = rotate(query, -forward * frequencies)  # R(Delta_1)^T q, so that s_f = there . k
    back = rotate(query, reverse * frequencies)  # R(-Delta_2)^T q
    return linear_correlation(there, back, covariance)


def every_query_reaches_its_bound(
    queries: Float[np.ndarray, "queries dim"], covariance: Float[np.ndarray, "queries dim dim"],
    distances: Float[np.ndarray, " distances"], base: Number = 10_000.0,
) -> bool:
    """Whether Corr(s_f, s_r | q) >= sum_i w_i cos(2 Delta theta_i) for each query at each distance, to 1e-12.

    :param distances: Delta in positions, of the evidence on either side
    """
    return all(
        bool((rope_score_correlation(queries, covariance, distance, distance, base)
              >= query_bound(queries, distance, base) - 1e-12).all())
        for distance in map(float, distances))


# Covariances that break Assumption 4.2 ------------------------------------------------------------------------


def coupled_covariance(query: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Two planes, each isotropic with trace 2, but k_1 = -Q k_0: dependent, against Assumption 4.2.

    Q is the rotation that takes the direction of q_0 to that of q_1. The planes then pull against each other
    where they turn alike.
    """
    turn = np.arctan2(query[..., 3], query[..., 2]) - np.arctan2(query[..., 1], query[..., 0])
    covariance = np.zeros((*query.shape, 4))
    covariance[...] = np.eye(4)
    coupling = -np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1).reshape(*turn.shape, 2, 2)
    covariance[..., 2:, :2] = coupling
    covariance[..., :2, 2:] = np.swapaxes(coupling, -1, -2)
    return covariance


def tilted_covariance(
    query: Float[np.ndarray, "*batch dim"], tilt: Float[np.ndarray, "*#batch half"] | float
) -> Float[np.ndarray, "*batch dim dim"]:
    """Planes independent, each of trace 2, variance 1 along and across q_i, but with covariance ``tilt`` between.

    It satisfies the prose of Assumption 4.2 (no less variance along the query than across it) and not its formula.

    :param tilt: in (-1, 1)
    :raises ValueError: for a tilt outside (-1, 1)
    """
    if np.any(np.abs(tilt) >= 1):
        raise ValueError("tilt must lie in (-1, 1): beyond, it is no covariance")
    eighth = np.full(query.shape[-1] // 2, np.pi / 4)
    return key_covariance(rotate(query, eighth), tilt)  # the ellipse's axes lie at 45 degrees to q_i


# In symbols: one plane ----------------------------------------------------------------------------------------


def rotation(angle: sp.Expr) -> sp.Matrix:
    """R_2(angle), the rotation of one RoPE plane, counter-clockwise."""
    return sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])


def block_rotation(angles: Sequence[Any]) -> sp.Matrix:
    """R with one angle a plane, shape (2 len(angles), 2 len(angles))."""
    return sp.diag(*(rotation(angle) for angle in angles))


def normalised_trace(angles: Sequence[sp.Expr]) -> sp.Expr:
    """tr R / d of the block-diagonal rotation with the given plane angles, d = 2 len(angles)."""
    turned = block_rotation(angles)
    return turned.trace() / turned.rows


def plane_covariance(query: sp.Matrix, kappa: sp.Expr, tau2: sp.Expr) -> sp.Matrix:
    """Cov(k_i | q) of Assumption 4.2 in one plane: tau2/2 [(1 - kappa) I + 2 kappa q q^T / |q|^2]."""
    aligned = query * query.T / query.dot(query)
    return tau2 / 2 * ((1 - kappa) * sp.eye(2) + 2 * kappa * aligned)


@dataclasses.dataclass(frozen=True)
class PlaneMoments:
    """Conditional second moments of one plane's part of the forward and the reverse score."""

    covariance: sp.Expr
    variance_forward: sp.Expr
    variance_reverse: sp.Expr


def plane_moments(query: sp.Matrix, covariance: sp.Matrix, forward: sp.Expr, reverse: sp.Expr) -> PlaneMoments:
    """Moments of q^T R(forward) k and q^T R(-reverse) k, given q, for a key of the given covariance.

    :param forward: angle Delta_1 theta of the forward rotation; ``reverse``: angle Delta_2 theta, applied
        as -angle
    """
    there, back = query.T * rotation(forward), query.T * rotation(-reverse)
    return PlaneMoments((there * covariance * back.T)[0], (there * covariance * there.T)[0],
                        (back * covariance * back.T)[0])


def plane_identities(
    query: sp.Matrix, kappa: sp.Expr, tau2: sp.Expr, forward: sp.Expr, reverse: sp.Expr
) -> PlaneMoments:
    """The closed forms that the proof of Theorem 4.3 uses (forward = reverse gives the printed ones)."""
    scale = tau2 / 2 * query.dot(query)
    return PlaneMoments(scale * (sp.cos(forward + reverse) + kappa * sp.cos(forward - reverse)),
                        scale * (1 + kappa * sp.cos(2 * forward)), scale * (1 + kappa * sp.cos(2 * reverse)))


def same_moments(left: PlaneMoments, right: PlaneMoments) -> bool:
    """Whether two sets of moments agree identically."""
    pairs = zip(dataclasses.astuple(left), dataclasses.astuple(right), strict=True)
    return all(vanishes(one - other) for one, other in pairs)


def moments_have_closed_form(*, aligned_with: sp.Matrix | None = None, difference: sp.Expr | int | None = None) -> bool:
    """Whether both variances and the covariance of one plane are those of `plane_identities`, all of it symbolic.

    :param aligned_with: an axis that the key's ellipse follows in the query's place, which breaks Assumption 4.2
    :param difference: an angle in the place of phi - psi in the stated covariance (B.3's b is its cosine)
    """
    query, (kappa, tau2, phi, psi) = _plane_query(), sp.symbols("kappa tau2 phi psi", real=True)
    stated = plane_identities(query, kappa, tau2, phi, psi)
    if difference is not None:
        stated = dataclasses.replace(stated, covariance=stated.covariance.subs(sp.cos(phi - psi), sp.cos(difference)))
    return same_moments(plane_moments(query, plane_covariance(aligned_with or query, kappa, tau2), phi, psi), stated)


def tilted_moments_have_closed_form(*, equal_distances: bool = True) -> bool:
    """Whether a plane of any trace, alignment kappa and tilt sigma has covariance ~ c + kappa, variances as below.

    They are proportional to 1 + kappa c -+ sigma sin(2 phi): a tilt moves the variances and not the covariance.

    :param equal_distances: else the reverse distance is twice the forward one
    """
    query, (kappa, sigma, tau2, phi) = _plane_query(), sp.symbols("kappa sigma tau2 phi", real=True)
    across = sp.Matrix([-query[1], query[0]])
    tilt = (query * across.T + across * query.T) / query.dot(query)
    covariance = plane_covariance(query, kappa, tau2) + tau2 / 2 * sigma * tilt
    plain, bend = plane_identities(query, kappa, tau2, phi, phi), tau2 / 2 * query.dot(query) * sigma * sp.sin(2 * phi)
    stated = PlaneMoments(plain.covariance, plain.variance_forward - bend, plain.variance_reverse + bend)
    return same_moments(plane_moments(query, covariance, phi, phi if equal_distances else 2 * phi), stated)


def alignment_is_along_minus_across(*, turned: int = 1) -> bool:
    """Whether the variance along q_i less that across it is kappa tau2, and the trace tau2.

    :param turned: sign of the alignment that the covariance gets; -1 for keys that vary across the query
    """
    query, (kappa, tau2) = _plane_query(), sp.symbols("kappa tau2", real=True)
    covariance, across = plane_covariance(query, turned * kappa, tau2), sp.Matrix([-query[1], query[0]])
    gap = (query.T * covariance * query - across.T * covariance * across)[0] / query.dot(query)
    return vanishes(gap - kappa * tau2) and vanishes(covariance.trace() - tau2)


def _plane_query() -> sp.Matrix:
    return sp.Matrix(sp.symbols("q_1 q_2", real=True))


# In symbols: all planes ---------------------------------------------------------------------------------------


def correlation_over_planes(w: Iterable[Any], c: Iterable[Any], kappa: Iterable[Any]) -> Any:
    """N / D of Theorem 4.3's proof, sum w (c + kappa) / sum w (1 + kappa c); m numbers or symbols of each."""
    planes = list(zip(w, c, kappa, strict=True))
    return sum(a * (b + k) for a, b, k in planes) / sum(a * (1 + k * b) for a, b, k in planes)


def mediant_bound(w: Iterable[Any], c: Iterable[Any], kappa: Iterable[Any]) -> Any:
    """What the termwise inequality gives: the mean of c under weights proportional to w (1 + kappa c)."""
    planes = list(zip(w, c, kappa, strict=True))
    return sum(a * (1 + k * b) * b for a, b, k in planes) / sum(a * (1 + k * b) for a, b, k in planes)


def gap_kernel(w: Any, c: Any, kappa: Any) -> tuple[Kernel, Kernel]:
    """Two kernels over pairs of planes: of N - C D by definition (C = sum w c), and the claimed one.

    With sum w = 1, N = sum_ij w_i w_j (c_i + kappa_i) and C D = sum_ij w_i w_j c_i (1 + kappa_j c_j).
    """
    defined = lambda i, j: w[i] * w[j] * ((c[i] + kappa[i]) - c[i] * (1 + kappa[j] * c[j]))
    claimed = lambda i, j: w[i] * w[j] * kappa[j] * (1 - c[i] * c[j])
    return defined, claimed


def expected_weight(planes: Any) -> sp.Expr:
    """E w_i for w_i = |q_i|^2 / |q|^2, q standard normal, by integration against its Beta(1, m - 1) density.

    :param planes: m, a number or symbol above 1 (one plane has weight 1)
    """
    x = sp.Symbol("x", positive=True)
    return sp.simplify(sp.integrate((planes - 1) * x * (1 - x) ** (planes - 2), (x, 0, 1)))


def pairwise_identity_holds(planes: int, total: sp.Expr | int = 1) -> bool:
    """Whether N - C D = sum_ij w_i w_j kappa_j (1 - c_i c_j), written out for so many planes.

    :param total: what the weights sum to; Theorem 4.3 has 1
    """
    weights, cosines, kappas = (sp.symbols(f"{name}0:{planes}") for name in "wck")
    weights = (*weights[:-1], total - sum(weights[:-1]))
    each = list(zip(weights, cosines, kappas, strict=True))
    numerator = sum(w * (c + kappa) for w, c, kappa in each)  # N
    denominator = sum(w * (1 + kappa * c) for w, c, kappa in each)  # D
    mean = sum(w * c for w, c, _ in each)  # C
    pairs = sum(w * other * kappa * (1 - c * d) for w, c, _ in each for other, d, kappa in each)
    return vanishes(numerator - mean * denominator - pairs)


# In symbols: what correlates how ------------------------------------------------------------------------------

#: the example in which a termwise argument falls short: cosines of two planes
MEDIANT_COSINES = (sp.Rational(9, 10), sp.Rational(3, 10))


def termwise_bound_falls_short(kappas: Sequence[Any]) -> bool:
    """Whether `mediant_bound` lies below sum w c while the correlation does not, for equal weights and these kappas."""
    half = (sp.Rational(1, 2),) * 2
    mean = sum(MEDIANT_COSINES) / 2
    below = mediant_bound(half, MEDIANT_COSINES, kappas) < mean
    return bool(below and mean <= correlation_over_planes(half, MEDIANT_COSINES, kappas))


def termwise_bound_falls_short_on_average(kappas: Sequence[Any]) -> bool:
    """Whether the mean of `mediant_bound` over w_0 uniform on [0, 1] lies below the mean of sum w c."""
    weight = sp.Symbol("w", positive=True)
    bound = mediant_bound((weight, 1 - weight), MEDIANT_COSINES, kappas)
    return bool(sp.integrate(bound, (weight, 0, 1)).evalf(30) < sum(MEDIANT_COSINES) / 2)


def mean_form_is_the_trace(deviations: Sequence[int]) -> bool:
    """Whether E[q^T R q] = tr R for independent normal coordinates with these standard deviations, any angles.

    Each coordinate is integrated against its density.
    """
    q = sp.Matrix(sp.symbols(f"q_0:{len(deviations)}", real=True))
    turned = block_rotation(sp.symbols(f"phi_0:{len(deviations) // 2}", real=True))
    mean = sp.expand((q.T * turned * q)[0])
    for x, deviation in zip(q, deviations, strict=True):
        density = sp.exp(-(x**2) / (2 * deviation**2)) / (sp.sqrt(2 * sp.pi) * deviation)
        mean = sp.expand(sp.integrate(mean * density, (x, -sp.oo, sp.oo)))
    return vanishes(mean - turned.trace())


def isotropic_correlation_is_the_trace(*, silent: Sequence[str] = ()) -> bool:
    """Whether Corr(s_f, s_r) = tr R(2 Delta) / d over both q and k, standard normal, d = 4 (v1, Thm. 4.1).

    :param silent: coordinates that are zero, of ``q_0`` to ``q_3`` and ``k_0`` to ``k_3``
    """
    angles, query, key = (sp.symbols(f"{name}:{count}", real=True) for name, count in
                          (("phi_", 2), ("q_", 4), ("k_", 4)))
    zero = dict.fromkeys((sp.Symbol(name, real=True) for name in silent), 0)
    score = lambda way: (sp.Matrix([query]) * block_rotation([way * a for a in angles]) * sp.Matrix(key))[0].subs(zero)
    found = pearson_correlation(score(1), score(-1), StandardNormal(), *query, *key)
    return vanishes(found - sum(sp.cos(2 * angle) for angle in angles) / 2)


def alibi_correlation_is_one(*, content_varies: bool = True, slope_varies: bool = False) -> bool:
    """Whether c - mu Delta_1 and c - mu Delta_2 have correlation 1, for any law of c with these moments (Prop. 4.5).

    :param content_varies: Var(c) = V > 0, else 0
    :param slope_varies: mu is random and independent of c, against Prop. 4.5
    """
    content, slope, near, far, mean, slope_mean = sp.symbols("c mu Delta_1 Delta_2 M M_mu", real=True)
    spread, slope_spread = sp.symbols("V V_mu", positive=True)
    square = mean**2 + int(content_varies) * spread
    scores = content - slope * near, content - slope * far
    if not slope_varies:
        return pearson_correlation(*scores, {(1,): mean, (2,): square}, content) == 1
    moments: Moments = {(1, 0): mean, (2, 0): square, (0, 1): slope_mean, (0, 2): slope_mean**2 + slope_spread,
                        (1, 1): mean * slope_mean}
    return pearson_correlation(*scores, moments, content, slope) == 1
