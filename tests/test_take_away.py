"""What can be taken along: the book as a PDF, and its pages as an archive that opens from disk."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pypdf
import pytest

from pipeline import archive, chapters, pdf
from pipeline.settings import Refused

BROWSER = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)
STYLE = (chapters.ROOT / "book" / "_static" / "book.css").as_uri()
PAGE = """<html><head><link rel="stylesheet" href="{style}"></head><body><h1>{title}<a class="headerlink">#</a></h1>
<details class="sd-dropdown"><summary>Proof</summary><p class="proof">Folded words of {title}.</p></details>
<div class="cell"><details class="hide above-input"><summary>Show the code</summary>print(1)</details></div>
<p><a href="two.html#there">to two</a> <a href="gone.html">to nowhere</a> <a href="https://example.org/">away</a></p>
</body></html>"""


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "html" / "book").mkdir(parents=True)
    for name, title in {"one": "First", "two": "Second"}.items():
        (tmp_path / "html" / "book" / f"{name}.html").write_text(PAGE.format(title=title, style=STYLE))
    (tmp_path / "html" / "index.html").write_text('<meta http-equiv="refresh" content="0; url=book/one.html">')
    return tmp_path / "html"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: nothing can be printed")
def test_the_pages_become_one_file_with_proofs_outline_and_links(pages, tmp_path):
    titles = pdf.print_pages(pages, ["one", "two"], tmp_path)
    assert titles == {"one": "First", "two": "Second"}
    assert pdf.join(tmp_path, titles, tmp_path / "book.pdf", "The book") == 2
    book = pypdf.PdfReader(tmp_path / "book.pdf")
    assert [entry.title for entry in book.outline] == ["First", "Second"] and book.metadata.title == "The book"
    texts = [sheet.extract_text() for sheet in book.pages]
    assert "Folded words of First." in texts[0] and "Show the code" not in texts[0]
    footers = [re.findall(r"(\d)\s*(First|Second)\b", text) for text in texts]
    assert footers == [[("1", "First")], [("2", "Second")]]
    links = [link.get_object()["/A"] for link in book.pages[0]["/Annots"]]
    assert [link["/S"] for link in links] == ["/GoTo", "/URI"]
    assert links[0]["/D"][0] == book.pages[1].indirect_reference


def test_a_page_that_is_missing_is_refused_by_name(pages, tmp_path, monkeypatch):
    if BROWSER is None:
        monkeypatch.setattr(pdf, "browser", lambda: pytest.skip("no Chromium on this machine"))
    with pytest.raises(Refused, match=r"three\.html is missing; `make pages` renders it"):
        pdf.print_pages(pages, ["three"], tmp_path)


def test_without_a_browser_printing_says_what_is_needed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Refused, match="apt-get install chromium"):
        pdf.browser()


def test_pages_are_printed_in_the_order_of_the_contents(tmp_path):
    (tmp_path / "toc.yml").write_text(
        "root: book/index.ipynb\nparts:\n- chapters: [{file: book/b.ipynb}, {file: book/a}]\n")
    assert pdf.entries(tmp_path / "toc.yml") == ["index", "b", "a"]


def test_the_archive_holds_the_pages_and_is_the_same_again(pages, tmp_path):
    assert archive.pack(pages, tmp_path / "first.zip") == 3
    os.utime(pages / "index.html", (1, 1))
    archive.pack(pages, tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "first.zip") as packed:
        packed.extractall(tmp_path / "elsewhere")
    opened = tmp_path / "elsewhere" / archive.FOLDER
    assert (opened / "index.html").is_file() and "First" in (opened / "book" / "one.html").read_text()


def test_an_archive_of_nothing_is_refused(tmp_path):
    command = [sys.executable, "-m", "pipeline.archive", str(tmp_path), str(tmp_path / "out.zip")]
    done = subprocess.run(command, cwd=chapters.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "`make pages` renders the pages" in done.stderr
    assert not (tmp_path / "out.zip").exists()
