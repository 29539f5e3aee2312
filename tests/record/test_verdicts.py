"""Checks and claims as a reader sees them."""

import csv
import io

import pytest

from lib.record import claims_file, ledger, traced_numbers, verdicts

CHECK = {"claim": "no-such-claim", "check": "k", "kind": "numeric", "says": "says <b> `a<b`", "holds": True,
         "control": "the sign", "breaks": "mutation", "scope": "$n<3$", "unit": "%", "paper": None, "ours": None,
         "tolerance": None, "seeds": [], "spread": None, "interval": None, "runs": []}
RUN = {"file": "results/one_layer/full_rope.json", "commit": "abc", "device": "CPU", "seconds": 1194.0}
ORIGIN = {"chapter": "c", "cell": 3, "commit": "c0", "device": "CPU", "profile": "quick", "seconds": 1.0,
          "parameters": {"batch": 8}, "registered": ""}


def check(**fields):
    return {**CHECK, **fields}


def row(name="a", **fields):
    return {"id": name, "title": f"<{name}>", "source": "paper", "place": "Sec. 1", "statement": "$x<1$",
            "hypotheses": ["h"], "depends": [], "chapter": "c", "status": "reproduced", "reason": "",
            "registered": "", "established": True,
            "checks": [], **fields}


def test_values_stand_beside_their_names_with_units():
    shown = traced_numbers.shown_values(check(ours={"RoPE": 22.5, "ALiBi": 100.0}, spread=[3.0, 0.0],
                                              paper={"RoPE": 43.1}, interval={"RoPE": [10.0, 35.0]}))
    assert [traced_numbers.phrase(value) for value in shown] == [
        "RoPE: 22.5 % ± 3 % (interval 10 to 35 %) (paper: 43.1 %)", "ALiBi: 100 % ± 0 %"]


def test_a_single_value_needs_no_name():
    shown = traced_numbers.shown_values(check(ours=1.23456, paper=1.2, unit=""))
    assert traced_numbers.phrase(shown[0]) == "1.235 (paper: 1.2)" and traced_numbers.shown_values(check()) == []


def test_a_box_shows_what_a_check_says_and_escapes():
    page = verdicts.box([check()])
    assert "says &lt;b&gt; <code>a&lt;b</code>" in page and r"\(n&lt;3\)" in page and "<b>✓ holds</b>" in page
    assert "(the formula changed): the sign" in page


def test_a_solver_says_for_which_values_it_decided():
    assert "For all real values" in verdicts.box([check(kind="solver")])
    assert "For all real values" not in verdicts.box([check()])


def test_checks_of_one_claim_share_a_box_that_fails_if_one_does():
    page = verdicts.box([check(), check(says="other", holds=False), {"claim": "a", "skipped": "no GPU"}])
    assert page.count("<details") == 1 and "✗ fails" in page and "3 checks" in page and "○ no GPU" in page
    assert " (1 of 3 checks not run here)" in page and "not run here" not in verdicts.box([check()])
    alone = verdicts.box([{"claim": "a", "skipped": "no GPU"}])
    assert "check-skip" in alone and "checks not run here" not in alone


@pytest.mark.parametrize(("count", "table"), [(2, False), (3, True)])
def test_many_values_are_a_table_behind_the_line(count, table):
    line, more = verdicts.box([check(ours={f"L={i}": float(i) for i in range(count)})]).split("</p>", 1)
    assert ("check-values" in more) is table and "check-values" not in line
    assert ("1 check, 3 numbers" in more) is table and ("L=1: 1 %" in line) is not table and "L=1: 1 %" not in more


def test_a_box_says_where_its_numbers_come_from():
    page = verdicts.box([check(**{**ORIGIN, "ours": 22.47, "runs": [{**RUN, "place": 2}], "registered": "before"})])
    assert '<a class="number" href="../claims/no-such-claim.html#check-no-such-claim-k"' in page
    assert 'data-item="0"' in page and '<dl data-runs="2">' in page
    assert '<a href="#run-2">one_layer/full_rope</a>' in page
    for name, told in (("checked in", "c, cell 3"), ("registered", "before its runs started")):
        assert f"<dt>{name}</dt><dd>{told}</dd>" in page


