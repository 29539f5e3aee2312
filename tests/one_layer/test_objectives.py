"""Objectives: who is asked what, with which weight, and that three ways of drawing masks mean the same loss."""

import itertools
import math

import numpy as np
import pytest
import torch
from small_one_layer import random_ensemble

from lib.one_layer import objectives, task

torch.set_num_threads(1)

LENGTH = 4


def draw(seed):
    return np.random.default_rng(seed)


def tokens(count, length=LENGTH, seed=0):
    return task.sequences(count, length, draw(seed))


def penalty(masked):
    """A made-up loss of a mask pattern that no symmetry simplifies: a number a masked position."""
    weight = 1 + np.arange(masked.shape[1])
    return masked * (weight + np.sin(masked @ (weight**2.0))[:, None])


def loss(asked, count, length=LENGTH):
    """Mean over sequences of the weighted penalty of what was asked."""
    masked = asked.tokens == task.MASK
    each = penalty(masked).reshape(-1)[asked.rows]
    return np.bincount(asked.rows // length, weights=asked.weights * each, minlength=count)


def exact():
    """Integral over lambda of E[penalty]/lambda: over subsets S, the sum of B(|S|, L - |S| + 1) penalty(S)."""
    total = 0.0
    for pattern in itertools.product([0, 1], repeat=LENGTH):
        k = sum(pattern)
        if k:
            beta = math.gamma(k) * math.gamma(LENGTH - k + 1) / math.gamma(LENGTH + 1)
            total += beta * float(penalty(np.array([pattern])).sum())
    return total


def estimates(name, repeats=400, count=100):
    means, random = [], draw(7)
    for _ in range(repeats):
        spread = objectives.stratified_uniforms(count, random)
        asked = objectives.make_batch("masked_diffusion", tokens(count), random, spread, name)
        means.append(loss(asked, count).mean())
    return np.array(means)


@pytest.mark.parametrize("name", objectives.MASKING_SAMPLERS)
def test_every_way_of_drawing_masks_has_the_same_expectation(name):
    found = estimates(name)
    error = found.std(ddof=1) / math.sqrt(len(found))
    bias = 0.01 * exact() if name == "t_dce" else 0.0  # t_dce stops EPSILON short of masking everything
    assert abs(found.mean() - exact()) < 4 * error + bias
    assert error < 0.03 * exact()  # sharp enough to see a weight that is off by a few percent


def test_stratified_counts_vary_less():
    spread = {name: estimates(name, 200).std() for name in objectives.MASKING_SAMPLERS}
    assert spread["stratified"] < 0.5 * min(spread["lambda_dce"], spread["t_dce"])


def test_stratified_counts_are_even_and_subsets_uniform():
    random = draw(1)
    asked = objectives.stratified(tokens(4000), random, objectives.stratified_uniforms(4000, random))
    masked = asked.tokens == task.MASK
    counts = masked.sum(1)
    assert np.array_equal(np.bincount(counts, minlength=5), [0, 1000, 1000, 1000, 1000])
    for k, size in ((1, 4), (2, 6), (3, 4)):
        patterns = np.unique(masked[counts == k], axis=0, return_counts=True)[1]
        assert len(patterns) == size and (abs(patterns - 1000 / size) < 5 * math.sqrt(1000 / size)).all()
    assert np.allclose(asked.weights, LENGTH / counts[asked.rows // LENGTH])


def test_fixed_rate_masks_each_token_with_that_probability():
    random = draw(2)
    asked = objectives.fixed_rate(tokens(20_000, 10), random, objectives.stratified_uniforms(20_000, random))
    masked = asked.tokens == task.MASK
    assert masked.mean() == pytest.approx(objectives.RATE, abs=2e-3)
    pairs = (masked[:, 0] & masked[:, 7]).mean()  # independent, not merely of the right count
    assert pairs == pytest.approx(objectives.RATE**2, abs=5e-3)
    assert np.unique(asked.weights) == pytest.approx([1 / objectives.RATE])


@pytest.mark.parametrize("name", objectives.MASKING_SAMPLERS)
def test_what_is_asked_is_what_was_hidden(name):
    clean, random = tokens(50), draw(3)
    asked = objectives.make_batch("masked_diffusion", clean, random, objectives.stratified_uniforms(50, random), name)
    masked = asked.tokens == task.MASK
    assert np.array_equal(np.flatnonzero(masked), asked.rows)
    assert np.array_equal(asked.targets, clean[masked])
    assert np.array_equal(asked.tokens[~masked], clean[~masked])


def test_autoregressive_asks_each_token_from_those_before_it():
    clean = tokens(3)
    asked = objectives.autoregressive(clean)
    assert asked.tokens.shape == (3, LENGTH + 1) and (asked.tokens[:, 0] == task.START).all()
    for row, target in zip(asked.rows, asked.targets, strict=True):
        sequence, position = divmod(int(row), LENGTH + 1)
        assert target == asked.tokens[sequence, position + 1] == clean[sequence, position]
    assert len(asked.rows) == clean.size and (asked.weights == 1).all()


def test_the_loss_is_the_weighted_cross_entropy_a_sequence():
    logits = torch.randn(2, 3, task.CLEAN, generator=torch.Generator().manual_seed(0))
    targets, weights = torch.tensor([[1, 2, 52], [0, 0, 9]]), torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 1.0]])
    for member, found in enumerate(objectives.losses(logits, targets, weights, batch=7)):
        by_hand = sum(-float(w) * math.log(logits[member, row].softmax(0)[t])
                      for row, (t, w) in enumerate(zip(targets[member], weights[member], strict=True)))
        assert float(found) == pytest.approx(by_hand / 7, rel=1e-5)


