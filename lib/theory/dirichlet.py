"""Exact law of what App. B averages: the weights w_i = ||q_i||^2 / sum ||q_j||^2 of RoPE's planes.

For q ~ N(0, I) the squared norms of the planes are independent and exponential, so w is uniform on the
simplex (Dirichlet with all parameters 1). Everything here is a function of w and of numbers attached to the
planes; the last axis of every array runs over the m planes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lib.theory.validation import Numbers

# Trapezoidal rule over x with s = exp(x - exp(-x)) / m: both ends of the integrand vanish (doubly) exponentially
_STEP = 0.25
_FIRST, _LAST = -3.6, 60.0
_NOTHING = 1e-22


def moments(values: Float[np.ndarray, "*batch planes"]) -> tuple[Numbers, Numbers]:
    """Mean and variance of sum_i w_i values_i (the paper's B.2).

    :return: (*batch,) means mu and (*batch,) variances (mean of squares - mu**2) / (m + 1)
    """
    mean = values.mean(-1)
    return mean, ((values - mean[..., None]) ** 2).mean(-1) / (values.shape[-1] + 1)


def tail(values: Float[np.ndarray, "*batch planes"]) -> Numbers:
    """P(sum_i w_i values_i >= 0), exactly, for any values, coinciding ones included.

    The tail of a set of planes is an average of the tails without its largest and without its smallest value;
    the recursion over such subsets only ever averages probabilities, so rounding errors do not grow. (The
    density of the sum is the B-spline whose knots are the values; this is its recurrence, integrated.)

    :return: (*batch,) probabilities; error a few times m * 1e-16
    """
    knots = np.sort(values, axis=-1)
    chance = np.asarray(knots >= 0, dtype=np.float64)
    for order in range(1, knots.shape[-1]):
        smallest, largest = knots[..., :-order], knots[..., order:]
        spread = largest - smallest
        share = np.divide(largest, spread, out=np.zeros_like(spread), where=spread > 0).clip(0, 1)
        chance = share * chance[..., 1:] + (1 - share) * chance[..., :-1]
    return chance[..., 0]


def ratio_moments(
    numerators: Float[np.ndarray, "*batch planes"], denominators: Float[np.ndarray, "*batch planes"]
) -> tuple[Numbers, Numbers]:
    """First and second moment of sum_i w_i n_i / sum_i w_i D_i, for D_i >= 0, as one-dimensional integrals.

    With E[N/D] = int_0^oo E[N exp(-sD)] ds and the exponential law of the squared norms,

        E[N/D]     = int_0^oo (sum_i n_i/(1+sD_i)) prod_j 1/(1+sD_j) ds,
        E[N^2/D^2] = int_0^oo s ((sum_i n_i/(1+sD_i))^2 + sum_i (n_i/(1+sD_i))^2) prod_j 1/(1+sD_j) ds.

    The trapezoidal rule after a double-exponential substitution gives them to about 1e-15. A plane with
    n_i = D_i = 0 drops out.

    :return: (*batch,) E[N/D] and (*batch,) E[N^2/D^2]
    """
    first = np.zeros(numerators.shape[:-1])
    second = np.zeros(numerators.shape[:-1])
    for x in np.arange(_FIRST, _LAST, _STEP):
        s = np.exp(x - np.exp(-x)) / numerators.shape[-1]
        product = s * (1 + np.exp(-x)) * np.exp(-np.log1p(s * denominators).sum(-1))
        terms = numerators / (1 + s * denominators)
        total = terms.sum(-1)
        first += total * product
        second += s * (total**2 + (terms**2).sum(-1)) * product
        if x > 0 and np.max(s * product) < _NOTHING:  # beyond its peak, so it stays tiny
            break
    return first * _STEP, second * _STEP
