"""How far given keys are from the premise of Theorem 4.3, Assumption 4.2, and which part of it fails.

In a one-layer model the mask's query q is one vector, and over facts the scores on the evidence vary with its key k
alone. So the correlation of forward and reverse scores is fixed by q and the covariance of the keys, and the theorem's
bound for this query is sum_i w_i c_i with w_i = |q_i|^2 / |q|^2, c_i = cos(2 Delta theta_i). Queries and keys are
arrays here, trained or random; `lib.one_layer.premises` reads them from models.

In the basis (along q_i, across q_i) every covariance of a plane has the form tau_i^2/2 [[1 + kappa_i, sigma_i],
[sigma_i, 1 - kappa_i]]: trace, alignment and tilt. `ladder` puts them in one after the other, then the covariance
between planes, and ends at the correlation itself: its steps add up to the whole gap between bound and measurement.

Distances are in positions; the unit of the keys does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import kstest

from lib.encodings import rope_frequencies
from lib.theory.routing import (
    bilinear_form,
    linear_correlation,
    plane_axes,
    plane_weights,
    query_bound,
    rope_score_correlation,
    rotate,
)
from lib.theory.validation import Number

#: the rungs of `ladder`, from the theorem's bound to the keys as they are
RUNGS = ("bound", "traces", "alignment", "tilt", "dependence")


@dataclasses.dataclass(frozen=True)
class PlaneStatistics:
    """A covariance in the query's basis, plane by plane, without the covariance between planes."""

    share: Float[np.ndarray, "*batch half"]  # w_i, sums to 1
    trace: Float[np.ndarray, "*batch half"]  # tau_i^2, squared key units
    alignment: Float[np.ndarray, "*batch half"]  # kappa_i in [-1, 1]; Assumption 4.2 wants no less than 0
    tilt: Float[np.ndarray, "*batch half"]  # sigma_i in [-1, 1]; Assumption 4.2 wants 0


def item_covariance(keys: Float[np.ndarray, "*batch items dim"]) -> Float[np.ndarray, "*batch dim dim"]:
    """Covariance of the keys over items (divisor: items - 1).

    :raises ValueError: for fewer than two items
    """
    if keys.shape[-2] < 2:
        raise ValueError(f"keys must hold at least 2 items, not {keys.shape[-2]}: one item has no spread")
    centred = keys - keys.mean(-2, keepdims=True)
    return np.swapaxes(centred, -1, -2) @ centred / (keys.shape[-2] - 1)


def plane_blocks(covariance: Float[np.ndarray, "*batch dim dim"]) -> Float[np.ndarray, "*batch half 2 2"]:
    """The 2 x 2 covariance of each plane, coordinates (2 i, 2 i + 1)."""
    planes = covariance.shape[-1] // 2
    split = covariance.reshape(*covariance.shape[:-2], planes, 2, planes, 2)
    return np.moveaxis(np.diagonal(split, axis1=-4, axis2=-2), -1, -3)


