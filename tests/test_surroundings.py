"""Builds in surroundings that are not a developer's: without git, locale or home, without room, or beside another."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from pipeline import processor


@pytest.fixture
def book(unbuilt, tmp_path):
    return unbuilt.copy(tmp_path / "the book")


def test_a_build_needs_neither_git_nor_a_locale_nor_a_home(book, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "make", "cat", "rm", "mkdir", "touch", "test", "which"):
        (tools / name).symlink_to(shutil.which(name))
    home = tmp_path / "home"
    done = book.make("book", PATH=str(tools), LC_ALL="C", HOME=str(home))
    assert book.executed(done) == {"index", "one", "two", "ledger"} and "\u2248   2 reproduced" in done.stdout
    assert not home.exists()
    assert book.ledger()["claim-one"]["checks"][0]["commit"] == "unknown"


def test_a_folder_that_cannot_be_written_is_named(book):
    book.write("_build", "a file where a folder should be")
    done = book.make("book")
    assert done.returncode == 2 and "_build" in done.stdout and "cannot be written" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_notebooks_are_compared_under_another_setting_of_the_processor():
    for found, setting in processor.OTHER.items():
        assert processor.other(found)["ATEN_CPU_CAPABILITY"].upper() != found and len(setting) == 2
    assert processor.other("DEFAULT") == {}
    other = processor.other(torch.backends.cpu.get_cpu_capability())
    if other:
        asked = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
        done = subprocess.run(asked, env=os.environ | other, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == other["ATEN_CPU_CAPABILITY"].upper()


@pytest.mark.parametrize("second", ["book", "chapter NAME=two", "pages"])
def test_two_builds_at_once_are_told_apart(book, second):
    book.add_cell("one", "import time\ntime.sleep(60)")
    first = book.start("chapter", "NAME=one")
    number = book.holder()
    began = time.monotonic()
    done = book.make(*second.split())
    assert done.returncode == 2 and time.monotonic() - began < 20
    said = [line for line in done.stdout.splitlines() if not line.startswith("make: *** [")]
    assert said == [f"make {second.split()[0]}: `make chapter` is running in this folder, process {number}; "
                    f"wait for it, or end it with `kill {number}`"]
    subprocess.run(["kill", str(number)], check=True)
    assert "stopped; the same command goes on from here" in first.communicate(timeout=30)[0] and first.returncode == 2
    book.edit("book/one.md", "time.sleep(60)", "time.sleep(0)")
    assert book.executed(book.make("chapter", "NAME=one")) == {"one"}
