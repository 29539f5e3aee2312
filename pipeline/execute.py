"""Execute one chapter:  python -m pipeline.execute CHAPTER OUTPUT.ipynb PROVENANCE.json [--parameters JSON]

The notebook is written whole or not at all. It holds nothing that changes from one run to the next on the same
machine; times, commit and device go to the provenance file beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from lib.record import provenance
from pipeline import chapters

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def execute(chapter: str, output: Path, record: Path, values: dict[str, Any], profile: str) -> None:
    """Run a chapter with papermill and write the notebook and its provenance.

    :raises SystemExit: with the chapter, the cell and the traceback, if a cell raises
    """
    run = provenance.Run()
    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters are checked before, and better, by `chapters`
    draft = output.with_name(f".{chapter}.running.ipynb")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        book = papermill.execute_notebook(
            chapters.notebook(chapter), str(draft), values, kernel_name="python3", cwd=str(chapters.ROOT / "book"),
            progress_bar=sys.stderr.isatty(), extra_arguments=["--log-level=50"],
        )
    except PapermillExecutionError as error:
        failed = chapters.ROOT / "_build" / "failed" / f"{chapter}.ipynb"
        failed.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(failed)
        sys.exit(failure(chapter, error, failed))
    finally:
        draft.unlink(missing_ok=True)
    seconds = take_times(book)
    provenance.write_json(record, {
        "chapter": chapter, "profile": profile, "parameters": values, "cells": seconds, **run.provenance()})
    provenance.write_json(output, tidy(book, chapter))
    print(f"{chapter}: {len(book.cells)} cells, {sum(seconds.values()):.0f} s", flush=True)


def failure(chapter: str, error: PapermillExecutionError, partial: Path) -> str:
    """What a reader needs to mend the chapter: where, what, and the traceback."""
    traceback = ANSI.sub("", "\n".join(error.traceback))
    return (f"\nchapter {chapter} ({chapters.source(chapter)}), cell {error.cell_index} raised "
            f"{error.ename}: {error.evalue}\n\n{error.source}\n\n{traceback}\n"
            f"The last good notebook is left as it was; what ran so far: {partial}\n")


def take_times(book: Any) -> dict[str, float]:
    """Seconds by cell number, taken out of the notebook."""
    seconds = {}
    for place, cell in enumerate(book.cells):
        duration = cell.metadata.pop("papermill", {}).get("duration")
        cell.metadata.pop("execution", None)
        if duration is not None:
            seconds[str(place)] = round(duration, 2)
    return seconds


def tidy(book: Any, chapter: str) -> Any:
    """The notebook without what differs from run to run, the injected parameters folded like the default ones."""
    chapters.number_cells(book, chapter)
    book.metadata["papermill"] = {"parameters": dict(book.metadata.get("papermill", {}).get("parameters", {}))}
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["injected-parameters", "hide-input"]
    return book


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", type=chapters.known)
    parser.add_argument("output", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--parameters", type=json.loads, default={})
    parser.add_argument("--profile", default="quick")
    asked = parser.parse_args()
    os.environ.setdefault("RESULTS_DIR", str(chapters.ROOT / "_build" / "results"))
    os.environ.setdefault("PYTHONHASHSEED", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    execute(asked.chapter, asked.output, asked.record, asked.parameters, asked.profile)


if __name__ == "__main__":
    main()
