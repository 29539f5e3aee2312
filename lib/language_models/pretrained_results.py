"""The recorded runs on SmolLM2-135M read back, and what the checks of their chapter ask of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.language_models.facts import exact_match
from lib.language_models.families import HELD, SETS
from lib.language_models.unseen_relations import UNSEEN_HELD, UNSEEN_SETS
from lib.record import provenance, report
from lib.record.evidence import told_effects, told_means
from lib.record.provenance import Result
from lib.record.report import seeds_lead_by

CHANCE, UNSEEN_CHANCE = 100 / HELD, 100 / UNSEEN_HELD  # percent of right names ranked first by chance
#: a condition -> what differs from masked, parents first, any token masked, told pairs replayed
RUN_CONDITIONS: dict[str, dict[str, Any]] = {
    "masked": {}, "autoregressive": {"kind": "autoregressive"},
    "masked, whole entities": {"masking": "entity"}, "masked, answer alone": {"masking": "response"},
    "masked, no replay": {"replay": 0.0}, "masked, children first": {"dataset": "c2p"},
    "autoregressive, children first": {"kind": "autoregressive", "dataset": "c2p"},
    "published": {"kind": "published", "replay": 0.0}}
TUNED = tuple(RUN_CONDITIONS)  # those that differ in fine-tuning alone, or in the model
#: relations that were told in neither order -> how they are called
UNSEEN_RELATIONS = {"p2d": "person to description", "d2p": "description to person", "trex": "region to capital"}
RUN_CONDITIONS |= {f"{kind}, {words}": {"kind": kind, "dataset": name}
                   for name, words in UNSEEN_RELATIONS.items() for kind in ("masked", "autoregressive")}
#: conversion -> how it is called: four a third as long as the standard one, and that one as it is kept
CONVERTED = {"third": "a third of the conversion", "plain": "a third, any token asked for",
             "opening": "a third, attention opened slowly", "low_rank": "a third, by adapters of rank 64",
             "adapter": "kept in 4 bits"}
RUN_CONDITIONS |= {f"masked, {words}": {"conversion": name} for name, words in CONVERTED.items()}
FROM_KEPT = f"masked, {CONVERTED['adapter']}"  # the condition that starts from the model in the repository
#: of each condition
RUN_SEEDS = {name: UNSEEN_SETS if {"conversion", "dataset"} & change.keys() and change.get("dataset") != "c2p" else SETS
             for name, change in RUN_CONDITIONS.items()} | {FROM_KEPT: SETS, "published": 2}
_STANDARD = {"kind": "masked", "dataset": "p2c", "masking": "any", "replay": 0.5, "data": "published"}


def planned() -> int:
    """How many runs the chapter reads when all are there."""
    return sum(RUN_SEEDS.values())


class RecordedRuns:
    """Every recorded run of `lib.language_models.pretrained_run`, read once.

    :param folder: that holds ``pretrained/``; the results to show where not given
    """

    def __init__(self, folder: Path | None = None) -> None:
        found = provenance.results("pretrained", folder)
        self.results = [result for result in found if result["experiment"] == "pretrained"]

    def find(self, condition: str) -> dict[int, Result]:
        """Runs of one of `RUN_CONDITIONS` by seed; none where there is but one, of which nothing could be concluded.

        :raises ValueError: for two runs of one seed
        """
        wanted = {**_STANDARD, **RUN_CONDITIONS[condition]}
        conversion = wanted.pop("conversion", "")
        start = f"{wanted['kind']}_{conversion}" if conversion else wanted["kind"]
        like = [result for result in self.results
                if all(result["parameters"].get(name) == value for name, value in wanted.items())
                and result["parameters"]["start"] == start]
        found = {result["seeds"][0]: result for result in like}
        if len(found) < len(like):
            raise ValueError(f"{condition}: two recorded runs have one seed; keep one of them in results/pretrained")
        return dict(sorted(found.items())) if len(found) > 1 else {}

    def measured(self, metric: str, condition: str = "masked") -> dict[int, Result]:
        """Those runs of a condition that measured a metric, at least two (answers of known length came later)."""
        found = {seed: run for seed, run in self.find(condition).items() if metric in run["metrics"]}
        return found if len(found) > 1 else {}

    def metric(self, name: str, condition: str = "masked") -> Float[np.ndarray, " seed"]:
        """One metric, seed by seed, of the runs that measured it."""
        return np.array([result["metrics"][name][0] for result in self.measured(name, condition).values()], dtype=float)

    def curves(self, name: str, condition: str = "masked") -> Float[np.ndarray, "seed point"]:
        """One curve, seed by seed; (0, 0) where nothing is recorded."""
        found = [result["curves"][name] for result in self.find(condition).values()]
        return np.array(found, dtype=float) if found else np.zeros((0, 0))

    def curves_along(self, name: str, condition: str = "masked") -> Float[np.ndarray, "seed point"]:
        """One curve of what only some runs measure along fine-tuning, of those that do; (0, 0) where none does."""
        found = [result["curves"][name] for result in self.find(condition).values() if name in result["curves"]]
        return np.array(found, dtype=float) if found else np.zeros((0, 0))

    def recorded(self, conditions: Sequence[str]) -> list[str]:
        """Those of the conditions that have a run."""
        return [condition for condition in conditions if self.find(condition)]

    def not_run(self, conditions: Sequence[str]) -> list[str]:
        """Those of the conditions that have none."""
        return [condition for condition in conditions if not self.find(condition)]

    def evidence(self, cells: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """What `lib.record.claims.verify` is told of metrics: their means with intervals, and the runs they are from.

        :param cells: label -> metric and condition
        """
        found = [(condition, self.measured(metric, condition)) for metric, condition in cells.values()]
        needs: dict[str, Result | None] = {f"{condition}, seed {seed}": run for condition, runs in found
                                           for seed, run in runs.items()}
        needs |= {f"{condition}, two seeds": None for condition, runs in found if not runs}
        return {"needs": needs, "seeds": lambda: [list(runs) for _, runs in found],
                **told_means({label: self.metric(*cell) for label, cell in cells.items()})}

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
        """What `lib.record.claims.verify` is told of the difference of two metrics, first less second.

        :param first: metric and condition
        """
        told = self.evidence({"first": first, "second": second})
        return told | told_effects({"difference": (self.metric(*second), self.metric(*first))})


# What the checks ask -----------------------------------------------------------------------------------------


def forward_only(runs: RecordedRuns, condition: str = "autoregressive", *, turn: bool = False) -> bool:
    """Are at least 80 percent answered in the trained direction, and at most 5 percent in the other?

    :param turn: the directions exchanged
    """
    forward, reverse = (runs.metric(f"{side}_accuracy", condition).mean() for side in ("forward", "reverse"))
    return bool(min(forward, reverse) <= 5 and (reverse if turn else forward) >= 80)


def rank_gain(runs: RecordedRuns, condition: str, other: str, *, when: str = "", asked: str = "reverse",
              points: float | int = 20) -> bool:
    """Is the right name first of all, its prior taken out, more often in one condition than in another?

    :param when: ``before_`` for the models before fine-tuning
    """
    name = f"{when}{asked}_first_without_prior"
    return seeds_lead_by(runs.metric(name, condition), runs.metric(name, other), points)


def exact_gain(runs: RecordedRuns, condition: str, other: str, *, asked: str = "reverse",
               points: float | int = 20) -> bool:
    """Are more questions of a direction answered exactly in one condition than in another?"""
    return seeds_lead_by(runs.metric(f"{asked}_accuracy", condition), runs.metric(f"{asked}_accuracy", other), points)


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
    return seeds_lead_by(without, free, 15)


def length_gains(
    runs: RecordedRuns, condition: str = "masked", direction: str = "reverse"
) -> Float[np.ndarray, " seed"]:
    """Points by which more is written exactly where the length of the answer is known, one a seed."""
    return _gaps(runs, f"{direction}_length_most_certain_first", f"{direction}_free_right", condition)


def _gaps(runs: RecordedRuns, more: str, less: str, condition: str) -> Float[np.ndarray, " seed"]:
    """One metric less another, in each run that measured both."""
    metrics = [run["metrics"] for run in runs.measured(more, condition).values() if less in run["metrics"]]
    return np.array([each[more][0] - each[less][0] for each in metrics], dtype=float)


def length_helps(runs: RecordedRuns, direction: str = "reverse") -> bool:
    """Are at least 15 points more written exactly where the length is known, and is the interval above 0?"""
    return report.is_ahead(length_gains(runs, direction=direction), 15)


def length_gains_told(runs: RecordedRuns) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of `length_gains`."""
    told = runs.evidence({"length known": ("reverse_length_most_certain_first", "masked")})
    return told | told_means(lambda: {"gain": length_gains(runs)})


