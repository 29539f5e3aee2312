"""Command lines from dataclasses: every field an option with its help, whatever is refused named in one line."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from lib.record import accepted, options

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Model:
    width: int = 64  # of every layer, 100% of it
    encoding: str = options.option("rope", choices=("rope", "alibi", "learned"))  # of positions
    causal: bool = False

    def __post_init__(self) -> None:
        accepted.at_least(self, width=1)


@dataclasses.dataclass(frozen=True)
class Training:
    # how much the weights
    # move in a step
    learning_rate: float = 1e-3
    steps: int = 1500

    def __post_init__(self) -> None:
        accepted.within(self, learning_rate="(0, inf)")


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
        accepted.check_seeds(self.seeds)


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


def test_a_module_that_is_run_names_itself(tmp_path):
    (tmp_path / "tool.py").write_text(
        '"""A tool."""\nimport dataclasses\nfrom lib.record import options\n\n\n@dataclasses.dataclass\n'
        "class Options:\n    count: int = 1  # of things\n\n\n"
        "if __name__ == '__main__':\n    options.command(Options, print)()\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = lambda *words: subprocess.run([sys.executable, "-m", "tool", *words], capture_output=True, text=True,
                                        env=environment)
    assert "Options(count=3)" in run("--count", "3").stdout
    assert run("--count", "x").stderr == "python -m tool: --count: 'x' is not an integer, such as 1\n"
    assert "of things; default 1" in run("--help").stdout
