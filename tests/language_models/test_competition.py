"""The same interventions in three settings: a small cell from the command line, and a table read from made-up runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import MASKED, made, runs_of

from lib.language_models import competition, pretrained_run
from lib.record.provenance import Result

SMALL = ["--steps", "2", "--epochs", "1", "--facts", "4", "--held", "3", "--probed", "2"]


def test_a_cell_is_measured_as_the_real_model_is_and_stays(tmp_path, monkeypatch, capsys):
    out = tmp_path / "cell.json"
    competition.main([*SMALL, "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["experiment"] == "competition" and result["seeds"] == [0] and result["parameters"]["probed"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["cell.json"]
    assert len(result["curves"]["along_cosine_matched"]) == len(result["curves"]["step"])
    rows = {row for row, _ in competition.COMPETITION_ROWS.values()} - {"patch"}
    assert rows <= result["metrics"].keys() and "patching_gap_logit_difference" in result["metrics"]
    assert len(result["curves"]["patching_logit_difference_weights_matched"]) == 3  # two layers, and both at once
    monkeypatch.setattr(pretrained_run, "measured_run", lambda *_, **__: pytest.fail("measured again"))
    competition.main([*SMALL, "--out", str(out)])
    assert "this run is done, and its result stays" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    (["--architecture", "llama"], "architecture 'llama' is causal: its forward query does not see the evidence"),
    (["--probed", "1"], "--probed must be at least 2"), (["--out", "cell"], "name one that ends in .json")])
def test_options_that_cannot_be_are_named(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        competition.main([*SMALL, "--out", "cell.json", *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())


def layer(**metrics):
    known = {"reverse_accuracy": [0.0, 20.0], "forward_accuracy": [100.0, 100.0], "placeholder_share": [100.0, 50.0],
             "reverse_accuracy_lowercase": [90.0, 100.0], "graft_mass_forward_accuracy": [50.0, 60.0], **metrics}
    return Result({"experiment": "beyond", "seeds": [0, 1], "metrics": known, "curves": {}}, Path("layer.json"))


def three(shown=5.0, **metrics):
    """SmolLM2 and the miniature with these values, and one layer."""
    values = {**MASKED, "reverse_free_shown_name": shown, "left_first": 88.0}
    runs = runs_of(*(made("masked", seed, values) for seed in range(3)))
    return competition.three_settings(runs, [made("masked", seed, values) for seed in range(2)], layer(**metrics))


def test_the_competitor_of_one_layer_is_its_placeholder_among_all_answers():
    found = three()
    np.testing.assert_allclose(found["one layer"].read("competitor"), [100.0, 40.0])
    np.testing.assert_allclose(found["one layer"].read("patch"), [50.0, 50.0])
    np.testing.assert_allclose(found["miniature"].read("patch"), [100 * 2 / 4, 100 * 2 / 4.1])
    assert len(found["SmolLM2-135M"].read("patch")) == 3
    names = ["miniature", "SmolLM2-135M"]
    assert competition.seldom_written(found, names) and not competition.seldom_written(found, ["one layer"])
    assert not competition.seldom_written(three(shown=12.0), names)
    assert competition.seldom_written(three(placeholder_share=[5.0, 5.0]), ["one layer"])


def test_what_is_told_of_it_are_all_runs_with_a_number_a_setting():
    told = competition.told_competitor(three())
    assert len(told["needs"]) == 6 and told["seeds"]() == [[0, 1], [0, 1], [0, 1, 2]]
    assert told["ours"]()["one layer"] == pytest.approx(70) and told["ours"]()["miniature"] == pytest.approx(5.05)
    low, high = told["interval"]()["SmolLM2-135M"]
    assert 5 <= low <= 5.1 <= high <= 5.2
    nothing = competition.told_competitor(competition.three_settings(runs_of(), [], None))
    assert set(nothing["needs"].values()) == {None}


def test_the_table_says_what_is_there_and_what_is_not():
    table = competition.competition_table(three())
    assert "| what competes | the placeholder | the name shown | the name shown |" in table
    assert "| right, asked freely | 10 (0 to 20) | 5 (5 to 5) | 5 (5 to 5) |" in table
    prior = next(row for row in table.splitlines() if "prior taken out" in row)
    assert [cell.strip() for cell in prior.split("|")][2] == "–"
    one = made("masked", 0, {**MASKED, "left_first": 88.0})
    empty = competition.competition_table(competition.three_settings(runs_of(), [one], None))
    assert "not run here" in empty and "| right, asked freely | – |" in empty
