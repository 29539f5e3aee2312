"""What the assumptions are for: each hypothesis of the paper's results broken alone, and what then becomes false.

The covariances that break Assumption 4.2 are those of `routing`. Functions that decide a statement return whether it
holds; what they are given either keeps the hypothesis or breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from lib.encodings import rope_frequencies
from lib.theory import bounds, flows, routing, symbolic
from lib.theory.parameter_gradients import (
    Parameters,
    PromptLoss,
    PromptSpec,
    enclosed_gradient,
    parameters_as_balls,
    prompt_as_balls,
    symbolic_parameters,
    whole_loss,
)
from lib.theory.validation import Number

# Theorem 4.3 --------------------------------------------------------------------------------------------------


def mean_correlation(
    queries: Float[np.ndarray, "queries dim"], covariance: Float[np.ndarray, "queries dim dim"], distance: float
) -> tuple[float, float]:
    """Mean over queries of Corr(s_f, s_r | q), evidence at ``distance`` on either side, and its standard error."""
    values = routing.rope_score_correlation(queries, covariance, distance, distance)
    return float(values.mean()), float(values.std() / len(queries) ** 0.5)


def mean_reaches_the_bound(
    queries: Float[np.ndarray, "queries dim"], covariance: Float[np.ndarray, "queries dim dim"], distance: float,
    slack: float | None = None,
) -> bool:
    """Whether the mean correlation is at least T_d(2 Delta), up to ``slack`` or to five standard errors."""
    mean, error = mean_correlation(queries, covariance, distance)
    return bool(mean >= bounds.trace_bound(2 * distance, queries.shape[1]) - (5 * error if slack is None else slack))


def coupled_planes_give_minus_cosine(second: Number) -> bool:
    """Whether Corr = -cos(Delta (theta_0 + theta_1)) for coupled planes and query blocks of lengths 1 and ``second``.

    In the complex plane the scores are Re(F g) and Re(F* g) for F = e^(i phi_0) - second e^(i phi_1) and isotropic g.
    """
    first_angle, second_angle = sp.symbols("phi_0 phi_1", real=True)
    real = sp.cos(first_angle) - second * sp.cos(second_angle)
    imaginary = sp.sin(first_angle) - second * sp.sin(second_angle)
    covariance, variance = real**2 - imaginary**2, real**2 + imaginary**2
    return symbolic.vanishes(covariance + variance * sp.cos(first_angle + second_angle))


def tilted_where_negative(
    queries: Float[np.ndarray, "queries dim"], tilt: float, distance: float
) -> Float[np.ndarray, "queries dim dim"]:
    """Isotropic keys, but planes tilted (against their sine) for the queries with sum_i w_i c_i < 0."""
    turns = 2 * distance * rope_frequencies(queries.shape[1])
    negative = routing.query_bound(queries, distance) < 0
    return routing.tilted_covariance(queries, tilt * negative[:, None] * np.sign(np.sin(turns)))


def fast_plane_covariance(
    queries: Float[np.ndarray, "queries dim"], ratio: float, kappa: float = 0.0
) -> Float[np.ndarray, "queries dim dim"]:
    """Assumption 4.2's keys, but the fastest plane has ``ratio`` times the trace of the others."""
    return routing.key_covariance(queries, kappa, np.where(np.arange(queries.shape[1] // 2) == 0, ratio, 1.0))


def every_query_reaches_its_mean(
    queries: Float[np.ndarray, "queries dim"], ratio: float, distance: float, *, own_weights: bool = True
) -> bool:
    """Whether Corr(s_f, s_r | q) >= sum_i w_i cos(2 Delta theta_i) for `fast_plane_covariance`, kappa 0 and 1/2.

    :param own_weights: w_i is proportional to |q_i|^2 tau_i^2; else to |q_i|^2, as for equal traces
    """
    traces = np.where(np.arange(queries.shape[1] // 2) == 0, ratio if own_weights else 1.0, 1.0)
    bound = routing.query_bound(queries * np.repeat(traces**0.5, 2), distance)
    values = (routing.rope_score_correlation(queries, fast_plane_covariance(queries, ratio, kappa), distance, distance)
              for kappa in (0.0, 0.5))
    return all((value >= bound - 1e-9).all() for value in values)


# Proposition 4.5: a correlation is not a route ----------------------------------------------------------------


def correlated_but_unreachable(slope: sp.Expr) -> bool:
    """Whether ALiBi's scores have correlation 1 at every distance while alpha_r tends to 0 as Delta_2 grows."""
    content, far = sp.Symbol("c", real=True), sp.Symbol("Delta", positive=True)
    competition, spread, mean = sp.Symbol("Z", positive=True), sp.Symbol("V", positive=True), sp.Symbol("M", real=True)
    law: symbolic.Moments = {(1,): mean, (2,): mean**2 + spread}
    correlation = symbolic.pearson_correlation(content - slope, content - slope * far, law, content)
    weight = sp.exp(content - slope * far) / (sp.exp(content - slope * far) + competition)
    return bool(correlation == 1 and sp.limit(weight, far, sp.oo) == 0)


# Theorem 4.6 and App. C.2: targets and the unembedding --------------------------------------------------------


def error_inner_product(
    confidence: Float[np.ndarray, " points"], vocabulary: int, *, same_target: bool
) -> Float[np.ndarray, " points"]:
    """<eps_f, eps_r> where both prompts give this probability to their own target and spread the rest evenly."""
    rest = (1 - confidence) / (vocabulary - 1)
    if same_target:
        return (confidence - 1) ** 2 + (vocabulary - 1) * rest**2
    return 2 * (confidence - 1) * rest + (vocabulary - 2) * rest**2


def signal_alignment(stretch: float, overlap: float) -> float:
    """eps_f^T U U^T eps_r / (|eps_f| |eps_r|) for three tokens, U U^T stretched along the two wrong ones' difference.

    :param overlap: share of its wrong mass that each prompt puts on the other prompt's wrong token
    """
    forward, reverse = np.array([-1, 1 - overlap, overlap]), np.array([-1, overlap, 1 - overlap])
    gram = np.eye(3) + (stretch - 1) / 2 * np.outer([0, 1, -1], [0, 1, -1])
    return float(forward @ gram @ reverse / (np.linalg.norm(forward) * np.linalg.norm(reverse)))


def signals_align_up_to(stretch: float) -> bool:
    """Whether `signal_alignment` is positive for every stretch from 1 to this one and every overlap up to 1/2."""
    return all(signal_alignment(s, overlap) > 0 for s in np.linspace(1, stretch, 50)
               for overlap in np.linspace(0, 0.5, 11))


# Props. C.1 and C.3: the mask's own value ---------------------------------------------------------------------


def unembedding_gradient_is(factor: Callable[[Any], Any]) -> bool:
    """Whether grad_U of the untruncated loss is eps (factor(alpha) v)^T for v_M = -v, entry by entry, all sizes 2."""
    model = symbolic_parameters(2, 1, 2, 2)
    model.embedding[:, -1] = -model.embedding[:, 1]  # x_M = -x_B, hence v_M = -v
    prompt = PromptSpec(sp.symarray("P", (1, 1), real=True), sp.Symbol("b", real=True), 0, 1)
    query, key, value = (matrix @ model.embedding[:, token] for matrix, token in
                         ((model.query, -1), (model.key, 1), (model.value, 1)))
    alpha = 1 / (1 + sp.exp(-(query @ prompt.position @ key + prompt.bias)))
    logits = (2 * alpha - 1) * (model.unembedding @ value)
    error = [p - int(token == 0) for token, p in enumerate(symbolic.softmax(logits))]
    loss = whole_loss(model, prompt)
    return all(symbolic.vanishes(sp.diff(loss, model.unembedding[token, i]) - error[token] * factor(alpha) * value[i])
               for token in range(2) for i in range(2))


def unembedding_share_is_negative(loss: PromptLoss) -> bool:
    """Whether <grad_U l_f, grad_U l_r> is enclosed below 0 for an ALiBi pair, near and far, with v_M = -v."""
    model = Parameters(np.array([[0.0, 1.0, -1.0], [0.0, 0.5, -0.5]]), np.zeros((2, 2)), np.eye(2), np.eye(2),
                       np.array([[0.3, -0.2], [0.1, 0.4]]))
    forward, reverse = (enclosed_gradient(loss, parameters_as_balls(model), prompt_as_balls(prompt)).unembedding
                        for prompt in (PromptSpec(np.eye(2), bias, 0, 1) for bias in (1.0, -1.0)))
    return bool((forward * reverse).sum() < 0)


def route_opens(attention: float, vocabulary: int) -> bool:
    """Whether attention on B rises at every time of `flows.mask_flow` from this start, to clock 12."""
    run = flows.mask_flow(attention, vocabulary, 1.0, np.linspace(0, 12, 200))
    return bool((np.diff(run.score) > 0).all())


def reverse_answer_is_learned(attention: float, vocabulary: int, *, mask_column: bool) -> bool:
    """Whether the reverse margin, with s_r = s_f - 1, rises at every time and to more than 10 by clock 40.

    :param mask_column: count the part of the mask's column, or the evidence's alone
    """
    run = flows.mask_flow(attention, vocabulary, 1.0, np.linspace(0, 40, 200))
    alpha = 1 / (1 + np.exp(1 - run.score))  # alpha_r
    margin = alpha * run.evidence_margin + mask_column * (1 - alpha) * run.mask_margin
    return bool((np.diff(margin) > 0).all() and margin[-1] > 10)
