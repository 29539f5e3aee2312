"""Finish rendered pages: formulas become MathML, and nothing travels with a page that it does not use.

Sphinx and its theme link, on every page, a program that typesets formulas, one that draws icons, one that starts
kernels on other machines, and stylesheets for parts that no page has: 3 MB in all. Here formulas are typeset once, when
the pages are made; fonts keep the characters that occur, stylesheets the rules that can apply, and pictures are stored
as WebP without loss. A page that is finished already stays as it is.
"""

from __future__ import annotations

import functools
import html
import importlib.util
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import math_core
import tinycss2
from fontTools import subset
from PIL import Image

from pipeline import page_figures, statements, terms
from pipeline.pictures import few_colours
from pipeline.settings import Refused

#: text between tags, where formulas stand; code, scripts and styles are left alone
TOKENS = re.compile(r"(<(pre|code|script|style|textarea|math)\b.*?</\2>|<!--.*?-->|<[^>]*>)", re.DOTALL)
FORMULA = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
ROW_SPACE = re.compile(r"\\\\\s*\[-?[\d.]+\s*[a-z]{2}\]")  # after a row, such as \\[2pt], which MathML rows do not take
#: what Sphinx and the theme put on a page and no page uses
UNUSED = re.compile(
    r'[ \t]*<script[^>]*src="[^"]*(?:/fontawesome\.js|/sphinx-thebe\.js|/mathjax@|/design-tabs\.js)[^"]*"[^>]*>'
    r"</script>\s*?\n?|[ \t]*<link[^>]*/sphinx-thebe\.css[^>]*>\s*?\n?"
    r'|<script type="text/x-thebe-config">.*?</script>|<script>(?:const THEBE_JS_URL|kernelName|window\.MathJax)[^<]*'
    r"</script>", re.DOTALL)
REPEATED = re.compile(r'(<(?:section|div)\b[^>]*?) id="proof(?:-content)?"')  # sphinx-proof gives it to all statements
#: Sphinx calls the references a list, and each of them an entry of a bibliography, which no list may hold
REFERENCES = re.compile(r'<div role="list" class="citation-list">')
EXECUTED = 'class="cell '  # what the page of a chapter has, and no page of text alone
POINTS = 110  # of a picture's points to the inch, as many as a page's
FIGURE = re.compile(r'(<a class="enlarge"[^>]*>)?(<img [^>]*src="([^"]*_images/[^"]*)"[^>]*>)')
ESCAPE = re.compile(r"\\([0-9a-f]{4})(?![0-9a-f])")  # a character as a stylesheet writes it
PRIVATE = re.compile("[\ue000-\uf8ff]")  # where the icon font keeps its characters
#: letters that browsers put for a formula's plain ones
ITALIC = "".join(map(chr, [*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), 0x210E]))
ROOT = "\N{SQUARE ROOT}"  # what browsers draw a root with, which <msqrt> does not name
STYLES = ("styles/pydata-sphinx-theme.css", "sphinx-design.min.css", "mystnb.*.css")
LEFT_OVER = ("scripts/fontawesome.js*", "sphinx-thebe.*", "design-tabs.js", "**/*.map",
             "vendor/fontawesome/webfonts/*")
MATHEMATICS, ICONS = "stix-two-math.woff2", "fa-solid-900"


def finish(site: Path, places: Mapping[str, str] | None = None) -> None:
    """Finish all pages of a site, in place.

    :param places: of each claim, the place of the paper that it stands for; statements take the paper's numbers
    :raises Refused: for a formula that cannot be typeset, with its page
    """
    before = {page: page.read_text(encoding="utf-8") for page in sorted(site.rglob("*.html"))}
    texts = explained({page: plain(page, text) for page, text in before.items()}, site / "book" / terms.GLOSSARY)
    named = statements.labels(texts.values(), places or {})
    texts = {page: statements.labelled(text, named) for page, text in texts.items()}
    for page, text in texts.items():
        if text != before[page]:
            page.write_text(text, encoding="utf-8")
    search(site, {page.relative_to(site).with_suffix("").as_posix(): text for page, text in texts.items()}, named,
           places or {})
    static = site / "_static"
    remove(static)
    stylesheets(texts.values(), static)
    fonts(texts.values(), static)


