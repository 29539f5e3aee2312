"""Numbers and their origin in a real browser with the network cut: cards, links, results as pages, filters, CSV."""

import csv
import re

import pytest

from lib.record import provenance, traced_numbers
from pipeline import chapters

PAGES = [*chapters.chapters(), "paper_against_book"]


def opened(browser, site, name, width=1200, theme="light", **more):
    size = {"width": width, "height": 900}
    page = browser.new_context(viewport=size, color_scheme=theme, offline=True, **more).new_page()
    page.goto((site / f"{name}.html").as_uri())
    return page


@pytest.fixture(scope="module")
def rows():
    return provenance.read_json(provenance.RECORDED / "ledger.json")["rows"]


def number(page, claim="table-1", name="L = 10", check="masked-reverse"):
    """The number of that name in the claim's box, which is opened for it by key: a mouse would rest on some number."""
    box = page.locator(f"#claim-box-{claim}")
    box.locator("summary").first.press("Enter")
    line = box.locator("tr", has=page.get_by_text(name, exact=True))
    return line.locator(f"a.number[href$='#check-{claim}-{check}']")


def card_of(page):
    """What the card over a number says; nothing where none is shown."""
    if not page.locator("#number-card").is_visible():
        return {}
    return dict(page.evaluate("""[...document.querySelectorAll('#number-card dt')]
        .map(name => [name.textContent, name.nextElementSibling.textContent])"""))


def test_a_number_with_the_focus_says_where_it_comes_from(browser, site, rows):
    page = opened(browser, site, "one_layer")
    link = number(page)
    assert card_of(page) == {}
    link.focus()
    told, (check, value) = card_of(page), traced_numbers.find(rows, "table-1", "masked-reverse", "L = 10")
    assert (told["paper"], told["this book"], told["interval"]) == (value["paper"], value["ours"], value["interval"])
    assert told["checked in"] == f"one_layer, cell {check['cell']}" and told["seeds"] == value["seeds"] == "10"
    (run,) = [run for run in check["runs"] if run["file"] == "results/one_layer/full_rope.json"]
    assert told["result"] == "one_layer/full_rope"
    assert (told["commit"], told["device"]) == (run["commit"], run["device"])
    assert float(told["seconds"]) == pytest.approx(run["seconds"], rel=1e-3)
    assert {"encoding = rope", "length = 10", "steps = 6000"} <= set(told["parameters"].split(", "))
    assert "after its runs" in told["registered"]
    assert link.get_attribute("aria-describedby") == "number-card"
    page.keyboard.press("Escape")
    assert card_of(page) == {} and link.get_attribute("aria-describedby") is None
    page.context.close()


def test_hovering_shows_the_card_and_leaving_hides_it(browser, site):
    page = opened(browser, site, "one_layer")
    link = number(page)
    link.hover()
    assert card_of(page)["this book"] == link.inner_text()
    page.mouse.move(5, 5)
    page.locator("#number-card").wait_for(state="hidden")
    link.hover()
    page.locator("#number-card").hover()  # it stays for whoever reads it
    page.wait_for_timeout(400)
    assert card_of(page)
    page.mouse.move(5, 5)
    page.locator("#number-card").wait_for(state="hidden")
    page.context.close()


def test_the_first_tap_shows_the_card_within_the_screen_and_the_second_follows(browser, site):
    page = opened(browser, site, "one_layer", width=380, theme="dark", has_touch=True)
    link = number(page)
    link.tap()
    assert card_of(page)["this book"] == link.inner_text() and page.url.endswith("one_layer.html")
    card = page.locator("#number-card").bounding_box()
    assert card["x"] >= 0 and card["x"] + card["width"] <= 380
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    link.tap()
    page.wait_for_url("**/claims/table-1.html#check-table-1-masked-reverse")
    page.context.close()


