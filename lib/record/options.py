"""Command lines from dataclasses, and what commands accept: counts, ranges, devices and paths.

A frozen dataclass says what a command can be told. Each field becomes an option of its name, with the field's type and
default, and the comment beside the field as its help; a field that is itself a dataclass gives its own fields:

    @dataclass(frozen=True, kw_only=True)
    class Options:
        model: ModelConfig = option(ModelConfig(), omit=("causal",))
        training: TrainingConfig = TrainingConfig()
        seeds: tuple[int, ...] = (0, 1, 2)  # one model a seed
        snapshots: Path | None = None  # folder for the weights at each measurement
        out: Path = option(names=("--output",))  # the JSON file to write

        def __post_init__(self) -> None:
            at_least(self, points=1)

    main = command(Options, work)  # work(Options) is called once all of it is accepted

Whatever is refused ends the command with status 2 and one line on stderr that names the option; so does a `ValueError`
that the dataclasses raise, whose message begins with the name of a field.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import shlex
import signal
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    import torch

Options = TypeVar("Options")
INTEGER_LIMIT = 2**63  # integers, seeds among them, lie below it: what numpy and torch can hold
_ROOT = Path(__file__).resolve().parents[2]
_WORDS: dict[Any, tuple[str, str]] = {  # how a type is shown and called
    int: ("INTEGER", "an integer"), float: ("NUMBER", "a number"), Path: ("PATH", "a path"), str: ("TEXT", "a text")}

# A dataclass as a command line ----------------------------------------------------------------------------------


def option(default: Any = dataclasses.MISSING, *, choices: Collection[str] | None = None, names: Sequence[str] = (),
           omit: Collection[str] = (), positional: bool = False) -> Any:
    """A dataclass field that needs more said than its type, default and comment.

    :param choices: the words that are accepted (a ``Literal`` type says so by itself)
    :param names: further names of the option, such as ``--output``
    :param omit: of a field that is a dataclass: its fields that are no options
    :param positional: given by its place and not by a name
    """
    told = {"choices": choices, "names": names, "omit": omit, "positional": positional}
    return dataclasses.field(default=default, metadata={"option": told})


def parse(kind: type[Options], argv: Sequence[str] | None = None) -> Options:
    """The options that a command was given.

    :raises SystemExit: with status 2 and a line on stderr for options that are refused; with 0 after ``--help``
    """
    parser = _parser(kind)
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.refuse_unknown(unknown)
    leaves = {leaf.field.name: leaf for leaf in _leaves(kind)}
    for name, leaf in leaves.items():
        if leaf.default is dataclasses.MISSING and name not in found:
            parser.error(f"{leaf.label} is missing: {leaf.help or 'it has no default'}")
    try:
        return _built(kind, vars(found), dataclasses.MISSING, ())
    except ValueError as error:
        parser.error(_named(str(error), leaves))


def command(kind: type[Options], work: Callable[[Options], object]) -> Callable[..., None]:
    """The ``main`` of a module: parses its options, and gives them to ``work``; failures end it as `one_line` says."""

    def main(argv: Sequence[str] | None = None) -> None:
        print_anywhere()
        with one_line(_program(kind), sys.argv[1:] if argv is None else argv):
            work(parse(kind, argv))

    return main


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
        _end(program, f"interrupted{_notes(error)}: {again}", 143 if isinstance(error, _Terminated) else 130)
    except ValueError as error:
        if not _raised_here(error):
            raise
        _end(program, f"{error}{_notes(error)}", 2)
    except (ArithmeticError, MemoryError, RuntimeError) as error:
        if not _expected(error):
            raise
        _end(program, f"{str(error).splitlines()[0] if str(error) else 'out of memory'}{_notes(error)}", 1)
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        _end(program, f"{told}{_notes(error)}", 1)
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


def _end(program: str, message: str, status: int) -> NoReturn:
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


# Its fields ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A field that is an option."""

    field: dataclasses.Field[Any]
    kind: Any  # its type
    default: Any
    comment: str

    @property
    def told(self) -> Mapping[str, Any]:
        return self.field.metadata.get("option", {})

    @property
    def flag(self) -> str:
        return f"--{self.field.name.replace('_', '-')}"

    @property
    def label(self) -> str:
        return self.field.name if self.told.get("positional") else self.flag

    @property
    def help(self) -> str:
        if self.default is dataclasses.MISSING:
            return self.comment
        return f"{self.comment}; default {self.shown}".removeprefix("; ")

    @property
    def shown(self) -> str:
        """The default as it would be typed."""
        several = self.default if isinstance(self.default, tuple) else (self.default,)
        return " ".join(str(each) for each in several if each not in (None, "")) or "none"


