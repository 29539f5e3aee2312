"""Both signatures along the fine-tuning of the miniature: its measured runs read back, and what is asked of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.language_models import competition
from lib.language_models.pretrained_results import RecordedRuns
from lib.record import report
from lib.record.provenance import Result

MINIATURE = "small LLaDA"  # the one condition of these runs
_SIGNATURES = ("correlation", "cosine")


class MeasuredMiniatures(RecordedRuns):
    """The recorded runs of `lib.language_models.competition`, read as those of the real model are.

    :param folder: that holds ``pretrained/``; the results to show where not given
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.results = competition.recorded_miniatures(folder)

    def find(self, condition: str = MINIATURE) -> dict[int, Result]:
        """All of them by seed: they differ in nothing else."""
        return {result["seeds"][0]: result for result in self.results}


def one_fact_above_two(runs: MeasuredMiniatures, *, turn: bool = False) -> bool:
    """Is each signature, at every point along fine-tuning and in every seed, higher for one fact than for two?

    :param turn: the two exchanged
    """
    found = [[runs.curves_along(f"along_{signature}_{word}", MINIATURE) for word in ("matched", "mismatched")]
             for signature in _SIGNATURES]
    return all(bool(np.all(two > one if turn else one > two)) for one, two in found)


def cosine_falls(runs: MeasuredMiniatures, pairing: str = "matched") -> bool:
    """From before to after fine-tuning, do reverse answers rise and the gradient cosine fall, 0 in neither interval?"""
    def change(name: str) -> tuple[float, float]:
        return report.bootstrap_interval(runs.metric(name, MINIATURE) - runs.metric(f"before_{name}", MINIATURE))

    return bool(change("reverse_free_right")[0] > 0 and change(f"cosine_{pairing}")[1] < 0)
