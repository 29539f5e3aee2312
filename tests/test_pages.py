"""The recorded pages in a real browser with the network cut: what a reader sees, wide and narrow, light and dark."""

import functools
import http.server
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from lib.record import ledger
from pipeline import chapters, pdf

PAGES = pdf.entries(chapters.ROOT / "_toc.yml")
MODES = [(380, "dark"), (1200, "light")]  # each width and each theme
LARGEST = 1_000_000  # bytes of a page with all that it loads
SLOW = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 100_000}  # 1.6 Mbit/s
# one element with text of each colour, size, weight and background: contrast is the same for all that share them
SAMPLE = """() => {
  const behind = new Map([[null, ""]]), seen = new Set();
  const plain = "rgba(0, 0, 0, 0) none 1";
  for (const each of document.querySelectorAll("html, body, body :not(math > *, math > * *)")) {
    const look = getComputedStyle(each), paint = `${look.backgroundColor} ${look.backgroundImage} ${look.opacity}`;
    behind.set(each, behind.get(each.parentElement) + (paint == plain ? "" : paint + "; "));
    const writes = [...each.childNodes].some(node => node.nodeType == 3 && node.data.trim());
    const kind = [look.color, look.fontSize, look.fontWeight, look.textShadow, behind.get(each)].join("; ");
    const asked = each.checkVisibility() && (each.matches("input, select, textarea") || writes && !seen.has(kind));
    each.toggleAttribute("data-sampled", asked);
    if (asked) seen.add(kind);
  }
  axe.configure({rules: [{id: "color-contrast", selector: "[data-sampled]"}]});
}"""


