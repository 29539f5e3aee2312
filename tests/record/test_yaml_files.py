"""YAML that people write: a key that stands twice is refused, also where keys are merged in; mistakes are named."""

import pytest

from lib.record import yaml_files


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "a.yml"

    def written(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return yaml_files.read_yaml(path)

    return written


def test_merged_keys_give_way_to_nearer_ones(read):
    text = "base: &base {x: 1, y: 2}\nmore: &more {<<: *base, y: 3}\nlast: {<<: [*more, *base], z: 4}\nagain: *more\n"
    found = read(text)
    assert found["more"] == {"x": 1, "y": 3} == found["again"]
    assert found["last"] == {"x": 1, "y": 3, "z": 4}
    assert read("1: a\n'1': b\n") == {1: "a", "1": "b"} and read("") is None


@pytest.mark.parametrize(("content", "message"), [
    ("a: 1\nb: 2\na: 3\n", r"a\.yml, line 3: key 'a' stands twice$"),
    ("- {b: 1,\n   b: 2}\n", r"a\.yml, line 2: key 'b' stands twice$"),
    ("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}\n", r"a\.yml, line 2: key 'b' stands twice$"),
    ("a: [1\n", r"a\.yml, line \d: "), (b"a: \xff", r"a\.yml: cannot be read: .*utf-8"),
    ("a: !!python/name:os.system\n", r"a\.yml, line 1: could not determine a constructor"),
    ("[1, 2]: a\n", r"a\.yml, line 1: found unhashable key")])
def test_a_broken_file_is_refused_by_name_and_line(read, content, message):
    with pytest.raises(yaml_files.NotYaml, match=message):
        read(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(yaml_files.NotYaml, match=r"none\.yml: cannot be read: No such file"):
        yaml_files.read_yaml(tmp_path / "none.yml")
