"""The house holds: imports run one way and never in a circle, a public name has one home, functions stay short.

Everything is read from the source of `lib` with `ast`; nothing is imported.
"""

import ast
import collections
import functools
import itertools
import pathlib
import re
import statistics

import pytest

ROOT = pathlib.Path(__file__).parents[1]
#: the packages (and single modules) of lib -> what each may import of the others
MAY_IMPORT = {
    "encodings": set(),
    "record": set(),
    "theory": {"encodings", "record"},
    "one_layer": {"encodings", "record", "theory"},
    "language_models": {"encodings", "record", "theory", "one_layer"},
    "stores": {"encodings", "record", "theory", "one_layer", "language_models"},
}
#: what trains models: the theory imports none of it
TRAINERS = ("torch.optim", "transformers", "peft", "accelerate", "lib.one_layer", "lib.language_models")
#: public names that several modules define on purpose -> why
SHARED_NAMES = {
    "main": "the entry point of a command line",
    "load": "module.load(...) reads as what it loads: a recorded result, a checkpoint, a pretrained model",
    "save": "module.save(...), beside load",
}
LONGEST_MEDIAN = 10  # lines of a function, its docstring included; it must stay below this


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules():
    """Dotted name -> syntax tree, for every module of lib."""
    paths = sorted((ROOT / "lib").rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imported_names(module, tree):
    """Dotted names that a module imports, at its top, inside a function or for type checking alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def imports():
    """Module of lib -> the modules of lib that it imports."""
    known = modules()
    graph = {}
    for module, tree in known.items():
        named = set(imported_names(module, tree))
        found = {name if name in known else name.rpartition(".")[0] for name in named if name.split(".")[0] == "lib"}
        graph[module] = (found & set(known)) - {module}
    return graph


def package(module):
    return module.split(".")[1] if "." in module else None


def test_every_package_has_its_place():
    assert {package(module) for module in modules()} == {None, *MAY_IMPORT}


@pytest.mark.parametrize("home", MAY_IMPORT)
def test_no_package_imports_upwards(home):
    upwards = {f"{module} -> {other}" for module, found in imports().items() for other in found
               if package(module) == home and package(other) not in {home, *MAY_IMPORT[home]}}
    assert not upwards, "\n".join(sorted(upwards))


def test_no_circle_between_modules():
    finished, stack = set(), []

    def visit(module):
        assert module not in stack, " -> ".join([*stack[stack.index(module):], module])
        if module in finished:
            return
        stack.append(module)
        for other in sorted(imports()[module]):
            visit(other)
        finished.add(stack.pop())

    for module in imports():
        visit(module)


def test_nothing_is_trained_in_the_theory():
    trainers = {f"{module} imports {name}" for module, tree in modules().items() if package(module) == "theory"
                for name in imported_names(module, tree)
                if any(f"{name}.".startswith(f"{trainer}.") for trainer in TRAINERS)}
    assert not trainers


def public_names(tree):
    """Functions, classes and constants that a module defines at its top, without those that start with `_`."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)]
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_is_defined_once():
    homes = collections.defaultdict(set)
    for module, tree in modules().items():
        for name in public_names(tree):
            homes[name].add(module)
    twice = [f"{name}: {', '.join(sorted(found))}" for name, found in sorted(homes.items())
             if len(found) > 1 and name not in SHARED_NAMES]
    assert not twice, "\n".join(twice)
    assert all(len(homes[name]) > 1 for name in SHARED_NAMES), "a name that is no longer shared leaves the list"


def definitions():
    """(module, node) of every function and class of lib, nested ones and methods included."""
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield module, node


def test_docstrings_say_what_they_describe():
    documented = itertools.chain(((module, tree) for module, tree in modules().items()), definitions())
    vague = [f"{module}: {getattr(node, 'name', 'module')}" for module, node in documented
             if (ast.get_docstring(node) or "").lower().startswith("the same")]
    assert not vague, "\n".join(vague)


@pytest.mark.parametrize("home", [name for name in MAY_IMPORT if (ROOT / "lib" / name).is_dir()])
def test_the_map_of_a_package_names_each_of_its_modules(home):
    """In the docstring of its ``__init__``, and no module that is not there."""
    named = set(re.findall(r"``(\w+)``", ast.get_docstring(modules()[f"lib.{home}"])))
    there = {path.stem for path in (ROOT / "lib" / home).glob("*.py")} - {"__init__"}
    assert named == there


def test_the_map_of_lib_names_each_package():
    named = re.findall(r"^    (\w+)  ", ast.get_docstring(modules()["lib"]), re.MULTILINE)
    assert sorted(named) == sorted(MAY_IMPORT)


def test_public_functions_are_documented():
    public = [f"{module}.{node.name}" for module, tree in modules().items() for node in tree.body
              if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
              and node.name != "main" and not ast.get_docstring(node)]
    assert not public, "\n".join(public)


def test_functions_stay_short():
    lengths = [node.end_lineno - node.lineno + 1 for _, node in definitions() if not isinstance(node, ast.ClassDef)]
    assert statistics.median(lengths) < LONGEST_MEDIAN
