"""The training step: its optimiser against torch's, its batches, and several configurations side by side."""

import dataclasses

import numpy as np
import pytest
import torch

from lib.one_layer import interventions, objectives, task, training, unique
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig

torch.set_num_threads(1)

SMALL = {"length": 4, "width": 8}


def trainer(seeds=(0, 1), settings=None, **recipe):
    recipe = {"steps": 30, "batch": 16, "warmup": 3, **recipe}
    return Trainer(ModelConfig(**SMALL, **(settings or {})), TrainingConfig(**recipe), seeds)


def test_one_member_follows_torchs_adamw():
    ours = trainer((5,), weight_decay=0.1, clip=0.5, learning_rate=3e-3)
    plain = ours.ensemble.member(0)
    matrices = [weight for weight in plain.parameters() if weight.dim() > 1]
    vectors = [weight for weight in plain.parameters() if weight.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.1)
    average = [weight.detach().clone() for weight in plain.parameters()]
    for step in range(8):
        tokens, rows, targets, weights = (part[0] for part in ours.batch(step))
        logits = plain(tokens, rows=rows).logits
        loss = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum() / 16
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 3)
        optimiser.step()
        decay = min(0.99, (step + 1) / (step + 10))
        for mean, weight in zip(average, plain.parameters(), strict=True):
            mean.mul_(decay).add_(weight.detach(), alpha=1 - decay)
        assert float(ours.step()[0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for found, expected in ((ours.ensemble.parameters, plain.parameters()), (ours.average, average)):
        assert torch.allclose(found[0], torch.cat([weight.detach().reshape(-1) for weight in expected]), atol=1e-5)


def test_a_seed_trains_alike_alone_and_in_company():
    alone, company = trainer((1,)), trainer((0, 1, 2))
    for _ in range(5):
        alone.step()
        company.step()
    assert torch.allclose(alone.ensemble.parameters[0], company.ensemble.parameters[1], atol=1e-5)
    assert not torch.allclose(company.ensemble.parameters[0], company.ensemble.parameters[1], atol=1e-2)


@pytest.mark.parametrize("objective", objectives.OBJECTIVES)
def test_training_lowers_the_loss_of_unseen_batches(objective):
    causal = objective == "autoregressive"
    run = trainer(settings={"causal": causal}, objective=objective, learning_rate=2e-2, batch=64)
    tokens, rows, targets, weights = run.batch(10**6)
    held = lambda: objectives.losses(run.ensemble.logits(tokens, rows), targets, weights, 64).mean().detach()
    before = float(held())
    for _ in range(30):
        run.step()
    assert float(held()) < 0.95 * before


def test_a_batch_is_forward_only_and_another_step_is_another_batch():
    run = trainer()
    tokens, rows, targets, _ = run.batch(3)
    filled = tokens.flatten(1).scatter(1, rows, targets).view(tokens.shape)
    for text in map(task.spell, filled.flatten(0, 1)):
        assert text.replace("0", "")[0].islower()
    assert not torch.equal(tokens, run.batch(4)[0]) and torch.equal(tokens, run.batch(3)[0])


def test_a_generator_set_anew_draws_as_a_new_one():
    used = training.step_generator(3, 4)
    used.random(5)
    used.integers(7, size=3)  # leaves half a word behind
    assert training.step_generator(5, 6, used) is used
    fresh = training.step_generator(5, 6)
    assert (used.integers(7, size=3) == fresh.integers(7, size=3)).all() and (used.random(5) == fresh.random(5)).all()


RECIPES = [{}, {"draws": "t_dce"}, {"draws": "lambda_dce"}, {"reversed_share": 0.3},
           *({"objective": name} for name in objectives.OBJECTIVES),
           *({"intervention": name, "reversed_share": 0.3} for name in interventions.INTERVENTIONS)]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_questions_drawn_ahead_are_those_of_each_step(recipe, dropout, monkeypatch):
    causal, given = recipe.get("objective") == "autoregressive", []
    run = trainer(settings={"causal": causal, "dropout": dropout}, **recipe)
    real = Ensemble.loss_and_gradient
    spy = lambda self, *each: given.append(each[0]) or real(self, *each)
    monkeypatch.setattr(Ensemble, "loss_and_gradient", spy)
    run.steps_taken = training.AHEAD - 2  # as after an interruption
    for _ in range(4):
        expected = run.batches(run.steps_taken)
        run.step()
        for found, one in zip(given.pop(), expected, strict=True):
            if run.ensemble.by_tables:
                assert all(map(np.array_equal, found, unique.unique_rows(one, 16)))
            else:
                assert all((getattr(found, name) == part).all() for name, part in vars(one).items())


def test_seeds_see_batches_of_their_own():
    one, two = trainer().batches(3)
    assert not np.array_equal(one.tokens, two.tokens)


def test_the_average_keeps_to_its_decay():
    run = trainer((5,), ema=0.2)
    mean = run.average.clone()
    for step in range(5):
        run.step()
        decay = min(0.2, (step + 1) / (step + 10))
        mean = decay * mean + (1 - decay) * run.ensemble.parameters
        assert torch.allclose(run.average, mean, atol=1e-6)


def test_dropout_is_drawn_anew_each_step(monkeypatch):
    run, seen, seed = trainer(settings={"dropout": 0.1}), [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda value: seen.append(value) or seed(value))
    for _ in range(3):
        run.step()
    assert len(set(seen)) == 3


# Side by side ---------------------------------------------------------------------------------------------------

BASE = TrainingConfig(steps=6, batch=16, warmup=2)
OTHERS = [dict(learning_rate=1e-2), dict(weight_decay=0.3), dict(ema=0.0), dict(clip=1e-8), dict(warmup=5),
          dict(draws="t_dce"), dict(objective="fixed_rate"), dict(intervention="drop_random"), dict(reversed_share=0.5),
          dict(intervention="strangers", reversed_share=0.5)]


@pytest.mark.parametrize("depth", [1, 2])
def test_each_trains_as_if_alone(depth):
    settings = ModelConfig(**SMALL, depth=depth)
    recipes = [BASE, *(dataclasses.replace(BASE, **change) for change in OTHERS)]
    together, alone = Trainer(settings, recipes, [0, 3]), [Trainer(settings, recipe, [0, 3]) for recipe in recipes]
    for _ in range(5):
        losses = together.step()
        expected = torch.cat([one.step() for one in alone])
        assert torch.allclose(losses, expected, rtol=1e-4)
    for index, one in enumerate(alone):
        own = together.members(index)
        for name, tensor in one.tensors().items():
            assert torch.allclose(together.tensors()[name][own], tensor, atol=1e-4), (name, recipes[index])
    apart = together.average[::2]  # of the first seed: no recipe does what another does
    assert (torch.cdist(apart, apart) + torch.eye(len(apart)) > 1e-3).all()


def test_recipes_of_other_sizes_do_not_train_side_by_side():
    for change in ({"steps": 7}, {"batch": 8}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}: what trains side by side shares it"):
            Trainer(ModelConfig(**SMALL), [BASE, dataclasses.replace(BASE, **change)], [0])


def test_attention_that_stops_training_stays_and_the_rest_goes_on():
    recipe = TrainingConfig(steps=9, batch=8, warmup=2, attention_steps=4)
    trainer = Trainer(ModelConfig(length=4, width=8), recipe, [0])
    seen = {}
    for step in range(9):
        trainer.step()
        seen[step + 1] = {name: trainer.ensemble.weights[name][0].clone() for name in trainer.ensemble.weights}
    for name, last in seen[9].items():
        frozen = name == "embedding" or any(word in name for word in ("query", "key", "norm1"))
        assert torch.equal(seen[4][name], last) == frozen, name
        assert not torch.equal(seen[3][name], seen[4][name]), name


def test_the_rate_falls_to_zero_over_the_last_steps():
    trainer = Trainer(ModelConfig(length=4, width=8), TrainingConfig(steps=10, batch=8, warmup=1, decay=4), [0])
    rates = []
    for _ in range(10):
        rates.append(trainer._rates(trainer.recipe)[0])
        trainer.step()
    assert rates == pytest.approx([1e-3] * 7 + [0.75e-3, 0.5e-3, 0.25e-3])


def test_a_finite_training_set_is_drawn_from_again_and_again():
    recipe = TrainingConfig(steps=4, batch=40, training_set=5)
    trainer = Trainer(ModelConfig(length=7, width=8), recipe, [0, 1])
    seen = [set(), set()]
    for step in range(3):
        for one, batch in zip(seen, trainer.batches(step), strict=True):
            clean = batch.tokens.copy()
            clean.reshape(-1)[batch.rows] = batch.targets
            one.update(map(tuple, clean.tolist()))
    assert all(len(one) <= 5 for one in seen) and seen[0] != seen[1]
    fresh = Trainer(ModelConfig(length=7, width=8), dataclasses.replace(recipe, training_set=0), [0])
    assert len(np.unique(fresh.batches(0)[0].tokens, axis=0)) > 20


def test_the_unembedding_starts_at_its_scale():
    recipes = [TrainingConfig(steps=2, batch=8, unembedding=scale) for scale in (0.0, 0.02, 0.2)]
    heads = Trainer(ModelConfig(length=4, width=8), recipes, [3]).ensemble.weights["head.weight"]
    assert not heads[0].any() and torch.allclose(heads[2], heads[1] * 10)


def test_fillers_refuse_interventions_that_know_one_placeholder():
    with pytest.raises(ValueError, match="fillers=2"):
        Trainer(ModelConfig(length=4, width=8, facts=10, fillers=2), TrainingConfig(intervention="drop_random"), [0])
