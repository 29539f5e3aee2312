"""Recorded results: written whole, read back unchanged, refused by name when they are not."""

import json
import subprocess

import pytest

from lib.record import provenance


def record(path, **changes):
    content = {"experiment": "e", "parameters": {"length": 10}, "seeds": [0, 1], "metrics": {"m": [1.0, 2.0]},
               "curves": {}, **changes}
    return provenance.save(path, run=provenance.Run(), **content)


def test_a_result_reads_back_with_its_provenance(tmp_path):
    path = tmp_path / "results" / "e" / "a.json"
    saved = record(path)
    assert provenance.load(path) == saved
    assert {"commit", "device", "versions", "seconds", "started", "checksum"} <= set(saved["provenance"])
    assert [path.name for path in path.parent.iterdir()] == ["a.json"]


def test_an_altered_result_is_refused(tmp_path):
    path = tmp_path / "a.json"
    record(path)
    content = json.loads(path.read_text())
    content["metrics"]["m"][0] = 99.0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.json: content does not match its checksum"):
        provenance.load(path)


def test_a_cut_or_partial_or_absent_result_is_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match="no such result"):
        provenance.load(path)
    record(path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="not a whole JSON file"):
        provenance.load(path)
    content = json.loads(text)
    del content["metrics"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="field 'metrics' is missing"):
        provenance.load(path)


def test_a_result_that_is_not_a_number_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    old = record(path)
    with pytest.raises(ValueError):
        record(path, metrics={"m": [float("nan")]})
    assert provenance.load(path) == old


def test_the_build_decides_where_results_are_read(tmp_path, monkeypatch):
    monkeypatch.delenv("RESULTS_DIR", raising=False)
    assert provenance.results_folder() == provenance.RECORDED
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    record(tmp_path / "e" / "a.json")
    assert [result["experiment"] for result in provenance.results("e")] == ["e"]


@pytest.mark.parametrize("field", ["experiment", "parameters", "seeds", "metrics", "curves"])
def test_every_altered_field_is_refused(field, tmp_path):
    path = tmp_path / "a.json"
    record(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: {"other": 1}}))
    with pytest.raises(ValueError, match="does not match its checksum"):
        provenance.load(path)


def test_a_changed_checkout_is_dirty(tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *words]
        subprocess.run(command, check=True, capture_output=True)

    (tmp_path / "a").write_text("1")
    for words in (("init",), ("add", "a"), ("commit", "-m", "m")):
        git(*words)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert not provenance.commit().endswith("-dirty")
    (tmp_path / "a").write_text("2")
    assert provenance.commit().endswith("-dirty")
