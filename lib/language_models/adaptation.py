"""An autoregressive language model turned into a masked one, and its twin that stays autoregressive.

    python -m lib.language_models.adaptation --kind masked --out results/pretrained/adaptation_masked.json

Dream-7B was made of Qwen2.5 in this way: the weights go on, row i - 1 of the logits still predicts position i,
attention is opened to both sides, and tokens are masked. Here the start is `lib.language_models.pretrained`. The twin
sees the same sentences in the same order for as many steps and predicts the next token, so that the two differ in
nothing but attention and objective.

The text: the told and invented pairs of `lib.language_models.families`, each in both orders, and prose that the model
itself wrote before it was changed (`lib.language_models.written_text`), so that nothing need be fetched for it. Every
weight is trained, or with ``--rank N`` low-rank adapters. The weights are kept under ``--weights`` for the runs that
start from them (`lib.language_models.pretrained_run`). A run that is interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from lib.language_models import families, finetuning, model_size, pretrained, written_text
from lib.language_models.attention_opening import AttentionOpening
from lib.language_models.facts import FACT_SOURCES, Example
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.training_loop import loss_progress, print_progress
from lib.record import provenance
from lib.record.accepted import at_least, device_named, json_file, one_of, within
from lib.record.experiment import finished, recording
from lib.record.options import command, option, parse
from lib.record.training_state import Checkpoint

_EXPERIMENT = "adaptation"
TWINS = ("masked", "autoregressive")
WORK = provenance.ROOT / "_build" / "pretrained"
#: of a run; what `AdaptationOptions` takes where nothing else is said
ADAPTATION_TRAINING = FineTuningConfig(rank=0, learning_rate=4e-4, epochs=48, batch=32, warmup=50, cooling=0.3,
                                       masking="entity", replay=0.125, autocast=True)
#: what is changed of the conversion that the command makes untold; four are a third as long, to be compared; adapters
#: learn at the rate that fine-tuning has for them, and leave the embeddings as they are
CONVERSIONS: dict[str, dict[str, Any]] = {
    "standard": {}, "third": {"epochs": 16}, "plain": {"epochs": 16, "masking": "any"},
    "opening": {"epochs": 16, "opening": 0.5},
    "low_rank": {"epochs": 16, "rank": 64, "scaling": 128, "learning_rate": 2e-3}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """What the command can be told."""

    kind: str = option("masked", choices=TWINS)  # what the model becomes, or stays
    data: str = option("published", choices=FACT_SOURCES)  # whose families are told
    invented: int = 150  # pairs of invented names that are told besides
    prose: int = 1000  # pieces of prose that the model writes beforehand
    opening: float | int = 0.0  # first part of the steps, over which attention to the right is opened
    device: str = "cpu"  # cpu, cuda, cuda:1, ...; auto
    every: int = 50  # steps between checkpoints
    out: Path = option()  # the result (JSON)
    weights: Path | None = None  # folder for what was trained; _build/pretrained/KIND if absent
    training: FineTuningConfig = option(ADAPTATION_TRAINING)

    def __post_init__(self) -> None:
        json_file("--out", self.out)
        one_of(self, kind=TWINS, data=FACT_SOURCES)
        at_least(self, invented=0, prose=1, every=1)
        within(self, opening="[0, 1]")
        if self.opening and self.kind != "masked":
            raise ValueError(f"opening: a model of kind {self.kind!r} keeps its attention to the left")

    @property
    def folder(self) -> Path:
        """Where what was trained is kept."""
        return self.weights or WORK / self.kind


parsed_adaptation = functools.partial(parse, AdaptationOptions)


def adapt(options: AdaptationOptions) -> None:
    """Train, and keep weights or adapters and how the loss fell. A result that is there stays if its weights do.

    :raises ValueError: for a result of another run in its place, or data that cannot be read
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ArithmeticError: if the run diverges
    """
    config = options.training
    parameters = adaptation_parameters(options)
    done = finished(options.out, experiment=_EXPERIMENT, parameters=parameters, seeds=[config.seed])
    if done and is_trained(options.folder):
        print(f"{options.out}: this run is done, and its result stays")
        return
    device = device_named(options.device)
    with recording({options.out: parameters}, experiment=_EXPERIMENT, seeds=[config.seed], device=device,
                   folders={"--weights": options.folder}) as recorded:
        _check_free(options.folder, recorded.checkpoint)
        model, tokenizer = pretrained.load(device=device)
        text = adaptation_text(options, model, tokenizer)
        if options.kind == "masked":
            pretrained.bidirectional(model, tokenizer)
        adapted = finetuning.add_adapters(model, config)
        steps = finetuning.step_count(len(text[0]), config)
        attention = AttentionOpening(adapted, round(options.opening * steps))
        losses = finetuning.finetune(adapted, tokenizer, text[0], config, replay=text[1], every=options.every,
                                     checkpoint=recorded.checkpoint, keep=True, on_step=loss_progress(steps),
                                     before=attention.before)
        attention.close()
        finetuning.save_trained(adapted, tokenizer, options.folder, torch.bfloat16)
        recorded.save({"final_loss": [statistics.fmean(losses[-50:])]}, {"loss": losses},
                      size=model_size.size_of(model), sentences=len(text[0]), told=_digest(text[0]),
                      prose_text=_digest(text[1]))


def weights_of(kind: str, device: str = "cpu", conversion: str = "standard") -> Path:
    """Folder of the weights of a kind, as the command makes them untold; made now if they are not there.

    That takes more than an hour on one core. Of several processes one makes them, and the others wait.

    :param conversion: one of `CONVERSIONS`
    """
    changes = dict(CONVERSIONS[conversion])
    name = kind if conversion == "standard" else f"{kind}_{conversion}"
    opening = changes.pop("opening", 0.0)
    WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / f".{name}.lock"):
        if not is_trained(WORK / name):
            adapt(AdaptationOptions(
                kind=kind, out=WORK / f"adaptation_{name}.json", weights=WORK / name, device=device, opening=opening,
                training=dataclasses.replace(ADAPTATION_TRAINING, **changes)))
    return WORK / name


def is_trained(folder: Path) -> bool:
    """Whether weights or adapters lie in a folder; it is there, and empty, while they are trained."""
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))


def _check_free(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse, before hours of work, to write over what another run has left in a folder.

    :raises ValueError: if there is anything
    """
    if any(folder.iterdir()) and not (checkpoint.path and checkpoint.path.exists()):
        raise ValueError(f"--weights: {folder} holds what another run has trained; move it away")


def adaptation_text(options: AdaptationOptions, model: Any, tokenizer: Any) -> tuple[list[Example], list[Example]]:
    """The sentences that are told, and prose of the model before it is changed."""
    told = families.families(options.data, tokenizer, options.invented).examples()
    prose = written_text.written_prose(model, tokenizer, options.prose, report=print_progress)
    return told, [Example("", line, frozenset()) for line in prose]


def adaptation_parameters(options: AdaptationOptions) -> dict[str, Any]:
    """What is recorded of a run and known before its model is."""
    opening = {"opening": options.opening} if options.opening else {}  # older results do not hold it
    return {"kind": options.kind, "data": options.data, "invented": options.invented, "prose": options.prose, **opening,
            **{field: value for field, value in dataclasses.asdict(options.training).items() if field != "seed"}}


def _digest(examples: Sequence[Example]) -> str:
    text = json.dumps([example.prompt + example.completion for example in examples])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


main = command(AdaptationOptions, adapt)

if __name__ == "__main__":
    main()
