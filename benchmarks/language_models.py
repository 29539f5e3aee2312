"""What a language model of some size costs here: seconds, tokens a second, and peak memory against the weights.

    python -m benchmarks.language_models                     the largest shape that fits: 8B on a CUDA device of 24 GB
    python -m benchmarks.language_models --shape 300m --dtype bfloat16 --out _build/scale

Writes a checkpoint of LLaDA's layout with random weights, loads it as a published one would be, takes the three
signatures, decodes, and fine-tunes with adapters; one result goes to ``<out>/<device>.json`` (out: ``$OUT`` where
set, else results/scale). Peaks are multiples of the weights in memory: bytes allocated on a CUDA device, resident
memory above what the process had before on the CPU (Linux). Seconds are those of the clock on a CUDA device; on the
CPU those of one thread, which other work does not lengthen. For comparison the gradient cosine is taken at a smaller
size in both ways, by hooks and from two stored gradients. Exits with 1 if the hooks' peak reaches LIMIT.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import functools
import gc
import itertools
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib.language_models import (
    attention_scores,
    checkpoints,
    decoding,
    finetuning,
    model_size,
    objectives,
    queries,
    signatures,
    synthetic_facts,
)
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.random_checkpoints import PUBLISHED, Size, config_fields, shaped
from lib.record import provenance
from lib.record.accepted import at_least, device_named, writable
from lib.record.options import command, option

#: LLaDA's shape in several sizes, the largest first; 3b and 1b keep its vocabulary
SHAPES = {
    "8b": PUBLISHED["llada"],
    "3b": Size(width=3072, layers=22, heads=24, key_heads=24, mlp=8192, tokens=126464),
    "1b": Size(width=2048, layers=12, heads=16, key_heads=16, mlp=5632, tokens=126464),
    "300m": Size(width=1024, layers=16, heads=16, key_heads=16, mlp=2816, tokens=32064),
    "tiny": Size(width=64, layers=2, heads=4, key_heads=4, mlp=192, tokens=1024),
}
_RECORDED = ("shape", "control", "dtype", "batch", "steps", "length")
LIMIT = 1.3  # of the gradient cosine's peak, in weights
ROOM = 1.25  # what has to fit, in weights


class Meter:
    """Seconds and peak memory of one call after another, above what was in use at the start."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clock = time.perf_counter if device.type == "cuda" else time.process_time
        _give_back()
        self.start = self._now()

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, float, int]:
        """What ``work`` returns, its seconds, and the peak in bytes while it ran."""
        _give_back()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
        start = self.clock()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = self.clock() - start
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else _status("VmHWM")
        return result, seconds, peak - self.start

    def _now(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else _status("VmRSS")


def _give_back() -> None:
    """Freed memory goes back to the system: what the allocator keeps would serve the next call, unseen by its peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other C libraries keep little
    if trim:
        trim(0)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", text)[1])  # type: ignore[index]


def largest(dtype: torch.dtype, device: torch.device) -> str:
    """The largest shape whose weights leave some room beside them in the memory that is free."""
    kind, free = ARCHITECTURES["llada"], model_size.available_bytes(device)
    for name, size in SHAPES.items():
        count = model_size.parameter_count(kind, kind.configure(config_fields("llada", size)))
        if ROOM * count * dtype.itemsize <= free:
            return name
    raise MemoryError(f"{device}: {free / 1e9:.1f} GB free, too little for any of {', '.join(SHAPES)}")


def loaded(shape: str, dtype: torch.dtype, meter: Meter, found: dict[str, float]) -> tuple[Any, Any]:
    """A model of the shape, from a checkpoint written for the purpose."""
    with tempfile.TemporaryDirectory() as folder:
        _, found["write_seconds"], _ = meter(lambda: shaped(folder, "llada", SHAPES[shape], dtype=dtype))
        pair, seconds, peak = meter(lambda: _whole(*checkpoints.load(folder, dtype, meter.device)))
    weights = _bytes(pair[0])
    found |= {"parameters": model_size.size_of(pair[0]), "weight_gigabytes": weights / 1e9, "load_seconds": seconds,
              "load_peak": peak / weights}
    return pair


def _whole(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """On the CPU, weights are mapped from their files and read when touched: copied, they count as memory in use."""
    return (model._apply(torch.clone) if model.device.type == "cpu" else model), tokenizer


def _bytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def probe(model: Any, tokenizer: Any, meter: Meter, found: dict[str, float]) -> None:
    """The three signatures of one fact."""
    data = synthetic_facts.world(4).p2c
    pair = queries.encoded_pair(data, data.facts[0], tokenizer)
    batches = [queries.batch([prompt], meter.device) for prompt in pair]
    forward = pair[0]
    work: dict[str, Callable[[], Any]] = {
        "cosine": lambda: signatures.gradient_cosine(model, *batches),
        "scores": lambda: attention_scores.scores_and_weights(
            model, forward.input_ids.to(meter.device), forward.target, forward.evidence),
        "probability": lambda: signatures.target_probability(model, batches[1]),
    }
    for name, each in work.items():
        _, seconds, peak = meter(each)
        found |= {f"{name}_seconds": seconds, f"{name}_peak": peak / _bytes(model)}


def decode(model: Any, tokenizer: Any, meter: Meter, found: dict[str, float], length: int) -> None:
    """Tokens a second, one a step, for two prompts at once."""
    asked = [example.prompt for example in synthetic_facts.world(4).p2c.forward[:2]]
    _, seconds, peak = meter(lambda: decoding.generate_text(model, tokenizer, asked, length=length))
    found |= {"decode_tokens_per_second": len(asked) * length / seconds, "decode_peak": peak / _bytes(model)}


def finetune(model: Any, tokenizer: Any, meter: Meter, found: dict[str, float], batch: int, steps: int) -> None:
    """Median seconds of a step after the first, with adapters; tokens are those of the sentences, without padding."""
    examples = synthetic_facts.world(batch * (steps + 1)).p2c.train[: batch * (steps + 1)]
    config = FineTuningConfig(epochs=1, batch=batch, masking="any")
    weights = _bytes(model)
    adapted = finetuning.add_adapters(model, config)
    times: list[float] = []
    _, _, peak = meter(lambda: finetuning.finetune(
        adapted, tokenizer, examples, config, on_step=lambda step, loss: times.append(meter.clock())))
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
    tokens = sum(len(sentence.ids) for sentence in objectives.sentences(examples, tokenizer)) / (steps + 1)
    found |= {"lora_step_seconds": seconds, "lora_tokens_per_second": tokens / seconds, "lora_peak": peak / weights}


def compare(shape: str, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """The gradient cosine by hooks and from two stored gradients: peaks, and how far the cosines lie apart."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    meter, found = Meter(device), {}
    model, tokenizer = loaded(shape, dtype, meter, {})
    data = synthetic_facts.world(4).p2c
    pair = [queries.batch([prompt], device) for prompt in queries.encoded_pair(data, data.facts[0], tokenizer)]
    cosines = []
    for name, each in (("hooks", signatures.gradient_cosine), ("stored", signatures.cosine_by_autograd)):
        cosine, _, peak = meter(functools.partial(each, model, *pair))
        cosines.append(cosine.cosine)
        found[f"control_{name}_peak"] = peak / _bytes(model)
    difference = abs(cosines[0] - cosines[1])
    return {**found, "control_parameters": model_size.size_of(model), "control_difference": difference}


def measure(given: Options) -> dict[str, float]:
    """All of it, the large model first."""
    dtype, device = getattr(torch, given.dtype), torch.device(given.device)
    found = large(given, dtype, device)
    gc.collect()
    # in a process of its own: memory that this one gave back but kept would hide the peak
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return found | fresh.submit(compare, given.control, dtype, device).result()


def large(given: Options, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Loading, probes, decoding and fine-tuning of the large model, which is gone afterwards."""
    found: dict[str, float] = {}
    meter = Meter(device)
    model, tokenizer = loaded(str(given.shape), dtype, meter, found)
    for work in (lambda: probe(model, tokenizer, meter, found),
                 lambda: decode(model, tokenizer, meter, found, given.length),
                 lambda: finetune(model, tokenizer, meter, found, given.batch, given.steps)):
        work()
        print("  ".join(f"{name} {value:.3g}" for name, value in list(found.items())[-6:]), file=sys.stderr, flush=True)
    return found


_CUDA = torch.cuda.is_available()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command can be told."""

    shape: str | None = option(None, choices=SHAPES)  # the largest that fits in free memory if absent
    control: str = option("300m", choices=SHAPES)  # where gradients are stored
    device: str = "cuda" if _CUDA else "cpu"  # cpu, cuda, cuda:1, ...
    dtype: str = option("bfloat16" if _CUDA else "float32", choices=("float32", "bfloat16", "float16"))  # weights
    batch: int = 8 if _CUDA else 4  # sentences a step of fine-tuning
    steps: int = 3  # of fine-tuning, that are timed
    length: int = 32 if _CUDA else 8  # tokens that are decoded
    out: Path = Path(os.environ.get("OUT", provenance.RECORDED / "scale"))  # folder of the result

    def __post_init__(self) -> None:
        at_least(self, batch=1, steps=1, length=1)
        device_named(self.device)


def work(given: Options) -> None:
    """Measure, print, record.

    :raises ArithmeticError: at the end, if the gradient cosine takes too much memory
    """
    device = device_named(given.device)
    given = dataclasses.replace(given, shape=given.shape or largest(getattr(torch, given.dtype), device))
    writable("--out", given.out)
    if device.type == "cpu":
        torch.set_num_threads(1)
    run = provenance.Run(device)
    found = measure(given)
    name = re.sub(r"\W+", "_", run.device.lower())
    provenance.save(
        given.out / f"{name}.json", experiment="scale", seeds=[0], curves={}, run=run,
        parameters={"architecture": "llada", "size": found["parameters"],
                    "clock": "one thread" if device.type == "cpu" else "wall",
                    **{key: getattr(given, key) for key in _RECORDED}},
        metrics={key: [value] for key, value in found.items()})
    for key, number in found.items():
        print(f"{key:26s}{number:14.4g}")
    if found["cosine_peak"] >= LIMIT:
        raise ArithmeticError(f"cosine_peak: {found['cosine_peak']:.2f} weights, more than {LIMIT}")


main = command(Options, work)

if __name__ == "__main__":
    main()
