"""App. C.1: sensitivities, score gradients and the contrast, against torch and direct descent."""

import dataclasses

import numpy as np
import pytest
import sympy as sp
import torch

from lib.theory import gradients, symbolic
from lib.theory.storage import descend


def torch_loss(storage, scores, tokens, target):
    attention = torch.softmax(scores, 0)
    return torch.nn.functional.cross_entropy((storage[:, tokens] @ attention)[None], torch.tensor([target]))


def test_general_sensitivity_at_numbers():
    """The indexed-sum derivative and the claimed one, evaluated, against torch."""
    rng = np.random.default_rng(0)
    storage, scores, tokens, target, place = rng.normal(size=(3, 4)), rng.normal(size=3), [2, 0, 2], 1, 2
    parameter = torch.tensor(scores, requires_grad=True)
    torch_loss(torch.tensor(storage), parameter, tokens, target).backward()
    general = gradients.general_sensitivity()
    claimed = general.weight * (general.error_here - general.error_mean)
    symbols = {s.name: s for s in general.derivative.free_symbols if s.is_Symbol and not isinstance(s, sp.Indexed)}
    bases = {base: sp.IndexedBase(base) for base in ("W", "s", "x")}
    for expression in (general.derivative, claimed):
        value = expression.subs({symbols["n"]: 3, symbols["L"]: 3, symbols["A"]: target + 1, symbols["j"]: place + 1})
        value = value.doit().subs({bases["x"][i + 1]: t + 1 for i, t in enumerate(tokens)})
        value = value.subs({bases["W"][a + 1, b + 1]: storage[a, b] for a in range(3) for b in range(4)})
        value = value.subs({bases["s"][i + 1]: score for i, score in enumerate(scores)})
        assert float(value) == pytest.approx(parameter.grad[place].item(), rel=1e-9)


def test_sensitivity_identity_needs_the_mean():
    general = gradients.general_sensitivity()
    y = sp.Symbol("y", integer=True)
    pull = general.error_here - general.error_mean
    assert symbolic.vanishes_as_sum(general.derivative - general.weight * pull, y)
    assert not symbolic.vanishes_as_sum(general.derivative - general.weight * (pull + 1), y)
    assert not symbolic.vanishes_as_sum(general.derivative - 2 * general.weight * pull, y)


def test_score_pair_fields():
    one, other = sp.Matrix([[1, 2], [3, 4]]), sp.Matrix([[0, 1], [-1, 0]])
    pair = gradients.score_pair(one, other, 5, 7)
    q, k = pair.query, pair.key
    assert pair.query_weights.shape == pair.key_weights.shape == (2, 2)
    assert len({*pair.query_weights, *pair.key_weights}) == 8
    assert sp.expand(pair.forward - (q.T * one * k)[0]) == 5
    assert sp.expand(pair.reverse - (q.T * other * k)[0]) == 7
    assert q == pair.query_weights[:, 0] and k == pair.key_weights[:, 1]
    # <grad_Q s_f, grad_Q s_r> = (P k) . (N k), with the other columns silent
    product = lambda weights: gradients.score_gradient_product(weights, pair.forward, pair.reverse)
    assert sp.expand(product(pair.query_weights) - (one * k).dot(other * k)) == 0
    assert sp.expand(product(pair.key_weights) - (one.T * q).dot(other.T * q)) == 0


@pytest.mark.parametrize("shapes", [((2, 2), (4, 4)), ((2, 4), (2, 2)), ((2, 2), (2, 4)), ((2, 2), (4, 2))])
def test_score_pair_refuses_unequal_maps(shapes):
    with pytest.raises(ValueError, match="both maps must be 2 x 2"):
        gradients.score_pair(*(sp.zeros(*shape) for shape in shapes))


def test_score_contrast_is_the_score_derivative():
    """alpha_B (h_B - h_bar) is the derivative in the score of B."""
    rng = np.random.default_rng(1)
    storage, scores, tokens = rng.normal(size=(4, 6)), rng.normal(size=3), [5, 4, 2]
    parameter = torch.tensor(scores, requires_grad=True)
    torch_loss(torch.tensor(storage), parameter, tokens, 3).backward()
    attention = np.exp(scores) / np.exp(scores).sum()
    mass = np.zeros(6)
    mass[tokens] = attention
    value = gradients.score_contrast(storage, mass, target=3, evidence=4)
    assert attention[1] * value == pytest.approx(parameter.grad[1].item(), rel=1e-9)


