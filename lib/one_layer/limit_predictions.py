"""How well the limit of frozen attention predicts what models answer in reverse: recorded runs, read.

A *case* is one recorded run: an encoding, a length, an intervention, with MLP and norms or without; its models are its
seeds. Models without MLP are read at two points: where their attention stops training (*learned*), and at the end,
after training went on with attention frozen and the rate falling to zero (*frozen*). Errors are in points of reverse
accuracy.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.one_layer import results
from lib.one_layer.results import RecordedRun, final
from lib.record import report

Cases = Mapping[str, RecordedRun]
#: what can be predicted with, beside the rules of `lib.one_layer.frozen_attention`
BASELINES = ("zero", "mean")
SAME_CASE = "same case"  # the mean of the case's other seeds, which sees their reverse answers; in no threshold
COMPARED_RULES = ("limit", "expected", "separator", "window", "additive")
ENCODING_WORDS = {"rope": "RoPE", "learned": "learned", "alibi_directional": "direction-aware ALiBi", "t5": "T5",
             "none": "none", "alibi": "symmetric ALiBi"}
DROPPED_WORDS = {
    "none": "", "drop_right_of_capital": "all dropped", "drop_right_letter_hidden": "letter hidden dropped",
    "drop_right_letter_shown": "letter in sight dropped", "drop_random": "random dropped"}
DROPPED_PARTS = tuple(name for name in DROPPED_WORDS if name != "none")


@functools.cache
def _recorded() -> dict[str, RecordedRun]:
    found = {}
    for run in results.recorded_runs("predicted_limit"):
        found[_named(run["parameters"])] = run
    return dict(sorted(found.items()))


def _named(given: Mapping[str, Any]) -> str:
    words = [ENCODING_WORDS[given["encoding"]], f"L = {given['length']}", DROPPED_WORDS[given["intervention"]]]
    return ", ".join(["MLP" if given["mlp"] else "no MLP", *filter(None, words)])


def limit_cases(mlp: bool) -> Cases:
    """All recorded cases with MLP and norms, or without."""
    return {name: run for name, run in _recorded().items() if run["parameters"]["mlp"] == mlp}


def case(mlp: bool, encoding: str = "rope", length: int = 10, intervention: str = "none") -> RecordedRun | None:
    """One recorded case, or None."""
    wanted = {"mlp": mlp, "encoding": encoding, "length": length, "intervention": intervention}
    return _recorded().get(_named(wanted))


def learned_point(run: RecordedRun) -> int:
    """The measured point at which attention stops training; the end where it never does."""
    steps = run["curves"]["steps"]
    return steps.index(run["parameters"]["attention_steps"] or steps[-1])


def answered(run: RecordedRun, point: int = -1) -> Float[np.ndarray, " seeds"]:
    """Measured reverse accuracy, percent."""
    return final(run, "answered_reverse", point)


# Errors -----------------------------------------------------------------------------------------------------------


def errors(found: Cases, rule: str, frozen: bool = True, other: bool = False) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Absolute error of one rule or baseline for every model of every case.

    :param frozen: at the end; else where attention stops training
    :param other: with the predictions made for the models of another case, half of the list away
    """
    points = {name: -1 if frozen else learned_point(run) for name, run in found.items()}
    measured = {name: answered(run, points[name]) for name, run in found.items()}
    if rule == "zero":
        return {name: np.abs(values) for name, values in measured.items()}
    if rule == SAME_CASE:
        return {name: np.abs(values - _means_of_the_rest(values)) for name, values in measured.items()}
    if rule == "mean":
        return {name: np.abs(values - [_mean_of_others(found, measured, seed) for seed in found[name]["seeds"]])
                for name, values in measured.items()}
    names = list(found)
    shift = len(names) // 2 if other else 0
    return {name: np.abs(values - _predicted(found[names[(place + shift) % len(names)]], rule, frozen, len(values)))
            for place, (name, values) in enumerate(measured.items())}


def _means_of_the_rest(values: Float[np.ndarray, " seeds"]) -> Float[np.ndarray, " seeds"]:
    """Of each seed the mean of all others; nan where there is none."""
    return (values.sum() - values) / (len(values) - 1) if len(values) > 1 else np.full(len(values), np.nan)


def _mean_of_others(found: Cases, measured: Mapping[str, np.ndarray], seed: int) -> float:
    kept = [value for name, values in measured.items()
            for value, own in zip(values, found[name]["seeds"], strict=True) if own != seed]
    return float(np.mean(kept))


def _predicted(run: RecordedRun, rule: str, frozen: bool, count: int) -> Float[np.ndarray, " count"]:
    """A rule's predictions for that many models of a case, its own again where it has fewer."""
    values = final(run, f"{rule}_reverse", -1 if frozen else learned_point(run))
    return np.resize(values, count)


def mean_error(by_case: Mapping[str, Float[np.ndarray, " seeds"]]) -> float:
    """Mean over all models."""
    return float(np.concatenate(list(by_case.values())).mean())


