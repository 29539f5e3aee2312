"""Recipe crossed with protocol: which of them reach the reverse values that Table 1 prints.

The paper's recipe is not known to this book. Recorded runs cross what is plausible: our recipe or the published
defaults of RADD, the masked diffusion code that the paper names (`RADD`); fresh sequences or a finite training set; the
batch; the width. Each is read under every evaluation protocol (`lib.one_layer.evaluation`) along the whole of its
training. A printed value is *reached* where the 95 % interval over seeds of the mean, or ten points about the mean,
hold it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lib.one_layer import results
from lib.one_layer.evaluation import PROTOCOLS
from lib.one_layer.paper_tables import TABLE_1
from lib.one_layer.results import RecordedRun, final
from lib.record import report

CROSSED_LENGTHS = (10, 20)
TOLERANCE, FORWARD_TOLERANCE = 10.0, 3.0  # points about the mean; of forward accuracy about the printed one
#: RADD's published settings: rate, warm-up, moving average, zero start of the unembedding, loss; its dropout of .02
#: and its batch of 512 are apart, the first is left out and the second crossed
RADD: dict[str, Any] = {"learning_rate": 3e-4, "warmup": 2500, "ema": 0.9999, "unembedding": 0.0, "draws": "t_dce"}


class Recipe(NamedTuple):
    """What sets a recorded run apart."""

    radd: bool
    training_set: int  # sequences; 0 draws fresh ones
    batch: int
    width: int
    length: int

    @property
    def words(self) -> str:
        """The recipe but for its length."""
        data = f"{self.training_set} sequences" if self.training_set else "fresh sequences"
        return f"{'RADD defaults' if self.radd else 'our recipe'}, {data}, batch {self.batch}, width {self.width}"

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are recorded."""
        changed = {"training_set": self.training_set, "batch": self.batch, "width": self.width, "length": self.length}
        return {"encoding": "rope", **(RADD if self.radd else {}), **changed}


@functools.cache
def recorded_recipes() -> dict[Recipe, RecordedRun]:
    """Every recorded run by its recipe, RADD after ours, small before large."""
    found = {}
    for run in results.recorded_runs("recipes"):
        given = run["parameters"]
        radd = given["unembedding"] == 0
        recipe = Recipe(radd, *(given[name] for name in ("training_set", "batch", "width", "length")))
        if results.having([run], **recipe.parameters):
            found[recipe] = run
    return dict(sorted(found.items(), key=lambda item: (item[0].length, *item[0][:4])))


def of_length(length: int) -> dict[Recipe, RecordedRun]:
    """The recorded runs of one length."""
    return {recipe: run for recipe, run in recorded_recipes().items() if recipe.length == length}


# Reaching a value ---------------------------------------------------------------------------------------------------


def printed_value(length: int, way: str = "reverse") -> float:
    """Accuracy that Table 1 prints for the masked model, percent."""
    return TABLE_1["RoPE"][way][length]


def learned(run: RecordedRun, point: int = -1) -> bool:
    """Whether the run's mean forward accuracy lies within `FORWARD_TOLERANCE` of the printed one, or above."""
    length = run["parameters"]["length"]
    return bool(final(run, "forward_accuracy", point).mean() >= printed_value(length, "forward") - FORWARD_TOLERANCE)


def reaches(values: Float[np.ndarray, " seeds"], wanted: float) -> bool:
    """Whether the interval over seeds of the mean, or ten points about it, hold a value."""
    mean, (low, high) = values.mean(), report.bootstrap_interval(values)
    return bool(min(low, mean - TOLERANCE) <= wanted <= max(high, mean + TOLERANCE))


def reached_by(length: int, wanted: float, protocol: str = "standard") -> list[Recipe]:
    """Recipes whose models, at the end of training and with the forward direction learned, reach a value."""
    return [recipe for recipe, run in of_length(length).items()
            if learned(run) and reaches(final(run, f"{protocol}_reverse"), wanted)]


def at_end(length: int) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Reverse accuracy at the end, standard protocol, of every recipe that learned the forward direction."""
    return {recipe.words: final(run, "standard_reverse") for recipe, run in of_length(length).items() if learned(run)}


def reaching_points(run: RecordedRun, protocol: str, wanted: float) -> Iterator[int]:
    """Steps of the run, the forward direction learned, at which a protocol reaches a value."""
    for point, step in enumerate(run["curves"]["steps"]):
        if learned(run, point) and reaches(final(run, f"{protocol}_reverse", point), wanted):
            yield step


# Words --------------------------------------------------------------------------------------------------------------


def end_table(length: int) -> str:
    """Accuracies of every recipe at the end of its run under the standard protocol, and what they exclude."""
    rows = []
    for recipe, run in of_length(length).items():
        values = final(run, "standard_reverse")
        low, high = report.bootstrap_interval(values)
        verdict = "forward not learned" if not learned(run) else (
            "reached" if reaches(values, printed_value(length)) else "excluded")
        rows.append([recipe.words, f"{run['parameters']['steps']:,}", str(len(values)),
                     report.cell(final(run, "forward_accuracy"), 0), report.cell(values, 0), f"{low:.0f} to {high:.0f}",
                     verdict])
    return report.markdown(["recipe", "steps", "seeds", "forward (%)", "reverse (%)", "interval of the mean",
                            f"printed value, {printed_value(length):.0f} %"], rows)


def published_code_table() -> str:
    """Accuracies at the end of recorded runs of RADD's own code on our sequences (`benchmarks.radd`)."""
    rows = []
    for run in results.recorded_runs("published_radd"):
        given = run["parameters"]
        rows.append([f"L = {given['length']}, width {given['width']}, batch {given['batch']}", f"{given['steps']:,}",
                     *(report.cell(final(run, name)) for name in (
                         "forward_accuracy", "reverse_accuracy", "reverse_accuracy_lowercase"))])
    header = ["RADD's own code", "steps", "forward (%)", "reverse (%)", "reverse, among letters (%)"]
    return report.markdown(header, rows)


def reached_by_protocol(length: int) -> str:
    """For every protocol, the recipes that reach the printed value at the end, and at some point of their training."""
    runs, rows = of_length(length), []
    for protocol in PROTOCOLS:
        end = len(reached_by(length, printed_value(length), protocol))
        some = [recipe for recipe, run in runs.items() if any(reaching_points(run, protocol, printed_value(length)))]
        rows.append([f"`{protocol}`", f"{end} of {len(runs)}", f"{len(some)} of {len(runs)}"])
    return report.markdown(["protocol", "at the end of training", "at some measured point"], rows)


def needs(length: int) -> Mapping[str, RecordedRun | None]:
    """What a check of one length reads: all its runs, or a missing one."""
    found: dict[str, RecordedRun | None] = {recipe.words: run for recipe, run in of_length(length).items()}
    return found or {f"recipes at length {length}": None}