def test_fact_masses():
    masses = gradients.fact_masses(facts=2, vocabulary=3, length=5)
    assert masses == pytest.approx(np.array([[0, 0, 0, 0.2, 0, 0.6, 0.2], [0, 0, 0, 0, 0.2, 0.6, 0.2]]))
    assert gradients.fact_masses(3, 3, 2)[2] == pytest.approx([0, 0, 0, 0, 0, 0.5, 0, 0.5])


@pytest.mark.parametrize(("arguments", "message"), [
    ((0, 3, 5), "facts must lie between 1 and the vocabulary, 3, not 0"),
    ((4, 3, 5), "facts must lie"),
    ((1, 3, 1), "length must be at least 2"),
])
def test_fact_masses_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        gradients.fact_masses(*arguments)


@pytest.mark.parametrize(("facts", "vocabulary", "length"), [(1, 2, 3), (1, 5, 4), (3, 5, 6), (4, 4, 10)])
def test_contrast_slope_against_a_small_step(facts, vocabulary, length):
    masses = gradients.fact_masses(facts, vocabulary, length)
    eta = 1e-6
    storage = descend(np.zeros((vocabulary, masses.shape[1])), masses, np.arange(facts), eta / facts, 1)[1:][0]
    measured = gradients.score_contrast(storage, masses[0], 0, vocabulary) / eta
    own, shared = sp.Rational(1, length), (sp.Rational(length - 2, length), sp.Rational(1, length))
    exact = gradients.contrast_slope(facts, vocabulary, own, shared)
    formula = gradients.contrast_slope_formula(facts, vocabulary, own, sum(s**2 for s in shared))
    assert float(exact) == pytest.approx(measured, abs=1e-5)
    assert exact == formula


@pytest.mark.parametrize(("facts", "vocabulary", "length"), [(1, 4, 5), (2, 5, 6), (3, 7, 10), (4, 4, 10)])
def test_error_masses_storage_against_training(facts, vocabulary, length):
    """After many steps the errors keep their shape, and the storage is what their sums wrote."""
    masses, eta, steps = gradients.fact_masses(facts, vocabulary, length), 0.3, 60
    path = descend(np.zeros((vocabulary, masses.shape[1])), masses, np.arange(facts), eta / facts, steps)[1:]
    before = np.concatenate([np.zeros_like(path[:1]), path[:-1]])
    chances = np.exp(before @ masses[0]) / np.exp(before @ masses[0]).sum(1, keepdims=True)
    other, rest = (eta * chances[:, v].sum() if some else 0 for v, some in ((1, facts > 1), (-1, vocabulary > facts)))
    shared = (length - 2) / length, 1 / length
    _, mass, storage = gradients.error_masses_storage(facts, vocabulary, 1 / length, shared, other, rest)
    columns = [*range(vocabulary, vocabulary + facts), -2, -1]
    assert np.array(storage, dtype=float) == pytest.approx(path[-1][:, columns], abs=1e-9)
    assert np.array(mass, dtype=float).ravel() == pytest.approx(masses[0][columns])


@pytest.mark.parametrize(("facts", "vocabulary"), [(1, 4), (2, 2), (2, 5), (4, 5)])
def test_contrast_formula_away_from_the_start(facts, vocabulary):
    own, shared = sp.Rational(1, 5), (sp.Rational(3, 5), sp.Rational(1, 5))
    amounts = sp.Rational(2, 7), sp.Rational(1, 3)
    formula = gradients.contrast_slope_formula(facts, vocabulary, own, sum(s**2 for s in shared), *amounts)
    assert gradients.contrast_slope(facts, vocabulary, own, shared, *amounts) == formula


def test_two_facts_turn_the_contrast_in_the_end():
    masses = gradients.fact_masses(2, 30, 8)
    path = descend(np.zeros((30, masses.shape[1])), masses, np.arange(2), 1.0 / 2, 400)[1:]
    first, last = (gradients.score_contrast(storage, masses[0], 0, 30) for storage in path[[0, -1]])
    assert first > 0.1 and last < -0.1


