"""The effective model against its definition, and the split of its gradient against autograd."""

import dataclasses

import numpy as np
import pytest
import torch

from lib.encodings import rope_frequencies
from lib.one_layer import effective_model, task


@pytest.fixture(scope="module")
def model():
    draw = torch.Generator().manual_seed(0)
    tensor = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    return effective_model.Effective(tensor(task.CLEAN, task.TOKENS), tensor(4), tensor(4, task.TOKENS))


def test_attention_from_rotation_matrices(model):
    tokens, position = torch.tensor([[0, task.MASK, 30, 52]]), 1
    scores = []
    for place in range(4):
        turned = torch.zeros(4, 4, dtype=torch.float64)
        for plane, frequency in enumerate(rope_frequencies(4)):
            angle = (place - position) * frequency
            turned[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2] = torch.tensor(
                [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        scores.append(model.query @ turned @ model.keys[:, tokens[0, place]])          # q^T R(offset) k
    expected = torch.softmax(torch.stack(scores), 0)
    found = model.attention(tokens, torch.tensor([position]))[0]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    logits = sum(weight * model.storage[:, token] for weight, token in zip(expected, tokens[0], strict=True))
    assert model.logits(tokens, torch.tensor([position]))[0].tolist() == pytest.approx(logits.tolist(), rel=1e-6)


def test_mass_adds_up_repeated_tokens(model):
    mass = model.mass(torch.tensor([[3, 5, 3]]), torch.tensor([[0.2, 0.3, 0.5]]))
    assert mass[0, 3] == pytest.approx(0.7) and mass[0, 5] == pytest.approx(0.3) and mass.sum() == pytest.approx(1)


def test_turn_is_a_rotation():
    x = torch.tensor([1.0, 0.0, 0.0, 1.0])
    turned = effective_model.rotate_planes(x, torch.tensor([np.pi / 2, np.pi / 2]).float())
    assert turned.tolist() == pytest.approx([0.0, 1.0, -1.0, 0.0], abs=1e-6)


def autograd(model, queries):
    parameters = [tensor.clone().requires_grad_() for tensor in vars(model).values()]
    logits = effective_model.Effective(*parameters).logits(queries.tokens, queries.position)
    return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, queries.target), parameters)


def test_routes_add_up_to_the_gradient(model):
    forward, reverse = task.paired_queries(6)
    for queries in (forward[torch.tensor([7])], reverse[torch.tensor([100])]):
        split, (storage, query, keys) = effective_model.gradient_by_route(model, queries), autograd(model, queries)
        assert torch.allclose(torch.outer(split.error[0], split.mass[0]), storage, rtol=1e-5, atol=1e-9)
        assert torch.allclose(split.query[0].sum(0), query, rtol=1e-5, atol=1e-9)
        assert torch.allclose(split.keys[0].sum(0).T, keys, rtol=1e-5, atol=1e-9)
        norm = sum((part**2).sum() for part in (storage, query, keys)).sqrt()
        assert split.norm.item() == pytest.approx(norm.item(), rel=1e-5)
        evidence = queries.tokens[0, queries.evidence[0]]
        others = torch.arange(task.TOKENS) != evidence
        assert split.keys[0, 0, others].abs().max() == 0 and split.keys[0, 0, evidence].abs().max() > 0
        assert split.keys[0, 1, evidence].abs().max() == 0


def test_shares_add_up_to_the_cosine(model):
    forward, reverse = (queries[torch.tensor([33, 200])] for queries in task.paired_queries(6))
    found = effective_model.shares(*(effective_model.gradient_by_route(model, asked) for asked in (forward, reverse)))
    for row in range(2):
        one, other = (torch.cat([g.flatten() for g in autograd(model, queries[torch.tensor([row])])])
                      for queries in (forward, reverse))
        total = sum(part[row].item() for part in found.values())
        assert total == pytest.approx(torch.nn.functional.cosine_similarity(one, other, dim=0).item(), rel=1e-4)
    split = effective_model.gradient_by_route(model, forward), effective_model.gradient_by_route(model, reverse)
    direct = (split[0].query[:, 0] * split[1].query[:, 0]).sum(-1)
    direct = direct + (split[0].keys[:, 0] * split[1].keys[:, 0]).sum((-2, -1))
    assert found["evidence"].tolist() == pytest.approx((direct / split[0].norm / split[1].norm).tolist())


