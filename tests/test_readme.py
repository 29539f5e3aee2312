"""The README keeps its word: its worked examples run, its commands and files are there."""

import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from lib import encodings
from lib.language_models import random_checkpoints
from lib.language_models.architectures import ARCHITECTURES
from lib.record import claims_file
from pipeline.chapters import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def example(title, language):
    """The block of that language under a heading."""
    section = README.split(f"### {title}\n")[1].split("\n### ")[0]
    (found,) = [body for kind, body in BLOCK.findall(section) if kind == language]
    return found


@pytest.fixture
def registries():
    """What the examples add is gone after the test."""
    saved = [(registry, dict(registry)) for registry in (encodings.ENCODINGS, ARCHITECTURES)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


def test_the_encoding_and_the_claim_of_the_readme_work(registries, tmp_path, monkeypatch):
    names = {}
    exec(example("Add an encoding", "python"), names)
    assert names["losses"][-1].shape == (2,) and (names["losses"][-1] < names["losses"][0]).all()
    path = tmp_path / "claims.yml"
    path.write_text(example("Add a claim", "yaml"), encoding="utf-8")
    monkeypatch.setattr(claims_file, "CLAIMS", path)
    exec(example("Add a claim", "python"), names)
    assert names["check"].holds


def test_the_model_of_the_readme_is_loaded(registries, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(random_checkpoints.tiny(tmp_path / "llama", "llama"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2}
    stored = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), **sizes))
    for part in (stored, tokenizer):
        part.save_pretrained(tmp_path / "mistral")
    names = {"folder": tmp_path / "mistral"}
    exec(example("Add a model", "python"), names)
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.allclose(names["model"](tokens).logits, stored(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (\S+) --help", README))))
def test_commands_of_the_readme_explain_themselves(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "usage" in done.stdout.lower()


def test_targets_and_folders_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([\w-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"^((?:lib|pipeline|results|benchmarks|tests)/\S*)\s{2,}", README, re.MULTILINE):
        assert (ROOT / name).exists(), name
