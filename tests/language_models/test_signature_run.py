"""The probes from the command line: what they accept, and a model with adapters."""

import json

import pytest
import torch

from lib.language_models import checkpoints, finetuning, signature_run
from lib.language_models.finetuning import FineTuningConfig

torch.set_num_threads(1)


def test_the_command_line_probes_a_tuned_model(tmp_path, capsys):
    folder = checkpoints.tiny(tmp_path / "model", "llada", width=32)
    kept, output = tmp_path / "kept", tmp_path / "x.json"
    adapted = finetuning.add_adapters(checkpoints.load(folder)[0], FineTuningConfig(rank=2))
    adapted.save_pretrained(kept, save_embedding_layers=False)
    command = ["--model", str(folder), "--data", "generated", "--facts", "2", "--adapter", str(kept)]
    signature_run.main([*command, "--output", str(output)])
    assert "gradient_cosine" in capsys.readouterr().out
    assert json.loads(output.read_text())["parameters"]["adapter"] == str(kept)
    with pytest.raises(SystemExit, match=r"--adapter .*nowhere/adapter_config\.json: missing"):
        signature_run.main([*command, "--adapter", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(("options", "message"), [
    (["--facts", "1"], "--facts must be at least 2"), (["--seed", "-1"], "--seed must be at least 0"),
    (["--device", "gpu"], "--device 'gpu' is none of"), (["--output", "x"], "name one that ends in .json")])
def test_options_of_the_probes_are_checked_first(monkeypatch, capsys, options, message):
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit):
        signature_run.main(["--model", "tiny:llada", "--data", "generated", *options])
    assert message in capsys.readouterr().err
