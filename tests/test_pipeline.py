"""The workflow, on a book of two tiny chapters in a folder of its own: what re-runs, what is refused, what stays."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import chapters, pages, record

ROOT = chapters.ROOT
HEADER = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""
CHAPTER = HEADER + """# %s

```{code-cell} ipython3
:tags: [parameters]

length = 4  # dimension of a head
```

```{code-cell} ipython3
from lib import claims
from lib.encodings import rope_frequencies

lowest = float(rope_frequencies(length)[-1])
_ = claims.verify("%s", f"slowest plane turns by {lowest:.4f}", lambda x: x > 0, given={"x": lowest},
                  broken={"x": -lowest}, control="turning backwards", kind="numeric")
```
"""
INDEX = HEADER + "# Front\n\n```{code-cell} ipython3\n1 + 1\n```\n"
TOC = """format: jb-book
root: book/index.ipynb
parts:
  - caption: All
    chapters:
      - file: book/one.ipynb
      - file: book/two.ipynb
      - file: book/ledger.ipynb
"""
CLAIM = ("- {id: %s, title: T, source: paper, place: here, statement: s, hypotheses: [], depends: [%s],"
         " evidence: numeric, chapter: %s}\n")


LEDGER = "_build/results/ledger.json"


class Book:
    """A copy of the machinery around two tiny chapters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("lib", "pipeline"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "_config.yml", "requirements.lock"):
            shutil.copy2(ROOT / name, folder / name)
        (folder / "book").mkdir()
        shutil.copytree(ROOT / "book" / "_static", folder / "book" / "_static")
        self.write("_toc.yml", TOC)
        self.write("book/references.bib", "")
        self.write("book/profiles.yml", "full: {one: {length: 8}}\n")
        self.write("book/experiments.yml", "{}\n")
        self.write("book/claims.yml", CLAIM % ("claim-one", "", "one") + CLAIM % ("claim-two", "claim-one", "two"))
        self.write("book/index.md", INDEX)
        shutil.copy2(ROOT / "book" / "ledger.md", folder / "book" / "ledger.md")
        for name in ("one", "two"):
            self.write(f"book/{name}.md", CHAPTER % (name.title(), f"claim-{name}"))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert text.count(old) >= 1, f"{old!r} is not in {name}"
        self.write(name, text.replace(old, new, 1))

    def build(self, *targets: str, **config: str) -> subprocess.CompletedProcess:
        settings = [f"{key}={value}" for key, value in {"profile": "quick", **config}.items()]
        environment = {**os.environ, "PYTHONPATH": str(self.folder),
                       "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment.pop("RESULTS_DIR", None)
        return subprocess.run(["snakemake", *targets, "--cores", "2", "--resources", "gpu=2", "--config", *settings],
                              cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)

    def executed(self, done: subprocess.CompletedProcess) -> set[str]:
        assert done.returncode == 0, done.stdout + done.stderr
        return {name for name in ("index", "one", "two", "ledger") if f"{name}: " in done.stdout}

    def page(self, name: str) -> str:
        return (self.folder / "_build" / "html" / "book" / f"{name}.html").read_text()

    def ledger(self) -> dict[str, dict]:
        rows = json.loads((self.folder / LEDGER).read_text())["rows"]
        return {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    made = Book(tmp_path_factory.mktemp("book"))
    assert made.executed(made.build()) == {"index", "one", "two", "ledger"}
    return made


def test_a_build_leaves_pages_ledger_and_provenance(book):
    assert "turns by 0.0100" in book.page("one") and "Where these numbers come from" in book.page("one")
    row = book.ledger()["claim-two"]
    assert row["status"] == "reproduced" and row["established"]
    check = row["checks"][0]
    assert check["chapter"] == "two" and check["cell"] == 3 and check["parameters"] == {"length": 4}
    assert check["seconds"] >= 0 and check["device"] and check["commit"]


def test_nothing_changed_nothing_runs_in_seconds(book):
    for path in [*(book.folder / "lib").glob("*.py"), *(book.folder / "book").glob("*.md")]:
        path.touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = book.build()
    assert book.executed(done) == set() and "Nothing to be done" in done.stdout + done.stderr
    # processor time, which a busy machine does not stretch as it does the clock's
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10


def test_edited_prose_runs_that_chapter_alone(book):
    book.edit("book/one.md", "# One", "# One, edited")
    assert book.executed(book.build()) & {"one", "two"} == {"one"}
    assert "One, edited" in book.page("one")


def test_a_changed_constant_reaches_every_page(book):
    book.edit("lib/encodings.py", "10_000.0", "40_000.0")
    assert {"one", "two"} <= book.executed(book.build())
    for name in ("one", "two"):
        assert "turns by 0.0050" in book.page(name) and "turns by 0.0100" not in book.page(name)


def test_a_setting_reaches_its_chapter_alone(book):
    assert book.executed(book.build(LEDGER, set="one.length=2")) & {"one", "two"} == {"one"}
    assert "turns by 1.0000" in book.ledger()["claim-one"]["checks"][0]["says"]
    assert book.executed(book.build(LEDGER)) & {"one", "two"} == {"one"}


def test_a_failing_cell_stops_the_build_and_the_last_good_notebook_stays(book):
    good = (book.folder / "_build" / "chapters" / "two.ipynb").read_bytes()
    page = book.page("two")
    text = (book.folder / "book" / "two.md").read_text()
    book.write("book/two.md", text + "\n```{code-cell} ipython3\nboiled_over = [1][3]\n```\n")
    done = book.build()
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "chapter two" in said and "cell 4" in said and "IndexError" in said and "boiled_over = [1][3]" in said
    assert (book.folder / "_build" / "chapters" / "two.ipynb").read_bytes() == good and book.page("two") == page
    book.write("book/two.md", text)
    assert book.build(LEDGER).returncode == 0


@pytest.mark.parametrize(("config", "said"), [
    ({"set": "one.lenght=3"}, "chapter one has no parameter 'lenght'; its parameters are length=4"),
    ({"set": "eleven.length=3"}, "no chapter 'eleven'; the chapters are index, one, two, ledger"),
    ({"chapter": "eleven"}, "no chapter 'eleven'; the chapters are index, one, two, ledger"),
    ({"set": "one.length=long"}, "one.length='long': expected int, as in length=4"),
    ({"set": "length=3"}, "not of the form chapter.parameter=value"),
    ({"profile": "slow"}, "no profile 'slow'; the profiles are auto, quick, full"),
])
def test_what_does_not_exist_is_refused_with_what_does(book, config, said):
    done = book.build(**config)
    assert done.returncode != 0 and said in done.stdout + done.stderr


def test_orphans_and_unknown_claims_fail_the_build(book):
    claims = (book.folder / "book" / "claims.yml").read_text()
    book.write("book/claims.yml", claims + CLAIM % ("claim-three", "", "two"))
    done = book.build(LEDGER)
    assert done.returncode != 0 and "claim 'claim-three' is an orphan" in done.stdout + done.stderr
    book.write("book/claims.yml", CLAIM % ("claim-one", "", "one"))
    done = book.build(LEDGER)
    assert done.returncode != 0 and "chapter two, cell 3: unknown claim 'claim-two'" in done.stdout + done.stderr
    book.write("book/claims.yml", claims)
    assert book.build(LEDGER).returncode == 0


def test_a_hypothesis_broken_by_hand_turns_its_row_and_what_rests_on_it(book):
    book.edit("book/one.md", 'given={"x": lowest}', 'given={"x": -lowest}')
    assert book.build(LEDGER).returncode == 0
    assert book.ledger()["claim-one"]["status"] == "deviates"
    assert not book.ledger()["claim-two"]["established"]
    book.edit("book/one.md", 'broken={"x": -lowest}', 'broken={"x": lowest}')
    done = book.build(LEDGER)
    assert done.returncode != 0 and "ControlPassed" in done.stdout + done.stderr


EXPERIMENTS = """one:
  module: lib.one_layer.training
  parameters: [length]
  runs: {both: {steps: 3}}
  full: {long: {length: 9, module: lib.other}}
  varied: {other: {of: {seeds: [0, 1]}, at: {5: {steps: 7}, 6: {steps: 8}}, settings: {width: [2], ema: [0, 0.5]}}}
  reads: [shelf]
"""


def test_a_run_takes_the_chapters_parameters_and_its_own_settings_win(monkeypatch):
    monkeypatch.setattr(chapters, "_yaml", lambda name: yaml.safe_load(EXPERIMENTS))
    assert set(chapters.experiments("one", "quick")) == {"both"}
    runs = chapters.experiments("one", "full")
    assert chapters.command(runs["both"], {"length": 4}) == "python -m lib.one_layer.training --length 4 --steps 3"
    assert chapters.command(runs["long"], {"length": 4}) == "python -m lib.other --length 9"
    varied = {f"other_{length}_{setting}" for length in (5, 6) for setting in ("width_2", "ema_0", "ema_0.5")}
    assert set(runs) == {"both", "long", *varied}
    assert chapters.command(runs["other_6_ema_0"], {"length": 4}) == (
        "python -m lib.one_layer.training --length 6 --seeds 0 1 --steps 8 --ema 0")


def test_recorded_results_of_other_profiles_count_as_a_source(monkeypatch, tmp_path):
    monkeypatch.setattr(chapters, "_yaml", lambda name: yaml.safe_load(EXPERIMENTS))
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    shelf = tmp_path / "results" / "shelf"
    shelf.mkdir(parents=True)
    before = chapters.recorded("one", "quick")
    (shelf / "quick_a.json").write_text("1")
    assert chapters.recorded("one", "quick") == before
    (shelf / "full_a.json").write_text("1")
    assert chapters.recorded("one", "quick") not in (before, chapters.recorded("one", "full"))


def test_a_page_that_shows_a_python_object_is_named(tmp_path, capsys):
    (tmp_path / "book").mkdir()
    page = tmp_path / "book" / "one.html"
    page.write_text("<p>3 &lt; 4, an object of study</p>")
    assert not pages.objects_shown(tmp_path)
    page.write_text("<p>&lt;IPython.core.display.Markdown object&gt;</p>")
    assert pages.objects_shown(tmp_path)
    assert "one.html: shows '<IPython.core.display.Markdown object>'" in capsys.readouterr().err


def test_promoting_copies_notebooks_and_results(book, tmp_path):
    written = record.promote(book.folder / "_build", tmp_path)
    assert {"book/one.ipynb", "results/ledger.json", "results/chapters/one.json"} <= {
        str(path.relative_to(tmp_path)) for path in written}


def test_real_chapters_have_parameters_that_can_be_read():
    for chapter in chapters.chapters():
        assert chapters.parameters(chapter, "full", {}).keys() == chapters.defaults(chapter).keys()
