"""The prompts of a text, counted and weighed by hand; the two extreme models trained on them."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from lib.theory import text_prompts as tp

TEXT = ("A", "is", "B")


def test_masking_trains_every_subset_and_causal_training_every_prefix():
    masked, causal = tp.trained_prompts(TEXT, "masked"), tp.trained_prompts(TEXT, "causal")
    assert len(masked) == 3 * 2 ** 2                      # each position, with any subset of the others
    assert (("M", "is", "B"), 0) in masked and (("M", "M", "M"), 2) in masked
    assert causal == {(("M", "M", "M"), 0): 1.0, (("A", "M", "M"), 1): 1.0, (("A", "is", "M"), 2): 1.0}
    assert tp.asked_at_once(TEXT, "masked")["M", "is", "M"] == [0, 2]


@pytest.mark.parametrize("length", [2, 5])
def test_weights_are_the_mean_over_masking_levels(length):
    for (shown, _), weight in tp.trained_prompts(tuple("abcde"[:length]), "masked").items():
        k = shown.count(tp.UNSEEN)
        assert weight == pytest.approx(quad(lambda t, k=k: t ** (k - 1) * (1 - t) ** (length - k), 0, 1)[0])


def test_queries_hide_one_name():
    assert tp.text_of("A", "B", 2) == ("A", "is", "is", "B")
    assert tp.forward_query("B", 1) == (("M", "is", "B"), 0)
    assert tp.reverse_query("B", 1) == (("B", "is", "M"), 2)
    assert not tp.never_trained(tp.forward_query("B", 1), [TEXT]) and tp.never_trained(tp.reverse_query("B", 1), [TEXT])
    assert tp.evidence_sides([TEXT], "masked") == {"right"} and tp.evidence_sides([TEXT], "causal") == set()


@pytest.mark.parametrize("objective", ["masked", "causal"])
@pytest.mark.parametrize("shared", [True, False])
def test_training_descends_the_weighted_loss(objective, shared):
    model = tp.LinearModel(2, 1, objective, shared)
    curves = model.train(1.0, 40)
    chance = 1 / len(model.words)
    assert {order: len(curve) for order, curve in curves.items()} == {"forward": 41, "reverse": 41}
    assert curves["forward"][0] == curves["reverse"][0] == pytest.approx(chance)
    assert curves["forward"][-1] > 2 * chance
    assert (curves["reverse"][-1] > 2 * chance) == (objective == "masked" and shared)
    assert model.overlap().any() == shared


def test_first_step_by_hand():
    """From zero the error of each prompt is 1/words - e_answer; the logits of a query move by its overlap with it."""
    model, eta = tp.LinearModel(2, 1, "masked", True), 0.3
    curve = model.train(eta, 1)["reverse"]
    found = []
    for (query, (name, _)) in zip(model.queries["reverse"], model.pairs, strict=True):
        logits = np.zeros(len(model.words))
        for prompt, answer, weight in model.trained:
            overlap = sum(prompt[0].count(word) * query[0].count(word) for word in model.words)
            error = np.full(len(logits), 1 / len(logits)) - (np.array(model.words) == answer)
            logits -= eta * weight * overlap * error
        found.append(math.exp(logits[model.words.index(name)]) / np.exp(logits).sum())
    assert curve[1] == pytest.approx(np.mean(found))
