"""What the measurement of Theorem 4.3's premises says: the checks of its chapter and their tables.

Each takes what `lib.language_models.score_premises` measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from lib.language_models.score_premises import ScorePremises
from lib.record import report
from lib.theory.premises import RUNGS

#: measure of a premise -> what it is, and its value where Assumption 4.2 and a normal query hold
PREMISE_MEASURES = {
    "planes": ("planes that carry the query, share of m", "1"),
    "traces": ("spread of the traces over planes, in means", "0"),
    "alignment": ("alignment kappa, weighted by score variance", "at least 0"),
    "misaligned": ("share of score variance in planes with kappa below 0", "0"),
    "roundness": ("roundness of a plane", "1 for isotropic keys"),
    "forward": ("variance of forward scores over that of their planes", "1"),
    "reverse": ("variance of reverse scores over that of their planes", "1"),
}


def above_guarantee(found: ScorePremises) -> Float[np.ndarray, " distance"]:
    """Share of heads whose measured correlation is above T_d(2 Delta), distance by distance."""
    return np.asarray((found.measured > found.guarantee).mean((0, 1)))


def always_above_guarantee(found: ScorePremises) -> float:
    """Share of heads whose measured correlation is above T_d(2 Delta) at all distances that were measured."""
    return float((found.measured > found.guarantee).all(2).mean())


def most_heads_exceed_guarantee(found: ScorePremises, share: float = 0.7) -> bool:
    """Whether more than this share of heads lies above T_d at all distances."""
    return always_above_guarantee(found) > share


def keys_vary_across_queries(found: ScorePremises, share: float = 0.7) -> bool:
    """Whether more than this share of heads has a negative mean alignment, against Assumption 4.2."""
    return bool((found.alignment < 0).mean() > share)


def few_planes_carry_queries(found: ScorePremises, share: float = 1 / 3) -> bool:
    """Whether in the median head fewer than this share of planes carry the query, against E w_i = 1/m."""
    return bool(np.median(found.planes) < share)


def error_of(found: ScorePremises, rung: str = "bound", shift: int = 0) -> float:
    """Root mean square, over heads and distances, of a rung minus the measured correlation.

    :param rung: one of `premises.RUNGS`, or ``guarantee`` for T_d, the same for every head
    :param shift: take the rung of the head so many places on, instead of the head's own
    """
    heads = found.measured.reshape(-1, len(found.distances))
    stated = found.guarantee[None] if rung == "guarantee" else found.rung(rung).reshape(heads.shape)
    return float(np.sqrt(np.mean((np.roll(stated, shift, 0) - heads) ** 2)))


def own_bound_is_closer(found: ScorePremises, *, shift: int = 0, share: float = 0.45) -> bool:
    """Whether a head's own bound misses its correlation by less than ``share`` of what T_d misses it by.

    :param shift: see `error_of`; the bound of another head is the control
    """
    return error_of(found, shift=shift) < share * error_of(found, "guarantee")


def gained_by(found: ScorePremises, name: str, distance: int) -> Float[np.ndarray, " head"]:
    """What giving up one premise more adds to the correlation: a rung of the ladder less the one before, one a head.

    :param name: one of `premises.RUNGS` but the first
    :raises ValueError: for a distance that was not measured, naming those that were
    """
    if distance not in found.distances:
        raise ValueError(f"distance {distance}: measured were {', '.join(map(str, found.distances))}")
    before = RUNGS[RUNGS.index(name) - 1]
    place = found.distances.index(distance)
    return np.asarray((found.rung(name) - found.rung(before))[:, :, place].ravel())


def over_heads(values: Float[np.ndarray, "layer head"]) -> tuple[float, float, float]:
    """Median, least and greatest over all heads."""
    return float(np.median(values)), float(values.min()), float(values.max())


def correlation_table(found: Mapping[str, ScorePremises]) -> str:
    """A row for each distance: T_d, the own bound of the first condition, and each condition's correlation.

    Medians over heads, with the range.
    """
    first = next(iter(found.values()))
    head = [r"$\Delta$", r"$T_d(2\Delta)$", r"own $\sum_iw_ic_i$", *found]
    rows = [[delta, f"{first.guarantee[place]:.2f}", *(_range(values[:, :, place]) for values in
             (first.bound, *(each.measured for each in found.values())))]
            for place, delta in enumerate(first.distances)]
    return report.markdown(head, rows)


def premise_table(found: Mapping[str, ScorePremises]) -> str:
    """A row for each of `PREMISE_MEASURES`: what is assumed, and median and range over heads of each condition."""
    rows = [[title, wanted, *(_range(getattr(each, name)) for each in found.values())]
            for name, (title, wanted) in PREMISE_MEASURES.items()]
    return report.markdown(["", "wanted", *found], rows)


def _range(values: Float[np.ndarray, "layer head"]) -> str:
    middle, low, high = over_heads(values)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