def first_token_suffices(runs: RecordedRuns, when: str = "") -> bool:
    """With the first token of the name shown, is the rest written exactly in at least 90 percent of the questions?"""
    return bool(runs.metric(f"{when}reverse_length_first_token_given").mean() >= 90)


def _first_token_metrics(without: str) -> tuple[str, str]:
    """Names written in reverse, the first token given: with their question, and with it replaced.

    :param without: one of `lib.language_models.filled_names.REPLACED_QUESTIONS`
    """
    return "reverse_length_first_token_given", f"reverse_first_token_{without.replace(' ', '_')}"


def question_adds(runs: RecordedRuns, without: str, *, when: str = "", points: float | int = 10) -> bool:
    """Does the question bring at least so many points more names, first token given, and is the interval above 0?"""
    asked, replaced = (f"{when}{metric}" for metric in _first_token_metrics(without))
    return report.is_ahead(_gaps(runs, asked, replaced, FROM_KEPT), points)


def question_gains_told(runs: RecordedRuns, without: str) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of `question_adds`."""
    asked, replaced = _first_token_metrics(without)
    told, found = runs.evidence({without: (replaced, FROM_KEPT)}), runs.measured(replaced, FROM_KEPT).values()
    return told | told_means(lambda: {
        "with the question": np.array([run["metrics"][asked][0] for run in found], dtype=float),
        without: runs.metric(replaced, FROM_KEPT), "gain": _gaps(runs, asked, replaced, FROM_KEPT)})


def too_long_to_write(runs: RecordedRuns, condition: str, direction: str = "reverse") -> bool:
    """Is fewer than half of a direction written exactly although the length is known?"""
    return bool(runs.metric(f"{direction}_length_most_certain_first", condition).mean() < 50)


def piece_gaps(
    runs: RecordedRuns, more: str, less: str, condition: str = FROM_KEPT, *, when: str = ""
) -> Float[np.ndarray, " seed"]:
    """Points by which more pieces of wrong reverse answers stand in one place than in another, one a seed.

    :param more: one of `lib.language_models.wrong_answers.PIECE_SHARES`
    :param less: another
    :param when: ``before_`` for the models before fine-tuning
    """
    return _gaps(runs, f"{when}reverse_wrong_{more}", f"{when}reverse_wrong_{less}", condition)


def pieces_of_both(runs: RecordedRuns, *, when: str = "") -> bool:
    """Are at least 30 points more of the pieces of one of the fact's two names than of another fact's?"""
    return report.is_ahead(piece_gaps(runs, "of_both", "of_others", when=when), 30)


def pieces_of_right(runs: RecordedRuns, *, when: str = "") -> bool:
    """Are more of the pieces of the right name than of the one that is shown?"""
    return report.is_ahead(piece_gaps(runs, "of_right", "of_shown", when=when), 0)


def piece_gap_told(runs: RecordedRuns, more: str, less: str) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of `piece_gaps`."""
    told = runs.evidence({name: (f"reverse_wrong_{name}", FROM_KEPT) for name in (more, less)})
    return told | told_means(lambda: {"difference": piece_gaps(runs, more, less)})


