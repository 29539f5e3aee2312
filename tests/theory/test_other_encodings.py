"""Other encodings: closed forms against matrices, sampling and the library's own encodings."""

import numpy as np
import pytest
import torch

from lib.encodings import Rope, Sinusoidal, rope_frequencies
from lib.theory import bounds, other_encodings, routing

RNG = np.random.default_rng(0)


def test_correlation_against_sampled_keys():
    query, maps, root = RNG.normal(size=4), RNG.normal(size=(2, 4, 4)), RNG.normal(size=(4, 4))
    keys = RNG.normal(size=(200_000, 4)) @ root.T + 3
    scores = [keys @ m.T @ query for m in maps]
    found = other_encodings.map_correlation(query, root @ root.T, *maps)
    assert found == pytest.approx(np.corrcoef(*scores)[0, 1], abs=0.01)


def test_rotary_map_is_the_librarys_rope():
    """q^T R(j - i) k from rotating query and key at their own positions."""
    rope = Rope(length=6, width=8)
    q, k = RNG.normal(size=(2, 8))
    place = lambda x, at: rope.rotate(torch.tensor(np.tile(x, (6, 1))))[at].numpy()
    for i, j in ((1, 4), (5, 0)):
        assert q @ other_encodings.rotary_map(j - i, 8) @ k == pytest.approx(place(q, i) @ place(k, j), rel=1e-5)


def test_partial_rotary_map_leaves_the_rest_alone():
    part = other_encodings.rotary_map(3.0, 16, 0.25)
    assert part[4:, 4:] == pytest.approx(np.eye(12)) and part[:4, 4:] == pytest.approx(np.zeros((4, 12)))
    assert part[:4, :4] == pytest.approx(other_encodings.rotary_map(3.0, 4))
    assert other_encodings.rotary_map(3.0, 8, 0.0) == pytest.approx(np.eye(8))
    assert other_encodings.rotary_map(3.0, 8, 1.0, base=100.0)[2, 2] == pytest.approx(np.cos(3 * 100.0**-0.25))


@pytest.mark.parametrize("rotated", [0.0, 0.25, 0.5, 1.0])
def test_partial_bound_is_the_mean_correlation(rotated):
    maps = other_encodings.rotary_map(4.0, 16, rotated), other_encodings.rotary_map(-7.0, 16, rotated)
    trace = np.trace(maps[0].T @ maps[1]) / 16
    assert other_encodings.partial_rope_bound(11.0, 16, rotated) == pytest.approx(trace)
    query = RNG.normal(size=(40_000, 16))
    mean = other_encodings.map_correlation(query, np.eye(16), *maps).mean()
    assert mean == pytest.approx(trace, abs=0.01)
    assert other_encodings.partial_rope_bound(np.arange(1.0, 400), 16, rotated).min() >= 1 - 2 * rotated
    assert np.shape(other_encodings.partial_rope_bound(np.arange(3.0), 16, rotated)) == (3,)


def test_partial_bound_passes_its_base_on():
    assert other_encodings.partial_rope_bound(5.0, 8, 1.0, 100.0) == pytest.approx(bounds.trace_bound(5.0, 8, 100.0))
    half = other_encodings.partial_rope_bound(5.0, 8, 0.5, 100.0)
    assert half == pytest.approx(0.5 + bounds.trace_bound(5.0, 4, 100.0) / 2)


@pytest.mark.parametrize("rotated", [-0.25, 1.25, 0.3])
def test_shares_that_make_no_planes_are_refused(rotated):
    with pytest.raises(ValueError, match=r"rotated must be a share in .* a whole number of the 4 planes"):
        other_encodings.rotary_map(1.0, 8, rotated)
    with pytest.raises(ValueError, match="rotated must be"):
        other_encodings.partial_rope_bound(1.0, 8, rotated)


def test_xpos_decay_by_hand():
    decay = other_encodings.xpos_decay(4, gamma=0.5, scale_base=2.0)
    assert decay == pytest.approx([(0.5 / 1.5) ** 0.5, (1.0 / 1.5) ** 0.5])
    assert other_encodings.xpos_decay(64)[0] == pytest.approx((0.4 / 1.4) ** (1 / 512))
    assert (np.diff(other_encodings.xpos_decay(64)) > 0).all() and other_encodings.xpos_decay(64).max() < 1


