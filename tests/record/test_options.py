"""Command lines from dataclasses: every field an option with its help, whatever is refused named in one line."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from lib.record import options


@dataclasses.dataclass(frozen=True)
class Model:
    width: int = 64  # of every layer, 100% of it
    encoding: str = options.option("rope", choices=("rope", "alibi", "learned"))  # of positions
    causal: bool = False

    def __post_init__(self) -> None:
        options.at_least(self, width=1)


@dataclasses.dataclass(frozen=True)
class Training:
    # how much the weights
    # move in a step
    learning_rate: float = 1e-3
    steps: int = 1500

    def __post_init__(self) -> None:
        options.within(self, learning_rate="(0, inf)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    model: Model = options.option(Model(), omit=("causal",))
    training: Training = Training(steps=800)
    seeds: tuple[int, ...] = (0, 1, 2)  # one model a seed
    profile: Literal["quick", "full"] = "quick"
    snapshots: Path | None = None  # folder for weights
    points: int | None = None  # measurements
    average: bool = True  # of the weights
    out: Path = options.option(names=("--output",))  # the JSON file to write

    def __post_init__(self) -> None:
        options.check_seeds(self.seeds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Longer(Run):
    points: int | None = 16  # more of them
    words: tuple[str, ...] = options.option((), positional=True)  # whatever else


def parse(*words, kind=Run):
    return options.parse(kind, words)


def refused(capsys, *words, kind=Run):
    with pytest.raises(SystemExit) as ended:
        parse(*words, kind=kind)
    out, line = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and line.count("\n") == 1
    assert line.startswith(f"python -m {__name__}: ")
    return line


def test_what_is_not_said_has_its_default():
    assert parse("--out", "x.json") == Run(out=Path("x.json"))
    assert parse("--out", "x.json").training.steps == 800


def test_every_kind_of_field_is_read():
    found = parse("--width", "8", "--learning-rate", "1e-4", "--seeds", "3", "4", "--profile", "full", "--snapshots",
                  "a b", "--points", "7", "--no-average", "--encoding", "alibi", "--output", "y.json")
    assert found == Run(model=Model(8, "alibi"), training=Training(1e-4, 800), seeds=(3, 4), profile="full",
                        snapshots=Path("a b"), points=7, average=False, out=Path("y.json"))


def test_a_subclass_changes_defaults_and_adds_words():
    found = parse("one", "two", "--out", "x.json", kind=Longer)
    assert found.points == 16 and found.words == ("one", "two") and found.seeds == (0, 1, 2)


def test_the_help_is_the_comment_and_the_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help", kind=Longer)
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for told in ("Command lines from dataclasses", "--width INTEGER of every layer, 100% of it; default 64",
                 "--learning-rate NUMBER how much the weights move in a step; default 0.001",
                 "--steps INTEGER default 800", "one model a seed; default 0 1 2",
                 "folder for weights; default none", "more of them; default 16",
                 "{rope,alibi,learned} of positions; default rope", "--no-average", "the JSON file to write"):
        assert told in text
    assert "--causal" not in text


@pytest.mark.parametrize("words, told", [
    (["--out", "x", "--width", "a"], "--width: 'a' is not an integer, such as 64"),
    (["--out", "x", "--width", "1.5"], "--width: '1.5' is not an integer, such as 64"),
    (["--out", "x", "--learning-rate", "fast"], "--learning-rate: 'fast' is not a number, such as 0.001"),
    (["--out", "x", "--encoding", "rop"], "--encoding: 'rop' is none of rope, alibi, learned; did you mean rope?"),
    (["--out", "x", "--profile", "Full"], "--profile: 'Full' is none of quick, full; did you mean full?"),
    (["--out", "x", "--seeds"], "--seeds: expected at least one argument"),
    (["--out", "x", "--seeds", "0", "zero"], "--seeds: 'zero' is not an integer, such as 0 1 2"),
    (["--out", "x", "--widht", "5"], "there is no option --widht; did you mean --width?"),
    (["--oot=x"], "there is no option --oot; did you mean --out"),
    (["--out", "x", "--lr", "5"], "there is no option --lr; --help lists those that there are"),
    (["--out", "x", "--learn", "5"], "there is no option --learn"),
    (["--out", "x", "--causal"], "there is no option --causal"),
    (["--out", "x", "stray"], "'stray' belongs to no option"),
    (["--width", "8"], "--out is missing: the JSON file to write"),
    (["--out"], "--out/--output: expected one argument"),
    (["--out", "x", "--width", "0"], "--width must be at least 1, not 0"),
    (["--out", "x", "--learning-rate", "nan"], "--learning-rate must lie in (0, inf), not nan"),
    (["--out", "x", "--learning-rate", "inf"], "--learning-rate must lie in (0, inf), not inf"),
    (["--out", "x", "--seeds", "1", "1"], "--seeds must be different integers from 0 to 2^63 - 1, not [1, 1]"),
    (["--out", "x", "--seeds", str(2**63)], "--seeds: '9223372036854775808' is too large: integers lie below 2^63"),
    (["--out", "x", "--width", "-" + "9" * 30], "--width: '-999999999999999999999999999999' is too large"),
    (["--out", "x", "--seeds", "9" * 5000], f"--seeds: '{'9' * 79}... is not an integer"),
    (["--out", "x", "--profile", "9" * 5000], f"--profile: '{'9' * 79}... is none of quick, full"),
    (["--out", "x", "--" + "9" * 5000], f"there is no option --{'9' * 78}... --help"),
    (["--out", "x", "9" * 5000], f"'{'9' * 79}... belongs to no option"),
])
def test_what_is_refused_is_named_in_one_line(words, told, capsys):
    assert told in refused(capsys, *words)


def test_seeds_are_checked_where_they_do_not_come_from_a_command():
    options.check_seeds([0, 2**63 - 1])
    for seeds in ([], [1, 1], [-1], [2**63]):
        with pytest.raises(ValueError, match="seeds must be different integers"):
            options.check_seeds(seeds)


@pytest.mark.parametrize("value, interval, accepted", [
    (0.0, "[0, 1)", True), (1.0, "[0, 1)", False), (1.0, "[0, 1]", True), (0.0, "(0, 1]", False), (0.5, "(0, 1)", True),
    (float("nan"), "[0, inf]", False), (float("inf"), "(0, inf)", False), (float("inf"), "(0, inf]", True),
    (-1e-9, "[0, inf)", False),
])
def test_an_interval_includes_the_ends_of_its_brackets(value, interval, accepted):
    given = types.SimpleNamespace(share=value)
    if accepted:
        options.within(given, share=interval)
    else:
        with pytest.raises(ValueError, match="share must lie in"):
            options.within(given, share=interval)


def test_a_word_that_is_not_known_is_refused_with_the_nearest():
    options.one_of(types.SimpleNamespace(masking="any"), masking=("any", "response"))
    with pytest.raises(ValueError, match="masking must be one of any, response, not 'respons'; did you mean response"):
        options.one_of(types.SimpleNamespace(masking="respons"), masking=("any", "response"))


# Failures of the work --------------------------------------------------------------------------------------------


def failing(error):
    def work(given):
        raise error

    return options.command(Run, work)


@pytest.mark.parametrize("error, status, told", [
    (ValueError("two\nlines"), 2, "two; lines"),
    (ArithmeticError("the loss is not finite"), 1, "the loss is not finite"),
    (OSError(28, "No space left on device", "a.json"), 1, "a.json: No space left on device"),
    (OSError("without a file"), 1, "without a file"),
    (MemoryError("too little memory for 8B"), 1, "too little memory for 8B"),
    (MemoryError(), 1, "out of memory"),
    (RuntimeError("CUDA out of memory. Tried\nto allocate"), 1, "CUDA out of memory. Tried"),
    (KeyboardInterrupt(), 130, f"interrupted: python -m {__name__} --out 'a b.json'"),
])
def test_a_failure_ends_with_one_line(error, status, told, capsys):
    with pytest.raises(SystemExit) as ended:
        failing(error)(["--out", "a b.json"])
    assert ended.value.code == status
    assert capsys.readouterr().err == f"python -m {__name__}: {told}\n"


def test_options_that_no_memory_can_hold_are_refused_in_one_line(capsys, monkeypatch):
    def too_large(self):
        np.empty(2**50)

    monkeypatch.setattr(Model, "__post_init__", too_large)
    with pytest.raises(SystemExit) as ended:
        options.command(Model, print)(["--width", "9"])
    assert ended.value.code == 1 and "Unable to allocate 8.00 PiB" in capsys.readouterr().err


def test_notes_stand_in_the_line(capsys):
    error = KeyboardInterrupt()
    error.add_note("a.checkpoint is kept")
    with pytest.raises(SystemExit):
        failing(error)(["--out", "a.json"])
    assert "interrupted; a.checkpoint is kept: python -m" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback():
    with pytest.raises(TypeError):
        failing(TypeError("a defect"))(["--out", "a.json"])
    with pytest.raises(RuntimeError, match="sizes of tensors"):
        failing(RuntimeError("sizes of tensors must match"))(["--out", "a.json"])
    with pytest.raises(ZeroDivisionError):
        options.command(Run, lambda given: 1 / 0)(["--out", "a.json"])
    with pytest.raises(ValueError, match="broadcast"):
        options.command(Run, lambda given: np.broadcast_shapes((2,), (3,)))(["--out", "a.json"])


def test_a_run_that_is_told_to_end_cleans_up(capsys):
    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def work(given):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        options.command(Run, work)(["--out", "a.json"])
    assert ended.value.code == 143 and cleaned and "interrupted: python -m" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_module_that_is_run_names_itself(tmp_path):
    (tmp_path / "tool.py").write_text(
        '"""A tool."""\nimport dataclasses\nfrom lib.record import options\n\n\n@dataclasses.dataclass\n'
        "class Options:\n    count: int = 1  # of things\n\n\n"
        "if __name__ == '__main__':\n    options.command(Options, print)()\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{options._ROOT}"}
    run = lambda *words: subprocess.run([sys.executable, "-m", "tool", *words], capture_output=True, text=True,
                                        env=environment)
    assert "Options(count=3)" in run("--count", "3").stdout
    assert run("--count", "x").stderr == "python -m tool: --count: 'x' is not an integer, such as 1\n"
    assert "of things; default 1" in run("--help").stdout


def test_symbols_are_printed_where_the_encoding_has_none():
    code = "import dataclasses\nfrom lib.record import options\n@dataclasses.dataclass\nclass Options: pass\n" \
           "options.command(Options, lambda given: print('\\u2713 done'))([])"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=options._ROOT, env=environment)
    assert ended.stdout == b"? done\n" and ended.stderr == b""


# Files and devices -----------------------------------------------------------------------------------------------


def test_a_result_is_a_json_file_and_no_folder_or_link(tmp_path):
    assert options.json_file("--out", tmp_path / "a.json") == tmp_path / "a.json"
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    for name, told in (("a.txt", "ends in .json"), ("folder.json", "is a folder"), ("link.json", "is a link to")):
        with pytest.raises(ValueError, match=f"--out .*{name}.*{told}"):
            options.json_file("--out", tmp_path / name)


def test_a_folder_is_tried_before_it_is_needed(tmp_path):
    assert options.writable("--out", tmp_path) == []
    assert options.writable("--out", tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert [*tmp_path.iterdir()] == [tmp_path / "a"] and [*(tmp_path / "a" / "b").iterdir()] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--work: .*file cannot be written to \("):
        options.writable("--work", tmp_path / "file")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps:0", "", "meta", "cuda:99"])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="--device"):
        options.device_named(name)
    assert options.device_named("cpu") == torch.device("cpu")
