"""The ledger: how a status follows from checks, and how two ledgers are told apart."""

import copy
import itertools

import pytest

from lib.record import ledger, traced_numbers, verdicts
from lib.record.claims_file import LedgerError

BASE = {"title": "T", "source": "paper", "place": "Sec. 1", "statement": "s", "hypotheses": [], "chapter": "c"}


def claim(name, depends=(), evidence="numeric", **more):
    return {**BASE, "id": name, "depends": list(depends), "evidence": evidence, **more}


def check(name, holds=True, kind="numeric", **more):
    return {"claim": name, "check": "k", "kind": kind, "says": "says", "holds": holds, "control": "broken",
            "chapter": "c", "cell": 1, "covers": "claim", **more}


def rows(entries, checks, proofs=(), digests=None):
    by_name = {entry["id"]: entry for entry in entries}
    return {row["id"]: row for row in ledger.compute(by_name, checks, proofs, digests)}


@pytest.mark.parametrize(("evidence", "status"), ledger.STATUS_OF.items())
def test_status_follows_the_kind_of_evidence(evidence, status):
    row = rows([claim("a", evidence=evidence)], [check("a", kind=evidence)], proofs=["a"])["a"]
    assert (row["status"], row["established"]) == (status, True)


@pytest.mark.parametrize(("covers", "proofs", "reason"), [
    ("claim", [], "no labelled proof"), ("cases", [], "no labelled proof"),
    ("cases", ["a"], "no check covers every case")])
def test_proved_needs_a_proof_on_the_page_and_a_check_that_covers_the_claim(covers, proofs, reason):
    row = rows([claim("a", evidence="symbolic")], [check("a", kind="symbolic", covers=covers)], proofs)["a"]
    assert row["status"] == "checked" and row["reason"].startswith(reason) and row["established"]


def test_a_numeric_check_does_not_cover_a_proof():
    checks = [check("a", kind="symbolic", covers="cases"), check("a", kind="numeric", covers="claim")]
    assert rows([claim("a", evidence="symbolic")], checks, ["a"])["a"]["status"] == "checked"


@pytest.mark.parametrize("kinds", [["solver"], ["solver", "numeric"]])
def test_a_solver_checks_sizes_and_proves_no_claim(kinds):
    row = rows([claim("a", evidence="symbolic")], [check("a", kind=kind) for kind in kinds], proofs=["a"])["a"]
    assert row["status"] == "checked" and row["reason"].startswith("symbolic evidence is owed") and row["established"]
    checks = [check("a", kind="symbolic"), check("a", kind="solver", covers="cases")]
    assert rows([claim("a", evidence="symbolic")], checks, proofs=["a"])["a"]["status"] == "proved"


def test_an_assumption_is_never_proved():
    entries = [claim("a", evidence="symbolic", assumed=True), claim("b", ["a"])]
    found = rows(entries, [check("a", kind="symbolic"), check("b")], proofs=["a"])
    assert found["a"]["status"] == "assumed" and found["b"]["established"]
    assert rows([claim("a", assumed=True)], [check("a", holds=False)])["a"]["status"] == "deviates"


def test_weaker_evidence_gives_the_weaker_status():
    row = rows([claim("a", evidence="symbolic")], [check("a", kind="pattern")])["a"]
    assert row["status"] == "pattern" and "symbolic evidence is owed" in row["reason"]


def test_a_row_says_how_many_of_its_checks_were_not_run():
    skipped = {"claim": "a", "skipped": "no recorded run", "chapter": "c", "cell": 1}
    row = rows([claim("a")], [check("a"), check("a"), skipped])["a"]
    assert row["status"] == "reproduced" and row["reason"] == "1 of 3 checks not run here"
    assert rows([claim("a")], [check("a"), check("a")])["a"]["reason"] == ""


def test_stronger_evidence_than_asked_for_does_not_raise_the_status():
    assert rows([claim("a", evidence="pattern")], [check("a", kind="symbolic")])["a"]["status"] == "pattern"


def test_one_failed_check_turns_the_row():
    entries = [claim("a"), claim("b", ["a"])]
    assert rows(entries, [check("a"), check("b")])["b"]["established"]
    turned = rows(entries, [check("a"), check("a", holds=False), check("b")])
    assert turned["a"]["status"] == "deviates" and turned["a"]["reason"].startswith("unexplained")
    assert turned["b"]["status"] == "reproduced" and not turned["b"]["established"]


def test_a_failure_reaches_what_depends_on_it_at_any_distance():
    found = rows([claim("a"), claim("b", ["a"]), claim("c", ["b"])], [check("a", holds=False), check("b"), check("c")])
    assert not found["b"]["established"] and not found["c"]["established"]


def test_a_known_deviation_gives_its_reason():
    entry = claim("a", deviation="another grid")
    assert rows([entry], [check("a", holds=False)])["a"]["reason"] == "another grid"


