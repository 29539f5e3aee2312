"""Checks and claims as a reader sees them."""

import csv
import io

import pytest

from lib.record import ledger, verdicts

CHECK = {"claim": "no-such-claim", "check": "k", "kind": "numeric", "says": "says <b> `a<b`", "holds": True,
         "control": "the sign", "breaks": "mutation", "scope": "$n<3$", "unit": "%", "paper": None, "ours": None,
         "tolerance": None, "seeds": [], "spread": None, "interval": None, "runs": []}
RUN = {"file": "results/one_layer/full_rope.json", "commit": "abc", "device": "CPU", "seconds": 1194.0}


def check(**fields):
    return {**CHECK, **fields}


def row(name="a", **fields):
    return {"id": name, "title": f"<{name}>", "source": "paper", "place": "Sec. 1", "statement": "$x<1$",
            "hypotheses": ["h"], "depends": [], "chapter": "c", "status": "reproduced", "reason": "",
            "registered": "", "established": True,
            "checks": [], **fields}


def test_values_stand_beside_their_names_with_units():
    shown = verdicts.shown_values(check(ours={"RoPE": 22.5, "ALiBi": 100.0}, spread=[3.0, 0.0], paper={"RoPE": 43.1},
                                  interval={"RoPE": [10.0, 35.0]}))
    assert [verdicts.phrase(value) for value in shown] == [
        "RoPE: 22.5 % ± 3 % (interval 10 to 35 %) (paper: 43.1 %)", "ALiBi: 100 % ± 0 %"]


def test_a_single_value_needs_no_name():
    assert verdicts.phrase(verdicts.shown_values(check(ours=1.23456, paper=1.2, unit=""))[0]) == "1.235 (paper: 1.2)"
    assert verdicts.shown_values(check()) == []


def test_a_box_shows_what_a_check_says_and_escapes():
    page = verdicts.box([check()])
    assert "says &lt;b&gt; <code>a&lt;b</code>" in page and r"\(n&lt;3\)" in page and "<b>✓ holds</b>" in page
    assert "(the formula changed): the sign" in page


def test_a_solver_says_for_which_values_it_decided():
    assert "For all real values" in verdicts.box([check(kind="solver")])
    assert "For all real values" not in verdicts.box([check()])


def test_checks_of_one_claim_share_a_box_that_fails_if_one_does():
    page = verdicts.box([check(), check(says="other", holds=False), {"claim": "a", "skipped": "no GPU"}])
    assert page.count("<details") == 1 and "✗ fails" in page and "(3 checks)" in page and "○ no GPU" in page
    assert "check-skip" in verdicts.box([{"claim": "a", "skipped": "no GPU"}])


@pytest.mark.parametrize(("count", "table"), [(2, False), (3, True)])
def test_many_values_are_a_table(count, table):
    page = verdicts.box([check(ours={f"L={i}": float(i) for i in range(count)})])
    assert ("check-values" in page) is table


def test_a_box_links_the_results_that_were_read():
    page = verdicts.box([check(runs=[RUN])])
    assert '<a href="../results/one_layer/full_rope.json">' in page and "commit abc, CPU, 1194 s" in page


def test_the_ledger_as_html_holds_every_claim_and_escapes():
    origin = {"chapter": "c", "cell": 3, "commit": "c0", "device": "CPU", "profile": "quick", "seconds": 1.0}
    rows = [row("a", checks=[check(**origin), {"claim": "a", "skipped": "why", **origin}], registered="before"),
            row("b", depends=["a"], status="open", reason="why", registered="afterwards")]
    page = verdicts.ledger_table(rows) + verdicts.claim_graph(rows) + verdicts.status_counts(rows)
    assert "&lt;a&gt;" in page and "<a>" not in page and r"\(x&lt;1\)" in page
    assert page.count('id="claim-') == 2 and page.count("<rect") == 2 and page.count('class="edge"') == 1
    assert "Registered before its runs." in page and "Found afterwards" in page
    assert 'c.html#claim-box-a' in page
    for status in ledger.STATUSES:
        assert status in page


def test_the_ledger_as_csv_has_a_line_a_check():
    text = verdicts.as_csv([row(checks=[check(ours={"x": 1.0, "y": 2.0}, runs=[RUN])]), row("b")])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["claim"] for line in lines] == ["a", "b"]
    assert lines[0]["this book"] == "x: 1; y: 2" and lines[0]["results read"] == RUN["file"]


def test_titles_in_the_graph_are_cut_to_two_lines():
    page = verdicts.claim_graph([row("a"), row("b", title="word " * 30, depends=["a"])])
    assert page.count("<text") == 3 and "…" in page
