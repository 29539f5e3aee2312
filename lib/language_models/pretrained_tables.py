"""Tables of the runs on SmolLM2-135M, as Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.language_models import table_7
from lib.language_models.pretrained_results import CHANCE, RUN_CONDITIONS, RecordedRuns, patch_share
from lib.record import provenance, report
from lib.record.provenance import Result

#: column -> metric
_COLUMNS = {
    "forward, exact": "forward_accuracy", "reverse, exact": "reverse_accuracy",
    "forward, first": "forward_first_without_prior", "reverse, first": "reverse_first_without_prior",
    "reverse, first, prior left in": "reverse_first", "left in place, first": "left_first_without_prior",
    "told pairs kept": "kept_accuracy", "reverse, contained": "reverse_contained",
    "reverse, tokens": "reverse_token_accuracy",
}
#: printed row -> dataset and model of Table 7
_PRINTED = {f"{model}, {name}, as printed": (name, place) for name in ("p2c", "c2p")
            for place, model in enumerate(("LLaDA-8B", "Dream-7B", "Llama-3.1-8B", "Qwen-2.5-7B"))}


def conditions_table(runs: RecordedRuns) -> str:
    """Mean over seeds with its 95 % interval of every condition, in percent, and Table 7 as printed below."""
    rows = [[condition, len(runs.find(condition)),
             *(mean_with_interval(runs, metric, condition) for metric in _COLUMNS.values())]
            for condition in RUN_CONDITIONS]
    chance = ["by chance", "", "0", "0", *[f"{CHANCE:.1f}"] * 4, *[""] * 3]
    printed = [[name, "", *(f"{value:g}" for value in table_7.PRINTED[dataset][place]), *[""] * 7]
               for name, (dataset, place) in _PRINTED.items()]
    return report.markdown(["", "seeds", *_COLUMNS], [*rows, chance, *printed])


def mean_with_interval(runs: RecordedRuns, metric: str, condition: str, *, share: bool = False) -> str:
    """Mean over seeds with its 95 % interval; "not run here" without two seeds.

    A dash stands for what fewer than two of the runs hold: older ones lack some measures.

    :param share: of a measure that is recorded in percent: with two digits, on the scale of 1
    """
    found = runs.metric(metric, condition)
    if not len(found):
        return "–" if runs.find(condition) else "not run here"
    shown = (lambda value: f"{value / 100:.2f}") if share else (lambda value: f"{value:.0f}")
    low, high = map(shown, report.bootstrap_interval(found))
    return f"{shown(found.mean())} ({low} to {high})"


def student_interval(runs: RecordedRuns, metric: str, condition: str) -> str:
    """Student's t interval of a percentage over seeds, cut at 0 and 100; "not run here" without two seeds."""
    found = runs.metric(metric, condition)
    if len(found) < 2:
        return "not run here"
    low, high = np.clip(report.t_interval(found), 0, 100)
    return f"{low:.0f} to {high:.0f}"


def patch_with_interval(runs: RecordedRuns, patch: str = "weights_matched") -> str:
    """Percent of the gap that a patch of all layers closes in the masked model, with its interval.

    :param patch: by default the forward query's attention weights; ``weights_mismatched`` are those of another fact,
        ``output_matched`` is what attention returns
    """
    if not runs.find("masked"):
        return "not run here"
    shares = 100 * patch_share(runs, patch)
    low, high = report.bootstrap_interval(shares)
    return f"{shares.mean():.0f} ({low:.0f} to {high:.0f})"


def compression(folder: Path) -> Result:
    """The recorded result of `lib.language_models.compression_run`, in a folder of results."""
    return provenance.load(folder / "pretrained" / "full_compression_masked.json")


def run_minutes(runs: RecordedRuns) -> tuple[float, float, float]:
    """Median, least and greatest minutes of the recorded fine-tuning runs; the first of a conversion include it."""
    minutes = [run["provenance"]["seconds"] / 60 for run in runs.results]
    return float(np.median(minutes)), min(minutes), max(minutes)


def conversion_hours(folder: Path) -> float:
    """Hours that the recorded whole conversion to a masked model took."""
    return provenance.load(folder / "pretrained" / "full_adaptation_masked.json")["provenance"]["seconds"] / 3600