def test_the_results_that_a_page_read_are_listed_once():
    page = verdicts.runs_read([{**RUN, "place": 0, "parameters": {"steps": 9}}], {**ORIGIN, "seconds": 7.0})
    for name, told in (("commit", "abc"), ("seconds", "1194"), ("parameters", "steps = 9"), ("commit", "c0"),
                       ("parameters", "batch = 8")):
        assert page.count(f"<dt>{name}</dt><dd>{told}</dd>") == 1
    assert '<dl id="run-0">' in page and '<dl id="run-page">' in page
    assert "run-all" not in page and "<dd>7</dd>" not in page
    assert '<a href="../results/chapters/c.html">chapters/c</a>' in page
    assert '<a href="../results/one_layer/full_rope.html">one_layer/full_rope</a>' in page


def test_a_notebook_holds_nothing_that_changes_from_run_to_run():
    page = verdicts.box([check(**{**ORIGIN, "ours": 22.47, "runs": [RUN]})], runs=False)
    assert "22.47 %" in page and "<a" not in page and "abc" not in page and "c0" not in page


def test_parameters_that_all_results_of_a_page_share_are_said_once():
    runs = [{**RUN, "place": place, "parameters": {"steps": 9, "length": 10 * place}} for place in (0, 1)]
    page = verdicts.runs_read(runs, {**ORIGIN, "seconds": 7.0})
    assert page.count("steps = 9") == 1 and page.count("<dd>length = ") == 2
    assert page.index('id="run-all"') < page.index("steps = 9") < page.index('id="run-0"')


def test_every_number_of_several_checks_names_its_own_check():
    skipped = {"claim": "no-such-claim", "skipped": "why", **ORIGIN}
    page = verdicts.box([check(**ORIGIN, ours={"a": 1.0}), skipped, check(**ORIGIN, ours={"b": 2.0})])
    assert page.count('data-item="0"') == page.count('data-item="2"') == 1
    assert page.count('<dl data-runs="page">') == 2 and page.count('<div class="check-item">') == 3


def test_the_claims_of_a_section_are_one_box_and_a_claim_alone_has_no_frame():
    page = verdicts.boxes({"a": [check()], "b": [check(says="other")]})
    assert page.count('class="checks together"') == 1 and page.count('class="check-line"') == 2
    assert page.index('id="claim-box-a"') < page.index('id="claim-box-b"')
    assert verdicts.boxes({"a": [check()]}).startswith('<div class="checks"><div id="claim-box-a">')


@pytest.mark.parametrize(("headings", "places"), [
    ([], {8: ["a", "b", "c"]}), ([0, 4], {3: ["a"], 8: ["b", "c"]}), ([3, 5, 6], {3: ["a"], 5: ["b"], 8: ["c"]}),
    ([4, 9], {3: ["a"], 8: ["b", "c"]})])
def test_a_box_stands_where_the_last_check_of_its_section_ran(headings, places):
    assert verdicts.box_places({"b": 5, "a": 3, "c": 8}, headings) == places


DONE = check(**{**ORIGIN, "claim": "a", "ours": 2.5, "runs": [RUN]})
ROWS = [row("a", checks=[DONE, {"claim": "a", "skipped": "why", **ORIGIN}, DONE], registered="before"),
        row("b", depends=["a"], status="open", reason="why", registered="afterwards")]


def test_a_claim_has_a_page_with_all_that_is_known_of_it():
    pages = verdicts.claim_pages(ROWS)
    assert [*pages] == ["a", "b"] and 'Depends on <a href="a.html">&lt;a&gt;</a>' in pages["b"]
    page = pages["a"]
    for told in ("the formula changed", "the sign", "<li>h</li>", "says &lt;b&gt;", "cell 3, commit c0, CPU", "○ why",
                 "Registered before its runs.", claims_file.SOURCES["paper"],
                 'href="../book/ledger.html#claim-a"', 'href="../book/c.html#claim-box-a"'):
        assert told in page
    assert page.count('id="check-a-k"') == 1 and page.count("the sign") == 2
    assert '<a class="number" href="../results/one_layer/full_rope.html">2.5 %</a>' in page


