"""The mutation test: what is mutated, which mutants are drawn, how one is run, and what is recorded and shown."""

import collections
import os
import re
import subprocess
import sys
import textwrap
import time

import pytest

from lib.record import provenance, survivors
from pipeline import mutant_runs, mutants

SOURCE = textwrap.dedent('''
    """Words with 2 numbers."""

    LIMIT = 3


    def half(value: int | None = 4) -> "float | int":
        """Not 5."""
        return value / 2


    class Box:
        def full(self, items):
            return len(items) >= LIMIT and not self.broken
''')


def lines_changed(source=SOURCE):
    return {(mutant.function, *mutants.changed(source, mutants.mutated(source, mutant.operator, mutant.occurrence)))
            for mutant in mutants.mutants_of("half", source)}


def test_numbers_operators_and_conditions_are_mutated_and_annotations_are_not():
    changes = lines_changed()
    assert ("<module>", "LIMIT = 3", "LIMIT = 4") in changes
    assert ("half", "return value / 2", "return value * 2") in changes
    full = "return len(items) >= LIMIT and not self.broken"
    others = (full.replace(*change) for change in ((">=", ">"), ("and", "or"), ("not ", " ")))
    assert {("Box.full", full, other) for other in others} <= changes
    defaults = {after for function, before, after in changes if before.startswith("def half")}
    assert defaults == {SOURCE.split("\n")[6].replace("4", other) for other in "53"}
    assert not any('"""' in before for _, before, _ in changes)


def test_a_mutant_keeps_its_identity_where_other_lines_change():
    before = {mutant.identity: mutant for mutant in mutants.mutants_of("half", SOURCE)}
    moved = SOURCE.replace("LIMIT = 3", "import math\n\nLIMIT = math.floor(3)")
    after = {mutant.identity: mutant for mutant in mutants.mutants_of("half", moved)}
    assert len(before) == sum(1 for _ in mutants.mutants_of("half", SOURCE)), "identities are different"
    gone = {before[identity].function for identity in set(before) - set(after)}
    assert gone == {"<module>"}
    assert all(after[identity].line == before[identity].line + 2 for identity in set(before) & set(after))


def test_the_sample_is_spread_in_proportion_and_is_the_same_for_the_same_seed():
    found = [mutants.Mutant(module, "", number, "", 0, f"{module}{number}")
             for module, size in (("a", 100), ("b", 50), ("c", 1)) for number in range(size)]
    drawn = mutants.sample(found, 30, 0)
    assert collections.Counter(mutant.module for mutant in drawn) == {"a": 20, "b": 10}
    assert drawn == mutants.sample(list(reversed(found)), 30, 0) != mutants.sample(found, 30, 1)
    fewer = mutants.sample([mutant for mutant in found if mutant != drawn[0]], 30, 0)
    assert set(drawn) - set(fewer) == {drawn[0]}
    assert len(mutants.sample(found, 1000, 0)) == len(found)


def test_what_runs_too_long_is_ended_and_what_returns_comes_back():
    def busy():
        mutant_runs.limit(0.1)
        while True:
            pass

    started = time.process_time()
    assert mutant_runs.in_child(busy) is None
    assert mutant_runs.in_child(lambda: {"failed": "a" * 100_000})["failed"] == "a" * 100_000
    assert time.process_time() - started < 5


#: a suite of one small test file runs mutants of lib.theory.validation
SCRIPT = """
import pathlib, sys
from pipeline import mutant_runs, mutants

folder = pathlib.Path(sys.argv[1])
mutant_runs.TESTS, mutant_runs.CHECKS, mutant_runs.KEPT = folder, folder / "chapter_checks.py", folder / "kept.jsonl"
mutant_runs.SLACK, mutant_runs.SLOWEST = 1, 20
source = mutants.source_of("validation")
marker = "def strictly_between("
assert marker in source
broken = {"as it is": source, "another message": source.replace("must", "should"),
          "fails at once": source.replace(marker, "raise ValueError\\n\\n" + marker),
          "ends never": source + "\\nwhile True: pass\\n"}
for _ in range(2):
    suite = mutant_runs.Suite()
    for name, text in broken.items():
        outcome = suite.outcome("lib.theory.validation", "strictly_between", text, name)
        print(name, outcome.fate, outcome.test.endswith("::test_refusal"), outcome.kept, sep="; ")
"""
TEST = """
from lib.theory import validation
from lib.theory.validation import strictly_between

import pytest


def test_refusal():
    with pytest.raises(ValueError, match="must"):
        strictly_between("share", 2, 0, 1)
"""