@pytest.fixture(scope="module")
def axe():
    """The program of axe-core, which looks for what keeps people from reading a page."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed: no audit of access")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def opened(browser, site):
    """Open a page; what it asks for and what it complains of are kept. All are closed after the test."""
    contexts = []

    def open_page(name, width=1200, theme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, offline=True))
        page = contexts[-1].new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and page.complaints.append(said.text))
        page.goto((site / f"{name}.html").as_uri())
        page.evaluate("document.fonts.ready.then(() => true)")
        return page

    yield open_page
    for context in contexts:
        context.close()


# What a page loads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_network_and_shows_its_mathematics_and_figures(opened, name):
    """One opening for what every page is asked wide and light: most of the time goes into opening pages."""
    page = opened(name)
    _needs_no_network(page)
    _shows_its_mathematics(page)
    _numbers_its_figures(page)


def _needs_no_network(page):
    assert not [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))]
    assert page.complaints == []
    assert page.evaluate("[...document.fonts].some(f => /Awesome/.test(f.family) && f.status == 'loaded')")
    files = {Path(unquote(urlsplit(url).path)) for url in page.asked if url.startswith("file:")}
    size = sum(file.stat().st_size for file in files)
    assert size < LARGEST, f"{size / 1e6:.2f} MB"


def _shows_its_mathematics(page):
    raw = page.evaluate(r"""[...document.querySelectorAll("article :not(pre, code, script, style, pre *, code *)")]
        .flatMap(e => [...e.childNodes]).filter(n => n.nodeType == 3).map(n => n.data)
        .filter(text => /\\[([]|\$[^$]{1,40}\$/.test(text))""")
    assert raw == []
    assert page.evaluate("[...document.querySelectorAll('.math')].every(e => e.querySelector('math'))")
    if page.evaluate("[...document.querySelectorAll('article math')].some(e => e.checkVisibility())"):
        assert page.evaluate("[...document.fonts].some(f => /STIX/.test(f.family) && f.status == 'loaded')")


def _numbers_its_figures(page):
    captions = page.locator("main :is(figcaption, .play-caption)").all_inner_texts()
    names = [f"Figure {number} of this chapter" for number in range(1, len(captions) + 1)]
    assert [text.split(":")[0] for text in captions] == names
    assert all(len(text.split(": ", 1)[1]) > 15 for text in captions)
    assert len(captions) == page.locator("main img").count()


UNIT_TWICE = re.compile(r"\d( points| ?%)( \([^)]*\))? (points|percent|%)")


@pytest.mark.parametrize("name", PAGES)
def test_no_number_has_its_unit_twice(site, name):
    """A number from a check brings its unit; the text around it must not say it again."""
    page = (site / f"{name}.html").read_text(encoding="utf-8")
    text = " ".join(BeautifulSoup(page, "html.parser").find("article").get_text().split())
    assert not [text[found.start() - 40 : found.end() + 20] for found in UNIT_TWICE.finditer(text)]


@pytest.mark.parametrize(("text", "twice"), [
    ("fallen by 69.03 points points from", True), ("is -13 points (-26 to 1) points in", True),
    ("98 % (97 to 99) % of", True), ("100 % (100 to 100) percent. So", True), ("85 (83 to 88) percent", False),
    ("5 points in 3 % of", False)])
def test_a_unit_that_is_said_twice_is_found(text, twice):
    assert bool(UNIT_TWICE.search(text)) == twice


@pytest.mark.parametrize("name", ["setup", "premises", "autoregressive"])
def test_a_formula_that_is_wider_than_a_phone_begins_at_its_beginning(opened, name):
    page = opened(name, width=380)
    wide = page.evaluate("""[...document.querySelectorAll("article div.math")].filter(box => box.checkVisibility()
        && box.scrollWidth > box.clientWidth).map(box => box.querySelector("math").getBoundingClientRect().left
        - box.getBoundingClientRect().left)""")
    assert wide and min(wide) >= 0


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    """The pages on a server of this machine: what is read from disk cannot be slowed down."""
    handler = functools.partial(_Quiet, directory=str(site.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["index", "one_layer", "ledger"])
def test_a_slow_line_shows_a_page_within_five_seconds(browser, address, name):
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", SLOW)
    page.goto(f"{address}/book/{name}.html", wait_until="commit", timeout=60_000)
    page.bring_to_front()  # a page behind another one need not be painted
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length", timeout=60_000)
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    assert painted < 5000, f"{painted / 1000:.1f} s to the first paint"


# Where links lead --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parsed(site):
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            for path in [*site.glob("*.html"), *site.parent.glob("*.html")]}


def broken_links(page, soup, parsed):
    """Links of a page to files that are not there, and to places that a page does not have."""
    for link in soup.find_all(href=True):
        target = urlsplit(link["href"])
        if target.scheme:
            continue
        path = (page.parent / unquote(target.path)).resolve() if target.path else page
        nameless = target.fragment and path in parsed and not parsed[path].find(id=unquote(target.fragment))
        if nameless or not path.exists():
            yield link["href"]


def test_no_link_is_broken_and_no_place_is_named_twice(parsed):
    broken, twice = {}, {}
    for page, soup in parsed.items():
        broken[page.name] = sorted(set(broken_links(page, soup, parsed)))
        names = [element["id"] for element in soup.find_all(id=True)]
        twice[page.name] = sorted({name for name in names if names.count(name) > 1})
    assert {page: found for page, found in broken.items() if found} == {}
    assert {page: found for page, found in twice.items() if found} == {}


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "a.html"
    page.write_text("")
    soup = BeautifulSoup('<a href="b.html"></a><a href="#there"></a><a href="#gone"></a><p id="there">', "html.parser")
    assert list(broken_links(page, soup, {page: soup})) == ["b.html", "#gone"]


@pytest.mark.parametrize("name", chapters.chapters())
def test_a_chapter_ends_with_its_run_and_what_can_be_taken_along(parsed, site, name):
    soup = parsed[site / f"{name}.html"]
    foot = {box.find(class_="admonition-title").get_text(): box for box in soup.select(".admonition.dropdown")}
    assert "Executed 20" in foot["Where these numbers come from"].get_text()
    again = foot["Run this chapter again"]
    assert f"make chapter NAME={name} PROFILE=" in again.get_text()
    assert {link["href"] for link in again.find_all("a")} == {f"../_sources/book/{name}.ipynb", f"../scripts/{name}.py"}
    assert f"NAME={name}" in foot["Run this chapter in Google Colab"].get_text()


# Who can read a page -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_nothing_keeps_anyone_from_reading(opened, axe, name):
    """A page fits a phone; axe-core finds nothing critical or serious, all unfolded, in each of `MODES`."""
    page = opened(name, *MODES[0])
    _fits(page)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    pictures = page.evaluate("[...document.querySelectorAll('main img')].map(e => e.alt)")
    mute = [alt for alt in pictures if len(alt) < 15 or re.search(r"\.(png|svg|webp)$|^../_images", alt)]
    assert not mute, f"pictures without words: {mute}"
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.evaluate("document.querySelectorAll('.toggle-hidden').forEach(each => each.classList.remove('toggle-hidden'))")
    page.evaluate(axe)
    found = {mode: _hindrances(page, *mode) for mode in MODES}
    assert not any(found.values()), found


@pytest.mark.parametrize("fault", ["color: #888", "background: #888", "opacity: .5", "font-size: 20px; color: #a0a0a0"])
def test_text_that_is_hard_to_tell_from_its_background_is_found(opened, axe, fault):
    """The last of a page's paragraphs alike, as only one element of each kind is asked for its contrast."""
    page = opened("setup", *MODES[1])
    page.evaluate(axe)
    assert not _hindrances(page, *MODES[1])
    page.locator("article p:visible").last.evaluate("(each, fault) => each.style.cssText = fault", fault)
    assert list(_hindrances(page, *MODES[1])) == ["color-contrast"]


def _fits(page):
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width, f"scrolls sideways at {width}"


def _hindrances(page, width, theme):
    """What axe-core finds critical or serious at a width and in a theme, by rule."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.wait_for_function("theme => document.documentElement.dataset.theme == theme", arg=theme)
    page.wait_for_timeout(300)  # colours change gradually
    _fits(page)
    page.evaluate(SAMPLE)
    # of a formula as a whole, not of its thousands of parts, which have its colour
    asked = "axe.run({exclude: [['math > *']]}, {resultTypes: ['violations'], preload: false})"
    violations = page.evaluate(asked)["violations"]
    return {each["id"]: [node["html"][:120] for node in each["nodes"]]
            for each in violations if each["impact"] in ("critical", "serious")}


def test_figures_stay_legible_on_a_dark_page(opened):
    page = opened("routing", theme="dark")
    figure = page.locator("main a.enlarge img").first
    shown = figure.evaluate("e => { const s = getComputedStyle(e); return [s.filter, s.backgroundColor]; }")
    assert shown == ["none", "rgb(255, 255, 255)"]


def test_a_figure_opens_at_full_size_by_hand_and_by_key_and_closes(opened):
    page = opened("routing", width=380)
    link = page.locator("main a.enlarge").first
    on_page, address = link.locator("img").bounding_box()["width"], page.url
    for do in (link.click, lambda: link.press("Enter")):
        do()
        dialog = page.get_by_role("dialog", name="Figure 1 of this chapter")
        picture = dialog.locator("img")
        picture.wait_for()
        assert picture.get_attribute("alt").startswith("Figure 1 of this chapter: ")
        page.wait_for_function("document.querySelector('dialog.enlarged img').hasAttribute('width')")
        assert picture.bounding_box()["width"] > 1.5 * on_page
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached" if not dialog.count() else "hidden")
        assert link.evaluate("e => e == document.activeElement") and page.url == address


def test_a_term_is_explained_by_hovering_by_tapping_and_from_the_keyboard(browser, site):
    context = browser.new_context(viewport={"width": 380, "height": 800}, offline=True, has_touch=True)
    page = context.new_page()
    page.goto((site / "routing.html").as_uri())
    term, other = page.locator("a.term").nth(0), page.locator("a.term").nth(1)
    card = page.locator("#number-card")
    place = term.get_attribute("href").partition("#")[2]
    text = " ".join(page.locator(f"#about-{place}").text_content().split())
    for do in (term.hover, term.focus, term.tap):
        do()
        card.wait_for()
        assert " ".join(card.text_content().split()).startswith(text)
        assert term.get_attribute("aria-describedby") == "number-card" and page.url.endswith("/routing.html")
        page.keyboard.press("Escape")
        assert not card.is_visible()
        other.evaluate("e => e.blur()")
        term.evaluate("e => e.blur()")
    term.press("Enter")
    page.wait_for_url(f"**/glossary.html#{place}")
    context.close()


@pytest.mark.parametrize(("asked", "place"), [
    ("Theorem 4.3", "routing.html#thm-4-3"), ("Thm. 4.3", "routing.html#thm-4-3"),
    ("Proposition C.1", "gradients.html#prop-c-1"),
    ("Table 1", "one_layer.html#claim-box-table-1"), ("Table 3", "bounds.html#table-3"),
    ("Table 7", "language_models.html#claim-box-table-7"), ("midpoint", "glossary.html#term-midpoint")])
def test_the_search_finds_the_papers_places_first(opened, site, asked, place):
    page = opened("../search")
    page.goto(f"{(site.parent / 'search.html').as_uri()}?q={asked}")
    first = page.locator("#search-results ul.search > li > a").first
    assert first.get_attribute("href").endswith(place)
    assert page.complaints == []


def test_formulas_are_no_stops_for_the_keyboard_and_wide_ones_are(opened):
    page = opened("gradients", width=380)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.wait_for_timeout(300)
    of_each = lambda what: page.evaluate(f"[...document.querySelectorAll('div.math')].map(e => {what})")
    wide, stops = of_each("e.scrollWidth > e.clientWidth + 1"), of_each("e.tabIndex == 0")
    assert wide == stops and any(wide) and not all(wide)
    assert page.evaluate("[...document.querySelectorAll('span.math, span.math *')].every(e => e.tabIndex != 0)")


def test_paper_shows_proofs_and_no_code_bars_dark_on_white(opened):
    page = opened("gradients", theme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details:has(.proof)')].every(e => e.open)")
    assert not page.locator("details.hide > summary").first.is_visible()
    written = page.locator("article :is(h1, h2, p)")
    colours = written.evaluate_all("found => found.map(each => getComputedStyle(each).color)")
    assert set(colours) <= {"rgb(17, 17, 17)", "rgb(68, 68, 68)"}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.dataset.theme") == "light"  # code and boxes as on a light screen
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert not page.locator("details:has(.proof)[open]").count()


def test_every_status_shows_without_colour(opened):
    page = opened("ledger")
    shown = page.evaluate("[...document.querySelectorAll('.ledger-counts .status')].map(e => e.textContent)")
    assert len(shown) == len(set(shown)) == len(ledger.STATUSES)
    assert len({text.split()[0] for text in shown}) == len(ledger.STATUSES)


def test_statements_are_numbered_linked_and_their_proofs_fold(opened):
    page = opened("routing")
    assert page.locator("#thm-4-3 .admonition-title").inner_text().startswith("Theorem 4.3 ")
    referring = opened("bounds").locator('article a.reference[href="routing.html#thm-4-3"]')
    assert set(referring.all_text_contents()) == {"Theorem 4.3"}
    proof = page.locator("details:has(.proof)").first
    assert proof.get_attribute("open") is None
    proof.locator("summary").click()
    assert proof.locator(".proof").first.is_visible()


def test_references_answer_to_hovering(opened):
    page = opened("index")
    tips = page.evaluate("[...document.querySelectorAll('main a.reference[title], main [title] a, main abbr')].length")
    assert tips > 0
