"""The workflow, on a book of two tiny chapters in a folder of its own: what re-runs, what fails, what stays."""

import json
import os
import resource
import shlex
import subprocess

import nbformat
import pytest
from small_book import CLAIM, LEDGER, Book

from pipeline import execute, pages, record, settings


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = Book.made(tmp_path_factory.mktemp("a book"))
    assert made.executed(made.make("book")) == {"index", "one", "two", "ledger"}
    return made


@pytest.fixture
def book(built, tmp_path):
    """The built book in a folder of the test's own."""
    return built.copy(tmp_path / "the book")


# What a build makes, and what it makes again ------------------------------------------------------------------------


def test_a_build_leaves_pages_ledger_and_provenance(built):
    assert "turns by 0.0100" in built.page("one") and "Where these numbers come from" in built.page("one")
    row = built.ledger()["claim-two"]
    assert row["status"] == "reproduced" and row["established"]
    check = row["checks"][0]
    assert check["chapter"] == "two" and check["cell"] == 3 and check["parameters"]["length"] == 4
    assert check["seconds"] >= 0 and check["device"] and check["commit"]


def test_nothing_changed_nothing_runs_in_seconds(book):
    for path in [*(book.folder / "lib").rglob("*.py"), *(book.folder / "book").glob("*.md")]:
        path.touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = book.make("book")
    assert book.executed(done) == set() and "Nothing to be done" in done.stdout
    # processor time, which a busy machine does not stretch as it does the clock's
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10


def test_edited_prose_runs_that_chapter_alone(book):
    book.edit("book/one.md", "# One", "# One, edited")
    assert book.executed(book.make("book")) & {"one", "two"} == {"one"}
    assert "One, edited" in book.page("one")


def test_a_changed_constant_reaches_every_page(book):
    book.edit("lib/planes.py", "10_000.0", "40_000.0")
    assert {"one", "two"} <= book.executed(book.make("book"))
    for name in ("one", "two"):
        assert "turns by 0.0050" in book.page(name) and "turns by 0.0100" not in book.page(name)


@pytest.mark.parametrize(("file", "again"), [
    ("lib/language_models/decoding.py", set()), ("lib/one_layer/model.py", set()),
    ("lib/theory/validation.py", {"two"}), ("lib/planes.py", {"one", "two"}), ("lib/__init__.py", {"one", "two"}),
    ("pipeline/execute.py", {"one", "two"}), ("requirements.lock", {"one", "two"}),
])
def test_what_imports_a_changed_file_runs_and_nothing_else(book, file, again):
    book.write(file, book.read(file) + "\n# edited\n")
    assert book.executed(book.workflow(LEDGER)) & {"one", "two"} == again


def test_a_changed_claim_runs_the_chapter_whose_verdict_shows_it(book):
    book.edit("book/claims.yml", "slowest plane turns", "slowest plane moves")
    assert book.executed(book.workflow(LEDGER)) & {"one", "two"} == {"one"}


RUN = """import argparse, json
from pathlib import Path
from lib.record import provenance

parser = argparse.ArgumentParser()
parser.add_argument("--length", type=int)
parser.add_argument("--steps", type=int)
parser.add_argument("--out", type=Path)
asked = parser.parse_args()
print("tiny run: started")
provenance.write_json(asked.out, vars(asked) | {"out": None})
"""


def test_a_run_is_made_again_when_what_it_imports_changes_and_its_chapter_after_it(book):
    book.write("lib/tiny_run.py", RUN)
    book.write("book/experiments.yml", "one: {module: lib.tiny_run, parameters: [length], runs: {a: {steps: 3}}}\n")
    ran = lambda done: ("tiny run: started" in done.stdout, book.executed(done) & {"one", "two"})
    assert ran(book.workflow(LEDGER)) == (True, {"one"})
    assert json.loads(book.read("_build/results/one/quick_a.json")) == {"length": 4, "steps": 3, "out": None}
    book.write("lib/theory/validation.py", book.read("lib/theory/validation.py") + "\n# edited\n")
    assert ran(book.workflow(LEDGER)) == (False, {"two"})
    book.write("lib/tiny_run.py", RUN + "\n# edited\n")
    assert ran(book.workflow(LEDGER)) == (True, {"one"})


def test_a_setting_reaches_its_chapter_alone(book):
    assert book.executed(book.workflow(LEDGER, set="one.length=2")) & {"one", "two"} == {"one"}
    assert "turns by 1.0000" in book.ledger()["claim-one"]["checks"][0]["says"]
    assert book.executed(book.workflow(LEDGER)) & {"one", "two"} == {"one"}


