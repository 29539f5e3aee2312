"""The runs that chapters ask for: their commands, and the results that count as a chapter's sources."""

import subprocess
import sys

import pytest
import results_read
import yaml

from lib.record import provenance
from pipeline import chapters, experiments
from pipeline.settings import Refused

EXPERIMENTS = """one:
  module: lib.one_layer.training
  parameters: [length]
  runs: {both: {steps: 3}}
  full: {long: {length: 9, module: lib.other}}
  varied: {other: {of: {seeds: [0, 1]}, at: {5: {steps: 7}, 6: {steps: 8}}, settings: {width: [2], ema: [0, 0.5]}}}
  reads: [shelf]
"""


def test_a_run_takes_the_chapters_parameters_and_its_own_settings_win(monkeypatch):
    monkeypatch.setattr(experiments, "entries", lambda: yaml.safe_load(EXPERIMENTS))
    assert set(experiments.experiments("one", "quick")) == {"both"}
    runs = experiments.experiments("one", "full")
    assert experiments.command(runs["both"], {"length": 4}) == "python -m lib.one_layer.training --length 4 --steps 3"
    assert experiments.command(runs["long"], {"length": 4}) == "python -m lib.other --length 9"
    varied = {f"other_{length}_{setting}" for length in (5, 6) for setting in ("width_2", "ema_0", "ema_0.5")}
    assert set(runs) == {"both", "long", *varied}
    assert experiments.command(runs["other_6_ema_0"], {"length": 4}) == (
        "python -m lib.one_layer.training --length 6 --seeds 0 1 --steps 8 --ema 0")
    switched = runs["both"] | {"fixed": {"mlp": False, "norm": True}}
    assert experiments.command(switched, {"length": 4}) == "python -m lib.one_layer.training --length 4 --no-mlp --norm"


def test_recorded_results_of_other_profiles_count_as_a_source(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "entries", lambda: yaml.safe_load(EXPERIMENTS))
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    shelf = tmp_path / "results" / "shelf"
    shelf.mkdir(parents=True)
    before = experiments.recorded("one", "quick")
    (shelf / "quick_a.json").write_text("1")
    assert experiments.recorded("one", "quick") == before
    (shelf / "full_a.json").write_text("1")
    assert experiments.recorded("one", "quick") not in (before, experiments.recorded("one", "full"))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("width: [2]", "width: 32", "settings: width: expected a list of one or more values, such as .*, not 32"),
    ("width: [2]", "width: []", "settings: width: expected a list of one or more values"),
    ("5: {steps: 7}", "5: 7", "at: 5: expected names with what belongs to them, not 7"),
    ("5: {steps: 7}", "five: {steps: 7}", "at: expected lengths of at least 1, such as 10, not 'five'"),
    ("5: {steps: 7}", "0: {steps: 7}", "at: expected lengths of at least 1, such as 10, not 0"),
    ("of: {seeds: [0, 1]}", "of: [0, 1]", "field 'of' is missing or no mapping")])
def test_what_is_varied_is_refused_by_chapter_and_field(monkeypatch, old, new, message):
    text = EXPERIMENTS.replace("one:", "one_layer:").replace("lib.other", "lib.one_layer.experiment").replace(
        "reads: [shelf]", "reads: [one_layer]")
    monkeypatch.setattr(experiments, "read_yaml", lambda path: yaml.safe_load(text))
    read = experiments.entries.__wrapped__  # without what it remembers
    assert read() == yaml.safe_load(text)
    broken = yaml.safe_load(text.replace(old, new))
    monkeypatch.setattr(experiments, "read_yaml", lambda path: broken)
    with pytest.raises(Refused, match=rf"experiments\.yml: one_layer: varied: other: {message}"):
        read()


#: names that a folder of results/ may have
FOLDERS = {*experiments.entries(), *(path.name for path in provenance.RECORDED.iterdir() if path.is_dir())}


def test_a_chapter_declares_the_recorded_results_that_it_reads():
    """By its code: else a chapter is not executed again when such a result changes."""
    found = {name: results_read.folders_read(results_read.code_of(name), FOLDERS) for name in chapters.chapters()}
    declared = {name: set((experiments.entries().get(name) or {}).get("reads", [name])) for name in found}
    undeclared = {name: read - declared[name] for name, read in found.items() if read - declared[name]}
    assert not undeclared, "`reads` in book/experiments.yml lacks them"
    entries = experiments.entries()
    unread = {name: declared[name] - found[name] for name, entry in entries.items() if "reads" in entry}
    assert not any(unread.values()), "`reads` in book/experiments.yml has them, and nothing reads them"
    assert all(entry["reads"] != [name] for name, entry in entries.items() if "reads" in entry), "that is the default"


def test_a_chapter_declares_what_the_checks_of_the_recorded_ledger_read():
    rows = provenance.read_json(provenance.RECORDED / "ledger.json")["rows"]
    read = {(check["chapter"], run["file"].split("/")[1]) for row in rows for check in row["checks"]
            for run in check.get("runs", ())}
    assert len(read) > 10
    assert not {(chapter, folder) for chapter, folder in read
                if folder not in (experiments.entries().get(chapter) or {}).get("reads", [chapter])}


@pytest.mark.parametrize(("code", "found"), [
    ("from lib.record import provenance as p\nx = list(p.results('scale', p.RECORDED))", {"scale"}),
    ("from lib.record import provenance\nx = provenance.load(provenance.RECORDED / 'beyond' / 'a.json')", {"beyond"}),
    ("from lib.language_models import competition\ncompetition.recorded_layer(1)", {"beyond"}),
    ("from lib.language_models.miniature_results import RecordedCells as C\nC()", {"miniature"}),
    ("from lib.language_models.miniature_results import RecordedCells as C\nC(again=True)",
     {"miniature", "miniature_again"}),
    ("from lib.language_models import miniature_signatures\nminiature_signatures.MeasuredMiniatures()", {"pretrained"}),
    ("from lib.stores.edit_results import RecordedEdits\nRecordedEdits(1)", {"one_store"}),
    ("from lib.one_layer import intervention_runs as r\nr.sources({}, 'quick', [0])", {"beyond", "one_layer"}),
    ("from lib.one_layer import recipes\nprint('the chapter recipes')", set())])
def test_what_code_reads_is_found_and_nothing_else(code, found):
    assert results_read.folders_read(code, FOLDERS) == found


def test_real_chapters_have_parameters_that_can_be_read():
    for chapter in chapters.chapters():
        assert chapters.parameters(chapter, "full", {}).keys() == chapters.defaults(chapter).keys()


def test_every_run_has_settings_that_its_command_takes():
    """The book's own `book/experiments.yml`: a misspelt setting is found here, not when its run starts."""
    asked = {}
    for chapter in chapters.chapters():
        for name, run in experiments.experiments(chapter, "full").items():
            for setting in (*run["from"], *run["fixed"]):
                asked.setdefault(run["module"], {})["--" + setting.replace("_", "-")] = f"{chapter}: {name}"
    for module, options in asked.items():
        shown = subprocess.run([sys.executable, "-m", module, "--help"], cwd=chapters.ROOT, capture_output=True,
                               text=True, check=True).stdout
        assert not {option: run for option, run in options.items() if option not in shown}, module
