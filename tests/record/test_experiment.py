"""The life of a recorded run: refused before it starts, resumed after an interruption, whole at its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib.record import experiment, provenance, training_state

PARAMETERS = {"length": 10, "rates": (0.1, 0.2)}
WHOLE = {"experiment": "e", "seeds": (0, 1)}


def started(out, parameters=PARAMETERS, **changes):
    return experiment.recording({out: parameters}, **{**WHOLE, **changes})


def make(out, parameters=PARAMETERS, **changes):
    with started(out, parameters, **changes) as run:
        return run.save({"accuracy": [1.0, 2.0]}, {})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results" / "a.json"


def interrupted(out, step=3, **changes):
    """A run that saves a checkpoint and is then interrupted; the notes of what it raised."""
    with pytest.raises(KeyboardInterrupt) as raised, started(out, **changes) as run:
        run.checkpoint.save({"weights": torch.arange(3.0)}, {"step": step})
        raise KeyboardInterrupt
    return raised.value.__notes__


def test_a_result_holds_what_was_asked_for_and_what_was_found(out):
    with started(out, registered={"late-limit": "ab12"}) as run:
        saved = run.save({"accuracy": [1.0, 2.0]}, {"loss": [3.0]}, size=7)
    found = provenance.load(out)
    assert found == saved and found.path == out
    assert found["parameters"] == {"length": 10, "rates": [0.1, 0.2], "size": 7} and found["seeds"] == [0, 1]
    assert found["provenance"]["registered"] == {"late-limit": "ab12"} and found["experiment"] == "e"
    assert [file.name for file in out.parent.iterdir()] == ["a.json"]


def test_one_run_can_make_several_results(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    with experiment.recording({first: {"ema": 0}, second: {"ema": 1}}, **WHOLE) as run:
        run.save({"m": [1]}, {})
        run.save({"m": [2]}, {}, out=second)
        identity = run.checkpoint.identity
    assert provenance.load(second)["parameters"] == {"ema": 1} and provenance.load(first)["metrics"] == {"m": [1]}
    assert provenance.load(first)["provenance"]["together"] == 2
    assert identity["runs"] == [{"ema": 0, "out": "a.json"}, {"ema": 1, "out": "b.json"}]


# Refused before the work ---------------------------------------------------------------------------------------


def refused(path, told, parameters=PARAMETERS, **changes):
    with pytest.raises(ValueError, match=told), started(path, parameters, **changes):
        raise AssertionError("the work began")


def test_only_a_json_file_is_written(tmp_path):
    refused(tmp_path / "a.txt", "--out .*a.txt: a result is a JSON file")
    (tmp_path / "folder.json").mkdir()
    refused(tmp_path / "folder.json", "is a folder")
    (tmp_path / "link.json").symlink_to(tmp_path / "other.json")
    refused(tmp_path / "link.json", "is a link to .*other.json")
    assert (tmp_path / "link.json").is_symlink()


@pytest.mark.parametrize("content", ["", "5", "null", "{}", "[1]", "notes of mine", '{"metrics": 1}', "\x00\xff"])
def test_what_is_no_result_is_not_replaced(out, content):
    out.parent.mkdir()
    out.write_bytes(content.encode("latin-1"))
    refused(out, f"--out {re.escape(str(out))}.*choose another file")
    assert out.read_bytes() == content.encode("latin-1")


def test_a_result_of_another_run_is_not_replaced(out):
    make(out)
    before = out.read_bytes()
    refused(out, r"a\.json: holds a result with length=10, not 11", {**PARAMETERS, "length": 11})
    refused(out, r"holds a result with seeds=\[0, 1\], not \[0, 2\]", seeds=(0, 2))
    refused(out, "holds a result with experiment='e', not 'f'", experiment="f")
    refused(out, "holds a result with depth=None, not 2", {**PARAMETERS, "depth": 2})
    assert out.read_bytes() == before


def test_a_result_of_this_run_is_there_or_is_made_again(out):
    asked = {**WHOLE, "parameters": PARAMETERS}
    assert experiment.finished(out, **asked) is None
    first = make(out)
    assert experiment.finished(out, **asked) == first
    assert make(out)["metrics"] == first["metrics"]


def test_a_result_may_be_older_than_a_parameter(out):
    make(out)
    make(out, {**PARAMETERS, "depth": 1}, defaults={"depth": 1})
    refused(out, "depth=1, not 2", {**PARAMETERS, "depth": 2}, defaults={"depth": 1})


def test_what_cannot_be_recorded_is_refused_before_hours_of_work(out):
    refused(out, r"rates\[1\] inf cannot be recorded in .*a\.json", {"rates": [1.0, float("inf")]})
    assert not out.parent.exists()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "a.json", "--out: .*file cannot be written to")
    refused(tmp_path / "a.json", "--work: .*file cannot be written to", checkpoint=tmp_path / "file" / "checkpoint")
    refused(tmp_path / "a.json", "--keep: .*file cannot be written to", folders={"--keep": tmp_path / "file"})
    refused(tmp_path / "file" / "a.json", "--out: .*file cannot be written to", folders={"--out": tmp_path / "b"},
            checkpoint=tmp_path / "checkpoint")


# Interrupted -----------------------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_its_checkpoint_and_says_so(out):
    checkpoint = out.with_name(".a.json.checkpoint")
    assert interrupted(out) == [f"{checkpoint} is kept, and the same command goes on from it"]
    assert not out.exists()
    with started(out) as run:
        tensors, progress = run.checkpoint.load()
        assert torch.equal(tensors["weights"], torch.arange(3.0)) and progress == {"step": 3}
        run.save({"m": [1, 2]}, {})
    assert [file.name for file in out.parent.iterdir()] == ["a.json"]


def test_seconds_before_the_interruption_count(out, monkeypatch):
    with monkeypatch.context() as patch:
        clock = time.monotonic
        with pytest.raises(KeyboardInterrupt), started(out) as run:
            patch.setattr(time, "monotonic", lambda: clock() + 1000)
            run.checkpoint.save({"weights": torch.ones(1)}, {})
            raise KeyboardInterrupt
    with started(out) as run:
        run.checkpoint.load()
        assert 1000 <= run.save({}, {})["provenance"]["seconds"] < 1100


@pytest.mark.parametrize("change", [{"identity": {"points": 5}}, {"seeds": (0, 2)}, {"parameters": {"length": 11}}])
def test_a_checkpoint_of_other_options_is_refused(out, change):
    interrupted(out, identity={"points": 4, "snapshots": Path("x")})
    other = started(out, **{"identity": {"points": 4, "snapshots": Path("x")}, **change})
    with pytest.raises(training_state.CheckpointError, match="checkpoint of another run") as raised, other as run:
        run.checkpoint.load()
    assert not hasattr(raised.value, "__notes__") and out.with_name(".a.json.checkpoint").exists()
    with started(out, identity={"points": 4, "snapshots": Path("x")}) as run:
        assert run.checkpoint.load() is not None


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(out):
    with pytest.raises(KeyError) as raised, started(out):
        raise KeyError("a defect")
    assert not hasattr(raised.value, "__notes__")
    with pytest.raises(KeyboardInterrupt) as stopped, started(out):
        raise KeyboardInterrupt
    assert stopped.value.__notes__ == ["nothing is kept yet, and the same command begins anew"]
    assert not out.parent.exists()


def test_folders_that_stay_empty_go_with_a_run_that_fails(tmp_path):
    empty, filled = tmp_path / "a" / "b", tmp_path / "c" / "d"
    with pytest.raises(KeyError), started(tmp_path / "x.json", folders={"--one": empty, "--two": filled}):
        assert empty.is_dir()
        (filled / "weights").write_text("")
        raise KeyError("a defect")
    assert not (tmp_path / "a").exists() and (filled / "weights").exists()


def test_a_number_that_is_none_leaves_the_checkpoint(out):
    with pytest.raises(ValueError, match=r"metrics\.m\[1\] nan cannot be recorded"), started(out) as run:
        run.checkpoint.save({"weights": torch.ones(1)}, {"step": 9})
        run.save({"m": [1.0, float("nan")]}, {})
    assert [file.name for file in out.parent.iterdir()] == [".a.json.checkpoint"]


def test_another_process_leaves_the_checkpoint_to_the_first(out):
    interrupted(out)
    with started(out, writes=False):
        pass
    assert out.with_name(".a.json.checkpoint").exists()


# From the command line -------------------------------------------------------------------------------------------

TOOL = '''
"""A tool."""
import dataclasses, os, sys, time
from pathlib import Path
import torch
from lib.record import experiment, options

@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    steps: int = 5  # of work
    wait: bool = False  # for a signal
    out: Path  # the JSON file to write

def work(asked):
    with experiment.recording({asked.out: {"steps": asked.steps}}, experiment="tool", seeds=[0]) as run:
        state = run.checkpoint.load()
        total = float(state[0]["total"]) if state else 0.0
        for step in range(state[1]["step"] if state else 0, asked.steps):
            total += step
            run.checkpoint.save({"total": torch.tensor(total)}, {"step": step + 1})
            print(step, flush=True)
            if asked.wait and step == 2:
                time.sleep(60)
        run.save({"total": [total]}, {})

if __name__ == "__main__":
    options.command(Options, work)()
'''


@pytest.fixture
def tool(tmp_path):
    (tmp_path / "tool.py").write_text(TOOL)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{provenance.ROOT}"}

    def start(*words, **changes):
        return subprocess.Popen([sys.executable, "-m", "tool", *words], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, cwd=tmp_path, env={**environment, **changes})

    return start


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_command_goes_on_to_the_same_result(tool, tmp_path, number, status):
    stopped = tool("--out", "a b.json", "--wait")
    assert stopped.stdout is not None
    while stopped.stdout.readline() != "2\n":
        pass
    stopped.send_signal(number)
    _, told = stopped.communicate(timeout=30)
    assert stopped.returncode == status
    assert told == ("" if number == signal.SIGKILL else
                    "python -m tool: interrupted; .a b.json.checkpoint is kept, and the same command goes on from it: "
                    "python -m tool --out 'a b.json' --wait\n")
    shown, told = tool("--out", "a b.json").communicate(timeout=30)
    assert (shown, told) == ("3\n4\n", "")
    assert json.loads((tmp_path / "a b.json").read_text())["metrics"] == {"total": [10.0]}
    assert sorted(file.name for file in tmp_path.glob("*a b*")) == ["a b.json"]


def test_without_git_a_run_is_recorded_with_an_unknown_commit(tool, tmp_path):
    _, told = tool("--out", "a.json", PATH="/nonexistent").communicate(timeout=30)
    assert told == "" and provenance.load(tmp_path / "a.json")["provenance"]["commit"] == "unknown"


def test_a_full_disk_is_one_line_that_names_the_file(tool, tmp_path):
    limited = 'ulimit -f 0; exec "$0" -m tool --out a.json'  # no file may grow
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{provenance.ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(["bash", "-c", f"trap '' XFSZ; {limited}", sys.executable], text=True, capture_output=True,
                           cwd=tmp_path, env=environment)
    assert ended.returncode == 1
    assert ended.stderr == "python -m tool: .a.json.checkpoint: File too large\n"
    assert not [*tmp_path.glob("*a.json*")]
