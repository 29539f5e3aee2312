"""Recipes that train side by side: each as if alone, resumed to the last bit, refused where they cannot share."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from elsewhere import elsewhere

from lib.one_layer import training, varied
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record import provenance, training_state

torch.set_num_threads(1)

SMALL = ModelConfig(length=4, width=8)
BASE = TrainingConfig(steps=6, batch=16, warmup=2)
OTHERS = [dict(learning_rate=1e-2), dict(weight_decay=0.3), dict(ema=0.0), dict(clip=1e-8), dict(warmup=5),
          dict(draws="t_dce"), dict(objective="fixed_rate"), dict(intervention="drop_random"), dict(reversed_share=0.5),
          dict(intervention="strangers", reversed_share=0.5)]


@pytest.mark.parametrize("depth", [1, 2])
def test_each_trains_as_if_alone(depth):
    settings = dataclasses.replace(SMALL, depth=depth)
    recipes = [BASE, *(dataclasses.replace(BASE, **change) for change in OTHERS)]
    together, alone = Trainer(settings, recipes, [0, 3]), [Trainer(settings, recipe, [0, 3]) for recipe in recipes]
    for _ in range(5):
        losses = together.advance()
        expected = torch.cat([one.advance() for one in alone])
        assert torch.allclose(losses, expected, rtol=1e-4)
    for index, one in enumerate(alone):
        own = together.members(index)
        for name, tensor in one.tensors().items():
            assert torch.allclose(together.tensors()[name][own], tensor, atol=1e-4), (name, recipes[index])
    apart = together.average[::2]  # of the first seed: no recipe does what another does
    assert (torch.cdist(apart, apart) + torch.eye(len(apart)) > 1e-3).all()


def results(folder, **changes):
    recipes = varied.variations(BASE, ["learning_rate=0.01,0.02", "ema=0"], folder / "rope.json")
    return varied.experiments(SMALL, recipes, [0, 1], points=2, **changes)


def test_each_is_recorded_as_if_alone(tmp_path):
    found = results(tmp_path)
    names = [f"rope{end}.json" for end in ("", "_learning_rate_0.01", "_learning_rate_0.02", "_ema_0")]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())  # and no checkpoint stays
    for name, result, change in zip(names, found, ({}, {"learning_rate": 0.01}, {"learning_rate": 0.02}, {"ema": 0.0}),
                                    strict=True):
        assert provenance.load(tmp_path / name) == result and result["provenance"]["together"] == 4
        recipe = dataclasses.replace(BASE, **change)
        alone = training.experiment(SMALL, recipe, [0, 1], tmp_path / "alone.json", points=2)
        assert alone["parameters"] == result["parameters"] and alone["curves"].keys() == result["curves"].keys()
        assert "together" not in alone["provenance"]
        for kind in ("metrics", "curves"):
            for key, value in alone[kind].items():
                assert np.allclose(np.array(result[kind][key], float), np.array(value, float), atol=1e-3,
                                   equal_nan=True), key


def test_an_interrupted_run_ends_in_the_identical_results(tmp_path, monkeypatch):
    whole = results(tmp_path / "whole")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    advance, left = Trainer.advance, iter(range(4))
    with monkeypatch.context() as cut, pytest.raises(StopIteration):
        cut.setattr(Trainer, "advance", lambda self: (next(left), advance(self))[1])
        results(tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [".rope.json.varied.checkpoint"]
    continued = results(tmp_path / "cut")
    same = lambda one: {key: value for key, value in one.items() if key != "provenance"}
    assert [*map(same, continued)] == [*map(same, whole)]


def test_a_checkpoint_of_other_recipes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training.metrics, "evaluate", lambda models: 1 / 0)
    recipes = {tmp_path / "rope.json": BASE, tmp_path / "b.json": dataclasses.replace(BASE, ema=0.5)}
    other = {**recipes, tmp_path / "b.json": dataclasses.replace(BASE, ema=0.6)}
    trainer = Trainer(SMALL, tuple(recipes.values()), [0])
    identity = {"runs": "others"}
    training_state.save(tmp_path / ".rope.json.varied.checkpoint", trainer.tensors(), identity, {"step": 1, "curves": {}})
    with pytest.raises(training_state.CheckpointError, match="runs"):
        varied.experiments(SMALL, other, [0])


def test_it_runs_on_another_device(tmp_path):
    with elsewhere():
        there = results(tmp_path / "there")
    here = results(tmp_path / "here")
    for a, b in zip(here, there, strict=True):
        assert np.allclose(a["metrics"]["forward_accuracy"], b["metrics"]["forward_accuracy"], atol=1e-3)


@pytest.mark.parametrize(("words", "message"), [
    (["width=32"], "'width' cannot differ side by side"), (["batch=60"], "'batch' cannot differ"),
    (["ema=2"], "'ema=2', value '2': ema must lie in"), (["ema=much"], "value 'much'"), (["ema"], "value ''"),
    (["ema=0,0"], "ema=0 comes twice"), (["learning_rate=0.001"], "comes twice, or is what the others have"),
    (["objective=autoregressive"], "does not fit causal=False"), (["draws=even"], "unknown draws"),
])
def test_the_command_refuses_by_name(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        varied.main(["--length", "4", "--width", "8", "--steps", "2", "--out", str(tmp_path / "a.json"),
                     "--vary", *words])
    assert message in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_the_command_records_each_and_refuses_snapshots(tmp_path, capsys):
    options = ["--length", "4", "--width", "8", "--steps", "2", "--batch", "8", "--seeds", "0", "--points", "1",
               "--out", str(tmp_path / "a.json"), "--vary", "clip=0.5"]
    varied.main(options)
    assert json.loads((tmp_path / "a_clip_0.5.json").read_text())["parameters"]["clip"] == 0.5
    with pytest.raises(SystemExit):
        varied.main([*options, "--snapshots", str(tmp_path / "kept")])
    assert "--snapshots keeps the weights of one run" in capsys.readouterr().err


def test_recipes_of_other_sizes_do_not_train_side_by_side():
    for change in ({"steps": 7}, {"batch": 8}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}: what trains side by side shares it"):
            Trainer(SMALL, [BASE, dataclasses.replace(BASE, **change)], [0])
