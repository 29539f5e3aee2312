"""Recipes crossed with protocols: which recorded runs reach a value, and which do not count."""

import numpy as np
import pytest

from lib.one_layer import figures_recipes, recipes, results
from lib.one_layer.evaluation import PROTOCOLS
from lib.one_layer.recipes import Recipe


def made(reverse, forward, length=10, **changed):
    """A recorded run with these accuracies at the end, one a seed, half as large before."""
    ends = {"forward_accuracy": forward, **{f"{name}_reverse": reverse for name in PROTOCOLS}}
    curves = {"steps": [0, 100], **{name: [[value / 2, value] for value in values] for name, values in ends.items()}}
    parameters = {**results.STANDARD, "encoding": "rope", "length": length, "steps": 100, "profile": "full", **changed}
    return {"parameters": parameters, "seeds": list(range(len(reverse))), "curves": curves, "metrics": {}}


@pytest.fixture
def recorded(monkeypatch):
    runs = {Recipe(False, 0, 120, 64, 10): made([0.0, 2.0], [100.0, 100.0]),
            Recipe(True, 500, 120, 64, 10): made([35.0, 55.0], [99.0, 98.0]),
            Recipe(True, 0, 120, 64, 10): made([43.0, 43.0], [50.0, 60.0])}
    monkeypatch.setattr(recipes, "recorded_recipes", lambda: runs)
    return runs


def test_a_recipe_reaches_a_value_only_with_the_forward_direction_learned(recorded):
    assert [recipe.training_set for recipe in recipes.reached_by(10, recipes.printed_value(10))] == [500]
    assert not recipes.reached_by(10, 75.0)
    assert [recipe.radd for recipe in recipes.reached_by(10, 5.0)] == [False]
    assert len(recipes.at_end(10)) == 2


def test_ten_points_or_the_interval_hold_a_value():
    assert recipes.reaches(np.array([40.0, 41.0]), 50.0) and not recipes.reaches(np.array([40.0, 41.0]), 51.0)
    assert recipes.reaches(np.array([0.0, 100.0, 0.0, 100.0]), 90.0)


def test_points_along_training_count_where_forward_is_learned(recorded):
    run = recorded[Recipe(True, 500, 120, 64, 10)]
    assert list(recipes.reaching_points(run, "standard", recipes.printed_value(10))) == [100]


def test_a_recipe_names_what_is_recorded():
    ours, radd = Recipe(False, 0, 120, 64, 10), Recipe(True, 500, 512, 256, 20)
    assert ours.words == "our recipe, fresh sequences, batch 120, width 64"
    assert radd.words == "RADD defaults, 500 sequences, batch 512, width 256"
    changed = {name: value for name, value in radd.parameters.items() if name != "encoding"}
    run = made([1.0, 2.0], [99.0, 99.0], **changed)
    assert results.having([run], **radd.parameters) and not results.having([run], **ours.parameters)


def test_tables_and_figures_take_what_is_there(recorded):
    table = recipes.end_table(10)
    assert "excluded" in table and "reached" in table and "forward not learned" in table
    assert "1 of 3" in recipes.reached_by_protocol(10)
    assert recipes.needs(20) == {"recipes at length 20": None}
    assert figures_recipes.reverse_by_recipe().axes and figures_recipes.reverse_along_training().axes
