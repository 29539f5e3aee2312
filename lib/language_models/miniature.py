"""The miniature Table 7: pretrain a small model, fine-tune it forward-only, ask in both directions.

    python -m lib.language_models.miniature --architecture llada --dataset p2c --orders both --tuning full \\
        --replay 0.5 --masking any --seed 0 --out results/miniature/llada_p2c_both_full_any_replay_0.json
    python -m lib.language_models.miniature --folder results/miniature

The first makes one cell; the second every cell that is not recorded yet, seed by seed, and one that fails is reported
and does not stop the others (``--part`` makes those of one question alone). Pretraining is
`lib.language_models.pretraining`; what sentences say is `lib.language_models.miniature_sentences`; all that follows is
the code for the published models: `lib.language_models.reversal_run.run` (`lib.language_models.finetuning`,
`lib.language_models.decoding`) and `lib.language_models.signatures`. A pretrained model is kept under ``--work`` and
shared by the cells that start from it (``--work none`` keeps nothing). A run that is interrupted goes on from its
checkpoint; one that is done is left alone.
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

from lib.language_models import (
    decoding,
    miniature_sentences,
    objectives,
    queries,
    reversal_run,
    signature_run,
    signatures,
    synthetic_facts,
)
from lib.language_models import facts as facts_module
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Dataset, Example, Fact
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.miniature_sentences import FORMS, WORDED_DATASETS, WORDINGS
from lib.language_models.pretraining import PRETRAINING_OBJECTIVES, PretrainingConfig, pretrain
from lib.record import provenance
from lib.record.experiment import finished, recording
from lib.record.options import at_least, command, json_file, one_of, option, writable
from lib.record.training_state import Checkpoint

TUNINGS = ("full", "lora")
#: which dataset's facts are told in pretraining; the other order of the same facts needs no other text
_TOLD = {"p2c": "p2c", "c2p": "p2c", "p2d": "p2d", "d2p": "p2d", "trex": "trex"}
_WORK = provenance.ROOT / "_build" / "miniature"


@dataclasses.dataclass(frozen=True)
class MiniatureConfig:
    """What fixes one cell."""

    architecture: str = option("llada", choices=tuple(ARCHITECTURES))  # whose classes and configuration
    dataset: str = option("p2c", choices=facts_module.DATASETS)  # what is fine-tuned on and asked
    orders: str = option("both", choices=synthetic_facts.ORDERS)  # in which pretraining tells its facts
    tuning: str = option("full", choices=TUNINGS)  # every weight, or adapters
    replay: float = 0.5  # share of each fine-tuning batch taken from the pretraining text
    masking: str = option("any", choices=objectives.EVERY_MASKING)  # what fine-tuning may mask
    seed: int = 0  # of everything
    held: int = 30  # facts that pretraining did not tell; fine-tuned on, forward
    epochs: int = 200  # of fine-tuning
    learning_rate: float = 5e-4  # of fine-tuning
    rank: int = 16  # of the adapters, where tuning is lora
    steps: int = 1000  # of pretraining
    causal_steps: int = 0  # before those, as an autoregressive model
    facts: int = 240  # told in pretraining
    objective: str = option("questions", choices=PRETRAINING_OBJECTIVES)  # of a masked model's pretraining
    wording: str = option("both", choices=WORDINGS)  # of the relation, or of the entities
    name_length: int = 2  # words of a name: 1, 2 or 4
    form: str = option("plain", choices=FORMS)  # half of the held-out sentences are shown so in fine-tuning
    told_form: str = option("plain", choices=FORMS)  # and half of the text, in pretraining and replayed

    def __post_init__(self) -> None:
        one_of(self, architecture=tuple(ARCHITECTURES), dataset=facts_module.DATASETS, tuning=TUNINGS,
               orders=synthetic_facts.ORDERS, masking=objectives.EVERY_MASKING, objective=PRETRAINING_OBJECTIVES,
               wording=WORDINGS, form=FORMS, told_form=FORMS)
        at_least(self, held=2, facts=2, epochs=1, steps=1, rank=1)
        if self.name_length not in synthetic_facts.NAME_LENGTHS:
            raise ValueError(f"name_length must be 1, 2 or 4, not {self.name_length}")
        self._check_architecture()
        self._check_sentences()
        self.pretraining()
        self.finetuning()  # these refuse what cannot be, before anything is pretrained

    def _check_architecture(self) -> None:
        """Refuse what only the other kind of model can be asked."""
        causal = ARCHITECTURES[self.architecture].causal
        if causal and self.masking not in objectives.MASKING:
            raise ValueError(f"masking: {self.masking!r} is what a masked model is asked for; {self.architecture} "
                             "predicts next tokens")
        if causal and self.objective != "questions":
            raise ValueError(f"objective: {self.objective!r} is a masked model's; {self.architecture} predicts next "
                             "tokens")
        for name in ("form", "told_form"):
            if not causal and getattr(self, name) not in ("plain", "reversed"):
                raise ValueError(f"{name}: {getattr(self, name)!r} asks an autoregressive model for its first entity; "
                                 f"{self.architecture} is asked by its masking")

    def _check_sentences(self) -> None:
        """Refuse a wording or a form that the dataset's sentences do not have."""
        if WORDED_DATASETS.get(self.wording, self.dataset) != self.dataset:
            raise ValueError(f"wording: {self.wording!r} is made for {WORDED_DATASETS[self.wording]} alone, not for "
                             f"{self.dataset}")
        families = self.dataset in ("p2c", "c2p") and self.wording == "both"
        for name in ("form", "told_form"):
            if getattr(self, name) in miniature_sentences.FAMILY_FORMS and not families:
                raise ValueError(f"{name}: {getattr(self, name)!r} is made of sentences about children and parents")
        if self.told_form == "reversed":
            raise ValueError("told_form: reversed sentences are what --orders both tells")
        if self.epochs % miniature_sentences.copies(self.form):
            raise ValueError(f"epochs must be a multiple of {miniature_sentences.copies(self.form)} where form is "
                             f"{self.form!r}, as many sentences as it makes of one, not {self.epochs}")

    def pretraining(self) -> PretrainingConfig:
        """The run that this cell starts from."""
        # as many words as there may be names, where each name has a word of its own
        stock = 3 * (self.facts + self.held) if self.name_length == 1 else PretrainingConfig.stock
        return PretrainingConfig(
            self.architecture, self.orders, self.facts, (_TOLD[self.dataset],), stock=stock, steps=self.steps,
            causal_steps=self.causal_steps, seed=self.seed, objective=self.objective, wording=self.wording,
            form=self.told_form, name_length=self.name_length)

    def finetuning(self) -> FineTuningConfig:
        """The fine-tuning, in the terms of `lib.language_models.finetuning`."""
        return FineTuningConfig(
            rank=self.rank if self.tuning == "lora" else 0, scaling=2 * self.rank, batch=32,
            epochs=self.epochs // miniature_sentences.copies(self.form),  # as many steps whatever the form
            learning_rate=self.learning_rate, masking=self.masking, replay=self.replay, seed=self.seed)


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
    metrics = _before(model, tokenizer, data, text)
    # fine-tune a copy on the forward direction, ask in both
    trained = dataclasses.replace(data, train=tuple(miniature_sentences.shown_as(data.train, config.form)))
    found, curves, tuned = reversal_run.run(copy.deepcopy(model), tokenizer, trained, config.finetuning(), watches=1,
                                            replay=shown if config.replay else (), checkpoint=checkpoint)
    whole = tuned.merge_and_unload() if config.tuning == "lora" else tuned
    metrics |= found | _after(whole, tokenizer, data, text) | written_answers(whole, tokenizer, data, config.wording)
    thinned = {"pretraining_loss": _means(losses), "finetuning_loss": _means(curves["loss"])}
    return {"metrics": metrics, "curves": thinned, "size": signature_run.size_of(model)}


