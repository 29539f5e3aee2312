"""Which folders of results/ a chapter reads, by the source alone: its cells, and the parts of `lib` that they use.

Followed are the functions, classes and constants that a name reaches. A folder counts where one of them names it in the
place of a folder: as the first argument of `results` or `recorded_runs`, beside a `/`, in a `Path`, as the beginning of
a path, or in what a loop runs over whose name stands in such a place. In ``A if x else B`` A counts only where the
chapter calls something with x=True. A class that has an `__init__` of its own reads nothing by that of its base.
"""

import ast
import functools
from collections.abc import Iterator

from pipeline import chapters, imports

CALLS = ("results", "recorded_runs")
#: weights beside the recorded results, which are no JSON file
NO_RESULTS = {("lib.language_models.pretrained", "ADAPTER")}


class Source:
    """Code with the names that it imports and defines."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.imported = dict(_imported(self.tree))
        self.defined = {name: node for node in self.tree.body for name in _defined(node)}


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.asname or each.name.partition(".")[0], each.name if each.asname
                         else each.name.partition(".")[0]) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((each.asname or each.name, f"{node.module}.{each.name}") for each in node.names)


def _defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name)) if target else ()


@functools.cache
def module(name: str) -> Source | None:
    file = imports.module_file(name) if name.startswith("lib.") else None
    return Source(file.read_text(encoding="utf-8")) if file else None


def dotted(node: ast.AST) -> str:
    """``a.b.c`` as it is written; empty for what is no name."""
    if isinstance(node, ast.Name):
        return node.id
    above = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{above}.{node.attr}" if above else ""


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """What is read when the node is used."""
    own = isinstance(node, ast.ClassDef) and any(getattr(each, "name", "") == "__init__" for each in node.body)
    for each in node.body if own else [node]:
        yield from ast.walk(each)


def used(node: ast.AST, source: Source, home: str) -> Iterator[tuple[str, str]]:
    """(module, name) of each definition in `lib` that a piece of code names."""
    for word in filter(None, map(dotted, _parts(node))):
        first, _, rest = word.partition(".")
        if first in source.imported:
            path = ".".join([source.imported[first], *filter(None, [rest])]).split(".")
            yield from ((".".join(path[:end]), path[end]) for end in range(1, len(path))
                        if (found := module(".".join(path[:end]))) and path[end] in found.defined)
        elif home and first in source.defined:
            yield home, first


def reached(source: Source) -> set[tuple[str, str]]:
    """Every definition in `lib` that a chapter's code names, directly or not."""
    found: set[tuple[str, str]] = set()
    waiting = list(used(source.tree, source, ""))
    while waiting:
        home, name = each = waiting.pop()
        if each not in found | NO_RESULTS:
            found.add(each)
            waiting += used(module(home).defined[name], module(home), home)
    return found


def _places(node: ast.AST) -> Iterator[ast.AST]:
    """Expressions in the place of a folder."""
    asked = [each.args[0] for each in _parts(node) if isinstance(each, ast.Call) and each.args
             and dotted(each.func).rpartition(".")[2] in (*CALLS, "Path")]
    yield from asked
    for each in _parts(node):
        if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Div):
            yield from (each.left, each.right)
        elif isinstance(each, ast.For | ast.comprehension) and dotted(each.target) in map(dotted, asked):
            yield each.iter
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and "/" in each.value:
            yield each


def _words(place: ast.AST, switched: set[str]) -> Iterator[str]:
    if isinstance(place, ast.IfExp):
        yield from _words(place.orelse, switched)
        yield from _words(place.body, switched) if dotted(place.test) in switched else ()
    elif isinstance(place, ast.Constant) and isinstance(place.value, str):
        yield place.value.partition("/")[0]
    else:
        for inner in ast.iter_child_nodes(place):
            yield from _words(inner, switched)


def folders_read(text: str, folders: set[str]) -> set[str]:
    """Those of the folders that code reads.

    :param text: the code of a chapter
    """
    source = Source(text)
    switched = {each.arg for each in ast.walk(source.tree) if isinstance(each, ast.keyword)
                and isinstance(each.value, ast.Constant) and each.value.value is True}
    nodes = [source.tree, *(module(home).defined[name] for home, name in reached(source))]
    return folders & {word for node in nodes for place in _places(node) for word in _words(place, switched)}


def code_of(chapter: str) -> str:
    """The Python of a chapter's cells."""
    cells = [cell.source for cell in chapters.notebook(chapter).cells if cell.cell_type == "code"]
    return "\n".join("pass" if line.startswith(("%", "!")) else line for cell in cells for line in cell.splitlines())
