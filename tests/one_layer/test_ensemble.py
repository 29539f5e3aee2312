"""Members of an ensemble against plain models: logits, gradients, attention."""

import dataclasses

import numpy as np
import pytest
import torch
from small_one_layer import random_ensemble
from torch.nn import functional

from lib.one_layer import objectives, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig

torch.set_num_threads(1)

CASES = [
    {"encoding": "rope"}, {"encoding": "rope", "heads": 2}, {"encoding": "alibi_directional", "heads": 4},
    {"encoding": "alibi"}, {"encoding": "alibi_directional"}, {"encoding": "none"}, {"encoding": "t5"},
    {"encoding": "learned", "heads": 2}, {"encoding": "sinusoidal"}, {"encoding": "t5", "heads": 2},
    {"encoding": "none", "mlp": False, "norm": False}, {"encoding": "learned", "norm": False},
    {"encoding": "rope", "depth": 2}, {"encoding": "t5", "depth": 2}, {"encoding": "learned", "causal": True},
    {"encoding": "learned", "values": "free", "heads": 2}, {"encoding": "sinusoidal", "values": "free"},
    {"encoding": "rope", "values": "laden", "heads": 2}, {"encoding": "none", "values": "laden"},
    {"encoding": "learned", "values": "free", "causal": True}, {"encoding": "t5", "values": "laden", "causal": True},
]


def ensemble(seed=0, members=3, **settings):
    return random_ensemble(0.1, members, seed, **{"length": 7, "width": 16, **settings})


def questions(settings, members=3, batch=5, count=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(task.CLEAN, (members, batch, settings.positions), generator=draw)
    total = batch * settings.positions
    rows = torch.stack([torch.randperm(total, generator=draw)[:count] for _ in range(members)])
    tokens.view(members, -1).scatter_(1, rows, task.MASK)
    return tokens, rows


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_logits_and_gradients_are_the_plain_models(settings):
    made = ensemble(**settings)
    tokens, rows = questions(made.settings)
    logits = made.logits(tokens, rows)
    signal = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    gradient = made.gradient((logits * signal).sum((1, 2)))
    for index in range(3):
        plain = made.member(index)
        own = plain(tokens[index], rows=rows[index]).logits
        (own * signal[index]).sum().backward()
        expected = torch.cat([weight.grad.reshape(-1) for weight in plain.parameters()])
        assert torch.allclose(logits[index], own, atol=1e-5)
        assert (gradient[index] - expected).norm() < 1e-5 * expected.norm()


def asked(settings, members=3, batch=30, seed=0):
    """Questions with repetitions, some of weight zero."""
    found = []
    for member in range(members):
        draw = np.random.default_rng((seed, member))
        tokens = task.sequences(batch, settings.length, draw)
        name = "autoregressive" if settings.causal else "masked_diffusion"
        one = objectives.make_batch(name, tokens, draw, objectives.stratified_uniforms(batch, draw))
        found.append(dataclasses.replace(one, weights=np.where(draw.random(len(one.rows)) < 0.2, 0.0, one.weights)))
    return found


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("settings", [*CASES, {"mlp": False}, {"encoding": "alibi", "depth": 2, "heads": 2}], ids=str)
def test_loss_and_gradient_of_a_step_are_the_plain_models(settings, members):
    made = ensemble(members=members, **{"length": 4, **settings})
    questions = asked(made.settings, members)
    for _ in range(2):  # the second time in memory used before
        losses, gradient = made.loss_and_gradient(questions, 30)
    assert not losses.is_inference() and not gradient.is_inference()  # nothing stops others from working on them
    for index, one in enumerate(questions):
        plain = made.member(index)
        tokens, rows, targets, weights = (torch.from_numpy(part) for part in dataclasses.astuple(one))
        each = functional.cross_entropy(plain(tokens, rows=rows).logits, targets, reduction="none")
        loss = (each * weights.float()).sum() / 30
        loss.backward()
        expected = torch.cat([weight.grad.reshape(-1) for weight in plain.parameters()])
        assert float(losses[index]) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert (gradient[index] - expected).norm() < 1e-5 * expected.norm()
        for name, columns, _ in made.parameter_slices():  # weight by weight, where a small one could hide
            off = (gradient[index, columns] - expected[columns]).norm()
            assert off < 1e-4 * expected[columns].norm() + 1e-6 * expected.norm(), name


def test_a_step_with_dropout_differs_from_one_without():
    made = ensemble(dropout=0.3)
    questions = asked(made.settings)
    made.training = True
    torch.manual_seed(0)
    first, second = (made.loss_and_gradient(questions, 30)[0].clone() for _ in range(2))
    assert not torch.allclose(first, second)


def test_a_member_is_a_copy_and_does_not_depend_on_the_others():
    made, alone = ensemble(), Ensemble.from_seeds(ModelConfig(length=7, width=16), [1])
    member = made.member(1)
    made.parameters.zero_()
    assert all(weight.abs().max() > 0 for weight in member.parameters())
    three = Ensemble.from_seeds(ModelConfig(length=7, width=16), [0, 1, 2])
    assert torch.equal(three.parameters[1], alone.parameters[0])


def test_dropout_acts_in_training_only():
    made = ensemble(dropout=0.5)
    tokens, rows = questions(made.settings)
    assert torch.equal(made.logits(tokens, rows), made.logits(tokens, rows))
    made.training = True
    torch.manual_seed(0)
    first, second = made.logits(tokens, rows), made.logits(tokens, rows)
    assert not torch.allclose(first, second)


def test_a_question_at_a_visible_token_is_refused():
    made = ensemble()
    tokens, rows = questions(made.settings)
    tokens.view(3, -1)[0, rows[0, 0]] = 5
    with pytest.raises(ValueError, match="asked at masked positions only"):
        made.logits(tokens, rows)
    visible = objectives.MaskedBatch(*(part[0].numpy() for part in (tokens, rows, rows % 53)), np.ones(rows.shape[1]))
    with pytest.raises(ValueError, match="asked at masked positions only"):
        made.loss_and_gradient([visible] * 3, 5)


def test_a_buffer_of_another_size_is_refused():
    with pytest.raises(ValueError, match="parameters: 10 a member"):
        Ensemble(ModelConfig(), torch.zeros(2, 10))