def test_members_asked_at_different_numbers_of_rows_are_padded_at_weight_zero():
    random = draw(5)
    batches = [objectives.lambda_dce(tokens(20), random) for _ in range(3)]
    stacked, rows, targets, weights = objectives.stack_batches(batches)
    assert stacked.shape == (3, 20, LENGTH) and rows.shape == targets.shape == weights.shape
    for index, batch in enumerate(batches):
        assert float(weights[index].sum()) == pytest.approx(batch.weights.sum(), rel=1e-5)
        assert (weights[index, len(batch.rows):] == 0).all()
        assert (stacked[index].reshape(-1)[rows[index]] == task.MASK).all()


def test_the_unknown_and_the_impossible_are_refused_by_name():
    random, spread = draw(0), objectives.stratified_uniforms(2, draw(0))
    with pytest.raises(ValueError, match="unknown objective 'diffusion'; one of masked_diffusion, fixed_rate, autor"):
        objectives.make_batch("diffusion", tokens(2), random, spread)
    with pytest.raises(ValueError, match="unknown draws 'k_dce'; one of stratified, lambda_dce, t_dce"):
        objectives.make_batch("masked_diffusion", tokens(2), random, spread, "k_dce")
    with pytest.raises(ValueError, match="draws 't_dce' belongs to masked_diffusion, not to fixed_rate"):
        objectives.make_batch("fixed_rate", tokens(2), random, spread, "t_dce")
    nothing = objectives.mask_tokens(tokens(2), np.zeros((2, LENGTH), dtype=bool), np.ones(2))
    with pytest.raises(ValueError, match="batch: not a single position is asked for"):
        objectives.stack_batches([nothing])


def test_quantiles_shift_together_and_uniformly():
    found = objectives.stratified_uniforms(4, draw(0), 3).reshape(3, 4)
    assert np.allclose(np.diff(found), 0.25) and len(set(found[:, 0])) == 3
    first = [objectives.stratified_uniforms(4, draw(seed))[0] * 4 for seed in range(400)]
    assert np.histogram(first, 4, (0, 1))[0] == pytest.approx(np.full(4, 100), abs=45)


# The expectation of a loss --------------------------------------------------------------------------------------


def model():
    return random_ensemble(0.3, 1, length=3).member(0)


def by_hand(spelled, weight):
    """Sum over sets of masks, each with a weight, of the nats of its masked tokens."""
    made, tokens, total = model(), task.read(spelled), 0.0
    for masked in itertools.product((False, True), repeat=len(spelled)):
        hidden = torch.tensor(masked)
        if hidden.any():
            logs = made(tokens.masked_fill(hidden, task.MASK)[None]).logits[0].log_softmax(-1).detach()
            total += weight(sum(masked)) * -float(logs[torch.arange(3), tokens][hidden].sum())
    return total


@pytest.mark.parametrize("spelled", ["dD0", "0aA"])
def test_losses_are_sums_over_masks(spelled):
    # E over lambda of lambda^(k-1) (1 - lambda)^(3-k): Beta(k, 4 - k)
    beta = {1: 1 / 3, 2: 1 / 6, 3: 1 / 3}
    bound = by_hand(spelled, beta.get)
    for loss in ("masked_diffusion", "t_dce", "lambda_dce"):
        assert objectives.expected_loss(loss, model(), spelled) == pytest.approx(bound, rel=1e-4), loss
    fixed = by_hand(spelled, lambda k: objectives.RATE ** (k - 1) * (1 - objectives.RATE) ** (3 - k))
    assert objectives.expected_loss("fixed_rate", model(), spelled) == pytest.approx(fixed, rel=1e-4)
    assert abs(by_hand(spelled, lambda k: 1 / 3) - bound) > 0.1 * bound  # weights matter


def test_every_set_of_masks_is_met_equally_often_given_its_size():
    asked = objectives.every_batch("masked_diffusion")
    masks, counts = np.unique(asked.tokens == task.MASK, axis=0, return_counts=True)
    assert len(masks) == 7
    for size in (1, 2, 3):
        same = counts[masks.sum(1) == size]
        assert len(set(same.tolist())) == 1 and same.sum() == len(asked.tokens) / 3
