"""The self-test of a loaded model: what it sees, and what it lets through."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_architectures import edit_config, made_checkpoints

from lib.language_models import checkpoint_checks, checkpoint_files, checkpoints
from lib.language_models.architectures import ARCHITECTURES

NAMES = tuple(ARCHITECTURES)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_checkpoints(tmp_path_factory.mktemp("made"))


def test_the_self_test_sees_a_causal_mask_and_its_absence(made):
    for name, kind in ARCHITECTURES.items():
        if name == "qwen3_5":
            continue  # its linear layers are causal whatever the flag says
        model, _ = checkpoints.load(made[name])
        model.config.is_causal = not kind.causal
        with pytest.raises(ValueError, match="sees tokens to its right" if kind.causal else "does not see tokens"):
            checkpoint_checks.check_attention_direction(model, causal=kind.causal)


def test_the_self_test_sees_wrong_frequencies_and_broken_numbers(made):
    dream, _ = checkpoints.load(made["dream"])
    dream.model.rotary_emb.inv_freq[1] *= 1.01
    with pytest.raises(ValueError, match="rotary frequencies"):
        checkpoint_checks.check_attention_direction(dream, causal=False)
    llada, _ = checkpoints.load(made["llada"])
    llada.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        checkpoint_checks.check_attention_direction(llada, causal=False)


@pytest.mark.parametrize("share", [10**9, 0, -1, "x", True])
def test_no_more_than_a_head_is_rotated(made, tmp_path, share):
    folder = Path(shutil.copytree(made["qwen3_5"], tmp_path / "x"))
    text = checkpoint_files.read_config(folder)["text_config"]
    rope = text["rope_parameters"] | {"partial_rotary_factor": share}
    edit_config(folder, text_config=text | {"rope_parameters": rope})
    with pytest.raises(ValueError, match=r"config\.json: .*partial_rotary_factor"):
        checkpoints.load(folder)
