"""Signatures of many facts against the single probes, and who sees the evidence."""

import numpy as np
import pytest
import torch
from tiny_architectures import WORLD, probed_models

from lib.language_models import (
    attention_scores,
    fact_signatures,
    queries,
    signatures,
)
from lib.language_models.architectures import ARCHITECTURES

NAMES = tuple(ARCHITECTURES)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return probed_models(tmp_path_factory.mktemp("probes"))


def test_a_causal_forward_query_has_no_route(loaded):
    for name, kind in ARCHITECTURES.items():
        model, _, (forward, reverse) = loaded[name]
        reached = [float(fact_signatures._evidence_attention(model, prompt)[1].max()) for prompt in (forward, reverse)]
        moved = [fact_signatures.evidence_gradient(model, prompt) for prompt in (forward, reverse)]
        assert reached[1] > 0 and moved[1] > 0
        assert (reached[0] == 0 and moved[0] == 0) == kind.causal


def test_measure_collects_what_the_single_probes_say(loaded):
    model, tokenizer, pair = loaded["dream"]
    data = WORLD.p2c
    found = fact_signatures.measure(model, tokenizer, data, data.facts[:3], gaps=("", " indeed"))
    assert found.scores_forward.shape == (6, 4, 4) and found.correlation().shape == (4, 4)
    asked = [queries.batch([prompt]) for prompt in pair]
    assert found.cosines()[0] == pytest.approx(signatures.gradient_cosine(model, *asked).cosine)
    other = queries.encoded_pair(data, data.facts[1], tokenizer)[1]
    mismatched = signatures.gradient_cosine(model, asked[0], queries.batch([other]))
    assert found.cosines(matched=False)[0] == pytest.approx(mismatched.cosine)
    assert found.probability_reverse[0] == pytest.approx(float(signatures.target_probability(model, asked[1])))
    routes = attention_scores.scores_and_weights(model, pair[1].input_ids, pair[1].target, pair[1].evidence)
    assert found.scores_reverse[0] == pytest.approx(routes.scores.mean((-1, -2)).numpy())
    assert found.correlation()[2, 1] == pytest.approx(
        np.corrcoef(found.scores_forward[:, 2, 1], found.scores_reverse[:, 2, 1])[0, 1])
    assert set(found.cosines_by_layer()) == {0, 1, 2, 3, "embed_tokens", "norm", "lm_head"}
    with pytest.raises(ValueError, match="at least two needed"):
        fact_signatures.measure(model, tokenizer, data, data.facts[:1])
