"""Recorded results: written whole, read back unchanged, refused by name when they are not."""

import ast
import json
import os
import platform
import re
import subprocess
import sys

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


# Edited and damaged files ----------------------------------------------------------------------------------------


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_edited_provenance_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for name, value in (("device", "a GPU"), ("seconds", 1), ("commit", "abc"), ("registered", {"c": "00"})):
        record(path)
        edited(path, lambda content, name=name, value=value: content["provenance"].update({name: value}))
        with pytest.raises(ValueError, match=r"a\.json: provenance does not match its digest"):
            provenance.load(path)


def test_no_flipped_bit_of_a_result_goes_unnoticed(tmp_path):
    path = tmp_path / "a.json"
    record(path, curves={"é": [0.5, None, "x"]})
    whole, content = path.read_bytes(), json.loads(path.read_text())
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        try:
            assert provenance.load(path) == content  # such as a digit past a number's precision
        except ValueError as error:
            assert str(error).startswith(str(path))


@pytest.mark.parametrize("whole", [b"5", b"null", b'"text"', b"[]", b"\xff\xfe", b"", b"[" * 100_000, b"9" * 10_000,
                                   b'{"experiment": 1}', b'{"a":'])
def test_what_is_no_result_is_refused_by_name(tmp_path, whole):
    path = tmp_path / "a.json"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"a\.json"):
        provenance.load(path)


