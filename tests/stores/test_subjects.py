"""Models are trained once, kept, and taken from the work folder again; each kind answers three questions a fact."""

import dataclasses
import math

import numpy as np
import pytest
import small_pretrained
import torch

from lib.language_models import checkpoints, families, pretrained
from lib.language_models.miniature import MiniatureConfig
from lib.language_models.training_loop import TrainingRun
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record.training_state import CheckpointError
from lib.stores import subjects, transfer
from lib.stores.subjects import SUBJECTS, MiniatureSubject, OneLayerSubject, PretrainedSubject

torch.set_num_threads(1)
ONE_LAYER = OneLayerSubject(ModelConfig(length=5, width=16, mlp=False, norm=False), TrainingConfig(steps=3, batch=8))
SMALL = MiniatureConfig("llada", steps=4, facts=5, held=4, epochs=2)


def weights(model):
    return torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])


def never(*_):
    raise AssertionError("trained again")


def test_conditions_are_what_their_names_say():
    for name in ("attention", "causal_both"):  # one column a token
        settings = SUBJECTS[name].model
        assert not settings.mlp and not settings.norm and settings.depth == 1
    for name, condition in SUBJECTS.items():
        if isinstance(condition, OneLayerSubject):
            told = condition.training.reversed_share, condition.training.intervention
            assert told == ((0.5, "none") if name.endswith("_both") else (0.0, "drop_right_of_capital"))
            assert condition.model.causal == name.startswith("causal")
        if isinstance(condition, MiniatureSubject):
            assert condition.told == name.endswith("_told") and condition.cell == MiniatureConfig(name.split("_")[0])
        assert condition.edits == (name.split("_edit_")[1] if "_edit_" in name else "all")


def test_a_trained_layer_is_kept_and_is_the_averaged_one(tmp_path, monkeypatch):
    model, facts = ONE_LAYER.prepare(7, tmp_path, "small")
    trainer = Trainer(ONE_LAYER.model, ONE_LAYER.training, [7])
    for _ in range(3):
        trainer.step()
    np.testing.assert_allclose(weights(model), weights(trainer.averaged().member(0)).double())
    assert model.embedding.dtype == torch.float64 and len(facts) == 26
    monkeypatch.setattr(Trainer, "step", never)
    again, _ = ONE_LAYER.prepare(7, tmp_path, "small")
    assert torch.equal(weights(model), weights(again))
    with pytest.raises(CheckpointError, match="another run"):
        dataclasses.replace(ONE_LAYER, training=TrainingConfig(steps=4, batch=8)).prepare(7, tmp_path, "small")


def test_a_miniature_is_asked_about_held_out_facts_or_told_ones(tmp_path, monkeypatch):
    held, asked = MiniatureSubject(SMALL).prepare(3, tmp_path, "llada")
    monkeypatch.setattr(TrainingRun, "step", never)
    told, other = MiniatureSubject(SMALL, told=True, count=5).prepare(3, tmp_path, "llada_told")
    assert torch.equal(weights(held), weights(told)) and (len(asked), len(other)) == (4, 5)
    ahead = transfer.leads(held, asked)
    assert all(math.isfinite(value) for values in ahead.values() for value in values)
    assert not np.allclose(asked[0].reverse.scores(held).detach(), other[0].reverse.scores(told).detach()[:4])


def test_a_pretrained_model_is_fine_tuned_on_its_seeds_facts(tmp_path, monkeypatch):
    small_pretrained.take_the_place(monkeypatch, small_pretrained.made(tmp_path / "model"))
    masked = checkpoints.save(*pretrained.bidirectional(*pretrained.load()), tmp_path / "masked")
    monkeypatch.setattr(pretrained, "ADAPTER", masked)
    known = families.families
    monkeypatch.setattr(families, "families", lambda source, tokenizer, invented: known("generated", tokenizer, 2))
    monkeypatch.setattr(subjects, "RUN_TRAINING", dataclasses.replace(
        subjects.RUN_TRAINING, epochs=2, batch=4, rank=2, warmup=1))
    model, facts = PretrainedSubject().prepare(1, tmp_path, "smollm2")
    assert len(facts) == 4 and not any(".lora_" in name for name, _ in model.named_parameters())
    names = [fact.reverse.scores(model).shape for fact in facts]
    assert names == [(4,)] * 4
    monkeypatch.setattr(TrainingRun, "step", never)
    again, _ = PretrainedSubject(edits="mlp").prepare(1, tmp_path, "smollm2_edit_mlp")
    assert torch.equal(weights(model), weights(again))
