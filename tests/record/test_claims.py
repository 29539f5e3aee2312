"""Checks: what one demands, what it records, and when it does not run."""

import json
import math

import numpy as np
import pytest
import sympy
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import given as generated
from hypothesis import strategies as st

from lib.record import claims, claims_file
from lib.record.provenance import Result

ENTRY = {"id": "a", "title": "T", "source": "paper", "place": "Sec. 1", "statement": "s", "hypotheses": [],
         "depends": [], "evidence": "symbolic", "chapter": "c"}
CHECKS = {
    "positive": {"says": "x is positive", "control": "a wrong sign", "breaks": "hypothesis"},
    "same": {"says": "it is", "control": "c"},
    "sized": {"says": "positive at {length}", "scope": "{length} tokens", "control": "none"},
    "number": {"says": "agrees", "control": "shifted", "kind": "numeric", "tolerance": 0.1, "paper": 2.0, "unit": "%"},
}


@pytest.fixture(autouse=True)
def own_claims(tmp_path, monkeypatch):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([{**ENTRY, "checks": CHECKS}]))
    monkeypatch.setattr(claims_file, "CLAIMS", path)


def positive(x):
    return x > 0


def recorded(path="one.json", **provenance):
    made = {"checksum": "c0", "commit": "abc", "device": "CPU", "seconds": 3.0, "started": "today", **provenance}
    return Result({"parameters": {"profile": "full"}, "provenance": made}, claims.RECORDED / path)


def verify(check="positive", test=positive, x=1, wrong=-1, **more):
    return claims.verify("a", check, test, given={"x": x}, broken={"x": wrong}, **more)


def test_verify_holds_and_fails():
    good, bad = verify(), verify(x=-2)
    assert good.holds and not bad.holds
    assert str(good) == "holds [a] x is positive\n  control, a wrong sign: fails, as it must"
    assert str(bad).startswith("FAILS [a]")
    assert (good.kind, good.breaks, good.covers) == ("symbolic", "hypothesis", "cases")


def test_an_outcome_opposite_to_what_was_said_is_no_error_and_is_told():
    turned = verify(x=-2, wrong=2)
    assert not turned.holds and turned.control_holds
    assert str(turned).endswith("control, a wrong sign: holds: the outcome is the opposite")
    assert "it holds: the outcome is the opposite." in turned._repr_mimebundle_()[0]["text/html"]
    assert not verify(x=-2).control_holds


def test_a_control_that_passes_is_an_error():
    with pytest.raises(claims.ControlPassed, match="a wrong sign"):
        verify(wrong=2)
    with pytest.raises(claims.ControlPassed, match="shifted"):
        claims.compare("a", "number", lambda: 2.0, given={}, broken={})


@pytest.mark.parametrize("answer", [None, 1, "yes", [True], np.array([True, False])])
def test_a_test_returns_a_truth_value(answer):
    with pytest.raises(TypeError, match="True or False"):
        claims.verify("a", "same", lambda: answer, given={}, broken={})


@pytest.mark.parametrize("answer", [True, np.bool_(True), sympy.true])
def test_truth_values_of_all_libraries(answer):
    assert claims.verify("a", "same", lambda value: value, given={"value": answer}, broken={"value": False}).holds


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@generated(st.floats(-1, 1), st.integers(1, 4))
def test_compare_at_printed_precision(value, digits):
    unit = 10.0**-digits
    found = claims.compare("a", "number", lambda shift: value + shift, given={"shift": 0.0},
                           broken={"shift": 2 * unit}, paper=round(value, digits), tolerance=unit / 2)
    assert found.holds


def test_compare_over_seeds_reports_mean_and_spread():
    compare = lambda measure, broken, seeds: claims.compare(
        "a", "number", measure, given={"c": 0}, broken={"c": broken}, seeds=seeds)
    found = compare(lambda c: [1 + c, 2 + c, 3 + c], 9, [0, 1, 2])
    assert (found.ours, found.spread) == (2.0, 1.0)
    assert "2 % ± 1 % (paper: 2 %); 3 seeds; tolerance 0.1" in str(found)
    with pytest.raises(ValueError, match="a: check 'number': 3 measured values for 2 seeds"):
        compare(lambda c: [1, 2, 3], 9, [0, 1])
    with pytest.raises(ValueError, match="a: check 'number': a measured value is not finite: nan"):
        claims.compare("a", "number", lambda c: c, given={"c": float("nan")}, broken={"c": 9})
    with pytest.raises(ValueError, match="a: check 'number', its control: a measured value is not finite"):
        claims.compare("a", "number", lambda c: c, given={"c": 9}, broken={"c": float("inf")})


def test_one_number_that_misses_fails_the_check():
    found = claims.compare("a", "number", lambda c: [2.0 + c, 9.0], given={"c": 0}, broken={"c": 5}, paper=[2.0, 5.0])
    assert not found.holds


def test_named_values_are_told_apart():
    assert "a, at 3: 1.5; b: 2" in str(verify(ours={"a, at 3": 1.5, "b": 2}))