def test_a_folder_is_no_result(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        provenance.load(tmp_path)


@pytest.mark.parametrize("change", [lambda origin: origin.pop("device"), lambda origin: origin.update(eigest="0")])
def test_a_provenance_with_other_fields_is_refused(tmp_path, change):
    path = tmp_path / "a.json"
    record(path)
    edited(path, lambda content: (aged(content), change(content["provenance"])))
    with pytest.raises(ValueError, match=r"a\.json: provenance field '(device|eigest)' is missing or unknown"):
        provenance.load(path)


def test_provenance_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.json"
    record(path)
    edited(path, lambda content: content.update(provenance=[]))
    with pytest.raises(ValueError, match="does not match its checksum"):
        provenance.load(path)


# The manifest ----------------------------------------------------------------------------------------------------


def aged(content):
    """Take out what older results do not say of their run."""
    for name in ("digest", "processor"):
        content["provenance"].pop(name)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A folder of results, one of them older than the digest, with their manifest."""
    monkeypatch.setattr(provenance, "RECORDED", tmp_path)
    for name in ("new", "old"):
        record(tmp_path / "e" / f"{name}.json")
    edited(tmp_path / "e" / "old.json", aged)
    (tmp_path / "ledger.json").write_text("{}")
    assert provenance.write_manifest(tmp_path) == tmp_path / "MANIFEST.json"
    return tmp_path


def test_the_manifest_lists_every_recorded_file(recorded, capsys):
    assert [*provenance.recorded_files(recorded)] == ["e/new.json", "e/old.json", "ledger.json"]
    (recorded / "e" / ".new.json.checkpoint").write_text("")
    provenance.main(provenance.ManifestOptions())
    assert "3 recorded files are as" in capsys.readouterr().out


def test_an_old_result_is_held_against_the_manifest(recorded):
    path = recorded / "e" / "old.json"
    assert provenance.load(path)["seeds"] == [0, 1]
    edited(path, lambda content: content["provenance"].update(device="a GPU"))
    with pytest.raises(ValueError, match=r"old\.json: differs from MANIFEST\.json"):
        provenance.load(path)
    with pytest.raises(SystemExit, match=r"e/old\.json"):
        provenance.main(provenance.ManifestOptions())
    provenance.main(provenance.ManifestOptions(manifest=True))
    assert provenance.load(path)["provenance"]["device"] == "a GPU"


def test_a_file_that_is_no_result_is_held_against_the_manifest(recorded):
    path = recorded / "ledger.json"
    assert provenance.read_json(path) == {}
    path.write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"ledger\.json: differs from MANIFEST"):
        provenance.read_json(path)


def test_a_new_result_needs_no_manifest(recorded):
    record(recorded / "e" / "new.json", seeds=[5])
    record(recorded / "e" / "newer.json")
    assert provenance.load(recorded / "e" / "new.json")["seeds"] == [5]
    edited(recorded / "e" / "newer.json", aged)
    assert provenance.load(recorded / "e" / "newer.json")["seeds"] == [0, 1]
    assert provenance.check_manifest() == ["e/new.json", "e/newer.json"]


def test_a_damaged_manifest_is_named(recorded):
    (recorded / provenance.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"MANIFEST\.json: not a whole JSON file"):
        provenance.load(recorded / "e" / "old.json")


def test_the_manifest_of_the_repository_is_complete():
    assert provenance.check_manifest() == [], "`python -m lib.record.provenance --manifest` after recording"


# Writing ---------------------------------------------------------------------------------------------------------


def test_what_fails_leaves_no_draft_and_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    provenance.write_json(path, 1)
    with pytest.raises(KeyError), provenance.replacing(path) as draft:
        draft.write_text("2")
        raise KeyError
    with pytest.raises(TypeError):
        provenance.write_json(path, object())
    assert path.read_text() == "1\n" and [*tmp_path.iterdir()] == [path]


def test_a_folder_is_written_whole_too(tmp_path):
    with provenance.replacing(tmp_path / "deep" / "model") as draft:
        draft.mkdir()
        (draft / "weights").write_text("1")
        assert not (tmp_path / "deep" / "model").exists()
    assert [*(tmp_path / "deep").iterdir()] == [tmp_path / "deep" / "model"]


def test_a_draft_of_a_killed_process_goes_with_the_next_one(tmp_path):
    path = tmp_path / "a.json"
    kill = "import os, sys; from pathlib import Path; from lib.record import provenance\n" \
           "with provenance.replacing(Path(sys.argv[1])) as draft: draft.write_text('1'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", kill, str(path)], cwd=provenance.ROOT, check=False)
    ours = tmp_path / f".a.json.{platform.node()}.{os.getppid()}"  # of a process that lives
    ours.mkdir()
    assert len([*tmp_path.iterdir()]) == 2 and not path.exists()
    provenance.write_json(path, 1)
    assert {*tmp_path.iterdir()} == {path, ours}


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.json" / "a").write_text("")
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder.json"):
        with pytest.raises(OSError) as raised:
            provenance.write_json(path, 1)
        assert str(raised.value).endswith(f": '{path}'")


@pytest.mark.parametrize("value, place", [({"m": [1.0, float("nan")]}, r"m\[1\] nan"), (float("inf"), "inf"),
                                          ({"a": {"b": ({"c": float("-inf")},)}}, r"a\.b\[0\]\.c -inf")])
def test_a_number_that_is_none_is_named_by_its_place(tmp_path, value, place):
    with pytest.raises(ValueError, match=f"^{place} cannot be recorded in .*a.json"):
        provenance.write_json(tmp_path / "a.json", value)


# Commits ---------------------------------------------------------------------------------------------------------


def test_a_copy_within_another_checkout_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "a").write_text("")
    subprocess.run(["git", "-C", str(tmp_path), "add", "a"], check=True)
    commit = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "--allow-empty"]
    subprocess.run([*commit, "-m", "m"], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    found = provenance.commit()
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "absent"))  # as within a hook
    assert provenance.commit() == found not in ("", "unknown")
    inner = tmp_path / "copy"
    inner.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inner)
    assert provenance.commit() == "unknown"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance.commit() == "unknown"
    (inner / ".git").mkdir()
    assert provenance.commit() == "unknown"


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.commit() == "unknown"


def test_the_commit_is_that_of_the_start(tmp_path, monkeypatch):
    run = provenance.Run()
    monkeypatch.setattr(provenance, "commit", lambda: "later")
    assert run.provenance()["commit"] != "later"


# Text ------------------------------------------------------------------------------------------------------------

TEXT = {"read_text", "write_text", "open"}


def calls_without_encoding(source):
    """Lines that read or write text in whatever encoding the machine has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if getattr(getattr(node.func, "value", None), "id", "") == "Image":  # a picture is no text
                continue
            modes = [word.value for word in (*node.args, *(each.value for each in node.keywords))
                     if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            text = name in TEXT and not any(re.fullmatch("[rwxa]?b[+]?|[rwxa]b|rb[+]", mode) for mode in modes)
            if text and not any(each.arg == "encoding" for each in node.keywords):
                yield node.lineno


def test_every_text_file_is_read_and_written_as_utf8():
    found = [f"{file.relative_to(provenance.ROOT)}:{line}" for folder in ("lib", "pipeline", "benchmarks")
             for file in sorted((provenance.ROOT / folder).rglob("*.py"))
             for line in calls_without_encoding(file.read_text(encoding="utf-8"))]
    assert found == []
    source = "a.read_text()\nopen(b)\nopen(c, 'rb')\nd.write_text(e, encoding='utf-8')\nImage.open(f)\ng.open(h)"
    assert [*calls_without_encoding(source)] == [1, 2, 6]
