"""Tables, figures and checks of the premises, of a small model and of the real one."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from made_up_states import PLANES, TEXTS, random_states, small_llama

from lib.language_models import (
    figures_premises,
    head_states,
    premise_findings,
    pretrained,
    score_premises,
    synthetic_facts,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small_llama(tmp_path_factory.mktemp("x") / "m")


def test_conditions_tables_and_figures(llama):
    model, tokenizer = llama
    found = score_premises.measured_with_controls(model, tokenizer, TEXTS, distances=(1, 4, 16), queries=4)
    assert list(found) == ["trained", "planes exchanged", "rotated", "isotropic keys", "untrained"]
    own = score_premises.score_premises(head_states.head_states(model, tokenizer, TEXTS), (1, 4, 16), 4)
    np.testing.assert_array_equal(found["trained"].ladder, own.ladder)
    assert all(not np.array_equal(found["trained"].measured, found[name].measured) for name in list(found)[1:])
    table = premise_findings.correlation_table(found).splitlines()
    assert len(table) == 2 + 3 and table[0].count("|") == 3 + 5 + 1
    middle, low, high = premise_findings.over_heads(own.measured[:, :, 0])
    assert f"{middle:.2f} [{low:.2f}, {high:.2f}]" in table[2] and low < middle < high
    measures = premise_findings.premise_table(found).splitlines()
    assert len(measures) == 2 + len(premise_findings.PREMISE_MEASURES)
    shown = {name: found[name] for name in ("trained", "untrained")}
    figure = figures_premises.head_correlations_by_distance(shown)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), np.median(own.measured, (0, 1)))
    np.testing.assert_allclose(figure.axes[0].lines[2].get_ydata(), own.guarantee)
    figure = figures_premises.premises_by_layer(shown)
    np.testing.assert_allclose(figure.axes[2].lines[4].get_ydata(), np.median(own.alignment, 1))
    plt.close("all")


def test_a_heads_own_bound_is_closer_and_anothers_is_not():
    states = random_states(layers=3, key_heads=4, tokens=400)
    scale = np.random.default_rng(0).uniform(-4, 4, size=(3, 8, 1, 1))  # each head leans to fast or to slow planes
    leaning = states.queries * np.exp(scale * np.repeat(np.linspace(-1, 1, PLANES), 2))
    keys = np.random.default_rng(1).normal(size=states.keys.shape)
    found = score_premises.score_premises(dataclasses.replace(states, queries=leaning, keys=keys), (1, 2, 4), 8)
    assert premise_findings.own_bound_is_closer(found)
    assert not premise_findings.own_bound_is_closer(found, shift=1)
    assert premise_findings.error_of(found, "dependence") == 0
    gained = sum(premise_findings.gained_by(found, name, 4) for name in ("traces", "alignment", "tilt", "dependence"))
    np.testing.assert_allclose(gained, (found.measured - found.bound)[:, :, 2].ravel(), atol=1e-12)
    with pytest.raises(ValueError, match="distance 3: measured were 1, 2, 4"):
        premise_findings.gained_by(found, "traces", 3)
    with pytest.raises(ValueError):
        premise_findings.error_of(found, "nothing")


def test_a_trained_model_exceeds_the_guarantee_by_its_weights_and_not_by_the_assumption():
    try:
        model, tokenizer = pretrained.load()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    texts = synthetic_facts.generated_sentences(2, seed=3)
    found = score_premises.measured_with_controls(model, tokenizer, texts, distances=(1, 8, 64), queries=6)
    trained, controls = found["trained"], [found[name] for name in ("planes exchanged", "rotated", "untrained")]
    assert trained.measured.shape == (30, 9, 3)
    assert premise_findings.most_heads_exceed_guarantee(trained)
    assert not any(map(premise_findings.most_heads_exceed_guarantee, controls))
    assert premise_findings.keys_vary_across_queries(trained)
    assert not any(map(premise_findings.keys_vary_across_queries, controls[1:]))
    assert premise_findings.few_planes_carry_queries(trained)
    assert not any(map(premise_findings.few_planes_carry_queries, controls[1:]))
    assert premise_findings.own_bound_is_closer(trained) and not premise_findings.own_bound_is_closer(trained, shift=1)
