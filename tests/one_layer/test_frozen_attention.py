"""What attention's limit predicts: chances against counted answers, features against the model's own logits, rules."""

import collections
import dataclasses

import numpy as np
import pytest
import torch

from lib.one_layer import frozen_attention as frozen
from lib.one_layer import metrics, task
from lib.one_layer.model import ModelConfig, storage
from lib.one_layer.task import Queries
from lib.one_layer.training import Trainer, TrainingConfig

torch.set_num_threads(1)
RECIPE = TrainingConfig(learning_rate=0.01)


def questions(spelled, asked):
    tokens = task.read(spelled)[None].repeat(len(asked), 1)
    zeros = torch.zeros(len(asked))
    return frozen.Questions(tokens, torch.tensor(asked), zeros.long(), zeros + 1)


def test_chances_are_the_shares_of_sampled_answers():
    asked = frozen.training_questions(ModelConfig(length=3), RECIPE, 60_000)
    chances = frozen.answer_chances(asked)
    assert torch.allclose(chances.sum(1), torch.ones(len(chances), dtype=torch.float64)) and chances.min() >= 0
    counted = collections.defaultdict(list)
    for tokens, position, target, chance in zip(*asked[:3], chances, strict=True):
        counted[tuple(tokens.tolist()), int(position)].append((int(target), chance))
    compared = 0
    for answers in counted.values():
        chance = answers[0][1]
        for token in (task.PLACEHOLDER, answers[0][0]):
            share, expected = np.mean([target == token for target, _ in answers]), float(chance[token])
            if expected in (0.0, 1.0):
                assert share == expected
            elif len(answers) > 200:
                assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(answers))
                compared += 1
    assert compared > 10


@pytest.mark.parametrize(("spelled", "asked", "one"), [
    ("_0D_", [0, 3], [True, True]), ("__D_", [0, 1, 3], [False, False, True]), ("d0D_", [3], [True]),
    ("_d__", [0, 2, 3], [True, False, False]), ("_d_0", [2], [True]), ("____", [0, 3], [False, False])])
def test_questions_with_one_answer_are_those_that_the_data_settle(spelled, asked, one):
    found = questions(spelled, asked)
    assert frozen.left_one_answer(found).tolist() == one
    assert (frozen.answer_chances(found).max(1).values == 1).tolist() == one


@pytest.mark.parametrize("encoding", ["rope", "alibi_directional", "t5", "none", "learned"])
def test_logits_without_mlp_and_norms_are_linear_in_the_features(encoding):
    settings = ModelConfig(length=5, width=16, encoding=encoding, mlp=False, norm=False)
    trainer = Trainer(settings, RECIPE, [0])
    for _ in range(5):
        trainer.step()
    model = trainer.ensemble.member(0)
    asked = torch.cat([queries.tokens for queries in metrics.queries(settings)])
    position = torch.cat([queries.position for queries in metrics.queries(settings)])
    features = frozen.attention_features(model, asked, position)
    with torch.no_grad():
        logits = model(asked, rows=torch.arange(len(asked)) * 5 + position).logits.double()
    fitted = torch.linalg.lstsq(features, logits, driver="gelsd").solution
    assert torch.allclose(features @ fitted, logits, atol=1e-5)
    if encoding != "learned":
        assert torch.allclose(features @ storage(model).double().T, logits, atol=1e-5)
        shuffled = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))]
        assert not torch.allclose(shuffled @ storage(model).double().T, logits, atol=1e-3)


def test_long_descent_on_frozen_attention_ends_at_the_expected_limit():
    settings = ModelConfig(length=3, width=32, mlp=False, norm=False, encoding="alibi_directional")
    recipe = TrainingConfig(steps=1500, learning_rate=0.01, attention_steps=500, decay=700)
    trainer = Trainer(settings, recipe, [0])
    for _ in range(recipe.steps):
        trainer.step()
    found = frozen.predictions(trainer.averaged(), recipe)
    assert set(found) == set(frozen.NAMES)
    assert found["expected_decided"][0] > 90 and found["expected_decided_agreement"][0] > 95
    other = frozen.predictions(trainer.averaged(), dataclasses.replace(recipe, intervention="drop_right_of_capital"))
    assert other["expected_reverse"][0] > 90  # nothing opposes the letter
    assert abs(found["expected_reverse"][0] - found["answered_reverse"][0]) < 15


def test_interventions_weigh_answers_as_they_weigh_the_loss():
    settings, dropped = ModelConfig(length=6), {}
    for name in ("none", "drop_right_of_capital", "drop_right_letter_hidden", "drop_right_letter_shown", "drop_random"):
        recipe = dataclasses.replace(RECIPE, intervention=name)
        weights = frozen.expected_answers(settings, recipe, 0, 6_000)[1]
        sampled = frozen.training_questions(settings, recipe, 6_000)
        assert float(weights.sum()) == pytest.approx(float(sampled.weight.sum()), rel=0.04)
        dropped[name] = float(weights[:, task.PLACEHOLDER].sum())
    both, parts = dropped["none"] - dropped["drop_right_of_capital"], ("hidden", "shown")
    assert sum(dropped["none"] - dropped[f"drop_right_letter_{part}"] for part in parts) == pytest.approx(both)
    assert dropped["drop_random"] == pytest.approx(dropped["drop_right_of_capital"], rel=0.05)
    with pytest.raises(ValueError, match="one_mask"):
        frozen.expected_answers(settings, dataclasses.replace(RECIPE, intervention="one_mask"), 0)
    with pytest.raises(ValueError, match="training_set"):
        frozen.training_questions(settings, dataclasses.replace(RECIPE, training_set=9))


def test_the_window_rule_puts_the_threshold_between_the_two_kinds_of_questions():
    model = Trainer(ModelConfig(length=3, width=16, encoding="alibi_directional"), RECIPE, [0]).ensemble.member(0)
    spelled, targets = ("_0D", "0_D", "D__", "0D_"), (3, 3, task.PLACEHOLDER, task.PLACEHOLDER)
    shown, place = torch.stack([task.read(each) for each in spelled]), torch.tensor([0, 1, 1, 2])
    asked = frozen.Questions(shown, place, torch.tensor(targets), torch.ones(4))
    mass = frozen.attention_features(model, shown, place)[:, task.LETTERS + 3]
    threshold = (mass[:2].min() + mass[2:].max()) / 2
    letter = torch.full((4,), 3)
    queries = Queries(shown, place, torch.tensor([2, 2, 0, 1]), letter, letter)
    assert mass[:2].min() > mass[2:].max() + 1e-3  # the bias makes the right side weak: separable
    leads = frozen.window_leads(model, asked, queries)
    assert ((leads > 0) == (mass > threshold)).all()
    unopposed = frozen.window_leads(model, asked.where(torch.tensor([True, True, False, False])), queries)
    assert (unopposed > 0).all()


def test_the_area_under_the_curve_counts_pairs():
    score, right = torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([True, False, True, False])
    assert frozen.area_under_curve(score, right) == pytest.approx(3.5 / 4)
    assert frozen.area_under_curve(score, torch.ones(4, dtype=torch.bool)) is None


def test_probes_find_the_side_where_it_is():
    absolute = Trainer(ModelConfig(length=4, width=16, encoding="learned"), RECIPE, [0]).ensemble.member(0)
    assert frozen.side_by_feature(absolute)["residual"] > 0.6
    symmetric = Trainer(ModelConfig(length=4, width=16, encoding="alibi"), RECIPE, [0]).ensemble.member(0)
    found = frozen.side_by_feature(symmetric)
    assert found["residual"] == 0.5 and abs(found["evidence"] - 0.5) < 0.05
