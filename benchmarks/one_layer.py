"""How fast a one-layer training step is, beside what it could be and what others do.

    python -m benchmarks.one_layer [--radd DIR] [--length 10] [--width 64] [--batch 120] [--rounds 15] [--out FILE]

One thread, in interleaved rounds: in each round every contestant does the same number of steps, and a ratio is taken
within the round. One line a comparison: name, median ratio, and the ratios at the 10th and 90th percentile. Times are
processor time, not time on the wall, so that other programs on the machine disturb them little. With ``--out`` the
ratios of all rounds are recorded, with their provenance.

* ``plain``: time of a step of the same model as a plain module (all positions, torch's AdamW, a loop over weights for
  the average) over ours. Above 1 means ours is faster.
* ``radd``: the same against RADD's own model, loss and average, unmodified, from a checkout of
  https://github.com/ML-GSAI/RADD (which needs einops and omegaconf). Skipped without ``--radd``.
* ``floor``: time of our step over the time of its unavoidable matrix products alone (MLP and unembedding at all masked
  positions, forward and both gradients), measured in the same rounds.
* ``floor_merged``: the same over the products at the rows that are left once equal questions are asked once, which is
  what our step computes.
* ``seeds``: time of one step of an ensemble of four over four steps of single models. Below 1 means company helps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.one_layer import task
from lib.one_layer.fast.unique import unique_rows
from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record import provenance

Step = Callable[[], Any]


def ours(settings: ModelConfig, recipe: TrainingConfig, members: int = 1) -> Step:
    return Trainer(settings, recipe, range(members)).step


def plain(settings: ModelConfig, recipe: TrainingConfig) -> Step:
    """The straightforward loop: a module, every position, independent lambda, torch's optimiser."""
    model = initialise(Transformer(settings), 0)
    average = [weight.detach().clone() for weight in model.parameters()]
    return _loop(model, list(model.parameters()), average, recipe, lambda: _bound(model, settings, recipe))


def _bound(model: torch.nn.Module, settings: ModelConfig, recipe: TrainingConfig) -> torch.Tensor:
    tokens = torch.from_numpy(task.sequences(recipe.batch, settings.length, np.random.default_rng()))
    share = torch.rand(recipe.batch, 1)
    masked = torch.rand(tokens.shape) < share
    logits = model(tokens.masked_fill(masked, task.MASK)).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    return (loss.view_as(tokens) * masked / share).sum(1).mean()


def _loop(model: Any, weights: list, average: list, recipe: TrainingConfig, loss_of: Step) -> Step:
    optimiser = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=0.0)

    def step() -> None:
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimiser.step()
        with torch.no_grad():
            for mean, weight in zip(average, weights, strict=True):
                mean.lerp_(weight, 0.01)

    return step


def radd(folder: Path, settings: ModelConfig, recipe: TrainingConfig) -> Step:
    """RADD's own training step (its t_DCE loss, model and moving average), on the same sequences.

    :raises ImportError: if the checkout or what it needs is missing
    """
    sys.path.insert(0, str(folder))
    try:
        from losses import get_loss_fn  # type: ignore[import-not-found]
        from model import RADD  # type: ignore[import-not-found]
        from model.ema import ExponentialMovingAverage  # type: ignore[import-not-found]
        from noise_lib import LogLinearNoise  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    sizes = {"hidden_size": settings.width, "n_heads": settings.heads, "n_blocks": settings.depth, "dropout": 0.0,
             "use_checkpoint": False, "dtype": "float32"}
    model = RADD({"tokens": task.CLEAN, "model": sizes})
    weights, average = list(model.parameters()), ExponentialMovingAverage(model.parameters(), 0.99)
    loss_fn = get_loss_fn(LogLinearNoise(), task.TOKENS, train=True, loss_type="t_DCE")
    optimiser = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=0.0)

    def step() -> None:
        tokens = torch.from_numpy(task.sequences(recipe.batch, settings.length, np.random.default_rng()))
        optimiser.zero_grad()
        loss_fn(model, tokens).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimiser.step()
        average.update(weights)

    return step


