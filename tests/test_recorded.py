"""What is recorded belongs to what is written: the recorded notebooks hold the chapters' present text."""

import json
import re

import pytest

from lib.record import provenance, survivors
from pipeline import chapters, experiments


@pytest.mark.parametrize("chapter", chapters.chapters())
def test_a_recorded_notebook_holds_its_chapter(chapter):
    recorded = json.loads((chapters.ROOT / "book" / f"{chapter}.ipynb").read_text())["cells"]
    kept = ["".join(cell["source"]) for cell in recorded
            if "injected-parameters" not in cell["metadata"].get("tags", [])]
    written = [cell["source"] for cell in chapters.notebook(chapter).cells]
    assert kept == written, f"book/{chapter}.md has changed since it was recorded: run `make record`"


#: where files of a machine lie; a notebook that shows such a path tells of the machine and differs on the next
MACHINE_FOLDERS = ("tmp", "home", "work", "root", "Users", "usr", "opt")
MACHINE_PATH = re.compile(rf"(?<![\w.~/+])/(?:{'|'.join(MACHINE_FOLDERS)})/")


def shown_paths(book):
    """(cell, text around) of each absolute path of a machine in the outputs of an executed notebook."""
    outputs = [(place, json.dumps(cell.get("outputs", [])).replace("\\n", " "))
               for place, cell in enumerate(book["cells"])]
    return [(place, text[max(0, found.start() - 20):found.end() + 40])
            for place, text in outputs for found in MACHINE_PATH.finditer(text)]


@pytest.mark.parametrize("chapter", chapters.chapters())
def test_a_recorded_notebook_shows_no_path_of_a_machine(chapter):
    assert not shown_paths(json.loads((chapters.ROOT / "book" / f"{chapter}.ipynb").read_text()))


@pytest.mark.parametrize(("text", "found"), [
    *((f"/{folder}/x/.venv/lib/auto.py:21: a warning", True) for folder in MACHINE_FOLDERS),
    ("cannot read '/home/me/a.json'", True), ("at\n/opt/a", True),
    ("see https://host.org/home/a", False), ("results/opt/a.json and ../usr/b", False)])
def test_a_path_of_a_machine_is_told_from_other_slashes(text, found):
    cells = [{"source": "/tmp/in the source"}, {"outputs": [{"output_type": "stream", "text": text}]}]
    assert bool(shown_paths({"cells": cells})) is found


SHOWN = re.compile(r"\{glue:\w*\}(?:`([^`:]+)| (\S+))")  # in a text, or as a block


@pytest.mark.parametrize("chapter", chapters.chapters())
def test_every_glued_value_is_shown(chapter):
    recorded = json.loads((chapters.ROOT / "book" / f"{chapter}.ipynb").read_text())["cells"]
    glued = {output["metadata"]["scrapbook"]["name"] for cell in recorded for output in cell.get("outputs", [])
             if "scrapbook" in output.get("metadata", {})}
    page = "\n".join(cell.source for cell in chapters.notebook(chapter).cells if cell.cell_type == "markdown")
    assert glued == {inline or block for inline, block in SHOWN.findall(page)}


ONE_LAYER = ["one_layer", "beyond", "supervision", "predicted_limit", "recipes"]


@pytest.mark.parametrize("chapter", ONE_LAYER)
def test_a_recorded_run_is_one_that_the_full_profile_makes(chapter):
    values = chapters.parameters(chapter, "full", {})
    planned = experiments.experiments(chapter, "full")
    files = sorted((provenance.RECORDED / chapter).glob("full_*.json"))
    assert {path.stem.removeprefix("full_") for path in files} == set(planned)
    for path in files:
        run, found = planned[path.stem.removeprefix("full_")], provenance.load(path)
        asked = {name: values[name] for name in run["from"]} | run["fixed"]
        frozen = found["parameters"].get("attention_steps", 0) > 0  # measured there as well
        points = len(found["curves"]["steps"]) - 1 - frozen
        made = found["parameters"] | {"seeds": found["seeds"], "points": points}
        assert {name: made[name] for name in asked if name in made} == {
            name: value for name, value in asked.items() if name in made}, path.name
        assert set(asked) - set(made) <= {"snapshots", "measure"}


@pytest.mark.parametrize("chapter", ONE_LAYER)
def test_a_recorded_run_names_the_commit_that_made_it(chapter):
    for result in provenance.results(chapter, provenance.RECORDED):
        assert result["provenance"]["seconds"] > 0
        assert not result["provenance"]["commit"].endswith("-dirty")


def test_the_readme_says_which_of_the_rows_it_names_deviate():
    ledger = provenance.read_json(provenance.RECORDED / "ledger.json")
    status = {row["id"]: row["status"] for row in ledger["rows"]}
    table = (chapters.ROOT / "README.md").read_text(encoding="utf-8").split("## Results at a glance")[1]
    rows = " ".join(re.findall(r"Rows: ([^|]*)", table))
    named = re.findall(r"`([\w-]+)`( deviates)?", rows)
    assert len(named) > 8
    wrong = [name for name, deviates in named if (status.get(name) == "deviates") is not bool(deviates)]
    assert not wrong and set(dict(named)) <= set(status), "the README names rows otherwise than the recorded ledger"


def test_the_recorded_mutation_test_kills_nine_in_ten_and_explains_the_rest():
    counts, left = survivors.both_passes()
    found = survivors.totals(counts)
    assert sum(found[fate] for fate in survivors.FATES) >= 500 and survivors.score(found) >= 90
    assert all(each["why"] for each in left)
