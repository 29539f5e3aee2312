"""The counterexamples do what they say: they keep every assumption but one."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import expit

from lib.theory import counterexamples, routing

RNG = np.random.default_rng(0)


def test_coupled_planes_are_isotropic_and_dependent():
    queries = RNG.normal(size=(5, 4))
    covariance = counterexamples.coupled_covariance(queries)
    assert covariance.shape == (5, 4, 4)
    for query, matrix in zip(queries, covariance, strict=True):
        assert matrix == pytest.approx(matrix.T)
        assert matrix[:2, :2] == pytest.approx(np.eye(2)) and matrix[2:, 2:] == pytest.approx(np.eye(2))
        assert np.linalg.eigvalsh(matrix) == pytest.approx([0, 0, 2, 2], abs=1e-12)      # k_1 is a function of k_0
        aligned = matrix[2:, :2] @ query[:2] / np.linalg.norm(query[:2])                 # -Q takes q_0 to -q_1
        assert aligned == pytest.approx(-query[2:] / np.linalg.norm(query[2:]))


@pytest.mark.parametrize("distance", [0.0, 0.7, 2.0])
def test_coupled_correlation_by_complex_numbers(distance):
    query = RNG.normal(size=4)
    lengths = np.hypot(query[0], query[1]), np.hypot(query[2], query[3])
    f = lengths[0] * np.exp(1j * distance) - lengths[1] * np.exp(0.01j * distance)
    found = routing.score_correlation(query, counterexamples.coupled_covariance(query), distance, distance)
    assert found == pytest.approx(np.cos(2 * np.angle(f)), abs=1e-9)


def test_tilted_ellipse_keeps_the_words_of_the_assumption():
    query = RNG.normal(size=6)
    matrix = counterexamples.tilted_covariance(query, np.array([0.3, -0.6, 0.0]))
    for plane, tilt in enumerate((0.3, -0.6, 0.0)):
        block = matrix[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2]
        along = query[2 * plane : 2 * plane + 2] / np.linalg.norm(query[2 * plane : 2 * plane + 2])
        across = np.array([-along[1], along[0]])
        assert along @ block @ along == pytest.approx(1) and across @ block @ across == pytest.approx(1)
        assert along @ block @ across == pytest.approx(tilt)
        assert np.abs(np.delete(matrix[2 * plane : 2 * plane + 2], [2 * plane, 2 * plane + 1], 1)).max() == 0


@pytest.mark.parametrize("tilt", [1.0, -1.0, 2.0])
def test_tilt_refuses(tilt):
    with pytest.raises(ValueError, match="tilt must lie in"):
        counterexamples.tilted_covariance(np.ones(4), tilt)


def test_mask_gradient_against_torch():
    evidence, mask = RNG.normal(size=5), RNG.normal(size=5)
    leaves = [torch.tensor(x, requires_grad=True) for x in (evidence, mask)]
    score = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    alpha = torch.sigmoid(score)
    loss = torch.nn.functional.cross_entropy((alpha * leaves[0] + (1 - alpha) * leaves[1])[None], torch.tensor([2]))
    loss.backward()
    found = counterexamples.mask_gradient(evidence, mask, 0.3, 2)
    assert found[0] == pytest.approx(leaves[0].grad.numpy()) and found[1] == pytest.approx(leaves[1].grad.numpy())
    assert found[2] == pytest.approx(score.grad.item())


@pytest.mark.parametrize("start", [0.3, 0.7])
def test_mask_flow_is_descent_on_the_loss(start):
    """Small explicit steps on the columns and the key, from the gradients themselves, in the same clock."""
    n, square, step = 4, 2.0, 0.002
    evidence, mask, score, tau, path = np.zeros(n), np.zeros(n), np.log(start / (1 - start)), 0.0, []
    for _ in range(1500):
        by_evidence, by_mask, by_score = counterexamples.mask_gradient(evidence, mask, score, 0)
        p = np.exp(expit(score) * evidence + (1 - expit(score)) * mask)
        wrong = 1 - p[0] / p.sum()
        path.append((tau, evidence[0] - evidence[1], mask[0] - mask[1], score))
        pace = step / wrong
        evidence, mask = evidence - pace * by_evidence, mask - pace * by_mask
        score, tau = score - pace * square * by_score, tau + step
    taus, *columns = np.array(path)[::300].T
    run = counterexamples.mask_flow(start, n, square, taus)
    assert run.clock == pytest.approx(taus)
    for found, expected in zip((run.evidence_margin, run.mask_margin, run.score), columns, strict=True):
        assert found == pytest.approx(expected, abs=0.01)
    assert run.attention == pytest.approx(expit(run.score))


def test_mask_flow_starts_where_it_is_told_and_refuses_the_rest():
    run = counterexamples.mask_flow(0.25, 3, 1.0, np.linspace(0, 1, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.clock = None
    assert run.attention[0] == pytest.approx(0.25) and run.evidence_margin[0] == run.mask_margin[0] == 0
    for attention in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="attention must lie in"):
            counterexamples.mask_flow(attention, 3, 1.0, np.linspace(0, 1, 3))
