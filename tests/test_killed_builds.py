"""Builds that are killed: the same command goes on afterwards, with nothing to clean up by hand."""

import json
import os
import random
import signal
import subprocess
import time

import psutil
import pytest
from small_book import LEDGER, NAMES

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "3"))  # of a small build, at moments spread over its length


@pytest.fixture
def book(unbuilt, tmp_path):
    return unbuilt.copy(tmp_path / "the book")


def processes(book):
    """Every process of a build of this folder but for `make`, by what it is."""
    found = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            own = process.environ().get("BOOK_BUILD") == str(book.folder / "_build")
            if own or (process.cwd() == str(book.folder) and "pipeline.build" in words):
                name = next((name for name in ("ipykernel_launcher", "pipeline.execute", "snakemake", "pipeline.build",
                                               "pipeline.pages", "jupyter-book")
                             if any(word.endswith(name) for word in words)), "other")
                found.setdefault(name, []).append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def outcome(book):
    """What a finished build holds, without times."""
    rows = json.loads(book.read(LEDGER))["rows"]
    assert all((book.folder / "_build" / "html" / "book" / f"{name}.html").is_file() for name in NAMES)
    checks = [(row["id"], row["status"], [check["says"] for check in row["checks"]]) for row in rows]
    return checks, {name: book.read(f"_build/chapters/{name}.ipynb") for name in NAMES}


def drafts(book):
    """Half-written files that are left in the places of whole ones."""
    build = book.folder / "_build"
    return [path for folder in ("chapters", "results") for path in (build / folder).rglob(".*")]


@pytest.mark.parametrize("victim", ["make", "pipeline.build", "snakemake", "pipeline.execute", "ipykernel_launcher"])
def test_after_a_part_of_it_was_killed_the_same_command_goes_on(book, victim):
    book.add_cell("one", "import os, time\ntime.sleep(0 if os.path.exists('../on') else 120)")
    first = book.start("chapter", "NAME=one")
    book.holder()
    for _ in range(600):
        running = processes(book)
        if "ipykernel_launcher" in running:
            break
        time.sleep(0.1)
    time.sleep(random.Random(victim).uniform(0, 3))
    for number in [first.pid] if victim == "make" else processes(book)[victim]:
        os.kill(number, signal.SIGKILL)
    book.write("on", "")
    done = book.make("chapter", "NAME=one") if victim in ("make", "pipeline.build") else None
    said, _ = first.communicate(timeout=60)
    if done is None:  # what called it says so, and ends
        assert first.returncode == 2, said
        assert {"snakemake": "ended by signal 9", "pipeline.execute": "died with <Signals.SIGKILL",
                "ipykernel_launcher": "its kernel died"}[victim] in said
        done = book.make("chapter", "NAME=one")
    assert book.executed(done) == {"one"} and not processes(book) and not drafts(book)


def test_ten_builds_killed_at_any_moment_end_in_what_an_undisturbed_one_makes(unbuilt, tmp_path):
    whole = unbuilt.copy(tmp_path / "whole")
    began = time.monotonic()
    assert whole.make("book").returncode == 0
    seconds = time.monotonic() - began
    rng, gone_on = random.Random(0), 0
    for attempt in range(KILLS):
        book = unbuilt.copy(tmp_path / f"killed {attempt}")
        first = book.start("book")
        time.sleep(rng.uniform(0.02, 0.98) * seconds)
        kind, number = one_of(book, first, rng)
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            kind = "nothing"
        if kind not in ("make", "pipeline.build"):
            first.communicate(timeout=120)
        done = book.make("book")
        assert done.returncode == 0, f"attempt {attempt}, {kind} killed: {done.stdout}"
        first.communicate(timeout=120)
        assert outcome(book) == outcome(whole), f"attempt {attempt}, {kind} killed"
        assert not processes(book) and not drafts(book), f"attempt {attempt}, {kind} killed"
        gone_on += 1
        print(f"attempt {attempt}: {kind} killed, went on")
    assert gone_on == KILLS


def one_of(book, first, rng):
    """A process of the running build, and what it is."""
    found = [("make", first.pid), *((kind, number) for kind, numbers in processes(book).items() for number in numbers)]
    return rng.choice(found)


def test_a_stopped_build_says_so_and_leaves_nothing_running(book):
    book.add_cell("one", "import time\ntime.sleep(120)")
    first = subprocess.Popen(["make", "chapter", "NAME=one"], cwd=book.folder, env=book.environment(), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # also behind &
    while "ipykernel_launcher" not in processes(book):
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    assert "stopped; the same command goes on from here" in first.communicate(timeout=60)[0]
    assert not processes(book)
