"""Tests compute on one thread each: pytest runs several at once, and threads that fight are slower than none."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from filelock import FileLock

from lib.one_layer.training import Trainer

torch.set_num_threads(1)

#: files that take minutes, the longest first: begun last they would keep one of two processes alone
LONG_FILES = ("test_pages", "test_killed_builds", "test_pipeline", "test_number_pages", "test_surroundings",
              "test_devices", "test_breakages", "test_pretrained", "test_table_7", "test_experiment")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Long files first, all else in the random order that it has."""
    place = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def interrupted(monkeypatch):
    """Run something until the training step of that number, counted from its start, is interrupted by hand."""

    def until(stop, made):
        advance, count = Trainer.step, iter(range(1000))

        def failing(self):
            if next(count) == stop:
                raise KeyboardInterrupt
            return advance(self)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "step", failing)
            made()

    return until


@pytest.fixture
def content():
    """What a recorded result holds but for its provenance, which differs from run to run."""
    return lambda path: {key: value for key, value in json.loads(path.read_text()).items() if key != "provenance"}


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory):
    """A book of two tiny chapters that was never built; a test that builds it takes a copy."""
    from small_book import Book

    return Book.made(tmp_path_factory.mktemp("a book"))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The recorded chapters rendered as `make pages` does, every warning an error; once for all who test at a time."""
    from pipeline import chapters

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    output, complete = shared / "site" / "html", shared / "site-complete"
    with FileLock(shared / "site.lock"):
        if not complete.exists():
            command = [sys.executable, "-m", "pipeline.pages", str(output), "book", "results/chapters"]
            done = subprocess.run(command, cwd=chapters.ROOT, capture_output=True, text=True, timeout=1200)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            complete.touch()
    return output / "book"


@pytest.fixture(scope="module")
def browser():
    """Chromium; tests that want it are skipped without."""
    from pipeline import pdf

    found = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the pages are not opened")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=list(pdf.FLAGS))
        yield opened
        opened.close()