def independent_planes(covariance: Float[np.ndarray, "*batch dim dim"]) -> Float[np.ndarray, "*batch dim dim"]:
    """The covariance without what planes share."""
    return covariance * np.kron(np.eye(covariance.shape[-1] // 2), np.ones((2, 2)))


def plane_statistics(
    query: Float[np.ndarray, "*batch dim"], covariance: Float[np.ndarray, "*batch dim dim"]
) -> PlaneStatistics:
    """Trace, alignment and tilt of each plane's covariance, as the query sees it.

    :raises ValueError: if a plane of the query is zero, or a plane of the key does not vary
    """
    within = plane_blocks(covariance)
    trace = np.trace(within, axis1=-2, axis2=-1)
    if not query.reshape(*query.shape[:-1], -1, 2).any(-1).all() or np.any(trace <= 0):
        raise ValueError("query and covariance must not vanish in any plane")
    along, across = plane_axes(query)
    kappa = (bilinear_form(along, within, along) - bilinear_form(across, within, across)) / trace
    tilt = 2 * bilinear_form(along, within, across) / trace
    return PlaneStatistics(plane_weights(query), trace, kappa, tilt)


def ladder(
    query: Float[np.ndarray, "*batch dim"], covariance: Float[np.ndarray, "*batch dim dim"],
    distances: Sequence[Number], base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch rungs distances"]:
    """Corr(s_f, s_r | q) at Delta_1 = Delta_2 as the premise is given up, one rung of `RUNGS` a row.

    ``bound``: sum w c; ``traces``: each plane with its own tau_i^2; ``alignment``: and its own kappa_i (an ellipse
    along or across the query); ``tilt``: and its own sigma_i, so every plane as it is; ``dependence``: the whole
    covariance, planes no longer independent. The last rung is the correlation itself.
    """
    seen = plane_statistics(query, covariance)
    weight = seen.share * seen.trace
    weight = weight / weight.sum(-1, keepdims=True)
    rungs = []
    for distance in distances:
        angle = 2 * float(distance) * rope_frequencies(query.shape[-1], base)
        c, s = np.cos(angle), np.sin(angle)
        shared, own = (weight * (c + seen.alignment)).sum(-1), (weight * (1 + seen.alignment * c)).sum(-1)
        apart = (weight * seen.tilt * s).sum(-1)
        rungs.append([seen.share @ c, weight @ c, shared / own, shared / np.sqrt(own**2 - apart**2),
                      rope_score_correlation(query, covariance, distance, distance, base)])
    return np.moveaxis(np.asarray(rungs), (0, 1), (-1, -2))


def gap_parts(rungs: Float[np.ndarray, "members rungs distances"]) -> Float[np.ndarray, "members parts"]:
    """What each part of the premise adds to the correlation, mean over distances, in the order of ``RUNGS[1:]``."""
    return np.diff(rungs, axis=1).mean(2)


def dependence_lowers_most(
    query: Float[np.ndarray, "members dim"], covariance: Float[np.ndarray, "members dim dim"],
    distances: Sequence[Number], by: Number = 0.2,
) -> bool:
    """Whether in every member the dependence of planes takes at least ``by`` more off the correlation than any other
    part."""
    parts = gap_parts(ladder(query, covariance, distances))
    place = RUNGS.index("dependence") - 1
    return bool((parts[:, place] <= np.delete(parts, place, axis=1).min(1) - float(by)).all())


def variance_ratio(
    query: Float[np.ndarray, "*batch dim"], covariance: Float[np.ndarray, "*batch dim dim"], offset: Number,
    base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch"]:
    """Variance of the score at ``offset`` over the sum of its planes' variances: 1 if planes are independent.

    :param offset: evidence minus mask position; positive is forward, negative reverse
    """
    seen = rotate(query, -float(offset) * rope_frequencies(query.shape[-1], base))
    pairs = seen.reshape(*seen.shape[:-1], -1, 2)
    alone = bilinear_form(pairs, plane_blocks(covariance), pairs).sum(-1)
    return np.asarray(bilinear_form(seen, covariance, seen) / alone)


def departures(
    query: Float[np.ndarray, "*batch dim"], keys: Float[np.ndarray, "*batch items dim"],
    distances: Sequence[Number], base: Number = 10_000.0,
) -> dict[str, Float[np.ndarray, "*batch"]]:
    """How far query and keys are from the premise, one number for each part of it.

    ``traces``: standard deviation of tau_i^2 over planes, in units of their mean (premise 0); ``alignment``: mean
    kappa_i under the weights of the scores (premise: not below 0); ``roundness``: smaller over larger variance within
    a plane, mean over planes (1 for isotropic keys); ``forward``, ``reverse``: `variance_ratio`, mean over distances
    (premise 1). Few items blur all of them: compare with `untrained_keys` of as many items.
    """
    covariance = item_covariance(keys)
    seen = plane_statistics(query, covariance)
    weight = seen.share * seen.trace
    bend = np.hypot(seen.alignment, seen.tilt)  # eigenvalues of a plane are tau^2/2 (1 -+ bend)
    ratio = lambda sign: np.mean([variance_ratio(query, covariance, sign * x, base) for x in distances], axis=0)
    found = {
        "traces": seen.trace.std(-1) / seen.trace.mean(-1),
        "alignment": (weight * seen.alignment).sum(-1) / weight.sum(-1),
        "roundness": ((1 - bend) / (1 + bend)).mean(-1),
        "forward": ratio(1),
        "reverse": ratio(-1),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def premise_keys(
    query: Float[np.ndarray, " dim"], items: int, sets: int, rng: np.random.Generator, kappa: float = 0.0
) -> Float[np.ndarray, "sets items dim"]:
    """Sets of normal keys that obey Assumption 4.2 with one kappa in all planes; below 0 they break it.

    :raises ValueError: for kappa outside [-1, 1]
    """
    if not -1 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [-1, 1], not {kappa}")
    along, across = plane_axes(query)
    size = rng.normal(size=(sets, items, len(along), 2)) * np.sqrt([1 + kappa, 1 - kappa])
    return (size[..., :1] * along + size[..., 1:] * across).reshape(sets, items, -1)


def untrained_keys(dim: int, items: int, sets: int, rng: np.random.Generator) -> Float[np.ndarray, "sets items dim"]:
    """Sets of keys of untrained models: random embeddings, each set through a random key matrix of its own.

    Over random matrices the covariance is isotropic, as the premise has it; given the matrix it is not.
    """
    embeddings, matrices = rng.normal(size=(sets, items, dim)), rng.normal(size=(sets, dim, dim))
    return embeddings @ matrices / dim**0.5


def item_correlations(
    query: Float[np.ndarray, "*#batch dim"], keys: Float[np.ndarray, "*batch items dim"],
    distances: Sequence[Number], base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch distances"]:
    """Pearson correlation over items of the scores at +Delta and -Delta, from the scores themselves."""
    frequencies = rope_frequencies(query.shape[-1], base)

    def scores(sign: int) -> np.ndarray:
        turned = [rotate(query, -sign * float(x) * frequencies) for x in distances]
        found = keys @ np.stack(turned, -1)
        centred = found - found.mean(-2, keepdims=True)
        return np.asarray(centred / np.linalg.norm(centred, axis=-2, keepdims=True))

    return np.asarray((scores(1) * scores(-1)).sum(-2))


def shortfall(
    query: Float[np.ndarray, " dim"], correlations: Float[np.ndarray, "*batch distances"],
    distances: Sequence[Number], base: Number = 10_000.0,
) -> Float[np.ndarray, "*batch"]:
    """How far the correlation falls below the bound sum w c, at the distance where it does so most.

    Measured on Fisher's scale, artanh, on which a sampled correlation scatters equally at every distance.
    """
    bound = query_bound(query, np.asarray(distances), base)
    return np.asarray((np.arctanh(bound) - np.arctanh(correlations)).max(-1))


# Against chance -----------------------------------------------------------------------------------------------


def _falls(
    query: Float[np.ndarray, " dim"], keys: Float[np.ndarray, "*batch items dim"], distances: Sequence[Number]
) -> Float[np.ndarray, "*batch"]:
    return shortfall(query, item_correlations(query, keys, distances), distances)


def ranks(
    queries: Float[np.ndarray, "members dim"], keys: Float[np.ndarray, "members items dim"],
    random: Float[np.ndarray, "sets items dim"], distances: Sequence[Number],
) -> Float[np.ndarray, " members"]:
    """For each member, the share of random sets of keys that fall at least as far below the bound as its own."""
    return np.array([(_falls(query, random, distances) >= _falls(query, own, distances)).mean()
                     for query, own in zip(queries, keys, strict=True)])


def could_be_uniform(shares: Float[np.ndarray, " members"]) -> bool:
    """Whether the Kolmogorov distance of these ranks from the uniform law is below its one-percent level."""
    return bool(kstest(shares, "uniform").statistic < 1.63 / len(shares) ** 0.5)


def rarely_rejected(
    query: Float[np.ndarray, " dim"], random: Float[np.ndarray, "sets items dim"], distances: Sequence[Number],
    kappa: float,
) -> bool:
    """Whether fewer than 7 % of 4,000 sets of keys with this kappa fall below the 5 % level of the random sets."""
    level = np.quantile(_falls(query, random, distances), 0.95)
    keys = premise_keys(query, random.shape[1], 4000, np.random.default_rng(1), kappa)
    return bool((_falls(query, keys, distances) > level).mean() < 0.07)


def evening_out_keeps_the_sign(
    query: Float[np.ndarray, " dim"], distances: Sequence[Number], forward_only: bool = True
) -> bool:
    """Whether isotropic keys that lose variance in the span of the forward directions keep their correlation's sign.

    At lambda = 0.05, 0.3 and 1 the covariance of both scores must be lambda f . r, and the correlation no larger.

    :param forward_only: else the variance is lost in the span of the sums f + r
    """
    turned = lambda sign: np.stack([rotate(query, sign * float(x) * rope_frequencies(len(query))) for x in distances])
    forward, reverse, norm2 = turned(-1), turned(1), query @ query
    basis = np.linalg.qr((forward if forward_only else forward + reverse).T)[0]
    product = (forward * reverse).sum(1)  # f . r
    for share in (0.05, 0.3, 1.0):
        covariance = np.eye(len(query)) - (1 - share) * basis @ basis.T
        if np.abs(bilinear_form(forward, covariance, reverse) - share * product).max() > 1e-9 * norm2:
            return False
        now = linear_correlation(forward, reverse, covariance)
        if (np.abs(now) > np.abs(product) / norm2 + 1e-9).any() or (now * product < 0).any():
            return False
    return True
