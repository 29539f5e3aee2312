"""Mutation test of `lib.theory`:  python -m pipeline.mutants [--sample 600] [--seed 0] [--only MODULE ...] [--out FILE]

A mutant is a copy of a module with one small error in it: another operator, another number, a condition negated. The
tests should fail on it; a mutant on which they pass has survived. The mutants are those of cosmic-ray's operators
(`OPERATORS`); a sample of them is drawn, spread over the modules in proportion, and each is run against the tests of
its module (`pipeline.mutant_runs`). No file is changed: a mutant exists in the memory of one process.

Outcomes are kept in ``_build/mutants``: a run that was interrupted goes on where it stopped, and a later one repeats
those alone whose module, or tests, or what these import, have changed. ``--survivors`` runs again those that survived
in the recorded run: whether a new test kills them. The command fails if the score is below `SCORE`, or if a survivor is
not explained in ``book/survivors.yml``.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import difflib
import functools
import hashlib
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm

from lib.record import accepted, options, provenance, survivors
from pipeline import imports, mutant_runs

THEORY = imports.ROOT / "lib" / "theory"
#: operators of cosmic-ray, by name: arithmetic, comparisons, logic, numbers, loops, decorators, exceptions
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add|Sub|Mul|Div|Pow)_(Add|Sub|Mul|Div|Pow)"
    r"|ReplaceBinaryOperator_(FloorDiv_Div|Mod_Div|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Eq|NotEq|Lt|LtE|Gt|GtE)"
    r"|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_(USub|Not|Invert)"
    r"|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    r"|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)")
EXPLANATIONS = survivors.EXPLANATIONS
SCORE = 90.0  # percent of the mutants that must be killed


# What can be mutated ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One mutation of one module: which of cosmic-ray's operators, and at which of the operator's places."""

    module: str  # within lib.theory
    operator: str
    occurrence: int
    function: str  # that it stands in; <module> outside all of them
    line: int
    identity: str  # stays when other lines of the module change

    @functools.cached_property
    def source(self) -> str:
        """The module with the mutation in it."""
        return mutated(source_of(self.module), self.operator, self.occurrence)

    @property
    def change(self) -> tuple[str, str]:
        """The lines that differ, before and after the mutation."""
        return changed(source_of(self.module), self.source)


def modules() -> list[str]:
    """The modules of the theory that compute: all but those that draw."""
    return sorted(path.stem for path in THEORY.glob("*.py") if not path.stem.startswith(("figures", "__init__")))


def source_of(module: str) -> str:
    """The text of a module of the theory."""
    return (THEORY / f"{module}.py").read_text(encoding="utf-8")


def operator_names() -> list[str]:
    """The names of the operators that are applied, in cosmic-ray's order."""
    from cosmic_ray import plugins

    return [name for name in plugins.operator_names() if OPERATORS.fullmatch(name)]


def mutated(source: str, operator: str, occurrence: int) -> str:
    """The source after one mutation, as cosmic-ray makes it.

    :raises ValueError: if the operator has no such place
    """
    from cosmic_ray import mutating, plugins

    found = mutating.mutate_code(source, plugins.get_operator(operator)(), occurrence)
    if found is None:
        raise ValueError(f"{operator} has no place {occurrence}")
    return str(found)


def changed(before: str, after: str) -> tuple[str, str]:
    """The lines in which two texts differ, without the indentation they share."""
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    spans = [span[1:] for span in matcher.get_opcodes() if span[0] != "equal"]
    joined = ("\n".join(line for first, last, *_ in spans for line in old[first:last]),
              "\n".join(line for *_, first, last in spans for line in new[first:last]))
    return textwrap.dedent(joined[0]), textwrap.dedent(joined[1])


