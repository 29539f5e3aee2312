"""Chapters, their parameters and the experiments they read: what there is to build, and with which settings.

The table of contents names the chapters, each chapter's own cell tagged `parameters` its defaults (the profile
`quick`), `book/profiles.yml` what another profile changes, and `SET` what the user changes for this build. A
name that is none of these is refused with the list of those that are.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("quick", "full")
#: chapters that show the ledger, and so run after it is computed
SUMMARIES = ("index", "ledger")


class Refused(ValueError):
    """A chapter, parameter, value or profile that does not exist."""


def _yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text()) or {}


@functools.cache
def chapters() -> tuple[str, ...]:
    """Names of the executed chapters, in the order of the table of contents."""
    toc = _yaml("_toc.yml")
    entries = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    return tuple(Path(entry).stem for entry in entries if entry.endswith(".ipynb"))


def source(chapter: str) -> Path:
    """The chapter's text, ``book/<chapter>.md``."""
    return ROOT / "book" / f"{chapter}.md"


def known(chapter: str) -> str:
    """The name itself; an unknown chapter is refused with the list of chapters."""
    if chapter not in chapters():
        raise Refused(f"no chapter {chapter!r}; the chapters are {', '.join(chapters())}")
    return chapter


def notebook(chapter: str) -> Any:
    """The chapter as a notebook, with cell ids that stay the same from one reading to the next."""
    import jupytext

    book = jupytext.read(source(chapter))
    return number_cells(book, chapter)


def number_cells(book: Any, chapter: str) -> Any:
    """Give every cell its place as its id (jupytext and papermill draw them at random)."""
    for place, cell in enumerate(book.cells):
        cell["id"] = f"{chapter}-{place:02d}"
    return book


@functools.cache
def defaults(chapter: str) -> dict[str, Any]:
    """The parameters of a chapter and their values in the profile `quick`, read from its parameters cell."""
    cells = [cell for cell in notebook(chapter).cells if "parameters" in cell.metadata.get("tags", [])]
    found: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body if cells else []:
        name, value = _assignment(statement, chapter)
        found[name] = value
    return found


def _assignment(statement: ast.stmt, chapter: str) -> tuple[str, Any]:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        try:
            return statement.targets[0].id, ast.literal_eval(statement.value)
        except ValueError:
            pass
    found = ast.unparse(statement)
    raise Refused(f"{source(chapter)}: the parameters cell holds `name = literal` lines only, not {found!r}")


def profile(name: str) -> str:
    """`quick` or `full`; `auto` is full where torch sees a CUDA device."""
    if name == "auto":
        return "full" if _cuda() else "quick"
    if name not in PROFILES:
        raise Refused(f"no profile {name!r}; the profiles are auto, {', '.join(PROFILES)}")
    return name


def _cuda() -> bool:
    # importing torch takes seconds: ask it only where a driver is there
    try:
        subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    asked = [sys.executable, "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, check=False).returncode == 0


def parse(settings: str, only: str = "") -> dict[str, dict[str, Any]]:
    """`chapter.name=value ...` as values by chapter and name; the chapter may be left out where `only` is set."""
    asked: dict[str, dict[str, Any]] = {}
    for word in shlex.split(settings):
        left, equals, text = word.partition("=")
        chapter, _, name = left.rpartition(".")
        if not equals or not (chapter or only):
            raise Refused(f"setting {word!r} is not of the form chapter.parameter=value, such as one_layer.length=20")
        asked.setdefault(known(chapter or only), {})[name] = yaml.safe_load(text)
    return asked


def parameters(chapter: str, profile_name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a chapter: its defaults, changed by the profile, changed by what is asked for."""
    valid = defaults(chapter)
    changed = {**(_yaml("book/profiles.yml").get(profile_name) or {}).get(chapter, {}), **asked}
    for name, value in changed.items():
        if name not in valid:
            options = ", ".join(f"{key}={json.dumps(default)}" for key, default in valid.items()) or "none"
            raise Refused(f"chapter {chapter} has no parameter {name!r}; its parameters are {options}")
        if not _same_kind(value, valid[name]):
            kind = type(valid[name]).__name__
            raise Refused(f"{chapter}.{name}={value!r}: expected {kind}, as in {name}={json.dumps(valid[name])}")
    if "profile" in valid:
        changed.setdefault("profile", profile_name)
    return {**valid, **changed}


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return default is None or isinstance(value, type(default))


def experiments(chapter: str, profile_name: str) -> dict[str, dict[str, Any]]:
    """The runs a chapter reads: name -> {module, fixed settings}, from ``book/experiments.yml``."""
    entry = _yaml("book/experiments.yml").get(chapter) or {}
    runs = dict(entry.get("runs") or {})
    if profile_name == "full":
        runs |= (entry.get("full") or {}) | _varied(entry.get("varied") or {})
    return {name: {"module": fixed.get("module", entry["module"]), "from": entry["parameters"],
                   "fixed": {key: value for key, value in fixed.items() if key != "module"}}
            for name, fixed in runs.items()}


def _varied(entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """One run a length and changed setting of each entry."""
    return {f"{prefix}_{length}_{name}_{value}": {**entry["of"], "length": length, **fixed, name: value}
            for prefix, entry in entries.items() for length, fixed in entry["at"].items()
            for name, values in entry["settings"].items() for value in values}


def recorded(chapter: str, profile_name: str) -> str:
    """Digest of the recorded results that a chapter shows beside this build's: ``results/``, other profiles' runs."""
    folders = (_yaml("book/experiments.yml").get(chapter) or {}).get("reads", [chapter])
    found = [path for folder in folders for path in sorted((ROOT / "results" / folder).glob("*.json"))]
    return digest(*(path for path in found if not path.name.startswith(f"{profile_name}_")))


def command(experiment: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The command line of one run: the chapter's parameters it takes, and its own fixed settings."""
    options = {name: values[name] for name in experiment["from"]} | experiment["fixed"]
    words = ["python", "-m", experiment["module"]]
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        words += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def digest(*paths: Path) -> str:
    """SHA-256 over the content of files, and of the Python files under folders, and over their names."""
    total = hashlib.sha256()
    for path in _files(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _files(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


@functools.cache
def environment() -> str:
    """Digest of what every execution depends on: `lib`, the pinned packages, and how a chapter is executed."""
    return digest(ROOT / "lib", ROOT / "requirements.lock", ROOT / "pipeline" / "execute.py")
