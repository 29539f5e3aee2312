"""Experiments on another device: everything is made there, and the outcome is the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import Elsewhere, elsewhere, machine

from lib.language_models import checkpoints, fact_signatures, facts, random_checkpoints, reversal_run
from lib.language_models.facts import Fact
from lib.language_models.finetuning import FineTuningConfig
from lib.one_layer import experiment
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record.accepted import device_named

SMALL = {"length": 6, "width": 16}
CASES = [{"encoding": name} for name in ("rope", "alibi", "alibi_directional", "learned", "sinusoidal", "t5", "none")]
CASES += [{"depth": 2}, {"encoding": "learned", "causal": True}, {"values": "laden"}, {"dropout": 0.1, "depth": 2}]


def made(experiment: Any, settings: ModelConfig, out: Path) -> dict[str, Any]:
    objective = "autoregressive" if settings.causal else "masked_diffusion"
    recipe = TrainingConfig(objective=objective, steps=3, batch=16, warmup=1)
    return experiment(settings, recipe, [0, 1], out, "quick", 2, out.parent / "kept")


def close(a: Any, b: Any) -> bool:
    return np.allclose(np.array(a, dtype=float), np.array(b, dtype=float), rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_and_measuring_run_on_another_device(case: dict[str, Any], tmp_path: Path) -> None:
    settings = ModelConfig(**SMALL | case)
    here = made(experiment.experiment, settings, tmp_path / "here.json")
    with elsewhere():
        there = made(experiment.experiment, settings, tmp_path / "there.json")
        trainer = Trainer(settings, TrainingConfig(objective=there["parameters"]["objective"]), [0])
        assert isinstance(trainer.ensemble.parameters, Elsewhere)
    if not case.get("dropout"):  # each device has dropout of its own
        assert all(close(here["metrics"][name], there["metrics"][name]) for name in here["metrics"])
    assert json.loads((tmp_path / "there.json").read_text()) == there


@pytest.mark.parametrize("case", CASES[:4] + CASES[7:8], ids=str)
def test_causes_run_on_another_device(case: dict[str, Any], tmp_path: Path) -> None:
    settings = ModelConfig(**SMALL | case)
    here = made(experiment.interventions_experiment, settings, tmp_path / "here.json")
    with elsewhere():
        there = made(experiment.interventions_experiment, settings, tmp_path / "there.json")
    assert all(close(here["metrics"][name], there["metrics"][name]) for name in here["metrics"])


def test_a_checkpoint_goes_from_one_device_to_the_other(tmp_path: Path) -> None:
    trainer = Trainer(ModelConfig(**SMALL), TrainingConfig(batch=16), [0])
    trainer.step()
    with elsewhere():
        other = Trainer(ModelConfig(**SMALL), TrainingConfig(batch=16), [0])
        other.restore(trainer.tensors(), trainer.steps_taken)
        losses = other.step().cpu()
    assert losses.tolist() == pytest.approx(trainer.step().tolist(), rel=1e-5)


def test_what_is_made_in_the_wrong_place_is_refused() -> None:
    with elsewhere():
        x = torch.ones(3)
        with pytest.raises(RuntimeError, match="on the CPU meets one elsewhere"):
            x + torch.ones(3, device="cpu")
        with pytest.raises(RuntimeError, match="draws numbers elsewhere"):
            x.normal_(generator=torch.Generator("cpu"))
        with pytest.raises(RuntimeError):
            x.numpy()
        assert (x + 1).cpu().numpy().tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"--device '{name}'"):
        device_named(name)
    assert device_named("cpu") == torch.device("cpu")


# Language models ----------------------------------------------------------------------------------------------

FACTS = facts.dataset("p2c", facts.CHILD_OF, [Fact("Ana Lima", "Bob Reis"), Fact("Eva Sol", "Gil Mar")])


def probed_and_tuned(model: Any, tokenizer: Any) -> dict[str, float]:
    """The three signatures, then fine-tuning of all weights and of adapters, and answers of both."""
    found = fact_signatures.signature_means(fact_signatures.measure(model, tokenizer, FACTS, FACTS.facts))
    for rank in (0, 4):
        metrics, curves, _ = reversal_run.run(
            model, tokenizer, FACTS, FineTuningConfig(epochs=1, batch=4, rank=rank), watched=2, evaluated=2)
        found |= {f"{name}, rank {rank}": value for name, value in metrics.items()}
        found |= {f"{name}, rank {rank}": values[-1] for name, values in curves.items()}
    return found


@pytest.mark.parametrize("name", ["llada", "dream", "llama", "qwen2", "qwen3_5"])
def test_language_models_are_probed_and_tuned_on_another_device(name: str, tmp_path: Path) -> None:
    folder = random_checkpoints.tiny(tmp_path / name, name, width=32, scale=0.1)
    here = probed_and_tuned(*checkpoints.load(folder))
    model, tokenizer = checkpoints.load(folder)
    with machine():
        model._apply(lambda tensor: Elsewhere(tensor.detach().clone()))
        model.tie_weights()
        there = probed_and_tuned(model, tokenizer)
    assert here == pytest.approx(there, rel=1e-3, abs=1e-6)
