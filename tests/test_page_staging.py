"""What the page builder changes in an executed chapter before it is rendered, and what it puts beside the pages."""

import csv
import io
import json

import nbformat
import pytest

from lib.record import provenance, verdicts
from lib.record.claims import METADATA_KEY
from lib.record.claims_file import LedgerError
from pipeline import ledger, pages

RUN = {"file": "results/one_layer/full_rope.json", "commit": "abc", "device": "CPU", "seconds": 3.0, "registered": {}}
CHECK = {"claim": "no-such-claim", "check": "k", "kind": "numeric", "says": "first", "holds": True, "control": "sign",
         "breaks": "", "scope": "", "unit": "", "paper": None, "ours": None, "tolerance": None, "seeds": [],
         "spread": None, "interval": None, "runs": []}


def cell(*checks):
    outputs = [nbformat.v4.new_output("display_data", {"text/plain": ""}, metadata={METADATA_KEY: {**CHECK, **check}})
               for check in checks]
    return nbformat.v4.new_code_cell("claims.verify(...)", outputs=outputs)


def boxes(found):
    return [output.data["text/html"] for output in found.outputs]


def test_the_checks_of_a_claim_are_one_box_where_the_last_of_them_ran():
    figure = nbformat.v4.new_code_cell("plot()", outputs=[nbformat.v4.new_output("stream", text="kept")])
    first, second = cell({}), cell({"says": "second", "runs": [RUN]}, {"claim": "another-claim", "says": "other"})
    assert pages.gather_checks(nbformat.v4.new_notebook(cells=[first, figure, second])) == (
        {RUN["file"]}, {"no-such-claim", "another-claim"})
    assert first.outputs == [] and figure.outputs[0].text == "kept"
    (both,) = boxes(second)
    shared, other = both.split('<div id="claim-box-another-claim">')
    assert "2 checks" in shared and "first" in shared and "second" in shared and "other" in other
    assert 'id="claim-box-no-such-claim"' in shared


def test_the_claims_of_one_section_share_a_box_and_those_of_the_next_have_their_own():
    heading = nbformat.v4.new_markdown_cell("Text.\n\n## Section")
    part = nbformat.v4.new_markdown_cell("### Part of it\n\n#hash")
    cells = [cell({}), part, cell({"claim": "second"}), heading,
             cell({"claim": "third"})]
    pages.gather_checks(nbformat.v4.new_notebook(cells=cells))
    assert cells[0].outputs == []
    (both,), (alone,) = boxes(cells[2]), boxes(cells[4])
    assert 'class="checks together"' in both and "claim-box-no-such-claim" in both and "claim-box-second" in both
    assert 'class="checks"' in alone and "claim-box-third" in alone


def test_the_code_of_checks_is_not_on_the_page_and_other_code_is():
    plot, check = nbformat.v4.new_code_cell("plot()"), cell({})
    check.metadata["tags"] = ["hide-input", "nbval-check-output"]
    pages.gather_checks(nbformat.v4.new_notebook(cells=[plot, check]))
    assert check.metadata["tags"] == ["nbval-check-output", "remove-input"] and "tags" not in plot.metadata
    assert "claims" not in check


def test_numbers_say_where_they_come_from_by_the_record_of_the_chapter_and_the_ledger(results):
    first, second = nbformat.v4.new_code_cell("x"), cell({"ours": 1.5, "runs": [RUN]}, {"check": "own", "ours": 2.5})
    traced = pages.traced_by(CHAPTER, [{"id": "no-such-claim", "registered": "before"}], results)
    pages.gather_checks(nbformat.v4.new_notebook(cells=[first, second]), traced, CHAPTER)
    (shown,) = boxes(second)
    for name, told in (("checked in", "c, cell 1"), ("registered", "before its runs started"), ("commit", "abc"),
                       ("commit", "page"), ("parameters", "steps = 6000"), ("parameters", "batch = 8")):
        assert f"<dt>{name}</dt><dd>{told}</dd>" in shown
    assert shown.count('data-run="0"') == 1 and shown.count('<dl id="run-0">') == 1


def test_a_result_that_several_checks_read_has_one_place():
    checks = [{"runs": [{"file": "b"}, {"file": "a"}]}, {}, {"runs": [{"file": "a"}, {"file": "c"}]}]
    assert [run["file"] for run in pages.place_runs(checks)] == ["b", "a", "c"]
    assert [[run["place"] for run in check.get("runs", ())] for check in checks] == [[0, 1], [], [1, 2]]


