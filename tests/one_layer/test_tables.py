"""The tables that a step looks up; loss and gradient by them are held against the plain model in test_ensemble.py."""

import numpy as np
import pytest
import torch

from lib.one_layer import objectives, tables, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig, Transformer, initialise

torch.set_num_threads(1)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_empty_question_is_refused():
    tokens = task.sequences(3, 4, np.random.default_rng(0))
    nothing = objectives.mask_tokens(tokens, np.ones(tokens.shape, dtype=bool), np.zeros(3))
    with pytest.raises(ValueError, match="batch: not a single position is asked for"):
        Ensemble.from_seeds(ModelConfig(length=4, width=8), [0]).loss_and_gradient([nothing], 3)


@pytest.mark.parametrize(("settings", "served"), [
    ({}, True), ({"encoding": "learned", "heads": 2}, True), ({"values": "laden", "mlp": False, "norm": False}, True),
    ({"depth": 2}, False), ({"causal": True}, False), ({"dropout": 0.1}, False)], ids=str)
def test_whom_the_tables_serve(settings, served, monkeypatch):
    made, found, real = Ensemble.from_seeds(ModelConfig(length=4, width=8, **settings), [0]), [], tables.loss_by_tables
    monkeypatch.setattr(tables, "loss_by_tables", lambda *each: found.append(1) or real(*each))
    tokens, rng = task.sequences(9, 4, np.random.default_rng(0)), np.random.default_rng(1)
    objective = "autoregressive" if made.settings.causal else "masked_diffusion"
    batch = objectives.make_batch(objective, tokens, rng, objectives.stratified_uniforms(9, rng))
    made.loss_and_gradient(made.prepare(batch, 9), 9)
    assert made.by_tables == served == bool(found)
    assert not tables.tables_serve(made.settings, torch.device("cuda"))


def test_tables_are_as_small_as_the_encoding_allows():
    shapes = {}
    for name, values in (("rope", "natural"), ("learned", "natural"), ("learned", "free"), ("rope", "laden")):
        model = initialise(Transformer(ModelConfig(length=5, width=8, encoding=name, values=values)), 0)
        shapes[name, values] = [tuple(table.shape) for table in tables.make_tables(model)]
    assert shapes["rope", "natural"] == [(1, 9, 54, 1), (1, 54, 1, 8), (1, 8)]
    assert shapes["learned", "natural"] == [(1, 5, 54, 5), (1, 54, 5, 8), (5, 8)]
    assert shapes["learned", "free"] == [(1, 5, 54, 5), (1, 54, 1, 8), (5, 8)]
    assert shapes["rope", "laden"] == [(1, 9, 54, 1), (1, 54, 5, 8), (1, 8)]


@pytest.mark.parametrize("absolute", [False, True])
def test_looking_up_meets_every_entry_of_the_table(absolute):
    length = 4
    queries, places = (length, length) if absolute else (2 * length - 1, 1)
    size = queries * task.TOKENS * places
    scores = torch.arange(size).float().view(1, queries, task.TOKENS, places)
    tokens = torch.arange(task.TOKENS)[:, None].expand(-1, length)
    found = [tables.look_up_scores(scores, tokens, torch.full((task.TOKENS,), i), absolute) for i in range(length)]
    assert torch.equal(torch.stack(found).unique(), torch.arange(size).float())


@pytest.mark.parametrize(("heads", "places"), [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_what_is_retrieved_is_what_attention_says(heads, places):
    """Tokens that stand twice, and stored values that know their position or not; the gradient too."""
    tokens = torch.tensor([[0, 6, 6, 1], [0, 6, 6, 1], [2, 2, 2, 6], [6, 5, 3, 4], [6, 5, 3, 4]])
    stored = drawn(heads, 7, places, 8).requires_grad_()
    alpha = drawn(heads, 5, 4, seed=1).softmax(-1).requires_grad_()
    where = torch.arange(4) if places > 1 else torch.zeros(4, dtype=torch.long)
    expected = torch.einsum("hrj,hrjd->rd", alpha, stored[:, tokens, where])
    found, signal = tables.retrieve(stored, tokens, alpha), drawn(5, 8, seed=2)
    assert torch.allclose(found, expected, atol=1e-6)
    slopes = (torch.autograd.grad(each, (stored, alpha), signal) for each in (found, expected))
    for ours, theirs in zip(*slopes, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