def _leaves(kind: type, start: Any = dataclasses.MISSING, omit: Collection[str] = ()) -> Iterator[_Leaf]:
    """The options of a dataclass and of those within it; ``start`` holds other defaults."""
    hints, comments = typing.get_type_hints(kind), _comments(kind)
    for field in dataclasses.fields(kind):
        if field.name in omit or not field.init:
            continue
        default = _default(field) if start is dataclasses.MISSING else getattr(start, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            inner = field.metadata.get("option", {}).get("omit", ())
            yield from _leaves(typing.cast(type, hints[field.name]), default, inner)
        else:
            yield _Leaf(field, hints[field.name], default, comments.get(field.name, ""))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _built(kind: type[Options], given: Mapping[str, Any], start: Any, omit: Collection[str]) -> Options:
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(typing.cast(Any, kind)):
        if field.name in omit or not field.init:
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            default = _default(field) if start is dataclasses.MISSING else getattr(start, field.name)
            inner = field.metadata.get("option", {}).get("omit", ())
            values[field.name] = _built(typing.cast(Any, hints[field.name]), given, default, inner)
        elif field.name in given:
            values[field.name] = given[field.name]
    return kind(**values) if start is dataclasses.MISSING else dataclasses.replace(start, **values)


@functools.cache
def _comments(kind: type) -> dict[str, str]:
    """The comment of each field: at the end of its line, or on the lines above it."""
    found: dict[str, str] = {}
    for parent in reversed(kind.__mro__[:-1]):
        if not dataclasses.is_dataclass(parent):
            continue
        with contextlib.suppress(OSError, TypeError):  # no source at hand: no help
            found |= _comments_in(inspect.cleandoc("\n" + inspect.getsource(parent)))
    return found


def _comments_in(source: str) -> dict[str, str]:
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    beside = {token.start[0]: token.string.lstrip("#: ") for token in tokens if token.type == tokenize.COMMENT}
    alone = {number for number in beside if source.splitlines()[number - 1].lstrip().startswith("#")}
    found = {}
    for field in typing.cast(ast.ClassDef, ast.parse(source).body[0]).body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            above: list[str] = []
            first = field.lineno - 1
            while first in alone:
                above.insert(0, beside[first])
                first -= 1
            found[field.target.id] = beside.get(field.end_lineno or 0) or " ".join(above)
    return found


def _named(message: str, leaves: Mapping[str, _Leaf]) -> str:
    """A message that begins with a field's name, with the option's name in its place."""
    first, *rest = message.split(maxsplit=1) or [""]
    name = first.rstrip(":,")
    return " ".join([first.replace(name, leaves[name].label, 1), *rest]) if name in leaves else message


# The parser ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _end(self.prog, message.removeprefix("argument "), 2)

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        word = next((word for word in words if word.startswith("-")), words[0]).split("=")[0]
        known = [name for action in self._actions for name in action.option_strings if name not in ("-h", "--help")]
        self.error(f"there is no option {word}{_nearest(word, known) or '; --help lists those that there are'}"
                   if word.startswith("-") else f"{word!r} belongs to no option; --help lists them")


def _parser(kind: type) -> _Parser:
    module = sys.modules[kind.__module__]
    description = (module.__doc__ or "").strip().splitlines()[:1]
    parser = _Parser(prog=_program(kind), description="".join(description), allow_abbrev=False,
                     argument_default=argparse.SUPPRESS)
    for leaf in _leaves(kind):
        _add(parser, leaf)
    return parser


def _program(kind: type) -> str:
    name = kind.__module__
    if name == "__main__":
        name = getattr(sys.modules[name].__spec__, "name", Path(sys.argv[0]).stem)
    return f"python -m {name}"


def _add(parser: argparse.ArgumentParser, leaf: _Leaf) -> None:
    kind, several = _item(leaf.kind)
    shown: dict[str, Any] = {"help": leaf.help.replace("%", "%%")}
    if kind is bool:
        parser.add_argument(leaf.flag, *leaf.told.get("names", ()), dest=leaf.field.name, **shown,
                            action=argparse.BooleanOptionalAction)
        return
    choices = leaf.told.get("choices") or typing.get_args(kind)
    shown["metavar"] = "{" + ",".join(map(str, choices)) + "}" if choices else _WORDS[kind][0]
    shown["type"] = functools.partial(_chosen, tuple(choices)) if choices else functools.partial(_value, leaf, kind)
    if several:
        shown["action"] = _Tuple
    if leaf.told.get("positional"):
        parser.add_argument(leaf.field.name, nargs="*" if several else "?", **shown)
    else:
        names = (leaf.flag, *leaf.told.get("names", ()))
        parser.add_argument(*names, dest=leaf.field.name, nargs="+" if several else None, **shown)


class _Tuple(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))  # a frozen dataclass may be hashed