CHAPTER = {"chapter": "c", "commit": "page", "device": "CPU", "profile": "quick", "parameters": {"batch": 8},
           "cells": {"1": 0.5}, "seconds": 1.0, "started": "today", "versions": {}}
MADE = {name: CHAPTER[name] for name in ("chapter", "commit", "device", "profile", "parameters")}
ROWS = [{"id": "no-such-claim", "title": "T", "source": "paper", "place": "Sec. 1", "status": "reproduced",
         "registered": "", "chapter": "c", "reason": "", "statement": "s", "hypotheses": [], "depends": [],
         "established": True, "checks": [{**CHECK, **MADE, "cell": 1, "seconds": 0.5, "ours": 1.5, "paper": 2.0,
                                          "runs": [RUN]}]}]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """This build's results: one run, the record of a chapter, and the ledger."""
    folder = tmp_path / "built"
    run = {"experiment": "one_layer", "parameters": {"steps": 6000}, "seeds": [0, 1], "curves": {},
           "metrics": {"reverse_accuracy": [1.0, 2.0]}, "provenance": {"commit": "abc"}}
    for name, content in (("one_layer/full_rope", run), ("chapters/c", CHAPTER), ("ledger", {"rows": ROWS}),
                          ("one_layer/.draft", run), ("other/unlike", [1])):
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    monkeypatch.setattr(provenance, "RECORDED", tmp_path / "results")
    monkeypatch.setattr(pages.chapters, "ROOT", tmp_path)
    return folder


def test_each_result_has_a_page_beside_it_and_the_ledger_a_csv(results, tmp_path):
    (tmp_path / "html" / "book").mkdir(parents=True)
    pages.accompany(tmp_path / "html", ["results/one_layer/full_rope.json", "results/gone/since.json"], results)
    made = {path.relative_to(tmp_path / "html").as_posix() for path in (tmp_path / "html").rglob("*.*")}
    assert made == {"results/one_layer/full_rope.json", "results/one_layer/full_rope.html", "results/chapters/c.json",
                    "results/chapters/c.html", "results/index.html", "book/ledger.csv", "book/paper_against_book.csv",
                    "claims/no-such-claim.html"}
    claim = (tmp_path / "html" / "claims" / "no-such-claim.html").read_text()
    assert 'href="../results/one_layer/full_rope.html">1.5</a>' in claim and 'id="check-no-such-claim-k"' in claim
    shown = (tmp_path / "html" / "results" / "one_layer" / "full_rope.html").read_text()
    assert "6000" in shown and 'ledger.html#claim-no-such-claim">T</a>' in shown
    with (tmp_path / "html" / "book" / "ledger.csv").open(newline="") as file:
        assert [line["this book"] for line in csv.DictReader(file)] == ["1.5"]


def test_a_number_without_told_seeds_has_those_of_its_result_in_card_and_csv(results, tmp_path):
    check = {**ROWS[0]["checks"][0], "interval": [1.0, 2.0]}
    (results / "ledger.json").write_text(json.dumps({"rows": [{**ROWS[0], "checks": [check]}]}))
    rows = pages.ledger_rows(results)
    (line,) = csv.DictReader(io.StringIO(verdicts.as_csv(rows)))
    (paper,) = csv.DictReader(io.StringIO(verdicts.paper_csv(rows)))
    assert line["seeds"] == paper["seeds"] == "2"
    text = nbformat.v4.new_markdown_cell("{number}`no-such-claim/k`")
    pages.link_numbers(nbformat.v4.new_notebook(cells=[text]), rows, "c")
    assert "seeds: 2&#10;" in text.source


def test_the_parts_of_the_ledgers_page_are_made_from_the_ledger_beside_it():
    table, other = map(nbformat.v4.new_code_cell, ("HTML(verdicts.ledger_table(rows))", "HTML(rows)"))
    table.outputs = [nbformat.v4.new_output("display_data", {"text/html": "old"})]
    pages.show_ledger(nbformat.v4.new_notebook(cells=[table, other]), ROWS)
    (shown,) = boxes(table)
    assert 'id="claim-no-such-claim"' in shown and "old" not in shown and other.outputs == []


