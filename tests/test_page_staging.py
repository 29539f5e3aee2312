"""What the page builder changes in an executed chapter before it is rendered."""

import json

import nbformat
import pytest

from lib.record.claims import METADATA_KEY
from pipeline import ledger, pages

RUN = {"file": "results/one_layer/full_rope.json", "commit": "abc", "device": "CPU", "seconds": 3.0}
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
    shared, other = boxes(second)
    assert "(2 checks)" in shared and "first" in shared and "second" in shared and "other" in other
    assert 'id="claim-box-no-such-claim"' in shared


def test_the_code_of_checks_is_not_on_the_page_and_other_code_is():
    plot, check = nbformat.v4.new_code_cell("plot()"), cell({})
    check.metadata["tags"] = ["hide-input", "nbval-check-output"]
    pages.gather_checks(nbformat.v4.new_notebook(cells=[plot, check]))
    assert check.metadata["tags"] == ["nbval-check-output", "remove-input"] and "tags" not in plot.metadata
    assert "claims" not in check


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
