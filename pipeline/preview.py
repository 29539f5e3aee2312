"""The page of one chapter that was executed with settings of its own, among the recorded pages of the others.

The pages stay in ``_build/preview`` from one time to the next: only those that changed are rendered again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline import chapters, pages

FOLDER = chapters.ROOT / "_build" / "preview"


def render(chapter: str, run: Callable[..., int]) -> tuple[int, Path | None]:
    """Render the chapter's page.

    :param run: runs a command to its end, what it prints going to `output`, and gives its exit status
    :returns: exit status, and the page if there is one
    """
    drafts, records, staged = (FOLDER / name for name in ("notebooks", "records", "staged"))
    for folder in (drafts, records):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in chapters.chapters():
        found = executed(name, fresh=name == chapter)
        if found is None:
            print(f"chapter {name} is neither recorded nor executed, so pages cannot refer to it")
            return 0, None
        shutil.copy2(found[0], drafts)
        shutil.copy2(found[1], records)
    try:
        linked = pages.stage(drafts, records, staged)
    except Exception as error:  # a chapter was recorded by another state of this repository
        print(f"a recorded chapter cannot be shown as it is ({type(error).__name__}: {error})")
        return 0, None
    update(staged, FOLDER / "book")
    with (FOLDER / "log").open("w+", encoding="utf-8") as log:
        code = run(["jupyter-book", "build", str(FOLDER / "book"), "--path-output", str(FOLDER), "--quiet"], output=log)
        if code:
            log.seek(0)
            print(log.read())
    html = FOLDER / "_build" / "html"
    if html.exists():
        pages.complete(staged, html, linked, chapters.ROOT / "_build" / "results")
    page = html / "book" / f"{chapter}.html"
    return code, page if code == 0 and page.exists() else None


def executed(chapter: str, fresh: bool) -> tuple[Path, Path] | None:
    """Notebook and provenance of a chapter: this build's if `fresh`, else the recorded one, or this build's again."""
    build, root = chapters.ROOT / "_build", chapters.ROOT
    built = build / "chapters" / f"{chapter}.ipynb", build / "results" / "chapters" / f"{chapter}.json"
    recorded = root / "book" / f"{chapter}.ipynb", root / "results" / "chapters" / f"{chapter}.json"
    choices = [built] if fresh else [recorded, built]
    return next(((book, record) for book, record in choices if book.exists() and record.exists()), None)


def update(new: Path, old: Path) -> None:
    """Make a folder hold what another holds, leaving files alone that are the same."""
    for path in sorted(old.rglob("*"), reverse=True):
        if path.is_file() and not (new / path.relative_to(old)).is_file():
            path.unlink()
    for path in new.rglob("*"):
        kept = old / path.relative_to(new)
        if path.is_file() and not (kept.is_file() and kept.read_bytes() == path.read_bytes()):
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept)
