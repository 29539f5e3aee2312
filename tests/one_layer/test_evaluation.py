"""Protocols against loops over single questions, and stopping rules on curves made by hand."""

import json

import numpy as np
import pytest
import torch
from small_one_layer import random_ensemble

from lib.one_layer import evaluation, experiment, metrics, prediction, task
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import LETTERS, MASK, PLACEHOLDER
from lib.one_layer.training import TrainingConfig
from lib.record import provenance, training_state

torch.set_num_threads(1)


def ensemble(members=2, seed=0, **settings):
    return random_ensemble(0.5, members, seed, **{"length": 4, **settings})


def answer(models, tokens, asked):
    """Logits of the second member, as a plain model, where each query asks."""
    return models.member(1)(tokens).logits[torch.arange(len(tokens)), asked.position].detach()


@pytest.mark.parametrize("settings", [{}, {"encoding": "learned"}, {"depth": 2}], ids=str)
def test_every_protocol_against_single_questions(settings):
    made, raw = ensemble(**settings), ensemble(seed=1, **settings)
    found = evaluation.protocol_accuracies(made, raw)
    assert set(found) == set(evaluation.PROTOCOLS)
    for way, asked in zip(("forward", "reverse"), task.paired_queries(4), strict=True):
        alone = torch.where(asked.tokens == PLACEHOLDER, MASK, asked.tokens)
        plain, unaveraged, bare = (answer(*each, asked) for each in
                                   ((made, asked.tokens), (raw, asked.tokens), (made, alone)))
        names = ("standard", "raw", "letters", "lowercase", "sampled", "farthest", "evidence_only")
        right = {name: [] for name in names}
        for row, target in enumerate(asked.target.tolist()):
            right["standard"].append(int(plain[row].argmax()) == target)
            right["raw"].append(int(unaveraged[row].argmax()) == target)
            right["letters"].append(int(plain[row, :52].argmax()) == target)
            right["lowercase"].append(int(plain[row, :26].argmax()) == target)
            right["sampled"].append(float(plain[row].exp()[target] / plain[row].exp().sum()))
            right["evidence_only"].append(int(bare[row].argmax()) == target)
            if {int(asked.evidence[row]), int(asked.position[row])} == {0, 3}:
                right["farthest"].append(right["standard"][-1])
        for name, each in right.items():
            assert found[name][way][1] == pytest.approx(100 * np.mean(each), abs=1e-3), name
    graded = metrics.evaluate(made)
    assert found["standard"]["reverse"] == pytest.approx(graded["reverse_accuracy"], abs=1e-3)
    assert found["lowercase"]["forward"] == pytest.approx(graded["forward_accuracy_lowercase"], abs=1e-3)


def test_hidden_masks_placeholders_alone():
    asked = task.paired_queries(6)[1]
    draw = np.random.default_rng(0)
    for share, expected in ((0.0, 0.0), (1.0, 1.0), (None, 0.5)):
        shown = evaluation.with_masked_placeholders(asked, share, draw).tokens
        changed = shown != asked.tokens
        assert (asked.tokens[changed] == PLACEHOLDER).all() and (shown[changed] == MASK).all()
        assert float(changed.sum() / (asked.tokens == PLACEHOLDER).sum()) == pytest.approx(expected, abs=0.03)
    # uniform shares: every number of masks is about equally likely
    counts = (shown != asked.tokens).sum(1).bincount() / len(asked)
    assert counts.min() > 0.12 and counts.max() < 0.28


def test_generation_fills_the_surest_mask_first():
    made = ensemble()
    prompts = torch.full((3, 4), MASK)
    prompts[torch.arange(3), torch.tensor([0, 2, 3])] = torch.tensor([26, 30, 51])
    found = evaluation.generate(made, prompts)
    for index in range(2):
        model = made.member(index)
        for row in range(3):
            state = prompts[row].clone()
            while (state == MASK).any():
                sure, said = model(state[None]).logits[0].detach().softmax(-1).max(-1)
                best = int(torch.where(state == MASK, sure, -1.0).argmax())
                state[best] = said[best]
            assert found[index, row].tolist() == state.tolist()


def test_completions_count_on_the_asked_side():
    said = torch.stack([task.read(text) for text in ("dD00", "0D0d", "00dD")])[None]
    letter, place = torch.tensor([3, 3, 3]), torch.tensor([1, 1, 3])
    forward = evaluation.iterative_accuracy(said, letter, place, "forward")
    assert float(forward["iterative"]) == pytest.approx(100 * (1 + 0 + 3) / (1 + 1 + 3))
    assert float(forward["iterative_edge"]) == 100.0
    reverse = evaluation.iterative_accuracy(said[:, :2], letter[:2], torch.tensor([1, 0]), "reverse")
    assert float(reverse["iterative"]) == pytest.approx(100 * 3 / 5) and float(reverse["iterative_edge"]) == 100.0
    assert LETTERS == 26


def test_causal_models_are_refused():
    with pytest.raises(ValueError, match="masked models only"):
        evaluation.protocol_accuracies(ensemble(causal=True), ensemble(causal=True))


def test_a_run_is_measured_again_from_its_snapshots(tmp_path):
    run, folder = tmp_path / "run.json", tmp_path / "weights"
    recipe = TrainingConfig(steps=40, batch=8)
    settings = ModelConfig(length=4, width=8)
    result = experiment.experiment(settings, recipe, [0, 1], run, points=3, snapshot_folder=folder)
    evaluation.main([str(run), "--snapshots", str(folder), "--out", str(tmp_path / "out.json")])
    found = provenance.load(tmp_path / "out.json")
    curves = found["curves"]
    assert curves["steps"] == result["curves"]["steps"] and found["parameters"] == result["parameters"]
    for way in ("forward", "reverse"):
        assert np.allclose(curves[f"standard_{way}"], result["curves"][f"{way}_accuracy"], atol=1e-3)
        assert np.allclose(np.array(curves[f"sampled_{way}"]) / 100, result["curves"][f"{way}_probability"], atol=1e-5)
    assert set(prediction.FEATURES) <= set(curves)
    losses = np.array(curves["loss"])
    assert (losses[:, -1] < losses[:, 0]).all()
    # a folder of another run, and none at all
    other = json.loads(run.read_text())
    other["parameters"]["steps"] = 41
    with pytest.raises(training_state.CheckpointError, match="steps 40 there, 41 here"):
        evaluation.evaluate_snapshots(other, folder)
    with pytest.raises(SystemExit):
        evaluation.main([str(run), "--snapshots", str(tmp_path / "none"), "--out", str(tmp_path / "x.json")])
    assert not (tmp_path / "x.json").exists()


def test_adjacent_and_hidden_and_iterated_are_what_they_are_called(monkeypatch):
    made, shares, hide = ensemble(), [], evaluation.with_masked_placeholders
    spy = lambda asked, *each: shares.append(each[0]) or hide(asked, *each)
    monkeypatch.setattr(evaluation, "with_masked_placeholders", spy)
    found, generated = evaluation.protocol_accuracies(made, made), evaluation._generated(made)
    assert shares == [1.0, None] * 2
    for way, asked in zip(task.DIRECTIONS, task.paired_queries(4), strict=True):
        right = (metrics.query_logits(made, asked).argmax(2) == asked.target)[:, asked.offset.abs() == 1]
        assert found["adjacent"][way] == pytest.approx((right.double().mean(1) * 100).tolist())
        for name, each in evaluation.iterative_accuracy(*generated, way).items():
            assert found[name][way] == pytest.approx(each.tolist())
    assert found["iterative"]["forward"] != found["iterative"]["reverse"]
