"""How large a model is, and whether a device has room for it before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.language_models.architectures import Architecture

#: precision of weights -> bytes of each
PRECISIONS = {torch.float64: 8, torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}


def size_of(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameter_count(architecture: Architecture, config: Any) -> int:
    """Parameters of the model that a configuration describes, without allocating it."""
    return sum(parameter.numel() for parameter in architecture.without_memory(config).parameters())


def check_memory(architecture: Architecture, config: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse weights that a device has no room for.

    :raises MemoryError: saying what is needed, what is free, and in which precision the weights would fit
    """
    count, free = parameter_count(architecture, config), available_bytes(device)
    needed = {each: count * size * 1.05 for each, size in PRECISIONS.items()}  # weights, and a little for activations
    if needed[dtype] <= free:
        return
    fits = [each for each in (torch.float32, torch.bfloat16) if needed[each] <= free]
    least = _gigabytes(needed[torch.bfloat16])
    smaller = f"dtype={fits[0]} would fit" if fits else f"even bfloat16 needs {least}, so take a larger device"
    raise MemoryError(f"{architecture.title} layout, {count:,} parameters in {dtype}: needs "
                      f"{_gigabytes(needed[dtype])}, {device} has {_gigabytes(free)} free; {smaller}")


def available_bytes(device: torch.device) -> float:
    """Free memory of a device; of the CPU, what the machine and this process's control group leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text(encoding="utf-8").strip() != "max":
        free = min(free, float(limit.read_text(encoding="utf-8")) - float(used.read_text(encoding="utf-8")))
    return free


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
