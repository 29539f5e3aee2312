"""Changed questions: what is dropped, counted one by one in the spelled-out sequences, and how much control drops."""

import dataclasses

import numpy as np
import pytest

from lib.one_layer import interventions, objectives, task
from lib.one_layer.interventions import INTERVENTIONS
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig

COUNT, LENGTH = 400, 7


def batch(intervention, seed=0, count=COUNT, reversed_share=0.0, draws="stratified", length=LENGTH):
    draw = np.random.default_rng(seed)
    tokens = task.sequences(count, length, draw, reversed_share)
    spread = objectives.stratified_uniforms(count, draw)
    return tokens, interventions.make_intervened_batch(intervention, "masked_diffusion", tokens, draw, spread, draws)


def described(asked):
    """Each question as (text shown, position asked, answer, weight)."""
    length = asked.tokens.shape[1]
    return [(task.spell(asked.tokens[row // length]), row % length, task.ALPHABET[target], weight)
            for row, target, weight in zip(asked.rows, asked.targets, asked.weights, strict=True)]


CUT = {
    "drop_right_letter_hidden": lambda text, at: CUT["drop_right_of_capital"](text, at) and text.upper() == text,
    "drop_right_letter_shown": lambda text, at: CUT["drop_right_of_capital"](text, at) and text.upper() != text,
    "drop_right_of_capital": lambda text, at: any(character.isupper() for character in text[:at]),
    "drop_left_of_capital": lambda text, at: any(character.isupper() for character in text[at:]),
    "drop_left_of_letter": lambda text, at: any(character.islower() for character in text[at:]),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("draws", ["stratified", "lambda_dce"])
def test_exactly_the_named_questions_weigh_nothing(name, draws):
    (_, plain), (_, changed) = batch("none", draws=draws), batch(name, draws=draws)
    assert (plain.tokens == changed.tokens).all() and (plain.rows == changed.rows).all()
    cut = 0
    for before, (text, at, answer, weight) in zip(described(plain), described(changed), strict=True):
        gone = answer == "0" and CUT[name](text, at)
        assert weight == (0 if gone else before[3])
        cut += gone
    assert cut > COUNT / (20 if name.startswith("drop_right_letter") else 10)


def test_right_of_a_visible_capital_forward_data_has_placeholders_alone():
    _, asked = batch("none")
    answers = {answer for text, at, answer, _ in described(asked) if CUT["drop_right_of_capital"](text, at)}
    assert answers == {"0"}
    _, asked = batch("none", reversed_share=0.5)
    answers = {answer for text, at, answer, _ in described(asked) if CUT["drop_right_of_capital"](text, at)}
    assert len(answers) > 10


@pytest.mark.parametrize("seed", range(5))
def test_the_random_control_drops_as_many_of_every_weight(seed):
    (_, plain), (_, right), (_, chance) = (
        batch(name, seed) for name in ("none", "drop_right_of_capital", "drop_random"))
    gone = [(asked.weights == 0) for asked in (right, chance)]
    assert sorted(plain.weights[gone[0]]) == sorted(plain.weights[gone[1]])
    assert (gone[0] != gone[1]).any() and (plain.targets[gone[1]] == task.PLACEHOLDER).all()
    again = batch("drop_random", seed)[1]
    assert (again.weights == chance.weights).all()
    ranks = []  # from all over the batch: not the first ones of each weight
    for weight in np.unique(plain.weights):
        alike = np.flatnonzero((plain.weights == weight) & (plain.targets == task.PLACEHOLDER))
        ranks += list(np.flatnonzero(gone[1][alike]) / len(alike))
    assert 0.4 < np.mean(ranks) < 0.6


def test_the_random_control_spares_no_kind_of_placeholder():
    share = {True: [], False: []}
    for seed in range(8):
        (_, plain), (_, chance) = batch("none", seed), batch("drop_random", seed)
        for (text, at, answer, weight), (*_, left) in zip(described(plain), described(chance), strict=True):
            if answer == "0" and weight == LENGTH / 2:  # two masks
                share[CUT["drop_right_of_capital"](text, at)].append(left == 0)
    means = [np.mean(values) for values in share.values()]
    assert abs(means[0] - means[1]) < 0.1 and 0.1 < means[0] < 0.5


def test_the_mirror_images_drop_as_many_and_twice_as_many():
    gone = {name: np.mean([(batch(name, seed)[1].weights == 0).sum() for seed in range(30)]) for name in CUT}
    assert gone["drop_left_of_letter"] == pytest.approx(gone["drop_right_of_capital"], rel=0.1)
    assert gone["drop_left_of_capital"] == pytest.approx(2 * gone["drop_right_of_capital"], rel=0.1)


def test_one_mask_and_one_question_ask_once_a_sequence_with_equal_weight():
    for name in ("one_mask", "one_question"):
        tokens, asked = batch(name)
        assert (np.sort(asked.rows // LENGTH) == np.arange(COUNT)).all()
        assert asked.weights == pytest.approx(np.full(COUNT, LENGTH))
        assert (asked.targets == tokens.reshape(-1)[asked.rows]).all()
        masks = (asked.tokens == task.MASK).sum(1)
        assert (asked.tokens.reshape(-1)[asked.rows] == task.MASK).all()
        assert (masks.max() == 1) == (name == "one_mask")
    asked = [batch("one_question", seed)[1] for seed in range(20)]
    first = np.concatenate([one.rows % LENGTH for one in asked])
    assert np.bincount(first, minlength=LENGTH) == pytest.approx(np.full(LENGTH, len(first) / LENGTH), rel=0.1)


def test_strangers_show_a_wrong_letter_in_reversed_sequences_and_change_nothing_else():
    (tokens, plain), (_, changed) = batch("none", reversed_share=0.3), batch("strangers", reversed_share=0.3)
    assert (plain.rows == changed.rows).all() and (plain.weights == changed.weights).all()
    shown = changed.tokens.copy()
    shown.reshape(-1)[changed.rows] = changed.targets
    kinds = {True: 0, False: 0}
    for text, other in zip(map(task.spell, tokens), map(task.spell, shown), strict=True):
        reverse = text.replace("0", "")[0].isupper()
        kinds[reverse] += 1
        if not reverse:
            assert text == other
        else:
            assert [a for a, b in zip(text, other, strict=True) if a != b] == [text.replace("0", "")[1]]
            assert other.replace("0", "")[1].islower()
    assert min(kinds.values()) > 50


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("objective", ["masked_diffusion", "fixed_rate"])
def test_every_intervention_trains(name, objective):
    recipe = TrainingConfig(objective=objective, intervention=name, batch=30, steps=3, reversed_share=0.1)
    run = Trainer(ModelConfig(length=5, width=8), recipe, (0, 1))
    assert all(np.isfinite(run.step().numpy()).all() for _ in range(3))


def test_an_unknown_intervention_and_a_causal_model_are_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown intervention 'drop_all'; one of none, drop_right_of_capital"):
        interventions.check_intervention("drop_all")
    with pytest.raises(ValueError, match="objective 'autoregressive' has none"):
        TrainingConfig(objective="autoregressive", intervention="one_mask")
    tokens = task.sequences(4, 5, np.random.default_rng(0))
    make = lambda name: interventions.make_intervened_batch(
        name, "autoregressive", tokens, np.random.default_rng(0), np.arange(4) / 4)
    with pytest.raises(ValueError, match="objective 'autoregressive' has none"):
        make("one_mask")
    asked = make("none")
    assert dataclasses.asdict(asked)["rows"].shape == (20,)


def test_strangers_are_any_other_letter_and_one_mask_is_anywhere():
    tokens, asked = batch("strangers", count=2000, reversed_share=1.0)
    shown = asked.tokens.copy()
    shown.reshape(-1)[asked.rows] = asked.targets
    small = tokens < task.LETTERS
    assert set((shown[small] - tokens[small]) % task.LETTERS) == set(range(1, task.LETTERS))
    count = np.bincount(batch("one_mask", count=2000)[1].rows % LENGTH, minlength=LENGTH)
    assert count == pytest.approx(np.full(LENGTH, 2000 / LENGTH), rel=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_dropped_elsewhere_spares_what_stands_right_of_a_capital(seed):
    (_, plain), (_, right), (_, other) = (
        batch(name, seed) for name in ("none", "drop_right_of_capital", "drop_random_elsewhere"))
    gone, chance = (asked.weights == 0 for asked in (right, other))
    assert not (gone & chance).any() and (plain.targets[chance] == task.PLACEHOLDER).all()
    for weight in np.unique(plain.weights):  # as many of each weight, or all there are
        alike = plain.weights == weight
        left = alike & (plain.targets == task.PLACEHOLDER) & ~gone
        assert chance[alike].sum() == min(gone[alike].sum(), left.sum())


def test_the_weight_of_the_blocking_questions_scales_them_alone():
    _, plain = batch("none")
    _, right = batch("drop_right_of_capital")
    half = interventions.weigh_right_of_capital(plain, 0.5)
    blocking = right.weights == 0
    assert (half.weights[blocking] == plain.weights[blocking] / 2).all()
    assert (half.weights[~blocking] == plain.weights[~blocking]).all()
    assert (interventions.weigh_right_of_capital(plain, 0.0).weights == right.weights).all()
    with pytest.raises(ValueError, match="right_weight"):
        TrainingConfig(right_weight=0.5, intervention="drop_random")
    with pytest.raises(ValueError, match="right_weight"):
        TrainingConfig(right_weight=-1.0)


def test_with_letters_only_no_placeholder_is_asked_for():
    tokens, asked = batch("letters_only")
    assert not (asked.targets == task.PLACEHOLDER).any()
    hidden = (asked.tokens == task.MASK).sum(1)
    assert set(hidden) == {1, 2} and (hidden == 2).mean() == pytest.approx(0.5, abs=0.01)
    assert ((asked.tokens == tokens) | (tokens != task.PLACEHOLDER)).all()
    assert (asked.weights == 2 / hidden[asked.rows // LENGTH]).all()
