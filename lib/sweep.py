"""The sweep behind Table 7: five models, five datasets, three seeds; one recorded result a cell.

`sweep.smk` makes the cells, each by `lib.reversal_run`; here is what they are called, how each is asked for, and what
is there. ``python -m lib.sweep`` prints the table of what is there beside the printed one.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lib import provenance
from lib.relations import DATASETS

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


class Cell(NamedTuple):
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

    :raises ValueError: for a setting, a dataset or a model that does not exist
    """
    for name in asked:
        if name not in DEFAULTS:
            raise ValueError(f"the sweep has no setting {name!r}; it has {', '.join(DEFAULTS)}")
    chosen = {**DEFAULTS, **asked}
    if not isinstance(chosen["models"], Mapping):
        chosen["models"] = {name: MODELS.get(name, name) for name in chosen["models"]}
    for name in chosen["datasets"]:
        if name not in DATASETS:
            raise ValueError(f"datasets: no dataset {name!r}; one of {', '.join(DATASETS)}")
    for name, source in chosen["models"].items():
        if not name.isidentifier() or name == source:
            raise ValueError(f"models: {name!r} is none of {', '.join(MODELS)}; write {{name: hub id or folder}}")
    return chosen


def cells(chosen: Mapping[str, Any]) -> list[Cell]:
    """The cells of a sweep, all models on one dataset before the next."""
    return [Cell(model, dataset, chosen["masking"], int(seed))
            for dataset in chosen["datasets"] for model in chosen["models"] for seed in chosen["seeds"]]


def command(chosen: Mapping[str, Any], cell: Cell, output: str) -> str:
    """The command line that makes one cell."""
    fixed = {"model": chosen["models"][cell.model], "dataset": cell.dataset, "masking": cell.masking,
             "seed": cell.seed, "data": chosen["data"], "dtype": chosen["dtype"], "device": chosen["device"],
             "output": output, "work": f"{chosen['work']}/{cell.name}"}
    words = [word for name, value in fixed.items() for word in (f"--{name}", str(value))]
    more = [text for start, text in chosen["special"].items() if cell.name.startswith(start)]
    launch = chosen["launch"] or shlex.quote(sys.executable)
    return " ".join([launch, "-m lib.reversal_run", shlex.join(words), chosen["options"], *more]).strip()


# What is there -----------------------------------------------------------------------------------------------

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def found(
    folder: Path | None = None, masking: str = DEFAULTS["masking"]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Recorded results of one protocol, real models on published data, by dataset and model.

    :param folder: that holds ``language_models/``; the recorded results where not given
    :param masking: what fine-tuning masked: ``any`` token or the ``response`` alone; runs of the other are left out
    :raises ValueError: if two results are of one cell: a mean over them would count a seed twice
    """
    there: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in provenance.results("language_models", folder or provenance.RECORDED):
        run = result["parameters"]
        if _belongs(run, masking):
            same = there.setdefault((run["dataset"], run["architecture"]), [])
            if any(other["seeds"] == result["seeds"] for other in same):
                where = (folder or provenance.RECORDED) / "language_models"
                raise ValueError(f"{where}: two results of {run['dataset']}, {run['architecture']}, seed "
                                 f"{result['seeds'][0]}; move one away")
            same.append(result)
    return there


def _belongs(run: Mapping[str, Any], masking: str) -> bool:
    """Is this a run of Table 7: a real model, published data, masks drawn as the sweep's cells draw them, and as many
    examples a step, in however many passes?"""
    from lib.finetuning import Protocol  # here, so that planning a sweep does not wait for torch

    untold = dataclasses.asdict(Protocol())
    examples = lambda fields: fields["batch"] * fields["accumulation"]
    return (run["data"] == "published" and not run["model"].startswith("tiny:") and run["masking"] == masking
            and examples({**untold, **run}) == examples(untold))


def accuracies(there: Found) -> Float[np.ndarray, "dataset model direction"]:
    """Mean over seeds in percent, as `PRINTED` stands; NaN where there is no result."""
    means = np.full((len(DATASETS), len(MODELS), 2), np.nan)
    for (dataset, model), results in there.items():
        both = [[result["metrics"][f"{direction}_accuracy"][0] for direction in ("forward", "reverse")]
                for result in results]
        means[DATASETS.index(dataset), list(MODELS).index(model)] = np.mean(both, 0)
    return means


def printed() -> Float[np.ndarray, "dataset model direction"]:
    """Table 7 as printed."""
    return np.array([PRINTED[dataset] for dataset in DATASETS])


def table(there: Found) -> str:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of what is there."""
    parser = argparse.ArgumentParser(prog="python -m lib.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=provenance.RECORDED,
                        help="that holds language_models/ (the recorded results)")
    parser.add_argument("--masking", default=DEFAULTS["masking"], choices=("any", "response"),
                        help="of the runs that are shown (%(default)s)")
    asked = parser.parse_args(argv)
    print(table(found(asked.folder, asked.masking)))


if __name__ == "__main__":
    main()
