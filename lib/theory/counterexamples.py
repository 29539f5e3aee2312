"""Laws and models that break one assumption of the theory and keep the others.

Covariances are those of the key given the query, for `lib.theory.routing.score_correlation`; the flow is App. C.3's
two-route model with the term that it leaves out.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import expit

from lib.theory import routing


def coupled_covariance(query: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Two planes, each isotropic with trace 2, but k_1 = -Q k_0: dependent, against Assumption 4.2.

    Q is the rotation that takes the direction of q_0 to that of q_1. The planes then pull against each other
    where they turn alike.
    """
    turn = np.arctan2(query[..., 3], query[..., 2]) - np.arctan2(query[..., 1], query[..., 0])
    covariance = np.zeros((*query.shape, 4))
    covariance[...] = np.eye(4)
    coupling = -np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1).reshape(*turn.shape, 2, 2)
    covariance[..., 2:, :2] = coupling
    covariance[..., :2, 2:] = np.swapaxes(coupling, -1, -2)
    return covariance


def tilted_covariance(
    query: Float[np.ndarray, "*batch dim"], tilt: Float[np.ndarray, "*#batch half"] | float
) -> Float[np.ndarray, "*batch dim dim"]:
    """Planes independent, each of trace 2, variance 1 along and across q_i, but with covariance ``tilt`` between.

    It satisfies the prose of Assumption 4.2 (no less variance along the query than across it) and not its formula.

    :param tilt: in (-1, 1)
    :raises ValueError: for a tilt outside (-1, 1)
    """
    if np.any(np.abs(tilt) >= 1):
        raise ValueError("tilt must lie in (-1, 1): beyond, it is no covariance")
    diagonal = query.reshape(*query.shape[:-1], -1, 2)
    turned = routing.rotate(query, np.full(diagonal.shape[-2], np.pi / 4))
    # the axes of this ellipse lie at 45 degrees to q_i
    return routing.key_covariance(turned, tilt)


@dataclasses.dataclass(frozen=True)
class MaskFlow:
    """A run of the two-route flow with the mask's value column kept; one entry a time."""

    clock: Float[np.ndarray, " times"]  # tau = integral of 1 - p_f
    evidence_margin: Float[np.ndarray, " times"]  # m_B, the same for every wrong token
    mask_margin: Float[np.ndarray, " times"]  # m_M
    score: Float[np.ndarray, " times"]  # s_f

    @property
    def attention(self) -> Float[np.ndarray, " times"]:
        """alpha_f, attention on the evidence."""
        return expit(self.score)


def mask_flow(attention: float, vocabulary: int, query_square: float, clock: Float[np.ndarray, " times"]) -> MaskFlow:
    """Gradient flow on one fact from W = 0 with logits alpha W_B + (1 - alpha) W_M and a learned key.

    By symmetry all margins of a column are equal. In the clock tau, d tau = (1 - p_f) dt:
    m_B' = alpha n / (n - 1), m_M' = (1 - alpha) n / (n - 1), s' = c alpha (1 - alpha) (m_B - m_M).

    :param attention: alpha_f at the start, in (0, 1)
    :param query_square: c = |q|^2
    :raises ValueError: for an attention outside (0, 1)
    """
    if not 0 < attention < 1:
        raise ValueError(f"attention must lie in (0, 1), not {attention}")
    growth = vocabulary / (vocabulary - 1)

    def speed(_: float, state: np.ndarray) -> list[float]:
        alpha = expit(state[2])
        return [growth * alpha, growth * (1 - alpha), query_square * alpha * (1 - alpha) * (state[0] - state[1])]

    start = [0.0, 0.0, np.log(attention / (1 - attention))]
    run = solve_ivp(speed, (clock[0], clock[-1]), start, t_eval=clock, rtol=1e-10, atol=1e-12)
    return MaskFlow(run.t, *run.y)


def mask_gradient(
    evidence: Float[np.ndarray, " vocab"], mask: Float[np.ndarray, " vocab"], score: float, target: int
) -> tuple[Float[np.ndarray, " vocab"], Float[np.ndarray, " vocab"], float]:
    """Gradient of -log softmax(alpha W_B + (1 - alpha) W_M)_A in W_B, W_M and the score, alpha = sigmoid(score)."""
    alpha = expit(score)
    logits = alpha * evidence + (1 - alpha) * mask
    error = np.exp(logits - logits.max())
    error /= error.sum()
    error[target] -= 1
    return alpha * error, (1 - alpha) * error, float(alpha * (1 - alpha) * (error @ (evidence - mask)))