def test_one_click_leads_to_the_check_and_a_second_to_the_recorded_result(browser, site, rows):
    page = opened(browser, site, "one_layer")
    number(page).click()
    page.wait_for_url("**/claims/table-1.html#check-table-1-masked-reverse")
    check = page.locator("#check-table-1-masked-reverse")
    page.wait_for_function("id => document.getElementById(id).getBoundingClientRect().top < innerHeight",
                           arg="check-table-1-masked-reverse")
    value = traced_numbers.find(rows, "table-1", "masked-reverse", "L = 10")[1]
    check.get_by_role("link", name=value["ours"], exact=True).click()
    page.wait_for_url("**/results/one_layer/full_rope.html")
    assert page.locator("h1").inner_text() == "Recorded result one_layer/full_rope"
    metric = page.get_by_role("row", name=re.compile("^reverse accuracy [0-9]")).inner_text().split("\t")
    assert metric[1:3] == [value["ours"].removesuffix(" %"), value["interval"].removesuffix(" %")]
    file = page.get_by_role("link", name="Download the JSON").get_attribute("href")
    recorded = provenance.RECORDED / "one_layer" / "full_rope.json"
    assert (site.parent / "results" / "one_layer" / file).read_bytes() == recorded.read_bytes()
    page.context.close()


def test_a_number_of_several_results_says_what_they_share_and_where_they_differ(browser, site, rows):
    page = opened(browser, site, "one_layer")
    number(page, check="masked-forward").focus()  # 100 %, which is the mean of many metrics
    told, runs = card_of(page), traced_numbers.find(rows, "table-1", "masked-forward", "L = 10")[0]["runs"]
    assert told["result"].split(", ") == [traced_numbers.name_of(run["file"]) for run in runs]
    assert told["commit"].split(", ") == list(dict.fromkeys(run["commit"] for run in runs))
    assert float(told["seconds"]) == pytest.approx(sum(run["seconds"] for run in runs), rel=1e-3)
    assert {"length = 10 or 20 or 30 or 40", "encoding = rope"} <= set(told["parameters"].split(", "))
    page.context.close()


def test_a_number_in_a_line_says_as_much_as_one_in_a_table(browser, site):
    page = opened(browser, site, "bounds")
    link = page.locator(".check-line a.number").first
    link.focus()
    told = card_of(page)
    assert told["this book"] == link.inner_text() and told["result"] == "chapters/bounds"
    assert {"paper", "seeds", "checked in", "registered", "commit", "device", "seconds", "parameters"} <= told.keys()
    page.context.close()


def test_without_scripts_the_row_and_the_folded_lists_say_the_same(browser, site, rows):
    page = opened(browser, site, "one_layer", java_script_enabled=False)
    box = page.locator("#claim-box-table-1")
    box.locator("summary").first.click()
    value = traced_numbers.find(rows, "table-1", "masked-reverse", "L = 10")[1]
    line = box.locator("tr", has=page.get_by_text(value["ours"], exact=True)).inner_text()
    assert all(value[name] in line for name in ("paper", "interval", "spread"))
    box.locator("summary").nth(2).click()
    assert "one_layer, cell" in box.locator(".origin").nth(1).inner_text()
    page.get_by_text("Where the numbers of this page come from").click()
    assert "steps = 6000" in page.locator("#run-0").inner_text() and page.locator("#run-all").is_visible()
    page.context.close()


@pytest.mark.parametrize(("name", "table"), [("ledger", "table.ledger"), ("paper_against_book", "table.paper")])
def test_a_filter_hides_the_rows_that_do_not_fit(browser, site, name, table):
    page = opened(browser, site, name)
    lines = page.locator(f"{table} > tbody > tr")
    everything, shown = lines.count(), lambda: lines.evaluate_all(
        "found => found.filter(e => e.offsetParent).map(e => e.dataset.status)")
    assert len(shown()) == everything > 50
    page.locator("[data-filter=status]").select_option("deviates")
    assert 0 < len(shown()) < everything and set(shown()) == {"deviates"}
    assert page.locator(".ledger-shown").inner_text().startswith(f"{len(shown())} of {everything} ")
    page.locator("[data-filter=text]").fill("four lengths, masked")
    fitting = len(shown())
    page.locator("[data-filter=text]").fill("no such words")
    assert fitting > 0 and shown() == []
    page.context.close()


