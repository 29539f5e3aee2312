"""App. C.2: closed forms against torch, sympy and enclosed derivatives."""

import dataclasses

import flint
import numpy as np
import pytest
import sympy as sp
import torch

from lib.encodings import rope_frequencies
from lib.theory import parameter_gradients as pg
from lib.theory import routing, symbolic
from lib.theory.parameter_gradients import (
    Parameters,
    PromptSpec,
    backpropagate,
    closed_form_gradient,
    derived_gradient,
    enclosed_gradient,
    matrix_inner_products,
    parameters_as_balls,
    prompt_as_balls,
    symbolic_parameters,
    truncated_loss,
    whole_loss,
)

NAMES = ("embedding", "query", "key", "value", "unembedding")


def model_of(seed, vocabulary=4, embedding=3, head=2, value=5):
    rng = np.random.default_rng(seed)
    projections = [(head, embedding), (head, embedding), (value, embedding)]
    shapes = [(embedding, vocabulary + 1), *projections, (vocabulary, value)]
    return Parameters(*(rng.normal(size=shape) for shape in shapes))


def prompts_of(seed, head=2, target=2, evidence=1):
    rng = np.random.default_rng(seed + 100)
    return [PromptSpec(rng.normal(size=(head, head)), float(rng.normal()), target, evidence) for _ in range(2)]


