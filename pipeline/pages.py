"""Render notebooks as HTML pages:  python -m pipeline.pages OUTPUT NOTEBOOKS RECORDS

NOTEBOOKS is the folder of executed chapters, RECORDS that of their provenance. Nothing is executed. The pages are
rendered in a staging folder and take the place of the old ones only when they are whole.
"""

from __future__ import annotations

import argparse
import ast
import functools
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from lib.record import claims_file, provenance, run_pages, traced_numbers, verdicts
from lib.record.claims import METADATA_KEY
from pipeline import chapters, finish, foot, ledger, machines

OBJECT = re.compile(r"&lt;[\w.]+ object(?: at 0x[0-9a-f]+)?&gt;")
#: a number of the ledger in a chapter's text: {number}`claim/check` or {number}`claim/check/name of the value`, with
#: :.0f behind it for so many digits behind the point; {estimate} shows its interval as well
NUMBER = re.compile(r"\{(?P<role>number|estimate)\}`(?P<claim>[^`/]+)/(?P<check>[^`/]+?)(?:/(?P<name>[^`]+?))?"
                    r"(?::\.(?P<digits>\d)f)?`")
#: the cells of the ledger's page that show a part of it; the renderer makes them anew from the ledger beside the pages
LEDGER_PART = re.compile(r"HTML\(verdicts\.(status_counts|claim_graph|ledger_table)\(rows\)\)")
SECTION = re.compile(r"^#{1,2} ", re.MULTILINE)  # a heading of a part of a section stays in its section
PAPER_TABLE = "paper_against_book"  # the page of that name, its table and its CSV
UNEXECUTED = ("references", "contributing", "glossary", PAPER_TABLE)  # pages of text alone
Row = Mapping[str, Any]
Tracing = Callable[[dict[str, Any], int], dict[str, Any]]  # of the record of a check, by the number of its cell


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
    rows = ledger_rows(records.parent)
    (folder / "book" / f"{PAPER_TABLE}.html").write_text(verdicts.paper_table(rows), encoding="utf-8")
    return set().union(*(stage_chapter(chapter, notebooks, records, folder, rows) for chapter in chapters.chapters()))


def ledger_rows(results: Path) -> list[dict[str, Any]]:
    """The rows of the ledger of these results, or else of the recorded one; each run that was read with its parameters.

    :return: none where there is no ledger
    """
    path = next((path for path in (results / "ledger.json", ledger.RECORDED) if path.exists()), None)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path else []
    return [{**row, "checks": [told_of_runs(check, results) for check in row["checks"]]} for row in rows]


def told_of_runs(check: Row, results: Path) -> dict[str, Any]:
    """A check with the parameters and seeds of each result that it read, and with the result and metric of each of its
    numbers that is the mean over seeds of one metric in one of these results, to the last digits."""
    read = {run["file"]: result_facts(result_source(run["file"], results)) for run in check.get("runs", ())}
    runs = [{**run, "parameters": read[run["file"]].parameters, "seeds": read[run["file"]].seeds}
            for run in check.get("runs", ())]
    means = {file: found.means for file, found in read.items()}
    return {**check, "runs": runs, "sources": traced_numbers.single_sources(check, means)}


class Facts(NamedTuple):
    """What is said of a recorded result beside its numbers: parameters, seeds, the mean of each metric over seeds."""

    parameters: dict[str, Any]
    seeds: list[int]
    means: dict[str, float]


def result_facts(source: Path) -> Facts:
    """The facts of a recorded result; nothing of one that is gone."""
    return _facts(source, source.stat().st_mtime_ns) if source.exists() else Facts({}, [], {})


@functools.cache
def _facts(source: Path, _changed: int) -> Facts:
    found = json.loads(source.read_text(encoding="utf-8"))
    whole = {name: values for name, values in found["metrics"].items()
             if isinstance(values, list) and values and all(isinstance(value, (int, float)) for value in values)}
    means = {name: sum(values) / len(values) for name, values in whole.items()}
    return Facts(found["parameters"], found["seeds"], means)


def stage_chapter(chapter: str, notebooks: Path, records: Path, folder: Path, rows: Sequence[Row]) -> set[str]:
    """One chapter, with a last line that says which run its numbers come from; returns the results that it links."""
    path = notebooks / f"{chapter}.ipynb"
    if not path.exists():
        sys.exit(f"{path}: this chapter has not been executed; `make book` executes it, `make record` records it")
    book = nbformat.read(path, as_version=4)
    run = json.loads((records / f"{chapter}.json").read_text(encoding="utf-8"))
    foot.write_script(chapter, book, folder)
    linked, shown = gather_checks(book, traced_by(run, rows, records.parent), run)
    if rows:
        show_ledger(book, rows)
    link_numbers(book, rows, chapter)
    name_code(book)
    if chapter == "index":
        book.cells += differing(records.parent / "ledger.json")
    book.cells += [*foot.unchecked(chapter, shown), foot.cell(run)]
    nbformat.write(book, folder / "book" / path.name)
    return linked


