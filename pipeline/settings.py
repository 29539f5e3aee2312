"""Reading settings: YAML files and the words of ``SET``, refused in one line that says where and what is valid."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lib.record import yaml_files

LARGEST = 2**31 - 1


class Refused(ValueError):
    """A chapter, parameter, value, profile or file that does not exist or does not fit."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of names and what belongs to them.

    :raises Refused: with file and line, if it is missing, not YAML, not a mapping, or holds a key twice
    """
    try:
        return mapping(f"{path}", yaml_files.read_yaml(path))
    except yaml_files.NotYaml as error:
        raise Refused(str(error)) from None


def mapping(where: str, found: Any) -> dict[str, Any]:
    """What is found, if it is a mapping of names; nothing at all is an empty one."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Refused(f"{where}: expected names with what belongs to them, not {found!r}")
    return found


def choose(where: str, what: str, name: object, valid: Iterable[str]) -> None:
    """Refuse a name that is none of the valid ones, which are listed."""
    options = list(valid)
    if name not in options:
        raise Refused(f"{where}no {what} {name!r}; the {what}s are {', '.join(options) or 'none'}")


def words(settings: str) -> Iterator[tuple[str, str, str]]:
    """Chapter, name and value of each ``chapter.name=value``; the chapter is empty where it is left out."""
    try:
        found = shlex.split(settings)
    except ValueError as error:
        raise Refused(f"SET={settings!r}: {str(error).lower()}") from None
    for word in found:
        left, equals, text = word.partition("=")
        chapter, _, name = left.rpartition(".")
        if not equals or not name.isidentifier():
            raise Refused(f"setting {word!r} is not of the form chapter.parameter=value, such as one_layer.length=20")
        yield chapter, name, text


def value(word: str, text: str) -> Any:
    """The value that a word sets, read as YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        problem = yaml_files.yaml_problem(error).rpartition(": ")[2] if isinstance(error, yaml.YAMLError) else error
        raise Refused(f"setting {word}={text}: no value can be read from {text!r} ({problem})") from None


def fit(where: str, found: Any, default: Any) -> Any:
    """The value found, as the kind that the default is of: a number stays as positive as the default is.

    :raises Refused: where it is of another kind, out of range, or an empty list
    """
    example = f"as in {where.rpartition('.')[2]}={json.dumps(default)}"
    if isinstance(default, (list, tuple)):
        if not isinstance(found, (list, tuple)) or not found:
            raise Refused(f"{where}={found!r}: expected a list of one or more values, {example}")
        return [fit(where, one, default[0]) for one in found] if default else list(found)
    if isinstance(default, float) and isinstance(found, str):
        found = _float(found)
    if not _same_kind(found, default):
        raise Refused(f"{where}={found!r}: expected {type(default).__name__}, {example}")
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        _in_range(where, found, default, example)
    return found


def _float(text: str) -> Any:
    # YAML 1.1 reads 1e-3, without a dot, as a word
    try:
        return float(text)
    except ValueError:
        return text


def _same_kind(found: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(found, bool):
        return isinstance(found, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(found, (int, float))
    return default is None or isinstance(found, type(default))


def _in_range(where: str, found: float, default: float, example: str) -> None:
    if not math.isfinite(found) or abs(found) > LARGEST:
        raise Refused(f"{where}={found}: expected a finite number of at most {LARGEST}, {example}")
    if found < 0 <= default or found == 0 < default:
        raise Refused(f"{where}={found}: expected a number {'above 0' if default > 0 else 'of at least 0'}, {example}")
