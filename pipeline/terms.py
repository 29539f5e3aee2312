"""Terms of the glossary, at their first use in a page's text: a link to the entry, which travels with the page.

Whoever points at the term, taps it or reaches it from the keyboard reads the entry in a card, see
``book/_static/book.js``. Nothing is marked in the chapters: terms are found in paragraphs and lists, in the
singular and the plural, and not in headings, links, code, formulas, tables, or parts that are folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser

ENTRY = re.compile(r'<dt id="(term-[^"]*)">(.*?)<a class="headerlink".*?</dt>\s*<dd><p>(.*?)</p>', re.DOTALL)
GLOSSARY = "glossary.html"
#: terms whose word means other things as well, too often for a link that no person set
SEVERAL_MEANINGS = frozenset({"alignment", "contrast", "control", "error", "plane"})
#: words that hold a term and mean something else
OTHER_THINGS = ("causal mask",)
PROSE = {"p", "li"}
CLOSED = {"a", "button", "code", "details", "dl", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "label",
          "math", "pre", "script", "select", "style", "summary", "svg", "table", "textarea"}
CLOSED_CLASSES = {"admonition-title", "cell_input", "checks", "citation-list", "dropdown", "math", "play", "unchecked",
                  "warning"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
DONE = '<div class="term-texts" hidden>'


def entries(glossary: str) -> dict[str, tuple[str, str]]:
    """The terms of a glossary's page -> the place of the entry and its text as HTML."""
    return {re.sub(r"<[^>]*>", "", term).strip(): (place, text) for place, term, text in ENTRY.findall(glossary)}


def linked(page: str, known: Mapping[str, tuple[str, str]]) -> str:
    """The page with each term linked where its text first uses it, and the entries of these terms; once is enough."""
    if DONE in page or not known:
        return page
    reader = _Reader(known)
    reader.feed(page)
    reader.close()
    texts = dict(known.values())
    found = "".join(f'<p id="about-{place}">{texts[place]}</p>' for place in reader.used)
    before, end, after = "".join(reader.written).rpartition("</article>")
    return f"{before}{DONE}{found}</div>{end}{after}" if found and end else page


def pattern(terms: Iterable[str]) -> re.Pattern[str]:
    """What finds the terms in a text, the longest first: at the start of a sentence, in the plural, across lines."""
    named = [(f"(?P<t{number}>{_forms(term)})", term) for number, term in enumerate(terms)]
    parts = [part for part, _ in sorted([*named, *((_forms(words), words) for words in OTHER_THINGS)],
                                        key=lambda each: -len(each[1]))]
    return re.compile(rf"(?<![\w\-–‑])(?:{'|'.join(parts)})(?![\w\-–‑])")


def _forms(term: str) -> str:
    first, rest = term[0], r"\s+".join(map(re.escape, term.split()))[len(re.escape(term[0])):]
    start = f"[{first.upper()}{first}]" if first.islower() else re.escape(first)
    return f"{start}{rest}" if term.endswith("s") else f"{start}{rest}s?"


class _Reader(HTMLParser):
    """Writes a page again as it reads it, with links where terms are first used."""

    def __init__(self, known: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(convert_charrefs=False)
        self.places = [place for place, _ in known.values()]
        self.pattern = pattern(known)
        self.silent = {place for term, (place, _) in known.items() if term in SEVERAL_MEANINGS}
        self.written: list[str] = []
        self.used: list[str] = []
        self.open: list[tuple[str, bool, bool]] = []  # of each open element: its name, whether it is prose, or closed
        self.article = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text = self.get_starttag_text() or ""
        given = dict(attrs)
        self.written.append(text)
        self.article = self.article or tag == "article"
        if tag == "a":
            self._use_linked(given.get("href") or "")
        if tag in VOID or text.endswith("/>"):
            return
        prose, closed = self.open[-1][1:] if self.open else (False, False)
        barred = tag in CLOSED or bool(CLOSED_CLASSES & set((given.get("class") or "").split()))
        self.open.append((tag, prose or tag in PROSE, closed or barred))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self.written.append(f"</{tag}>")
        self.article = self.article and tag != "article"
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        prose, closed = self.open[-1][1:] if self.open else (False, False)
        self.written.append(self.pattern.sub(self._link, data) if self.article and prose and not closed else data)

    def _link(self, found: re.Match[str]) -> str:
        if found.lastgroup is None:  # one of OTHER_THINGS
            return found[0]
        place = self.places[int(found.lastgroup[1:])]
        if place in self.used or place in self.silent:
            return found[0]
        self.used.append(place)
        return f'<a class="term" href="{GLOSSARY}#{place}">{found[0]}</a>'

    def _use_linked(self, address: str) -> None:
        file, _, place = address.partition("#")
        if self.article and file == GLOSSARY and place in self.places and place not in self.used:
            self.used.append(place)

    def handle_entityref(self, name: str) -> None:
        self.written.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.written.append(f"&#{name};")

    def handle_comment(self, data: str) -> None:
        self.written.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.written.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.written.append(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self.written.append(f"<![{data}]>")
