"""What competes with the right answer, by the same interventions in one layer, in the miniature and in SmolLM2-135M.

    python -m lib.language_models.competition --seed 0 --out results/pretrained/full_competition_0.json

measures the standard masked cell of `lib.language_models.miniature` as `lib.language_models.pretrained_run` measures
the real model: what is written, freely and with the shown name forbidden; how often the right name is first of all;
what the reverse query gains when it is given the forward query's attention to the evidence. One layer has been measured
by `lib.one_layer.experiment`, where the competitor is the placeholder. `competition_table` puts the three side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lib.language_models import pretrained_results, pretrained_run, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.miniature import MiniatureConfig, parameters_of
from lib.language_models.pretrained_results import RecordedRuns
from lib.language_models.pretraining import pretrain
from lib.language_models.training_loop import print_progress
from lib.record import provenance, report
from lib.record.accepted import at_least, json_file
from lib.record.evidence import told_means
from lib.record.experiment import finished, recording
from lib.record.options import command, option
from lib.record.provenance import Result

_EXPERIMENT = "competition"
ONE_LAYER_RUN = "beyond/full_rope_none_20.json"  # RoPE, 20 positions, the trained reverse queries


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompetitionOptions:
    """What the command can be told."""

    cell: MiniatureConfig = option(MiniatureConfig())
    probed: int = 8  # facts whose attention is patched
    along: bool = True  # signatures not only before and after, but along fine-tuning as well
    out: Path = option()  # the result (JSON)

    def __post_init__(self) -> None:
        json_file("--out", self.out)
        at_least(self, probed=2)
        if ARCHITECTURES[self.cell.architecture].causal:
            raise ValueError(f"architecture {self.cell.architecture!r} is causal: its forward query does not see the "
                             "evidence")


def measure_miniature(options: CompetitionOptions) -> None:
    """Pretrain, fine-tune and measure one cell. A result that is there stays.

    :raises ValueError: for a result of another run in its place
    :raises ArithmeticError: if the run diverges
    """
    config = options.cell
    parameters = {**parameters_of(config), "probed": options.probed, "along": options.along}
    defaults = parameters_of(MiniatureConfig())  # a result may be older than a field
    if finished(options.out, experiment=_EXPERIMENT, parameters=parameters, seeds=[config.seed], defaults=defaults):
        print(f"{options.out}: this run is done, and its result stays")
        return
    torch.set_num_threads(1)
    with recording({options.out: parameters}, experiment=_EXPERIMENT, seeds=[config.seed],
                   defaults=defaults) as recorded:
        pretraining = config.pretraining()
        sizes = {"told": config.facts, "held": config.held}
        split = synthetic_facts.recombined_worlds(sizes, pretraining.stock, config.seed)
        text = synthetic_facts.pretraining_examples(split["told"], config.orders, pretraining.kinds)
        tokenizer = synthetic_facts.word_tokenizer(True, pretraining.stock)
        model, _ = pretrain(pretraining, text, tokenizer)
        metrics, curves = pretrained_run.measured_run(
            model, tokenizer, getattr(split["held"], config.dataset), config.finetuning(), text,
            checkpoint=recorded.checkpoint, probed=options.probed, along=options.along, report=print_progress)
        recorded.save({name: [value] for name, value in metrics.items()}, curves)


# The three side by side --------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """Where the same is asked: what competes there, and how each row is read, one value a seed."""

    competitor: str
    runs: Sequence[Result]
    read: Callable[[str], np.ndarray]


#: row -> metric of a language model's run, and of a one-layer run
COMPETITION_ROWS = {
    "right, asked freely": ("reverse_free_right", "reverse_accuracy"),
    "right, the competitor forbidden": ("reverse_forbidden_right", "reverse_accuracy_lowercase"),
    "the competitor written instead": ("reverse_free_shown_name", "competitor"),
    "a mixture of names written instead": ("reverse_free_mixture", ""),
    "right first of all candidates": ("reverse_first", "reverse_accuracy_lowercase"),
    "right first, each candidate's prior taken out": ("reverse_first_without_prior", ""),
    "the left entity asked for in place": ("left_first", "forward_accuracy"),
    "share of the gap closed by the forward query's weight on the evidence": ("patch", "patch"),
}


def three_settings(runs: RecordedRuns, miniatures: Sequence[Result], one_layer: Result | None) -> dict[str, Setting]:
    """The three settings by name, from recorded runs; empty arrays where there are none."""
    def real(metric: str) -> np.ndarray:
        if metric == "patch":
            return 100 * pretrained_results.patch_share(runs) if runs.find("masked") else np.zeros(0)
        return runs.metric(metric)

    def small(metric: str) -> np.ndarray:
        if metric == "patch":
            return np.array([100 * each["curves"]["patching_logit_difference_weights_matched"][-1]
                             / each["metrics"]["patching_gap_logit_difference"][0] for each in miniatures])
        return np.array([each["metrics"][metric][0] for each in miniatures])

    def layer(metric: str) -> np.ndarray:
        if one_layer is None or not metric:
            return np.zeros(0)
        found = one_layer["metrics"]
        if metric == "patch":
            free, forward, patched = (np.array(found[name]) for name in (
                "reverse_accuracy", "forward_accuracy", "graft_mass_forward_accuracy"))
            return 100 * (patched - free) / (forward - free)
        if metric == "competitor":  # the placeholder's share of all answers
            return (100 - np.array(found["reverse_accuracy"])) * np.array(found["placeholder_share"]) / 100
        return np.array(found[metric])

    return {"one layer": Setting("the placeholder", [one_layer] if one_layer else [], layer),
            "miniature": Setting("the name shown", miniatures, small),
            "SmolLM2-135M": Setting("the name shown", list(runs.find("masked").values()), real)}


def seldom_written(found: Mapping[str, Setting], names: Sequence[str], most: float | int = 10) -> bool:
    """Is the competitor, mean over seeds, at most so many percent of what each of these settings writes in reverse?"""
    row = COMPETITION_ROWS["the competitor written instead"]
    written = [found[name].read(row[name == "one layer"]) for name in names]
    return all(bool(values.mean() <= most) for values in written)


def competition_table(found: Mapping[str, Setting]) -> str:
    """The rows of `COMPETITION_ROWS` by setting, in percent, mean over seeds with its 95 % interval."""
    rows = [[row, *(_cell(each.read(metrics[name == "one layer"])) for name, each in found.items())]
            for row, metrics in COMPETITION_ROWS.items()]
    return report.markdown(["", *found], [["what competes", *(each.competitor for each in found.values())], *rows])


def _cell(values: np.ndarray) -> str:
    if len(values) < 2:
        return "not run here" if len(values) else "–"
    low, high = report.bootstrap_interval(values)
    return f"{values.mean():.0f} ({low:.0f} to {high:.0f})"


def told_competitor(found: Mapping[str, Setting]) -> dict[str, Any]:
    """What `lib.record.claims.verify` is told of what is written instead: every run, and a number a setting."""
    row = COMPETITION_ROWS["the competitor written instead"]
    values = {name: each.read(row[name == "one layer"]) for name, each in found.items()}
    needs = {f"{name}, run {place}": run for name, each in found.items()
             for place, run in enumerate(each.runs or [None])}
    return {"needs": needs, "seeds": lambda: [[seed for run in each.runs for seed in run["seeds"]]
                                              for each in found.values()],
            **told_means(values)}


def recorded_layer(folder: Path) -> Result | None:
    """The recorded run of one layer that the table shows, if it is there."""
    path = folder / ONE_LAYER_RUN
    return provenance.load(path) if path.exists() else None


def recorded_miniatures(folder: Path | None = None) -> list[Result]:
    """The recorded results of `measure_miniature`, by seed."""
    found = [each for each in provenance.results("pretrained", folder) if each["experiment"] == _EXPERIMENT]
    return sorted(found, key=lambda each: each["seeds"])


main = command(CompetitionOptions, measure_miniature)

if __name__ == "__main__":
    main()
