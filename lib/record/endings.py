"""How a command ends: with one line on stderr for what is no defect of the program."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

_ROOT = Path(__file__).resolve().parents[2]


def print_anywhere() -> None:
    """Print a question mark for what the terminal's encoding does not have, such as the symbols of statuses."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextlib.contextmanager
def one_line(program: str, words: Sequence[str] = ()) -> Iterator[None]:
    """End the command with one line on stderr for what is no defect of the program, and its notes.

    Status 2: something asked for is refused (`ValueError`). 1: a file or the computation failed. 130, 143: interrupted
    or told to end; the line holds the command that goes on. What another library raises keeps its traceback.
    """
    previous = _on_termination()
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as error:
        again = shlex.join([*program.split(), *words])
        end(program, f"interrupted{_notes(error)}: {again}", 143 if isinstance(error, _Terminated) else 130)
    except ValueError as error:
        if not _raised_here(error):
            raise
        end(program, f"{error}{_notes(error)}", 2)
    except (ArithmeticError, MemoryError, RuntimeError) as error:
        if not _expected(error):
            raise
        end(program, f"{str(error).splitlines()[0] if str(error) else 'out of memory'}{_notes(error)}", 1)
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        end(program, f"{told}{_notes(error)}", 1)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


class _Terminated(BaseException):
    """SIGTERM, so that drafts are removed and the message is given."""


def _on_termination() -> Any:
    def terminate(*_: object) -> None:
        raise _Terminated

    try:
        return signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread
        return None


def _notes(error: BaseException) -> str:
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def end(program: str, message: str, status: int) -> NoReturn:
    """End the process with this status and one line on stderr; very long words are cut."""
    line = "; ".join(message.splitlines())
    line = re.sub(r"(\S{80})\S{220,}", r"\1...", line)  # a word of any length may have been given
    print(f"{program}: {line}", file=sys.stderr, flush=True)
    sys.exit(status)


def _expected(error: Exception) -> bool:
    """Whether a computation failed for lack of memory, or as the project's own code says it can."""
    if isinstance(error, RuntimeError):  # torch's
        return "out of memory" in str(error) or "allocate memory" in str(error)
    return isinstance(error, MemoryError) or (type(error) in (ArithmeticError, FloatingPointError)
                                              and _raised_here(error))


def _raised_here(error: BaseException) -> bool:
    """Whether the project's own code raised an error, and not a library beneath it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return True
    file = Path(last.tb_frame.f_code.co_filename).resolve()
    return file.is_relative_to(_ROOT) and "site-packages" not in file.parts
