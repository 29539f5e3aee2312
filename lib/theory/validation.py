"""Refusing bad arguments by name, before they can turn into a plausible number or into lost work."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass

#: what the functions of the bounds accept where a distance or a threshold may be one number or many
Reals = float | int | np.number | np.ndarray | list | tuple
Number = float | int | np.number
Count = int | np.integer
#: what numpy makes of them: an array, or its scalar where no axis is left
Numbers = np.ndarray | np.floating


def array(name: str, value: Reals) -> np.ndarray:
    """``value`` as a float64 array of any shape.

    :raises ValueError: if it is not made of finite real numbers
    """
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a real number or an array of them, not {value!r}") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, not {value!r}")
    return numbers


def distances(name: str, value: Reals) -> np.ndarray:
    """Distances in positions: finite and not negative."""
    numbers = array(name, value)
    if (numbers < 0).any():
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return numbers


def within(name: str, value: Reals, low: Number, high: Number) -> np.ndarray:
    """Numbers strictly between ``low`` and ``high``."""
    numbers = array(name, value)
    if ((numbers <= low) | (numbers >= high)).any():
        raise ValueError(f"{name} must lie strictly between {low:g} and {high:g}, not {value!r}")
    return numbers


def distance(name: str, value: Number) -> float:
    """One distance: a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number, not negative, not {value!r}")
    return float(value)


def plain(result: Numbers) -> float | np.ndarray:
    """A float for a scalar argument, the array for an array argument."""
    return np.asarray(result) if np.ndim(result) else float(result)
