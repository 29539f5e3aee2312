"""The models whose facts are edited, and the questions about them.

Where the answer is known by construction: one attention layer without MLP or norm (its logits are a sum of one column
of W for each token, so both questions with the same evidence read one column), and the same layer as a causal model
told both orders (each direction has evidence, and so a column, of its own). Where it is not: one layer with MLP,
learned positions, which enter the values, the miniatures and the adapted SmolLM2.

One-layer models learn forward-only without loss on placeholders right of a visible capital, so that they recall in
reverse (`lib.one_layer.interventions`); what is trained is kept in the work folder, whole or half done.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lib.language_models import facts as facts_module
from lib.language_models import families, finetuning, pretrained, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Dataset
from lib.language_models.miniature import MiniatureConfig
from lib.language_models.pretrained_run import RUN_TRAINING
from lib.language_models.pretraining import pretrain
from lib.language_models.training_loop import loss_progress
from lib.one_layer import metrics
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig, train_ensemble
from lib.record.training_state import Checkpoint
from lib.stores.one_layer_questions import letter_questions
from lib.stores.sentence_questions import fact_questions
from lib.stores.transfer import FactQuestions

Subject = tuple[Any, list[FactQuestions]]  # a model and the questions about its facts


@dataclasses.dataclass(frozen=True)
class OneLayerSubject:
    """A one-layer model and its 26 letters."""

    model: ModelConfig
    training: TrainingConfig
    edits: str = "all"  # which weights may change then, of `editing.EDITED_PARTS`

    def prepare(self, seed: int, work: Path, name: str) -> Subject:
        """Train, or take what is trained already.

        :raises lib.record.training_state.CheckpointError: for a checkpoint of other settings
        """
        kept = Checkpoint(work / f"{name}_{seed}.safetensors", {
            "seed": seed, "model": dataclasses.asdict(self.model), "training": dataclasses.asdict(self.training)})
        trainer = Trainer(self.model, self.training, [seed])
        curves = train_ensemble(trainer, kept, [self.training.steps], measure=metrics.query_answers)
        kept.save(trainer.tensors(), {"step": trainer.steps_taken, "curves": curves})
        model = trainer.averaged().member(0).double()  # what is nearly certain has a gradient still
        return model, letter_questions(model)


@dataclasses.dataclass(frozen=True)
class MiniatureSubject:
    """A miniature after its fine-tuning; facts that it learned forward only (held out), or was told in both orders."""

    cell: MiniatureConfig
    told: bool = False  # which of the two
    count: int = 30  # facts asked about
    edits: str = "all"

    def prepare(self, seed: int, work: Path, name: str) -> Subject:
        """Pretrain and fine-tune, or take what is trained already; ``name`` is not needed to find it again.

        :raises lib.record.training_state.CheckpointError: for a checkpoint of other settings
        :raises ArithmeticError: if a run diverges
        """
        cell = dataclasses.replace(self.cell, seed=seed)
        pretraining, tuning = cell.pretraining(), cell.finetuning()
        worlds = synthetic_facts.recombined_worlds({"told": cell.facts, "held": cell.held}, pretraining.stock, seed)
        text = synthetic_facts.pretraining_examples(worlds["told"], cell.orders, pretraining.kinds)
        tokenizer = synthetic_facts.word_tokenizer(not ARCHITECTURES[cell.architecture].causal, pretraining.stock)
        place = lambda part: Checkpoint(work / f"{cell.architecture}_{seed}_{part}.safetensors", {})
        model, _ = pretrain(pretraining, text, tokenizer, checkpoint=place("pretrained"))
        data = getattr(worlds["held"], cell.dataset)
        tuned = finetuning.add_adapters(model, tuning)
        finetuning.finetune(tuned, tokenizer, data.train, tuning, replay=text, checkpoint=place("tuned"), keep=True)
        asked = getattr(worlds["told"], cell.dataset) if self.told else data
        return tuned, fact_questions(_first(asked, self.count), tokenizer)


@dataclasses.dataclass(frozen=True)
class PretrainedSubject:
    """SmolLM2 as the recorded masked model, fine-tuned forward only as in `lib.language_models.pretrained_run`."""

    dataset: str = "p2c"
    invented: int = 150
    edits: str = "all"

    def prepare(self, seed: int, work: Path, name: str) -> Subject:
        """Fine-tune the adapted model on the facts of a seed; go on from what is done already, under any ``name``.

        :raises ArithmeticError: if a run diverges
        """
        model, tokenizer = pretrained.load("masked")
        known = families.families("published", tokenizer, self.invented)
        data, config = known.asked(self.dataset, seed), dataclasses.replace(RUN_TRAINING, seed=seed)
        adapted = finetuning.add_adapters(model, config)
        finetuning.finetune(adapted, tokenizer, data.train, config, replay=known.examples(), keep=True,
                            checkpoint=Checkpoint(work / f"smollm2_{self.dataset}_{seed}.safetensors", {}),
                            on_step=loss_progress(finetuning.step_count(len(data.train), config)))
        return adapted.merge_and_unload(), fact_questions(data, tokenizer)


def _first(data: Dataset, count: int) -> Dataset:
    """The dataset of some of the facts."""
    return facts_module.dataset(data.name, data.relation, data.facts[:count])


_FORWARD_ONLY: dict[str, Any] = {"intervention": "drop_right_of_capital"}
_BOTH_ORDERS: dict[str, Any] = {"reversed_share": 0.5}
_BARE = ModelConfig(mlp=False, norm=False)  # logits = W sum_j alpha_ij e_(x_j)
_FAST: dict[str, Any] = {"learning_rate": 0.01, "steps": 1500}  # without MLP
_MLP: dict[str, Any] = {"steps": 1000}
#: whose facts are edited
SUBJECTS: dict[str, OneLayerSubject | MiniatureSubject | PretrainedSubject] = {
    "attention": OneLayerSubject(_BARE, TrainingConfig(**_FORWARD_ONLY, **_FAST)),
    "attention_both": OneLayerSubject(_BARE, TrainingConfig(**_BOTH_ORDERS, **_FAST)),
    "causal_both": OneLayerSubject(dataclasses.replace(_BARE, causal=True),
                                   TrainingConfig(objective="autoregressive", **_BOTH_ORDERS, **_FAST)),
    "mlp": OneLayerSubject(ModelConfig(), TrainingConfig(**_FORWARD_ONLY, **_MLP)),
    "mlp_both": OneLayerSubject(ModelConfig(), TrainingConfig(**_BOTH_ORDERS, **_MLP)),
    "learned": OneLayerSubject(ModelConfig(encoding="learned"), TrainingConfig(**_FORWARD_ONLY, **_MLP)),
    "learned_both": OneLayerSubject(ModelConfig(encoding="learned"), TrainingConfig(**_BOTH_ORDERS, **_MLP)),
    "llada": MiniatureSubject(MiniatureConfig("llada")),
    "dream": MiniatureSubject(MiniatureConfig("dream")),
    "llada_told": MiniatureSubject(MiniatureConfig("llada"), told=True),
    "dream_told": MiniatureSubject(MiniatureConfig("dream"), told=True),
    "llama_told": MiniatureSubject(MiniatureConfig("llama"), told=True),
    "qwen2_told": MiniatureSubject(MiniatureConfig("qwen2"), told=True),
    "smollm2": PretrainedSubject(),
    "smollm2_short_steps": PretrainedSubject(),  # the same models, edited in steps that leave other facts as they are
    # the same models, of whose weights an edit may change a part alone
    "mlp_edit_layers": OneLayerSubject(ModelConfig(), TrainingConfig(**_FORWARD_ONLY, **_MLP), edits="layers"),
    "mlp_edit_mlp": OneLayerSubject(ModelConfig(), TrainingConfig(**_FORWARD_ONLY, **_MLP), edits="mlp"),
    "llada_edit_layers": MiniatureSubject(MiniatureConfig("llada"), edits="layers"),
    "llada_edit_mlp": MiniatureSubject(MiniatureConfig("llada"), edits="mlp"),
    "smollm2_edit_layers": PretrainedSubject(edits="layers"),
    "smollm2_edit_mlp": PretrainedSubject(edits="mlp"),
}
