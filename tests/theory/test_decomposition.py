"""The symbolic one-layer model against the numeric forward pass, and what breaks each statement."""

import itertools

import numpy as np
import pytest
import sympy as sp

from lib.theory import decomposition
from lib.theory.decomposition import Decomposition


@pytest.mark.parametrize(("absolute", "nonlinear"), [*itertools.product([False, True], repeat=2)])
def test_logits_at_numbers(absolute, nonlinear):
    model = Decomposition((0, 2, 1, 0), absolute, nonlinear)
    symbols = sorted(model.logits().free_symbols, key=str)
    numbers = dict(zip(symbols, np.random.default_rng(0).normal(size=len(symbols)), strict=True))
    at = lambda matrix: np.array(sp.Matrix(matrix).subs(numbers), dtype=float)
    embedding = at(model.embedding)[:, list(model.tokens)]
    if absolute:
        at_place = lambda i: [numbers[sp.Symbol(f"p{j}_{i}", real=True)] for j in range(4)]
        embedding = embedding + np.array([at_place(0), at_place(1)])
    mixed = at(model.value) @ embedding @ at(model.attention)
    assert at(model.logits()) == pytest.approx(at(model.unembedding) @ (mixed**2 if nonlinear else mixed))


def test_stored_evidence_is_the_entry_of_w():
    model = Decomposition((1, 2, 0))
    assert sp.expand(model.stored_evidence(0, 1) - model.storage[1, 0]) == 0


def test_a_token_that_stands_twice_adds_for_each_place():
    model = Decomposition((0, 2, 0))
    assert model.contribution(0, 1) != model.contribution(2, 1)
    assert sp.expand(model.contribution(0, 1) / model.attention[0] - model.contribution(2, 1) / model.attention[2]) == 0


def test_each_statement_fails_with_its_hypothesis():
    assert decomposition.three_matrices_suffice((0, 2)) != decomposition.three_matrices_suffice((0, 2), nonlinear=True)
    adds = decomposition.each_token_adds_weight_times_storage
    assert adds((0, 2)) and not adds((0, 2), absolute=True)
    assert decomposition.contribution_is_storage() and not decomposition.contribution_is_storage(absolute=True)
    assert decomposition.mirror_images_alike(even=True) and not decomposition.mirror_images_alike(even=False)


def test_each_statement_about_one_weight_fails_with_its_hypothesis():
    assert decomposition.share_of_any_row() and not decomposition.share_of_any_row(alone=True)
    steep = sp.Symbol("mu", positive=True)
    rises = decomposition.weight_rises_with_score
    assert rises(steep) and not rises(sp.Integer(0)) and not rises(-steep)
    values = decomposition.value_is_free_of_position
    assert values() and not values(absolute=True)


def test_sides_are_told_apart_by_direction_alone():
    assert decomposition.side_is_a_coin_flip(even=True) and not decomposition.side_is_a_coin_flip(even=False)
    told = decomposition.direction_changes_the_weight
    assert told(sp.Symbol("k", positive=True)) and not told(sp.Integer(0))


def test_scores_by_direction_have_no_mirror_image():
    assert decomposition.scores_are_mirrored(even=True) and not decomposition.scores_are_mirrored(even=False)


@pytest.mark.parametrize(("slope", "depends"), [(0, False), (1, True), (-1, True)])
def test_any_slope_but_zero_weighs_two_offsets_otherwise(slope, depends):
    assert decomposition.weight_depends_on_offset(sp.Integer(slope)) == depends
