"""The paper's datasets: fetched from a local server, read from files that are whole, cut or not what they should be."""

import functools
import hashlib
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

from lib.language_models import facts, published_facts
from lib.language_models.facts import Fact

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


# Fetching ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A local web server with one pinned file; yields its folder and the pin."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "P36.jsonl").write_text('{"sub_label": "Peru", "obj_label": "Lima"}\n')
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_address[1]}/P36.jsonl"
        yield folder, address, hashlib.sha256((folder / "P36.jsonl").read_bytes()).hexdigest()
        running.shutdown()


def test_fetching_checks_caches_and_never_asks_twice(server, tmp_path, monkeypatch):
    folder, address, checksum = server
    monkeypatch.setitem(published_facts.PUBLISHED_FILES, "P36.jsonl", (address, checksum))
    monkeypatch.setenv("REVERSAL_CURSE_CACHE", str(tmp_path / "cache"))
    assert published_facts.load("trex").facts == (Fact("Peru", "Lima"),)
    (folder / "P36.jsonl").unlink()
    assert published_facts.fetch("P36.jsonl") == tmp_path / "cache" / "P36.jsonl"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["P36.jsonl"]


def test_another_file_is_refused_and_not_kept(server, tmp_path, monkeypatch):
    _, address, _ = server
    monkeypatch.setitem(published_facts.PUBLISHED_FILES, "P36.jsonl", (address, "0" * 64))
    with pytest.raises(ValueError, match=r"P36\.jsonl: http.* has SHA-256 \w{64}, but the pinned file has 000.*again"):
        published_facts.fetch("P36.jsonl", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "cache" / "P36.jsonl").write_text("cut")
    with pytest.raises(ValueError, match="but the pinned file has 000"):
        published_facts.fetch("P36.jsonl", tmp_path / "cache")


def test_a_damaged_copy_is_fetched_again_and_refused_without_a_network(server, tmp_path, monkeypatch):
    folder, address, checksum = server
    monkeypatch.setitem(published_facts.PUBLISHED_FILES, "P36.jsonl", (address, checksum))
    (tmp_path / "P36.jsonl").write_text("cut")
    assert published_facts.load("trex", tmp_path).facts == (Fact("Peru", "Lima"),)
    (tmp_path / "P36.jsonl").write_text("cut")
    (folder / "P36.jsonl").unlink()
    with pytest.raises(ConnectionError, match=r"404 .*; fetch it by hand and put it at .*P36\.jsonl$"):
        published_facts.load("trex", tmp_path)


@pytest.mark.parametrize("cache", ["file", "file/below"])
def test_a_cache_that_cannot_be_written_to_is_named(server, tmp_path, monkeypatch, cache):
    _, address, checksum = server
    monkeypatch.setitem(published_facts.PUBLISHED_FILES, "P36.jsonl", (address, checksum))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"P36\.jsonl: cannot be written \(.*\); set REVERSAL_CURSE_CACHE to a folder"):
        published_facts.fetch("P36.jsonl", tmp_path / cache)


@pytest.mark.skipif(os.geteuid() == 0, reason="to the superuser every folder can be written")
def test_a_read_only_cache_is_named(server, tmp_path, monkeypatch):
    _, address, checksum = server
    monkeypatch.setitem(published_facts.PUBLISHED_FILES, "P36.jsonl", (address, checksum))
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="set REVERSAL_CURSE_CACHE"):
        published_facts.fetch("P36.jsonl", tmp_path)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("a.csv", b"", "no rows"), ("a.csv", b"child,parent\n", "no rows"),
    ("a.csv", b"child,mother\nBob,Ana\n", "line 2: no text in column 'parent'"),
    ("a.csv", b"child,parent\nBob,Ana\nEva", "line 3: no text in column 'parent'"),
    ("a.csv", b"child,parent\nBob,Ana\n  ,Eva\n", "line 3: no text in column 'child'"),
    ("a.csv", b'child,parent\nBob,"Ana\n', "line 2: not CSV"),
    ("a.csv", b"child,parent\nBob,An\xe9\n", "line 2: not UTF-8"),
    ("a.jsonl", b"\n\n", "no rows"), ("a.jsonl", b'{"child": "Bob", "parent": "Ana"}\n{"child', "line 2: not JSON"),
    ("a.jsonl", b'{"child": "Bob", "parent": 3}\n', "line 1: no text in column 'parent'"),
    ("a.jsonl", b'[]\n', "line 1: no text in column 'child'")])
