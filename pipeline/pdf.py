"""The whole book as one PDF:  python -m pipeline.pdf PAGES OUTPUT.pdf

Chromium prints each rendered page, proofs open, and pypdf joins them, with an outline, page numbers in the footers, and
links between chapters that lead to pages of the same file.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pypdf
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NullObject
from tqdm import tqdm

from lib.record import provenance
from pipeline.settings import Refused, read_yaml

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
SCALE = 0.8  # of the letters on a screen
#: margins and footer of a sheet; sheets are counted from the first of the book, not of the page
SHEET = """@page { size: A4; margin: 22mm 21mm;
  @bottom-left { content: %s; font: 10px sans-serif; color: #444; }
  @bottom-right { content: counter(page); font: 10px sans-serif; color: #444; } }
html { counter-reset: page %d; }"""
#: pictures wait until they are scrolled to; paper has them all
PICTURES = """Promise.all([...document.images].map(each => {
  each.loading = "eager";
  return each.decode();
})).then(() => true)"""


def browser() -> str:
    """The path of an installed Chromium.

    :raises Refused: where there is none, with how to get one
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise Refused("printing needs Chromium, which is not installed: `apt-get install chromium`, or Chrome")
    return found


def entries(toc: Path) -> list[str]:
    """Names of the pages in the order of the table of contents."""
    content = read_yaml(toc)
    files = [content["root"], *(each["file"] for part in content["parts"] for each in part["chapters"])]
    return [Path(file).stem for file in files]


def print_pages(site: Path, names: Sequence[str], folder: Path) -> dict[str, str]:
    """Print the pages into a folder, one PDF each; returns their titles by name.

    :raises Refused: for a page that is not there
    """
    from playwright.sync_api import sync_playwright

    titles: dict[str, str] = {}
    sheets = 0
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser(), args=list(FLAGS))
        sheet = opened.new_page(color_scheme="light", offline=True, device_scale_factor=2)  # for sharp pictures
        for name in tqdm(names, "printing", disable=not sys.stderr.isatty()):
            page = site / "book" / f"{name}.html"
            if not page.is_file():
                raise Refused(f"{page} is missing; `make pages` renders it")
            titles[name] = print_page(sheet, page, folder / f"{name}.pdf", sheets)
            sheets += len(pypdf.PdfReader(folder / f"{name}.pdf").pages)
        opened.close()
    return titles


def print_page(sheet: Any, page: Path, to: Path, before: int = 0) -> str:
    """Print one page that a browser opens; returns its title.

    :param before: how many sheets of the book come before it
    """
    sheet.goto(page.absolute().as_uri())
    sheet.evaluate("document.querySelectorAll('details.sd-dropdown').forEach(proof => proof.open = true)")
    sheet.evaluate("document.fonts.ready.then(() => true)")
    sheet.evaluate(PICTURES)
    title = re.sub(r"#$", "", sheet.locator("h1").first.inner_text().strip())
    sheet.add_style_tag(content=SHEET % (json.dumps(title, ensure_ascii=False), before))
    sheet.pdf(path=str(to), print_background=True, prefer_css_page_size=True, scale=SCALE)
    return title


def join(folder: Path, titles: Mapping[str, str], output: Path, title: str) -> int:
    """Join the printed pages to one file; returns how many sheets it has."""
    book = pypdf.PdfWriter()
    starts = {}
    for name, heading in titles.items():
        starts[name] = len(book.pages)
        book.append(str(folder / f"{name}.pdf"), outline_item=heading, import_outline=False)
    for sheet in book.pages:
        lead_inside(sheet, book, starts)
    book.add_metadata({"/Title": title})
    book.compress_identical_objects()
    with provenance.replacing(output) as draft:
        book.write(draft)
    return len(book.pages)


def lead_inside(sheet: Any, book: pypdf.PdfWriter, starts: Mapping[str, int]) -> None:
    """Make links to other pages of the book lead to where they start in the file; take other local links away."""
    annotations = sheet.get("/Annots", ArrayObject())
    kept = ArrayObject()
    for reference in annotations:
        link = reference.get_object()
        uri = str(link.get("/A", {}).get("/URI", ""))
        if uri.startswith("file:"):
            name = re.sub(r"\.html.*", "", uri.rsplit("/", 1)[1])
            if name not in starts:
                continue
            target = ArrayObject([book.pages[starts[name]].indirect_reference, NameObject("/XYZ"), *[NullObject()] * 3])
            link[NameObject("/A")] = DictionaryObject({NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): target})
        kept.append(reference)
    if annotations:
        sheet[NameObject("/Annots")] = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", metavar="CHAPTER", help="print these alone")
    asked = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    try:
        with tempfile.TemporaryDirectory() as folder:
            titles = print_pages(asked.pages, asked.only or entries(root / "_toc.yml"), Path(folder))
            sheets = join(Path(folder), titles, asked.output, read_yaml(root / "_config.yml")["title"])
    except Refused as error:
        sys.exit(f"pdf: {error}")
    print(f"PDF: {asked.output} ({sheets} pages, {asked.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
