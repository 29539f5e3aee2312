"""The paper's own numbers: on its statements and tables, in what refers to them, and first in the search.

The renderer numbers all statements of a kind through the book. Here a statement of the paper takes the paper's number,
`Theorem 4.3`, and those of this book keep numbers without a gap. The numbers are read from ``place`` in
``book/claims.yml``, where a statement's label is the id of its claim.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

KINDS = {"Thm": "Theorem", "Prop": "Proposition", "Cor": "Corollary", "Lemma": "Lemma", "Assumption": "Assumption",
         "Remark": "Remark", "Table": "Table", "Fig": "Figure", "App": "Appendix", "Sec": "Section"}
#: one place of the paper, or of its first version
PLACE = re.compile(rf"({'|'.join(KINDS)})\.? ((?:[A-Z]|\d+)(?:\.\d+)*)(?: \((\w+)\))?( of v1)?")
STATEMENT = re.compile(
    r'(?P<head><div class="proof \w+ admonition" id="(?P<id>[^"]+)">\s*<p class="admonition-title">)'
    r'<span class="caption-number"(?: data-rank="(?P<rank>[^"]*)")?>(?P<label>[^<]*?) ?</span>(?P<title>.*?)</p>',
    re.DOTALL)
REFERENCE = re.compile(r'(<a class="reference internal" href="[^"#]*#([^"]+)">)[A-Z][a-z]+ [\w.]+(?: of v1)?(</a>)')
#: the paper's number once more, at the end of a title: ... (Thm. 4.3))
REPEATED = re.compile(
    r" ?\((?:v1, )?(?:Theorem|Thm\.?|Proposition|Prop\.|Remark|Assumption|Table) [A-Z\d.]+(, \w+)?\)(?=\)?$)")
#: what a title counts that a query names as a whole: no more than any title that holds one of its words
TITLES = re.compile(r"Scorer\.title(?= \* queryLower)")
SUMMARIES = re.compile(r"SHOW_SEARCH_SUMMARY: true")


def paper_places(place: str) -> list[str]:
    """The places that a claim's ``place`` names, written out; none where it says more than that, such as `beside`."""
    found = [PLACE.fullmatch(part.strip()) for part in place.split(",")]
    return [_written_out(each) for each in found if each] if all(found) else []


def _written_out(found: re.Match[str]) -> str:
    kind, number, part, first = found.groups()
    return f"{KINDS[kind]} {number}{f' ({part})' if part else ''}{first or ''}"


def labels(pages: Iterable[str], places: Mapping[str, str]) -> dict[str, str]:
    """The label of each statement on the pages by its id: the paper's, or the kind and its number among this book's.

    :param places: of each claim, the `place` of ``book/claims.yml``
    """
    found = {each["id"]: each["rank"] or each["label"] for page in pages for each in STATEMENT.finditer(page)}
    named, own = {}, collections.defaultdict(list)
    for name, rank in found.items():
        first = (paper_places(places.get(name, "")) or [""])[0]
        if first and not first.startswith(("Section", "Appendix", "Figure")):
            named[name] = first
        else:
            kind, number = rank.rsplit(" ", 1)
            own[kind].append((int(number), name))
    return named | {name: f"{kind} {number}" for kind, each in own.items()
                    for number, (_, name) in enumerate(sorted(each), 1)}


def labelled(page: str, named: Mapping[str, str]) -> str:
    """The page with these labels on its statements and in what refers to them."""

    def title(found: re.Match[str]) -> str:
        rank, label = found["rank"] or found["label"], named.get(found["id"], found["label"])
        return (f'{found["head"]}<span class="caption-number" data-rank="{rank}">{label} </span>'
                f"{plain_title(found['title'])}</p>")

    def reference(found: re.Match[str]) -> str:
        return f"{found[1]}{named[found[2]]}{found[3]}" if found[2] in named else found[0]

    return REFERENCE.sub(reference, STATEMENT.sub(title, page))


def plain_title(title: str) -> str:
    """A statement's title, in brackets, without the number that its label has."""
    plain = REPEATED.sub(lambda found: found[1] or "", title)
    return "" if plain.strip() in ("", "()") or re.fullmatch(r" ?\(Table \d\)", title) else plain


# The search --------------------------------------------------------------------------------------------------------


def searchable(index: str, pages: Mapping[str, str], named: Mapping[str, str], places: Mapping[str, str]) -> str:
    """The index of the search with the paper's places among its titles.

    :param index: the file ``searchindex.js``
    :param pages: by name below the site, such as ``book/routing``
    :param named: the label of each statement
    :param places: of each claim, the `place` of ``book/claims.yml``
    """
    start, end = index.index("{"), index.rindex("}") + 1
    content = json.loads(index[start:end])
    content["alltitles"] = _with_labels(content["alltitles"], named)
    for title, entries in _place_titles(content["docnames"], pages, places).items():
        content["alltitles"].setdefault(title, entries)
        for other in _short_forms(title):
            content["indexentries"].setdefault(other, [[*entry, True] for entry in entries])
    return index[:start] + json.dumps(content, ensure_ascii=False, separators=(",", ":")) + index[end:]


def _with_labels(titles: Mapping[str, list[list[Any]]], named: Mapping[str, str]) -> dict[str, list[list[Any]]]:
    """Titles of statements, which the renderer lists without their numbers, with them."""
    found: dict[str, list[list[Any]]] = {}
    for title, entries in titles.items():
        for page, place in entries:
            label = named.get(place) if title.startswith(" (") else None
            found.setdefault(f"{label}{plain_title(title)}" if label else title, []).append([page, place])
    return found


def _place_titles(
    documents: Sequence[str], pages: Mapping[str, str], places: Mapping[str, str],
) -> dict[str, list[list[Any]]]:
    """Each place of the paper that claims name -> the pages that treat it and where on them, one entry a page."""
    anchors = {each["id"]: name for name, page in pages.items() for each in STATEMENT.finditer(page)}
    boxes = {box: name for name, page in pages.items() for box in re.findall(r'id="(claim-box-[^"]+)"', page)}
    found: dict[str, dict[str, list[Any]]] = {}
    for claim, place in places.items():
        anchor = claim if claim in anchors else f"claim-box-{claim}"
        page = anchors.get(claim, boxes.get(anchor, ""))
        if page in documents:
            for title in paper_places(place):
                found.setdefault(title, {}).setdefault(page, [documents.index(page), anchor])
    return {title: list(entries.values()) for title, entries in found.items()}


def _short_forms(title: str) -> Iterator[str]:
    """How else one types a place: the paper's abbreviation, with and without its dot."""
    kind, number = title.lower().split(" ", 1)
    for short, name in KINDS.items():
        if name.lower() == kind and short != name:
            yield from (f"{short.lower()} {number}", f"{short.lower()}. {number}")


def search_program(text: str) -> str:
    """The search's program: a title that is asked for as a whole counts 100, as an entry of the index does."""
    return TITLES.sub("100", text)


def search_options(text: str) -> str:
    """Its options: pages that are opened from disk may not be read by a program, so no excerpts of them are shown."""
    return SUMMARIES.sub('SHOW_SEARCH_SUMMARY: location.protocol !== "file:"', text)
