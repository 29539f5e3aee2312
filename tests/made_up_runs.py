"""Recorded runs on the pretrained model, made up: a number for each measure, alike in every seed but for tenths."""

from pathlib import Path

from lib.language_models import name_ranks
from lib.language_models.pretrained_results import RUN_CONDITIONS, RecordedRuns
from lib.record.provenance import Result

LAYERS = 3
#: what the book expects of a masked model and of its twin
MASKED = {"forward_accuracy": 95.0, "reverse_accuracy": 5.0, "reverse_first_without_prior": 70.0,
          "before_reverse_first_without_prior": 5.0, "left_first_without_prior": 80.0,
          "before_left_first_without_prior": 5.0, "reverse_free_right": 5.0, "reverse_forbidden_right": 40.0,
          "reverse_free_shown_name": 40.0, "reverse_free_mixture": 30.0, "forward_free_shown_name": 0.0,
          "forward_free_mixture": 5.0, "forward_free_right": 95.0, "forward_forbidden_right": 95.0,
          "cosine_matched": 60.0, "cosine_mismatched": 5.0, "patching_gap_logit_difference": 4.0}
TWIN = {**MASKED, "reverse_accuracy": 0.0, "reverse_first_without_prior": 5.0}


def curves():
    ups = {f"patching_logit_difference_{name}": [0.1] * LAYERS + [last] for name, last in (
        ("weights_matched", 2.0), ("weights_mismatched", 0.2), ("output_matched", 3.0), ("output_mismatched", 0.3),
        ("knockout_reverse", -1.0))}
    layers = {f"{when}{name}_{word}": [0.5] * LAYERS for when in ("", "before_") for name in ("correlation", "cosine")
              for word in ("matched", "mismatched")}
    return {"step": [1, 2], "probability_forward": [0.1, 0.9], "probability_reverse": [0.0, 0.2], **ups, **layers}


def made(condition, seed, values, **parts):
    told = {"kind": "masked", "dataset": "p2c", "masking": "any", "replay": 0.5, "data": "published"}
    told |= RUN_CONDITIONS[condition]
    conversion = told.pop("conversion", None)
    parts = {"start": f"masked_{conversion}"} | parts if conversion else parts
    kinds = {f"{side}_{how}_{kind.replace(' ', '_')}": 0.0 for side in ("forward", "reverse")
             for how in ("free", "forbidden") for kind in name_ranks.ANSWER_KINDS}
    metrics = {**kinds, "forward_first_without_prior": 90.0, "reverse_first": 40.0, "kept_accuracy": 98.0, **values}
    return Result({"experiment": "pretrained", "parameters": told | {"start": told["kind"]} | parts, "seeds": [seed],
                   "metrics": {name: [value + seed / 10] for name, value in metrics.items()}, "curves": curves()},
                  Path("run.json"))


def runs_of(*found):
    runs = RecordedRuns.__new__(RecordedRuns)
    runs.results = list(found)
    return runs
