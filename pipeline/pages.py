"""Render notebooks as HTML pages:  python -m pipeline.pages OUTPUT NOTEBOOKS RECORDS

NOTEBOOKS is the folder of executed chapters, RECORDS that of their provenance. Nothing is executed. The pages are
rendered in a staging folder and take the place of the old ones only when they are whole.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat

from lib.record import provenance, verdicts
from lib.record.claims import METADATA_KEY
from pipeline import chapters, finish, foot, ledger, machines

UNEXECUTED = ("references", "contributing", "glossary")  # pages of text alone
OBJECT = re.compile(r"&lt;[\w.]+ object(?: at 0x[0-9a-f]+)?&gt;")


def stage(notebooks: Path, records: Path, folder: Path) -> set[str]:
    """Lay out what Jupyter Book reads: its two settings files, the bibliography, and the executed chapters.

    :return: the recorded results that the pages link
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "book").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(chapters.ROOT / name, folder / name)
    for path in sorted((chapters.ROOT / "book").iterdir()):
        if path.name == "_static":
            shutil.copytree(path, folder / "_static")
        elif path.suffix == ".bib" or path.stem in UNEXECUTED:
            shutil.copy2(path, folder / "book" / path.name)
    versions = folder / "book" / f"{machines.NAME}.md"
    versions.write_text(machines.page(records, provenance.RECORDED), encoding="utf-8")
    return set().union(*(stage_chapter(chapter, notebooks, records, folder) for chapter in chapters.chapters()))


def stage_chapter(chapter: str, notebooks: Path, records: Path, folder: Path) -> set[str]:
    """One chapter, with a last line that says which run its numbers come from; returns the results that it links."""
    path = notebooks / f"{chapter}.ipynb"
    if not path.exists():
        sys.exit(f"{path}: this chapter has not been executed; `make book` executes it, `make record` records it")
    book = nbformat.read(path, as_version=4)
    run = json.loads((records / f"{chapter}.json").read_text(encoding="utf-8"))
    foot.write_script(chapter, book, folder)
    if chapter == "index":
        book.cells[1:1] = differing(records.parent / "ledger.json")  # below the title
    linked, shown = gather_checks(book)
    book.cells += [*foot.unchecked(chapter, shown), foot.cell(run)]
    nbformat.write(book, folder / "book" / path.name)
    return linked


def differing(built: Path) -> list[nbformat.NotebookNode]:
    """A cell that says where this build's ledger differs from the recorded one; none where they agree."""
    if not (built.exists() and ledger.RECORDED.exists()):
        return []
    found, recorded = (json.loads(path.read_text(encoding="utf-8")) for path in (built, ledger.RECORDED))
    lines = ledger.against_record(found, recorded)
    if len(lines) == 1:
        return []
    listed = [f"* {line.strip()}" for line in lines[1:]]
    cell = nbformat.v4.new_markdown_cell("\n".join([":::{warning}", lines[0], "", *listed, ":::"]))
    cell["id"] = "index-differs"
    return [cell]


def gather_checks(book: nbformat.NotebookNode) -> tuple[set[str], set[str]]:
    """Show the checks of one claim as one box, where the last of them ran; their code stays in the notebook alone.

    :return: the recorded results that the boxes link, as paths below the repository, and the claims that have a box
    """
    records: dict[str, list[dict]] = {}
    for cell in book.cells:
        kept = []
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get(METADATA_KEY)
            if record is None:
                kept.append(output)
            else:
                records.setdefault(record["claim"], []).append(record)
                cell.setdefault("claims", []).append(record["claim"])
        if "claims" in cell:
            cell.outputs = kept
            cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "remove-input"} - {"hide-input"})
    last = {claim: cell for cell in book.cells for claim in cell.get("claims", [])}
    for claim, cell in last.items():
        anchor = f'<div id="claim-box-{claim}">{verdicts.box(records[claim])}</div>'
        cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": anchor}))
    for cell in book.cells:
        cell.pop("claims", None)
    files = {run["file"] for found in records.values() for record in found for run in record.get("runs", ())}
    return files, set(records)


def render(folder: Path, output: Path, linked: Iterable[str] = (), results: Path = provenance.RECORDED) -> None:
    """Build the HTML with every warning an error, and put it in place of the old pages.

    :param linked: results that pages link, by their place below the repository; copied beside them
    :param results: the folder of this build's results, which come before recorded ones
    """
    built = folder.with_name("rendered")
    shutil.rmtree(built, ignore_errors=True)
    command = ["jupyter-book", "build", str(folder), "--path-output", str(built),
               "-W", "-n", "--keep-going", "--quiet"]
    # what it prints where nothing is wrong names the draft's place, which is gone in a moment
    done = subprocess.run(command, check=False, env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
                          stdout=subprocess.PIPE, text=True)
    if done.returncode or objects_shown(built / "_build" / "html"):
        print(done.stdout)
        sys.exit(f"rendering failed (messages above); the old pages are left as they were; staged in {folder}")
    complete(folder, built / "_build" / "html", linked, results)
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    output.parent.mkdir(parents=True, exist_ok=True)
    (built / "_build" / "html").rename(output)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(built, ignore_errors=True)


def complete(staged: Path, html: Path, linked: Iterable[str], results: Path) -> None:
    """Add to rendered pages what they link, and finish them, see `pipeline.finish`."""
    for name in linked:
        copy_result(name, results, html / name)
    shutil.copytree(staged / foot.SCRIPTS, html / foot.SCRIPTS, dirs_exist_ok=True)
    try:
        finish.finish(html)
    except chapters.Refused as error:
        sys.exit(f"rendering failed: {error}")


def copy_result(name: str, results: Path, to: Path) -> None:
    """A recorded result beside the pages that link it."""
    own = results / Path(name).relative_to(provenance.RECORDED.name)
    source = own if own.exists() else chapters.ROOT / name
    if source.exists():  # a run of another machine's build may be gone since
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to)


def objects_shown(pages: Path) -> bool:
    """Whether a page shows a reader the name of a Python object in the place of its content; says which page does."""
    shown = {page: found[0] for page in sorted(pages.rglob("*.html"))
             if (found := OBJECT.findall(page.read_text(encoding="utf-8")))}
    for page, words in shown.items():
        print(f"{page.name}: shows {html.unescape(words)!r}; text with marks needs {{glue:md}}, not {{glue:text}}",
              file=sys.stderr)
    return bool(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("notebooks", type=Path)
    parser.add_argument("records", type=Path)
    asked = parser.parse_args()
    staged = asked.output.absolute().parent / f".{asked.output.name}" / "stage"
    render(staged, asked.output, stage(asked.notebooks, asked.records, staged), asked.records.parent)


if __name__ == "__main__":
    main()
