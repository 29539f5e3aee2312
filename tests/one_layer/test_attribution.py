"""The parts of a logit: they add up, and the attention part is storage times routing."""

import pytest
import torch
from small_one_layer import random_model

from lib.one_layer import attribution, task
from lib.one_layer.model import storage
from lib.one_layer.task import paired_causal_queries, paired_queries

torch.set_num_threads(1)


def model(**settings):
    return random_model(0.3, **{"length": 5, **settings})


CASES = [{}, {"depth": 3}, {"encoding": "learned"}, {"norm": False}, {"mlp": False, "norm": False}, {"causal": True}]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_parts_add_up_to_the_logits(settings):
    made = model(**settings)
    asked = (paired_causal_queries if made.settings.causal else paired_queries)(5)[1]
    parts = attribution.logit_parts(made, asked)
    logits = made(asked.tokens).logits[torch.arange(len(asked)), asked.position - int(made.settings.causal)]
    assert torch.allclose(sum(parts.values()), logits, atol=1e-9)
    margin = logits[torch.arange(len(asked)), asked.target] - logits[:, task.PLACEHOLDER]
    assert torch.allclose(sum(attribution.margin_parts(made, asked).values()), margin, atol=1e-9)
    assert set(parts) == {"storage_routing", "residual", "mlp"} and bool(parts["mlp"].any()) == made.settings.mlp


def test_the_attention_part_is_storage_times_routing():
    made, asked = model(mlp=False, norm=False), paired_queries(5)[0]
    alpha = []
    made.layers[0].attention.weights.register_forward_hook(lambda module, inputs, out: alpha.append(out[:, 0]))
    parts = attribution.logit_parts(made, asked)
    row = alpha[0][torch.arange(len(asked)), asked.position]
    constant = made.head.weight @ made.embedding[task.MASK] + made.head.bias
    stored = storage(made) - constant[:, None]  # U W_V W_E, without the constant that `storage` folds in
    routed = torch.einsum("qj,qjc->qc", row, stored.T[asked.tokens])
    assert torch.allclose(parts["storage_routing"], routed, atol=1e-9)
    assert torch.allclose(parts["residual"], constant.expand(len(asked), -1), atol=1e-9)


ROUTED = [{}, {"encoding": "learned", "heads": 2}, {"encoding": "t5", "norm": False}]


@pytest.mark.parametrize("settings", ROUTED, ids=str)
def test_routes_split_what_attention_retrieved_by_token(settings):
    made, asked = model(**settings), paired_queries(5)[1]
    parts, routes = attribution.logit_parts(made, asked), attribution.logit_parts_by_source(made, asked)
    assert set(routes) == {*attribution.ATTENTION_SOURCES, "residual", "mlp"}
    split = sum(routes[name] for name in attribution.ATTENTION_SOURCES)
    assert torch.allclose(split, parts["storage_routing"], atol=1e-9)
    assert all(torch.allclose(routes[name], parts[name]) for name in ("residual", "mlp"))
    assert all(bool(routes[name].any()) for name in attribution.ATTENTION_SOURCES)
    margins = attribution.margin_parts_by_source(made, asked)
    assert torch.allclose(sum(margins.values()), sum(attribution.margin_parts(made, asked).values()), atol=1e-9)


def test_without_attention_on_the_evidence_its_route_is_empty():
    made, asked = model(), paired_queries(5)[0]
    rows = torch.arange(len(asked))

    def blind(module, inputs, scores):
        scores = scores.clone()
        scores[rows, :, asked.position, asked.evidence] = -1e9
        return scores

    made.layers[0].attention.scores.register_forward_hook(blind)
    retrieved = attribution.retrieved_by_source(made, asked)
    assert not bool(retrieved["evidence"].any()) and bool(retrieved["placeholders"].any())


def test_routes_of_deeper_models_are_refused():
    with pytest.raises(ValueError, match="masked models of depth 1"):
        attribution.logit_parts_by_source(model(depth=2), paired_queries(5)[0])


def test_attentions_part_of_a_deep_model_is_what_attention_added():
    made, added = model(depth=2), []
    for block in made.layers:
        block.attention.register_forward_hook(lambda module, inputs, out: added.append(out))
    asked = paired_queries(made.settings.length)[0]
    made(asked.tokens)
    expected = sum(added)[torch.arange(len(asked)), asked.position]
    assert torch.allclose(attribution.stream_parts(made, asked)["storage_routing"], expected, atol=1e-6)