def plain(page: Path, text: str) -> str:
    """A page with its formulas typeset, its figures numbered, and without what it does not use.

    :raises Refused: for a formula that cannot be typeset
    """
    try:
        done = typeset(REFERENCES.sub('<div class="citation-list">', REPEATED.sub(r"\1", UNUSED.sub("", text))))
    except math_core.LatexError as error:
        raise Refused(f"{page.name}: a formula cannot be typeset: {error}") from None
    return page_figures.numbered(enlargeable(pictures(done, page.parent)))


def explained(texts: Mapping[Path, str], glossary: Path) -> dict[Path, str]:
    """The pages, the terms of the glossary linked on those that were executed."""
    known = terms.entries(texts.get(glossary, ""))
    return {page: terms.linked(text, known) if EXECUTED in text else text for page, text in texts.items()}


def search(site: Path, texts: Mapping[str, str], named: Mapping[str, str], places: Mapping[str, str]) -> None:
    """Let the search know the paper's places, see `pipeline.statements`; nothing where a site has none."""
    static = site / "_static"
    for path, changed in ((site / "searchindex.js", lambda text: statements.searchable(text, texts, named, places)),
                          (static / "searchtools.js", statements.search_program),
                          (static / "documentation_options.js", statements.search_options)):
        if path.exists():
            path.write_text(changed(path.read_text(encoding="utf-8")), encoding="utf-8")


# Formulas ----------------------------------------------------------------------------------------------------------


def typeset(page: str) -> str:
    r"""Formulas between ``\(`` and ``\)``, or ``\[`` and ``\]``, as MathML.

    :raises math_core.LatexError: for a formula that is not understood
    """
    return "".join(FORMULA.sub(_typeset_match, part) if part and not part.startswith("<") else part or ""
                   for part in _without_tag_names(page))


def _without_tag_names(page: str) -> Iterator[str]:
    """The page in parts, tags and what is between them; the names that `TOKENS` captures are none of it."""
    parts = TOKENS.split(page)
    for place, part in enumerate(parts):
        if place % 3 != 2:
            yield part


def _typeset_match(found: re.Match[str]) -> str:
    inline, display = found.groups()
    return mathml(html.unescape(inline or display), display is not None)


@functools.cache
def mathml(formula: str, display: bool) -> str:
    """One formula as MathML.

    :raises math_core.LatexError: for a formula that is not understood
    """
    known = ROW_SPACE.sub(r"\\\\ ", formula).replace("{split}", "{aligned}").replace("{smallmatrix}", "{matrix}")
    try:
        return _converter().convert_with_local_state(known, displaystyle=display)
    except math_core.LatexError as error:
        raise math_core.LatexError(f"{error} in {formula.strip()!r}") from None


@functools.cache
def _converter() -> math_core.LatexToMathML:
    return math_core.LatexToMathML(fancy_error=False, allow_unreliable_rendering=True)


# Pictures, fonts, stylesheets --------------------------------------------------------------------------------------


def pictures(page: str, folder: Path) -> str:
    """The page with each PNG that Sphinx put into ``_images`` as a WebP picture of few colours.

    One with more points to the inch than a page has is kept for dense screens, and shown at a page's size.
    """
    for name in set(re.findall(r'(?:src|href)="([^"]*_images/[^"]*)\.png"', page)):
        source = (folder / f"{name}.png").resolve()
        if source.exists():
            page = page.replace(f'src="{name}.png"', _stored(source, name))
        page = page.replace(f"{name}.png", f"{name}.webp")
    return page


def _stored(source: Path, name: str) -> str:
    """Store a picture as WebP, its PNG deleted; returns the attributes of an image that shows it."""
    picture = Image.open(source)
    finer = max(1.0, picture.info.get("dpi", (POINTS, POINTS))[0] / POINTS)
    shown = tuple(round(side / finer) for side in picture.size)
    to_webp(picture, source.with_suffix(".webp"))
    size = f'width="{shown[0]}" height="{shown[1]}"'
    if shown != picture.size:
        to_webp(picture.convert("RGB").resize(shown, Image.Resampling.BOX), source.with_suffix(".1x.webp"))
        size += f' srcset="{name}.webp {finer:.3g}x"'
    source.unlink()
    return f'src="{name}{".1x" if shown != picture.size else ""}.webp" {size}'