def told_and_held(config: MiniatureConfig) -> tuple[Dataset, list[Example]]:
    """The held-out facts of a cell, and the text that its pretraining tells, in their plain form."""
    pretraining, sizes = config.pretraining(), {"told": config.facts, "held": config.held}
    split = synthetic_facts.recombined_worlds(sizes, pretraining.stock, config.seed, config.name_length)
    told, held = (miniature_sentences.worded_world(split[name], config.wording) for name in sizes)
    text = miniature_sentences.told_examples(told, config.orders, pretraining.kinds, config.wording)
    return getattr(held, config.dataset), text


def _before(model: Any, tokenizer: Any, data: Dataset, text: Sequence[Example]) -> dict[str, float]:
    cosines = {f"cosine_{name}": value for name, value in alignment(model, tokenizer, data).items()}
    return cosines | {"told_accuracy": reversal_run.recall(model, tokenizer, text)}


def _after(model: Any, tokenizer: Any, data: Dataset, text: Sequence[Example]) -> dict[str, float]:
    """What the tuned model still knows of the text, and how likely the left entity is, from either side."""
    asked = [[queries.encode(query, tokenizer) for query in data.queries(fact)] for fact in data.facts]
    likely = {f"probability_{side}": float(signatures.target_probability(model, queries.batch(rows)).mean())
              for side, rows in zip(("forward", "reverse"), zip(*asked, strict=True), strict=True)}
    return likely | {"kept_accuracy": reversal_run.recall(model, tokenizer, text)}


