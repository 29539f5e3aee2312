"""The recorded edits read back (`lib.stores.edit_run`), and what the checks of their chapter ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.language_models.pretrained_results import RecordedRuns
from lib.record import provenance, report
from lib.record.evidence import told_effects
from lib.record.provenance import Result
from lib.record.report import seeds_lead_by
from lib.stores.subjects import SUBJECTS

EDIT_SEEDS = 5  # of each condition
#: a condition -> how pages call it
CONDITION_NAMES = {
    "attention": "attention alone", "attention_both": "attention alone, both orders",
    "causal_both": "causal attention, both orders", "mlp": "one layer with MLP", "mlp_both": "with MLP, both orders",
    "learned": "learned positions", "learned_both": "learned positions, both orders", "llada": "LLaDA-like, held out",
    "dream": "Dream-like, held out", "llada_told": "LLaDA-like, told in both orders",
    "dream_told": "Dream-like, told in both orders", "llama_told": "Llama-like, told in both orders",
    "qwen2_told": "Qwen2.5-like, told in both orders", "smollm2": "SmolLM2, held out, long steps",
    "smollm2_short_steps": "SmolLM2, held out",
    "mlp_edit_layers": "with MLP, no embedding edited", "mlp_edit_mlp": "with MLP, MLP alone edited",
    "llada_edit_layers": "LLaDA-like, no embedding edited", "llada_edit_mlp": "LLaDA-like, MLPs alone edited",
    "smollm2_edit_layers": "SmolLM2, no embedding edited", "smollm2_edit_mlp": "SmolLM2, MLPs alone edited",
}
ONE_LAYER_CONDITIONS = tuple(CONDITION_NAMES)[:7]
TWO_STORES = ("causal_both", "llama_told", "qwen2_told")  # what each direction reads is another evidence's
SPLIT_IN_PART = ("learned", "learned_both")  # positions enter the values, and so what is stored
PART_CONDITIONS = tuple(name for name in CONDITION_NAMES if "_edit_" in name)  # a part of the weights alone is edited
LANGUAGE_CONDITIONS = tuple(name for name in CONDITION_NAMES if name not in ONE_LAYER_CONDITIONS + PART_CONDITIONS)


class RecordedEdits(RecordedRuns):
    """Every recorded run of edits, read once.

    :param folder: that holds ``one_store/``; the results to show where not given
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.results = [result for result in provenance.results("one_store", folder)
                        if result["experiment"] == "one_store"]

    def find(self, condition: str) -> dict[int, Result]:
        """Runs of a condition by seed; none where there is but one, of which nothing could be concluded."""
        if condition not in SUBJECTS:
            raise ValueError(f"condition {condition!r}: one of {', '.join(SUBJECTS)}")
        found = {result["seeds"][0]: result for result in self.results
                 if result["parameters"]["condition"] == condition}
        return dict(sorted(found.items())) if len(found) > 1 else {}

    def at_all(self, metric: str, condition: str) -> Float[np.ndarray, " seed"]:
        """One metric, seed by seed, of a lone seed as well."""
        return np.array([result["metrics"][metric][0] for result in self.results
                         if result["parameters"]["condition"] == condition], dtype=float)

    def points(self, edit: str, condition: str) -> tuple[Float[np.ndarray, " edit"], Float[np.ndarray, " edit"]]:
        """Change of the logit difference in the edited question and in the one asked, one pair a fact and seed."""
        edited, asked = ([value for result in self.find(condition).values()
                          for value in result["curves"][f"{edit}_{key}"]] for key in ("edited", "asked"))
        return np.array(edited, dtype=float), np.array(asked, dtype=float)

    def transfers(self, condition: str, edits: Sequence[str], control: str = "") -> dict[str, Any]:
        """What `lib.record.claims.verify` is told of edits of a condition: transfer ratio and answers that follow.

        :param control: another condition, whose runs the check needs as well
        """
        told = self.evidence({f"{edit}, {word}": (f"{edit}_{key}", condition) for edit in edits
                              for key, word in (("transfer", "ratio"), ("follows", "follows, %"))})
        more = self.evidence({"control": ("forward_transfer", control)})["needs"] if control else {}
        return told | {"needs": told["needs"] | more}


def edits_planned() -> int:
    """How many runs the chapter reads when all are there."""
    return EDIT_SEEDS * len(SUBJECTS)


# What the checks ask -----------------------------------------------------------------------------------------


def follows(runs: RecordedEdits, condition: str, edit: str = "forward", *, ratio: float = 0.5,
            percent: float | int = 50) -> bool:
    """Are the transfer ratio and the answers that follow, means over seeds, at least so high?"""
    return bool(runs.metric(f"{edit}_transfer", condition).mean() >= ratio
                and runs.metric(f"{edit}_follows", condition).mean() >= percent)