def downloaded(page):
    """The lines of the CSV that the page offers."""
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    with download.value.path().open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    page.context.close()
    return lines


def number_or_none(text):
    return None if text == "" else float(text)


def test_the_ledger_as_csv_equals_the_recorded_ledger(browser, site, rows):
    lines = downloaded(opened(browser, site, "ledger"))
    found = [(line["claim"], line["status"], line["check"], line["number"], number_or_none(line["this book"]),
              number_or_none(line["interval low"])) for line in lines]
    expected = [(row["id"], row["status"], check.get("check", ""), value.get("name", ""), value.get("ours"),
                 (value.get("interval") or [None])[0])
                for row in rows for check in row["checks"] or [{}] for value in traced_numbers.values_of(check) or [{}]]
    assert found == expected and len(found) > 800


def test_the_papers_numbers_as_csv_are_those_of_the_page(browser, site, rows):
    page = opened(browser, site, "paper_against_book")
    shown = page.locator("table.paper > tbody > tr").count()
    lines = downloaded(page)
    assert len(lines) == shown
    printed = [(row["id"], value["name"], str(value["paper"])) for row in rows if row["source"] == "paper"
               for check in row["checks"] for value in traced_numbers.values_of(check) if value["paper"] is not None]
    assert len(printed) > 60 and set(printed) <= {(line["claim"], line["number"], line["paper"]) for line in lines}


def test_a_link_to_a_check_in_the_ledger_opens_its_row_and_leads_to_the_claims_page(browser, site):
    page = opened(browser, site, "ledger")
    page.goto(page.url + "#check-table-1-masked-reverse")
    line = page.locator("#check-table-1-masked-reverse")
    line.wait_for(state="visible")
    page.locator("#claim-table-1").get_by_role("link", name="Numbers, controls and recorded results").click()
    page.wait_for_url("**/claims/table-1.html")
    assert line.inner_text() in page.locator("#check-table-1-masked-reverse").inner_text()
    page.context.close()


def test_every_claim_has_a_page_whose_links_lead_somewhere(site, rows):
    pages = {page.stem: page for page in (site.parent / "claims").glob("*.html")}
    assert set(pages) == {row["id"] for row in rows}
    links = {(page.parent / link).resolve() for page in pages.values() for link in re.findall(
        r'href="([^"#]+)', page.read_text(encoding="utf-8"))}
    assert len(links) > 300 and [link for link in links if not link.exists()] == []


@pytest.mark.parametrize("name", ["results/one_layer/full_rope", "results/chapters/bounds", "results/index"])
def test_a_recorded_result_is_a_page_that_needs_nothing_else(browser, site, name):
    for width, theme in ((380, "dark"), (1200, "light")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, offline=True)
        page, wrong = context.new_page(), []
        page.on("request", lambda request, seen=wrong: seen.append(request.url))
        page.on("console", lambda message, seen=wrong: seen.append(message.text))
        page.goto((site.parent / f"{name}.html").as_uri())
        assert len(wrong) == 1  # the page itself
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back))) < 200) is (theme == "dark")
        context.close()


def test_every_number_leads_somewhere(site):
    pages = [*(site.parent / "claims").glob("*.html"), site / "ledger.html"]
    places = {page.resolve(): set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8"))) for page in pages}
    links = {(name, link) for name in PAGES for link in re.findall(
        r'<a class="(?:number|check-link)" href="([^"]+)"', (site / f"{name}.html").read_text(encoding="utf-8"))}
    lost = [(name, link) for name, link in links if link.partition("#")[2] not in places.get(
        (site / link.partition("#")[0]).resolve(), ())]
    assert len(links) > 300 and not lost
    files = [path.name for path in (site.parent / "results").glob("*/*.*")]
    shown, held = ({name.removesuffix(end) for name in files if name.endswith(end)} for end in (".html", ".json"))
    assert shown == held and len(shown) > 300


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_below_a_megabyte(site, name):
    assert (site / f"{name}.html").stat().st_size < 1_000_000
