"""Recipes side by side: several settings of one run trained as a single ensemble, each recorded as if alone.

    python -m lib.one_layer.varied --length 10 --steps 800 --seeds 0 1 2 --vary learning_rate=0.0003,0.003 ema=0,0.999 \\
        --out results/one_layer/rope.json

makes ``rope.json`` and, with one setting changed at a time, ``rope_learning_rate_0.0003.json`` and so on. All other
options are those of `lib.one_layer.training`, and each result is what that would record, but for rounding and for what dropout
draws. On a GPU, where one small model leaves most of the device idle, a table of settings so takes little longer than
one of its rows. Whatever shapes a model or a batch cannot differ within an ensemble and is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.one_layer import training
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import SHARED_FIELDS, Trainer, TrainingConfig
from lib.record import provenance
from lib.record.options import json_file

#: what may differ between recipes that train side by side
FIELDS = tuple(field.name for field in dataclasses.fields(TrainingConfig) if field.name not in SHARED_FIELDS)


def variations(base: TrainingConfig, words: Sequence[str], out: Path) -> dict[Path, TrainingConfig]:
    """The base and each change of one setting, by the file it is recorded in.

    :param words: such as ``ema=0,0.999``
    :raises ValueError: for a setting or a value that cannot be, by name, and for what comes twice
    """
    found = {out: base}
    for word in words:
        name, _, values = word.partition("=")
        if name not in FIELDS:
            raise ValueError(f"--vary {word!r}: {name!r} cannot differ side by side; {', '.join(FIELDS)} can")
        for told in values.split(","):
            try:
                recipe = dataclasses.replace(base, **{name: type(getattr(base, name))(told)})
            except ValueError as error:
                raise ValueError(f"--vary {word!r}, value {told!r}: {error}") from None
            if recipe in found.values():
                raise ValueError(f"--vary {word!r}: {name}={told} comes twice, or is what the others have")
            found[out.with_name(f"{out.stem}_{name}_{told}.json")] = recipe
    return found


def experiments(
    settings: ModelConfig, recipes: Mapping[Path, TrainingConfig], seeds: Sequence[int], profile: str = "quick",
    points: int = training.POINTS,
) -> list[dict[str, Any]]:
    """Train all recipes as one ensemble and record each in its file; resumes like `training.experiment`.

    :param recipes: by file; the first names the checkpoint
    :return: the results, in that order
    :raises ValueError: for recipes that do not go together, see `training.Trainer`
    :raises resume.CheckpointError: if the checkpoint belongs to another run or is damaged
    """
    parameters = {out: training.prepared(settings, recipe, out, profile, points) for out, recipe in recipes.items()}
    first = next(iter(recipes))
    checkpoint = first.with_name(f".{first.name}.varied.checkpoint")
    run = provenance.Run(torch.get_default_device(), together=len(recipes))
    trainer = Trainer(settings, tuple(recipes.values()), seeds)
    start, due = trainer.averaged(), training.measured_steps(trainer.recipe.steps, points)
    identity = {"runs": [{**each, "out": out.name} for out, each in parameters.items()], "seeds": list(seeds)}
    curves, end = training.train(trainer, checkpoint, identity, due), trainer.averaged()
    results = []
    for index, (out, each) in enumerate(parameters.items()):
        own = trainer.members(index)
        before, after = (Ensemble(settings, ensemble.flat[own]) for ensemble in (start, end))
        results.append(training.recorded(out, each, seeds, training.of_members(curves, own), before, after, run))
    checkpoint.unlink(missing_ok=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `lib.one_layer.training`, with ``--vary``."""
    command = training.parser()
    command.prog, command.description = "python -m lib.one_layer.varied", (__doc__ or "").splitlines()[0]
    command.add_argument("--vary", nargs="+", required=True, metavar="NAME=VALUE,VALUE",
                         help=f"settings to change one at a time; any of {', '.join(FIELDS)}")

    words = command.parse_args(arguments).vary

    def made(settings: ModelConfig, recipe: TrainingConfig, seeds: list[int], out: Path, profile: str, points: int,
             kept: Path | None) -> None:
        if kept is not None:
            raise ValueError("--snapshots keeps the weights of one run; lib.one_layer.training makes it")
        experiments(settings, variations(recipe, words, json_file("--out", out)), seeds, profile, points)

    training.obey(command, made, arguments)


if __name__ == "__main__":
    main()
