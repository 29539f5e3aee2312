"""Checkpoints: read back exactly, refused by name when cut, altered or another run's, and never touched then."""

from pathlib import Path

import pytest
import torch

from lib.record import training_state

IDENTITY = {"width": 64, "encoding": "rope", "seeds": [0, 1]}


@pytest.fixture
def path(tmp_path):
    tensors = {"weights": torch.randn(2, 5), "average": torch.arange(4.0)}
    training_state.save(tmp_path / "run.checkpoint", tensors, IDENTITY, {"step": 3, "curves": {"steps": [0]}})
    return tmp_path / "run.checkpoint"


def test_what_was_saved_comes_back(tmp_path):
    tensors = {"weights": torch.randn(2, 5), "average": torch.tensor([1e-40, float("inf"), -0.0])}
    training_state.save(tmp_path / "deep" / "one", tensors, IDENTITY, {"step": 3})
    found, progress = training_state.load(tmp_path / "deep" / "one", IDENTITY)
    assert progress == {"step": 3} and set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["one"]


def test_a_later_checkpoint_replaces_the_earlier(path):
    training_state.save(path, {"weights": torch.ones(1)}, IDENTITY, {"step": 4})
    assert training_state.load(path, IDENTITY)[1] == {"step": 4}


def test_another_runs_checkpoint_is_refused_by_what_differs(path):
    before = path.read_bytes()
    other = {**IDENTITY, "width": 32, "depth": 2}
    told = r"checkpoint of another run \(depth None there, 2 here; width 64"
    with pytest.raises(training_state.CheckpointError, match=told):
        training_state.load(path, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_checkpoint_is_refused_and_left(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(training_state.CheckpointError, match=f"{path.name}: not a whole checkpoint"):
        training_state.load(path, IDENTITY)
    assert len(path.read_bytes()) == int(share * len(whole))


def test_every_altered_byte_of_the_content_is_noticed(path):
    whole = path.read_bytes()
    for place in range(8, len(whole), 7):  # the first eight bytes are the header's length
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises((training_state.CheckpointError, ValueError)):
            training_state.load(path, IDENTITY)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(training_state.CheckpointError, match="absent"):
        training_state.load(tmp_path / "absent", IDENTITY)


def test_a_path_in_the_identity_is_compared_as_text(tmp_path):
    training_state.save(tmp_path / "one", {}, {"folder": Path("a")}, {})
    training_state.load(tmp_path / "one", {"folder": "a"})
    with pytest.raises(training_state.CheckpointError, match="folder 'a' there, 'b' here"):
        training_state.load(tmp_path / "one", {"folder": Path("b")})


# Of a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(training_state.time, "monotonic", lambda: now[0])
    return now


def test_a_checkpoint_is_due_now_and_then(tmp_path, clock):
    run = training_state.Checkpoint(tmp_path / "one", IDENTITY)
    clock[0] += training_state.SECONDS
    assert not run.due()
    clock[0] += 1
    assert run.due()
    run.save({}, {})
    assert not run.due()


def test_the_seconds_of_every_part_of_a_run_add_up(tmp_path, clock):
    for spent in (5.0, 7.0, 11.0):
        run = training_state.Checkpoint(tmp_path / "one", IDENTITY)
        run.load()
        clock[0] += spent
        run.save({"a": torch.ones(1)}, {"step": 3})
    tensors, progress = run.load() or ({}, {})
    assert run.seconds == 23.0 and progress == {"step": 3} and torch.equal(tensors["a"], torch.ones(1))


def test_what_is_kept_along_the_way_belongs_to_a_checkpoint_but_not_to_the_identity(tmp_path):
    run = training_state.Checkpoint(tmp_path / "one", IDENTITY, {"points": 4})
    run.save({}, {})
    assert run.identity == IDENTITY and run.load() is not None
    with pytest.raises(training_state.CheckpointError, match="points 4 there, 5 here"):
        training_state.Checkpoint(tmp_path / "one", IDENTITY, {"points": 5}).load()


def test_a_run_that_is_done_has_no_checkpoint(tmp_path):
    run = training_state.Checkpoint(tmp_path / "one", IDENTITY)
    assert run.load() is None
    run.remove()
    run.save({}, {})
    run.remove()
    assert [*tmp_path.iterdir()] == []


def test_without_a_path_nothing_is_kept(clock):
    run = training_state.Checkpoint(None, IDENTITY)
    run.save({"a": torch.ones(1)}, {})
    clock[0] += 1e6
    assert run.load() is None and not run.due()
    run.remove()


@pytest.mark.parametrize("target", ["file", "folder"])
def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path, target):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    path = tmp_path / "file" / "one" if target == "file" else tmp_path / "folder"
    with pytest.raises(OSError, match=str(tmp_path / target)):
        training_state.save(path, {"a": torch.ones(1)}, IDENTITY, {})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