def test_single_fact_contrast_by_hand():
    # L = 4, n = 2: slope (1 - 1/2) (4 - 2) (4 - 3) / 16
    quarter = sp.Rational(1, 4)
    assert gradients.contrast_slope(1, 2, quarter, (quarter * 2, quarter)) == sp.Rational(1, 16)


def test_symbols_carry_their_assumptions():
    named = {s.name: s for s in gradients.general_sensitivity().derivative.free_symbols if isinstance(s, sp.Symbol)}
    assert all(named[name].is_integer and named[name].is_positive for name in "nL")
    assert named["A"].is_integer and named["j"].is_integer
    pair = gradients.score_pair(sp.eye(2), sp.eye(2))
    assert all(entry.is_real for weights in (pair.query_weights, pair.key_weights) for entry in weights)


@pytest.mark.parametrize("result", [gradients.general_sensitivity(), gradients.score_pair(sp.eye(2), sp.eye(2))])
def test_results_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, next(iter(vars(result))), None)


def test_error_cosines_by_hand():
    first, second = np.array([[0.5, 0.5, 0.0]]), np.array([[0.5, 0.0, 0.5]])
    assert gradients.error_cosines(first, second) == pytest.approx([0.5])
    assert gradients.error_cosines(first, first) == pytest.approx([1.0])
    assert gradients.error_cosines(first, second, 1) == pytest.approx(  # (-1/2, 1/2, 0) and (1/2, -1, 1/2)
        [-0.75 / np.sqrt(0.5 * 1.5)])


def test_contrast_path_starts_along_the_slope():
    path = gradients.contrast_path(length=5, facts=2, vocabulary=4, step_size=1e-6, steps=2)
    slope = float(gradients.contrast_slope_formula(2, 4, 1 / 5, (1 + 3**2) / 25))
    assert path == pytest.approx([1e-6 * slope, 2e-6 * slope], rel=1e-4)


def test_reverse_contrast_against_training():
    """In a prompt that is not trained, with the sums of the errors that training went through."""
    facts, vocabulary, length, eta, steps = 3, 7, 8, 0.4, 50
    path, masses = gradients.trained_on_facts(length, facts, vocabulary, eta, steps)
    asked = np.zeros(masses.shape[1])
    asked[[vocabulary, -2, -1]] = reverse = np.array([0.3, 0.5, 0.2])
    before = np.concatenate([np.zeros_like(path[:1]), path[:-1]])
    chances = lambda w, mass: np.exp(w @ mass) / np.exp(w @ mass).sum(-1, keepdims=True)
    so_far = eta * chances(before, masses[0])[:, [1, -1]].sum(0)
    error = chances(path[-1], asked)[[1, -1]]
    shared = (length - 2) / length, 1 / length
    measured = gradients.score_contrast(path[-1], asked, 0, vocabulary)
    exact = gradients.reverse_contrast(facts, vocabulary, (1 / length, *shared), [*reverse], [*so_far], [*error])
    parts = gradients.reverse_contrast_parts(facts, vocabulary, 1 / length, 0.3, reverse[1:] @ shared, [*so_far])
    assert float(exact) == pytest.approx(measured, abs=1e-9)
    assert -(parts @ error) / facts == pytest.approx(measured, abs=1e-9)


def test_a_reverse_prompt_that_attends_to_the_evidence_alone_has_no_contrast():
    storage = gradients.trained_on_facts(6, 2, 5, 1.0, 30)[0][-1]
    assert gradients.score_contrast(storage, np.eye(storage.shape[1])[5], 0, 5) == pytest.approx(0, abs=1e-12)


def test_last_reverse_contrasts_are_those_of_random_prompts():
    found = gradients.last_reverse_contrasts(3, 6, 2, 5, 1.0, 40, seed=7)
    storage = gradients.trained_on_facts(6, 2, 5, 1.0, 40)[0][-1]
    masses = np.zeros((3, storage.shape[1]))
    masses[:, [5, -2, -1]] = np.random.default_rng(7).dirichlet(np.ones(3), 3)
    assert found == pytest.approx([gradients.score_contrast(storage, mass, 0, 5) for mass in masses])
