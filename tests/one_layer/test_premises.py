"""The queries and keys that are read from models give the scores and correlations that the models have."""

import numpy as np
import pytest
import torch

from lib.encodings import rope_frequencies
from lib.one_layer import metrics
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.premises import PremiseState, evidence_keys, states_along_training
from lib.theory import premises, routing


@pytest.mark.parametrize("norm", [True, False])
def test_evidence_keys_give_the_networks_scores_and_correlations(norm):
    ensemble = Ensemble.from_seeds(ModelConfig(length=6, width=16, norm=norm), [3, 4])
    queries, keys = evidence_keys(ensemble)
    assert queries.shape == (2, 16) and keys.shape == (2, 26, 16)
    scores = metrics.evidence_scores(ensemble)
    frequencies = rope_frequencies(16)
    for member in range(2):
        turned = routing.rotate(queries[member], -3 * frequencies)              # from mask 1 to evidence 4
        assert keys[member] @ turned / 4 == pytest.approx(scores[member, 0, 1, :, 4].detach().numpy(), abs=1e-5)
    measured = metrics.score_correlations(ensemble).numpy()
    covariance = premises.item_covariance(keys)
    for place in np.ndindex(5, 5):
        implied = routing.rope_score_correlation(queries, covariance, float(place[0] + 1), float(place[1] + 1))
        assert implied == pytest.approx(measured[:, *place], abs=1e-4)
    alone = premises.independent_planes(covariance)                             # the planes taken as independent
    assert routing.rope_score_correlation(queries, alone, 2.0, 3.0) != pytest.approx(measured[:, 1, 2], abs=1e-2)


@pytest.mark.parametrize("change", [{"encoding": "alibi"}, {"causal": True}, {"depth": 2}, {"heads": 2}])
def test_evidence_keys_refuse_other_models(change):
    ensemble = Ensemble.from_seeds(ModelConfig(length=4, width=16, **change), [0])
    with pytest.raises(ValueError, match="evidence_keys belongs to masked rope models"):
        evidence_keys(ensemble)


def test_reading_keys_leaves_the_model_alone():
    ensemble = Ensemble.from_seeds(ModelConfig(length=4, width=16), [0])
    before = ensemble.parameters.clone()
    queries, _ = evidence_keys(ensemble)
    queries += 1
    assert torch.equal(ensemble.parameters, before)


def test_states_follow_the_training():
    states = states_along_training(ModelConfig(length=5, width=16), [0, 1], 10)
    assert list(states) == [0, 1, 2, 3, 4, 5, 6, 8, 10]
    start = PremiseState.of(Ensemble.from_seeds(ModelConfig(length=5, width=16), [0, 1]))
    assert (states[0].queries == start.queries).all() and not np.allclose(states[10].keys, start.keys)
    assert states[0].forward_accuracy.shape == (2,)


def test_a_state_measures_what_its_keys_say():
    state = PremiseState.of(Ensemble.from_seeds(ModelConfig(length=5, width=16), [0, 1]))
    assert state.distances == [1, 2, 3, 4]
    assert state.ladder[:, -1] == pytest.approx(state.at_equal_distances, abs=1e-4)
    assert set(state.departures) == {"traces", "alignment", "roundness", "forward", "reverse"}
