"""How fast a one-layer training step is, beside what general frameworks make of the same step.

    python -m benchmarks.one_layer [--quick] [--radd DIR] [--lengths 10 40] [--members 1 8 32] [--rounds 7] \\
        [--only NAME ...] [--out FILE]

One thread, in interleaved rounds: in each round every contestant takes some steps, in an order that turns, and a ratio
is taken within the round. Times are processor time, not time on the wall, so that other programs on the machine disturb
them little; a core of its own still helps. The drawing of batches is part of a step. One line a contestant:
milliseconds a member's step (median), then its time over ours (median, 10th and 90th percentile; above 1 means ours is
faster), and for ours and the general ones the seconds until two steps are done, compilation included (compilers keep
what they made on disk, so it is less where they ran before).

* ``ours``: the step of `lib.one_layer.training`, tables over the vocabulary with autograd;
* ``plain``: the plain module with autograd; and two readable formulations, ``plain`` and ``tables``, through
  ``_compiled``, ``_vmap``, ``_vmap_compiled`` and ``_jax``, see `benchmarks.contestants`. Before one is timed, its
  losses, gradients and weights of two steps are held against ours, with `TOLERANCE`;
* ``radd``: RADD's own model, loss and average, unmodified, from a checkout of https://github.com/ML-GSAI/RADD (which
  needs einops, omegaconf and huggingface_hub);
* ``floor``: the unavoidable matrix products alone (MLP and unembedding at all masked positions, forward and both
  gradients); ``floor_merged``: the same at unique rows.

Who cannot take part is skipped, with the reason. With ``--out`` all rounds are recorded, with their provenance.

``results/speed/hand_written_step.json`` is the record of a decision. There ``ours`` is a step that was written out by
hand, with compiled loops and its own gradients, and ``tables`` the tables with autograd, which ``ours`` is now
(``results/speed/cpu_x86_64.json`` is a quick run with it). To be kept it had to be 1.5 times as fast as the best of
torch.compile, torch.func.vmap and JAX on the same tables. It took 2.1 to 2.3 ms a member's step at length 10 and 9.7 to
10.2 ms at length 40, for 1 to 32 members alike: 4 to 5 times as fast as the plain module, 5 to 7 times as fast as RADD.
The tables took 1.7 to 2.3 times its time with autograd, 1.38 to 1.52 times compiled (the better way of each size), 1.39
times at best by JAX, and 1.38 to 1.49 times by the best of all at each size. The products at unique rows alone are 58
to 76 % of its time: 5 times as fast as any of these was out of reach. The difference did not earn a thousand lines, and
the tables with autograd took its place.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import contestants
from benchmarks.contestants import GENERAL, Size
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import TrainingConfig
from lib.record import provenance

TOLERANCE = 1e-4  # relative, in single precision
CHECKED = 2  # steps
STEPS = 16  # that ours takes in a round: it draws batches for as many at a time
NAMES = ("ours", *GENERAL, "radd", "floor", "floor_merged")
Step = Callable[[], Any]
Values = dict[str, list[float]]


def steps_of(name: str, members: int) -> int:
    """Steps a round: the slow take fewer of many members."""
    if name == "ours":
        return STEPS
    return max(4 if name.startswith("tables") else 1, STEPS // members)


def checked(name: str, size: Size, reference: contestants.Arrays) -> tuple[Step, float]:
    """The step of a general contestant, and seconds until it is warm.

    :raises ArithmeticError: if it does not compute what ours does
    """
    start = time.perf_counter()
    contestant = GENERAL[name](size._replace(ahead=steps_of(name, size.members)))
    found = contestants.trace(contestant, CHECKED)
    warm, apart = time.perf_counter() - start, contestants.disagreement(found, reference)
    if not apart < TOLERANCE:
        raise ArithmeticError(f"{name}: differs from ours by {apart:.1e} after {CHECKED} steps")
    return contestant.step, warm


def step_of(name: str, size: Size, folder: Path | None) -> Step:
    """The step of a contestant that is no general one.

    :raises ImportError: if RADD or what it needs is missing
    """
    if name == "ours":
        return contestants.ours(size).step
    if name != "radd":
        return contestants.products(size, unique=name == "floor_merged")
    if folder is None:
        raise ImportError("no --radd DIR")
    return contestants.radd(folder, size)


def taking_part(size: Size, names: list[str], folder: Path | None) -> tuple[dict[str, Step], dict[str, float]]:
    """The steps of all who take part, and seconds until ours and the general ones were warm; says who does not."""
    start = time.perf_counter()
    reference = contestants.trace(contestants.ours(size), CHECKED)
    steps, warm = {}, {"ours": time.perf_counter() - start}
    for name in names:
        try:
            if name in GENERAL:
                steps[name], warm[name] = checked(name, size, reference)
            else:
                steps[name] = step_of(name, size, folder)
        except ImportError as error:
            print(f"{name} skipped ({error})", flush=True)
    return steps, warm


def seconds(step: Step, steps: int) -> float:
    """Processor time of one of that many steps."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def timed(steps: dict[str, Step], rounds: int, members: int) -> Values:
    """Milliseconds a member's step of every contestant in every round; the order turns round by round."""
    names, spent = list(steps), {name: [] for name in steps}
    for turn in range(-1, rounds):  # the first warms up
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            spent[name].append(1000 * seconds(steps[name], steps_of(name, members)) / members)
    return {name: each[1:] for name, each in spent.items()}


