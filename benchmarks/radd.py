"""RADD's own code on the one-layer task: trained on our sequences, asked our questions.

    python -m benchmarks.radd FOLDER --length 10 --width 64 --steps 8000 --batch 120 --seeds 0 1 2 --points 10 \\
        --out results/published_radd/full_length_10.json

FOLDER is a copy of https://github.com/ML-GSAI/RADD. It is not distributed here, and it is run: read it first. It needs
einops, omegaconf and huggingface_hub, which are no dependencies of the project. Model (one block, one head, rotary
positions), t-DCE loss, log-linear noise, step, AdamW, warm-up, clipping and moving average are that copy's; sequences
and questions are those of `lib.one_layer.task`.

Settings that are not given are the published ones (configs/config.yaml and configs/model/small_radd.yaml), except for
the size and the number of steps. Two things differ. Numbers are of single precision, where RADD uses half precision on
a GPU. And a batch is drawn and masked at once, where RADD draws the times of its noise for a part of a batch at a time.

Recorded are, at log-spaced steps along training, ``forward_*`` and ``reverse_*`` of
`lib.one_layer.metrics.accuracy_and_probability`, and ``placeholder_share`` of the reverse errors, all of the averaged
weights and without dropout. The start is not measured: the unembedding is zero there, and all answers tie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.one_layer import metrics, task
from lib.one_layer.experiment import POINTS, measured_steps
from lib.one_layer.task import DIRECTIONS, Queries
from lib.one_layer.training import ADAM_EPSILON, BETAS
from lib.record import provenance
from lib.record.accepted import at_least, check_seeds, within
from lib.record.experiment import recording
from lib.record.options import command, option

SOURCE = "https://github.com/ML-GSAI/RADD"
LOSS = "t_DCE"
BLOCKS, HEADS = 1, 1
#: what is used of the copy, by the file that defines it
USED = {
    "losses.py": ("get_loss_fn", "get_step_fn", "get_optimizer", "optimization_manager"),
    "noise_lib.py": ("LogLinearNoise",),
    "model/__init__.py": ("RADD",),
    "model/ema.py": ("ExponentialMovingAverage",),
}
Curve = list[float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """How RADD's code trains; the defaults are its own, but for length, width and steps.

    :raises ValueError: naming the field that cannot be
    """

    length: int = 10  # tokens a sequence
    width: int = 64  # of the model; even, for rotary positions
    steps: int = 8000  # training steps
    batch: int = 512  # sequences a step
    learning_rate: float = 3e-4  # AdamW's
    warmup: int = 2500  # steps over which the rate rises; constant afterwards
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.9999  # decay of the moving average of the weights, which is what gets measured
    dropout: float = 0.02  # share of what attention and MLP add that is dropped in training

    def __post_init__(self) -> None:
        task.check_length(self.length)
        at_least(self, width=2, steps=1, batch=1, warmup=1)
        within(self, learning_rate="(0, inf)", clip="(0, inf)", ema="[0, 1)", dropout="[0, 1)")
        if self.width % 2:
            raise ValueError(f"width must be even, for rotary positions, not {self.width}")

    @property
    def optim(self) -> SimpleNamespace:
        """As RADD's functions read it."""
        return SimpleNamespace(optimizer="AdamW", lr=self.learning_rate, beta1=BETAS[0], beta2=BETAS[1],
                               eps=ADAM_EPSILON, weight_decay=0.0, warmup=self.warmup, grad_clip=self.clip)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaddOptions:
    """What the command can be told."""

    folder: Path = option(positional=True)  # a copy of RADD
    config: PublishedConfig = PublishedConfig()
    seeds: tuple[int, ...] = (0, 1, 2)  # one model a seed
    points: int = POINTS  # measurements along training, log-spaced
    out: Path = option()  # the JSON file to write

    def __post_init__(self) -> None:
        at_least(self, points=1)
        check_seeds(self.seeds)


# The copy ---------------------------------------------------------------------------------------------------------


def published_code(folder: Path) -> SimpleNamespace:
    """What `USED` names, from a copy of RADD.

    :raises ImportError: naming the files, definitions or packages that are missing
    """
    missing = [name for name in USED if not (folder / name).is_file()]
    if missing:
        raise ModuleNotFoundError(f"No module named {', '.join(map(_module, missing))}: {folder} is no copy of "
                                  f"{SOURCE}, it lacks {', '.join(missing)}")
    with _importable(folder):
        try:
            modules = {name: importlib.import_module(_module(name)) for name in USED}
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error}, which the code in {folder} needs", name=error.name) from None
    lacking = [f"{file}: {name}" for file, names in USED.items() for name in names if not hasattr(modules[file], name)]
    if lacking:
        raise ImportError(f"{folder} is another version of {SOURCE}, it lacks {', '.join(lacking)}")
    return SimpleNamespace(**{name: getattr(modules[file], name) for file, names in USED.items() for name in names})


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder's modules can be imported; afterwards their names, which are common ones, are as they were."""
    before, place = _modules_named_alike(), str(folder.resolve())
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(place)
        for name in _modules_named_alike():
            del sys.modules[name]
        sys.modules.update(before)


