"""The runs that chapters read: ``book/experiments.yml``, and the command line of each run."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline import chapters, imports
from pipeline.settings import Refused, choose, mapping, read_yaml

#: fields of an entry; `shared` only names settings that runs have in common
FIELDS = ("module", "parameters", "shared", "runs", "full", "varied", "reads")
VARIED = ("of", "at", "settings")


@functools.cache
def entries() -> dict[str, dict[str, Any]]:
    """Every entry of ``book/experiments.yml`` by chapter, its names checked.

    :raises Refused: for an unknown chapter, field, parameter, module or folder, with those that are valid
    """
    path = chapters.ROOT / "book" / "experiments.yml"
    found = {name: mapping(f"{path}: {name}", entry) for name, entry in read_yaml(path).items()}
    for name, entry in found.items():
        choose(f"{path}: ", "chapter", name, chapters.chapters())
        _check(f"{path}: {name}", name, entry)
    for name, entry in found.items():
        folders = {*found, *(folder.name for folder in (chapters.ROOT / "results").glob("*") if folder.is_dir())}
        for folder in entry.get("reads", ()):
            choose(f"{path}: {name}: reads: ", "folder", folder, sorted(folders))
    return found


def _check(where: str, chapter: str, entry: Mapping[str, Any]) -> None:
    for field in entry:
        choose(f"{where}: ", "field", field, FIELDS)
    for field in ("parameters", "reads"):
        if not isinstance(entry.get(field, []), list):
            raise Refused(f"{where}: {field}: expected a list of names, not {entry[field]!r}")
    for name in entry.get("parameters", ()):
        choose(f"{where}: parameters: ", "parameter", name, chapters.defaults(chapter))
    for prefix, varied in mapping(f"{where}: varied", entry.get("varied")).items():
        _check_varied(f"{where}: varied: {prefix}", mapping(f"{where}: varied: {prefix}", varied))
    for part in ("runs", "full"):
        for name, fixed in mapping(f"{where}: {part}", entry.get(part)).items():
            module = mapping(f"{where}: {part}: {name}", fixed).get("module", entry.get("module"))
            if not isinstance(module, str) or imports.module_file(module) is None:
                raise Refused(f"{where}: {part}: {name}: there is no module {module!r} to run")


def _check_varied(where: str, varied: Mapping[str, Any]) -> None:
    for field in varied:
        choose(f"{where}: ", "field", field, VARIED)
    for field in VARIED:
        if not isinstance(varied.get(field), dict):
            raise Refused(f"{where}: field {field!r} is missing or no mapping")
    for length, fixed in varied["at"].items():
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise Refused(f"{where}: at: expected lengths of at least 1, such as 10, not {length!r}")
        mapping(f"{where}: at: {length}", fixed)
    for name, values in varied["settings"].items():
        if not isinstance(values, list) or not values:
            raise Refused(f"{where}: settings: {name}: expected a list of one or more values, such as "
                          f"[32, 128], not {values!r}")


def experiments(chapter: str, profile_name: str) -> dict[str, dict[str, Any]]:
    """The runs a chapter reads: name -> {module, chapter's parameters it takes, fixed settings}."""
    entry = entries().get(chapter) or {}
    runs = dict(entry.get("runs") or {})
    if profile_name == "full":
        runs |= (entry.get("full") or {}) | _varied(entry.get("varied") or {})
    return {name: {"module": fixed.get("module", entry.get("module")), "from": entry.get("parameters", []),
                   "fixed": {key: value for key, value in fixed.items() if key != "module"}}
            for name, fixed in runs.items()}


def _varied(varied: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """One run a length and changed setting of each entry."""
    return {f"{prefix}_{length}_{name}_{value}": {**entry["of"], "length": length, **(fixed or {}), name: value}
            for prefix, entry in varied.items() for length, fixed in entry["at"].items()
            for name, values in entry["settings"].items() for value in values}


def recorded(chapter: str, profile_name: str) -> str:
    """Digest of the recorded results that a chapter shows beside this build's: ``results/``, other profiles' runs."""
    folders = (entries().get(chapter) or {}).get("reads", [chapter])
    found = [path for folder in folders for path in sorted((chapters.ROOT / "results" / folder).glob("*.json"))]
    return chapters.digest(*(path for path in found if not path.name.startswith(f"{profile_name}_")))


def command(experiment: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The command line of one run: the chapter's parameters it takes, and its own fixed settings."""
    options = {name: values[name] for name in experiment["from"]} | experiment["fixed"]
    arguments = ["python", "-m", experiment["module"]]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
            continue
        arguments += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(arguments)
