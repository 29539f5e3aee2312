"""Adapters put back: the probes of the model that was tuned, and refusals of damaged and of other models' files."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.language_models import adapters, checkpoints, facts, finetuning, signature_run
from lib.language_models.facts import Fact
from lib.language_models.finetuning import FineTuningConfig

DATA = facts.dataset("p2c", facts.CHILD_OF, [Fact("Ana Lima", "Bob Reis"), Fact("Eva Sol", "Gil Mar")])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A checkpoint, its adapters after fine-tuning, and the tuned model itself with merged weights."""
    base = tmp_path_factory.mktemp("adapters")
    folder = checkpoints.tiny(base / "model", "llada", width=32, scale=0.15)
    model, tokenizer = checkpoints.load(folder)
    protocol = FineTuningConfig(rank=2, epochs=10, batch=2, masking="any", learning_rate=1e-2, warmup=0)
    adapted = finetuning.adapt(model, protocol)
    finetuning.finetune(adapted, tokenizer, DATA.train, protocol)
    adapted.save_pretrained(base / "adapters", save_embedding_layers=False)
    return folder, base / "adapters", adapted.merge_and_unload()


def summary(model, tokenizer):
    return signature_run.summary(signature_run.measure(model, tokenizer, DATA, DATA.facts, gaps=("", " indeed")))


def test_signatures_with_adapters_are_those_of_the_merged_model(tuned):
    folder, kept, merged = tuned
    model, tokenizer = checkpoints.load(folder)
    before = summary(model, tokenizer)
    adapters.put_on(model, kept)
    assert not model.training
    after = summary(model, tokenizer)
    assert after == pytest.approx(summary(merged, tokenizer), rel=1e-3, abs=1e-6)
    for name in ("score_correlation", "gradient_cosine", "probability_forward"):
        assert abs(after[name] - before[name]) > 1e-3 * abs(before[name])


def test_the_command_line_probes_a_tuned_model(tuned, tmp_path, capsys):
    folder, kept, _ = tuned
    output = tmp_path / "result.json"
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


def spoil_tensor(path, change):
    tensors = load_file(path)
    name = sorted(tensors)[0]
    change(tensors, name)
    save_file(tensors, path)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda at: (at / "adapter_config.json").write_text("{"), r"adapter_config\.json: not JSON"),
    (lambda at: (at / "adapter_config.json").write_text('{"peft_type": "IA3"}'), "peft_type='IA3', but LORA"),
    (lambda at: (at / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 0, "target_modules": ["q_proj"]}'),
     r"adapter_config\.json: does not fit this model"),
    (lambda at: (at / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"]}'),
     r"adapter_config\.json: does not fit this model .*c_attn"),
    (lambda at: (at / "adapter_model.safetensors").write_bytes(b"x" * 50), r"adapter_model\.safetensors: cut off or"),
    (lambda at: (at / "adapter_model.safetensors").rename(at / "adapter_model.bin"), "a pickle, which is never read"),
    (lambda at: spoil_tensor(at / "adapter_model.safetensors", lambda tensors, name: tensors.pop(name)),
     "adapters of another model: .* is missing there"),
    (lambda at: spoil_tensor(at / "adapter_model.safetensors", lambda tensors, name: tensors[name].fill_(torch.nan)),
     r"adapter_model\.safetensors: tensor .* is not finite")])
def test_damaged_adapters_are_refused_by_file(tuned, tmp_path, spoil, message):
    folder, kept, _ = tuned
    spoiled = tmp_path / "adapters"
    shutil.copytree(kept, spoiled)
    spoil(spoiled)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        adapters.put_on(checkpoints.load(folder)[0], spoiled)


def test_adapters_of_a_model_of_another_size_are_refused(tuned, tmp_path):
    other, _ = checkpoints.load(checkpoints.tiny(tmp_path / "other", "llada", width=64))
    with pytest.raises(ValueError, match=r"_model\.safetensors: adapters of another model: .* is \(2, 96\) there,"):
        adapters.put_on(other, tuned[1])