def xpos_map(offset, decay, base):
    """diag(zeta_i ** -offset) R(offset): xPos takes the signed distance as exponent."""
    return np.diag(np.repeat(decay**-offset, 2)) @ other_encodings.rotary_map(offset, 2 * len(decay), base=base)


@pytest.mark.parametrize("base", [10_000.0, 20.0])
def test_signed_xpos_formula(base):
    query, decay, x = RNG.normal(size=(5, 8)), other_encodings.xpos_decay(8, scale_base=8.0), 6.0
    maps = xpos_map(x, decay, base), xpos_map(-x, decay, base)
    exact = other_encodings.map_correlation(query, np.eye(8), *maps)
    weights = routing.plane_weights(query)
    found = other_encodings.xpos_correlation(weights, x, decay, base)
    assert found == pytest.approx(exact, abs=1e-12)
    rope = weights @ np.cos(2 * x * rope_frequencies(8, base))
    assert (np.abs(found) <= np.abs(rope)).all() and (np.sign(found) == np.sign(rope)).all()


def test_added_score_correlation_against_sampling():
    query, first, second = RNG.normal(size=(3, 5))
    content = RNG.normal(size=(200_000, 5))
    scores = content @ (query + first), content @ (query + second)
    found = other_encodings.added_score_correlation(query, first, second)
    assert found == pytest.approx(np.corrcoef(*scores)[0, 1], abs=0.01)


def storage_transfer(embedding, at_forward, at_reverse):
    """<x + p_j, x + p_j'> / |x + p_j|^2: what a forward step on U or W_V gives the evidence at its new position."""
    seen, moved = embedding + at_forward, embedding + at_reverse
    return (seen * moved).sum(-1) / (seen * seen).sum(-1)


def test_storage_transfer_is_what_a_step_on_the_values_does():
    width, vocabulary = 6, 4
    x, here, there = (torch.tensor(v) for v in RNG.normal(size=(3, width)))
    unembed = torch.tensor(RNG.normal(size=(vocabulary, width)))
    value = torch.tensor(RNG.normal(size=(width, width)), requires_grad=True)
    loss = torch.nn.functional.cross_entropy((0.3 * unembed @ value @ (x + here))[None], torch.tensor([1]))
    change = unembed @ torch.autograd.grad(loss, value)[0]
    fraction = (change @ (x + there)) / (change @ (x + here))
    found = storage_transfer(*(v.numpy() for v in (x, here, there)))
    assert fraction.numpy() == pytest.approx(np.full(vocabulary, found))


def test_sinusoidal_transfer_from_the_librarys_table():
    table = Sinusoidal(length=30, width=64).position_embedding(None).double().numpy()
    unit = table / np.linalg.norm(table[0])
    for ratio in (1.0, 0.25):
        x = np.zeros((1, 65))
        x[0, -1] = 1                                     # an embedding at right angles to all positions, length 1
        padded = np.pad(unit * ratio**0.5, ((0, 0), (0, 1)))
        found = storage_transfer(x, padded[3][None], padded[17][None])[0]
        assert other_encodings.sinusoidal_transfer(14, 64, ratio) == pytest.approx(found, abs=1e-6)
    assert other_encodings.sinusoidal_transfer(0, 64) == 1


def test_encodings_side_by_side():
    reach = np.array([1, 30])
    found = other_encodings.mean_score_correlations(8, reach, 4000, 0)
    assert found["additive bias, none"].tolist() == [1, 1]
    assert found["RoPE"] == pytest.approx(bounds.trace_bound(2.0 * reach, 8), abs=0.02)
    partial = other_encodings.partial_rope_bound(2.0 * reach, 8, 0.25)
    assert found["partial RoPE, 1/4"] == pytest.approx(partial, abs=0.02)
    assert found["learned absolute"] == pytest.approx(np.full(2, 0.5), abs=0.05)
    transfers = other_encodings.mean_storage_transfers(8, reach)
    assert transfers["sinusoidal, $|p|=|x|$"] == pytest.approx((1 + bounds.trace_bound(reach, 8)) / 2)


@pytest.mark.parametrize(("name", "relative", "shared"), [
    ("relative scores", True, True), ("relative values", True, False),
    ("absolute scores", False, True), ("absolute, added", False, False)])
def test_relative_and_shared_are_two_questions(name, relative, shared):
    answers = [(r, s) for r in (True, False) for s in (True, False)
               if other_encodings.encoding_is(name, relative=r, shared=s)]
    assert answers == [(relative, shared)]
