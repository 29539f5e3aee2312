"""Models kept along training are those that training measures, and their queries are read as they are."""

import pytest
import torch

from lib.one_layer import metrics, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.kept_models import accuracies_along_training, centred_pairs, models_along_training, read_queries
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig

SETTINGS, RECIPE = ModelConfig(length=4, width=16, mlp=False), TrainingConfig(steps=6, batch=16)


@pytest.fixture(scope="module")
def models():
    return models_along_training(SETTINGS, RECIPE, 1, [0, 2, 6])


def test_each_step_has_the_average_of_the_weights_after_it(models):
    trainer = Trainer(SETTINGS, RECIPE, [1])
    assert [*models] == [0, 2, 6]
    for _ in range(2):
        trainer.step()
    own, other = (dict(trainer.averaged().member(0).named_parameters()), dict(models[6].named_parameters()))
    for name, weight in models[2].named_parameters():
        assert torch.equal(weight, own[name])
    assert any(not torch.equal(weight, other[name]) for name, weight in models[2].named_parameters())


@pytest.mark.parametrize("steps", [[], [2, 1], [1, 1], [-1, 2], [7]])
def test_steps_that_training_does_not_pass_are_refused(steps):
    with pytest.raises(ValueError, match="between 0 and 6"):
        models_along_training(SETTINGS, RECIPE, 1, steps)


def test_queries_are_read_as_the_model_answers_them(models):
    model = models[6]
    for asked in task.paired_queries(4):
        found, rows = read_queries(model, asked), torch.arange(len(asked))
        logits = model(asked.tokens).logits[rows, asked.position]
        torch.testing.assert_close(found.letter.float(), logits.softmax(-1)[rows, asked.target])
        torch.testing.assert_close(found.placeholder.float(), logits.softmax(-1)[:, task.PLACEHOLDER])
        torch.testing.assert_close(found.letter + found.placeholder + found.other, torch.ones(len(asked)).double())
        attended = metrics.attention_on_evidence(Ensemble.from_models([model]), asked)[0]
        torch.testing.assert_close(found.weights[rows, asked.evidence], attended)
        assert not torch.equal(found.weights[rows, asked.position], attended)


def test_pairs_lie_in_the_middle_and_reverse_ones_are_their_mirror_images():
    forward, reverse = centred_pairs(6, 3, [1, 2, 5])
    assert [task.spell(row) for row in forward.tokens] == ["00_D00", "0_0D00", "_0000D"]
    assert [task.spell(row) for row in reverse.tokens] == ["00D_00", "00D0_0", "D0000_"]
    for distance in (0, 6):
        with pytest.raises(ValueError, match="between 1 and 5"):
            centred_pairs(6, 3, [distance])


def test_accuracies_are_those_of_all_queries(models):
    found = accuracies_along_training(models)
    last = metrics.query_answers(Ensemble.from_models([models[6]]))
    assert [len(found[way]) for way in task.DIRECTIONS] == [3, 3]
    assert found["forward"][-1] == last["forward_accuracy"][0] and found["reverse"][-1] == last["reverse_accuracy"][0]
