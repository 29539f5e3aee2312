"""The recorded notebooks on another processor:  python -m pipeline.processor

Executes and compares them with torch and oneDNN held to vector instructions other than this processor's best, which
round differently. A result that only this processor gives fails here.
"""

from __future__ import annotations

import os
import sys

#: what torch finds the processor to be capable of -> a setting that it can take on and that is another
OTHER = {"AVX512": ("avx2", "AVX2"), "AVX2": ("default", "SSE41")}
NBVAL = ("pytest", "-n", "2", "--dist", "loadfile", "--nbval-lax", "--nbval-current-env")


def other(capability: str) -> dict[str, str]:
    """The environment of another setting; empty where the processor has one only."""
    aten, onednn = OTHER.get(capability, ("", ""))
    return {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn} if aten else {}


def main() -> None:
    import torch

    found = torch.backends.cpu.get_cpu_capability()
    setting = other(found)
    if not setting:
        print(f"torch knows one setting of this processor, {found}: there is no other to compare with")
        return
    print(f"this processor: {found}; now held to {' '.join('='.join(pair) for pair in setting.items())}", flush=True)
    os.environ.update(setting)
    os.execvp(NBVAL[0], [*NBVAL, *(sys.argv[1:] or ["book"])])


if __name__ == "__main__":
    main()