def error_interval(by_case: Mapping[str, Float[np.ndarray, " seeds"]]) -> tuple[float, float]:
    """95 % interval of `mean_error`, the seeds of every case drawn anew."""
    return report.resampled_interval(lambda *cells: float(np.concatenate(cells).mean()), *by_case.values())


def told_errors(found: Cases, rules: Sequence[str], frozen: bool = True) -> dict[str, Any]:
    """Mean errors of rules and baselines with their intervals, as `claims.verify` takes them."""
    each = {rule: errors(found, rule, frozen) for rule in (*rules, *BASELINES, SAME_CASE)}
    return {"ours": {rule: mean_error(by_case) for rule, by_case in each.items()},
            "interval": {rule: error_interval(by_case) for rule, by_case in each.items()}}


def beats_baselines(found: Cases, rule: str, frozen: bool = True, other: bool = False, most: float = 1e9) -> bool:
    """Whether a rule's mean error is below ``most`` and below half of either baseline's."""
    error = mean_error(errors(found, rule, frozen, other))
    return bool(error < most and all(error < mean_error(errors(found, name, frozen)) / 2 for name in BASELINES))


def less_than_additive(found: Cases, rule: str) -> tuple[float, tuple[float, float]]:
    """By how much a rule errs less than the additive rule at the end, mean over models, with its interval."""
    additive, own = errors(found, "additive"), errors(found, rule)
    gained = {name: additive[name] - own[name] for name in found}
    return mean_error(gained), error_interval(gained)


# Query by query ---------------------------------------------------------------------------------------------------


def outcome_agreement(found: Cases, name: str, frozen: bool = True) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Share of reverse queries whose outcome is as predicted, percent, for every model; models without one left out."""
    values = {key: final(run, name, -1 if frozen else learned_point(run)) for key, run in found.items()}
    return {key: each[~np.isnan(each)] for key, each in values.items() if not np.isnan(each).all()}


def constant_agreement(found: Cases) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Share of reverse queries, percent, that have the outcome which most queries of their model have at the end."""
    return {name: np.maximum(answered(run), 100 - answered(run)) for name, run in found.items()}


# Interventions ----------------------------------------------------------------------------------------------------


def predicted_changes(rule: str) -> dict[str, float]:
    """What each intervention changes in mean reverse accuracy at the end, by a rule or (``answered``) as measured."""
    base, found = case(False), {}
    for name in DROPPED_PARTS:
        run = case(False, intervention=name)
        if base is not None and run is not None:  # the same seeds of both
            after, before = (final(each, f"{rule}_reverse")[: len(run["seeds"])] for each in (run, base))
            found[DROPPED_WORDS[name]] = float(after.mean() - before.mean())
    return found


def largest_miss(rule: str, other: bool = False) -> float:
    """The largest difference of a predicted and a measured change, points.

    :param other: each held against the next one's prediction
    """
    measured, predicted = predicted_changes("answered"), list(predicted_changes(rule).values())
    if other:
        predicted = [*predicted[1:], predicted[0]]
    return max(abs(one - two) for one, two in zip(measured.values(), predicted, strict=True))


def fall_of_probability(run: RecordedRun) -> Float[np.ndarray, " seeds"]:
    """`results.fall_from_peak` of the reverse target's probability."""
    return results.fall_from_peak(run, "reverse_probability")


# The side ---------------------------------------------------------------------------------------------------------


def side_probe(run: RecordedRun, part: str) -> Float[np.ndarray, " seeds"]:
    """AUC of the side from one part of what a query reads."""
    return final(run, f"side_{part}")


# Words ------------------------------------------------------------------------------------------------------------


def limit_error_table() -> str:
    """Mean errors of every rule and baseline, by kind of model and point."""
    plain, full = limit_cases(False), limit_cases(True)
    kinds = {"no MLP, attention learned": (plain, False), "no MLP, attention frozen": (plain, True),
             "MLP": (full, True)}
    rows = []
    for words, (found, frozen) in kinds.items():
        if not found:
            continue
        cells = []
        for rule in (*COMPARED_RULES, *BASELINES, SAME_CASE):
            each = errors(found, rule, frozen)
            low, high = error_interval(each)
            cells.append(f"{mean_error(each):.0f} ({low:.0f}–{high:.0f})")
        rows.append([words, str(sum(len(run["seeds"]) for run in found.values())), *cells])
    return report.markdown(["models", "number", *COMPARED_RULES, *BASELINES, SAME_CASE], rows)


def case_table(mlp: bool) -> str:
    """Every case: measured reverse accuracy and what the rules predict, mean and range over seeds."""
    rows = []
    for name, run in limit_cases(mlp).items():
        values = [report.cell(final(run, f"{rule}_reverse"), 0) for rule in ("answered", "expected", "limit", "window")]
        share, agreed = (report.cell(final(run, f"expected_{what}"), 0) for what in ("decided", "decided_agreement"))
        rows.append([name, *values, share, agreed])
    header = ["case", "answered (%)", "expected", "limit", "window", "decided (%)", "agreement there (%)"]
    return report.markdown(header, rows)
