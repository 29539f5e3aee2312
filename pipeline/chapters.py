"""Chapters and their parameters: what there is to build, with which settings, and what each depends on.

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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lib.record import claims_file, yaml_files
from pipeline import imports
from pipeline.settings import Refused, choose, fit, mapping, read_yaml, value, words

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("quick", "full")
#: chapters that show the ledger, and so run after it is computed
SUMMARIES = ("index", "ledger")


@functools.cache
def chapters() -> tuple[str, ...]:
    """Names of the executed chapters, in the order of the table of contents."""
    toc = read_yaml(ROOT / "_toc.yml")
    try:
        entries = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
        names = [Path(entry).stem for entry in entries if entry.endswith(".ipynb")]
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{ROOT / '_toc.yml'}: expected a root, and parts with chapters of one file each; "
                      f"{type(error).__name__}: {error}") from None
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"{ROOT / '_toc.yml'}: chapter {name!r} stands twice")
        if not name.isidentifier() or not source(name).is_file():
            raise Refused(f"{ROOT / '_toc.yml'}: there is no {source(name)}; names are of letters, digits and _")
    return tuple(names)


def source(chapter: str) -> Path:
    """The chapter's text, ``book/<chapter>.md``."""
    return ROOT / "book" / f"{chapter}.md"


def known(chapter: str) -> str:
    """The name itself; an unknown chapter is refused with the list of chapters."""
    choose("", "chapter", chapter, chapters())
    return chapter


def notebook(chapter: str) -> Any:
    """The chapter as a notebook, with cell ids that stay the same from one reading to the next.

    :raises Refused: if the source cannot be read, or holds no code: then nothing can be executed
    """
    import jupytext

    try:
        book = jupytext.read(source(chapter))
    except Exception as error:  # jupytext raises of many kinds, YAML's among them
        problem = yaml_files.yaml_problem(error) if isinstance(error, yaml.YAMLError) else f": {error}"
        raise Refused(f"{source(chapter)}: cannot be read{problem}") from None
    if not any(cell.cell_type == "code" and cell.source.strip() for cell in book.cells):
        raise Refused(f"{source(chapter)}: holds no code cell, so there is nothing to execute")
    return number_cells(book, chapter)


def number_cells(book: Any, chapter: str) -> Any:
    """Give every cell its place as its id (jupytext and papermill draw them at random)."""
    for place, cell in enumerate(book.cells):
        cell["id"] = f"{chapter}-{place:02d}"
    return book


