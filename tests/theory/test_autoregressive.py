"""The two autoregressive models against torch and against the theorem's own numbers."""

import itertools

import numpy as np
import pytest
import torch

from lib.theory import autoregressive
from lib.theory.storage import descend

RNG = np.random.default_rng(0)

PAIRS = np.array([[0, 3], [1, 4], [2, 5]])


def torch_bilinear(embeddings, theta, pairs):
    u, weights = torch.tensor(embeddings), torch.tensor(theta, requires_grad=True)
    logits, answers = u[pairs[:, 0]] @ weights @ u.T, torch.tensor(pairs[:, 1])
    losses = torch.nn.functional.cross_entropy(logits, answers, reduction="none")
    return losses, torch.autograd.grad(losses.sum(), weights)[0]


def test_bilinear_loss():
    embeddings, theta = RNG.normal(size=(6, 4)), RNG.normal(size=(4, 4))
    losses, _ = torch_bilinear(embeddings, theta, PAIRS)
    assert autoregressive.bilinear_losses(embeddings, theta, PAIRS) == pytest.approx(losses.detach().numpy())


def test_bilinear_training_steps_down_the_gradient():
    embeddings = autoregressive.random_embeddings(6, 5, 1)
    path = autoregressive.train_bilinear(embeddings, PAIRS, 0.3, 4)
    assert path.shape == (5, 5, 5) and not path[0].any()
    for before, after in itertools.pairwise(path):
        assert after == pytest.approx(before - 0.3 * torch_bilinear(embeddings, before, PAIRS)[1].numpy(), abs=1e-12)


def test_random_embeddings_have_unit_length_on_average():
    embeddings = autoregressive.random_embeddings(400, 100, 0)
    assert (embeddings**2).sum(1).mean() == pytest.approx(1, abs=0.02)
    assert np.array_equal(embeddings, autoregressive.random_embeddings(400, 100, 0))
    assert not np.array_equal(embeddings, autoregressive.random_embeddings(400, 100, 1))


def test_orthonormal_reverse_never_moves():
    path = autoregressive.train_bilinear(np.eye(6), PAIRS, 1.0, 100)
    reverse = [autoregressive.bilinear_losses(np.eye(6), theta, PAIRS[:, ::-1]) for theta in path]
    assert np.array(reverse) == pytest.approx(np.log(6), abs=1e-12)
    assert autoregressive.bilinear_losses(np.eye(6), path[-1], PAIRS).max() < 0.1


def test_orthonormal_steps_of_any_number_of_tokens_fail_with_their_hypothesis():
    assert autoregressive.other_inputs_stay() and not autoregressive.other_inputs_stay(trained_too=True)
    assert autoregressive.forward_margins_rise() and not autoregressive.forward_margins_rise(both_terms=False)
    assert autoregressive.direct_link_falls() and not autoregressive.direct_link_falls(closed=True)


def test_an_orthonormal_step_moves_the_logits_as_the_indexed_slopes_say():
    theta = RNG.normal(size=(6, 6))
    row = np.exp(theta[0]) / np.exp(theta[0]).sum()
    _, gradient = torch_bilinear(np.eye(6), theta, PAIRS[:1])  # 0 -> 3
    assert gradient.numpy()[1:] == pytest.approx(np.zeros((5, 6)))
    assert gradient.numpy()[0] == pytest.approx(row - np.eye(6)[3])


def test_causal_masses_see_the_past_only():
    masses = autoregressive.causal_masses((2, 0, 2, 1), 3)
    expected = np.array([[0, 0, 1], [1 / 2, 0, 1 / 2], [1 / 3, 0, 2 / 3], [1 / 4, 1 / 4, 1 / 2]])
    assert masses == pytest.approx(expected)


@pytest.mark.parametrize("tokens", [(0, 3), (-1, 0)])
def test_tokens_outside_the_vocabulary_are_refused(tokens):
    with pytest.raises(ValueError, match="tokens must lie between 0 and 2, not"):
        autoregressive.causal_masses(tokens, 3)


def test_next_tokens_pair_each_view_with_its_successor():
    masses, targets = autoregressive.next_tokens([(0, 1, 2), (2, 0)], 3)
    assert targets.tolist() == [1, 2, 0]
    assert masses == pytest.approx(np.array([[1, 0, 0], [1 / 2, 1 / 2, 0], [0, 0, 1]]))


def test_training_on_prompts():
    masses, targets = autoregressive.next_tokens([(0, 1, 2), (2, 0)], 3)
    path = descend(np.zeros((3, 3)), masses, targets, 0.5, 3)
    assert path.shape == (4, 3, 3) and not path[0].any()
    first = -(np.eye(3)[targets] - 1 / 3).T @ masses                                   # errors at W = 0
    assert path[1] == pytest.approx(-0.5 * first, abs=1e-12)


def test_losses_along_training_by_order():
    pairs = autoregressive.fact_pairs(3)
    assert pairs.tolist() == PAIRS.tolist()
    bilinear = autoregressive.bilinear_losses_along(np.eye(6), pairs, 5)
    for losses in (bilinear, autoregressive.masked_losses_along(pairs, 5)):
        assert losses["forward"].shape == losses["reverse"].shape == (6, 3)
        assert losses["forward"][0] == pytest.approx(np.full(3, np.log(6)))
        assert (np.diff(losses["forward"], axis=0) < 0).all()
    assert (np.diff(losses["reverse"], axis=0) < 0).all()  # the masked model's reverse losses fall too


def test_chain_probabilities_start_at_chance():
    found = autoregressive.chain_probabilities(2, 3)
    assert found["direct"][0] == pytest.approx(1 / 6) and found["written"][0] == pytest.approx(1 / 36)
    assert found["direct"].shape == found["written"].shape == (4,)
    assert (np.diff(autoregressive.chain_probabilities(2, 3, closed=True)["direct"]) > 0).all()


def test_causal_losses_of_three_kinds_of_queries():
    losses = autoregressive.causal_losses_along(4, 2, 40, every=10)
    assert list(losses) == ["forward", "reverse, trained too", "reverse, held out"]
    assert all(values.shape == (5,) and values[0] == pytest.approx(np.log(11)) for values in losses.values())
    assert losses["reverse, trained too"][-1] < np.log(11) < losses["reverse, held out"][-1]


def test_forward_losses_are_judged_at_the_last_step():
    """On three facts the forward losses fall below 0.05 at step 19."""
    losses = autoregressive.bilinear_losses_along(np.eye(6), autoregressive.fact_pairs(3), 19)["forward"]
    before, last = losses[-2:]
    assert last.max() < 0.05 < before.min()
    assert autoregressive.reverse_stays_at_chance(3, 19) and not autoregressive.reverse_stays_at_chance(3, 18)


def test_a_causal_step_goes_half_the_gradient():
    """Two facts, none reversed: A is 0 or 1, B is 2 or 3, the arrows are 4 and 5, the stop is 6."""
    masses, targets = map(torch.tensor, autoregressive.next_tokens([(0, 4, 2, 6), (1, 4, 3, 6)], 7))
    losses = lambda storage: torch.nn.functional.cross_entropy(masses @ storage.T, targets, reduction="none")
    weights = torch.zeros((7, 7), dtype=torch.float64, requires_grad=True)
    stepped = weights - 0.5 * torch.autograd.grad(losses(weights).sum(), weights)[0]
    found = autoregressive.causal_losses_along(2, 0, 1, every=1)["forward"]
    assert found == pytest.approx([np.log(7), losses(stepped)[[1, 4]].mean().item()])
