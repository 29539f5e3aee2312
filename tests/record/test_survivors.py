"""The reasons why mutants survive: a broken file of them, or of the second pass, is refused by name."""

import pytest

from lib.record import provenance, survivors

SOUND = "- module: flows\n  why: Both ways.\n  mutants:\n    - [f, x < y, x <= y]\n    - [g, a, b]\n"


def test_the_reason_of_each_mutant(tmp_path):
    path = tmp_path / "survivors.yml"
    path.write_text(SOUND)
    assert survivors.reasons(path) == {("flows", "f", "x < y", "x <= y"): "Both ways.",
                                       ("flows", "g", "a", "b"): "Both ways."}
    path.write_text("# none\n")
    assert survivors.reasons(path) == {}


@pytest.mark.parametrize(("old", "new", "message"), [
    ("module: flows", "modul: flows", "entry 1: field 'module' is missing"),
    ("  why: Both ways.\n", "", "entry 1: field 'why' is missing"),
    ("Both ways.", "''", "entry 1: field 'why' must be a str that is not empty"),
    ("mutants:", "mutants: none\n  rest:", "entry 1: (unknown field 'rest'|field 'mutants' must be a list)"),
    ("[g, a, b]", "[g, a]", r"entry 1 \(flows\): mutants: expected a list of function, line before, line after, not"),
    ("[g, a, b]", "[g, a, 3]", r"entry 1 \(flows\): mutants: expected a list of function"),
    ("  why", "  module: again\n  why", "line 2: key 'module' stands twice"),
    (SOUND, "flows: no\n", "a list is expected, each entry with module, why, mutants, not")])
def test_a_broken_file_of_reasons_is_refused_by_entry_and_field(tmp_path, old, new, message):
    path = tmp_path / "survivors.yml"
    path.write_text(SOUND.replace(old, new))
    with pytest.raises(ValueError, match=rf"survivors\.yml.*{message}"):
        survivors.reasons(path)


def test_a_second_pass_over_other_modules_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "RECORDED", tmp_path)
    counts = dict.fromkeys(("generated", *survivors.FATES), 1)
    for path, module in ((survivors.RECORDED_TEST, "flows"), (survivors.SECOND_PASS, "bounds")):
        provenance.save(tmp_path / path, experiment="mutants", parameters={}, seeds=[0], metrics={},
                        curves={"modules": {module: counts}, "survivors": []}, run=provenance.Run())
    with pytest.raises(ValueError, match=r"survivors\.json: module 'bounds' is not in mutants/theory\.json.*flows"):
        survivors.both_passes()
