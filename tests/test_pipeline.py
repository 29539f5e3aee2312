"""The workflow, on a book of two tiny chapters in a folder of its own: what re-runs, what is refused, what stays."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from small_book import CLAIM, LEDGER, Book

from pipeline import execute, pages, processor, record, settings


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = Book.made(tmp_path_factory.mktemp("a book"))
    assert made.executed(made.make("book")) == {"index", "one", "two", "ledger"}
    return made


@pytest.fixture
def book(built, tmp_path):
    """The built book in a folder of the test's own."""
    return built.copy(tmp_path / "the book")


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory):
    """A book for what is refused before anything runs, and so leaves it as it was."""
    return Book.made(tmp_path_factory.mktemp("refusing"))


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
    book.edit("lib/encodings.py", "10_000.0", "40_000.0")
    assert {"one", "two"} <= book.executed(book.make("book"))
    for name in ("one", "two"):
        assert "turns by 0.0050" in book.page(name) and "turns by 0.0100" not in book.page(name)


@pytest.mark.parametrize(("file", "again"), [
    ("lib/language_models/decoding.py", set()), ("lib/one_layer/model.py", set()),
    ("lib/theory/validation.py", {"two"}), ("lib/encodings.py", {"one", "two"}), ("lib/__init__.py", {"one", "two"}),
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


# What is refused before anything runs -------------------------------------------------------------------------------

CHAPTERS = "the chapters are index, one, two, ledger"
PARAMETERS = "its parameters are length=4, share=0.5, seeds=[0, 1], word=\"plain\""
BAD_COMMANDS = {
    "book SET=one.lenght=3": f"chapter one has no parameter 'lenght'; {PARAMETERS}",
    "book SET=eleven.length=3": f"no chapter 'eleven'; {CHAPTERS}",
    "book SET=index.length=3": "chapter index has no parameter 'length'; its parameters are none",
    "book SET=length=3": "not of the form chapter.parameter=value",
    "book SET=one.length": "not of the form chapter.parameter=value",
    "book SET=one.=3": "not of the form chapter.parameter=value",
    "book SET=.length=3": "not of the form chapter.parameter=value",
    "book SET==": "not of the form chapter.parameter=value",
    "book SET=one.length=long": "one.length='long': expected int, as in length=4",
    "book SET=one.length=": "one.length=None: expected int, as in length=4",
    "book SET=one.length=2.5": "one.length=2.5: expected int, as in length=4",
    "book SET=one.length=true": "one.length=True: expected int, as in length=4",
    "book SET=one.length=[4]": "one.length=[4]: expected int, as in length=4",
    "book SET=one.length=2020-01-01": "expected int, as in length=4",
    "book SET=one.length=0": "one.length=0: expected a number above 0, as in length=4",
    "book SET=one.length=-1": "one.length=-1: expected a number above 0, as in length=4",
    "book SET=one.length=99999999999999999999": "expected a finite number of at most 2147483647",
    "book SET=one.length=[": "one.length=[: no value can be read from '['",
    "book SET=one.length={": "no value can be read from '{'",
    "book SET=one.length=*x": "no value can be read from '*x'",
    "book SET=one.length=!!python/name:os.system": "no value can be read from",
    "book SET=one.share=.nan": "one.share=nan: expected a finite number",
    "book SET=one.share=.inf": "one.share=inf: expected a finite number",
    "book SET=one.share=-0.1": "one.share=-0.1: expected a number above 0, as in share=0.5",
    "book SET=one.share=half": "one.share='half': expected float, as in share=0.5",
    "book SET=one.seeds=0": "one.seeds=0: expected a list of one or more values, as in seeds=[0, 1]",
    "book SET=one.seeds=[]": "expected a list of one or more values, as in seeds=[0, 1]",
    "book SET=one.seeds=[-1]": "one.seeds=-1: expected a number of at least 0",
    "book SET=one.seeds=[a]": "one.seeds='a': expected int",
    "book SET=one.word=3": "one.word=3: expected str, as in word=\"plain\"",
    "book 'SET=one.length=2 one.length=3'": "one.length is set twice",
    "book 'SET=one.word=\"open'": "no closing quotation",
    "book NAME=one": "takes no NAME: it builds every chapter; `make chapter` builds one",
    "book PROFILE=slow": "no profile 'slow'; the profiles are auto, quick, full",
    "book CORES=0": "CORES=0: expected all or a whole number of at least 1",
    "book CORES=-1": "CORES=-1: expected all or a whole number",
    "book CORES=1.5": "CORES=1.5: expected all or a whole number",
    "book CORES=many": "CORES=many: expected all or a whole number",
    "book CORES=\u0663": "expected all or a whole number",
    "book 'CORES=2 --forceall'": "CORES=2 --forceall: expected all or a whole number",
    "chapter": "needs NAME=chapter, such as NAME=one_layer",
    "chapter NAME=eleven": f"no chapter 'eleven'; {CHAPTERS}",
    "chapter NAME=../one": f"no chapter '../one'; {CHAPTERS}",
    "chapter 'NAME=one two'": f"no chapter 'one two'; {CHAPTERS}",
    "chapter NAME=one SET=two.length=2": "two.length=2 has no effect on chapter one, which is built alone; use",
    "chapter NAME=one SET=lenght=2": f"chapter one has no parameter 'lenght'; {PARAMETERS}",
    "chapter NAME=one CORES=0": "CORES=0: expected all",
    "experiments NAME=eleven": f"no chapter 'eleven'; {CHAPTERS}",
    "experiments CORES=x": "CORES=x: expected all",
    "pages SET=one.length=2": "takes no SET: it executes nothing",
    "pages NAME=one": "takes no NAME: it executes nothing",
    "record SET=one.length=2": "takes no SET: what is recorded has the chapters' own parameters",
    "test SET=one.length=2": "make test takes neither SET nor NAME",
    "test-processor NAME=one": "make test-processor takes neither SET nor NAME",
    "mutants NAME=one": "make mutants takes neither SET nor NAME",
    "lint SET=x": "make lint takes neither SET nor NAME",
    "bench NAME=x": "make bench takes neither SET nor NAME",
    "clean NAME=one": "make clean takes neither SET nor NAME",
    "bok": "No rule to make target 'bok'",
}


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_what_does_not_exist_is_refused_with_what_does(unbuilt, command):
    done = unbuilt.make(*shlex.split(command))
    assert done.returncode == 2 and BAD_COMMANDS[command] in done.stdout and "Traceback" not in done.stdout
    said = [line for line in done.stdout.splitlines() if not line.startswith("make: *** [")]
    assert len(said) == 1, done.stdout
    assert not (unbuilt.folder / "_build").exists()


def test_a_setting_reaches_no_shell(book):
    value = "$(shell touch hit) `touch hit` $(touch hit) $$HOME '; touch hit; ' \"; touch hit; \" \n | touch hit"
    done = book.make("chapter", "NAME=one", f"SET=word={shlex.quote(json.dumps(value))}")
    assert book.executed(done) == {"one"}
    assert json.loads(book.read("_build/results/chapters/one.json"))["parameters"]["word"] == value
    assert not list(book.folder.rglob("hit"))


BAD_EDITS = {
    "an emptied chapter": ("book/one.md", None, "", "book/one.md: holds no code cell"),
    "a chapter of prose": ("book/one.md", None, "# One\n\nwords\n", "book/one.md: holds no code cell"),
    "a missing chapter": ("book/one.md", None, None, "there is no"),
    "a chapter in another code": ("book/one.md", None, b"\xff\xfe# One", "book/one.md: cannot be read"),
    "front matter": ("book/one.md", "jupytext:", "jupytext: [", "book/one.md: cannot be read"),
    "a computed parameter": ("book/one.md", "length = 4", "length = 2 + two()", "holds `name = literal` lines only"),
    "parameters cell": ("book/one.md", "length = 4", "length = = 4", "the parameters cell, line 1: invalid syntax"),
    "parameter twice": ("book/one.md", "share = 0.5", "length = 5", "parameter 'length' stands twice"),
    "parameters cell twice": ("book/one.md", "ipython3\nfrom", "ipython3\n:tags: [parameters]\n\nfrom",
                              "2 cells are tagged parameters"),
    "profiles: a profile": ("book/profiles.yml", "full", "ful", "book/profiles.yml: no profile 'ful'; the profiles"),
    "profiles: a chapter": ("book/profiles.yml", "one", "oen", "book/profiles.yml: full: no chapter 'oen'; the chapt"),
    "profiles: a parameter": ("book/profiles.yml", "length", "lenth",
                              f"book/profiles.yml: full: chapter one has no parameter 'lenth'; {PARAMETERS}"),
    "profiles: a value": ("book/profiles.yml", "8", "x", "book/profiles.yml: full: one.length='x': expected int"),
    "profiles: out of range": ("book/profiles.yml", "8", "-8", "full: one.length=-8: expected a number above 0"),
    "profiles: no mapping": ("book/profiles.yml", "{length: 8}", "8", "full: one: expected names"),
    "profiles: a list": ("book/profiles.yml", None, "- full\n", "book/profiles.yml: expected names"),
    "profiles: twice": ("book/profiles.yml", None, "full: {}\nfull: {}\n", "line 2: key 'full' stands twice"),
    "profiles: not YAML": ("book/profiles.yml", "}}", "}", "book/profiles.yml, line"),
    "profiles: missing": ("book/profiles.yml", None, None, "book/profiles.yml: cannot be read: No such file"),
    "experiments: a chapter": ("book/experiments.yml", None, "oen: {}\n", "book/experiments.yml: no chapter 'oen'"),
    "experiments: a field": ("book/experiments.yml", None, "one: {run: {}}\n",
                             "book/experiments.yml: one: no field 'run'; the fields are module, parameters"),
    "experiments: a parameter": ("book/experiments.yml", None, "one: {parameters: [lenth]}\n",
                                 "one: parameters: no parameter 'lenth'; the parameters are length, share"),
    "experiments: parameters": ("book/experiments.yml", None, "one: {parameters: length}\n", "expected a list"),
    "experiments: a module": ("book/experiments.yml", None, "one: {module: lib.no, runs: {a: {}}}\n",
                              "one: runs: a: there is no module 'lib.no' to run"),
    "experiments: no module": ("book/experiments.yml", None, "one: {runs: {a: {}}}\n", "there is no module None"),
    "experiments: a folder": ("book/experiments.yml", None, "one: {reads: [two, nowhere]}\n", "no folder 'two'"),
    "experiments: varied": ("book/experiments.yml", None, "one: {varied: {a: {of: {}}}}\n", "field 'at' is missing"),
    "experiments: runs": ("book/experiments.yml", None, "one: {runs: [a]}\n", "one: runs: expected names"),
    "experiments: not YAML": ("book/experiments.yml", None, "one: {\n", "book/experiments.yml, line"),
    "contents: a chapter twice": ("_toc.yml", "book/two", "book/one", "chapter 'one' stands twice"),
    "contents: no such chapter": ("_toc.yml", "book/two", "book/three", "there is no"),
    "contents: no root": ("_toc.yml", "root", "rot", "_toc.yml: expected a root"),
    "contents: not YAML": ("_toc.yml", "parts:", "parts: [", "_toc.yml, line"),
    "claims: not YAML": ("book/claims.yml", "{id", "{{id", "book/claims.yml"),
    "claims: missing": ("book/claims.yml", None, None, "book/claims.yml"),
}


@pytest.mark.parametrize("edit", BAD_EDITS)
def test_an_edit_that_does_not_fit_is_refused_by_file_and_place(unbuilt, tmp_path, edit):
    book = unbuilt.copy(tmp_path / "edited")
    file, old, new, said = BAD_EDITS[edit]
    if new is None:
        (book.folder / file).unlink()
    elif isinstance(new, bytes):
        (book.folder / file).write_bytes(new)
    else:
        book.write(file, new if old is None else book.read(file).replace(old, new, 1))
    done = book.make("book")
    assert done.returncode == 2 and said in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert not (book.folder / "_build" / "results").exists()


@pytest.mark.parametrize(("values", "profile"), [
    ({"length": 4}, "quick"), ({"length": 6, "seeds": [3, 1], "share": 1e-9}, "quick"), ({"length": 4}, "full"),
    ({"word": "it's \"so\" $(date) `date` \\ #"}, "quick"), ({"word": "none"}, "full"),
    ({"word": "two words"}, "quick"),
])
def test_the_command_that_runs_a_chapter_again_gives_its_parameters(unbuilt, values, profile):
    code = ("import json, shlex, sys\nfrom pipeline import chapters as c\nvalues, profile = json.loads(sys.argv[1])\n"
            "values = c.parameters('one', profile, values)\nline = c.rerun_command('one', values, profile)\n"
            "words = dict(word.partition('=')[::2] for word in shlex.split(line)[2:])\n"
            "asked = c.parse(words.get('SET', ''), words['NAME']).get('one', {})\n"
            "again = c.parameters('one', words['PROFILE'], asked)\n"
            "assert again == values, line\nprint(line)")
    done = subprocess.run([sys.executable, "-c", code, json.dumps([values, profile])], cwd=unbuilt.folder,
                          env={**os.environ, "PYTHONPATH": str(unbuilt.folder)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"make chapter NAME=one PROFILE={profile}"), done.stderr
    assert ("SET=" in done.stdout) == ((values, profile) != ({"length": 4}, "quick"))


# Surroundings -------------------------------------------------------------------------------------------------------


def test_a_build_needs_neither_git_nor_a_locale_nor_a_home(unbuilt, tmp_path):
    book = unbuilt.copy(tmp_path / "the book")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "make", "cat", "rm", "mkdir", "touch", "test", "which"):
        (tools / name).symlink_to(shutil.which(name))
    home = tmp_path / "home"
    done = book.make("book", PATH=str(tools), LC_ALL="C", HOME=str(home))
    assert book.executed(done) == {"index", "one", "two", "ledger"} and "\u2248   2 reproduced" in done.stdout
    assert not home.exists()
    assert book.ledger()["claim-one"]["checks"][0]["commit"] == "unknown"


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


def test_a_folder_that_cannot_be_written_is_named(unbuilt, tmp_path):
    book = unbuilt.copy(tmp_path / "the book")
    book.write("_build", "a file where a folder should be")
    done = book.make("book")
    assert done.returncode == 2 and "_build" in done.stdout and "cannot be written" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_notebooks_are_compared_under_another_setting_of_the_processor():
    import torch

    for found, setting in processor.OTHER.items():
        assert processor.other(found)["ATEN_CPU_CAPABILITY"].upper() != found and len(setting) == 2
    assert processor.other("DEFAULT") == {}
    other = processor.other(torch.backends.cpu.get_cpu_capability())
    if other:
        asked = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
        done = subprocess.run(asked, env=os.environ | other, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == other["ATEN_CPU_CAPABILITY"].upper()


# Two builds at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["book", "chapter NAME=two", "pages"])
def test_two_builds_at_once_are_told_apart(book, second):
    book.add_cell("one", "import time\ntime.sleep(60)")
    first = book.start("chapter", "NAME=one")
    number = holder(book)
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


def holder(book):
    """The process that holds the lock, once it does."""
    lock = book.folder / "_build" / ".lock"
    for _ in range(200):
        number, _, _ = (lock.read_text() if lock.exists() else "").partition(" ")
        if number and subprocess.run(["kill", "-0", number], capture_output=True).returncode == 0:
            return int(number)
        time.sleep(0.1)
    raise AssertionError("no build holds the lock")


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
