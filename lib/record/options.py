"""What commands accept: counts, devices and paths, refused by name before work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def at_least(options: object, prefix: str = "", /, **least: int) -> None:
    """Refuse a count that is too small: of fields of ``options``, whose names follow ``prefix`` in the message.

    :raises ValueError: for the first of them
    """
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise ValueError(f"{prefix}{name} must be at least {smallest}, not {getattr(options, name)}")


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
