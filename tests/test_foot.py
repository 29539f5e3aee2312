"""The foot of a page says which run is behind it and how to repeat it, and what it says works."""

import os
import re
import subprocess
import sys
import venv

import nbformat
import pytest

from pipeline import chapters, foot

RUN = {"chapter": "storage", "profile": "quick", "commit": "abc1234", "device": "CPU x86_64", "seconds": 5.6,
       "started": "2026-11-30T04:17:50+00:00", "versions": {"python": "3.11.7", "torch": "2.13.0"},
       "parameters": {"length": 7, "seed": 0, "step_size": 1.0, "vocabulary": 5}}


def test_the_foot_names_the_run_and_the_command_that_repeats_it():
    text = foot.cell(RUN).source
    for words in ("2026-11-30T04:17:50", "`abc1234`", "CPU x86_64", "6 s", "length = 7", "torch 2.13.0",
                  "make chapter NAME=storage PROFILE=quick SET=length=7", "length=7"):
        assert words in text, words
    assert "on CPU x86_64, AVX2 in 6 s" in foot.origin({**RUN, "processor": "AVX2"})


def test_a_chapter_without_parameters_has_a_foot_too():
    assert "Parameters: none." in foot.origin({**RUN, "parameters": {}})
    assert foot.own_parameters({"parameters": {}}) == "" == foot.own_parameters({"parameters": {"data": "published"}})
    assert 'SET="width=64"' in foot.own_parameters({"parameters": {"data": "published", "width": 64}})


def test_claims_that_no_check_of_a_page_decides_are_named_with_the_reason(monkeypatch):
    claims = {"a": {"title": "Done"}, "b": {"title": "A & B", "needs": "a GPU"},
              "c": {"title": "C", "open": "no proof"}}
    monkeypatch.setattr(foot.claims_file, "of_chapter", lambda chapter: claims)
    (cell,) = foot.unchecked("storage", {"a"})
    assert '<span id="claim-box-b">A &amp; B</span>: not run here, needs a GPU' in cell.source
    assert "C</span>: no proof" in cell.source and "Done" not in cell.source
    assert foot.unchecked("storage", set(claims)) == []


def test_the_script_of_a_chapter_is_python_without_injected_parameters(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("length = 4"),
             nbformat.v4.new_code_cell("length = 9", metadata={"tags": ["injected-parameters"]})]
    foot.write_script("storage", nbformat.v4.new_notebook(cells=cells), tmp_path)
    text = (tmp_path / "scripts" / "storage.py").read_text(encoding="utf-8")
    names = {}
    exec(compile(text, "storage.py", "exec"), names)
    assert names["length"] == 4 and "# # Title" in text


def test_the_install_cell_names_what_the_repository_has():
    cell = foot.install_cell()
    for name in re.findall(r"-[rc] (\S+)", cell):
        assert (chapters.ROOT / name).is_file(), name
    assert cell.splitlines()[0] == f'REPOSITORY = "{foot.REPOSITORY}"'


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CLEAN_INSTALL"), reason="installs all packages anew: set CLEAN_INSTALL=1")
def test_the_cells_for_a_hosted_notebook_run_in_a_clean_environment(tmp_path):
    """An environment with IPython alone, as a hosted notebook has, a copy of the committed repository, both cells."""
    venv.create(tmp_path / "hosted", with_pip=True)
    python = tmp_path / "hosted" / "bin" / "python"
    lock = chapters.ROOT / "requirements.lock"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "ipython", "-c", lock], check=True, timeout=1200)
    cells = foot.install_cell().replace(foot.REPOSITORY, str(chapters.ROOT)) + "\n" + foot.run_cell("storage", "quick")
    (tmp_path / "cells.ipy").write_text(cells, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "PYTEST"))}
    clean["PATH"] = f"{python.parent}{os.pathsep}{os.defpath}"
    done = subprocess.run([python, "-m", "IPython", "cells.ipy"], cwd=tmp_path, env=clean, capture_output=True,
                          text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = tmp_path / foot.FOLDER / "_build" / "preview" / "_build" / "html" / "book" / "storage.html"
    assert page.is_file(), done.stdout[-3000:]


@pytest.mark.slow
def test_a_downloaded_script_runs_in_the_repository(tmp_path):
    foot.write_script("storage", chapters.notebook("storage"), tmp_path)
    script = tmp_path / "scripts" / "storage.py"
    done = subprocess.run([sys.executable, str(script)], cwd=chapters.ROOT / "book", capture_output=True, text=True,
                          timeout=600, env=os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
