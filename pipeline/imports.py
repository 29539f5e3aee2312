"""Which files a piece of Python depends on: its imports, followed through this repository."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: top-level packages that are followed; what `requirements.lock` pins is not
PACKAGES = ("lib", "pipeline", "benchmarks")


def closure(modules: Iterable[str]) -> list[Path]:
    """Files of the modules and of all that they import, at module level or inside functions; packages are included,
    with the files beside them that are not Python, such as templates."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in found else module_file(name)
        if path is not None:
            found[name] = path
            waiting += [*_parents(name), *_imported_by(path, name)]
    return sorted({*found.values(), *(file for path in found.values() for file in _beside(path))})


def module_file(name: str) -> Path | None:
    """The file of a module or package of this repository; none for what is neither."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imports(text: str, package: str = "") -> Iterator[str]:
    """Names that the text may import: ``from a import b`` gives both ``a`` and ``a.b``, for b may be a module.

    :param package: that relative imports start from
    :raises SyntaxError: if the text is not Python
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _beside(path: Path) -> Iterator[Path]:
    if path.name != "__init__.py":
        return
    for entry in path.parent.iterdir():
        if entry.is_dir() and entry.name != "__pycache__" and not (entry / "__init__.py").exists():
            yield from (file for file in entry.rglob("*") if file.is_file())
        elif entry.is_file() and entry.suffix != ".py":
            yield entry


@functools.cache
def _imported_by(path: Path, name: str) -> tuple[str, ...]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return tuple(imports(path.read_text(encoding="utf-8"), package))


def _parents(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words))]