def to_webp(picture: Image.Image, to: Path) -> None:
    """Write a picture of few colours; nothing is lost beyond the merging of colours."""
    few_colours(picture).save(to, lossless=True, method=4, quality=75)


def enlargeable(page: str) -> str:
    """The page with each figure as a link to itself, which a browser shows at full size."""
    return FIGURE.sub(_linked, page)


def _linked(found: re.Match[str]) -> str:
    already, picture, address = found.groups()
    finer = re.search(r'srcset="([^" ]*)', picture)
    return found[0] if already else f'<a class="enlarge" href="{finer[1] if finer else address}">{picture}</a>'


def remove(static: Path) -> None:
    """Delete what no page links any more."""
    for path in {path for pattern in LEFT_OVER for path in static.glob(pattern)}:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def fonts(pages: Iterable[str], static: Path) -> None:
    """The fonts of formulas and icons, with the characters that the pages and their stylesheets name and no others."""
    shown = {character for page in pages for formula in re.findall(r"<math\b.*?</math>", page, re.DOTALL)
             for character in html.unescape(re.sub(r"<[^>]*>", "", formula))}
    source = package("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
    write_subset(source, "".join(sorted(shown)) + ITALIC + ROOT, static / MATHEMATICS)
    sheets = [path.read_text(encoding="utf-8") for path in static.rglob("*.css")]
    points = {point for sheet in sheets for point in PRIVATE.findall(ESCAPE.sub(lambda e: chr(int(e[1], 16)), sheet))}
    webfonts = Path("vendor", "fontawesome", "webfonts")
    theme = package("pydata_sphinx_theme") / "theme" / "pydata_sphinx_theme" / "static"
    write_subset(theme / webfonts / f"{ICONS}.ttf", "".join(sorted(points)), static / webfonts / f"{ICONS}.woff2")


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None, f"{name} is among the requirements"
    return Path(found.origin).parent


def write_subset(source: Path, characters: str, to: Path) -> None:
    """A font with some of its characters, as WOFF2; of the features, those that formulas need."""
    options = subset.Options(flavor="woff2", layout_features=["ssty", "dtls", "flac"], notdef_outline=True)
    font = subset.load_font(str(source), options)
    chosen = subset.Subsetter(options)
    chosen.populate(text=characters)
    chosen.subset(font)
    to.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(to), options)


def stylesheets(pages: Iterable[str], static: Path) -> None:
    """The theme's stylesheets without the rules for classes that stand neither on a page nor in a script."""
    words = {word for page in pages for value in re.findall(r'class="([^"]*)"', page) for word in value.split()}
    for path in static.rglob("*.js"):
        words.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    for path in [path for pattern in STYLES for path in static.glob(pattern)]:
        sheet = tinycss2.parse_stylesheet(path.read_text(encoding="utf-8"), skip_whitespace=True)
        path.write_text("".join(kept_rule(rule, words) for rule in sheet), encoding="utf-8")


def kept_rule(rule: Any, words: set[str]) -> str:
    """A rule of a stylesheet, without the selectors that can match nothing; a licence stays, other comments go."""
    if rule.type == "comment":
        return rule.serialize() if rule.value.startswith("!") and "sourceMapping" not in rule.value else ""
    if rule.type == "qualified-rule":
        kept = [selector for selector in selectors(rule.prelude) if classes(selector) <= words]
        return f"{','.join(map(tinycss2.serialize, kept))}{{{tinycss2.serialize(rule.content)}}}" if kept else ""
    if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports") and rule.content is not None:
        inner = "".join(kept_rule(each, words)
                        for each in tinycss2.parse_rule_list(rule.content, skip_whitespace=True))
        return f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}" if inner else ""
    return rule.serialize()


def selectors(prelude: list[Any]) -> list[list[Any]]:
    """The selectors of a rule, which commas separate."""
    found: list[list[Any]] = [[]]
    for token in prelude:
        if token.type == "literal" and token.value == ",":
            found.append([])
        else:
            found[-1].append(token)
    return found


def classes(selector: list[Any]) -> set[str]:
    """The classes that an element must have for a selector to match; those inside ``:not(...)`` and the like aside."""
    return {second.value for first, second in itertools.pairwise(selector) if first == "." and second.type == "ident"}
