"""The recorded pages in a real browser with the network cut: what a reader sees, wide and narrow, light and dark."""

import re
import shutil
import subprocess
import sys

import pytest

from lib.record import ledger
from pipeline import chapters

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PAGES = [*chapters.chapters(), "references"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The recorded chapters rendered as `make pages` does, every warning an error."""
    output = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "pipeline.pages", str(output), "book", "results/chapters"]
    done = subprocess.run(command, cwd=chapters.ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return output / "book"


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: the pages are not opened")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


def opened(browser, site, name, width=1200, theme="light"):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, offline=True)
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
    return page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_network_and_typesets_all_its_mathematics(browser, site, name):
    page = opened(browser, site, name)
    assert not [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))]
    raw = page.evaluate("[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).length")
    assert raw == 0, f"{raw} formulas are not typeset"
    assert page.evaluate("document.querySelectorAll('mjx-merror, .MathJax_Error').length") == 0
    assert page.evaluate("document.fonts.ready.then(() => [...document.fonts].some(f => /Awesome/.test(f.family)))")
    page.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_its_pictures_speak(browser, site, name):
    page = opened(browser, site, name, width=380, theme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    pictures = page.evaluate("[...document.querySelectorAll('main img')].map(e => e.alt)")
    mute = [alt for alt in pictures if len(alt) < 15 or re.search(r"\.(png|svg)$|^../_images", alt)]
    assert not mute, f"pictures without words: {mute}"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.context.close()


def test_every_status_shows_without_colour(browser, site):
    page = opened(browser, site, "ledger")
    shown = page.evaluate("[...document.querySelectorAll('.ledger-counts .status')].map(e => e.textContent)")
    assert len(shown) == len(set(shown)) == len(ledger.STATUSES)
    assert len({text.split()[0] for text in shown}) == len(ledger.STATUSES)
    page.context.close()


def test_statements_are_numbered_linked_and_their_proofs_fold(browser, site):
    page = opened(browser, site, "routing")
    assert page.locator("#thm-4-3 .admonition-title").inner_text().startswith("Theorem")
    proof = page.locator("details:has(.proof)").first
    assert proof.get_attribute("open") is None
    proof.locator("summary").click()
    assert proof.locator(".proof").first.is_visible()
    page.context.close()


def test_references_answer_to_hovering(browser, site):
    page = opened(browser, site, "index")
    tips = page.evaluate("[...document.querySelectorAll('main a.reference[title], main [title] a, main abbr')].length")
    assert tips > 0
    page.context.close()
