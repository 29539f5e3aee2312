"""What is fetched of a model on the hub, and what is said where it cannot be had."""

import shlex
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError

from lib.language_models import checkpoints, random_checkpoints

torch.set_num_threads(1)


def hub(monkeypatch, answer):
    """Replace the hub by ``answer(patterns)``; returns the list of what was asked for."""
    asked = []

    def download(source, revision, allow_patterns):
        asked.append((source, revision, allow_patterns))
        return answer(allow_patterns)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def test_a_hub_id_fetches_small_files_first_and_no_pickles(tmp_path, monkeypatch):
    folder = random_checkpoints.tiny(tmp_path / "dream", "dream", width=32, heads=4, key_heads=2)
    asked = hub(monkeypatch, lambda patterns: str(folder))
    model, _ = checkpoints.load("Dream-org/Dream-v0-Instruct-7B", revision="abc")
    assert model.architecture == "dream"
    assert [(source, revision) for source, revision, _ in asked] == [("Dream-org/Dream-v0-Instruct-7B", "abc")] * 2
    assert "*.safetensors" not in asked[0][2] and "*.safetensors" in asked[1][2]
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for _, _, patterns in asked for pattern in patterns)


def test_a_model_that_cannot_be_had_says_what_would_fetch_it(monkeypatch):
    def offline(patterns):
        raise OSError("no route")

    def gated(patterns):
        raise GatedRepoError("403", response=SimpleNamespace(headers={}, request=None))

    hub(monkeypatch, offline)
    with pytest.raises(FileNotFoundError, match=(
            r"Base: no such folder, and not in the local cache: no route; "
            r"with a network, `hf download GSAI-ML/LLaDA-8B-Base --incl")):
        checkpoints.load("GSAI-ML/LLaDA-8B-Base")
    hub(monkeypatch, gated)
    with pytest.raises(FileNotFoundError, match=r"is gated: accept its licence .* `hf download meta-llama/Llama"):
        checkpoints.load("meta-llama/Llama-3.1-8B")
    with pytest.raises(FileNotFoundError, match="no such folder, and no hub id"):
        checkpoints.load("./nowhere/at/all")


def test_the_command_that_would_fetch_a_model_names_each_pattern(monkeypatch):
    def offline(patterns):
        raise OSError("no route")

    hub(monkeypatch, offline)
    with pytest.raises(FileNotFoundError) as refused:
        checkpoints.load("GSAI-ML/LLaDA-8B-Base")
    words = shlex.split(str(refused.value).split("`")[1])
    assert words[:3] == ["hf", "download", "GSAI-ML/LLaDA-8B-Base"]
    assert words[3::2] == ["--include"] * 3  # the option takes one pattern; what follows a second is a file's name
    assert words[4::2] == ["*.json", "*.txt", "*.safetensors"]