def mutants_of(module: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module, but for those inside annotations."""
    from cosmic_ray import ast as trees
    from cosmic_ray import plugins

    nodes, lines = list(trees.ast_nodes(trees.get_ast(source))), source.splitlines()
    annotated, functions = _annotated(source), _functions(source)
    seen: collections.Counter[str] = collections.Counter()
    for name in operator_names():
        operator = plugins.get_operator(name)()
        places = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, (line, column) in enumerate(places):
            if any(first <= (line, column) < last for first, last in annotated):
                continue
            text, function = lines[line - 1], functions.get(line, "<module>")
            indent = len(text) - len(text.lstrip())
            place = "\n".join((module, name, function, text.strip(), str(column - indent)))
            identity = hashlib.sha256(f"{place}\n{seen[place]}".encode()).hexdigest()
            seen[place] += 1
            yield Mutant(module, name, occurrence, function, line, identity)


def _annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end, as (line, column); columns count characters of lines that are plain ASCII."""
    notes = []
    for node in ast.walk(ast.parse(source)):
        notes += [getattr(node, field, None) for field in ("annotation", "returns")]
    return [((note.lineno, note.col_offset), (note.end_lineno or 0, note.end_col_offset or 0))
            for note in notes if isinstance(note, ast.expr)]


def _functions(source: str) -> dict[int, str]:
    """Line -> the innermost function or class that it stands in, with those around it."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, around: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = around
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                name = f"{around}.{child.name}".lstrip(".")
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                found.update(dict.fromkeys(range(first, (child.end_lineno or 0) + 1), name))
            visit(child, name)

    visit(ast.parse(source), "")
    return found


def sample(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """That many mutants, from each module in proportion to how many it has; the same ones for the same seed.

    A mutant's rank within its module is a hash of the seed and of the mutant, so that the rest of the sample stays
    where one line of a module changes.
    """
    ranked: dict[str, list[Mutant]] = {}
    rank = lambda mutant: hashlib.sha256(f"{seed} {mutant.identity}".encode()).hexdigest()
    for mutant in sorted(mutants, key=rank):
        ranked.setdefault(mutant.module, []).append(mutant)
    shares = _shares({module: len(ranked[module]) for module in sorted(ranked)}, size)
    return [mutant for module in sorted(ranked) for mutant in ranked[module][:shares[module]]]


def _shares(counts: dict[str, int], size: int) -> dict[str, int]:
    """How many of each module, in proportion (largest remainders), all of them where there are fewer."""
    total = sum(counts.values())
    exact = {module: min(size, total) * count / total for module, count in counts.items()}
    shares = {module: int(share) for module, share in exact.items()}
    left = min(size, total) - sum(shares.values())
    for module in sorted(exact, key=lambda module: shares[module] - exact[module])[:left]:
        shares[module] += 1
    return shares


# The command -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command can be told."""

    sample: int = 600  # how many mutants to run
    seed: int = 0  # of the sample
    only: tuple[str, ...] = ()  # modules of lib.theory; default all that compute
    survivors: bool = False  # run again those that survived in the recorded run, and no others
    out: Path | None = None  # JSON file to record the outcomes in

    def __post_init__(self) -> None:
        accepted.at_least(self, sample=1, seed=0)
        for module in self.only:
            if module not in modules():
                raise ValueError(f"only: there is no module {module!r} to mutate; there are {', '.join(modules())}")


def chosen(asked: Options, mutants: Sequence[Mutant]) -> list[Mutant]:
    """The mutants to run."""
    if not asked.survivors:
        return sample(mutants, asked.sample, asked.seed)
    recorded = {each["identity"] for each in survivors.recorded_test()["curves"]["survivors"]}
    return [mutant for mutant in mutants if mutant.identity in recorded]


def run(mutants: Sequence[Mutant]) -> dict[Mutant, mutant_runs.Outcome]:
    """Each mutant's outcome, from an earlier run of the same code where there is one."""
    suite = mutant_runs.Suite()
    found = {}
    with tqdm.tqdm(mutants, unit="mutant", mininterval=5) as progress:
        for mutant in progress:
            name = f"lib.theory.{mutant.module}"
            found[mutant] = suite.outcome(name, mutant.function, mutant.source, mutant.identity)
            progress.set_postfix(survived=sum(each.fate == "survived" for each in found.values()))
    return found


def summary(generated: Iterable[Mutant], found: dict[Mutant, mutant_runs.Outcome]) -> dict[str, dict[str, int]]:
    """Module -> how many mutants it has, and how many of those that were run ended in which way."""
    counts: dict[str, dict[str, int]] = {}
    for mutant in generated:
        counts.setdefault(mutant.module, dict.fromkeys(("generated", *survivors.FATES), 0))["generated"] += 1
    for mutant, outcome in found.items():
        counts[mutant.module][outcome.fate] += 1
    return counts


def surviving(found: dict[Mutant, mutant_runs.Outcome]) -> list[dict[str, Any]]:
    """The survivors as they are recorded, each with its explanation or an empty one."""
    known, left = survivors.reasons(EXPLANATIONS), []
    for mutant in (mutant for mutant, outcome in found.items() if outcome.fate == "survived"):
        before, after = mutant.change
        left.append({"module": mutant.module, "function": mutant.function, "line": mutant.line, "before": before,
                     "after": after, "operator": mutant.operator.removeprefix("core/"), "identity": mutant.identity,
                     "why": known.get((mutant.module, mutant.function, before, after), "")})
    return left


def record(path: Path, asked: Options, counts: survivors.Counts, left: list[dict[str, Any]], run: provenance.Run,
           before: float) -> None:
    """Write the outcomes with their provenance; among the recorded results, the manifest too.

    :param before: seconds that an interrupted run of the same code took
    """
    parameters = {"sample": asked.sample, "modules": sorted(counts), "operators": operator_names()}
    provenance.save(
        path, experiment="mutants", parameters=parameters | provenance.versions("cosmic_ray", "pytest"),
        seeds=[asked.seed], metrics={name: [count] for name, count in survivors.totals(counts).items()},
        curves={"modules": counts, "survivors": left}, run=run, before=before)
    if path.resolve().is_relative_to(provenance.RECORDED):
        provenance.write_manifest(provenance.RECORDED)


def work(asked: Options) -> None:
    """Draw the mutants, run them, print the score and the survivors, record them."""
    started = provenance.Run("cpu")
    generated = [mutant for module in asked.only or modules() for mutant in mutants_of(module, source_of(module))]
    found = run(chosen(asked, generated))
    counts, left = summary(generated, found), surviving(found)
    print("\n".join([*map(survivors.told_survivor, left), *survivors.lines(counts)]))
    if asked.out is not None:
        before = sum(outcome.seconds for outcome in found.values() if outcome.kept)
        record(asked.out, asked, counts, left, started, before)
    unexplained = sum(not each["why"] for each in left)
    if unexplained:
        sys.exit(f"{unexplained} survivors are not explained in {EXPLANATIONS.relative_to(imports.ROOT)}")
    if not asked.survivors and survivors.score(survivors.totals(counts)) < SCORE:
        sys.exit(f"less than {SCORE:g} % are killed")


main = options.command(Options, work)

if __name__ == "__main__":
    main()
