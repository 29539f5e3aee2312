"""The claims file, the bibliography and the chapters fit together.

Each rule is a function that lists what breaks it, run on the book and on a small broken book, where it must find the
break: a rule that finds nothing anywhere shows nothing.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jupytext
import pytest
from pybtex.database import parse_file

from lib.record import claims_file, ledger
from lib.record.claims import checks_of

BOOK = Path(__file__).parent.parent / "book"
# lemmas are left out: a lemma only serves a proof
STATEMENTS = "theorem|proposition|corollary|assumption|remark|conjecture|property|observation"
LABEL = re.compile(rf"\{{prf:(?:{STATEMENTS})\}}[^\n]*\n(?:[ ]*:[^\n]*\n)*?[ ]*:label: *(\S+)")
ANY_LABEL = re.compile(r"^[ ]*:label: *(\S+)", re.MULTILINE)
CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")


def chapters(book: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(book.glob("*.md"))}


def code(text: str) -> list[ast.AST]:
    """The syntax nodes of a chapter's code cells."""
    cells = jupytext.reads(text, fmt="md:myst").cells if "```{code-cell}" in text else []
    return [node for cell in cells if cell.cell_type == "code" for node in ast.walk(ast.parse(cell.source))]


def calls_of(text: str, *calls: str) -> list[list[ast.expr]]:
    """Arguments of a chapter's ``claims.verify("id", "check", ...)`` and the like."""
    return [node.args for node in code(text)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "claims" and node.args]


def checked(text: str, *calls: str) -> set[str]:
    """Ids that stand first in those calls."""
    return {args[0].value for args in calls_of(text, *calls) if isinstance(args[0], ast.Constant)}


