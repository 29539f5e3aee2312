"""Execute one chapter:  python -m pipeline.execute CHAPTER OUTPUT.ipynb PROVENANCE.json [--parameters JSON]

The notebook is written whole or not at all: only if every cell ran, and if it holds every check that
``book/claims.yml`` gives to the chapter. It holds nothing that changes from one run to the next on the same machine;
times, commit and device go to the provenance file beside it.
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
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib.record import claims, claims_file, provenance
from pipeline import chapters, pictures

ANSI = re.compile(r"\x1b\[[0-9;]*m")
KEPT = "The last good notebook is left as it was"
#: warnings that no chapter shows: how they begin, without a comma. tqdm misses a progress bar for notebooks, which the
#: book does not need, and names a file of this installation
SILENCED = ("IProgress not found",)


def execute(chapter: str, output: Path, record: Path, values: dict[str, Any], profile: str) -> None:
    """Run a chapter with papermill and write the notebook and its provenance.

    :raises SystemExit: with the chapter and what is wrong: the cell and its traceback, the cell at which the chapter
        ended early, the checks that are missing, or the file that could not be written
    """
    run = provenance.Run()
    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters are checked before, and better, by `chapters`
    draft = output.with_name(f".{chapter}.running.ipynb")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        book = run_cells(chapter, draft, values)
        seconds = take_times(book)
        tidy(book, chapter)
        provenance.write_json(record, {
            "chapter": chapter, "profile": profile, "parameters": values, "cells": seconds, **run.provenance()})
        provenance.write_json(output, book, sort_keys=False)
    except OSError as error:
        problem = error.strerror or error
        sys.exit(f"\nchapter {chapter}: {error.filename or output} cannot be written: {problem}. {KEPT}.")
    finally:
        remove(draft)
    print(f"{chapter}: {len(book.cells)} cells, {sum(seconds.values()):.0f} s", flush=True)


def run_cells(chapter: str, draft: Path, values: dict[str, Any]) -> Any:
    """The executed notebook, whole: every cell ran without an error, and no check is missing."""
    try:
        book = papermill.execute_notebook(
            chapters.notebook(chapter), str(draft), values, kernel_name="python3", cwd=str(chapters.ROOT / "book"),
            progress_bar=sys.stderr.isatty(), extra_arguments=["--log-level=50"],
        )
    except PapermillExecutionError as error:
        sys.exit(failure(chapter, error, set_aside(chapter, draft)))
    except DeadKernelError:
        sys.exit(f"\nchapter {chapter} ({chapters.source(chapter)}): its kernel died: a cell ended the process, or it "
                 f"was killed, for lack of memory perhaps. {KEPT}.")
    for wrong in (ended_early(book), lost_checks(book, chapter)):
        if wrong:
            sys.exit(f"\nchapter {chapter} ({chapters.source(chapter)}): {wrong}. {KEPT}; what ran: "
                     f"{set_aside(chapter, draft)}")
    return book


def set_aside(chapter: str, draft: Path) -> Path:
    """Keep what ran of a chapter that failed."""
    failed = chapters.ROOT / "_build" / "failed" / f"{chapter}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(failed)
    return failed


def remove(draft: Path) -> None:
    """Remove the draft and what papermill left of a write that failed."""
    for path in (draft, *draft.parent.glob(f".{draft.name}.*")):
        path.unlink(missing_ok=True)


def failure(chapter: str, error: PapermillExecutionError, partial: Path) -> str:
    """What a reader needs to mend the chapter: where, what, and the traceback."""
    traceback = ANSI.sub("", "\n".join(error.traceback))
    return (f"\nchapter {chapter} ({chapters.source(chapter)}), cell {error.cell_index} raised "
            f"{error.ename}: {error.evalue}\n\n{error.source}\n\n{traceback}\n"
            f"{KEPT}; what ran so far: {partial}\n")


def ended_early(book: Any) -> str:
    """Which cell ended the chapter before its last one; empty if all cells ran.

    ``sys.exit(0)`` in a cell is no error to papermill: the cells after it are left out without a word.
    """
    cells = [(place, cell) for place, cell in enumerate(book.cells) if cell.cell_type == "code" and cell.source.strip()]
    for place, cell in cells:
        if any(output.output_type == "error" for output in cell.outputs):
            return f"cell {place} ended the chapter early:\n\n{cell.source}\n\n"
    skipped = [place for place, cell in cells if cell.execution_count is None]
    return f"cell {skipped[0]} and {len(skipped) - 1} more did not run" if skipped else ""


def lost_checks(book: Any, chapter: str) -> str:
    """Which checks that ``book/claims.yml`` gives to the chapter the notebook lacks, neither run nor skipped.

    A check that another chapter names is that one's.

    :raises SystemExit: if that file cannot be read
    """
    try:
        entries = claims_file.of_chapter(chapter)
    except claims_file.LedgerError as error:
        sys.exit(f"\nchapter {chapter}: {error}")
    others = [chapters.source(name).read_text(encoding="utf-8") for name in chapters.chapters() if name != chapter]
    elsewhere = lambda *words: any(all(f'"{word}"' in text for word in words) for text in others)
    assigned = {(name, check) for name, claim in entries.items() for check in claim.get("checks", {})
                if not elsewhere(name, check)}
    # a skip without a name is one of all checks of its claim
    made = {(record["claim"], record.get("check", "")) for _, record in claims.checks_in(book.cells)}
    lost = sorted(pair for pair in assigned if pair not in made and (pair[0], "") not in made)
    return f"book/claims.yml gives it checks that it does not make: {', '.join(map(' '.join, lost))}" if lost else ""


def take_times(book: Any) -> dict[str, float]:
    """Seconds by cell number, taken out of the notebook."""
    seconds = {}
    for place, cell in enumerate(book.cells):
        duration = cell.metadata.pop("papermill", {}).get("duration")
        cell.metadata.pop("execution", None)
        if duration is not None:
            seconds[str(place)] = round(duration, 2)
    return seconds


def tidy(book: Any, chapter: str) -> None:
    """Take out of the notebook what differs from run to run; hide the injected parameters like the default ones."""
    chapters.number_cells(book, chapter)
    pictures.smaller(book)
    book.metadata["papermill"] = {"parameters": dict(book.metadata.get("papermill", {}).get("parameters", {}))}
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["injected-parameters", "remove-cell"]


def warning_filters(given: str = "") -> str:
    """What PYTHONWARNINGS says to a kernel: what it says already, and then that `SILENCED` is not shown.

    :param given: its present value
    """
    return ",".join([*filter(None, [given]), *(f"ignore:{begins}" for begins in SILENCED)])


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
    os.environ["PYTHONWARNINGS"] = warning_filters(os.environ.get("PYTHONWARNINGS", ""))
    try:
        execute(asked.chapter, asked.output, asked.record, asked.parameters, asked.profile)
    except chapters.Refused as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