def test_mutants_are_run_in_memory_and_outcomes_are_kept(tmp_path):
    (tmp_path / "test_small.py").write_text(TEST)
    (tmp_path / "chapter_checks.py").write_text("")
    module = mutants.THEORY / "validation.py"
    before = module.stat().st_mtime_ns, module.read_bytes()
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=mutants.imports.ROOT, capture_output=True,
                          text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(mutants.imports.ROOT)})
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if ";" in line]
    outcomes = ["as it is; survived; False", "another message; killed; True", "fails at once; killed; False",
                "ends never; timeout; False"]
    assert said == [f"{each}; {kept}" for kept in (False, True) for each in outcomes]
    assert before == (module.stat().st_mtime_ns, module.read_bytes())


COUNTS = {"bounds": {"generated": 40, "killed": 17, "timeout": 1, "survived": 2},
          "flows": {"generated": 10, "killed": 5, "timeout": 0, "survived": 0}}


def test_the_score_counts_those_that_run_out_of_time_as_killed():
    assert survivors.score(survivors.totals(COUNTS)) == pytest.approx(100 * 23 / 25)
    assert survivors.lines(COUNTS)[-1].split() == ["all", "50", "25", "22", "1", "2", "92.0%"]
    with pytest.raises(ValueError, match="no mutant was run"):
        survivors.score(dict.fromkeys(survivors.FATES, 0))


def test_survivors_are_recorded_with_their_explanations_and_shown(tmp_path, monkeypatch):
    drawn = mutants.sample(list(mutants.mutants_of("validation", mutants.source_of("validation"))), 3, 0)
    fates = {mutant: mutant_runs.Outcome(fate, "", 1.0)
             for mutant, fate in zip(drawn, ("survived", "killed", "survived"), strict=True)}
    before, after = drawn[0].change
    explanations = tmp_path / "survivors.yml"
    mutant = [drawn[0].function, before, after]
    explanations.write_text(f"- module: validation\n  why: Both ways are $x < y$.\n  mutants: [{mutant!r}]\n")
    monkeypatch.setattr(mutants, "EXPLANATIONS", explanations)
    left = mutants.surviving(fates)
    assert [each["why"] for each in left] == ["Both ways are $x < y$.", ""]
    mutants.record(tmp_path / "theory.json", mutants.Options(), mutants.summary(drawn, fates), left,
                   provenance.Run(), before=2.0)
    kept = provenance.load(tmp_path / "theory.json")
    assert kept["metrics"]["survived"] == [2] and kept["curves"]["survivors"] == left
    shown = survivors.explanations(kept["curves"]["survivors"])
    assert r"\(x &lt; y\)" in shown and "not explained" in shown and shown.count("<details>") == 2
    assert "33.3 %" in survivors.survivors_section(kept["curves"]["modules"])


def test_a_second_pass_over_the_survivors_has_the_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(survivors.provenance, "RECORDED", tmp_path)
    with pytest.raises(FileNotFoundError):
        survivors.both_passes()
    again = {"bounds": {"generated": 40, "killed": 1, "timeout": 0, "survived": 1},
             "flows": {"generated": 10, "killed": 0, "timeout": 0, "survived": 0}}
    for path, counts in ((survivors.RECORDED_TEST, COUNTS), (survivors.SECOND_PASS, again)):
        mutants.record(tmp_path / path, mutants.Options(), counts, [], provenance.Run(), before=0.0)
        if path == survivors.RECORDED_TEST:
            assert survivors.both_passes()[0] == COUNTS
    counts, left = survivors.both_passes()
    assert counts == {"bounds": {"generated": 40, "killed": 18, "timeout": 1, "survived": 1}, "flows": COUNTS["flows"]}
    assert left == []
    (module, *mutant), why = next(iter(survivors.reasons().items()))
    known = dict(zip(("module", "function", "before", "after"), (module, *mutant), strict=True)) | {"why": ""}
    assert [each["why"] for each in survivors.explained([known, known | {"after": "?"}])] == [why, ""]


def test_a_run_fails_for_a_survivor_that_nobody_explained(monkeypatch, capsys):
    survived = mutant_runs.Outcome("survived", "", 1.0)
    monkeypatch.setattr(mutants, "run", lambda drawn: dict.fromkeys(drawn, survived))
    monkeypatch.setattr(survivors, "reasons", lambda path: {})
    with pytest.raises(SystemExit, match=r"2 survivors are not explained in book/survivors\.yml"):
        mutants.main(["--only", "validation", "--sample", "2"])
    assert re.search(r"^validation +\d+ +2 +0 +0 +2 +0\.0%$", capsys.readouterr().out, re.MULTILINE)


def test_modules_that_do_not_exist_are_refused(capsys):
    with pytest.raises(SystemExit):
        mutants.main(["--only", "figures"])
    assert "there is no module 'figures' to mutate" in capsys.readouterr().err
