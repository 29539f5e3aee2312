"""The sweep behind Table 7: five models, five datasets, three seeds; one recorded result a cell.

`sweep.smk` makes the cells, each by `lib.language_models.reversal_run`; here is what they are called, how each is asked
for, and what is there. ``python -m lib.language_models.table_7`` prints it beside the table as printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lib.language_models.facts import DATASETS
from lib.record import provenance
from lib.record.accepted import INTEGER_LIMIT
from lib.record.options import command, option

#: the models the paper fine-tunes, by the name of their architecture, in the order of Table 7
MODELS = {
    "llada": "GSAI-ML/LLaDA-8B-Instruct",
    "dream": "Dream-org/Dream-v0-Instruct-7B",
    "llama": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3_5": "Qwen/Qwen3.5-4B",
}
MASKED = ("llada", "dream")
#: Table 7 as printed, forward and reverse for each of `MODELS`, in percent: what a result is compared with
PRINTED = {
    "p2c": ((76.7, 48.3), (62.0, 50.0), (89.9, 15.9), (89.9, 0.5), (99.0, 3.0)),
    "c2p": ((87.7, 43.7), (83.0, 54.0), (95.9, 6.9), (89.0, 1.4), (100.0, 1.0)),
    "p2d": ((72.7, 99.5), (54.3, 99.8), (72.7, 3.5), (70.7, 2.2), (81.3, 0.0)),
    "d2p": ((99.7, 41.3), (100.0, 27.2), (83.0, 1.8), (80.0, 1.5), (100.0, 0.0)),
    "trex": ((92.3, 81.5), (83.0, 35.0), (87.3, 2.8), (89.8, 2.3), (100.0, 0.0)),
}
#: what a sweep may be told, and what it does untold
DEFAULTS: dict[str, Any] = {
    "models": MODELS,  # name -> hub id or folder
    "datasets": list(DATASETS),
    "seeds": [0, 1, 2],
    "masking": "any",  # or "response": the paper does not say which
    "data": "published",
    "dtype": "bfloat16",
    "device": "cuda",
    "options": "",  # more for every cell, such as "--epochs 5"
    "special": {},  # more for the cells whose name begins so: {"qwen2_p2c": "--learning-rate 2e-5"}
    "folder": "results/language_models",  # of the results
    "work": "_build/sweep",  # of checkpoints, adapters and logs
    "launch": "",  # what starts a cell, such as "accelerate launch --num_processes 4"; this Python if empty
}
_CHOICES = {"masking": ("any", "response"), "data": ("published", "generated"),
            "dtype": ("float32", "bfloat16", "float16")}
#: facts and training sentences of each published dataset, whole
WHOLE = {"p2c": (1495, 1495), "c2p": (1495, 1495), "p2d": (30, 900), "d2p": (30, 900), "trex": (154, 154)}


class Table7Run(NamedTuple):
    """One fine-tuning run of the sweep."""

    model: str
    dataset: str
    masking: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its result."""
        return f"{self.model}_{self.dataset}_{self.masking}_{self.seed}"


def settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """`DEFAULTS`, changed by what is asked for.

    :raises ValueError: for a setting that does not exist or that no cell could run with; names it
    """
    for name in asked:
        if name not in DEFAULTS:
            raise ValueError(f"the sweep has no setting {name!r}; it has {', '.join(DEFAULTS)}")
    chosen = {**DEFAULTS, **asked}
    if not isinstance(chosen["models"], Mapping):
        _check_list("models", chosen["models"], "[llada, llama]")
        chosen["models"] = {name: MODELS.get(name, name) for name in chosen["models"]}
    for name, source in chosen["models"].items():
        if not str(name).isidentifier() or name == source:
            raise ValueError(f"models: {name!r} is none of {', '.join(MODELS)}; write {{name: hub id or folder}}")
    _check_choices(chosen)
    _check_words(chosen)
    return chosen


def _check_list(name: str, value: Any, example: str) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value or len(set(value)) < len(value):
        raise ValueError(f"{name} must be a list without repetitions, such as {example}, not {value!r}")


def _check_choices(chosen: Mapping[str, Any]) -> None:
    for name, accepted in _CHOICES.items():
        if chosen[name] not in accepted:
            raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {chosen[name]!r}")
    _check_list("datasets", chosen["datasets"], "[p2c, trex]")
    for name in chosen["datasets"]:
        if name not in DATASETS:
            raise ValueError(f"datasets: no dataset {name!r}; one of {', '.join(DATASETS)}")
    _check_list("seeds", chosen["seeds"], "[0, 1]")
    for seed in chosen["seeds"]:
        if not str(seed).isdecimal() or int(seed) >= INTEGER_LIMIT:  # Snakemake hands numbers on as text
            raise ValueError(f"seeds must be integers from 0 on, not {seed!r} (and below 2^63)")


