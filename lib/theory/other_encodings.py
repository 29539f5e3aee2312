"""Other encodings: correlation of forward and reverse scores, and how much stored evidence the reverse prompt reads.

*Score correlation* is over the key's content, given the query and the positions. *Storage transfer* is the
change of the reverse logit after a forward step on the value path, as a fraction of what it would be with
the evidence at its old position and the same attention: 1 for every encoding that leaves values alone.

The second half decides the steps of the proofs, in symbols and at sample points. Each function is true as the proofs
state it; what it takes breaks one step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sympy as sp
from jaxtyping import Float, Int

from lib.encodings import rope_frequencies
from lib.theory import routing, symbolic
from lib.theory.bounds import trace_bound
from lib.theory.validation import Count, Number, Reals, as_scalar_or_array, distances


def map_correlation(
    query: Float[np.ndarray, "*batch dim"],
    covariance: Float[np.ndarray, "*#batch dim dim"],
    forward: Float[np.ndarray, "dim dim"],
    reverse: Float[np.ndarray, "dim dim"],
) -> Float[np.ndarray, "*batch"]:
    """Corr(q^T P_f k + b_f, q^T P_r k + b_r | q) for any position maps P; the biases do not matter.

    :param covariance: Cov(k | q)
    """
    return routing.linear_correlation(query @ forward, query @ reverse, covariance)  # P^T q as rows


def rotary_map(offset: Number, head_dim: Count, rotated: float = 1.0, base: Number = 10_000.0
               ) -> Float[np.ndarray, "dim dim"]:
    """R(offset) with only the first ``rotated`` share of the planes turning, at frequencies of their own dimension.

    :raises ValueError: if the share does not make a whole number of planes
    """
    turning = _turning_planes(head_dim, rotated)
    angles = np.zeros(int(head_dim) // 2)
    if turning:
        angles[:turning] = offset * rope_frequencies(2 * turning, base)
    return routing.rotation_matrix(angles)


def partial_rope_bound(total_distance: Reals, head_dim: Count, rotated: float, base: Number = 10_000.0
                       ) -> float | np.ndarray:
    """(1 - r) + r T_{rd}(Delta_1 + Delta_2): the trace bound when a share r of the planes turns.

    At least 1 - 2 r at every distance, as T >= -1.
    """
    turning = _turning_planes(head_dim, rotated)
    share = 2 * turning / int(head_dim)
    if not turning:
        return as_scalar_or_array(np.ones_like(distances("total_distance", total_distance)))
    return (1 - share) + share * trace_bound(total_distance, 2 * turning, base)


def _turning_planes(head_dim: Count, rotated: float) -> int:
    planes = rotated * int(head_dim) / 2
    if not 0 <= rotated <= 1 or abs(planes - round(planes)) > 1e-9:
        raise ValueError(f"rotated must be a share in [0, 1] that makes a whole number of the {int(head_dim) // 2} "
                         f"planes, not {rotated!r}")
    return round(planes)


def xpos_decay(head_dim: Count, gamma: float = 0.4, scale_base: float = 512.0) -> Float[np.ndarray, " half"]:
    """zeta_i of xPos, one a plane, a position: ((2 i / d + gamma) / (1 + gamma)) ** (1 / scale_base).

    Slow planes (large i) decay least (Sun et al. 2023).
    """
    planes = np.arange(int(head_dim) // 2)
    return np.asarray(((2 * planes / int(head_dim) + gamma) / (1 + gamma)) ** (1 / scale_base))


def xpos_correlation(
    weights: Float[np.ndarray, "*batch half"],
    distance: Number,
    decay: Float[np.ndarray, " half"],
    base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch"]:
    """Signed xPos, isotropic keys, equal distances: sum w c / sqrt(sum w zeta^(2 Delta) sum w zeta^(-2 Delta))."""
    cosines = routing.plane_cosines(2 * distance, 2 * len(decay), base)
    grown, shrunk = weights @ decay ** (-2 * distance), weights @ decay ** (2 * distance)
    return np.asarray(weights @ cosines / np.sqrt(grown * shrunk))


def added_score_correlation(
    query: Float[np.ndarray, "*batch dim"],
    at_forward: Float[np.ndarray, "*#batch dim"],
    at_reverse: Float[np.ndarray, "*#batch dim"],
) -> Float[np.ndarray, "*batch"]:
    """Corr over the content of B under an additive encoding: cos(q + pi_i, q + pi_i'), isotropic keys.

    :param at_forward: pi_i = W_Q p_i at the mask's forward position; ``at_reverse``: at its reverse position
    """
    one, other = query + at_forward, query + at_reverse
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(-1) / lengths)


def sinusoidal_transfer(move: Reals, width: Count, ratio: float = 1.0) -> float | np.ndarray:
    """(1 + ratio T(move)) / (1 + ratio): mean transfer of storage with sines and cosines added to the embedding.

    :param move: how far the evidence moves, |j - j'|
    :param ratio: |p|^2 / |x|^2
    """
    return (1 + ratio * trace_bound(move, width)) / (1 + ratio)


# Encodings side by side ---------------------------------------------------------------------------------------


def mean_score_correlations(
    head_dim: Count, reach: Int[np.ndarray, " distances"], queries: Count, seed: int
) -> dict[str, Float[np.ndarray, " distances"]]:
    """Mean over random queries of the score correlation with isotropic keys, by encoding.

    :param reach: equal distances of the evidence on either side, in positions
    """
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(queries, head_dim))
    weights, positions = routing.plane_weights(query), rng.normal(size=(2, queries, head_dim))
    quarter = lambda x: [rotary_map(side * x, head_dim, 0.25) for side in (1.0, -1.0)]
    by_distance: dict[str, Callable[[float], Float[np.ndarray, " queries"]]] = {
        "additive bias, none": lambda x: np.ones(1),
        "partial RoPE, 1/4": lambda x: map_correlation(query, np.eye(int(head_dim)), *quarter(x)),
        "RoPE": lambda x: routing.query_bound(query, x),
        "xPos, signed": lambda x: xpos_correlation(weights, x, xpos_decay(head_dim)),
        "learned absolute": lambda x: added_score_correlation(query, *positions),
    }
    return {name: np.array([correlation(float(x)).mean() for x in reach]) for name, correlation in by_distance.items()}


def mean_storage_transfers(
    head_dim: Count, moves: Int[np.ndarray, " distances"]
) -> dict[str, Float[np.ndarray, " distances"]]:
    """Mean storage transfer by encoding, positions as long as embeddings; ``moves`` of the evidence, in positions."""
    return {"relative or none": np.ones(len(moves)),
            "sinusoidal, $|p|=|x|$": np.asarray(sinusoidal_transfer(moves, head_dim)),
            "learned, $|p|=|x|$": np.full(len(moves), 0.5)}


# Steps of the proofs: scores ----------------------------------------------------------------------------------

_QUERY = sp.Matrix(sp.symbols("q_0:2", real=True))
_HERE, _THERE = (sp.Matrix(sp.symbols(f"{name}_0:2", real=True)) for name in "pr")  # two position vectors


def _correlation(there: sp.Matrix, back: sp.Matrix) -> sp.Expr:
    """Corr(there . k + b_f, back . k + b_r) over a standard normal key k of two coordinates."""
    key, biases = sp.symbols("k_0:2", real=True), sp.symbols("b_f b_r")
    scores = (vector.dot(sp.Matrix(key)) + bias for vector, bias in zip((there, back), biases, strict=True))
    return symbolic.pearson_correlation(*scores, symbolic.StandardNormal(), *key)


def biases_alone_correlate(turned: bool = False) -> bool:
    """Whether scores that differ in biases alone have correlation 1; ``turned``: in rotations by phi and -phi too."""
    phi = sp.Symbol("phi", real=True) if turned else 0
    there, back = (routing.rotation(angle).T * _QUERY for angle in (phi, -phi))
    return symbolic.vanishes(_correlation(there, back) - 1)


def xpos_moments_are_scaled(back: int = 1) -> bool:
    """Whether one plane of signed xPos has RoPE's covariance, and its variances times z^-2 and z^2.

    :param back: exponent of z on the reverse side: 1, opposite to the forward side's
    """
    z, phi = sp.Symbol("z", positive=True), sp.Symbol("phi", real=True)
    rope = routing.plane_moments(_QUERY, sp.eye(2), phi, phi)
    there, turned_back = (routing.rotation(angle).T * _QUERY for angle in (phi, -phi))
    forward, reverse = there / z, z**back * turned_back  # P_f^T q, P_r^T q
    found = routing.PlaneMoments(forward.dot(reverse), z**2 * forward.dot(forward), reverse.dot(reverse) / z**2)
    return routing.same_moments(rope, found)


def xpos_root_is_a_sum_of_squares(ratios: bool = True) -> bool:
    """Whether sum w z^2 sum w z^-2 - 1 = sum_ij w_i w_j (z_i/z_j - z_j/z_i)^2 / 2, for any number of planes.

    :param ratios: if not, z_i - z_j stands for the difference of ratios
    """
    w, z = sp.IndexedBase("w"), sp.IndexedBase("z")
    difference = lambda i, j: z[i] / z[j] - z[j] / z[i] if ratios else z[i] - z[j]
    return symbolic.same_double_sum(lambda i, j: w[i] * w[j] * (z[i] ** 2 / z[j] ** 2 - 1),
                                    lambda i, j: w[i] * w[j] * difference(i, j) ** 2 / 2)


def added_correlation_is_cosine(moved: bool = True) -> bool:
    """Whether Corr over the content of B is cos(q + pi_i, q + pi_i'), d = 2; not ``moved``: without pi_i'."""
    first, second = _QUERY + _HERE, _QUERY + _THERE
    found = _correlation(first, second) * sp.sqrt(first.dot(first)) * sp.sqrt(second.dot(second))
    return symbolic.vanishes(found - first.dot(second if moved else _QUERY))


def heads_add_up(reverse_target: int) -> bool:
    """Whether the inner product of two heads' columns of B is positive: forward target 1, n = 3, all symbolic."""
    forward, reverse = sp.symbols("a_f1 a_f2", positive=True), sp.symbols("a_r1 a_r2", positive=True)
    heads = sp.symbols("W1_0:3", real=True), sp.symbols("W2_0:3", real=True)

    def gradient(masses: tuple[sp.Symbol, ...], target: int) -> list[sp.Expr]:  # of the loss, in both columns
        logits = [sum(mass * head[v] for mass, head in zip(masses, heads, strict=True)) for v in range(3)]
        loss = symbolic.cross_entropy(logits, target)
        return [sp.factor(sp.diff(loss, weight)) for head in heads for weight in head]

    pairs = zip(gradient(forward, 1), gradient(reverse, reverse_target), strict=True)
    return bool(sp.Add(*(one * other for one, other in pairs)).is_positive)


# Steps of the proofs: storage ---------------------------------------------------------------------------------


def evidence_depends_on_position(size: int = 1) -> bool:
    """Whether u_A^T W_V (x + size p) differs between two positions, two coordinates, all symbolic."""
    row, x = sp.Matrix(sp.symbols("g_0:2", real=True)), sp.Matrix(sp.symbols("x_0:2", real=True))
    return not symbolic.vanishes(row.dot(x + size * _HERE) - row.dot(x + size * _THERE))


#: of four encodings: what stands in the score of query position i and key position j, and beside the value
_ENTERS: dict[str, tuple[str, str]] = {
    "relative scores": ("offset", "none"), "relative values": ("offset", "offset"),
    "absolute scores": ("places", "none"), "absolute, added": ("places", "place"),
}


def encoding_is(name: str, *, relative: bool, shared: bool) -> bool:
    """Whether an encoding is relative, and whether the stored evidence is shared by all positions, as said.

    *Relative*: score and value stay the same if mask and evidence move together. *Shared*: the value stays the same as
    the evidence alone moves, so that one W_{A,B} serves all positions.

    :param name: one of ``relative scores`` (RoPE, ALiBi, T5), ``relative values`` (Shaw et al. 2018), ``absolute
        scores`` (Ke et al. 2021), ``absolute, added`` (Vaswani et al. 2017)
    """
    i, j, move = sp.symbols("i j s", integer=True)
    term = lambda kind, i, j: {"none": sp.Integer(0), "offset": sp.Function("a")(sp.expand(j - i)),
                               "place": sp.Function("p")(j), "places": sp.Function("p")(i, j)}[kind]
    score, value = _ENTERS[name]
    moved_together = all(term(kind, i + move, j + move) == term(kind, i, j) for kind in (score, value))
    return (moved_together, term(value, i, j + move) == term(value, i, j)) == (relative, shared)


def step_transfers(matrix: str, share: str) -> bool:
    """Whether a step on U or W_V changes the moved evidence's logits by this share of the old place's, n = D = 2.

    :param matrix: "U" or "W_V", the parameter of the step
    :param share: "values", <v, v'>/|v|^2; "embeddings", the same of the embeddings with their positions; "all", 1
    """
    unembedding, value = (sp.Matrix(2, 2, sp.symbols(f"{name}_0:4", real=True)) for name in "UV")
    x, error = (sp.Matrix(sp.symbols(f"{name}_0:2", real=True)) for name in "xe")
    here, there = x + _HERE, x + _THERE
    read = {"U": lambda place: error * (value * here).T * value * place,  # dU = error v^T
            "W_V": lambda place: unembedding * (unembedding.T * error) * here.T * place}[matrix]  # dW_V = U^T error x^T
    ratio = lambda old, new: old.dot(new) / old.dot(old)
    fraction = {"values": ratio(value * here, value * there), "embeddings": ratio(here, there), "all": 1}[share]
    return all(symbolic.vanishes(new - fraction * old) for old, new in zip(read(here), read(there), strict=True))


def sinusoids_give_the_trace(sign: int = -1) -> bool:
    """Whether one plane's sines and cosines at two positions have the inner product cos((j + sign j') theta)."""
    j, moved, theta = sp.symbols("j_1 j_2 theta", real=True)
    inner = sp.sin(j * theta) * sp.sin(moved * theta) + sp.cos(j * theta) * sp.cos(moved * theta)
    return symbolic.vanishes(inner - sp.cos((j + sign * moved) * theta))


def random_positions_halve_transfer(size: float, seed: int) -> bool:
    """Whether the ratio of means over 200,000 random embeddings of width 16 is within 0.01 of one half.

    :param size: of the position vectors, times that of the embeddings
    """
    scales = np.array([1, size, size])[:, None, None]
    x, first, second = np.random.default_rng(seed).normal(size=(3, 200_000, 16)) * scales
    seen, moved = x + first, x + second
    return bool(abs((seen * moved).sum() / (seen * seen).sum() - 0.5) < 0.01)