def traced_by(run: dict[str, Any], rows: Sequence[Row], results: Path) -> Tracing:
    """What adds to the record of a check, and the number of its cell, where its numbers come from.

    :param run: the record of the chapter's execution
    :param results: the folder of this build's results
    """
    registered = {row["id"]: row["registered"] for row in rows}

    def traced(check: dict[str, Any], cell: int) -> dict[str, Any]:
        return {**told_of_runs(check, results), **ledger.origin(run, cell), "chapter": run["chapter"], "cell": cell,
                "registered": registered.get(check["claim"], "")}

    return traced


def show_ledger(book: nbformat.NotebookNode, rows: Sequence[Row]) -> None:
    """Make the parts of the ledger's page anew: they and the pages that they link come from one ledger."""
    for cell in book.cells:
        part = LEDGER_PART.search(cell.source) if cell.cell_type == "code" else None
        if part:
            shown = getattr(verdicts, part[1])(rows)
            cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": shown})]


def link_numbers(book: nbformat.NotebookNode, rows: Sequence[Row], chapter: str) -> None:
    """Put each number that a text names, {number}`claim/check/name`, in its place: a link that says where it is from.

    :raises LedgerError: for a name that the ledger does not have, or that may mean several of its numbers
    """

    def link(found: re.Match[str]) -> str:
        try:
            check, value = traced_numbers.find(rows, found["claim"], found["check"], found["name"] or "")
            shown = traced_numbers.rounded(check, value["name"], found["digits"], found["role"] == "estimate")
        except KeyError as error:
            raise claims_file.LedgerError(f"chapter {chapter}: {found[0]}: {error.args[0]}") from None
        return str(traced_numbers.page_link(check, value, shown))

    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = NUMBER.sub(link, cell.source)
        for output in cell.get("outputs", []):
            if isinstance(text := output.get("data", {}).get("text/markdown"), str):
                output.data["text/markdown"] = NUMBER.sub(link, text)


def name_code(book: nbformat.NotebookNode) -> None:
    """Give the bar above each piece of folded code a name of its own: what its last line calls, or its place."""
    for number, cell in enumerate(book.cells):
        if "hide-input" in cell.metadata.get("tags", []):
            told = cell.metadata.setdefault("mystnb", {})
            told.setdefault("code_prompt_show", f"Show the code: {_called(cell.source) or f'cell {number}'}")


def _called(source: str) -> str:
    """The function that the last line of a cell calls, in words."""
    try:
        last = ast.parse(source).body[-1:]
    except SyntaxError:  # a line for IPython alone
        return ""
    if not (last and isinstance(last[0], ast.Expr) and isinstance(last[0].value, ast.Call)):
        return ""
    function = last[0].value.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")).replace("_", " ")


def differing(built: Path) -> list[nbformat.NotebookNode]:
    """A folded cell that says where this build's ledger differs from the recorded one; none where they agree."""
    if not (built.exists() and ledger.RECORDED.exists()):
        return []
    found, recorded = (json.loads(path.read_text(encoding="utf-8")) for path in (built, ledger.RECORDED))
    lines = ledger.against_record(found, recorded)
    if len(lines) == 1:
        return []
    listed = [f"* {line.strip()}" for line in lines[1:]]
    head = [f":::{{admonition}} {lines[0].rstrip(':')}", ":class: warning dropdown"]
    cell = nbformat.v4.new_markdown_cell("\n".join([*head, "", *listed, ":::"]))
    cell["id"] = "index-differs"
    return [cell]


def gather_checks(
    book: nbformat.NotebookNode, traced: Tracing = lambda check, cell: check, made: Row | None = None,
) -> tuple[set[str], set[str]]:
    """Show the checks of one section as one box, where the last of them ran; their code stays in the notebook alone.

    :param traced: adds to the record of a check, and the number of its cell, where its numbers come from
    :param made: the record of the chapter's execution; with it, results that were read are listed behind the last box
    :return: the recorded results that the boxes link, as paths below the repository, and the claims that have a box
    """
    records: dict[str, list[dict]] = {}
    for number, cell in enumerate(book.cells):
        kept = []
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get(METADATA_KEY)
            if record is None:
                kept.append(output)
            else:
                records.setdefault(record["claim"], []).append(traced(record, number))
                cell.setdefault("claims", []).append(record["claim"])
        if "claims" in cell:
            cell.outputs = kept
            cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "remove-input"} - {"hide-input"})
    runs = place_runs([record for found in records.values() for record in found])
    last = {claim: number for number, cell in enumerate(book.cells) for claim in cell.pop("claims", [])}
    for number, claims in verdicts.box_places(last, headings(book)).items():
        shown = verdicts.boxes({claim: records[claim] for claim in claims})
        if made and number == max(last.values()):
            shown += verdicts.runs_read(runs, made)
        book.cells[number].outputs.append(nbformat.v4.new_output("display_data", {"text/html": shown}))
    return {run["file"] for run in runs}, set(records)


