"""What fixes one cell of the miniature, what its pretraining tells, and under which name it is recorded."""

from __future__ import annotations

import dataclasses
from typing import Any

from lib.language_models import facts as facts_module
from lib.language_models import miniature_sentences, objectives, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Dataset, Example
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.miniature_sentences import FORMS, WORDED_DATASETS, WORDINGS
from lib.language_models.pretraining import PRETRAINING_OBJECTIVES, PretrainingConfig
from lib.record.accepted import at_least, one_of
from lib.record.options import option

TUNINGS = ("full", "lora")
#: which dataset's facts are told in pretraining; the other order of the same facts needs no other text
_TOLD = {"p2c": "p2c", "c2p": "p2c", "p2d": "p2d", "d2p": "p2d", "trex": "trex"}


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


def told_and_held(config: MiniatureConfig) -> tuple[Dataset, list[Example]]:
    """The held-out facts of a cell, and the text that its pretraining tells, in their plain form."""
    pretraining, sizes = config.pretraining(), {"told": config.facts, "held": config.held}
    split = synthetic_facts.recombined_worlds(sizes, pretraining.stock, config.seed, config.name_length)
    told, held = (miniature_sentences.worded_world(split[name], config.wording) for name in sizes)
    text = miniature_sentences.told_examples(told, config.orders, pretraining.kinds, config.wording)
    return getattr(held, config.dataset), text


def parameters_of(config: MiniatureConfig) -> dict[str, Any]:
    """What is recorded of a cell, but for its size."""
    return {field: value for field, value in dataclasses.asdict(config).items() if field != "seed"}


def file_of(cell: MiniatureConfig) -> str:
    """Name of a cell's result."""
    told = [f"{word}{getattr(cell, name)}".replace(" ", "-") for name, word in (
        ("facts", "facts"), ("steps", "steps"), ("causal_steps", "causal"), ("objective", ""), ("wording", ""),
        ("name_length", "words"), ("told_form", "told-"), ("form", ""))
        if getattr(cell, name) != getattr(MiniatureConfig, name)]
    words = (cell.architecture, cell.dataset, cell.orders, cell.tuning, cell.masking,
             "replay" if cell.replay else "alone", *told, cell.seed)
    return "_".join(map(str, words)) + ".json"
