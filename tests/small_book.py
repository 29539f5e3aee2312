"""A book of two tiny chapters in a folder of its own, with all the machinery around it, for tests of the workflow."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline.chapters import ROOT

HEADER = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""
CHAPTER = HEADER + """# %(title)s

```{code-cell} ipython3
:tags: [parameters]

length = 4  # dimension of a head
share = 0.5
seeds = [0, 1]
word = "plain"
```

```{code-cell} ipython3
from lib.planes import slowest
from lib.record import claims
%(more)s
lowest = slowest(length)
_ = claims.verify("claim-%(name)s", "turns", lambda x: x > 0, given={"x": lowest}, broken={"x": -lowest},
                  words={"lowest": f"{lowest:.4f}"})
```
"""
#: what both chapters import: a module of the small book's own, which they need not wait for as for torch
PLANES = """def slowest(length):
    return 10_000.0 ** (2 / length - 1)
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
CLAIM = """- {id: %s, title: T, source: paper, place: here, statement: s, hypotheses: [], depends: [%s],
   evidence: numeric, chapter: %s,
   checks: {turns: {says: "slowest plane turns by {lowest}", control: turning backwards, breaks: mutation}}}
"""
LEDGER_PAGE = HEADER + "# Ledger\n\n```{code-cell} ipython3\n2 + 2\n```\n"
LEDGER = "_build/results/ledger.json"
NAMES = ("index", "one", "two", "ledger")


class Book:
    """The book's folder: written to, edited, built as a user builds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made(cls, folder: Path) -> "Book":
        book = cls(folder)
        for name in ("lib", "pipeline"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "Makefile", "_config.yml", "requirements.lock", "requirements.txt", "pyproject.toml"):
            shutil.copy2(ROOT / name, folder / name)
        (folder / ".venv").mkdir()
        for path in Path(sys.prefix).iterdir():
            (folder / ".venv" / path.name).symlink_to(path)
        (folder / ".venv" / "ready").unlink(missing_ok=True)
        (folder / ".venv" / "ready").touch()
        (folder / "book").mkdir()
        shutil.copytree(ROOT / "book" / "_static", folder / "book" / "_static")
        for name, text in {
            "lib/planes.py": PLANES, "_toc.yml": TOC, "book/references.bib": "",
            "book/index.md": INDEX, "book/ledger.md": LEDGER_PAGE,
            "book/profiles.yml": "full: {one: {length: 8}}\n", "book/experiments.yml": "{}\n",
            "book/claims.yml": CLAIM % ("claim-one", "", "one") + CLAIM % ("claim-two", "claim-one", "two"),
            "book/one.md": CHAPTER % {"title": "One", "name": "one", "more": ""},
            "book/two.md": CHAPTER % {"title": "Two", "name": "two", "more": "from lib.theory import validation"},
        }.items():
            book.write(name, text)
        return book

    def copy(self, folder: Path) -> "Book":
        """Another folder in the same state, times included."""
        return Book(Path(shutil.copytree(self.folder, folder, symlinks=True)))

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert text.count(old) >= 1, f"{old!r} is not in {name}"
        self.write(name, text.replace(old, new, 1))

    def add_cell(self, name: str, code: str) -> None:
        self.write(f"book/{name}.md", self.read(f"book/{name}.md") + f"\n```{{code-cell}} ipython3\n{code}\n```\n")

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("MAKE", "MFLAGS", "BOOK_", "PYTEST", "RESULTS_DIR", "PYTHONPATH"))
                and name not in ("SET", "NAME", "PROFILE", "CORES")}
        return {**kept, "PROFILE": "quick", **more}

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(["make", *words], cwd=self.folder, env=self.environment(**environment), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", *words], cwd=self.folder, env=self.environment(**environment), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)

    def workflow(self, *targets: str, **settings: str) -> subprocess.CompletedProcess:
        """Snakemake alone, without the ledger's summary and, for a target before them, without pages."""
        names = {"BOOK_PROFILE": "quick"} | {f"BOOK_{name.upper()}": value for name, value in settings.items()}
        return subprocess.run(
            [".venv/bin/python", "-c", "import sys; from pipeline import build; sys.exit(build.run(sys.argv[1:]))",
             "snakemake", "--nolock", "--cores", "2", "--resources", "gpu=2", "--", *targets],
            cwd=self.folder, env=self.environment(**names), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=300)

    def holder(self) -> int:
        """The process that holds the lock of the folder, once one does."""
        lock = self.folder / "_build" / ".lock"
        for _ in range(200):
            number, _, _ = (lock.read_text() if lock.exists() else "").partition(" ")
            if number and psutil.pid_exists(int(number)):
                return int(number)
            time.sleep(0.1)
        raise AssertionError("no build holds the lock")

    def executed(self, done: subprocess.CompletedProcess) -> set[str]:
        assert done.returncode == 0, done.stdout
        return {name for name in NAMES if f"\n{name}: " in f"\n{done.stdout}"}

    def page(self, name: str) -> str:
        return self.read(f"_build/html/book/{name}.html")

    def ledger(self) -> dict[str, dict]:
        return {row["id"]: row for row in json.loads(self.read(LEDGER))["rows"]}