def _item(kind: Any) -> tuple[Any, bool]:
    """The type of one word of an option, and whether it takes several: of ``X``, ``X | None``, ``tuple[X, ...]``."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) in (tuple, list):
        return typing.get_args(kind)[0], True
    return kind, False


def _value(leaf: _Leaf, kind: Callable[[str], Any], word: str) -> Any:
    try:
        value = kind(word)
        if kind is int and abs(value) >= INTEGER_LIMIT:
            raise argparse.ArgumentTypeError(f"{word!r} is too large: integers lie below 2^63")
        return value
    except ValueError:
        example = "" if leaf.default in (None, dataclasses.MISSING, ()) else f", such as {leaf.shown}"
        raise argparse.ArgumentTypeError(f"{word!r} is not {_WORDS[kind][1]}{example}") from None


def _chosen(choices: tuple[str, ...], word: str) -> str:
    if word not in choices:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(choices)}{_nearest(word, choices)}")
    return word


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# What is accepted ------------------------------------------------------------------------------------------------


def at_least(options: object, prefix: str = "", /, **least: int) -> None:
    """Refuse a count that is too small: of fields of ``options``, whose names follow ``prefix`` in the message.

    :raises ValueError: for the first of them
    """
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise ValueError(f"{prefix}{name} must be at least {smallest}, not {getattr(options, name)}")


def within(options: object, **ranges: str) -> None:
    """Refuse a number outside its interval, such as ``ema="[0, 1)"`` or ``clip="(0, inf)"``; NaN lies in none.

    :raises ValueError: for the first field of ``options`` that does
    """
    for name, interval in ranges.items():
        value = getattr(options, name)
        low, high = (float(end) for end in interval[1:-1].split(","))
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} must lie in {interval}, not {value!r}")


def one_of(options: object, **choices: Collection[str]) -> None:
    """Refuse a word that is none of those that are known.

    :raises ValueError: for the first field of ``options`` with such a word
    """
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{_nearest(str(value), [*known])}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are none, repeat, are negative or too large.

    :raises ValueError: with the seeds
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= INTEGER_LIMIT:
        raise ValueError(f"seeds must be different integers from 0 to 2^63 - 1, not {list(seeds)!r}")


def device_named(name: str) -> torch.device:
    """The device that an option names; entered, it is where new tensors go.

    :raises ValueError: for a name that is none, or a device that is not there
    """
    import torch  # here, so that the theory does not wait for it

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found: torch.device | None = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name!r} is none of auto, cpu, cuda, cuda:1, ...")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name!r}: torch sees {torch.cuda.device_count()} CUDA devices; --device cpu works")
    return found


def json_file(option: str, path: Path) -> Path:
    """The path of a result that is still to be made: a JSON file, and no link to one, which would be replaced.

    :raises ValueError: for another suffix, a folder or a symbolic link
    """
    if path.suffix != ".json":
        raise ValueError(f"{option} {path}: a result is a JSON file, so name one that ends in .json")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name the JSON file to write")
    if path.is_symlink():
        raise ValueError(f"{option} {path} is a link to {path.readlink()}; name the file itself")
    return path


def writable(option: str, folder: Path) -> list[Path]:
    """Make a folder, and try to write in it, before hours of work depend on it.

    :return: the folders that were not there before, the innermost first
    :raises ValueError: if that does not work
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    draft = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written to ({error.strerror})") from None
    return made