def wrong_example(runs: RecordedRuns, condition: str = FROM_KEPT) -> tuple[str, str, str]:
    """A reverse question that a run quotes with a wrong answer, what it answered and what is right; the first there is.

    :return: dashes where there is none
    """
    for run in runs.find(condition).values():
        quoted = (run["curves"][f"{part}_reverse"] for part in ("asked", "written", "right"))
        for asked, written, right in zip(*quoted, strict=True):
            if not exact_match(written, frozenset([right])):
                return asked, written, right
    return "-", "-", "-"


def ranked_first(runs: RecordedRuns, condition: str = FROM_KEPT, *, when: str = "") -> bool:
    """Is the right name first of all, its prior taken out, in at least 80 percent of the reverse questions?"""
    return bool(runs.metric(f"{when}reverse_first_without_prior", condition).mean() >= 80)


def writes_nearly_as_much(runs: RecordedRuns, condition: str = FROM_KEPT, other: str = "masked") -> bool:
    """Are at most 20 points fewer of the reverse answers written exactly than in another condition, mean over seeds?"""
    lost = runs.metric("reverse_accuracy", other).mean() - runs.metric("reverse_accuracy", condition).mean()
    return bool(lost <= 20)


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


def patch_shares_told(runs: RecordedRuns) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of `patch_share`."""
    told = runs.evidence({"gap, nats": ("patching_gap_logit_difference", "masked")})
    return told | told_means(lambda: {
        f"closed by {whose} fact's weights": patch_share(runs, patch)
        for whose, patch in (("the same", "weights_matched"), ("another", "weights_mismatched"))})