def test_one_chapter_is_executed_and_its_page_rendered(book):
    done = book.make("chapter", "NAME=one", "SET=length=2")
    assert book.executed(done) == {"one"} and "turns by 0.0100" in book.page("one")
    page = book.folder / "_build" / "preview" / "_build" / "html" / "book" / "one.html"
    assert f"Page: {page}" in done.stdout and "turns by 1.0000" in page.read_text()
    assert done.stdout.count("file://") == 0 and "_build/html" not in done.stdout.replace(str(page), "")
    assert book.executed(book.make("chapter", "NAME=one")) == {"one"} and "turns by 0.0100" in page.read_text()


def test_the_workflow_does_not_name_a_folder_of_pages_that_is_gone(book):
    book.edit("_config.yml", "title: ", "title: Anew, ")
    done = book.make("book")
    assert done.returncode == 0 and f"Pages: {book.folder}/_build/html/index.html" in done.stdout
    assert "rendered" not in done.stdout and "stage" not in done.stdout


# What a chapter must do to count as executed ------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "said"), [
    ("boiled_over = [1][3]", ["cell 4", "IndexError", "boiled_over = [1][3]"]),
    ("import sys\nsys.exit(0)", ["cell 4 ended the chapter early", "sys.exit(0)"]),
    ("import sys\nsys.exit(3)", ["cell 4", "SystemExit: 3"]),
    ("import os\nos._exit(0)", ["its kernel died"]),
    ("import os\nos.kill(os.getpid(), 9)", ["its kernel died"]),
    ("def half(:", ["cell 4", "SyntaxError"]),
])
def test_a_cell_that_fails_or_ends_the_chapter_stops_the_build_and_the_last_good_notebook_stays(book, code, said):
    good = (book.folder / "_build" / "chapters" / "two.ipynb").read_bytes()
    book.add_cell("two", code)
    book.add_cell("two", "print('after')")
    done = book.workflow(LEDGER)
    assert done.returncode != 0 and 'File "/' not in done.stdout.replace("site-packages/IPython", "")
    for words in ("chapter two", *said):
        assert words in done.stdout
    assert (book.folder / "_build" / "chapters" / "two.ipynb").read_bytes() == good
    assert not list((book.folder / "_build" / "chapters").glob(".*"))


def test_a_cell_that_was_passed_over_is_counted():
    made, cell = nbformat.v4, nbformat.v4.new_code_cell
    cells = [cell("1", execution_count=1), cell(" "), made.new_markdown_cell("words"), cell("2"), cell("3")]
    assert execute.ended_early(made.new_notebook(cells=cells[:3])) == ""
    assert execute.ended_early(made.new_notebook(cells=cells)) == "cell 3 and 1 more did not run"


WARNS = """import warnings

from tqdm.notebook import WARN_NOIPYW
from tqdm.std import TqdmWarning

warnings.warn(WARN_NOIPYW, TqdmWarning)
warnings.warn("a warning of another kind")
print("the end of the cell")"""


