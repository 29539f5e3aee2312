"""The miniature Table 7: pretrain a small model, fine-tune it forward-only, ask in both directions.

    python -m lib.language_models.miniature --architecture llada --dataset p2c --orders both --tuning full \\
        --replay 0.5 --masking any --seed 0 --out results/miniature/llada_p2c_both_full_any_replay_0.json
    python -m lib.language_models.miniature --folder results/miniature

The first makes one cell; the second every cell that is not recorded yet, seed by seed, and one that fails is reported
and does not stop the others (``--part`` makes those of one question alone). What fixes a cell is in
`lib.language_models.miniature_cell`, what its sentences say in `lib.language_models.miniature_sentences`, what is
measured in `lib.language_models.miniature_measures`. Pretraining is `lib.language_models.pretraining`; fine-tuning and
answers are those of the published models, `lib.language_models.reversal_run.run`. A pretrained model is kept under
``--work`` and shared by the cells that start from it (``--work none`` keeps nothing). A run that is interrupted goes on
from its checkpoint; one that is done is left alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.language_models import facts as facts_module
from lib.language_models import miniature_sentences, model_size, objectives, reversal_run, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.miniature_cell import MiniatureConfig, file_of, parameters_of, told_and_held
from lib.language_models.miniature_measures import answers_in_form, measured_after, measured_before, written_answers
from lib.language_models.miniature_sentences import WORDED_DATASETS
from lib.language_models.pretraining import PretrainingConfig, pretrain
from lib.record import provenance
from lib.record.accepted import at_least, json_file, one_of, writable
from lib.record.experiment import finished, recording
from lib.record.options import command, option
from lib.record.training_state import Checkpoint

_WORK = provenance.ROOT / "_build" / "miniature"


def run_cell(
    config: MiniatureConfig, work: Path = _WORK, *, checkpoint: Checkpoint | None = None, log: bool = False
) -> dict[str, Any]:
    """Pretrain, probe, fine-tune and evaluate; metrics, curves and the size of the model.

    :param work: where pretrained models are kept
    :param checkpoint: of the fine-tuning
    :param log: report the pretraining on stderr
    :raises ArithmeticError: if a run diverges
    """
    pretraining = config.pretraining()
    data, text = told_and_held(config)
    shown = miniature_sentences.shown_as(text, config.told_form)
    tokenizer = synthetic_facts.word_tokenizer(not ARCHITECTURES[config.architecture].causal, pretraining.stock)
    # pretrain, or take the model that another cell has pretrained
    kept = Checkpoint(work / f"{_digest(pretraining)}.safetensors", {})
    model, losses = pretrain(pretraining, shown, tokenizer, checkpoint=kept,
                             on_step=_progress("pretraining", pretraining.causal_steps + config.steps) if log else None)
    metrics = measured_before(model, tokenizer, data, text)
    # fine-tune a copy on the forward direction, ask in both
    trained = dataclasses.replace(data, train=tuple(miniature_sentences.shown_as(data.train, config.form)))
    found, curves, tuned = reversal_run.run(copy.deepcopy(model), tokenizer, trained, config.finetuning(), watches=1,
                                            replay=shown if config.replay else (), checkpoint=checkpoint)
    whole = tuned.merge_and_unload() if config.tuning == "lora" else tuned
    metrics |= found | measured_after(whole, tokenizer, data, text)
    metrics |= written_answers(whole, tokenizer, data, config.wording)
    metrics |= answers_in_form(whole, tokenizer, data, config.form)
    thinned = {"pretraining_loss": _means(losses), "finetuning_loss": _means(curves["loss"])}
    return {"metrics": metrics, "curves": thinned, "size": model_size.size_of(model)}


def _means(losses: Sequence[float], points: int = 20) -> list[float]:
    """A curve of at most so many points, each the mean of the steps since the last."""
    return [float(part.mean()) for part in np.array_split(np.array(losses), min(points, len(losses)))]


def _digest(config: PretrainingConfig) -> str:
    content = json.dumps(dataclasses.asdict(config), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{config.architecture}_{config.orders}_{config.seed}_{digest}"


def _progress(what: str, total: int) -> Any:
    def show(step: int, loss: float) -> None:
        if (step + 1) % max(1, total // 5) == 0:
            print(f"{what}: step {step + 1} of {total}, loss {loss:.2f}", file=sys.stderr, flush=True)
    return show


# The table ---------------------------------------------------------------------------------------------------

#: what is changed of the standard cell, one thing at a time
CONDITIONS: dict[str, dict[str, Any]] = {
    "standard": {},
    "response": {"masking": "response"},
    "no replay": {"replay": 0.0},
    "adapters": {"tuning": "lora", "learning_rate": 2e-3},
    "one order": {"orders": "one"},
    # as many sentences as both orders make, and each fact told as often
    "one order, twice the facts": {
        "orders": "one", "facts": 2 * MiniatureConfig.facts, "steps": 2 * MiniatureConfig.steps},
}
#: LLaDA and Llama under these
CHANGES: tuple[dict[str, Any], ...] = (
    *CONDITIONS.values(),
    *({**one, **two} for one, two in itertools.combinations(
        (CONDITIONS[name] for name in ("adapters", "no replay", "response")), 2)),
    {**CONDITIONS["adapters"], **CONDITIONS["no replay"], **CONDITIONS["response"]},
    {**CONDITIONS["one order"], **CONDITIONS["response"]},
)
MASKED_STEPS, CAUSAL_STEPS = (100, 300, 1000), 1000
#: Dream by masked steps: begun as an autoregressive model, as the published one was; without that; as long in all
STARTS: dict[int, dict[str, dict[str, Any]]] = {steps: {
    "autoregressive first": {"causal_steps": CAUSAL_STEPS, "steps": steps},
    "as many masked steps": {"steps": steps},
    "as many steps in all": {"steps": CAUSAL_STEPS + steps},
} for steps in MASKED_STEPS}

# What else is asked, question by question; each cell changes the standard one -----------------------------------

#: how an autoregressive model is asked for the first entity -> what is changed in fine-tuning
ASKING: dict[str, dict[str, Any]] = {
    **{form: {"form": form} for form in ("infilled", "permuted")},
    "masked": {"form": "masked", "masking": "response"},
    **{form: {"form": form} for form in ("identity", "composed", "reversed")},
}
#: and the same in pretraining, and where its text is replayed; both orders are told there already
ASKING_THROUGHOUT = {form: {**change, "told_form": form} for form, change in ASKING.items() if form != "reversed"}
LONGER_DIFFUSION = (1000, 3000, 10_000)  # steps of the plain objective
LENGTH_MASKING = ("any", "any@0.15", "any@0.5", "entity")
#: question -> its cells
MINIATURE_PARTS: dict[str, tuple[dict[str, Any], ...]] = {
    "first_entity": tuple({"architecture": "llama", **change}
                          for change in (*ASKING_THROUGHOUT.values(), *ASKING.values())),
    "sweep": tuple({"masking": masking} for masking in objectives.PART_MASKING),
    "wording": tuple({"architecture": name, "wording": wording} for wording, dataset in WORDED_DATASETS.items()
                     if dataset == MiniatureConfig.dataset for name in ("llada", "llama")),
    "answer_length": tuple({"dataset": dataset, "wording": wording} for wording, dataset in WORDED_DATASETS.items()
                           if dataset == "p2d"),
    "length": tuple({"name_length": length, "masking": masking} for length in synthetic_facts.NAME_LENGTHS
                    for masking in LENGTH_MASKING
                    if (length, masking) != (MiniatureConfig.name_length, MiniatureConfig.masking)),
    "objective": tuple({"objective": "diffusion", "steps": steps} for steps in LONGER_DIFFUSION),
}


def plan(seeds: int = 5, part: str = "all") -> Iterator[MiniatureConfig]:
    """The cells, seed by seed, those that most depends on first; none twice.

    :param part: ``standard``, or one of `MINIATURE_PARTS`, for the cells of that question alone
    """
    for seed in range(seeds):
        if part in ("all", "standard"):
            yield from _standard_plan(seed)
        yield from (MiniatureConfig(seed=seed, **change) for name, changes in MINIATURE_PARTS.items()
                    if part in ("all", name) for change in changes)


def _standard_plan(seed: int) -> Iterator[MiniatureConfig]:
    """The cells of one seed that the table of the paper asks for, and what is changed of it."""
    yield from (MiniatureConfig(name, seed=seed) for name in ARCHITECTURES)
    yield from (MiniatureConfig(name, seed=seed, **change) for change in CHANGES if change
                for name in ("llada", "llama"))
    yield from (MiniatureConfig(name, dataset=dataset, seed=seed) for dataset in facts_module.DATASETS
                if dataset != MiniatureConfig.dataset for name in ARCHITECTURES)
    yield from (MiniatureConfig("dream", seed=seed, **start) for starts in STARTS.values()
                for start in starts.values() if start != {"steps": MiniatureConfig.steps})


# From the command line ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniatureOptions:
    """What the command can be told."""

    cell: MiniatureConfig = option(MiniatureConfig())
    out: Path = Path()  # the result of one cell (JSON)
    folder: Path | None = None  # instead of --out: of the results of every cell
    seeds: int = 5  # of every cell, with --folder
    part: str = option("all", choices=("all", "standard", *MINIATURE_PARTS))  # with --folder: the cells of one question
    work: Path = _WORK  # folder of pretrained models and checkpoints; none to keep nothing

    def __post_init__(self) -> None:
        if (self.out == Path()) == (self.folder is None):
            raise ValueError("--out names the result of one cell, --folder those of all of them: give one of the two")
        if self.folder is None:
            json_file("--out", self.out)
        at_least(self, seeds=1)
        one_of(self, part=("all", "standard", *MINIATURE_PARTS))
        if self.folder is None and self.part != "all":
            raise ValueError(f"--part {self.part} is of the cells that --folder makes")
        if self.folder is not None and self.cell != MiniatureConfig():
            raise ValueError("--folder makes every cell, so no setting of one cell goes with it")


def record(config: MiniatureConfig, out: Path, work: Path = _WORK) -> dict[str, Any]:
    """The result of a cell, read from ``out`` if it is there, else made and written to it.

    :raises ValueError: if ``out`` holds the result of another cell
    """
    parameters, defaults = parameters_of(config), parameters_of(MiniatureConfig())  # a result may be older than a field
    there = finished(out, experiment="miniature", parameters=parameters, seeds=[config.seed], defaults=defaults)
    if there is not None:
        return there
    with recording({out: parameters}, experiment="miniature", seeds=[config.seed],
                   checkpoint=work / f"{out.stem}.tuning.safetensors") as recorded:
        found = run_cell(config, work, checkpoint=recorded.checkpoint, log=True)
        metrics = found["metrics"]
        result = recorded.save({name: [value] for name, value in metrics.items()}, found["curves"], size=found["size"])
    shown = "forward_accuracy", "reverse_accuracy", "cosine_matched", "cosine_mismatched"
    print(out.stem, *(f"{name} {metrics[name]:.2f}" for name in shown), flush=True)
    return result


def record_table(folder: Path, seeds: int, work: Path = _WORK, part: str = "all") -> None:
    """Record every cell that is not recorded yet; one that fails does not stop the others.

    :param part: as in `plan`

    :raises ArithmeticError: at the end, if any failed
    """
    failed = []
    for config in plan(seeds, part):
        try:
            record(config, folder / file_of(config), work)
        except Exception:
            failed.append(file_of(config))
            print(f"{failed[-1]} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    if failed:
        raise ArithmeticError(f"{len(failed)} cells failed, {failed[0]} the first of them")


def record_asked(options: MiniatureOptions) -> None:
    """Run one cell or all of them; where work is kept, a result that is there already stays.

    :raises ValueError: for a folder that cannot be written to, or the result of another cell
    """
    with contextlib.ExitStack() as stack:
        kept = options.work != Path("none")
        work = options.work if kept else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.folder:
            record_table(options.folder, options.seeds, work, options.part)
        elif kept:
            record(options.cell, options.out, work)
        else:  # nothing is kept, so a result that an earlier call wrote is made anew
            writable("--out", options.out.parent)
            if options.out.exists():
                provenance.load(options.out)  # and nothing else is written over
            record(options.cell, work / options.out.name, work)
            provenance.write_json(options.out, provenance.load(work / options.out.name))


main = command(MiniatureOptions, record_asked)

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