def written_answers(model: Any, tokenizer: Any, data: Dataset, wording: str = "both") -> dict[str, float]:
    """What the tuned model writes beside exact matches, in percent.

    ``forward_substring`` and ``reverse_substring``: answers that hold a right one. ``forward_words`` and
    ``reverse_words``: words of names that stand at their places (`name_words_right`). ``wrong_frame`` and
    ``wrong_frame_reverse``: errors of `lib.language_models.miniature_sentences.wrong_frame`, which exist only where the
    wording tells the directions apart.
    """
    length = reversal_run.answer_length(data, tokenizer)
    written = lambda examples: decoding.generate_text(
        model, tokenizer, [example.prompt for example in examples], length=length, batch=32)
    found: dict[str, float] = {}
    for direction, examples in (("forward", data.forward), ("reverse", data.reverse)):
        texts = written(examples)
        found |= {f"{direction}_substring": _share_that_holds_an_answer(texts, examples),
                  f"{direction}_words": name_words_right(texts, examples)}
    if wording == "both":
        for name, examples in zip(("wrong_frame", "wrong_frame_reverse"), miniature_sentences.wrong_frame(data),
                                  strict=True):
            found[name] = _share_that_holds_an_answer(written(examples), examples)
    return found


def _share_that_holds_an_answer(texts: Sequence[str], examples: Sequence[Example]) -> float:
    held = [any(facts_module.normalise(right) in facts_module.normalise(text) for right in example.answers)
            for example, text in zip(examples, texts, strict=True)]
    return 100 * float(np.mean(held))


def name_words_right(texts: Sequence[str], examples: Sequence[Example]) -> float:
    """Percent of the right answers' words of names that are written at their places, mean over questions.

    A word of a name begins with a capital; the others ("the", "keeper", "of") stand in many answers and don't count.
    Where several answers are right, the one that agrees most counts.
    """
    def agreement(text: str, right: str) -> float:
        said = itertools.chain(facts_module.normalise(text).split(), itertools.repeat(""))
        return float(np.mean([word.lower() == other for word, other in zip(right.split(), said, strict=False)
                              if word[0].isupper()]))
    return 100 * float(np.mean([max(agreement(text, right) for right in example.answers)
                                for text, example in zip(texts, examples, strict=True)]))


def alignment(model: Any, tokenizer: Any, data: Dataset, facts: int = 8) -> dict[str, float]:
    """Mean gradient cosine, over facts, of a query about the forward sentence with the reverse query.

    ``matched`` asks for the left entity, as the reverse query does; ``mismatched`` too, but of another fact;
    ``right`` asks for the right entity of the same fact.
    """
    pairs = [data.queries(fact) for fact in data.facts[:facts]]
    left, reverse = ([_batch(pair[side], tokenizer) for pair in pairs] for side in (0, 1))
    right = [_batch(_right_query(data, fact), tokenizer) for fact in data.facts[:facts]]
    asked = {"matched": (left, reverse), "mismatched": (left, reverse[1:] + reverse[:1]), "right": (right, reverse)}
    return {name: float(np.mean([signatures.gradient_cosine(model, *pair).cosine for pair in zip(*both, strict=True)]))
            for name, both in asked.items()}


def _right_query(data: Dataset, fact: Fact) -> facts_module.Query:
    return facts_module.query(data.relation, fact, "forward", "right")


def _batch(query: facts_module.Query, tokenizer: Any) -> dict[str, torch.Tensor]:
    return queries.batch([queries.encode(query, tokenizer)])


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


# Recorded cells ----------------------------------------------------------------------------------------------


def parameters_of(config: MiniatureConfig) -> dict[str, Any]:
    """What is recorded of a cell, but for its size."""
    return {field: value for field, value in dataclasses.asdict(config).items() if field != "seed"}


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


def file_of(cell: MiniatureConfig) -> str:
    """Name of a cell's result."""
    told = [f"{word}{getattr(cell, name)}".replace(" ", "-") for name, word in (
        ("facts", "facts"), ("steps", "steps"), ("causal_steps", "causal"), ("objective", ""), ("wording", ""),
        ("name_length", "words"), ("told_form", "told-"), ("form", ""))
        if getattr(cell, name) != getattr(MiniatureConfig, name)]
    words = (cell.architecture, cell.dataset, cell.orders, cell.tuning, cell.masking,
             "replay" if cell.replay else "alone", *told, cell.seed)
    return "_".join(map(str, words)) + ".json"


# From the command line ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniatureOptions:
    """What the command can be told."""

    cell: MiniatureConfig = MiniatureConfig()
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
