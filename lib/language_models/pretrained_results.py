"""The recorded runs on SmolLM2-135M read back, and what the checks of their chapter ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.language_models.families import HELD
from lib.record import provenance, report
from lib.record.provenance import Result
from lib.record.report import Values

CHANCE = 100 / HELD  # percent of right names ranked first by chance
#: a condition -> what differs from masked, parents first, any token masked, told pairs replayed
CONDITIONS: dict[str, dict[str, Any]] = {
    "masked": {}, "autoregressive": {"kind": "autoregressive"},
    "masked, whole entities": {"masking": "entity"}, "masked, answer alone": {"masking": "response"},
    "masked, no replay": {"replay": 0.0}, "masked, children first": {"dataset": "c2p"},
    "autoregressive, children first": {"kind": "autoregressive", "dataset": "c2p"},
    "published": {"kind": "published", "replay": 0.0}}
_STANDARD = {"kind": "masked", "dataset": "p2c", "masking": "any", "replay": 0.5, "data": "published"}


class RecordedRuns:
    """Every recorded run of `lib.language_models.pretrained_run`, read once.

    :param folder: that holds ``pretrained/``; the results to show where not given
    """

    def __init__(self, folder: Path | None = None) -> None:
        found = provenance.results("pretrained", folder)
        self.results = [result for result in found if result["experiment"] == "pretrained"]

    def find(self, condition: str) -> dict[int, Result]:
        """Runs of one of `CONDITIONS` by seed."""
        wanted = {**_STANDARD, **CONDITIONS[condition]}
        found = {result["seeds"][0]: result for result in self.results
                 if all(result["parameters"].get(name) == value for name, value in wanted.items())
                 and result["parameters"]["start"] == wanted["kind"]}
        return dict(sorted(found.items()))

    def metric(self, name: str, condition: str = "masked") -> Float[np.ndarray, " seed"]:
        """One metric, seed by seed."""
        return np.array([result["metrics"][name][0] for result in self.find(condition).values()])

    def curves(self, name: str, condition: str = "masked") -> Float[np.ndarray, "seed point"]:
        """One curve, seed by seed."""
        return np.array([result["curves"][name] for result in self.find(condition).values()])

    def complete(self, *conditions: str, seeds: int = 2) -> bool:
        """Whether each condition has at least so many seeds."""
        return all(len(self.find(condition)) >= seeds for condition in conditions)


# What the checks ask -----------------------------------------------------------------------------------------


def forward_only(runs: RecordedRuns, condition: str = "autoregressive", *, turn: bool = False) -> bool:
    """Are at least 80 percent answered in the trained direction, and at most 5 percent in the other?

    :param turn: the directions exchanged
    """
    forward, reverse = (runs.metric(f"{side}_accuracy", condition).mean() for side in ("forward", "reverse"))
    return bool(min(forward, reverse) <= 5 and (reverse if turn else forward) >= 80)


def exceeds(first: Values, second: Values, points: float) -> bool:
    """Is the mean over seeds of the first above that of the second by so many points, and the interval above zero?"""
    found = report.effect(second, first)
    return bool(found.difference >= points and found.interval[0] > 0)


def rank_gain(runs: RecordedRuns, condition: str, other: str, *, when: str = "", asked: str = "reverse",
              points: float = 20) -> bool:
    """Is the right name first of all, its prior taken out, more often in one condition than in another?

    :param when: ``before_`` for the models before fine-tuning
    """
    name = f"{when}{asked}_first_without_prior"
    return exceeds(runs.metric(name, condition), runs.metric(name, other), points)


def learned_left(runs: RecordedRuns, condition: str = "masked", *, when: str = "") -> bool:
    """Is the left entity, masked in the trained sentence, first of all for at least half of the facts?"""
    return bool(runs.metric(f"{when}left_first_without_prior", condition).mean() >= 50)


def written_rarely(runs: RecordedRuns, condition: str = "masked", direction: str = "reverse") -> bool:
    """Are fewer than 10 percent of a direction answered exactly?"""
    return bool(runs.metric(f"{direction}_accuracy", condition).mean() < 10)


def repeats_shown_name(runs: RecordedRuns, condition: str = "masked", direction: str = "reverse") -> bool:
    """Is the shown name, or a mixture with other names, at least half of what is written?"""
    kinds = (runs.metric(f"{direction}_free_{kind}", condition).mean() for kind in ("shown_name", "mixture"))
    return bool(sum(kinds) >= 50)


def forbidding_helps(runs: RecordedRuns, condition: str = "masked", direction: str = "reverse") -> bool:
    """Are at least 15 points more answered when the shown name's tokens are forbidden?"""
    free, without = (runs.metric(f"{direction}_{word}_right", condition) for word in ("free", "forbidden"))
    return exceeds(without, free, 15)


def cosine_gap(runs: RecordedRuns, condition: str = "masked", *, turn: bool = False) -> bool:
    """Does the gradient cosine of one fact exceed that of two by more than a tenth after fine-tuning, in every seed?"""
    matched, mismatched = (runs.metric(f"cosine_{word}", condition) for word in ("matched", "mismatched"))
    return bool(((mismatched - matched if turn else matched - mismatched) > 10).all())


def patch_share(runs: RecordedRuns, patch: str = "weights_matched", condition: str = "masked",
                score: str = "logit_difference") -> Float[np.ndarray, " seed"]:
    """Share of the gap between forward and reverse query that a patch of all layers closes, one a seed."""
    change = runs.curves(f"patching_{score}_{patch}", condition)[:, -1]
    return change / runs.metric(f"patching_gap_{score}", condition)


def patch_closes(runs: RecordedRuns, patch: str = "weights_matched") -> bool:
    """Does it close at least a quarter of the gap, mean over seeds?"""
    return bool(patch_share(runs, patch).mean() >= 0.25)
