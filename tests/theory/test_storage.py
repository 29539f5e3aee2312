"""Proposition 4.1's models against torch and each other; descent on W against torch and finite differences."""

import dataclasses
import itertools

import numpy as np
import pytest
import sympy as sp
import torch

from lib.theory import gradients, storage, symbolic
from lib.theory.storage import descend, prediction, prediction_errors, prompt_losses


def numbers(model, seed):
    """Random values for every symbol of a storage model."""
    rng = np.random.default_rng(seed)
    values = {weight: float(rng.normal()) for weight in model.weights}
    values |= dict(zip(model.attention, rng.dirichlet(np.ones(len(model.tokens))), strict=True))
    return values


@pytest.mark.parametrize(("tokens", "evidence", "target"), [((0, 2, 2, 3), 2, 1), ((3, 1), 1, 1), ((2, 2, 3), 3, 0)])
def test_gradient_against_torch(tokens, evidence, target):
    model = storage.storage_model(tokens, 3, target)
    values = numbers(model, seed=len(tokens))
    weights = torch.tensor([[values[w] for w in model.weights.row(v)] for v in range(3)], requires_grad=True)
    attention = torch.tensor([float(values[a]) for a in model.attention], dtype=weights.dtype)
    logits = sum(a * weights[:, t] for a, t in zip(attention, tokens, strict=True))
    loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([target]))
    loss.backward()
    assert float(model.loss.subs(values)) == pytest.approx(loss.item(), rel=1e-5)
    ours = [float(g.subs(values)) for g in model.gradient(evidence)]
    assert ours == pytest.approx(weights.grad[:, evidence].tolist(), rel=1e-4)
    probabilities = [float(p.subs(values)) for p in model.probabilities]
    assert probabilities == pytest.approx(torch.softmax(logits, 0).tolist(), rel=1e-5)


def test_model_fields():
    model = storage.storage_model([0, 2, 2, 3], 3, 1)
    assert model.tokens == (0, 2, 2, 3)
    assert model.target == 1
    assert model.weights.shape == (3, 4)
    assert len(set(model.weights)) == 12
    assert all(a.is_positive for a in model.attention) and all(w.is_real for w in model.weights)
    assert model.mass(2) == model.attention[1] + model.attention[2]
    assert model.mass(1) == 0


def test_absent_token_has_no_gradient():
    model = storage.storage_model([0, 3], 3, 1)
    assert list(model.gradient(2)) == [0, 0, 0]


@pytest.mark.parametrize(("arguments", "message"), [
    (([0], 1, 0), "vocabulary must hold at least 2"),
    (([0], 3, 3), "target must be a clean token, 0 to 2, not 3"),
    (([0], 3, -1), "target must be a clean token"),
    (([4], 3, 0), r"tokens must lie between 0 and 3 \(the mask\), not \[4\]"),
    (([-1], 3, 0), "tokens must lie between"),
])
def test_bad_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        storage.storage_model(*arguments)


def test_smallest_models_are_accepted():
    assert storage.storage_model([2], 2, 1).weights.shape == (2, 3)
    assert storage.storage_model([0], 2, 0).target == 0


@pytest.mark.parametrize("sequence", [(1, 2, 2), (3, 1, 3), (2,)])
def test_general_storage_specialises(sequence):
    """The indexed-sum derivative, at concrete n, L and x, is the derivative of the concrete model."""
    general, length = storage.general_storage(), len(sequence)
    model = storage.storage_model([token - 1 for token in sequence], 3, 1)     # general tokens count from 1
    place = dict(enumerate(sequence, start=1))
    claim = general.mass * (general.probability - sp.KroneckerDelta(general.v, general.target))
    for expression in (general.derivative, claim):
        for v in (1, 2, 3):
            choice = {general.n: 3, general.length: length, general.v: v, general.target: 2, general.evidence: 2}
            concrete = expression.subs(choice).doit()
            concrete = concrete.subs({general.x[i]: token for i, token in place.items()}).doit()
            concrete = concrete.subs({general.alpha[i]: model.attention[i - 1] for i in place})
            weights = sp.IndexedBase("W")
            concrete = concrete.subs({weights[a, b]: model.weights[a - 1, b - 1]
                                      for a in (1, 2, 3) for b in (1, 2, 3, 4)})
            assert symbolic.vanishes(concrete - model.gradient(1)[v - 1])


