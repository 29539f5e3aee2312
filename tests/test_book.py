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

from lib.record import claims

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


def checked(text: str, *calls: str) -> set[str]:
    """Ids that stand in a chapter's ``claims.verify("id", ...)`` and the like."""
    return {
        node.args[0].value
        for node in code(text)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls
        and isinstance(node.func.value, ast.Name) and node.func.value.id == "claims"
        and node.args and isinstance(node.args[0], ast.Constant)
    }


def strings(text: str) -> set[str]:
    """Every string constant of a chapter's code: ids that reach a check through a variable are among them."""
    return {node.value for node in code(text) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def unknown_labels(book: Path) -> list[str]:
    known = claims.read_claims(book / "claims.yml")
    return [f"{name}: {label}" for name, text in chapters(book).items() for label in LABEL.findall(text)
            if label not in known]


def doubled_labels(book: Path) -> list[str]:
    """Labels that stand twice: a reference could mean either."""
    labels = [label for text in chapters(book).values() for label in ANY_LABEL.findall(text)]
    return sorted({label for label in labels if labels.count(label) > 1})


def unknown_checks(book: Path) -> list[str]:
    known = claims.read_claims(book / "claims.yml")
    return [f"{name}: {claim}" for name, text in chapters(book).items()
            for claim in sorted(checked(text, "verify", "compare", "skip")) if claim not in known]


def unknown_citations(book: Path) -> list[str]:
    known = set(parse_file(str(book / "references.bib")).entries)
    return [f"{name}: {key.strip()}" for name, text in chapters(book).items() for group in CITATION.findall(text)
            for key in group.split(",") if key.strip() not in known]


def homeless(book: Path) -> list[str]:
    """Claims without a chapter and without a reason."""
    entries = claims.read_claims(book / "claims.yml").values()
    return [entry["id"] for entry in entries
            if entry["chapter"] not in chapters(book) and not (entry.get("open") or entry.get("needs"))]


def orphans(book: Path) -> list[str]:
    """Claims that no chapter's code names, without a reason why."""
    named = set().union(*map(strings, chapters(book).values()))
    entries = claims.read_claims(book / "claims.yml").values()
    return [entry["id"] for entry in entries
            if entry["id"] not in named and not (entry.get("open") or entry.get("needs"))]


def stale(book: Path) -> list[str]:
    """Claims called open although a chapter checks them."""
    done = set().union(*(checked(text, "verify", "compare") for text in chapters(book).values()))
    return [name for name, entry in claims.read_claims(book / "claims.yml").items() if "open" in entry and name in done]


def odd_mathematics(book: Path) -> list[str]:
    """Claims with an unpaired dollar sign, or with mathematics where the ledger shows plain text."""
    return [name for name, entry in claims.read_claims(book / "claims.yml").items()
            if any(str(entry.get(field, "")).count("$") % 2 for field in ("statement", "deviation", "open", "needs"))
            or any(text.count("$") % 2 for text in entry["hypotheses"]) or "$" in entry["title"] + entry["place"]]


RULES = (unknown_labels, doubled_labels, unknown_checks, unknown_citations, homeless, orphans, stale, odd_mathematics)


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

```{code-cell} ipython3
claims.verify("one", "says", test, given={}, broken={}, control="")
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


def test_a_reason_excuses_a_claim_without_chapter_or_check(small_book):
    with (small_book / "claims.yml").open("a") as file:
        file.write(ENTRY.format(name="two", statement="x", chapter="b") + "  needs: a GPU\n")
    assert homeless(small_book) == orphans(small_book) == []


def test_ids_that_reach_a_check_through_a_variable_are_no_orphans(small_book):
    path = small_book / "a.md"
    path.write_text(path.read_text().replace('claims.verify("one",', 'for name in ["one"]: claims.verify(name,'))
    assert orphans(small_book) == []