def test_evidence_weight_and_mean_shares(model):
    forward, reverse = (queries[torch.tensor([33, 200])] for queries in task.paired_queries(6))
    attention = model.attention(reverse.tokens, reverse.position)
    for row, weight in enumerate(model.evidence_weight(reverse)):
        assert reverse.tokens[row, reverse.evidence[row]] == reverse.letter[row] + task.LETTERS
        assert weight == attention[row, reverse.evidence[row]]
    means = effective_model.mean_shares(model, forward, reverse)
    each = effective_model.shares(*(effective_model.gradient_by_route(model, asked) for asked in (forward, reverse)))
    assert means == {name: pytest.approx(sum(share.tolist()) / 2) for name, share in each.items()}


def test_initial_scales_and_seeds():
    model = effective_model.initial(64, 0)
    assert model.storage.abs().max() == 0 and model.storage.shape == (task.CLEAN, task.TOKENS)
    assert model.query.std() == pytest.approx(1, abs=0.3) and model.keys.std() == pytest.approx(1 / 8, rel=0.1)
    assert torch.equal(model.keys, effective_model.initial(64, 0).keys)
    assert not torch.equal(model.keys, effective_model.initial(64, 1).keys)


def test_training_learns_and_leaves_the_start_alone():
    start = effective_model.initial(8, 0)
    before = start.query.clone()
    path = list(effective_model.train_effective_model(start, 4, 60, 0, 20))
    assert len(path) == 3 and torch.equal(start.query, before) and start.storage.abs().max() == 0
    logits = path[-1].logits(torch.full((1, 4), task.MASK), torch.tensor([1]))  # all masked: half are placeholders
    assert logits.softmax(-1)[0, task.PLACEHOLDER] > 0.2
    assert not torch.equal(path[0].storage, path[1].storage)
    frozen = next(effective_model.train_effective_model(start, 4, 20, 0, 20, slower=1e9))
    assert (frozen.query - before).abs().max() < 1e-6
    assert len(list(effective_model.train_effective_model(start, 4, 3, 0, 2))) == 1  # three steps, one every second
    again = list(effective_model.train_effective_model(start, 4, 60, 0, 20))[-1]
    assert torch.equal(again.storage, path[-1].storage)


def test_the_first_step_moves_each_parameter_by_its_rate():
    # Adam's first step is the rate times the sign of the gradient
    start = effective_model.initial(8, 0)
    for options, rate in (({}, 0.03), ({"rate": 0.2, "slower": 4.0}, 0.2)):
        (after,) = effective_model.train_effective_model(start, 4, 1, 0, 1, **options)
        assert after.storage.abs().max().item() == pytest.approx(rate, rel=1e-3)
        assert (after.storage[task.PLACEHOLDER, task.MASK] - rate).abs() < 1e-4        # asked for most often
    # from a zero storage the routing has no gradient in the first step; in the second it has
    second = list(effective_model.train_effective_model(start, 4, 2, 0, 1))[1]
    moved = (second.query - start.query).abs().max().item()
    assert 0 < moved < 0.0011


def test_the_defaults_of_training_are_the_stated_ones():
    start = effective_model.initial(8, 0)
    (default,) = effective_model.train_effective_model(start, 4, 2, 0, 2)
    (stated,) = effective_model.train_effective_model(start, 4, 2, 0, 2, rate=0.03, slower=30.0, batch=64)
    for one, other in zip(vars(default).values(), vars(stated).values(), strict=True):
        assert torch.equal(one, other)
    (larger,) = effective_model.train_effective_model(start, 4, 2, 0, 2, batch=65)
    assert not torch.equal(default.storage, larger.storage)


def test_training_asks_for_what_is_masked():
    # column B learns the pair: the lowercase letter above all, the capital itself less
    path = list(effective_model.train_effective_model(effective_model.initial(8, 0), 3, 200, 0, 200, slower=1e9))
    letter, capital = torch.arange(26), torch.arange(26, 52)
    storage = path[0].storage
    assert (storage[letter, capital] > 0).all()
    assert (storage[capital, capital] < storage[letter, capital]).all()


def test_results_cannot_be_changed(model):
    split = effective_model.gradient_by_route(model, task.paired_queries(3)[0][torch.tensor([0])])
    for result in (model, split):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, next(iter(vars(result))), None)


def test_every_row_has_a_rate_of_its_own(monkeypatch):
    seen, logits = [], effective_model.Effective.logits
    monkeypatch.setattr(effective_model.Effective, "logits",
                        lambda self, tokens, at: seen.append(tokens) or logits(self, tokens, at))
    list(effective_model.train_effective_model(effective_model.initial(4, 0), 20, 1, 0, 1))
    masks = (seen[0] == task.MASK).sum(1)
    assert masks.min() <= 3 and masks.max() >= 18
