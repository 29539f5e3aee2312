"""The file of claims, ``book/claims.yml``: what it may hold, read with every mistake named.

A claim has an id, a statement with its hypotheses, its source, the claims that it depends on, the evidence that would
settle it, and ``checks``: name -> what the check says, its control and what that breaks, its scope. A measured claim
may carry a ``prediction`` (statistic, threshold, what would refute it), written down before its runs start.
"""

from __future__ import annotations

import functools
import graphlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.record import yaml_files
from lib.record.provenance import ROOT

CLAIMS = ROOT / "book" / "claims.yml"
#: kinds of evidence, strongest first
EVIDENCE = ("symbolic", "certified", "solver", "numeric", "pattern")
#: where a claim comes from -> the title of its part of the ledger
SOURCES = {
    "paper": "The paper",
    "v1": "Its first version",
    "zhu2024": "Zhu et al. 2024, the autoregressive counterpart",
    "referee": "What a referee asked",
    "project": "Beyond the paper: this book's own statements",
}
#: what a negative control breaks
BREAKS = ("hypothesis", "mutation")
_REQUIRED = {"id": str, "title": str, "source": str, "place": str, "statement": str, "hypotheses": list,
             "depends": list, "evidence": str, "chapter": str}
#: `prediction` fixes statistic and threshold of a measured claim before its runs; `assumed` marks an assumption;
#: `printed` holds numbers that the paper prints, by name, where no check compares with them
_OPTIONAL = {"deviation": str, "needs": str, "open": str, "checks": dict, "prediction": dict, "assumed": bool,
             "printed": dict}
_CHECK = {"says": str, "control": str, "breaks": str, "kind": str, "scope": str, "covers": str, "unit": str,
          "tolerance": (int, float), "paper": object}
#: what a measured claim fixes before its runs: of which experiment, and what would refute it
_PREDICTION = {"experiment": str, "statistic": str, "threshold": str, "refuted_by": str}
#: a check covers the whole claim, or the cases that its scope names
COVERS = ("claim", "cases")


class LedgerError(ValueError):
    """claims.yml and the executed checks do not fit together."""


def known_claims() -> dict[str, dict[str, Any]]:
    """The claims of this book; read once for each state of the file."""
    return _read(CLAIMS, CLAIMS.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, dict[str, Any]]:
    return read_claims(path)


def read_claims(path: Path, chapters: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Claims by id.

    :param chapters: names of the book's chapters; a claim of any other is refused unless it says what is owed
    :raises LedgerError: for a file that is not YAML, a missing, unknown, doubled or ill-typed field, a doubled id, and
        an unknown or circular dependency; the message names file, claim and field
    """
    try:
        entries = yaml_files.read_yaml(path)
    except yaml_files.NotYaml as error:
        problem = str(error).removeprefix(str(path)).strip(" ,:")
        raise LedgerError(f"{path}: not a list of claims ({problem})") from None
    if not isinstance(entries, list):
        raise LedgerError(f"{path}: a list of claims is expected, each with {', '.join(sorted(_REQUIRED))}")
    claims: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("id", f"entry {number}") if isinstance(entry, dict) else f"entry {number}"
        _check_entry(f"{path}: {name}", entry, chapters)
        if name in claims:
            raise LedgerError(f"{path}: {name} stands twice")
        claims[name] = entry
    for name, entry in claims.items():
        for other in entry["depends"]:
            if other not in claims:
                raise LedgerError(f"{path}: {name} depends on {other!r}, which is no claim")
    try:
        order(claims)
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}") from None
    return claims


def _check_entry(where: str, entry: Any, chapters: Iterable[str] | None) -> None:
    check_fields(where, entry, _REQUIRED | _OPTIONAL, _REQUIRED)
    _check_word(where, "evidence", entry["evidence"], EVIDENCE)
    _check_word(where, "source", entry["source"], tuple(SOURCES))
    if chapters is not None and not (entry.get("open") or entry.get("needs")):
        _check_word(where, "chapter", entry["chapter"], tuple(chapters))
    if "prediction" in entry:
        check_fields(f"{where}: prediction", entry["prediction"], _PREDICTION, _PREDICTION)
    for check, texts in entry.get("checks", {}).items():
        here = f"{where}: check {check}"
        check_fields(here, texts, _CHECK, ("says", "control"))
        for field, words in (("kind", EVIDENCE), ("breaks", BREAKS), ("covers", COVERS)):
            if field in texts:
                _check_word(here, field, texts[field], words)
        if texts.get("kind") == "solver" and ("scope" not in texts or texts.get("covers") == "claim"):
            raise LedgerError(f"{here}: a solver decides the sizes that `scope` names, and never covers the claim")


def check_fields(where: str, entry: Any, known: Mapping[str, Any], required: Iterable[str]) -> None:
    """Refuse an entry of a file that lacks a required field, or has an unknown, an empty or an ill-typed one.

    :param where: file and name of the entry, for the message
    :param known: field -> the type of its value, or several
    :raises LedgerError: for the first of them, by its place and field
    """
    if not isinstance(entry, dict):
        raise LedgerError(f"{where}: expected fields, such as {', '.join(required)}, not {entry!r}")
    for field in sorted(set(required) - set(entry)):
        raise LedgerError(f"{where}: field {field!r} is missing")
    for field, value in entry.items():
        if field not in known:
            raise LedgerError(f"{where}: unknown field {field!r}; valid: {', '.join(sorted(known))}")
        if not isinstance(value, known[field]) or value == "":
            kind = getattr(known[field], "__name__", "number")
            raise LedgerError(f"{where}: field {field!r} must be a {kind} that is not empty, not {value!r}")


def _check_word(where: str, field: str, value: str, words: Sequence[str]) -> None:
    if value not in words:
        raise LedgerError(f"{where}: {field} {value!r} is none of {', '.join(words)}")


def order(claims: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Claim ids, each after those it depends on."""
    depends = {name: entry["depends"] for name, entry in claims.items()}
    try:
        return list(graphlib.TopologicalSorter(depends).static_order())
    except graphlib.CycleError as error:
        raise LedgerError(f"claims depend on each other in a circle: {' -> '.join(error.args[1])}") from None


def of_chapter(chapter: str) -> dict[str, dict[str, Any]]:
    """The claims that a chapter treats, with their checks."""
    return {name: entry for name, entry in known_claims().items() if entry["chapter"] == chapter}


def claim_digest(claim: str) -> str:
    """Digest of what a measured claim fixes before its runs: its statement, prediction, and checks.

    A run stores the digests of the claims that it serves; one that is still the same was registered first.
    """
    entry = known_claims()[claim]
    fixed = {name: entry.get(name) for name in ("statement", "prediction", "checks")}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:16]


def registered_for(experiment: str) -> dict[str, str]:
    """Claims whose ``prediction`` names this experiment, and their digests: what a run that starts now stores."""
    return {name: claim_digest(name) for name, entry in known_claims().items()
            if entry.get("prediction", {}).get("experiment") == experiment}
