"""The ledger: what a check demands, and how a status follows from checks."""

import json
import math

import numpy as np
import pytest
import sympy
from hypothesis import given as generated
from hypothesis import strategies as st

from lib.record import claims, ledger

BASE = {"title": "T", "source": "paper", "place": "Sec. 1", "statement": "s", "hypotheses": [], "chapter": "c"}


def claim(name, depends=(), evidence="numeric", **more):
    return {**BASE, "id": name, "depends": list(depends), "evidence": evidence, **more}


def check(name, holds=True, kind="numeric"):
    return {"claim": name, "kind": kind, "says": "says", "holds": holds, "control": "broken", "chapter": "c", "cell": 1}


def by_name(*entries):
    return {entry["id"]: entry for entry in entries}


def rows(entries, checks):
    return {row["id"]: row for row in claims.ledger(by_name(*entries), checks)}


def positive(x):
    return x > 0


def test_verify_holds_and_fails(capsys):
    good = claims.verify("a", "x is positive", positive, given={"x": 1}, broken={"x": -1}, control="sign")
    bad = claims.verify("a", "x is positive", positive, given={"x": -2}, broken={"x": -1}, control="sign")
    assert good.holds and not bad.holds
    assert "holds" in str(good) and "FAILS" in str(bad)


def test_a_control_that_passes_is_an_error():
    with pytest.raises(claims.ControlPassed, match="a wrong sign"):
        claims.verify("a", "positive", positive, given={"x": 1}, broken={"x": 2}, control="a wrong sign")
    with pytest.raises(claims.ControlPassed, match="nothing broken"):
        claims.compare("a", "one", float, given={}, broken={}, paper=0.0, tolerance=0.1,
                       control="nothing broken")


@pytest.mark.parametrize("answer", [None, 1, "yes", [True], np.array([True, False])])
def test_a_test_returns_a_truth_value(answer):
    with pytest.raises(TypeError, match="True or False"):
        claims.verify("a", "s", lambda: answer, given={}, broken={}, control="c")


@pytest.mark.parametrize("answer", [True, np.bool_(True), sympy.true])
def test_truth_values_of_all_libraries(answer):
    def test(value):
        return value
    assert claims.verify("a", "s", test, given={"value": answer}, broken={"value": False}, control="c").holds


@generated(st.floats(-1, 1), st.integers(1, 4))
def test_compare_at_printed_precision(value, digits):
    unit = 10.0**-digits
    printed = round(value, digits)
    found = claims.compare("a", "rounds", lambda shift: value + shift, given={"shift": 0.0},
                           broken={"shift": 2 * unit}, control="two units off", paper=printed, tolerance=unit / 2)
    assert found.holds


def test_compare_over_seeds_reports_mean_and_spread():
    found = claims.compare("a", "mean", lambda c: [1 + c, 2 + c, 3 + c], given={"c": 0}, broken={"c": 9}, paper=2.0,
                           tolerance=0.1, seeds=[0, 1, 2], control="shifted")
    assert (found.ours, found.spread) == (2.0, 1.0)
    with pytest.raises(ValueError, match="3 measured values for 2 seeds"):
        claims.compare("a", "mean", lambda c: [1, 2, 3], given={"c": 0}, broken={"c": 9}, paper=2.0, tolerance=0.1,
                       seeds=[0, 1], control="shifted")
    with pytest.raises(ValueError, match="not finite"):
        claims.compare("a", "mean", lambda c: c, given={"c": float("nan")}, broken={"c": 9}, paper=2.0,
                       tolerance=0.1, control="shifted")


def test_named_values_are_told_apart():
    found = claims.verify("a", "s", positive, given={"x": 1}, broken={"x": 0}, control="none",
                          ours={"a, at 3": 1.5, "b": [1, 2]})
    assert "ours a, at 3: 1.5; b: [1, 2]" in str(found)


def test_compare_over_cells_of_different_seeds():
    def compare(seeds):
        return claims.compare("a", "mean", lambda c: {"x": [1 + c, 2 + c, 3 + c], "y": [4 + c, 6 + c]}, given={"c": 0},
                              broken={"c": 9}, paper=[2.0, 5.0], tolerance=0.1, seeds=seeds, control="shifted")
    found = compare([0, 1, 2])
    assert (found.holds, found.ours, found.spread) == (True, [2.0, 5.0], [1.0, math.sqrt(2)])
    assert found.seeds == ((0, 1, 2), (0, 1)) and "; 3, 2 seeds" in str(found)
    with pytest.raises(ValueError, match="3 measured values for 2 seeds"):
        compare([0, 1])


def test_seeds_are_counted_by_cell_where_cells_have_different_ones():
    def seeds_of(seeds):
        found = claims.verify("a", "s", positive, given={"x": 1}, broken={"x": 0}, control="", seeds=seeds, ours=[1, 2])
        return found.seeds, str(found).splitlines()[0].rsplit("]; ")[-1]
    assert seeds_of([[0, 1, 2], [0, 1]]) == (((0, 1, 2), (0, 1)), "3, 2 seeds")
    assert seeds_of([[0, 1], [0, 1]]) == ((0, 1), "2 seeds") == seeds_of([0, 1])
    assert seeds_of([])[0] == ()


