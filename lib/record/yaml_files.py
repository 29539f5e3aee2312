"""Reading YAML that people write: files in which a key that stands twice is an error, named by file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class NotYaml(ValueError):
    """A file that cannot be read, or that is not YAML."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key that stands twice in one mapping; plain YAML keeps the last and says nothing."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if getattr(node, "flattened", False):
            return
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        node.flattened = True  # type: ignore[attr-defined]  # merged keys may stand twice: the nearer one wins
        super().flatten_mapping(node)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; None for an empty one.

    :raises NotYaml: with file and line, if it cannot be read, is not YAML, or holds a key twice in one mapping
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise NotYaml(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise NotYaml(f"{path}{yaml_problem(error)}") from None


def yaml_problem(error: yaml.YAMLError) -> str:
    """Where and what, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{f', line {mark.line + 1}' if mark else ''}: {problem or ' '.join(str(error).split())}"