def test_a_number_that_the_text_names_is_put_in_its_place():
    text = nbformat.v4.new_markdown_cell("It is {number}`no-such-claim/k` and not {number}.")
    shown = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output(
        "display_data", {"text/markdown": "| {number}`no-such-claim/k` |"})])
    pages.link_numbers(nbformat.v4.new_notebook(cells=[text, shown]), ROWS, "c")
    assert text.source.startswith('It is <a class="number" href="../claims/no-such-claim.html#check-no-such-claim-k"')
    assert text.source.endswith(">1.5</a> and not {number}.") and ">1.5</a>" in shown.outputs[0].data["text/markdown"]


@pytest.mark.parametrize(("asked", "shown"), [
    ("{number}`no-such-claim/k`", "1.5"), ("{number}`no-such-claim/k:.2f`", "1.50"),
    ("{number}`no-such-claim/k/a: b, %:.0f`", "7"), ("{estimate}`no-such-claim/k/a: b, %:.1f`", "6.8 (6.0 to 8.0)"),
    ("{estimate}`no-such-claim/k/a: b, %`", "6.75 (6 to 8)")])
def test_a_number_in_a_text_is_rounded_as_asked_and_an_estimate_has_its_interval(asked, shown):
    named = {**CHECK, **MADE, "cell": 1, "seconds": 0.5, "ours": {"a: b, %": 6.75, "c": 1.0},
             "interval": {"a: b, %": [6.0, 8.0]}}
    text = nbformat.v4.new_markdown_cell(f"It is {asked}.")
    rows = [{**ROWS[0], "checks": [*ROWS[0]["checks"], named]}]
    pages.link_numbers(nbformat.v4.new_notebook(cells=[text]), rows, "c")
    assert text.source.endswith(f">{shown}</a>.")


@pytest.mark.parametrize(("asked", "words"), [
    ("{estimate}`no-such-claim/k`", "'' has no interval"),
    ("{number}`no-such-claim/k:.0f`", "2 checks 'k' of no-such-claim have a value ''")])
def test_an_estimate_without_interval_and_an_ambiguous_number_stop_the_build(asked, words):
    rows = [{**ROWS[0], "checks": ROWS[0]["checks"] * (2 if "number" in asked else 1)}]
    text = nbformat.v4.new_markdown_cell(asked)
    with pytest.raises(LedgerError, match=f"chapter c: .*{words}"):
        pages.link_numbers(nbformat.v4.new_notebook(cells=[text]), rows, "c")


def test_a_number_that_the_ledger_does_not_have_stops_the_build():
    text = nbformat.v4.new_markdown_cell("It is {number}`no-such-claim/other`.")
    with pytest.raises(LedgerError, match=r"chapter c: .*no executed check of no-such-claim 'other'; there are k"):
        pages.link_numbers(nbformat.v4.new_notebook(cells=[text]), ROWS, "c")


def test_bars_over_folded_code_have_names_of_their_own():
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["hide-input"]})
             for source in ("figures.accuracy_beside_paper(RECORD);", "x = 1", "plot(1)", "%time plot()")]
    named = nbformat.v4.new_code_cell("plot(2)", metadata={
        "tags": ["hide-input"], "mystnb": {"code_prompt_show": "Mine"}})
    book = nbformat.v4.new_notebook(cells=[*cells, named, nbformat.v4.new_code_cell("plot(3)")])
    pages.name_code(book)
    assert [each.metadata.get("mystnb", {}).get("code_prompt_show") for each in book.cells] == [
        "Show the code: accuracy beside paper", "Show the code: cell 1", "Show the code: plot",
        "Show the code: cell 3", "Mine", None]


@pytest.fixture
def ledgers(tmp_path, monkeypatch):
    rows = [{"id": "a", "status": "reproduced", "checks": []}]
    built, recorded = tmp_path / "built.json", tmp_path / "recorded.json"
    monkeypatch.setattr(ledger, "RECORDED", recorded)

    def write(status="reproduced"):
        recorded.write_text(json.dumps({"rows": rows}))
        built.write_text(json.dumps({"rows": [{**rows[0], "status": status}]}))
        return built

    return write


def test_the_front_page_says_where_a_build_differs_from_the_record(ledgers, tmp_path):
    assert pages.differing(tmp_path / "none.json") == []
    assert pages.differing(ledgers()) == []
    (found,) = pages.differing(ledgers("deviates"))
    assert "This build differs from the recorded ledger in 1 places" in found.source
    assert "* a: reproduced -> deviates" in found.source