def headings(book: nbformat.NotebookNode) -> list[int]:
    """The numbers of the cells of text that begin a section."""
    return [number for number, cell in enumerate(book.cells)
            if cell.cell_type == "markdown" and SECTION.search(cell.source)]


def place_runs(checks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each result that checks read its place in the list of them all, which is returned."""
    runs: dict[str, dict[str, Any]] = {}
    for check in checks:
        for run in check.get("runs", ()):
            run["place"] = runs.setdefault(run["file"], {**run, "place": len(runs)})["place"]
    return list(runs.values())


def render(folder: Path, output: Path, linked: Iterable[str] = (), results: Path = provenance.RECORDED) -> None:
    """Build the HTML with every warning an error, and put it in place of the old pages.

    :param linked: results that pages link, by their place below the repository; copied and shown beside them
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
    accompany(html, linked, results)
    shutil.copytree(staged / foot.SCRIPTS, html / foot.SCRIPTS, dirs_exist_ok=True)
    try:
        finish.finish(html, {name: claim["place"] for name, claim in claims_file.known_claims().items()})
    except chapters.Refused as error:
        sys.exit(f"rendering failed: {error}")


def accompany(pages: Path, linked: Iterable[str], results: Path) -> None:
    """Put beside the pages what they link: each claim and each result as a page, their list, and the ledger as CSV.

    :param linked: results by their place below the repository
    :param results: the folder of this build's results, which come before recorded ones
    """
    rows = ledger_rows(results)
    for name, content in (("ledger", verdicts.as_csv(rows)), (PAPER_TABLE, verdicts.paper_csv(rows))):
        (pages / "book" / f"{name}.csv").write_text(content, encoding="utf-8", newline="")
    (pages / traced_numbers.CLAIM_PAGES).mkdir(exist_ok=True)
    for claim, content in verdicts.claim_pages(rows).items():
        (pages / traced_numbers.CLAIM_PAGES / f"{claim}.html").write_text(content, encoding="utf-8")
    readers = claims_by_result(rows)
    every = {*linked, *readers, *(path for folder in {results, provenance.RECORDED} for path in results_in(folder))}
    shown = [name for name in sorted(every) if show_result(name, results, pages, readers.get(name, []))]
    listed = run_pages.list_html(traced_numbers.name_of(name) for name in shown)
    (pages / provenance.RECORDED.name).mkdir(exist_ok=True)
    (pages / provenance.RECORDED.name / "index.html").write_text(listed, encoding="utf-8")


def results_in(folder: Path) -> list[str]:
    """The results below a folder of them, drafts left out, each by its place below the repository once recorded."""
    files = folder.glob("[!.]*/[!.]*.json")
    return [f"{provenance.RECORDED.name}/{path.relative_to(folder).as_posix()}" for path in files]


def claims_by_result(rows: Iterable[Row]) -> dict[str, list[dict[str, str]]]:
    """The claims, id and title each, whose checks read a result or ran in a chapter, by the result's place."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        for check in row["checks"]:
            for file in (*(run["file"] for run in check.get("runs", ())), f"results/chapters/{check['chapter']}.json"):
                found.setdefault(file, {})[row["id"]] = row["title"]
    return {file: [{"id": claim, "title": title} for claim, title in named.items()] for file, named in found.items()}


def show_result(name: str, results: Path, pages: Path, readers: Sequence[Mapping[str, str]]) -> bool:
    """Copy a result beside the pages and show it as one; returns whether it is there, and one that can be shown."""
    source, to = result_source(name, results), pages / name
    if not source.exists():  # a run of another machine's build may be gone since
        return False
    content = json.loads(source.read_text(encoding="utf-8"))
    if "chapter" in content:
        page = run_pages.chapter_html(content, readers)
    elif "metrics" in content:
        page = run_pages.result_html(content, traced_numbers.name_of(name), readers)
    else:
        return False
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, to)
    to.with_suffix(".html").write_text(page, encoding="utf-8")
    return True


def result_source(name: str, results: Path) -> Path:
    """The file of a result by its place below the repository: this build's before the recorded one."""
    own = results / Path(name).relative_to(provenance.RECORDED.name)
    return own if own.exists() else chapters.ROOT / name


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
