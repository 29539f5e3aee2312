"""The page on versions and hardware, written from the provenance of recorded runs and executed chapters."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.record.provenance import computed_on

NAME = "versions"  # of the page
Origin = Mapping[str, Any]


def page(records: Path, results: Path) -> str:
    """The page as Markdown.

    :param records: the folder of the executed chapters' provenance
    :param results: the folder of recorded runs, a folder for each experiment
    """
    made = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(records.glob("*.json"))]
    runs = {folder.name: found for folder in sorted(results.glob("*/"))
            if folder.name != "chapters" and (found := origins(folder))}
    every = [*made, *(run for found in runs.values() for run in found)]
    return "\n\n".join(["# Versions and hardware", summary(len(made), runs), "## Devices", devices(every),
                        "## Packages", packages(every), "## Training runs and measurements", experiments(runs),
                        "## Chapters", chapters_table(made)]) + "\n"


def origins(folder: Path) -> list[Origin]:
    """Provenance of the recorded runs of an experiment."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return [each["provenance"] for each in found if isinstance(each, dict) and "provenance" in each]


def summary(chapters: int, runs: Mapping[str, Sequence[Origin]]) -> str:
    """What the page counts, in words."""
    return (f"Each recorded run and each executed chapter says which device computed it, with which versions, from "
            f"which commit and how long it took. This page counts them: {sum(map(len, runs.values()))} recorded runs "
            f"of {len(runs)} experiments, and {chapters} chapters. The full resolution of packages is "
            f"`requirements.lock`.")


def seconds(run: Origin) -> float:
    """Seconds of one result; several that one run made share them."""
    return run["seconds"] / run.get("together", 1)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def devices(every: Sequence[Origin]) -> str:
    """Runs and hours on each device."""
    named = sorted({computed_on(run) for run in every})
    on = {device: [run for run in every if computed_on(run) == device] for device in named}
    return table(["device", "runs and chapters", "hours"],
                 [(device, len(found), f"{sum(map(seconds, found)) / 3600:.1f}") for device, found in on.items()])


def packages(every: Sequence[Origin]) -> str:
    """Versions of Python and of the packages that decide numbers, with how many runs had them."""
    pairs = [pair for run in every for pair in run["versions"].items()]
    return table(["package", "version", "runs and chapters"],
                 [(*pair, pairs.count(pair)) for pair in sorted(set(pairs))])


def experiments(runs: Mapping[str, Sequence[Origin]]) -> str:
    """For each experiment: how many runs, how long, when, from how many commits."""
    hours = {name: sum(map(seconds, found)) / 3600 for name, found in runs.items()}
    return table(["experiment", "runs", "hours", "first", "last", "commits"], [
        (name, len(found), f"{hours[name]:.2f}", *days(found), len({run["commit"] for run in found}))
        for name, found in runs.items()])


def days(found: Sequence[Origin]) -> tuple[str, str]:
    """The first and the last day on which runs started."""
    started = sorted(datetime.datetime.fromisoformat(run["started"]).date().isoformat() for run in found)
    return started[0], started[-1]


def chapters_table(made: Sequence[Origin]) -> str:
    """For each chapter: when it was executed, from which commit, on what, how long."""
    return table(["chapter", "executed", "commit", "device", "seconds", "profile"], [
        (f"[](../book/{run['chapter']}.ipynb)", run["started"][:16].replace("T", " "), f"`{run['commit']}`",
         computed_on(run), f"{run['seconds']:.0f}", run["profile"]) for run in made])