def test_compare_over_cells_of_different_seeds():
    def compare(seeds):
        return claims.compare("a", "number", lambda c: {"x": [1 + c, 2 + c, 3 + c], "y": [4 + c, 6 + c]},
                              given={"c": 0}, broken={"c": 9}, paper=[2.0, 5.0], seeds=seeds)
    found = compare([0, 1, 2])
    assert (found.holds, found.ours, found.spread) == (True, {"x": 2.0, "y": 5.0}, {"x": 1.0, "y": math.sqrt(2)})
    assert found.paper == {"x": 2.0, "y": 5.0}
    assert found.seeds == ((0, 1, 2), (0, 1)) and "; 3, 2 seeds" in str(found)
    with pytest.raises(ValueError, match="a: check 'number', x: 3 measured values for 2 seeds"):
        compare([0, 1])


def test_seeds_are_counted_by_cell_where_cells_have_different_ones():
    def seeds_of(seeds):
        found = verify(seeds=seeds, ours={"a": 1, "b": 2})
        return found.seeds, str(found).splitlines()[0].rsplit("2; ")[-1]
    assert seeds_of([[0, 1, 2], [0, 1]]) == (((0, 1, 2), (0, 1)), "3, 2 seeds")
    assert seeds_of([[0, 1], [0, 1]]) == ((0, 1), "2 seeds") == seeds_of([0, 1])
    assert seeds_of([])[0] == ()


def test_texts_come_from_the_file_filled_with_words():
    found = verify("sized", words={"length": 4})
    assert (found.says, found.scope) == ("positive at 4", "4 tokens")
    assert verify("sized", words={"length": 4}, scope=lambda: "all").scope == "all"
    with pytest.raises(TypeError, match="no text 'kind'"):
        verify(kind="numeric")


def test_unknown_claims_and_checks_are_refused_with_those_that_exist():
    with pytest.raises(claims_file.LedgerError, match="no claim 'z'"):
        claims.skip("z", "why")
    with pytest.raises(claims_file.LedgerError, match=r"a has no check 'other'.*number, positive, same, sized"):
        verify("other")
    with pytest.raises(claims_file.LedgerError, match="needs `paper` and `tolerance`"):
        claims.compare("a", "same", lambda: 1.0, given={}, broken={})


@pytest.mark.parametrize(("needs", "reason"), [
    (None, "a recorded run"), ([None], "a recorded run"), ([], "no recorded run that it could read"),
    ({"RoPE": None, "ALiBi": 1}, "no recorded run: RoPE")])
def test_a_check_whose_runs_are_missing_skips_itself(needs, reason):
    touched = lambda: pytest.fail("evaluated although a run is missing")
    found = claims.verify("a", "positive", positive, given=touched, broken=touched, ours=touched, needs=needs)
    assert isinstance(found, claims.Skip) and found.reason.startswith(reason)
    assert isinstance(claims.compare("a", "number", positive, given=touched, broken=touched, needs=needs), claims.Skip)


@pytest.mark.parametrize("shape", [lambda run: run, lambda run: [run], lambda run: {"RoPE": run}])
def test_a_check_names_the_results_that_it_read(shape):
    (read,) = verify(needs=shape(recorded(registered={"a": "d"})), ours=lambda: 3).runs
    assert read == {"file": "results/one.json", "profile": "full", "checksum": "c0", "commit": "abc", "device": "CPU",
                    "seconds": 3.0, "started": "today", "registered": {"a": "d"}}


def test_a_result_of_this_build_is_named_as_it_will_be_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    built = recorded()
    built.path = tmp_path / "beyond" / "quick_one.json"
    assert [run["file"] for run in verify(needs=[built, recorded()]).runs] == [
        "results/beyond/quick_one.json", "results/one.json"]


def test_a_notebooks_box_does_not_change_with_the_runs_it_read():
    first, second = (verify(needs=recorded(seconds=seconds))._repr_mimebundle_()[0] for seconds in (1.0, 2.0))
    assert first == second


def test_the_record_travels_in_the_output():
    data, metadata = verify()._repr_mimebundle_()
    record = json.loads(json.dumps(metadata))[claims.METADATA_KEY]
    assert (record["claim"], record["check"], record["holds"]) == ("a", "positive", True)
    assert "x is positive" in data["text/html"] and data["text/plain"].startswith("holds [a]")
    skipped = claims.skip("a", "no GPU", "same")._repr_mimebundle_()[1][claims.METADATA_KEY]
    assert skipped == {"claim": "a", "check": "same", "skipped": "no GPU"}


def test_checks_are_read_from_an_executed_notebook(tmp_path):
    output = {"metadata": verify()._repr_mimebundle_()[1]}
    path = tmp_path / "c.ipynb"
    path.write_text(json.dumps({"cells": [{"outputs": []}, {"outputs": [output, {"metadata": {}}]}, {}]}))
    (found,) = claims.checks_of(path)
    assert (found["chapter"], found["cell"], found["check"]) == ("c", 1, "positive")


def test_what_is_our_own_stops_the_build_and_is_no_finding():
    require = lambda x, wrong: claims.require(
        "x is positive", positive, given={"x": x}, broken={"x": wrong}, control="sign")
    assert require(1, -1) is None
    with pytest.raises(claims.OurFault, match="x is positive"):
        require(-1, -2)
    with pytest.raises(claims.ControlPassed, match="sign"):
        require(1, 2)
