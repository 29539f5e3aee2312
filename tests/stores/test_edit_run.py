"""The command, from its options to the result: what is recorded, resumed, refused and left alone."""

import json

import numpy as np
import pytest
import torch
from stores.toy_stores import FACTS, ONE, Tables, questions

from lib.record.training_state import Checkpoint
from lib.stores import edit_run, states, transfer
from lib.stores.edit_run import EditRunOptions
from lib.stores.editing import EditConfig
from lib.stores.subjects import SUBJECTS, MiniatureSubject
from lib.stores.transfer import EDITS

torch.set_num_threads(1)
EDIT = ["--margin", "1", "--stride", "0.01"]


class ToySubject(MiniatureSubject):
    """In the place of a condition: tables, of which one fact is not answered."""

    def prepare(self, seed, work, name):
        model = Tables()
        with torch.no_grad():
            model.right[2, 2] = 0.0
        return model, questions(ONE)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(SUBJECTS, "llada", ToySubject(SUBJECTS["llada"].cell))


def run(out, *words):
    edit_run.main(["--condition", "llada", "--seed", "3", *EDIT, "--out", str(out), *words])
    return json.loads(out.read_text())


def test_a_run_records_edits_answers_and_measures(tmp_path):
    result = run(tmp_path / "a.json")
    metrics = {name: value for name, (value,) in result["metrics"].items()}
    assert result["experiment"] == "one_store" and result["seeds"] == [3]
    assert metrics["facts"] == FACTS - 1 and metrics["forward_answered"] == 100
    assert metrics["right_answered"] == pytest.approx(100 * (FACTS - 1) / FACTS)
    assert metrics["forward_transfer"] == pytest.approx(1) and metrics["right_transfer"] == 0
    assert metrics["forward_follows"] == metrics["forward_kept"] == 100
    assert metrics["left_distance_ratio"] == pytest.approx(0)
    assert result["curves"]["fact"] == [0, 1, 3, 4, 5]  # the one that is not answered is not edited
    assert all(len(result["curves"][f"{edit}_edited"]) == FACTS - 1 for edit in EDITS)
    assert result["parameters"]["condition"] == "llada" and result["parameters"]["margin"] == 1
    assert result["parameters"]["subject"] == {"cell": {}}
    few = run(tmp_path / "few.json", "--facts", "4")
    assert few["curves"]["fact"] == [0, 1, 4, 5]


def test_states_are_those_of_the_facts_that_are_answered():
    model, asked = SUBJECTS["llada"].prepare(0, None, "")
    metrics, _ = edit_run.measured_edits(model, asked, EditConfig(margin=0.5, stride=0.05), 4, Checkpoint(None, {}))
    answered, every = (states.state_metrics(model, [asked[fact] for fact in facts])[0]
                       for facts in ([0, 1, 3, 4, 5], range(FACTS)))
    found = {name: metrics[name] for name in answered}
    assert found == pytest.approx(answered) and found != pytest.approx(every)


def test_an_answer_that_hardly_leads_is_not_counted():
    model = Tables()
    with torch.no_grad():
        model.right[4] = torch.tensor([0, 0, 0, 0, 2.0, 1.95])
    config = EditConfig(margin=0.5, stride=0.05)
    metrics, curves = edit_run.measured_edits(model, questions(), config, 4, Checkpoint(None, {}))
    assert metrics["right_answered"] == pytest.approx(100 * 5 / 6) and 4 not in curves["fact"]


def test_a_condition_says_which_weights_change(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SUBJECTS, "llada", ToySubject(SUBJECTS["llada"].cell, edits="mlp"))
    with pytest.raises(SystemExit):
        run(tmp_path / "a.json")
    assert "part 'mlp': Tables has no such weights" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_is_recorded_of_a_condition_are_the_settings_that_differ():
    asked = EditRunOptions(condition="attention", out=edit_run.Path("a.json"))
    assert edit_run.edit_parameters(asked)["subject"] == {
        "model": {"mlp": False, "norm": False},
        "training": {"intervention": "drop_right_of_capital", "learning_rate": 0.01}}


def test_a_run_that_is_done_is_left_alone_and_another_in_its_place_is_refused(tmp_path, capsys):
    run(tmp_path / "a.json")
    before = (tmp_path / "a.json").read_bytes()
    run(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == before and "this run is done" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(tmp_path / "a.json", "--most", "7")
    assert "most" in capsys.readouterr().err and (tmp_path / "a.json").read_bytes() == before


def test_an_interrupted_run_goes_on_from_the_fact_it_was_at(tmp_path, monkeypatch, content):
    run(tmp_path / "whole.json")
    measure, calls = transfer.measure_fact, []

    def counted(model, facts, fact, config):
        calls.append(fact)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(model, facts, fact, config)

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(transfer, "measure_fact", counted)
    with pytest.raises(SystemExit):
        run(tmp_path / "part.json")
    assert not (tmp_path / "part.json").exists()
    run(tmp_path / "part.json")
    assert calls == [0, 1, 3, 3, 4, 5]
    assert content(tmp_path / "part.json") == content(tmp_path / "whole.json")


def test_a_model_that_answers_too_little_is_not_edited(tmp_path):
    model = Tables()
    with torch.no_grad():
        model.left[:3] = 0
    with pytest.raises(ArithmeticError, match="3 of 6 facts are answered"):
        edit_run.measured_edits(model, questions(), EditConfig(), 26, Checkpoint(None, {}))


def test_fewer_facts_are_chosen_evenly():
    model = Tables()
    config = EditConfig(margin=0.5, stride=0.05)
    _, curves = edit_run.measured_edits(model, questions(), config, 4, Checkpoint(None, {}))
    assert curves["fact"] == [0, 2, 3, 5] and np.isfinite(curves["forward_ahead"]).all()


@pytest.mark.parametrize("words, named", [
    (["--condition", "bert"], "condition"), (["--facts", "3"], "facts"), (["--margin", "0"], "margin"),
    (["--seed", "-1"], "seed"), (["--out", "a.txt"], "out")])
def test_bad_options_are_refused_by_name(tmp_path, capsys, words, named):
    with pytest.raises(SystemExit) as ended:
        edit_run.main(["--condition", "llada", "--out", str(tmp_path / "a.json"), *words])
    assert ended.value.code == 2 and named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