def test_assumptions_of_the_general_symbols():
    general = storage.general_storage()
    assert all(symbol.is_integer and symbol.is_positive for symbol in (general.n, general.length))
    assert all(symbol.is_integer for symbol in (general.v, general.target, general.evidence, general.position))


@pytest.mark.parametrize("result", [storage.storage_model([0], 2, 0), storage.general_storage()])
def test_results_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, next(iter(vars(result))), None)


# descent -------------------------------------------------------------------------------------------------


def torch_losses(weights, masses, targets):
    """-log p(target) of each prompt and the gradient of their sum in W."""
    parameter = torch.tensor(weights, requires_grad=True)
    logits, answers = torch.tensor(masses) @ parameter.T, torch.tensor(targets)
    losses = torch.nn.functional.cross_entropy(logits, answers, reduction="none")
    return losses.detach().numpy(), torch.autograd.grad(losses.sum(), parameter)[0].numpy()


def prompts(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 6)), rng.dirichlet(np.ones(6), size=3), np.array([1, 0, 3])


def test_predictions_losses_and_errors():
    weights, masses, targets = prompts()
    losses, gradient = torch_losses(weights, masses, targets)
    assert prompt_losses(weights, masses, targets) == pytest.approx(losses)
    assert prediction_errors(weights, masses, targets).T @ masses == pytest.approx(gradient, abs=1e-12)
    assert -np.log([prediction(weights, mass)[target] for mass, target in zip(masses, targets, strict=True)]
                   ) == pytest.approx(losses)


def test_descent_on_the_summed_loss():
    weights, masses, targets = prompts(1)
    path = descend(weights, masses, targets, 0.5, 3)
    assert path.shape == (4, 4, 6) and np.array_equal(path[0], weights)
    for before, after in itertools.pairwise(path):
        assert after == pytest.approx(before - 0.5 * torch_losses(before, masses, targets)[1], abs=1e-12)
    assert np.array_equal(descend(weights, masses, targets, 0.5)[1], path[1])


def test_descent_on_the_mean_loss_of_facts():
    masses, targets = gradients.fact_masses(2, 3, 4), np.arange(2)
    path = descend(np.zeros((3, 7)), masses, targets, 0.7 / 2, 3)
    weights = torch.zeros(3, 7, dtype=torch.float64, requires_grad=True)
    for expected in path[1:]:
        loss = torch.nn.functional.cross_entropy(torch.tensor(masses) @ weights.T, torch.tensor(targets))
        weights = (weights - 0.7 * torch.autograd.grad(loss, weights)[0]).detach().requires_grad_()
        assert weights.detach().numpy() == pytest.approx(expected, abs=1e-12)


def test_weights_of_prompts_are_repetitions():
    weights, masses, targets = prompts(2)
    repeated = [0, 0, 1, 2, 2, 2]
    assert descend(weights, masses, targets, 0.3, 2, weights=np.array([2.0, 1.0, 3.0])) == pytest.approx(
        descend(weights, masses[repeated], targets[repeated], 0.3, 2), abs=1e-12)


@pytest.mark.parametrize("column", [0, 4])
def test_one_column_moves_as_it_would_among_all(column):
    weights, masses, targets = prompts(3)
    alone, together = (descend(weights, masses, targets, 0.3, column=which)[1] - weights for which in (column, None))
    assert np.array_equal(alone[:, column], together[:, column]) and together.all()
    assert not np.delete(alone, column, axis=1).any()


def test_one_prompt_is_a_row_of_its_own():
    weights, masses, targets = prompts(4)
    assert np.array_equal(descend(weights, masses[0], 1, 0.3, 2), descend(weights, masses[:1], targets[:1], 0.3, 2))


def test_descent_on_the_second_factor():
    rng = np.random.default_rng(5)
    factor, unembedding, (_, masses, targets) = rng.normal(size=(3, 6)), rng.normal(size=(4, 3)), prompts(5)
    path = descend(factor, masses, targets, 0.2, 3, unembedding=unembedding)
    for before, after in itertools.pairwise(path):
        by_weights = torch_losses(unembedding @ before, masses, targets)[1]
        assert after == pytest.approx(before - 0.2 * unembedding.T @ by_weights, abs=1e-12)