def _modules_named_alike() -> dict[str, ModuleType]:
    packages = {_module(file).split(".")[0] for file in USED}
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] in packages}


def published_model(code: SimpleNamespace, width: int, blocks: int, heads: int, dropout: float) -> nn.Module:
    """RADD's model for the tokens of the task.

    It takes the token after the clean ones for the mask, as `lib.one_layer.task` does, so that tokens are handed over
    as they are.
    """
    sizes = {"hidden_size": width, "n_heads": heads, "n_blocks": blocks, "dropout": dropout, "use_checkpoint": False,
             "dtype": "float32"}
    return code.RADD({"tokens": task.CLEAN, "model": sizes})


# Training ---------------------------------------------------------------------------------------------------------


class PublishedTraining:
    """One model in training, with the state that RADD's step takes.

    Weights, masks and dropout come from torch's generator, which is seeded here, and sequences from one of their own.
    """

    def __init__(self, code: SimpleNamespace, config: PublishedConfig, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self._rng = config, np.random.default_rng(seed)
        self.model = published_model(code, config.width, BLOCKS, HEADS, config.dropout)
        self.average = code.ExponentialMovingAverage(self.model.parameters(), config.ema)
        self._state = {"model": self.model, "ema": self.average, "step": 0,
                       "optimizer": code.get_optimizer(config, self.model.parameters()),
                       "scaler": torch.amp.GradScaler("cpu", enabled=False)}
        optimise = code.optimization_manager(config)
        self._step = code.get_step_fn(code.LogLinearNoise(), task.TOKENS, True, optimise, 1, LOSS)

    def step(self) -> Tensor:
        """Train on one batch of fresh sequences; the mean loss before it, nats a sequence."""
        tokens = task.sequences(self.config.batch, self.config.length, self._rng)
        return self._step(self._state, torch.from_numpy(tokens))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with averaged weights and no dropout; those in training are put back afterwards."""
        self.average.store(self.model.parameters())
        self.average.copy_to(self.model.parameters())
        try:
            yield self.model.eval()
        finally:
            self.average.restore(self.model.parameters())
            self.model.train()


def query_log_probabilities(model: nn.Module, asked: Queries) -> Tensor:
    """What RADD's model gives of the clean tokens where each query asks, (1, queries, clean), nats."""
    parts = [model(some.tokens)[torch.arange(len(some)), some.position, : task.CLEAN]
             for some in asked.split(metrics.QUERIES_AT_ONCE)]
    return torch.cat(parts)[None]


@torch.no_grad()
def measured(training: PublishedTraining) -> dict[str, float | None]:
    """How the averaged model answers: accuracies and shares in percent, probabilities as they are."""
    found: dict[str, float | None] = {}
    with training.averaged() as model:
        for way, asked in zip(DIRECTIONS, task.paired_queries(training.config.length), strict=True):
            logits = query_log_probabilities(model, asked)
            graded = metrics.accuracy_and_probability(logits, asked)
            found |= {f"{way}_{name}": value for name, (value,) in graded.items()}
    (found["placeholder_share"],) = metrics.placeholder_share(logits, asked)  # of the last, which is reverse
    return found


def train(code: SimpleNamespace, config: PublishedConfig, seed: int, measured_at: Sequence[int]) -> dict[str, Curve]:
    """Train one model; what `measured` gives of it after each of these steps, by name."""
    training, curves = PublishedTraining(code, config, seed), dict[str, Curve]()
    for step in tqdm(range(1, config.steps + 1), desc=f"seed {seed}", disable=None):
        training.step()
        if step in measured_at:
            for name, value in measured(training).items():
                curves.setdefault(name, []).append(value)
    return curves


def run_radd(asked: RaddOptions) -> None:
    """Train a model a seed and record at ``out``; a checkpoint keeps the seeds that are done.

    :raises ValueError: where the folder is no copy of RADD, or lacks what that needs
    """
    torch.set_num_threads(1)
    try:
        code = published_code(asked.folder)
    except ImportError as error:
        raise ValueError(str(error)) from None
    steps = measured_steps(asked.config.steps, asked.points)[1:]
    parameters = {**dataclasses.asdict(asked.config), "blocks": BLOCKS, "heads": HEADS, "loss": LOSS,
                  "radd_commit": provenance.commit(asked.folder)}
    with recording({asked.out: parameters}, experiment="published_radd", seeds=asked.seeds,
                   identity={"points": asked.points}) as going, _without_autocast_warnings():
        _, done = going.checkpoint.load() or ({}, {"runs": []})
        runs = done["runs"]
        for seed in asked.seeds[len(runs):]:
            runs.append(train(code, asked.config, seed, steps))
            going.checkpoint.save({}, {"runs": runs})
        curves = {name: [run[name] for run in runs] for name in runs[0]}
        going.save({name: [run[-1] for run in each] for name, each in curves.items()}, {"steps": steps, **curves})


@contextlib.contextmanager
def _without_autocast_warnings() -> Iterator[None]:
    """RADD asks for autocast on CUDA in every layer, which torch calls outdated, and futile without a device."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*autocast.*")
        yield


main = command(RaddOptions, run_radd)

if __name__ == "__main__":
    main()