def test_unknown_kind_of_evidence_is_refused():
    with pytest.raises(ValueError, match=r"'gut'.*symbolic, certified, numeric, pattern"):
        claims.verify("a", "s", positive, given={"x": 1}, broken={"x": 0}, control="c", kind="gut")


def test_the_record_travels_in_the_output():
    found = claims.verify("a", "says <b> `a<b`", positive, given={"x": 1}, broken={"x": 0}, control="c", kind="pattern")
    data, metadata = found._repr_mimebundle_()
    assert json.loads(json.dumps(metadata))[claims.METADATA_KEY]["claim"] == "a"
    assert "says &lt;b&gt; <code>a&lt;b</code>" in data["text/html"]


@pytest.mark.parametrize(("evidence", "status"), claims.STATUS_OF.items())
def test_status_follows_the_kind_of_evidence(evidence, status):
    row = rows([claim("a", evidence=evidence)], [check("a", kind=evidence)])["a"]
    assert (row["status"], row["established"]) == (status, True)


def test_weaker_evidence_gives_the_weaker_status():
    row = rows([claim("a", evidence="symbolic")], [check("a", kind="pattern")])["a"]
    assert row["status"] == "pattern" and "symbolic evidence is owed" in row["reason"]


def test_stronger_evidence_than_asked_for_does_not_raise_the_status():
    assert rows([claim("a", evidence="pattern")], [check("a", kind="symbolic")])["a"]["status"] == "pattern"


def test_one_failed_check_turns_the_row():
    entries = [claim("a"), claim("b", ["a"])]
    assert rows(entries, [check("a"), check("b")])["b"]["established"]
    turned = rows(entries, [check("a"), check("a", holds=False), check("b")])
    assert turned["a"]["status"] == "deviates" and turned["a"]["reason"].startswith("unexplained")
    assert turned["b"]["status"] == "reproduced" and not turned["b"]["established"]


def test_a_known_deviation_gives_its_reason():
    entry = claim("a", deviation="another grid")
    assert rows([entry], [check("a", holds=False)])["a"]["reason"] == "another grid"


def test_unchecked_claims_need_a_reason():
    entries = [claim("a", needs="model weights"), claim("b", open="nobody knows"), claim("c")]
    skipped = {"claim": "c", "skipped": "no value at this length", "chapter": "c", "cell": 1}
    found = rows(entries, [skipped])
    assert [found[name]["status"] for name in "abc"] == ["not run here", "open", "not run here"]
    with pytest.raises(claims.LedgerError, match="'c' is an orphan"):
        rows(entries, [])


def test_checks_of_unknown_claims_fail():
    with pytest.raises(claims.LedgerError, match="chapter c, cell 1: unknown claim 'z'"):
        rows([claim("a")], [check("a"), check("z")])


@pytest.mark.parametrize(("entries", "message"), [
    ([{**claim("a"), "colour": 1}], "unknown field 'colour'"),
    ([{key: value for key, value in claim("a").items() if key != "place"}], "field 'place' is missing"),
    ([claim("a"), claim("a")], "a stands twice"),
    ([claim("a", ["b"])], "depends on 'b'"),
    ([claim("a", ["b"]), claim("b", ["a"])], "in a circle"),
    ([claim("a", evidence="gut")], "evidence 'gut'"),
])
def test_a_broken_claims_file_is_refused_by_name(tmp_path, entries, message):
    path = tmp_path / "claims.yml"
    path.write_text(json.dumps(entries))
    with pytest.raises(claims.LedgerError, match=message):
        claims.read_claims(path)


def test_the_ledger_as_html_holds_every_claim_and_escapes():
    entries = [claim("a", title="<A>"), claim("b", ["a"], statement="$x<1$", open="why")]
    found = claims.ledger(by_name(*entries), [{**check("a"), "seconds": 1, "commit": "c0", "device": "CPU",
                                               "profile": "quick", "seeds": [], "scope": ""}])
    page = ledger.table(found) + ledger.graph(found) + ledger.counts(found)
    assert "&lt;A&gt;" in page and "<A>" not in page and r"\(x&lt;1\)" in page
    assert page.count('id="claim-') == 2 and page.count("<rect") == 2 and page.count('class="edge"') == 1
    for status in claims.STATUSES:
        assert status in page


def test_one_number_that_misses_fails_the_check():
    found = claims.compare("a", "s", lambda c: [2.0 + c, 9.0], given={"c": 0}, broken={"c": 5}, paper=[2.0, 5.0],
                           tolerance=0.1, control="shifted")
    assert not found.holds


def test_a_failure_reaches_what_depends_on_it_at_any_distance():
    found = rows([claim("a"), claim("b", ["a"]), claim("c", ["b"])], [check("a", holds=False), check("b"), check("c")])
    assert not found["b"]["established"] and not found["c"]["established"]