def test_a_notebook_without_its_progress_bars_does_not_say_so_and_shows_other_warnings(tmp_path):
    """The message names a file of the machine that recorded it; `PYTHONWARNINGS` of the user stays in force."""
    book = Book.made(tmp_path / "warning")
    book.add_cell("one", WARNS)
    done = subprocess.run(
        [".venv/bin/python", "-m", "pipeline.execute", "one", "out/one.ipynb", "out/one.json"], cwd=book.folder,
        env=book.environment(PYTHONWARNINGS="ignore:nothing", PYTHONPATH=str(book.folder)), text=True,
        capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    outputs = nbformat.read(book.folder / "out" / "one.ipynb", as_version=4).cells[-1].outputs
    shown = {name: "".join(each.text for each in outputs if each.name == name) for name in ("stdout", "stderr")}
    assert shown["stdout"] == "the end of the cell\n" and "a warning of another kind" in shown["stderr"]
    assert "IProgress" not in shown["stderr"] and "TqdmWarning" not in shown["stderr"]


def test_filters_of_the_user_come_first():
    assert execute.warning_filters() == "ignore:IProgress not found"
    assert execute.warning_filters("error,default::UserWarning") == (
        "error,default::UserWarning,ignore:IProgress not found")


def test_a_chapter_that_lost_a_check_fails_and_one_that_skips_it_does_not(book):
    good = book.read("_build/chapters/two.ipynb")
    text = book.read("book/two.md")
    book.write("book/two.md", text.replace("_ = claims.verify(", "skipped = lambda *a, **b: None\nskipped("))
    done = book.workflow(LEDGER)
    assert done.returncode != 0 and "gives it checks that it does not make: claim-two turns" in done.stdout
    assert book.read("_build/chapters/two.ipynb") == good
    for skip in ('claims.skip("claim-two", "no GPU", "turns")', 'claims.skip("claim-two", "no GPU")'):
        book.write("book/two.md", text.replace("_ = claims.verify(", f"{skip}\nskipped = lambda *a, **b: 0\nskipped("))
        assert book.workflow(LEDGER).returncode == 0 and book.ledger()["claim-two"]["status"] == "not run here"


def test_orphans_and_unknown_claims_fail_the_build(book):
    known = book.read("book/claims.yml")
    unchecked = (CLAIM % ("claim-three", "", "two")).partition("checks:")[0].rstrip(", \n") + "}"
    book.write("book/claims.yml", known + unchecked)
    done = book.workflow(LEDGER)
    assert done.returncode != 0 and "claim 'claim-three' is an orphan" in done.stdout
    book.write("book/claims.yml", CLAIM % ("claim-one", "", "one"))
    done = book.workflow(LEDGER)
    assert done.returncode != 0 and "no claim 'claim-two'" in done.stdout
    book.write("book/claims.yml", known)
    assert book.workflow(LEDGER).returncode == 0


def test_a_hypothesis_broken_by_hand_turns_its_row_and_what_rests_on_it(book):
    book.edit("book/one.md", 'given={"x": lowest}', 'given={"x": -lowest}')
    assert book.workflow(LEDGER).returncode == 0
    assert book.ledger()["claim-one"]["status"] == "deviates"
    assert not book.ledger()["claim-two"]["established"]
    book.edit("book/one.md", 'given={"x": -lowest}', 'given={"x": lowest}')
    book.edit("book/one.md", 'broken={"x": -lowest}', 'broken={"x": lowest}')
    done = book.workflow(LEDGER)
    assert done.returncode != 0 and "ControlPassed" in done.stdout


def test_a_setting_reaches_no_shell(book):
    value = "$(shell touch hit) `touch hit` $(touch hit) $$HOME '; touch hit; ' \"; touch hit; \" \n | touch hit"
    done = book.make("chapter", "NAME=one", f"SET=word={shlex.quote(json.dumps(value))}")
    assert book.executed(done) == {"one"}
    assert json.loads(book.read("_build/results/chapters/one.json"))["parameters"]["word"] == value
    assert not list(book.folder.rglob("hit"))


def test_a_full_disk_is_named(built, tmp_path):
    book = built.copy(tmp_path / "the book")
    disk = book.folder / "_build" / "chapters"
    kept = {path.name: path.read_bytes() for path in disk.iterdir()}
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        for name, content in kept.items():
            (disk / name).write_bytes(content)
        (disk / "filler").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        book.edit("book/one.md", "# One", "# One, edited")
        done = book.make("book")
        assert done.returncode == 2 and "cannot be written: No space left on device" in done.stdout
        assert "chapter one" in done.stdout and "Traceback" not in done.stdout
        assert {path.name: path.read_bytes() for path in disk.glob("*.ipynb")} == kept
        assert not [path for path in disk.iterdir() if path.name.startswith(".")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Parts --------------------------------------------------------------------------------------------------------------


def test_a_number_without_a_dot_is_read_where_a_fraction_is_meant():
    assert settings.fit("one.share", settings.value("one.share", "1e-3"), 0.5) == 1e-3
    assert settings.fit("one.lengths", [3, 4], (5, 6)) == [3, 4]


def test_a_page_that_shows_a_python_object_is_named(tmp_path, capsys):
    (tmp_path / "book").mkdir()
    page = tmp_path / "book" / "one.html"
    page.write_text("<p>3 &lt; 4, an object of study</p>")
    assert not pages.objects_shown(tmp_path)
    page.write_text("<p>&lt;IPython.core.display.Markdown object&gt;</p>")
    assert pages.objects_shown(tmp_path)
    assert "one.html: shows '<IPython.core.display.Markdown object>'" in capsys.readouterr().err


def test_promoting_copies_the_notebooks_of_the_book_and_all_results(built, tmp_path):
    written = {str(path.relative_to(tmp_path)) for path in record.promote(built.folder / "_build", tmp_path, ["one"])}
    assert {"book/one.ipynb", "results/ledger.json", "results/chapters/one.json"} <= written
    assert not {"book/two.ipynb", "results/chapters/two.json"} & written
    assert written == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
