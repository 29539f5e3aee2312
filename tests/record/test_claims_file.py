"""The file of claims: every mistake in it is named by file, claim and field."""

import json

import pytest
import yaml

from lib.record import claims_file
from lib.record.claims_file import LedgerError

ENTRY = {"id": "a", "title": "T", "source": "paper", "place": "Sec. 1", "statement": "s", "hypotheses": [],
         "depends": [], "evidence": "numeric", "chapter": "c", "checks": {"one": {"says": "s", "control": "c"}}}


PREDICTION = {"experiment": "beyond", "statistic": "mean", "threshold": "above 3", "refuted_by": "anything below"}


def without(field):
    return {key: value for key, value in ENTRY.items() if key != field}


def check(**fields):
    return {**ENTRY, "checks": {"one": {"says": "s", "control": "c", **fields}}}


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "claims.yml"

    def write_and_read(content, **options):
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return claims_file.read_claims(path, **options)

    return write_and_read


def test_a_sound_file_is_read(read):
    assert read([ENTRY, {**ENTRY, "id": "b", "depends": ["a"]}])["b"]["depends"] == ["a"]


@pytest.mark.parametrize(("entries", "message"), [
    ([{**ENTRY, "colour": 1}], "a: unknown field 'colour'; valid: .*checks, depends"),
    ([without("place")], "a: field 'place' is missing"),
    ([without("id")], "entry 1: field 'id' is missing"),
    ([ENTRY, ENTRY], "a stands twice"),
    ([{**ENTRY, "depends": ["b"]}], "a depends on 'b', which is no claim"),
    ([{**ENTRY, "depends": ["b"]}, {**ENTRY, "id": "b", "depends": ["a"]}], "claims depend on each other in a circle"),
    ([{**ENTRY, "evidence": "gut"}], "a: evidence 'gut' is none of symbolic"),
    ([{**ENTRY, "source": "hearsay"}], "a: source 'hearsay' is none of paper"),
    ([{**ENTRY, "title": None}], "a: field 'title' must be a str that is not empty, not None"),
    ([{**ENTRY, "hypotheses": "one"}], "a: field 'hypotheses' must be a list"),
    ([{**ENTRY, "statement": ""}], "a: field 'statement' must be a str that is not empty"),
    ([{**ENTRY, "assumed": "yes"}], "a: field 'assumed' must be a bool"),
    ([{**ENTRY, "prediction": {"experiment": "beyond"}}], "a: prediction: field 'refuted_by' is missing"),
    ([check(breaks="window")], "a: check one: breaks 'window' is none of hypothesis, mutation"),
    ([check(kind="gut")], "a: check one: kind 'gut' is none of"),
    ([check(covers="most")], "a: check one: covers 'most' is none of claim, cases"),
    ([check(kind="solver")], "a: check one: a solver decides the sizes that `scope` names"),
    ([check(kind="solver", scope="m = 2", covers="claim")], "a: check one: a solver decides the sizes"),
    ([check(tolerance="small")], "a: check one: field 'tolerance' must be a number"),
    ([check(colour=1)], "a: check one: unknown field 'colour'"),
    ([{**ENTRY, "checks": {"one": {"says": "s"}}}], "a: check one: field 'control' is missing"),
    ([{**ENTRY, "checks": {"one": None}}], "a: check one: expected fields, such as says, control, not None"),
    (["a"], "entry 1: expected fields"),
    ({"a": 1}, "a list of claims is expected"),
    ("- id: a\n  id: b", "not a list of claims .line 2: key 'id' stands twice"),
    ("- id: [", "not a list of claims"),
    ("", "a list of claims is expected"),
])
def test_a_broken_file_is_refused_by_name(read, entries, message):
    with pytest.raises(LedgerError, match=rf"claims\.yml: {message}"):
        read(entries)


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_bytes(b"- id: \xff\xfe")
    with pytest.raises(LedgerError, match=r"claims\.yml: not a list of claims"):
        claims_file.read_claims(path)


def test_a_claim_of_no_chapter_needs_a_reason(read):
    with pytest.raises(LedgerError, match="a: chapter 'c' is none of x, y"):
        read([ENTRY], chapters=["x", "y"])
    assert read([{**ENTRY, "needs": "a GPU"}], chapters=["x", "y"])


def test_the_digest_follows_what_is_fixed_before_the_runs(tmp_path, monkeypatch):
    path = tmp_path / "claims.yml"
    monkeypatch.setattr(claims_file, "CLAIMS", path)

    def digest(number, entry):
        path.write_text(json.dumps([entry]))
        import os
        os.utime(path, ns=(number, number))  # the file is read again when it changes
        return claims_file.claim_digest("a")

    first = digest(1, ENTRY)
    assert digest(2, {**ENTRY, "title": "another", "chapter": "d"}) == first
    assert digest(3, check(tolerance=2)) != first
    assert digest(4, {**ENTRY, "prediction": PREDICTION}) != first
    assert claims_file.registered_for("beyond") == {"a": claims_file.claim_digest("a")}
    assert claims_file.registered_for("another") == {}


def test_order_puts_a_claim_after_those_it_depends_on():
    entries = {"c": {"depends": ["b"]}, "a": {"depends": []}, "b": {"depends": ["a"]}}
    assert claims_file.order(entries) == ["a", "b", "c"]
