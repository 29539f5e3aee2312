"""Refusing bad arguments by name, before they can turn into a plausible number.

Every function here takes the argument's name and its value, returns the value as a number or an array, and raises a
``ValueError`` that names the argument and says what it must be.
"""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

Number = float | int | np.number
Count = int | np.integer
#: a distance or a threshold, where a function of the bounds takes one number or many
Reals = float | int | np.number | np.ndarray | list | tuple
#: what numpy makes of them: an array, or its scalar where no axis is left
Numbers = np.ndarray | np.floating

SUM_TOLERANCE = 1e-6  # a float32 softmax sums to 1 within this


def array(name: str, value: Reals) -> np.ndarray:
    """Finite real numbers, as a float64 array of any shape.

    :raises ValueError: for anything else
    """
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a real number or an array of them, not {value!r}") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, not {value!r}")
    return numbers


def distances(name: str, value: Reals) -> np.ndarray:
    """Distances in positions: finite and not negative.

    :raises ValueError: for a negative one, or what `array` refuses
    """
    numbers = array(name, value)
    if (numbers < 0).any():
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return numbers


def strictly_between(name: str, value: Reals, low: Number, high: Number) -> np.ndarray:
    """Numbers strictly between ``low`` and ``high``.

    :raises ValueError: for a number that is not, or what `array` refuses
    """
    numbers = array(name, value)
    if ((numbers <= low) | (numbers >= high)).any():
        raise ValueError(f"{name} must lie strictly between {low:g} and {high:g}, not {value!r}")
    return numbers


def one_distance(name: str, value: Number) -> float:
    """One distance in positions: a finite number that is not negative.

    :raises ValueError: for anything else
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number, not negative, not {value!r}")
    return float(value)


def scalar(name: str, value: Any) -> float:
    """One finite number.

    :raises ValueError: for an array of several, or what `array` refuses
    """
    number = array(name, value)
    if number.ndim:
        raise ValueError(f"{name} must be one number, not an array of shape {number.shape}")
    return float(number)


def positive(name: str, value: Any) -> float:
    """One number above 0.

    :raises ValueError: for 0 or less, or what `scalar` refuses
    """
    number = scalar(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, not {number}")
    return number


def attention_mass(name: str, value: Any) -> float:
    """Attention mass on a token that is visible: one number in (0, 1].

    :raises ValueError: for a number outside (0, 1], or what `scalar` refuses
    """
    number = scalar(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must lie in (0, 1], not {number}")
    return number


def whole_number(name: str, value: Any, least: int) -> int:
    """A whole number, at least ``least``.

    :raises ValueError: for any other number, or something else
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if isinstance(value, (bool, np.bool_)) or number < least:
        raise ValueError(f"{name} must be a whole number >= {least}, not {value!r}")
    return number


def token(name: str, value: Any, vocab: int) -> int:
    """The index of a token, below the vocabulary size.

    :raises ValueError: for an index beyond it, or what `whole_number` refuses
    """
    index = whole_number(name, value, 0)
    if index >= vocab:
        raise ValueError(f"{name} must be an index below the vocabulary size {vocab}, not {index}")
    return index


def distribution(name: str, value: Any) -> np.ndarray:
    """At least two probabilities that sum to 1, as a vector.

    :raises ValueError: for another shape, a negative entry or another sum, or what `array` refuses
    """
    p = array(name, value)
    if p.ndim != 1 or len(p) < 2:
        raise ValueError(f"{name} must be a vector of at least 2 probabilities, not of shape {p.shape}")
    if (p < 0).any():
        raise ValueError(f"{name} must not be negative; its smallest entry is {p.min()}")
    if abs(p.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(f"{name} must sum to 1, not to {p.sum()}")
    return p


def as_scalar_or_array(result: Numbers) -> float | np.ndarray:
    """A float for a scalar argument, the array for an array argument."""
    return np.asarray(result) if np.ndim(result) else float(result)