def torch_gradient(model, prompt, keep_mask):
    """Loss and gradients by torch, written from Sec. 3 with two positions."""
    E, Q, K, V, U = (torch.tensor(getattr(model, name), requires_grad=True) for name in NAMES)
    x_mask, x_seen = E[:, -1], E[:, prompt.evidence]
    score = (Q @ x_mask) @ torch.tensor(prompt.position) @ (K @ x_seen) + prompt.bias
    alpha = torch.sigmoid(score)
    hidden = alpha * (V @ x_seen) + (1 - alpha) * (V @ x_mask) * keep_mask
    loss = torch.nn.functional.cross_entropy((U @ hidden)[None], torch.tensor([prompt.target]))
    return loss.item(), dict(zip(NAMES, torch.autograd.grad(loss, (E, Q, K, V, U)), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_losses_against_torch(seed):
    model, (prompt, _) = model_of(seed), prompts_of(seed)
    assert truncated_loss(model, prompt) == pytest.approx(torch_gradient(model, prompt, 0)[0], rel=1e-12)
    assert whole_loss(model, prompt) == pytest.approx(torch_gradient(model, prompt, 1)[0], rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_closed_gradients_against_torch(seed):
    model, (prompt, _) = model_of(seed), prompts_of(seed, evidence=seed % 3, target=seed)
    stated, (_, found) = closed_form_gradient(model, prompt), torch_gradient(model, prompt, 0)
    for name in NAMES:
        np.testing.assert_allclose(getattr(stated, name), found[name].numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("seed", "sizes"), [(0, (4, 3, 2, 5)), (1, (20, 16, 8, 12)), (2, (3, 2, 4, 2))])
def test_inner_products_against_torch_to_twelve_digits(seed, sizes):
    model = model_of(seed, *sizes).mapped(lambda matrix: matrix / np.sqrt(matrix.shape[1]))
    pair = prompts_of(seed, head=sizes[2])
    stated = matrix_inner_products(model, *pair)
    one, other = (torch_gradient(model, prompt, 0)[1] for prompt in pair)
    for name in NAMES:
        size = one[name].norm() * other[name].norm()
        assert abs(stated[name] - (one[name] * other[name]).sum()) <= 1e-12 * size
    four = [stated[f"embedding_{part}"] for part in ("query", "key", "value", "cross")]
    assert stated["embedding"] == pytest.approx(sum(four), rel=1e-12)
    assert min(map(abs, four)) > 0


@pytest.mark.parametrize("keep_mask", [0, 1])
def test_enclosed_gradient_contains_torch(keep_mask):
    model, (prompt, _) = model_of(7), prompts_of(7)
    loss = whole_loss if keep_mask else truncated_loss
    before = flint.ctx.prec, flint.ctx.cap
    enclosed = enclosed_gradient(loss, parameters_as_balls(model), prompt_as_balls(prompt))
    assert (flint.ctx.prec, flint.ctx.cap) == before
    found = torch_gradient(model, prompt, keep_mask)[1]
    for name in NAMES:
        balls = getattr(enclosed, name)
        assert balls.shape == found[name].shape
        for ball, value in zip(balls.flat, found[name].flatten().tolist(), strict=True):
            assert float(ball) == pytest.approx(value, rel=1e-10, abs=1e-13)
            assert float(ball.rad()) < 1e-45


def test_precision_is_restored_after_an_error():
    before = flint.ctx.prec, flint.ctx.cap
    with pytest.raises(ZeroDivisionError):
        enclosed_gradient(lambda *_: 1 / 0, parameters_as_balls(model_of(0)), prompt_as_balls(prompts_of(0)[0]))
    assert (flint.ctx.prec, flint.ctx.cap) == before


def test_symbolic_gradient_of_the_unembedding():
    model = symbolic_parameters(1, 1, 1, 2)
    prompt = PromptSpec(sp.symarray("P", (1, 1), real=True), sp.Symbol("b", real=True), 0, 1)
    derived, stated = derived_gradient(truncated_loss, model, prompt), closed_form_gradient(model, prompt)
    for name in NAMES:
        for one, other in zip(getattr(derived, name).flat, getattr(stated, name).flat, strict=True):
            assert symbolic.vanishes(one - other)
    assert derived.embedding[0, 0] == 0 and derived.embedding[0, 1] != 0


def test_symbols_are_all_different():
    model = symbolic_parameters(2, 3, 4, 5)
    shapes = [getattr(model, name).shape for name in NAMES]
    assert shapes == [(2, 6), (3, 2), (3, 2), (4, 2), (5, 4)]
    assert len({entry for name in NAMES for entry in getattr(model, name).flat}) == 12 + 6 + 6 + 8 + 20
    assert all(entry.is_real for entry in model.key.flat)


def test_exact_prompt_keeps_the_tokens():
    prompt = PromptSpec(np.eye(2), 0.25, 3, 2)
    exact = prompt_as_balls(prompt)
    assert (exact.target, exact.evidence) == (3, 2)
    assert exact.bias == flint.arb("0.25") and exact.position[1, 1] == 1 and exact.position[0, 1] == 0


def test_bad_arguments_are_refused():
    model = model_of(0)
    with pytest.raises(ValueError, match="embedding must have one column more than unembedding has rows, 6, not 5"):
        dataclasses.replace(model, unembedding=np.zeros((5, 5)))
    forward, reverse = prompts_of(0)
    with pytest.raises(ValueError, match="both prompts must show one evidence, not 1 and 0"):
        matrix_inner_products(model, forward, dataclasses.replace(reverse, evidence=0))


@pytest.mark.parametrize("result", [model_of(0), prompts_of(0)[0], backpropagate(model_of(0), prompts_of(0)[0])])
def test_results_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, next(iter(vars(result))), None)


# random models and prompts ---------------------------------------------------------------------------------------


def test_prompts_give_the_scores_of_their_encoding():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 6))
    for prompt, offset in zip(pg.rope_prompts(6, 3.0, 5.0), (3.0, -5.0), strict=True):
        turned = routing.rotate(key, offset * rope_frequencies(6))
        assert query @ prompt.position @ key + prompt.bias == pytest.approx(query @ turned)
    for prompt, distance in zip(pg.alibi_prompts(6, 3.0, 5.0, slope=0.2), (3.0, 5.0), strict=True):
        assert query @ prompt.position @ key + prompt.bias == pytest.approx(query @ key - 0.2 * distance)


def test_random_parameters_have_scores_of_order_one():
    model = pg.random_parameters(np.random.default_rng(0), 40, 50, 30, 20)
    assert [matrix.shape for matrix in vars(model).values()] == [(50, 41), (30, 50), (30, 50), (20, 50), (40, 20)]
    assert model.query.std() == pytest.approx(50**-0.5, rel=0.05)


def test_sampled_inner_products_are_those_of_each_model():
    whole, storage = pg.sampled_inner_products(pg.rope_prompts, 1.5, 2, seed=4)
    rng = np.random.default_rng(4)
    model = pg.random_parameters(rng, 10, 16, 8, 16).mapped(lambda matrix: 1.5 * matrix)
    parts = pg.matrix_inner_products(model, *pg.rope_prompts(8, *rng.integers(1, 20, size=2).astype(float)))
    assert len(whole) == 2 and whole[0] == pytest.approx(pg.whole_inner_product(parts))
    assert storage[0] == pytest.approx(parts["unembedding"] + parts["value"] + parts["embedding_value"])
    assert pg.whole_inner_product(parts) == pytest.approx(
        sum(parts[name] for name in ("embedding", "query", "key", "value", "unembedding")))