def report(name: str, spent: list[float], ratios: list[float], warm: float | None) -> None:
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    last = "" if warm is None else f"{warm:8.1f}"
    print(f"{name:22}{statistics.median(spent):9.3f}{middle:8.3f}{low:8.3f}{high:8.3f}{last}", flush=True)


def measured(given: argparse.Namespace, length: int) -> Values:
    """All contestants at one length, one value a round: ``NAME_L10_m8`` for the time over ours and ``NAME_L10_m8_ms``
    for milliseconds a member's step; and one value ``NAME_L10_m8_warm``, seconds until it was warm."""
    config, training, found = ModelConfig(length=length, width=given.width), TrainingConfig(batch=given.batch), {}
    largest = Size(config, training, max(given.members), STEPS)
    rows = contestants.most_rows(largest, CHECKED + (given.rounds + 1) * STEPS)
    for members in given.members:
        print(f"length {length}, members {members}")
        steps, warm = taking_part(largest._replace(members=members, rows=rows), given.only, given.radd)
        spent = timed(steps, given.rounds, members)
        for name, each in spent.items():
            ratios = [one / ours for one, ours in zip(each, spent["ours"], strict=True)]
            report(name, each, ratios, warm.get(name))
            key = f"{name}_L{length}_m{members}"
            found |= {key: ratios, f"{key}_ms": each} | ({f"{key}_warm": [warm[name]]} if name in warm else {})
    return found


def parsed() -> argparse.Namespace:
    command = argparse.ArgumentParser(prog="python -m benchmarks.one_layer", description=__doc__.split("\n")[0])
    command.add_argument("--radd", type=Path, help="a checkout of RADD")
    command.add_argument("--quick", action="store_true", help="length 10, 1 and 8 members, 3 rounds")
    command.add_argument("--lengths", type=int, nargs="+", default=[10, 40], help="default 10 40")
    command.add_argument("--members", type=int, nargs="+", default=[1, 8, 32], help="default 1 8 32")
    for name, default in (("width", 64), ("batch", 120), ("rounds", 7)):
        command.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    command.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="who takes part beside ours")
    command.add_argument("--out", type=Path, help="JSON file to record all rounds in; default none")
    given = command.parse_args()
    if given.quick:
        given.lengths, given.members, given.rounds = [10], [1, 8], 3
    given.only = list(dict.fromkeys(("ours", *given.only)))
    return given


def main() -> None:
    given, run = parsed(), provenance.Run("cpu")
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64  # by default a function is compiled for eight sizes at most
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*autocast.*")
    print(f"{'':22}{'ms':>9}{'ratio':>8}{'10 %':>8}{'90 %':>8}{'warm':>8}")
    found = {name: values for length in given.lengths for name, values in measured(given, length).items()}
    if given.out is not None:
        sizes = {name: getattr(given, name) for name in ("lengths", "members", "width", "batch", "rounds")}
        provenance.save(given.out, experiment="speed", parameters=sizes | provenance.versions("jax", "jaxlib"),
                        seeds=list(range(max(given.members))), metrics=found, curves={}, run=run)


if __name__ == "__main__":
    main()
