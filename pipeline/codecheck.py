"""The manifest of what an independent check would repeat, in the form of CODECHECK:  python -m pipeline.codecheck

``codecheck.yml`` is written from the recorded ledger: the executed chapters with the claims that they check, and the
recorded results with the claims that rest on them. `make record` writes it anew. Nobody outside the project has checked
it yet, so it names no codechecker and no certificate.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pybtex.database import parse_file

from lib.record import provenance

VERSION = "https://codecheck.org.uk/spec/config/1.0/"
HEAD = """\
# Generated from results/ledger.json by `python -m pipeline.codecheck`; the form is that of https://codecheck.org.uk.
# No independent check has been made yet: `codechecker`, `certificate`, `report` are for whoever makes one.
"""


def text(ledger: Mapping[str, Any], bibliography: Path) -> str:
    """The manifest as YAML.

    :param ledger: as recorded: ``rows`` with their checks, ``chapters`` with their runs
    :param bibliography: the book's, which holds the paper under the key ``paper``
    """
    content = {"version": VERSION, "paper": paper(bibliography),
               "manifest": [*chapters(ledger), *results(ledger["rows"])], "summary": summary(ledger)}
    return HEAD + "---\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def paper(bibliography: Path) -> dict[str, Any]:
    """Title, authors and address of the paper that the book examines."""
    entry = parse_file(str(bibliography)).entries["paper"]
    names = [" ".join([*author.first_names, *author.last_names]) for author in entry.persons["author"]]
    title = re.sub(r"[{}]", "", entry.fields["title"])
    return {"title": title, "authors": [{"name": name} for name in names], "reference": entry.fields["url"]}


def chapters(ledger: Mapping[str, Any]) -> list[dict[str, str]]:
    """The executed chapters: how many checks of which claims each makes, and how it is repeated."""
    made: dict[str, list[str]] = defaultdict(list)
    for row in ledger["rows"]:
        for check in row["checks"]:
            if check.get("chapter"):
                made[check["chapter"]].append(row["id"])
    return [{"file": f"book/{name}.ipynb",
             "comment": f"{len(made[name])} checks of {_listed(made[name])}; {run['seconds']:.0f} s on "
                        f"{run['device']}; repeated by: make chapter NAME={name} PROFILE={run['profile']}"}
            for name, run in ledger["chapters"].items()]


def results(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The recorded results that checks read: where each was made, and the claims that rest on it."""
    read: dict[str, list[str]] = defaultdict(list)
    made = {}
    for row in rows:
        for check in row["checks"]:
            for run in check.get("runs", ()):
                read[run["file"]].append(row["id"])
                made[run["file"]] = f"{run['seconds']:.0f} s on {run['device']}, commit {run['commit']}"
    return [{"file": file, "comment": f"read by {_listed(read[file])}; {made[file]}"} for file in sorted(read)]


def _listed(claims: Iterable[str]) -> str:
    return ", ".join(sorted(set(claims))) or "no claim"


def summary(ledger: Mapping[str, Any]) -> str:
    """How the claims stand, by the project's own checks."""
    counts = ", ".join(f"{number} {status}" for status, number in ledger["counts"].items())
    return f"By the project's own checks, {len(ledger['rows'])} claims: {counts}. `make book` repeats them all."


def write(root: Path) -> Path:
    """Write the manifest of a repository from its recorded ledger; returns its path."""
    path = root / "codecheck.yml"
    ledger = provenance.read_json(root / "results" / "ledger.json")
    with provenance.replacing(path) as draft:
        draft.write_text(text(ledger, root / "book" / "references.bib"), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(f"wrote {write(provenance.ROOT)}")