def test_unchecked_claims_need_a_reason():
    entries = [claim("a", needs="model weights"), claim("b", open="nobody knows"), claim("c")]
    skipped = {"claim": "c", "skipped": "no value at this length", "chapter": "c", "cell": 1}
    found = rows(entries, [skipped])
    assert [found[name]["status"] for name in "abc"] == ["not run here", "open", "not run here"]
    with pytest.raises(LedgerError, match="'c' is an orphan"):
        rows(entries, [])


def test_checks_of_unknown_claims_fail():
    with pytest.raises(LedgerError, match="chapter c, cell 1: unknown claim 'z'"):
        rows([claim("a")], [check("a"), check("z")])


def registered(*read):
    """When the claim was registered, by the digests that the runs of each check stored; runs start in this order."""
    hour = itertools.count(10)
    checks = [check("a", runs=[{"file": "f", "registered": {"a": digest} if digest else {"b": "now"},
                                "started": f"2026-11-30T{next(hour)}:00:00+00:00"} for digest in stored])
              for stored in read or [[]]]
    return rows([claim("a")], checks, digests={"a": "now"})["a"]["registered"]


def test_registered_first_only_if_every_run_stored_the_claim_as_it_stands():
    assert registered() == registered([]) == ""
    assert registered(["now", "now"]) == registered(["now"], ["now"]) == registered(["now"], []) == "before"
    assert registered(["then", "now"]) == registered([None]) == registered([None, None], [None]) == "afterwards"


def test_runs_that_were_there_before_the_claim_may_be_compared_with_new_ones():
    assert registered([None, "now"]) == registered([None, None, "now", "now"]) == "before new runs"
    assert registered([None, "now"], ["now"]) == registered([None, "now"], []) == "before new runs"
    assert registered(["now", None]) == "afterwards"  # which started after the first of the new runs
    assert registered([None], [None, "now"]) == "afterwards"  # one check reads no new run
    assert registered([None, "then", "now"]) == "afterwards"  # the claim was changed after a run that serves it


def test_a_page_has_words_for_each_time_at_which_a_claim_was_registered():
    times = {registered(), registered(["now"]), registered([None, "now"]), registered([None])}
    assert set(traced_numbers.REGISTERED) == times == {"", *verdicts.REGISTRATION}


# Proofs ------------------------------------------------------------------------------------------------------------

PAGE = """
::::{dropdown} Proof
(proof-a)=
(proof-b)=
:::{prf:proof}
By {prf:ref}`c` and {prf:ref}`the lemma <d-1>`, as {prf:ref}`a` says.
:::
::::

:::{prf:proof}
Unlabelled, by {prf:ref}`z`.
:::
"""


def test_a_labelled_proof_names_what_it_uses():
    assert ledger.proofs_in(PAGE) == {"a": {"c", "d-1"}, "b": {"c", "d-1", "a"}}


# Two ledgers -------------------------------------------------------------------------------------------------------

LEDGER = [{"id": "a", "status": "reproduced", "checks": [
    {"says": "one", "holds": True, "ours": [1.0, 2.0], "paper": 1.0}, {"skipped": "no run"}]}]


def changed(**fields):
    other = copy.deepcopy(LEDGER)
    other[0]["checks"][0].update(fields)
    return other


def test_equal_ledgers_do_not_differ_whatever_names_the_values_have():
    assert ledger.differences(LEDGER, LEDGER) == []
    assert ledger.differences(LEDGER, changed(ours={"x": 1.0, "y": 2.00001})) == []


def test_named_values_are_compared_by_name_and_not_by_place():
    first, second = changed(ours={"x": 1.0, "y": 2.0}), changed(ours={"y": 2.0, "x": 1.0})
    assert ledger.differences(first, second) == []
    assert ledger.differences(first, changed(ours={"y": 1.0, "x": 2.0})) != []


@pytest.mark.parametrize(("fields", "words"), [
    ({"ours": [1.0, 2.1]}, "a: one: ours [1.0, 2.0] -> [1.0, 2.1]"),
    ({"ours": [1.0]}, "a: one: ours [1.0, 2.0] -> [1.0]"),
    ({"holds": False}, "a: one: holds -> fails"), ({"paper": None}, "a: one: paper [1.0] -> []")])
def test_what_differs_is_named(fields, words):
    assert ledger.differences(LEDGER, changed(**fields)) == [words]


def test_claims_statuses_and_checks_that_come_or_go_are_named():
    other = [{**LEDGER[0], "status": "deviates"}, {"id": "b", "status": "open", "checks": []}]
    assert ledger.differences(LEDGER, other) == ["b: only in the second ledger", "a: reproduced -> deviates"]
    assert ledger.differences(LEDGER, changed(says="two")) == [
        "a: check only in the first ledger: one", "a: check only in the second ledger: two"]
