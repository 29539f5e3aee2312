"""The separator of least norm by a library's solver, to hold ours against."""

import numpy as np
from scipy.optimize import nnls


def least_norm(features: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """The hard-margin problem as Lawson and Hanson solve it: least distance through non-negative least squares."""
    rows = []
    for feature, target in zip(features, targets, strict=True):
        for rival in set(range(classes)) - {int(target)}:
            row = np.zeros((classes, len(feature)))
            row[target], row[rival] = feature, -feature
            rows.append(row.ravel())
    stacked = np.vstack([np.array(rows).T, np.ones(len(rows))])
    wanted = np.eye(len(stacked))[-1]
    solution, _ = nnls(stacked, wanted, maxiter=100_000)
    residual = stacked @ solution - wanted
    return (-residual[:-1] / residual[-1]).reshape(classes, -1)