def strings(text: str) -> set[str]:
    """Every string constant of a chapter's code: ids that reach a check through a variable are among them."""
    return {node.value for node in code(text) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def unknown_labels(book: Path) -> list[str]:
    known = claims_file.read_claims(book / "claims.yml")
    return [f"{name}: {label}" for name, text in chapters(book).items() for label in LABEL.findall(text)
            if label not in known]


def doubled_labels(book: Path) -> list[str]:
    """Labels that stand twice: a reference could mean either."""
    labels = [label for text in chapters(book).values() for label in ANY_LABEL.findall(text)]
    return sorted({label for label in labels if labels.count(label) > 1})


def unknown_checks(book: Path) -> list[str]:
    known = claims_file.read_claims(book / "claims.yml")
    return [f"{name}: {claim}" for name, text in chapters(book).items()
            for claim in sorted(checked(text, "verify", "compare", "skip")) if claim not in known]


def unknown_citations(book: Path) -> list[str]:
    known = set(parse_file(str(book / "references.bib")).entries)
    return [f"{name}: {key.strip()}" for name, text in chapters(book).items() for group in CITATION.findall(text)
            for key in group.split(",") if key.strip() not in known]


def homeless(book: Path) -> list[str]:
    """Claims without a chapter and without a reason."""
    entries = claims_file.read_claims(book / "claims.yml").values()
    return [entry["id"] for entry in entries
            if entry["chapter"] not in chapters(book) and not (entry.get("open") or entry.get("needs"))]


def orphans(book: Path) -> list[str]:
    """Claims that no chapter's code names, without a reason why."""
    named = set().union(*map(strings, chapters(book).values()))
    entries = claims_file.read_claims(book / "claims.yml").values()
    return [entry["id"] for entry in entries
            if entry["id"] not in named and not (entry.get("open") or entry.get("needs"))]


def stale(book: Path) -> list[str]:
    """Claims called open although a chapter checks them."""
    done = set().union(*(checked(text, "verify", "compare") for text in chapters(book).values()))
    entries = claims_file.read_claims(book / "claims.yml")
    return [name for name, entry in entries.items() if "open" in entry and name in done]


def odd_mathematics(book: Path) -> list[str]:
    """Claims with an unpaired dollar sign, or with mathematics where the ledger shows plain text."""
    return [name for name, entry in claims_file.read_claims(book / "claims.yml").items()
            if any(str(entry.get(field, "")).count("$") % 2 for field in ("statement", "deviation", "open", "needs"))
            or any(text.count("$") % 2 for text in entry["hypotheses"]) or "$" in entry["title"] + entry["place"]]


def unknown_check_names(book: Path) -> list[str]:
    """Checks that a chapter runs and the file of claims does not have."""
    known = claims_file.read_claims(book / "claims.yml")
    return [f"{name}: {args[0].value} {args[1].value}" for name, text in chapters(book).items()
            for args in calls_of(text, "verify", "compare") if all(isinstance(arg, ast.Constant) for arg in args[:2])
            and args[1].value not in known.get(args[0].value, {}).get("checks", {})]


def unused_checks(book: Path) -> list[str]:
    """Checks of the file of claims whose name stands in the code of no chapter."""
    named = set().union(*map(strings, chapters(book).values()))
    return [f"{claim}: {check}" for claim, entry in claims_file.read_claims(book / "claims.yml").items()
            for check in entry.get("checks", {}) if check not in named]


def unsaid_breaks(book: Path) -> list[str]:
    """Checks that do not say whether their control breaks a hypothesis or changes the formula."""
    return [f"{claim}: {check}" for claim, entry in claims_file.read_claims(book / "claims.yml").items()
            for check, texts in entry.get("checks", {}).items() if "breaks" not in texts]


def unlabelled_proofs(book: Path) -> list[str]:
    """Proofs that do not name the claim they prove, and proofs of what is no claim and no statement of the page."""
    known, found = claims_file.read_claims(book / "claims.yml"), []
    for name, text in chapters(book).items():
        bare = re.sub(r"(\(proof-[\w-]+\)=\s*\n)+\s*:{3,}\{prf:proof\}", "", text)
        found += [f"{name}: a proof without a label"] * bare.count("{prf:proof}")
        found += [f"{name}: {claim}" for claim in ledger.proofs_in(text)
                  if claim not in known and claim not in ANY_LABEL.findall(text)]
    return found


def unlisted_dependencies(book: Path) -> list[str]:
    """Claims that a proof refers to and that do not stand in its ``depends``."""
    known = claims_file.read_claims(book / "claims.yml")
    return [f"{claim}: {other}" for text in chapters(book).values() for claim, used in ledger.proofs_in(text).items()
            if claim in known for other in sorted(used & set(known)) if other not in known[claim]["depends"]]


HIDDEN = {"hide-input", "remove-input", "remove-cell", "hide-cell"}
LONGEST_CELL = 15  # lines of code that a reader sees at a time


def cells_of(text: str) -> list[tuple[set[str], str]]:
    """Tags and source of a chapter's code cells."""
    cells = jupytext.reads(text, fmt="md:myst").cells if "```{code-cell}" in text else []
    return [(set(cell.metadata.get("tags", [])), cell.source) for cell in cells if cell.cell_type == "code"]


def long_cells(book: Path) -> list[str]:
    """Visible code cells that are too long to read in passing; a cell that only runs checks is never visible."""
    return [f"{name}: {source.splitlines()[0]}" for name, text in chapters(book).items()
            for tags, source in cells_of(text)
            if not tags & HIDDEN and "claims." not in source and len(source.splitlines()) > LONGEST_CELL]


RULES = (unknown_labels, doubled_labels, unknown_checks, unknown_check_names, unused_checks, unsaid_breaks,
         unlabelled_proofs, unlisted_dependencies, long_cells, unknown_citations, homeless, orphans, stale,
         odd_mathematics)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_book_keeps(rule):
    assert rule(BOOK) == []


ENTRY = """
- id: {name}
  title: A title
  source: paper
  place: Sec. 1
  statement: {statement}
  hypotheses: []
  depends: []
  evidence: symbolic
  chapter: {chapter}
  checks:
    holds: {{says: it holds, control: a sign, breaks: mutation}}
"""
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

# Title

See {cite:p}`paper`.

:::{prf:proposition} Title
:label: one

Text.
:::

(proof-one)=
:::{prf:proof}
As in {prf:ref}`one`.
:::

```{code-cell} ipython3
claims.verify("one", "holds", test, given={}, broken={})
```
"""


@pytest.fixture
def small_book(tmp_path):
    (tmp_path / "claims.yml").write_text(ENTRY.format(name="one", statement="$x$", chapter="a"))
    (tmp_path / "references.bib").write_text("@misc{paper, title = {T}, year = {2026}}")
    (tmp_path / "a.md").write_text(CHAPTER)
    return tmp_path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_small_book_keeps(rule, small_book):
    assert rule(small_book) == []


@pytest.mark.parametrize(("rule", "file", "old", "new", "found"), [
    (unknown_labels, "a.md", ":label: one", ":nonumber:\n:label: two", "a: two"),
    (doubled_labels, "a.md", "Text.\n:::", "Text.\n:::\n\n:::{prf:lemma} Title\n:label: one\n:::", "one"),
    (unknown_checks, "a.md", 'verify("one"', 'skip("two"', "a: two"),
    (unknown_check_names, "a.md", 'verify("one", "holds"', 'verify("one", "fails"', "a: one fails"),
    (unused_checks, "a.md", '"holds"', 'name', "one: holds"),
    (unsaid_breaks, "claims.yml", ", breaks: mutation", "", "one: holds"),
    (unlabelled_proofs, "a.md", "(proof-one)=\n", "", "a: a proof without a label"),
    (unlabelled_proofs, "a.md", "(proof-one)=", "(proof-two)=", "a: two"),
    (long_cells, "a.md", "```\n", "```\n\n```{code-cell} ipython3\n" + "x = 1\n" * 16 + "```\n", "a: x = 1"),
    (unknown_citations, "a.md", "`paper`", "`paper, other`", "a: other"),
    (homeless, "claims.yml", "chapter: a", "chapter: b", "one"),
    (orphans, "a.md", 'verify("one"', 'verify("two"', "one"),
    (stale, "claims.yml", "chapter: a", "chapter: a\n  open: not yet", "one"),
    (odd_mathematics, "claims.yml", "$x$", "$x", "one"),
    (odd_mathematics, "claims.yml", "title: A", "title: $A$", "one"),
])
def test_a_broken_small_book_is_found_out(rule, file, old, new, found, small_book):
    path = small_book / file
    path.write_text(path.read_text().replace(old, new))
    assert rule(small_book) == [found]


def test_what_a_proof_refers_to_is_a_dependency(small_book):
    with (small_book / "claims.yml").open("a") as file:
        file.write(ENTRY.format(name="two", statement="x", chapter="a"))
    page = small_book / "a.md"
    page.write_text(page.read_text().replace("As in {prf:ref}`one`", "As in {prf:ref}`two`"))
    assert unlisted_dependencies(small_book) == ["one: two"]


def test_code_is_less_than_a_third_of_the_chapters():
    lines = code_lines = 0
    for text in chapters(BOOK).values():
        lines += len(text.splitlines())
        code_lines += sum(len(source.splitlines()) for _, source in cells_of(text))
    assert code_lines / lines < 1 / 3


def named(check: dict) -> bool:
    return isinstance(check.get("ours"), dict)


@pytest.mark.parametrize("notebook", sorted(BOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_check_shows_a_list_of_numbers_without_names(notebook):
    bare = [check["says"] for check in checks_of(notebook)
            for value in (check.get("ours"), *dict(check.get("ours") or {} if named(check) else {}).values())
            if isinstance(value, list)]
    assert bare == []


def test_a_reason_excuses_a_claim_without_chapter_or_check(small_book):
    with (small_book / "claims.yml").open("a") as file:
        file.write(ENTRY.format(name="two", statement="x", chapter="b") + "  needs: a GPU\n")
    assert homeless(small_book) == orphans(small_book) == []


def test_ids_that_reach_a_check_through_a_variable_are_no_orphans(small_book):
    path = small_book / "a.md"
    path.write_text(path.read_text().replace('claims.verify("one",', 'for name in ["one"]: claims.verify(name,'))
    assert orphans(small_book) == []
