"""Compute the ledger from executed chapters:  python -m pipeline.ledger OUTPUT.json NOTEBOOK.ipynb ...

With --summary LEDGER.json: say in a few lines how the claims stand, and where they differ from the recorded ledger.
With --compare OLD.json NEW.json: list every status, outcome and number in which two ledgers differ; exit 1 if any does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.record import claims, claims_file, endings, ledger, provenance
from pipeline import chapters

RECORDED = provenance.RECORDED / "ledger.json"
SHOWN = 12  # differences listed one by one


def compute(notebooks: Sequence[Path], records: Path) -> dict[str, Any]:
    """Rows and counts; each check carries the provenance of the chapter and the seconds of the cell it ran in."""
    run_of = {book.stem: provenance.read_json(records / f"{book.stem}.json") for book in notebooks}
    checks = [{**check, **origin(run_of[book.stem], check["cell"])}
              for book in notebooks for check in claims.checks_of(book)]
    known = claims_file.read_claims(claims_file.CLAIMS, [*chapters.chapters()])
    rows = ledger.compute(known, checks, proofs(), {name: claims_file.claim_digest(name) for name in known})
    return {"rows": rows, "counts": ledger.count(rows), "established": sum(row["established"] for row in rows),
            "chapters": run_of}


def proofs() -> dict[str, set[str]]:
    """Claims with a labelled proof on a page, and what each proof refers to."""
    return {claim: used for name in chapters.chapters()
            for claim, used in ledger.proofs_in(chapters.source(name).read_text(encoding="utf-8")).items()}


def origin(run: dict[str, Any], cell: int) -> dict[str, Any]:
    """Where one check ran: commit, profile, parameters, device, seconds of its cell."""
    kept = {key: run[key] for key in ("commit", "profile", "parameters", "device")}
    return {**kept, "seconds": run["cells"].get(str(cell))}


def summary(found: dict[str, Any], recorded: dict[str, Any] | None = None) -> str:
    """How the claims stand, one line a status, the deviations by name, and what differs from the recorded ledger."""
    lines = [f"Claims: {len(found['rows'])}, fully established {found['established']}"]
    for status, (symbol, meaning) in ledger.STATUSES.items():
        lines.append(f"  {symbol} {found['counts'][status]:3d} {status:13s} {meaning}")
    deviating = [row["id"] for row in found["rows"] if row["status"] == "deviates"]
    lines.append(f"  deviating: {', '.join(deviating) or 'none'}")
    return "\n".join([*lines, *against_record(found, recorded)])


def against_record(found: dict[str, Any], recorded: dict[str, Any] | None) -> list[str]:
    """Where this build differs from the recorded ledger, a line each; one line where it agrees."""
    if recorded is None:
        return ["No ledger is recorded to compare with."]
    differing = ledger.differences(recorded["rows"], found["rows"])
    if not differing:
        return ["This build agrees with the recorded ledger, in every status and number."]
    more = [f"  ... and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
    return [f"This build differs from the recorded ledger in {len(differing)} places:",
            *(f"  {line}" for line in differing[:SHOWN]),
            *more]


def read_ledger(path: Path) -> dict[str, Any]:
    """A ledger that `compute` made.

    :raises FileNotFoundError: for a missing file
    :raises ValueError: for anything that is no ledger, and a recorded one that was edited; names the file
    """
    found = provenance.read_json(path)
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or "counts" not in found or not all(
            isinstance(row, dict) and {"id", "status", "checks"} <= row.keys() for row in rows):
        raise ValueError(f"{path}: holds no ledger, which has counts and rows, each with id, status and checks, as "
                         f"{RECORDED.relative_to(chapters.ROOT)} does")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("notebooks", type=Path, nargs="*")
    parser.add_argument("--records", type=Path, default=chapters.ROOT / "_build" / "results" / "chapters")
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"))
    asked = parser.parse_args()
    endings.print_anywhere()
    if not (asked.compare or asked.summary or asked.notebooks):
        parser.error("what to do is not said: OUTPUT.json and one NOTEBOOK.ipynb or more, --summary LEDGER.json, or "
                     "--compare OLD.json NEW.json")
    with endings.one_line("python -m pipeline.ledger"):
        work(asked)


def work(asked: argparse.Namespace) -> None:
    """Compare two ledgers, say how the claims of one stand, or compute one."""
    if asked.compare:
        differing = ledger.differences(*(read_ledger(path)["rows"] for path in asked.compare))
        print("\n".join(differing) or "The two ledgers agree in every status, outcome and number.")
        sys.exit(bool(differing))
    if asked.summary:
        print(summary(read_ledger(asked.summary), read_ledger(RECORDED) if RECORDED.exists() else None))
        return
    try:
        provenance.write_json(asked.output, compute(asked.notebooks, asked.records), sort_keys=False)
    except claims_file.LedgerError as error:
        sys.exit(f"ledger: {error}")


if __name__ == "__main__":
    main()