def floor(settings: ModelConfig, recipe: TrainingConfig, merged: bool = False) -> Step:
    """The matrix products of the MLP and the unembedding at the masked positions of one batch, nothing else.

    :param merged: at the different questions among them only
    """
    (asked,) = Trainer(settings, recipe, [0]).batches(0)
    rows = len(unique_rows(asked).rows if merged else asked.rows)
    width = settings.width
    shapes = [(width, 4 * width), (4 * width, width), (width, task.CLEAN)]
    work = []
    for inner, outer in shapes:
        x, w, g = torch.randn(rows, inner), torch.randn(inner, outer), torch.randn(rows, outer)
        work += [(x, w, torch.empty(rows, outer)), (g, w.T, torch.empty_like(x)), (x.T, g, torch.empty_like(w))]

    def step() -> None:
        for left, right, out in work:
            torch.mm(left, right, out=out)

    return step


def seconds(step: Step, steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def rounds(contestants: dict[str, Step], count: int, steps: int) -> list[dict[str, float]]:
    """Seconds a step of every contestant in every round; the order turns round by round."""
    for step in contestants.values():
        seconds(step, steps)
    names, found = list(contestants), []
    for turn in range(count):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        found.append({name: seconds(contestants[name], steps) for name in order})
    return found


def ratios_of(times: list[dict[str, float]]) -> dict[str, list[float]]:
    """Every comparison, one ratio a round."""
    pairs = {"radd": ("radd", "ours", 1), "plain": ("plain", "ours", 1), "floor": ("ours", "floor", 1),
             "floor_merged": ("ours", "floor_merged", 1), "seeds": ("four", "ours", 4)}
    return {name: [one[above] / (count * one[below]) for one in times] for name, (above, below, count) in pairs.items()
            if above in times[0]}


def report(name: str, ratios: list[float]) -> None:
    low, *_, high = statistics.quantiles(ratios, n=10)
    print(f"{name} {statistics.median(ratios):.2f} {low:.2f} {high:.2f}", flush=True)


def contestants_of(given: types.SimpleNamespace) -> tuple[dict[str, Step], str]:
    """Everyone who takes part, and why RADD does not (empty if it does)."""
    settings, recipe = ModelConfig(length=given.length, width=given.width), TrainingConfig(batch=given.batch)
    found = {"ours": ours(settings, recipe), "plain": plain(settings, recipe), "floor": floor(settings, recipe),
             "floor_merged": floor(settings, recipe, merged=True), "four": ours(settings, recipe, 4)}
    if given.radd is None:
        return found, "no --radd DIR"
    try:
        found["radd"] = radd(given.radd, settings, recipe)
    except ImportError as error:
        return found, f"{given.radd}: {error}"
    return found, ""


def main() -> None:
    command = argparse.ArgumentParser(prog="python -m benchmarks.one_layer", description=__doc__.split("\n")[0])
    command.add_argument("--radd", type=Path, help="a checkout of RADD")
    for name, default in (("length", 10), ("width", 64), ("batch", 120), ("rounds", 15), ("steps", 10)):
        command.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    command.add_argument("--out", type=Path, help="JSON file to record the ratios in; default none")
    given = command.parse_args()
    run = provenance.Run("cpu")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*autocast.*")
    found, missing = contestants_of(types.SimpleNamespace(**vars(given)))
    ratios = ratios_of(rounds(found, given.rounds, given.steps))
    if missing:
        print(f"radd skipped ({missing})")
    for name, each in ratios.items():
        report(name, each)
    if given.out is not None:
        sizes = {name: getattr(given, name) for name in ("length", "width", "batch", "rounds", "steps")}
        provenance.save(given.out, experiment="speed", parameters=sizes, seeds=[0], curves=ratios, run=run,
                        metrics={name: [statistics.median(each)] for name, each in ratios.items()})


if __name__ == "__main__":
    main()
