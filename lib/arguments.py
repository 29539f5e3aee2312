"""Refusing bad arguments by name, before they can turn into a plausible number or into lost work."""

from __future__ import annotations

import math
import os
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

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


def at_least(options: object, prefix: str = "", /, **least: int) -> None:
    """Refuse a count that is too small: of fields of ``options``, whose names follow ``prefix`` in the message.

    :raises ValueError: for the first of them
    """
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise ValueError(f"{prefix}{name} must be at least {smallest}, not {getattr(options, name)}")


def plain(result: Numbers) -> float | np.ndarray:
    """A float for a scalar argument, the array for an array argument."""
    return np.asarray(result) if np.ndim(result) else float(result)


# Options of a command ----------------------------------------------------------------------------------------


def device_named(name: str) -> torch.device:
    """The device that an option names; entered, it is where new tensors go.

    :raises ValueError: for a name that is none, or a device that is not there
    """
    import torch  # here, so that the theory does not wait for it

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found: torch.device | None = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name!r} is none of auto, cpu, cuda, cuda:1, ...")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name!r}: torch sees {torch.cuda.device_count()} CUDA devices; --device cpu works")
    return found


def json_file(option: str, path: Path) -> Path:
    """The path of a result that is still to be made: a JSON file.

    :raises ValueError: for another suffix or a folder
    """
    if path.suffix != ".json":
        raise ValueError(f"{option} {path}: a result is a JSON file, so name one that ends in .json")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name the JSON file to write")
    return path


def writable(option: str, folder: Path) -> None:
    """Make a folder, and try to write in it, before hours of work depend on it.

    :raises ValueError: if that does not work
    """
    draft = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written to ({error.strerror})") from None
