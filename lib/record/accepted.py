"""What options accept: counts, ranges, words, seeds, devices and paths.

Each function refuses the first field of a dataclass that is out of bounds, with a message that begins with its name;
`lib.record.options` puts the option's name in its place.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INTEGER_LIMIT = 2**63  # integers, seeds among them, lie below it: what numpy and torch can hold


def at_least(options: object, prefix: str = "", /, **least: int) -> None:
    """Refuse a count that is too small: of fields of ``options``, whose names follow ``prefix`` in the message.

    :raises ValueError: for the first of them
    """
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise ValueError(f"{prefix}{name} must be at least {smallest}, not {getattr(options, name)}")


def within(options: object, **ranges: str) -> None:
    """Refuse a number outside its interval, such as ``ema="[0, 1)"`` or ``clip="(0, inf)"``; NaN lies in none.

    :raises ValueError: for the first field of ``options`` that does
    """
    for name, interval in ranges.items():
        value = getattr(options, name)
        low, high = (float(end) for end in interval[1:-1].split(","))
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} must lie in {interval}, not {value!r}")


def one_of(options: object, **choices: Collection[str]) -> None:
    """Refuse a word that is none of those that are known.

    :raises ValueError: for the first field of ``options`` with such a word
    """
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{nearest(str(value), [*known])}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are none, repeat, are negative or too large.

    :raises ValueError: with the seeds
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= INTEGER_LIMIT:
        raise ValueError(f"seeds must be different integers from 0 to 2^63 - 1, not {list(seeds)!r}")


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
    """The path of a result that is still to be made: a JSON file, and no link to one, which would be replaced.

    :raises ValueError: for another suffix, a folder or a symbolic link
    """
    if path.suffix != ".json":
        raise ValueError(f"{option} {path}: a result is a JSON file, so name one that ends in .json")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name the JSON file to write")
    if path.is_symlink():
        raise ValueError(f"{option} {path} is a link to {path.readlink()}; name the file itself")
    return path


def writable(option: str, folder: Path) -> list[Path]:
    """Make a folder, and try to write in it, before hours of work depend on it.

    :return: the folders that were not there before, the innermost first
    :raises ValueError: if that does not work
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    draft = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written to ({error.strerror})") from None
    return made


def nearest(word: str, known: Sequence[str]) -> str:
    """The known words that a mistyped one may mean, as the end of a message; nothing where none is near."""
    near = difflib.get_close_matches(word, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""