def _check_words(chosen: Mapping[str, Any]) -> None:
    """``options`` and ``special`` must be options of `lib.language_models.reversal_run`, for cells that there are."""
    planned = cells(chosen)
    if not isinstance(chosen["special"], Mapping):
        raise ValueError(f"special must be such as {{qwen2_p2c: --learning-rate 2e-5}}, not {chosen['special']!r}")
    for start in chosen["special"]:
        if not any(cell.name.startswith(start) for cell in planned):
            raise ValueError(f"special: no cell's name begins with {start!r}; they are such as {planned[0].name}")
    for cell in planned:
        if chosen["options"] or _special(chosen, cell):
            _check_cell(chosen, cell)


def _check_cell(chosen: Mapping[str, Any], cell: Table7Run) -> None:
    fixed, more = _fixed(chosen, cell, "cell.json"), " ".join([chosen["options"], *_special(chosen, cell)]).strip()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            told = _told([*_words(fixed), *shlex.split(more)])
    except (SystemExit, ValueError) as error:
        reason = said.getvalue().strip().partition(": ")[2] or str(error)
        raise ValueError(f"options or special, {more!r} for {cell.name}: {reason}") from None
    for name, value in fixed.items():
        if str(told[name]) != str(Path(value) if name in ("out", "work") else value):
            raise ValueError(f"options or special, {more!r}: the sweep itself says --{name}")


def _told(words: Sequence[str]) -> dict[str, Any]:
    """Every option of `lib.language_models.reversal_run`, by name, as these words set it.

    :raises SystemExit: for words that it refuses, with the reason on stderr
    """
    from lib.language_models import reversal_run  # here, so that planning a plain sweep does not wait for torch

    asked = reversal_run.parsed(words)
    return vars(asked) | vars(asked.training)


def cells(chosen: Mapping[str, Any]) -> list[Table7Run]:
    """The cells of a sweep, all models on one dataset before the next."""
    return [Table7Run(model, dataset, chosen["masking"], int(seed))
            for dataset in chosen["datasets"] for model in chosen["models"] for seed in chosen["seeds"]]


def command_line(chosen: Mapping[str, Any], cell: Table7Run, output: str) -> str:
    """The command line that makes one cell."""
    launch = chosen["launch"] or shlex.quote(sys.executable)
    more = [chosen["options"], *_special(chosen, cell)]
    words = shlex.join(_words(_fixed(chosen, cell, output)))
    return " ".join([launch, "-m lib.language_models.reversal_run", words, *more]).strip()


def _fixed(chosen: Mapping[str, Any], cell: Table7Run, output: str) -> dict[str, Any]:
    return {"model": chosen["models"][cell.model], "dataset": cell.dataset, "masking": cell.masking,
            "seed": cell.seed, "data": chosen["data"], "dtype": chosen["dtype"], "device": chosen["device"],
            "out": output, "work": f"{chosen['work']}/{cell.name}"}


def _words(fixed: Mapping[str, Any]) -> list[str]:
    return [word for name, value in fixed.items() for word in (f"--{name}", str(value))]


def _special(chosen: Mapping[str, Any], cell: Table7Run) -> list[str]:
    return [text for start, text in chosen["special"].items() if cell.name.startswith(start)]


# What is there -----------------------------------------------------------------------------------------------

Results = dict[tuple[str, str], list[provenance.Result]]  # of one configuration, by dataset and model
#: what runs of one cell may differ in and still be averaged
_FREE = {"seed", "batch", "accumulation", "model", "replayed"}


class CollectedResults(NamedTuple):
    """Results of one configuration, and why others are left out, by file name."""

    there: Results
    left_out: dict[str, str]


def found(folder: Path | None = None, masking: str = DEFAULTS["masking"], options: str = "") -> Results:
    """Recorded results of one configuration, published models on whole published data (see `collect`)."""
    return collect(folder, masking, options).there


def collect(folder: Path | None = None, masking: str = DEFAULTS["masking"], options: str = "") -> CollectedResults:
    """The recorded results, those of one configuration apart from the others.

    :param folder: that holds ``language_models/``; the recorded results where not given
    :param masking: what fine-tuning masked: ``any`` token or the ``response`` alone; runs of the other are left out
    :param options: what the sweep was told under that name, such as ``--epochs 5``
    :raises ValueError: if two results of one cell have the same seed, which would count twice in a mean, or differ in
        anything else, such as the learning rate
    """
    config, kept = _configuration(masking, options), CollectedResults({}, {})
    for path in sorted(((folder or provenance.RECORDED) / "language_models").glob("*.json")):
        result = provenance.load(path)
        run = result["parameters"]
        reason = _foreign(run, config)
        if reason:
            kept.left_out[path.name] = reason
            continue
        same = kept.there.setdefault((run["dataset"], run["architecture"]), [])
        for other in same:
            _check_cell_mates(path, result, other)
        same.append(result)
    return kept


