"""What the processor of a run computes with: its vector instructions, and whether it multiplies bfloat16."""

from __future__ import annotations

from typing import Any


def multiplies_bfloat16(where: Any = "cpu") -> bool:
    """Whether a torch device multiplies bfloat16 by itself; emulated, it is several times slower than float32.

    :param where: the device, or its name
    """
    import torch  # here, so that the theory does not wait for it

    device = torch.device(where)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def instructions() -> str:
    """The vector instructions that torch uses on the CPU, as it calls them, and whether bfloat16 is multiplied."""
    import torch

    return torch.backends.cpu.get_cpu_capability() + (" with bfloat16" if multiplies_bfloat16() else "")
