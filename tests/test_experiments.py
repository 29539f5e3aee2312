"""The runs that chapters ask for: their commands, and the results that count as a chapter's sources."""

import subprocess
import sys

import yaml

from pipeline import chapters, experiments

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