def _configuration(masking: str, options: str) -> dict[str, Any]:
    """The `lib.language_models.finetuning.FineTuningConfig` of a sweep with these options."""
    told = _told(["--model", "any", "--out", "cell.json", "--masking", masking, *shlex.split(options)])
    return dataclasses.asdict(told["training"])


def _foreign(run: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Why a run is none of Table 7's; empty where it is one.

    Table 7's are of a published model on the whole of the published data, with one configuration: its
    learning rate aside, which a cell may have of its own, and with as many examples a step, in however many passes.
    """
    for name, value in {"data": "published", **config}.items():
        if name not in ("seed", "batch", "accumulation", "learning_rate") and run.get(name) != value:
            return f"{name}={run.get(name)!r}, not {value!r}"
    if run["batch"] * run["accumulation"] != config["batch"] * config["accumulation"]:
        return f"{run['batch'] * run['accumulation']} examples a step"
    if not _published(run["model"], run["architecture"]):
        return f"model={run['model']!r}, not {MODELS.get(run['architecture'])!r}"
    for name, value in zip(("facts", "sentences"), WHOLE[run["dataset"]], strict=True):
        if run.get(name) != value:
            return f"{name}={run.get(name)!r}, but the whole of {run['dataset']} has {value}"
    return ""


def _published(source: str, architecture: str) -> bool:
    """Is this the hub id of the paper's model, a folder that ends with it, or the hub's own cache of it?"""
    hub = MODELS.get(architecture, "")
    parts = Path(source).parts
    return "/".join(parts[-2:]) == hub or f"models--{hub.replace('/', '--')}" in parts


def _check_cell_mates(path: Path, result: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    mine, theirs = result["parameters"], other["parameters"]
    cell = f"{mine['dataset']}, {mine['architecture']}"
    if other["seeds"] == result["seeds"]:
        raise ValueError(f"{path.parent}: two results of {cell}, seed {result['seeds'][0]}; move one away")
    for name in sorted({*mine, *theirs} - _FREE):
        if mine.get(name) != theirs.get(name):
            raise ValueError(f"{path}: {name}={mine.get(name)!r}, but {theirs.get(name)!r} in another result of "
                             f"{cell}; a mean over both would be of neither: move one away")


def accuracies(there: Results) -> Float[np.ndarray, "dataset model direction"]:
    """Mean over seeds in percent, as `PRINTED` stands; NaN where there is no result."""
    means = np.full((len(DATASETS), len(MODELS), 2), np.nan)
    for (dataset, model), results in there.items():
        both = [[result["metrics"][f"{direction}_accuracy"][0] for direction in ("forward", "reverse")]
                for result in results]
        means[DATASETS.index(dataset), list(MODELS).index(model)] = np.mean(both, 0)
    return means


def printed_accuracies() -> Float[np.ndarray, "dataset model direction"]:
    """Table 7 as printed."""
    return np.array([PRINTED[dataset] for dataset in DATASETS])


def complete(there: Results) -> bool:
    """Whether every cell has its three seeds."""
    return all(len(there.get((dataset, model), ())) >= 3 for dataset in DATASETS for model in MODELS)


def causal_models_collapse(ours: Float[np.ndarray, "dataset model direction"]) -> bool:
    """Whether forward is above 50 and reverse below 20 percent in every autoregressive model, on every dataset."""
    forward, reverse = np.moveaxis(ours[:, [name not in MASKED for name in MODELS]], -1, 0)
    return bool((forward > 50).all() and (reverse < 20).all())


def table(there: Results) -> str:
    """Markdown: forward and reverse of every cell, printed and ours, and how many seeds are behind ours."""
    ours = accuracies(there)
    lines = ["| | " + " | ".join(MODELS) + " |", "|---" * (len(MODELS) + 1) + "|"]
    for row, dataset in enumerate(DATASETS):
        words = []
        for column, model in enumerate(MODELS):
            paper = "{:.1f} / {:.1f}".format(*PRINTED[dataset][column])
            seeds = len(there.get((dataset, model), ()))
            mine = "{:.1f} / {:.1f}".format(*ours[row, column]) + f" ({seeds})" if seeds else "not run here"
            words.append(f"{paper}; {mine}")
        lines.append(f"| {dataset} | " + " | ".join(words) + " |")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table7Options:
    """What the command can be told."""

    folder: Path = option(provenance.RECORDED, positional=True)  # that holds language_models/
    masking: str = option(DEFAULTS["masking"], choices=_CHOICES["masking"])  # of the runs that are shown
    options: str = ""  # what the sweep was told under that name, such as "--epochs 5"


def show(asked: Table7Options) -> None:
    """Print the table of what is there.

    :raises ValueError: as `collect`
    """
    there, left_out = collect(asked.folder, asked.masking, asked.options)
    print(table(there))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)


main = command(Table7Options, show)

if __name__ == "__main__":
    main()
