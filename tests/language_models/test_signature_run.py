"""The probes from the command line: what they accept, and a model with adapters."""

import json
import re

import numpy as np
import pytest
import torch

from lib.language_models import checkpoints, finetuning, random_checkpoints, signature_run
from lib.language_models.finetuning import FineTuningConfig

torch.set_num_threads(1)


def test_the_command_line_probes_a_tuned_model(tmp_path, capsys):
    folder = random_checkpoints.tiny(tmp_path / "model", "llada", width=32)
    kept, output = tmp_path / "kept", tmp_path / "x.json"
    adapted = finetuning.add_adapters(checkpoints.load(folder)[0], FineTuningConfig(rank=2))
    adapted.save_pretrained(kept, save_embedding_layers=False)
    command = ["--model", str(folder), "--data", "generated", "--facts", "2", "--adapter", str(kept)]
    signature_run.main([*command, "--output", str(output)])
    assert "gradient_cosine" in capsys.readouterr().out
    assert json.loads(output.read_text())["parameters"]["adapter"] == str(kept)
    with pytest.raises(SystemExit):
        signature_run.main([*command, "--adapter", str(tmp_path / "nowhere")])
    assert re.search(r"--adapter .*nowhere/adapter_config\.json: missing", capsys.readouterr().err)


def test_the_command_line_measures_and_records(tmp_path, capsys):
    output = tmp_path / "result.json"
    signature_run.main(["--model", "tiny:llada", "--data", "generated", "--facts", "3", "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["parameters"]["architecture"] == "llada" and len(result["curves"]["score_correlation"]) == 4
    printed = capsys.readouterr().out
    for name, values in result["metrics"].items():
        assert name in printed and len(values) == 1 and np.isfinite(values[0])


@pytest.mark.parametrize(("model", "message"), [
    ("nowhere", "nowhere: no such folder, and no hub id"), ("tiny:gpt2", "no architecture 'gpt2'"),
    ("", "--model must be a hub id, a folder or tiny:ARCHITECTURE"),
    ("{folder}", r"config\.json: missing, so this is no checkpoint")])
def test_a_model_that_is_none_is_refused_in_one_line_and_leaves_nothing(tmp_path, capsys, model, message):
    (tmp_path / "empty").mkdir()
    output = tmp_path / "new" / "results" / "x.json"
    with pytest.raises(SystemExit):
        signature_run.main(["--model", model.format(folder=tmp_path / "empty"), "--data", "generated", "--facts", "2",
                            "--output", str(output)])
    said = capsys.readouterr().err
    assert re.search(message, said) and len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_result_that_is_there_stays_and_another_runs_is_not_overwritten(tmp_path, capsys):
    output = tmp_path / "x.json"
    command = ["--model", "tiny:llama", "--data", "generated", "--facts", "2", "--output", str(output)]
    signature_run.main(command)
    written = output.read_bytes()
    signature_run.main(command)
    assert "this run is done" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        signature_run.main([*command, "--facts", "3"])
    assert "--output" in capsys.readouterr().err and output.read_bytes() == written
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(("options", "message"), [
    (["--facts", "1"], "--facts must be at least 2"), (["--seed", "-1"], "--seed must be at least 0"),
    (["--device", "gpu"], "--device 'gpu' is none of"), (["--output", "x"], "name one that ends in .json")])
def test_options_of_the_probes_are_checked_first(monkeypatch, capsys, options, message):
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit):
        signature_run.main(["--model", "tiny:llada", "--data", "generated", *options])
    assert message in capsys.readouterr().err