def test_the_ledger_as_html_holds_every_claim_and_escapes():
    rows = ROWS
    page = verdicts.ledger_table(rows) + verdicts.claim_graph(rows) + verdicts.status_counts(rows)
    assert "&lt;a&gt;" in page and "<a>" not in page and r"\(x&lt;1\)" in page
    assert page.count('id="claim-') == 2 and page.count("<rect") == 2 and page.count('class="edge"') == 1
    assert "Registered before its runs." in page and "Found afterwards" in page
    assert 'c.html#claim-box-a' in page and page.count('id="check-a-k"') == 1
    assert page.count('href="../claims/') == 2 and page.count("says &lt;b&gt;") == 2 and "○ why" in page
    assert "2.5 %" not in page and "the sign" not in page  # which stand on the claim's own page
    for status in ledger.STATUSES:
        assert status in page


def test_the_ledger_as_csv_has_a_line_a_number():
    found = check(ours={"x": 1 / 3, "y": 2.0}, interval={"x": [0.1, 0.5]}, runs=[RUN])
    text = verdicts.as_csv([row(checks=[found, check()]), row("b")])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["claim"], line["number"], line["this book"]) for line in lines] == [
        ("a", "x", str(1 / 3)), ("a", "y", "2.0"), ("a", "", ""), ("b", "", "")]
    assert (lines[0]["interval low"], lines[0]["interval high"], lines[1]["interval low"]) == ("0.1", "0.5", "")
    assert lines[0]["results read"] == RUN["file"] and lines[3]["status"] == "reproduced"


COMPARED = check(**{**ORIGIN, "tolerance": 1.0, "ours": {"x": 2.5, "y": 2.0}, "paper": {"x": 3.0, "y": 4.0},
                    "interval": {"x": [1.0, 3.0]}})
PAPER_ROWS = [
    row("t", place="Table 1", checks=[COMPARED, check(**ORIGIN, ours=7.5)]), row("u", status="not run here"),
    row("v", source="project", checks=[check(**ORIGIN, ours=1.0, paper=9.0)])]


@pytest.fixture
def printed(monkeypatch):
    known = {"t": {"printed": {"y": 5.0, "": 7.0}}, "u": {"printed": {"one run": "7 to 8 hours"}}}
    monkeypatch.setattr(verdicts, "known_claims", lambda: known)
    assert {"printed"} <= set(claims_file._OPTIONAL)


def test_the_papers_numbers_are_those_of_checks_and_those_that_no_check_compares_with(printed):
    found = [(each["row"]["id"], each["name"], each["paper"], each["ours"])
             for each in verdicts.paper_numbers(PAPER_ROWS)]
    assert found == [("t", "x", 3.0, 2.5), ("t", "y", 4.0, 2.0), ("t", "", 7.0, 7.5),
                     ("u", "one run", "7 to 8 hours", None)]


def test_the_papers_numbers_as_a_table_and_as_csv(printed):
    page = verdicts.paper_table(PAPER_ROWS)
    assert page.count("<tr data-status=") == 4 and "7 to 8 hours" in page and "1 to 3 %" in page
    assert 'href="ledger.html#claim-u"' in page and page.count('class="number"') == 3 and "✓ within 1" in page
    assert "registered&#58; " not in page and "no recorded run" in page
    lines = list(csv.DictReader(io.StringIO(verdicts.paper_csv(PAPER_ROWS))))
    assert [(line["paper"], line["this book"], line["status"]) for line in lines] == [
        ("3.0", "2.5", "reproduced"), ("4.0", "2.0", "reproduced"), ("7.0", "7.5", "reproduced"),
        ("7 to 8 hours", "", "not run here")]
    assert (lines[0]["interval low"], lines[0]["check holds"], lines[3]["check holds"]) == ("1.0", "True", "")


def test_titles_in_the_graph_are_cut_to_two_lines():
    page = verdicts.claim_graph([row("a"), row("b", title="word " * 30, depends=["a"])])
    assert page.count("<text") == 3 and "…" in page