def others_kept(kept: Float[np.ndarray, " seed"]) -> bool:
    """Are at least half of the other facts still answered, mean over seeds? An edit that keeps fewer tells nothing."""
    return bool(kept.mean() >= 50)


def stays_apart(runs: RecordedEdits, condition: str, edits: Sequence[str] = ("forward", "reverse"), *,
                ratio: float = 0.5, percent: float | int = 10) -> bool:
    """Are both at most so high, whichever of the questions is edited?"""
    return all(bool(runs.metric(f"{edit}_transfer", condition).mean() <= ratio
                    and runs.metric(f"{edit}_follows", condition).mean() <= percent) for edit in edits)


def stores_expected(condition: str) -> str:
    """What the paper's storage says of a condition, in the words of `stores_found`."""
    return "two" if condition in TWO_STORES else "in part" if condition in SPLIT_IN_PART else "one"


def stores_found(runs: RecordedEdits, condition: str) -> str:
    """Whether an edit carries over in both directions (``one`` store), in neither (``two``), or ``in part``.

    The bounds are those of `follows` and `stays_apart`; here the whole 95 % interval has to lie on their side.

    :return: ``one``, ``two``, ``in part``, or ``not run here``
    """
    if not runs.find(condition):
        return "not run here"
    ratios, percents = ([report.bootstrap_interval(runs.metric(f"{edit}_{key}", condition))
                         for edit in ("forward", "reverse")] for key in ("transfer", "follows"))
    if all(low >= 0.5 for low, _ in ratios) and all(low >= 50 for low, _ in percents):
        return "one"
    return "two" if all(high <= 0.5 for _, high in ratios) and all(high <= 10 for _, high in percents) else "in part"


def mean_transfer(runs: RecordedEdits, condition: str) -> Float[np.ndarray, " seed"]:
    """Transfer ratio, mean of the edits through the forward and through the reverse question."""
    return (runs.metric("forward_transfer", condition) + runs.metric("reverse_transfer", condition)) / 2


def above_another(runs: RecordedEdits, condition: str, first: str = "forward", second: str = "other",
                  by: float = 0.3) -> bool:
    """Is the transfer ratio after one edit above that after another by so much, and the interval above 0?"""
    return seeds_lead_by(runs.metric(f"{first}_transfer", condition), runs.metric(f"{second}_transfer", condition), by)


def transfers_less(runs: RecordedEdits, condition: str, other: str, by: float = 0.1) -> bool:
    """Is the mean transfer ratio of a condition below that of another by so much, and the interval above 0?"""
    return seeds_lead_by(mean_transfer(runs, other), mean_transfer(runs, condition), by)


def erases_more(runs: RecordedEdits, conditions: Sequence[str], first: str = "erase_forward",
                second: str = "erase_right", points: float | int = 30) -> bool:
    """Does the answer follow after one erasure by so many points more often than after another, in each condition?"""
    return all(seeds_lead_by(runs.metric(f"{first}_follows", each), runs.metric(f"{second}_follows", each), points)
               for each in conditions)


def one_entry_by_distance(runs: RecordedEdits, condition: str, pair: str = "left") -> bool:
    """Is a pair's distance ratio below .9 in every seed?"""
    return bool((runs.metric(f"{pair}_distance_ratio", condition) < 0.9).all())


def two_entries_by_distance(runs: RecordedEdits, condition: str, pair: str = "ends") -> bool:
    """Is it .9 or more in every seed?"""
    return bool((runs.metric(f"{pair}_distance_ratio", condition) >= 0.9).all())


def fact_probe_reads(runs: RecordedEdits, condition: str, pair: str = "left", percent: float | int = 90) -> bool:
    """Does the fact probe read at least so many percent across a pair, mean over seeds?"""
    return bool(runs.metric(f"{pair}_fact_probe", condition).mean() >= percent)


def direction_is_readable(runs: RecordedEdits, condition: str, pair: str = "left", control: str = "") -> bool:
    """Does the direction probe read at least 75 percent, mean over seeds?

    :param control: ``_flipped`` for the states of every second fact exchanged
    """
    return bool(runs.metric(f"{pair}_direction_probe{control}", condition).mean() >= 75)


def distances_differ(runs: RecordedEdits, conditions: Sequence[str], far: str = "ends", near: str = "left",
                     by: float = 0.3) -> bool:
    """Is one pair's distance ratio above the other's by so much, and the interval above 0, in each condition?"""
    ratios = lambda pair, condition: runs.metric(f"{pair}_distance_ratio", condition)
    return all(seeds_lead_by(ratios(far, each), ratios(near, each), by) for each in conditions)


def transfer_difference(runs: RecordedEdits, first: str, second: str) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of the difference of two conditions' mean transfer ratios."""
    told = runs.evidence({"first": ("forward_transfer", first), "second": ("forward_transfer", second)})
    return told | told_effects(lambda: {"ratio": (mean_transfer(runs, second), mean_transfer(runs, first))})
