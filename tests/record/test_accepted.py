"""What options accept: bounds, words, seeds, files, folders and devices; the rest is refused by name."""

import types

import pytest
import torch

from lib.record import accepted


def test_seeds_are_checked_where_they_do_not_come_from_a_command():
    accepted.check_seeds([0, 2**63 - 1])
    for seeds in ([], [1, 1], [-1], [2**63]):
        with pytest.raises(ValueError, match="seeds must be different integers"):
            accepted.check_seeds(seeds)


@pytest.mark.parametrize("value, interval, inside", [
    (0.0, "[0, 1)", True), (1.0, "[0, 1)", False), (1.0, "[0, 1]", True), (0.0, "(0, 1]", False), (0.5, "(0, 1)", True),
    (float("nan"), "[0, inf]", False), (float("inf"), "(0, inf)", False), (float("inf"), "(0, inf]", True),
    (-1e-9, "[0, inf)", False),
])
def test_an_interval_includes_the_ends_of_its_brackets(value, interval, inside):
    given = types.SimpleNamespace(share=value)
    if inside:
        accepted.within(given, share=interval)
    else:
        with pytest.raises(ValueError, match="share must lie in"):
            accepted.within(given, share=interval)


def test_a_word_that_is_not_known_is_refused_with_the_nearest():
    accepted.one_of(types.SimpleNamespace(masking="any"), masking=("any", "response"))
    with pytest.raises(ValueError, match="masking must be one of any, response, not 'respons'; did you mean response"):
        accepted.one_of(types.SimpleNamespace(masking="respons"), masking=("any", "response"))


def test_a_result_is_a_json_file_and_no_folder_or_link(tmp_path):
    assert accepted.json_file("--out", tmp_path / "a.json") == tmp_path / "a.json"
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    for name, told in (("a.txt", "ends in .json"), ("folder.json", "is a folder"), ("link.json", "is a link to")):
        with pytest.raises(ValueError, match=f"--out .*{name}.*{told}"):
            accepted.json_file("--out", tmp_path / name)


def test_a_folder_is_tried_before_it_is_needed(tmp_path):
    assert accepted.writable("--out", tmp_path) == []
    assert accepted.writable("--out", tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert [*tmp_path.iterdir()] == [tmp_path / "a"] and [*(tmp_path / "a" / "b").iterdir()] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--work: .*file cannot be written to \("):
        accepted.writable("--work", tmp_path / "file")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps:0", "", "meta", "cuda:99"])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="--device"):
        accepted.device_named(name)
    assert accepted.device_named("cpu") == torch.device("cpu")
