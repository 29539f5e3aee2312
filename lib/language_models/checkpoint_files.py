"""The files of a checkpoint: found in a folder or on the hub, and read from their headers alone.

Weights are safetensors; a pickle is never read. Whatever is missing or damaged is named, with what would bring it back.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_KINDS = ("F64", "F32", "BF16", "F16")  # safetensors' names of them
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


# Finding them -------------------------------------------------------------------------------------------------


def how_to_fetch(source: str | os.PathLike[str]) -> str:
    """What would bring a checkpoint's files back."""
    if Path(source).is_dir():
        return "copy the checkpoint here again"
    return f'`hf download {source} --include "*.json" --include "*.txt" --include "*.safetensors"`'


def small_files(source: str | os.PathLike[str], revision: str | None) -> Path:
    """The folder with the small files of a source.

    :raises FileNotFoundError: for a source that is neither a folder nor a hub id, and as `download`
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise FileNotFoundError(f"{source}: a file; give the folder that holds config.json, or a .gguf file")
    if not _HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError(f"{source}: no such folder, and no hub id (owner/name) either")
    return download(str(source), revision, list(SMALL_FILES))


def download(source: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder with a model's files that fit some patterns, from the hub or its local cache.

    :raises FileNotFoundError: for a model that is gated, unknown, or not to be had without a network; says what to do
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        advice = f"accept its licence at https://huggingface.co/{source}, run `hf auth login`, then"
        raise FileNotFoundError(f"{source} is gated: {advice} {how_to_fetch(source)}") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{source}: no such model on the hub, or a private one") from error
    except Exception as error:  # the hub's client raises a dozen kinds when there is no network
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = f"with a network, {how_to_fetch(source)} fetches it"
        raise FileNotFoundError(f"{source}: no such folder, and not in the local cache: {reason}; {advice}") from error


# Fields -------------------------------------------------------------------------------------------------------


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a checkpoint as it stands in config.json.

    :raises FileNotFoundError: if there is none
    :raises ValueError: as `read_fields`
    """
    adapters = (Path(folder) / "adapter_config.json").exists()
    what = "adapters without their model" if adapters else "no checkpoint in the hub's layout"
    return read_fields(Path(folder) / "config.json", f"so this is {what}")


def read_fields(path: Path, without: str = "fetch it again") -> dict[str, Any]:
    """A file of fields and values.

    :param without: what it means, or what to do, if there is none
    :raises FileNotFoundError: if there is none
    :raises ValueError: for anything but a JSON object
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing, {without}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must hold fields and values")
    return fields


# Tensors ------------------------------------------------------------------------------------------------------


def tensors_of(folder: str | os.PathLike[str], advice: str = "fetch it again") -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a checkpoint, from the headers of its safetensors files alone.

    :raises FileNotFoundError: if there are no safetensors, or the index names a file that is not there
    :raises ValueError: for a file that was cut off or does not hold what the index says
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        placed = _placed(index)
        files = sorted(set(placed.values()))
    else:
        placed, files = {}, ["model.safetensors"]
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        here = tensor_shapes(folder / file, advice)
        for name in (name for name, shard in placed.items() if shard == file and name not in here):
            raise ValueError(f"{folder / file}: tensor {name!r} is missing, but {index.name} places it here")
        found |= here
    return found


def _placed(index: Path) -> dict[str, str]:
    """Which file of this folder holds which tensor."""
    content = read_fields(index)
    placed = content.get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index}: field 'weight_map' must give each tensor its file, not {placed!r}")
    for name, file in placed.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{index}: weight_map places {name!r} in {file!r}, which is no file of this folder")
    if not isinstance(content.get("metadata"), dict):
        raise ValueError(f"{index}: field 'metadata' must hold fields and values, not {content.get('metadata')!r}")
    return placed


def tensor_shapes(path: Path, advice: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in one safetensors file.

    :param advice: what would bring the file back
    :raises FileNotFoundError: if there is none
    :raises ValueError: for a file that was cut off or damaged, or holds anything but weights
    """
    if not path.exists():
        pickled = [other.name for other in path.parent.glob("*.bin")]
        hint = f"; {pickled[0]} is a pickle, which is never read: only safetensors are" if pickled else f"; {advice}"
        raise FileNotFoundError(f"{path}: missing{hint}")
    try:
        with safe_open(path, framework="pt") as tensors:
            found = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            kinds = {name: part.get_dtype() for name, part in found.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in found.items()}
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: cut off or damaged, {size} bytes ({error}); delete it, {advice}") from None
    for name, kind in kinds.items():
        if kind not in _KINDS:
            raise ValueError(f"{path}: tensor {name!r} is of type {kind}; weights are {', '.join(_KINDS)}")
    return shapes
