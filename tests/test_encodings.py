"""Encodings against independent computations: complex rotations, a scalar bucket rule, closed forms."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.encodings import ENCODINGS, T5, Alibi, Sinusoidal, encoding, rope_frequencies

EVEN = st.integers(1, 6).map(lambda half: 2 * half)


def test_frequencies_fall_from_one_by_a_constant_factor():
    theta = rope_frequencies(8, 100.0)
    assert theta[0] == 1
    assert np.allclose(theta[1:] / theta[:-1], 100 ** (-1 / 4))


@pytest.mark.parametrize("head_dim", [0, -2, 7, True])
def test_a_head_dimension_without_planes_is_refused(head_dim):
    with pytest.raises(ValueError, match="head_dim must be a positive even integer"):
        rope_frequencies(head_dim)


@pytest.mark.parametrize("base", [1.0, 0.0, math.inf, math.nan])
def test_a_base_without_decay_is_refused(base):
    with pytest.raises(ValueError, match="base must be a finite number above 1"):
        rope_frequencies(4, base)


@settings(max_examples=20, deadline=None)
@given(head_dim=EVEN, length=st.integers(2, 9), seed=st.integers(0, 99))
def test_rope_scores_are_complex_rotations_by_the_offset(head_dim, length, seed):
    q, k = torch.randn(2, head_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rope = encoding("rope", length, head_dim)
    scores = rope.rotate(q.expand(length, -1)) @ rope.rotate(k.expand(length, -1)).T

    def score(offset):  # q^T R(offset) k, planes as complex numbers
        planes = zip(q.view(-1, 2).tolist(), k.view(-1, 2).tolist(), rope_frequencies(head_dim), strict=True)
        return sum((complex(*a).conjugate() * cmath.exp(1j * offset * theta) * complex(*b)).real
                   for a, b, theta in planes)

    expected = [[score(j - i) for j in range(length)] for i in range(length)]
    assert np.allclose(scores.numpy(), expected, atol=1e-5)


def test_rope_keeps_lengths_and_leaves_position_zero():
    rope, x = encoding("rope", 6, 8), torch.randn(3, 6, 8)
    turned = rope.rotate(x)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1], x[:, 1])


def test_rope_trace_is_the_bound_of_the_theory():
    # tr R(offset) by turning the unit vectors at position 0 against themselves at the offset
    length, d = 12, 16
    rope = encoding("rope", length, d)
    turned = rope.rotate(torch.eye(d)[:, None].expand(d, length, d))
    trace = torch.einsum("vd,vpd->p", turned[:, 0], turned)
    expected = [2 * sum(math.cos(p * 10_000 ** (-2 * i / d)) for i in range(d // 2)) for p in range(length)]
    assert np.allclose(trace.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_alibi_penalises_distance_by_published_slopes(heads):
    bias = encoding("alibi", 5, 8 * heads, heads).score_bias(None)
    for head in range(heads):
        for i in range(5):
            for j in range(5):
                assert bias[head, i, j] == pytest.approx(-(2 ** (-8 * (head + 1) / heads)) * abs(i - j))
    assert torch.equal(bias, bias.flip(1, 2))  # mirror symmetry
    assert Alibi(5, 8, 1).slopes()[0] == 2.0**-8


def test_directional_alibi_tells_left_from_right():
    bias, plain = (encoding(name, 5, 8).score_bias(None)[0] for name in ("alibi_directional", "alibi"))
    right = torch.ones(5, 5).triu() > 0
    assert torch.equal(bias[right], plain[right])
    assert (bias[~right] < plain[~right]).all()


def bucket(offset):
    """T5's rule for one offset (key minus query), spelled out."""
    side, distance = (16 if offset > 0 else 0), abs(offset)
    if distance < 8:
        return side + distance
    return side + min(15, 8 + int(math.log(distance / 8) / math.log(128 / 8) * 8))


def test_t5_buckets_follow_the_scalar_rule():
    buckets = T5(200, 8, 1).buckets()
    at_power = {offset for offset in range(-199, 200) if abs(offset) in (16, 32, 64)}  # ties of the logarithm
    for offset in set(range(-199, 200)) - at_power:
        i, j = (0, offset) if offset >= 0 else (-offset, 0)
        assert buckets[i, j] == bucket(offset), offset
    assert len(buckets.unique()) == 31 and buckets.max() == 31  # an offset of zero never falls on the right side


def test_t5_bias_looks_its_weight_up_for_each_head_and_member():
    t5 = encoding("t5", 6, 8, 2)
    weight = torch.randn(3, *t5.weight_shape)
    bias = t5.score_bias(weight)
    assert bias.shape == (3, 2, 6, 6)
    assert bias[2, 1, 0, 5] == weight[2, 1, bucket(5)] and bias[1, 0, 4, 1] == weight[1, 0, bucket(-3)]


def test_sinusoidal_positions_meet_by_their_offset_alone():
    table = Sinusoidal(20, 16).position_embedding(None)
    products = table @ table.T
    for offset in range(20):
        assert torch.allclose(products.diagonal(offset), products[0, offset], atol=1e-6)
    assert table[3, 4] == pytest.approx(math.sin(3 * 10_000 ** (-4 / 16)) / 4)
    assert table[3, 5] == pytest.approx(math.cos(3 * 10_000 ** (-4 / 16)) / 4)


@pytest.mark.parametrize("name", ENCODINGS)
def test_each_encoding_acts_only_where_its_kind_allows(name):
    one, x = encoding(name, 5, 8, 2), torch.randn(3, 2, 5, 4)
    weight = None if one.weight_shape is None else torch.randn(one.weight_shape)
    assert (one.position_embedding(weight) is not None) == one.absolute == (name in ("learned", "sinusoidal"))
    assert torch.equal(one.rotate(x), x) == (name != "rope")
    assert (one.score_bias(weight) is not None) == (name in ("alibi", "alibi_directional", "t5"))


@pytest.mark.parametrize("name", [name for name in ENCODINGS if not ENCODINGS[name].absolute])
def test_a_relative_score_is_a_function_of_the_offset(name):
    one, (q, k) = encoding(name, 5, 8, 2), torch.randn(2, 3, 2, 1, 4)
    weight = None if one.weight_shape is None else torch.randn(3, *one.weight_shape)
    scores = one.rotate(q.expand(-1, -1, 5, -1)) @ one.rotate(k.expand(-1, -1, 5, -1)).mT
    by_offset = (one.relative_queries(q) @ k.mT)[..., 0]
    if (bias := one.score_bias(weight)) is not None:
        scores, by_offset = scores + bias, by_offset + one.score_bias_by_offset(weight)
    for i in range(5):
        for j in range(5):
            assert torch.allclose(scores[:, :, i, j], by_offset[:, :, j - i + 4], atol=1e-5)


def test_what_an_encoding_cannot_serve_is_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown encoding 'rotary'; one of rope, alibi, .*none"):
        encoding("rotary", 5, 8)
    with pytest.raises(ValueError, match=r"rope: the head dimension .* must be even, not 6 / 2"):
        encoding("rope", 5, 6, 2)
    with pytest.raises(ValueError, match="sinusoidal: the width must be even, not 7"):
        encoding("sinusoidal", 5, 7)
    with pytest.raises(ValueError, match="width 7 must be a multiple of heads 2"):
        encoding("none", 5, 7, 2)


def test_a_key_to_the_left_costs_one_more():
    bias, plain = (encoding(name, 5, 8).score_bias(None)[0] for name in ("alibi_directional", "alibi"))
    left = torch.ones(5, 5).tril(-1) > 0
    assert torch.allclose(bias[left], plain[left] - 1.0)