@functools.cache
def _code(chapter: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Source and tags of the chapter's code cells."""
    return tuple((cell.source, tuple(cell.metadata.get("tags", [])))
                 for cell in notebook(chapter).cells if cell.cell_type == "code")


@functools.cache
def defaults(chapter: str) -> dict[str, Any]:
    """The parameters of a chapter and their values in the profile `quick`, read from its parameters cell."""
    cells = [text for text, tags in _code(chapter) if "parameters" in tags]
    if len(cells) > 1:
        raise Refused(f"{source(chapter)}: {len(cells)} cells are tagged parameters; a chapter has one at most")
    found: dict[str, Any] = {}
    try:
        statements = ast.parse(cells[0]).body if cells else []
    except SyntaxError as error:
        raise Refused(f"{source(chapter)}: the parameters cell, line {error.lineno}: {error.msg}") from None
    for statement in statements:
        name, literal = _assignment(statement, chapter)
        if name in found:
            raise Refused(f"{source(chapter)}: parameter {name!r} stands twice in the parameters cell")
        found[name] = literal
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
    choose("", "profile", name, ("auto", *PROFILES))
    return name


def _cuda() -> bool:
    # importing torch takes seconds: ask it only where a driver is there
    try:
        subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    asked = [sys.executable, "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, check=False).returncode == 0


@functools.cache
def profiles() -> dict[str, dict[str, dict[str, Any]]]:
    """What each profile changes, by profile and chapter; every name in ``book/profiles.yml`` is checked."""
    path = ROOT / "book" / "profiles.yml"
    found = {name: mapping(f"{path}: {name}", content) for name, content in read_yaml(path).items()}
    for name, content in found.items():
        choose(f"{path}: ", "profile", name, PROFILES)
        for chapter, changed in content.items():
            choose(f"{path}: {name}: ", "chapter", chapter, chapters())
            _fitted(f"{path}: {name}: ", chapter, mapping(f"{path}: {name}: {chapter}", changed))
    return found


def parse(settings: str, only: str = "") -> dict[str, dict[str, Any]]:
    """`chapter.name=value ...` as values by chapter and name; the chapter may be left out where `only` is set.

    :param only: the one chapter that is built; settings of others would be without effect and are refused, unless
        it is one that shows the ledger, and so what the others make of theirs
    """
    asked: dict[str, dict[str, Any]] = {}
    for chapter, name, text in words(settings):
        if not (chapter or only):
            raise Refused(f"setting {name}={text} is not of the form chapter.parameter=value, "
                          "such as one_layer.length=20")
        of = known(chapter or only)
        if only and of != only and only not in SUMMARIES:
            raise Refused(f"{of}.{name}={text} has no effect on chapter {only}, which is built alone; use NAME={of}")
        if name in asked.setdefault(of, {}):
            raise Refused(f"{of}.{name} is set twice")
        asked[of][name] = value(f"{of}.{name}", text)
    return asked


def parameters(chapter: str, profile_name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a chapter: its defaults, changed by the profile, changed by what is asked for."""
    valid = defaults(chapter)
    changed = {**(profiles().get(profile_name) or {}).get(chapter, {}), **_fitted("", chapter, asked)}
    if "profile" in valid:
        changed.setdefault("profile", profile_name)
    return {**valid, **changed}


def _fitted(where: str, chapter: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The changed values, each a parameter that the chapter has and of its kind."""
    valid = defaults(chapter)
    for name in changed:
        if name not in valid:
            options = ", ".join(f"{key}={json.dumps(default)}" for key, default in valid.items()) or "none"
            raise Refused(f"{where}chapter {chapter} has no parameter {name!r}; its parameters are {options}")
    return {name: fit(f"{where}{chapter}.{name}", found, valid[name]) for name, found in changed.items()}


def rerun_command(chapter: str, values: Mapping[str, Any], profile_name: str) -> str:
    """The command that executes a chapter again with these parameters, as a line for a shell."""
    own = json.loads(json.dumps(parameters(chapter, profile_name, {})))
    there = json.loads(json.dumps(dict(values)))
    changed = {name: there[name] for name, found in own.items() if name in there and there[name] != found}
    settings = " ".join(_word(name, found) for name, found in changed.items())
    command = f"make chapter NAME={chapter} PROFILE={profile_name}"
    return f"{command} SET={shlex.quote(settings)}" if settings else command


def _word(name: str, found: Any) -> str:
    plain = isinstance(found, str) and found.isidentifier() and yaml.safe_load(found) == found
    word = f"{name}={found if plain else json.dumps(found, separators=(',', ':'))}"
    return word if shlex.split(word) == [word] else shlex.quote(word)


def digest(*paths: Path) -> str:
    """SHA-256 over the content of files, and of the Python files under folders, and over their names."""
    total = hashlib.sha256()
    for path in _files(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _files(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


@functools.cache
def environment(chapter: str) -> str:
    """Digest of what executing a chapter depends on beside its text: what it imports, directly or not, the pinned
    packages, how a chapter is executed, and its claims, whose words the verdicts show."""
    claims = json.dumps(list(_claims_of(chapter)), sort_keys=True, default=str).encode()
    return dependencies(imported(chapter)) + hashlib.sha256(claims).hexdigest()[:8]


def dependencies(modules: Iterable[str]) -> str:
    """Digest of the import closure of modules, of the pinned packages, and of how a chapter is executed."""
    return digest(*imports.closure(modules), ROOT / "requirements.lock", ROOT / "pipeline" / "execute.py")


def imported(chapter: str) -> Iterator[str]:
    for text, _ in _code(chapter):
        python = "\n".join("pass" if line.startswith(("%", "!")) else line for line in text.splitlines())
        try:
            yield from imports.imports(python)
        except SyntaxError:  # executing the cell says so, and better
            continue


def _claims_of(chapter: str) -> Iterator[Mapping[str, Any]]:
    """The entries of ``book/claims.yml`` that the chapter answers for or names."""
    text = source(chapter).read_text(encoding="utf-8")
    for entry in _all_claims():
        if entry["chapter"] == chapter or entry["id"] in text:
            yield entry


@functools.cache
def _all_claims() -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(claims_file.read_claims(ROOT / "book" / "claims.yml").values())
    except (OSError, claims_file.LedgerError) as error:
        raise Refused(str(error)) from None
