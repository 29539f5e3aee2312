"""What the docstrings of lib name in single backticks is there, and they say what public functions raise.

Read from the source with `ast`; nothing is imported. Three forms of names are looked up: a path below ``lib``, a dotted
name that begins with a module or a class, and a bare name that is capitalised or has an underscore. A bare name must
be in the docstring's own module or one that it imports from: another's constant of that name does not stand in for it.
"""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
QUOTED = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")  # `name`, `module.name`, `name()`; not ``literals``
BARE = re.compile(r"[A-Z]\w*|\w*_\w+")  # a constant, a class, or a name of several words
#: packages (and single modules) of lib in which what is raised must be said
RAISES_SAID = ("encodings", "theory", "one_layer")


@functools.cache
def modules():
    """Dotted name -> syntax tree, for every module and package of lib."""
    found = {}
    for path in sorted((ROOT / "lib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def identifiers(tree):
    """Every name that code below a node defines, takes as an argument, imports, reads or has as a string."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname", "value"):
            if isinstance(name := getattr(node, field, None), str):
                yield from name.split(".")


@functools.cache
def classes():
    """Class of lib -> the identifiers in it and in its bases of lib."""
    nodes = {node.name: node for tree in modules().values() for node in ast.walk(tree)
             if isinstance(node, ast.ClassDef)}

    def within(name):
        bases = [ast.unparse(base).split(".")[-1] for base in nodes[name].bases]
        return set(identifiers(nodes[name])).union(*(within(base) for base in bases if base in nodes and base != name))

    return {name: within(name) for name in nodes}


@functools.cache
def inside(module):
    """The identifiers of a module, and the modules right below a package."""
    below = {name.rpartition(".")[2] for name in modules() if name.rpartition(".")[0] == module}
    return below.union(identifiers(modules()[module]))


@functools.cache
def near(module):
    """The identifiers of a module and of those of lib that it imports names from."""
    sources = {node.module for node in ast.walk(modules()[module]) if isinstance(node, ast.ImportFrom)}
    return inside(module).union(*(inside(source) for source in sources & set(modules())))


def candidates(first):
    """What a dotted name may begin with: for each module or class of that name, the identifiers inside."""
    found = [inside(module) for module in modules() if module.split(".")[-1] == first]
    return [*found, classes()[first]] if first in classes() else found


def is_there(name, module):
    """Whether lib has what a docstring of a module names; names of no form that is looked up count as there."""
    first, *rest = name.split(".")
    if first == "lib":
        parts = name.split(".")
        reach = max(count for count in range(1, len(parts) + 1) if ".".join(parts[:count]) in modules())
        return set(parts[reach:]) <= inside(".".join(parts[:reach]))
    if rest and candidates(first):
        return any(set(rest) <= names for names in candidates(first))
    modules_too = {each.split(".")[-1] for each in modules()}
    return not BARE.fullmatch(first) or first in near(module) | modules_too


def missing(text, module):
    """Names in single backticks in a docstring of a module that lib does not have."""
    return [name for name in QUOTED.findall(text) if not is_there(name, module)]


def docstrings():
    """(module, name, docstring) of every module, class and function of lib."""
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, getattr(node, "name", ""), ast.get_docstring(node) or ""


def test_docstrings_name_what_is_there():
    stale = [f"{module}.{place}: `{name}`" for module, place, text in docstrings() for name in missing(text, module)]
    assert not stale, "\n".join(stale)
    assert sum(len(QUOTED.findall(text)) for *_, text in docstrings()) > 500


@pytest.mark.parametrize("name", [
    "trace_bound", "trace_bound()", "certificates.grid_floor", "lib.theory.bounds.trace_bound", "lib.theory.bounds",
    "Queries.split", "Rope.offsets", "one_layer", "dynamics_proofs", "np.array", "kappa"])
def test_names_that_are_there_are_found(name):
    assert missing(f"See `{name}` and ``NO_SUCH_LITERAL``.", "lib.theory.bounds") == []


@pytest.mark.parametrize("name", [
    "trace_bond", "PARAMETER_GROUPS", "NO_SUCH_CONSTANT", "NoSuchClass", "NoSuchClass.trace_bound",
    "certificates.trace_bond", "Queries.trace_bound", "lib.theory.bounds.trace_bond", "lib.theory.no_such_module"])
def test_names_that_are_not_there_are_reported(name):
    assert missing(f"See `{name}` and `trace_bound`.", "lib.theory.bounds") == [name]


# What is raised ---------------------------------------------------------------------------------------------------


def raises(function):
    """Whether a function itself raises an exception of its own; a bare ``raise`` passes another's on."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return False


def public_functions(body, before=""):
    """(name, node) of public functions, and of public methods of public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from public_functions(node.body, f"{before}{node.name}.")
            else:
                yield before + node.name, node


def silent(tree):
    """Public functions that raise an exception of which their docstring says nothing."""
    return [name for name, node in public_functions(tree.body)
            if raises(node) and ":raises" not in (ast.get_docstring(node) or "")]


def test_docstrings_say_what_is_raised():
    found = [f"{module}.{name}" for module, tree in modules().items() if module.split(".")[1:2] and
             module.split(".")[1] in RAISES_SAID for name in silent(tree)]
    assert not found, "\n".join(found)


def test_functions_that_do_not_say_what_they_raise_are_reported():
    tree = ast.parse('''
def says(x):
    """A number.

    :raises ValueError: for no number
    """
    raise ValueError(x)

def hides(x):
    """A number."""
    if x:
        raise ValueError(x) from None

class Thing:
    def hides_too(self):
        raise LookupError

    def _private(self):
        raise LookupError

def passes_on():
    """Nothing of its own."""
    def inner():
        raise LookupError
    try:
        inner()
    except LookupError:
        raise
''')
    assert silent(tree) == ["hides", "Thing.hides_too"]
