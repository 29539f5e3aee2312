"""Predicted and realised changes: exact for small steps, additive over questions, and the trainer's own step."""

import pytest
import torch

from lib.one_layer import loss_change, metrics
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import paired_queries
from lib.one_layer.training import Trainer, TrainingConfig

torch.set_num_threads(1)


def trainer(**recipe):
    recipe = {"steps": 30, "batch": 40, "warmup": 3, **recipe}
    run = Trainer(ModelConfig(length=5, width=8), TrainingConfig(**recipe), (0, 1))
    for _ in range(4):
        run.step()
    return run


def test_for_a_small_step_prediction_and_outcome_agree():
    found = loss_change.predicted_and_realised(trainer(learning_rate=1e-3))
    assert set(found) == set(loss_change.MEASURES)
    for step in loss_change.STEPS:
        predicted, realised = (torch.tensor(found[f"{step}_{kind}"]) for kind in ("predicted", "realised"))
        assert float(predicted.abs().max()) > 1e-4
        assert torch.allclose(predicted, realised, rtol=0.1, atol=1e-5)


def test_for_a_large_step_they_do_not():
    found = loss_change.predicted_and_realised(trainer(learning_rate=0.5))
    assert found["adamw_predicted"][0] != pytest.approx(found["adamw_realised"][0], rel=0.2)


def test_the_step_is_the_trainers_own():
    watched, plain = trainer(), trainer()
    loss_change.predicted_and_realised(watched)
    plain.step()
    assert torch.equal(watched.ensemble.parameters, plain.ensemble.parameters)
    assert watched.steps_taken == plain.steps_taken


def test_descent_along_the_forward_gradient_lowers_the_reverse_loss_at_the_start():
    found = loss_change.predicted_and_realised(trainer())
    assert all(value < 0 for value in found["forward_predicted"] + found["forward_realised"])
    assert all(value > 0.5 for value in found["cosine_forward"])


@pytest.mark.parametrize("intervention", ["none", "drop_right_of_capital"])
def test_the_batchs_gradient_is_the_sum_of_its_parts(intervention):
    run = trainer(intervention=intervention)
    tokens, rows, targets, weights = run.batch(run.steps_taken)
    blocking, rest = loss_change.batch_gradients(run)
    for index in range(2):
        model = run.ensemble.member(index)
        logits = model(tokens[index], rows=rows[index]).logits
        each = torch.nn.functional.cross_entropy(logits, targets[index], reduction="none") * weights[index] / 40
        whole = torch.autograd.grad(each.sum(), model.parameters(), materialize_grads=True)
        flat = torch.cat([part.reshape(-1) for part in whole])
        assert torch.allclose(blocking[index] + rest[index], flat, atol=1e-4)
    assert bool(blocking.any()) == (intervention == "none")


def test_query_losses_are_mean_cross_entropies():
    run = trainer()
    asked = metrics.queries(run.settings)[1]
    found, _ = metrics.query_loss_and_gradient(Ensemble(run.settings, run.ensemble.parameters.clone()), asked)
    logits = run.ensemble.member(1)(asked.tokens).logits[torch.arange(len(asked)), asked.position]
    assert float(found[1]) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, asked.target)), rel=1e-4)


def test_parts_and_lengths_are_what_they_are_called():
    reverse, (run, same) = paired_queries(5)[1], (trainer() for _ in "ab")
    before, (blocking, rest) = run.ensemble.parameters.clone(), loss_change.batch_gradients(same)
    start = Ensemble(run.settings, before.clone())
    _, towards = metrics.query_loss_and_gradient(start, reverse)
    found = loss_change.predicted_and_realised(run)
    steps = run.ensemble.parameters - before, blocking + rest
    size, whole = (each.norm(dim=1) * towards.norm(dim=1) for each in steps)
    for name, part in (("blocking", blocking), ("rest", rest), ("training", blocking + rest)):
        assert found[f"cosine_{name}"] == pytest.approx(((part * towards).sum(1) / whole).tolist(), abs=1e-4)
    for step, cosine in (("sgd", "training"), ("forward", "forward")):
        expected = [-float(length) * along for length, along in zip(size, found[f"cosine_{cosine}"], strict=True)]
        assert found[f"{step}_predicted"] == pytest.approx(expected, rel=1e-3)
