"""How a command ends: one line for what is no defect of the program, a traceback for what is."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.record import options

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Run:
    out: Path  # the JSON file to write

    def __post_init__(self) -> None:
        """A test puts a failure here."""


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

    monkeypatch.setattr(Run, "__post_init__", too_large)
    with pytest.raises(SystemExit) as ended:
        options.command(Run, print)(["--out", "a.json"])
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


def test_symbols_are_printed_where_the_encoding_has_none():
    code = "import dataclasses\nfrom lib.record import options\n@dataclasses.dataclass\nclass Options: pass\n" \
           "options.command(Options, lambda given: print('\\u2713 done'))([])"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment)
    assert ended.stdout == b"? done\n" and ended.stderr == b""
