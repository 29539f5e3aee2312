"""Command lines from dataclasses.

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
import functools
import inspect
import io
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lib.record.accepted import INTEGER_LIMIT, nearest
from lib.record.endings import end, one_line, print_anywhere

Options = TypeVar("Options")
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
        end(self.prog, message.removeprefix("argument "), 2)

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        word = next((word for word in words if word.startswith("-")), words[0]).split("=")[0]
        known = [name for action in self._actions for name in action.option_strings if name not in ("-h", "--help")]
        self.error(f"there is no option {word}{nearest(word, known) or '; --help lists those that there are'}"
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
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(choices)}{nearest(word, choices)}")
    return word
