"""The chapters' own checks of the theory, each as a test that stands alone; `pipeline.mutants` runs them on mutants.

A check is executed with the statements of its chapter that it needs, and no others. It must come out as the recorded
ledger has it (a check that is not recorded yet must hold), and its negative control must fail, or `claims.verify`
raises. pytest does not collect this file by its name: `make test` executes the chapters whole.
"""

import ast
import dataclasses
import functools
import json

import jaxtyping
import jupytext
import matplotlib
import pytest

from lib.record import claims, provenance
from pipeline import chapters, imports

matplotlib.use("Agg")
OTHER_PACKAGES = ("lib.one_layer", "lib.language_models")  # a check that needs them is no check of the theory


@dataclasses.dataclass(frozen=True)
class ChapterCheck:
    chapter: str
    names: str  # claim and check
    line: int
    code: ast.Module
    modules: frozenset[str]  # that its statements import and use

    @property
    def text(self):
        """What is executed."""
        return ast.unparse(self.code)


def stored(statement):
    """Names that a statement gives a value, or changes."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield from (name.id for name in ast.walk(node.value) if isinstance(name, ast.Name))


def loaded(statement):
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


DEFINED = (ast.Lambda, ast.FunctionDef)
RUN = {"claims.verify", "claims.compare"}


def calls(node):
    """The calls that a statement makes, but for those inside functions that it only defines."""
    if isinstance(node, ast.Call):
        yield node
    if not isinstance(node, ast.FunctionDef):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, DEFINED):
                yield from calls(child)


def helpers(body):
    """Names of the functions of a chapter that run checks."""
    return {name for statement in body for part in ast.walk(statement) if isinstance(part, DEFINED)
            for call in ast.walk(part) if isinstance(call, ast.Call) and ast.unparse(call.func) in RUN
            for name in stored(statement) if name != "_"}


def checks_in(statement, also=frozenset()):
    """The checks that a statement runs, by the words that name them; ``also``: further functions that run checks."""
    return [" ".join(name.value if isinstance(name, ast.Constant) else ast.unparse(name) for name in call.args[:2]
                     if not isinstance(name, DEFINED))
            for call in calls(statement) if ast.unparse(call.func) in RUN | also]


def needed_by(statement, earlier, also):
    """The statement after those of the earlier ones that it needs, in their order."""
    needed, kept = loaded(statement), [statement]
    for other in reversed(earlier):
        if needed & set(stored(other)) and not checks_in(other, also):
            needed |= loaded(other)
            kept.insert(0, other)
    return kept


def used_imports(statements):
    """Modules that the statements import, but for names that none of them uses."""
    used = set().union(*map(loaded, statements))
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name).split(".")[0] in used:
                    short = ast.unparse(type(statement)(**{**vars(statement), "names": [alias]}))
                    yield from imports.imports(short)


@functools.cache
def checks():
    """Every check of the theory in the chapters."""
    found = []
    for chapter in chapters.chapters():
        cells = jupytext.read(chapters.source(chapter)).cells
        body = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code")).body
        also = helpers(body)
        for place, statement in enumerate(body):
            names = checks_in(statement, also)
            if names:
                kept = needed_by(statement, body[:place], also)
                modules = frozenset(used_imports(kept))
                if not any(name.startswith(OTHER_PACKAGES) for name in modules):
                    found.append(ChapterCheck(chapter, " and ".join(names), statement.lineno,
                                              ast.Module(kept, []), modules))
    return found


@functools.cache
def recorded():
    """(claim, check) -> whether the recorded ledger has it hold, every time that it ran."""
    rows = json.loads((provenance.RECORDED / "ledger.json").read_text())["rows"]
    found = {}
    for row in rows:
        for check in row["checks"]:
            if "holds" in check:  # else it was skipped
                found.setdefault((row["id"], check["check"]), []).append(check["holds"])
    return {names: all(held) for names, held in found.items()}


@pytest.mark.parametrize("check", checks(), ids=lambda check: f"{check.chapter}-{check.line}-{check.names}")
def test_the_check_comes_out_as_recorded(check, monkeypatch):
    outcomes = []
    monkeypatch.setattr(claims, "_shown", lambda result: outcomes.append(result) or result)
    monkeypatch.chdir(chapters.ROOT / "book")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in the chapters
    exec(compile(check.code, f"{check.chapter}.md", "exec"), {})
    assert outcomes
    for result in outcomes:
        assert result.holds == recorded().get((result.claim, result.check), True), result.check
