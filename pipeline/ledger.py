"""Compute the ledger from executed chapters:  python -m pipeline.ledger OUTPUT.json NOTEBOOK.ipynb ...

With --summary LEDGER.json: say in a few lines how the claims stand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.record import claims, provenance
from pipeline import chapters

CLAIMS = chapters.ROOT / "book" / "claims.yml"


def compute(notebooks: Sequence[Path], records: Path) -> dict[str, Any]:
    """Rows and counts; each check carries the provenance of the chapter and the seconds of the cell it ran in."""
    run_of = {book.stem: json.loads((records / f"{book.stem}.json").read_text()) for book in notebooks}
    checks = [{**check, **origin(run_of[book.stem], check["cell"])}
              for book in notebooks for check in claims.checks_of(book)]
    rows = claims.ledger(claims.read_claims(CLAIMS), checks)
    return {"rows": rows, "counts": claims.count(rows), "established": sum(row["established"] for row in rows),
            "chapters": run_of}


def origin(run: dict[str, Any], cell: int) -> dict[str, Any]:
    """Where one check ran: commit, profile, parameters, device, seconds of its cell."""
    kept = {key: run[key] for key in ("commit", "profile", "parameters", "device")}
    return {**kept, "seconds": run["cells"].get(str(cell))}


def summary(ledger: dict[str, Any]) -> str:
    """How the claims stand, one line a status, and the deviations by name."""
    lines = [f"Claims: {len(ledger['rows'])}, fully established {ledger['established']}"]
    for status, (symbol, meaning) in claims.STATUSES.items():
        lines.append(f"  {symbol} {ledger['counts'][status]:3d} {status:13s} {meaning}")
    deviating = [row["id"] for row in ledger["rows"] if row["status"] == "deviates"]
    return "\n".join([*lines, f"  deviating: {', '.join(deviating) or 'none'}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("notebooks", type=Path, nargs="*")
    parser.add_argument("--records", type=Path, default=chapters.ROOT / "_build" / "results" / "chapters")
    parser.add_argument("--summary", type=Path)
    asked = parser.parse_args()
    if asked.summary:
        print(summary(json.loads(asked.summary.read_text())))
        return
    try:
        provenance.write_json(asked.output, compute(asked.notebooks, asked.records))
    except claims.LedgerError as error:
        sys.exit(f"ledger: {error}")


if __name__ == "__main__":
    main()
