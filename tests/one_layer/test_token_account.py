"""The account of a one-layer model adds up to what the model computes."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from lib.one_layer import attribution, patching, task
from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.one_layer.token_account import token_account

SETTINGS = ModelConfig(length=5, width=16, mlp=False)


def weighty(settings=SETTINGS, seed=0):
    """A model with weights far from their small start, so that every part counts."""
    model, rng = initialise(Transformer(settings), seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.5 * torch.randn(weight.shape, generator=rng)
    return model.requires_grad_(False)


@pytest.mark.parametrize("encoding", ["rope", "alibi", "none"])
def test_every_query_is_answered_as_the_model_answers_it(encoding):
    model = weighty(dataclasses.replace(SETTINGS, encoding=encoding))
    exact, account = copy.deepcopy(model).double(), token_account(model)
    for asked in task.paired_queries(5):
        found, parts = patching.record_activations(exact, asked), attribution.margin_parts_by_source(exact, asked)
        logits = patching.logits_from(exact, found)
        for row in range(0, len(asked), 7):
            mask, evidence = int(asked.position[row]), int(asked.evidence[row])
            answer = account.answer(int(asked.letter[row]), mask, evidence)
            np.testing.assert_allclose(answer.scores, found.score[row, 0], atol=1e-10)
            np.testing.assert_allclose(answer.weights, found.row[row, 0], atol=1e-10)
            np.testing.assert_allclose(answer.logits, logits[row], atol=1e-9)
            np.testing.assert_allclose(answer.probabilities, logits[row].softmax(-1), atol=1e-10)
            others = [place for place in range(5) if place not in (mask, evidence)]
            shares = (answer.contributions[evidence], answer.contributions[others].sum(), answer.contributions[mask],
                      answer.rest)
            sources = ("evidence", "placeholders", "mask", "residual")
            np.testing.assert_allclose(shares, [float(parts[name][row]) for name in sources], atol=1e-9)


def test_contributions_add_up_to_the_logit_difference_and_the_other_query_differs():
    account = token_account(weighty(), letters=4)
    forward, reverse = account.answer(3, 1, 4), account.answer(3, 3, 0)
    difference = lambda answer: answer.logits[3] - answer.logits[task.PLACEHOLDER]
    assert forward.contributions.sum() + forward.rest == pytest.approx(difference(forward), abs=1e-12)
    assert abs(forward.contributions.sum() + forward.rest - difference(reverse)) > 1e-3
    assert account.letters == 4 and len(account.scores) == 5


@pytest.mark.parametrize("settings", [
    ModelConfig(length=5, width=16), ModelConfig(length=5, width=16, mlp=False, norm=False),
    ModelConfig(length=5, width=16, mlp=False, encoding="learned"), ModelConfig(length=5, width=16, mlp=False, depth=2),
    ModelConfig(length=5, width=16, mlp=False, values="laden"), ModelConfig(length=5, width=16, mlp=False, heads=2)])
def test_a_model_whose_logits_are_no_such_sums_is_refused(settings):
    with pytest.raises(ValueError, match="mlp=False"):
        token_account(Transformer(settings))


def test_a_query_without_evidence_is_refused():
    with pytest.raises(ValueError, match="position 2"):
        token_account(weighty()).answer(0, 2, 2)