def test_damaged_rows_are_refused_by_file_and_line(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}[:,] {message}.*; fetch the file again"):
        published_facts._rows(tmp_path / file, "child", "parent")


def test_both_tests_of_a_person_have_as_many_rows(tmp_path):
    row = '{"prompt": "Ana is", "completion": " a poet."}\n'
    paths = [tmp_path / name for name in ("train.jsonl", "test.jsonl", "reverse.jsonl")]
    for path, count in zip(paths, (1, 2, 1), strict=True):
        path.write_text(row * count)
    with pytest.raises(ValueError, match=r"test\.jsonl: 2 rows, but reverse\.jsonl has 1"):
        published_facts._person_description("p2d", *paths)


def test_without_a_network_the_error_says_where_a_copy_goes(tmp_path, monkeypatch):
    monkeypatch.setitem(published_facts.PUBLISHED_FILES, "P36.jsonl", ("http://127.0.0.1:9/P36.jsonl", "0" * 64))
    with pytest.raises(ConnectionError, match=r"put it at .*P36\.jsonl"):
        published_facts.fetch("P36.jsonl", tmp_path)
    with pytest.raises(KeyError, match="no published file 'x'"):
        published_facts.fetch("x", tmp_path)
    with pytest.raises(ValueError, match="no dataset 'x'"):
        published_facts.load("x", tmp_path)


def test_addresses_are_pinned_to_commits():
    for address, checksum in published_facts.PUBLISHED_FILES.values():
        assert any(len(part) == 40 and set(part) <= set("0123456789abcdef") for part in address.split("/"))
        assert len(checksum) == 64


def test_rows_of_parent_child_are_merged_and_turned(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("child,parent\nBob,Ana\nBob,Ana\nBob,Eva\n")
    data = published_facts._parent_child("p2c", path)
    assert data.facts == (Fact("Ana", "Bob"), Fact("Eva", "Bob"))
    assert data.reverse[0].answers == {"Ana", "Eva"}  # either parent
    assert published_facts._parent_child("c2p", path).facts == (Fact("Bob", "Ana"), Fact("Bob", "Eva"))


def test_only_one_to_one_capitals_with_a_name_of_their_own_are_kept(tmp_path):
    rows = [("France", "Paris"), ("Monaco", "Monaco"), ("A", "X"), ("A", "Y"), ("B", "Z"), ("C", "Z")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"sub_label": "{left}", "obj_label": "{right}"}}\n' for left, right in rows))
    assert published_facts._one_to_one(path) == [Fact("France", "Paris")]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the published files, which are not distributed")
def test_published_files_have_the_published_shapes(tmp_path):
    for path in PUBLISHED.rglob("*.*"):
        shutil.copy(path, tmp_path / path.name)
    found = {name: published_facts.load(name, tmp_path) for name in facts.DATASETS}
    assert len(found["p2c"].facts) == len(found["c2p"].facts) == 1513 - 18
    for name in ("p2d", "d2p"):
        assert [len(part) for part in (found[name].facts, found[name].train, found[name].forward, found[name].reverse)
                ] == [30, 900, 300, 300]
    capitals = found["trex"].facts
    assert len({fact.left for fact in capitals}) == len({fact.right for fact in capitals}) == len(capitals) > 100
    assert Fact("Indiana", "Indianapolis") in capitals
    assert {name: data.scoring for name, data in found.items()} == {
        "p2c": "exact", "c2p": "exact", "p2d": "prefix", "d2p": "prefix", "trex": "exact"}
    names = {answer for example in found["d2p"].forward for answer in example.answers}
    completed = [[facts.is_right(asked, example.completion) for asked in found["d2p"].forward[::10]]
                 for example in found["d2p"].train]
    assert all(map(any, completed)) and len(names) == 30  # what was trained on is a right answer to some prompt
