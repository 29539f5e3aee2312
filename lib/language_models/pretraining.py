"""Pretraining of a small model of one architecture on a world told to it (`lib.language_models.synthetic_facts`).

The classes, and the configuration fields but for size, are those of the published models
(`lib.language_models.architectures`); weights start as those classes start them. Every model of one seed sees the same
sentences in the same order, for as many steps, at the same width.

Causal models predict the next token. Masked models of this size stay at chance for long under the plain objective
(t uniform, weight 1/t), so masking is drawn by question: in half the rows the second entity is asked for, with or
without what follows it; in a quarter the first entity; in a quarter a uniformly drawn number of tokens anywhere. The
cross-entropy is averaged over the tokens asked for in each row, which is weight 1/count. ``objective`` chooses
the plain objective instead, to see what it does by itself.

A masked model may begin as an autoregressive one, as Dream began: ``causal_steps`` of next-token training under a
causal mask come first, with a learning-rate schedule of their own; AdamW's moments go on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.language_models import checkpoint_checks, miniature_sentences, objectives, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Example
from lib.language_models.objectives import TokenisedExample
from lib.language_models.random_checkpoints import Size, config_fields
from lib.language_models.training_loop import Pass, TrainingRun, train
from lib.record import accepted
from lib.record.training_state import Checkpoint

PRETRAINING_OBJECTIVES = ("questions", "diffusion")
_COOLING = 0.3  # last part of the steps, over which the learning rate falls


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """What fixes a pretraining run."""

    architecture: str = "llada"
    orders: str = "both"
    facts: int = 240  # families, and as many descriptions and capitals
    kinds: tuple[str, ...] = ("p2c",)  # datasets whose facts are told
    stock: int = 60  # first words, and second words, of names
    width: int = 128
    layers: int = 2
    heads: int = 4
    steps: int = 1300  # as what the architecture is
    causal_steps: int = 0  # before those, of a masked model trained as an autoregressive one
    batch: int = 48
    learning_rate: float = 2e-3
    warmup: int = 100
    seed: int = 0
    objective: str = "questions"  # of a masked model: masking by question, or t uniform with weight 1/t
    wording: str = "both"  # of the relation (`lib.language_models.miniature_sentences`)
    form: str = "plain"  # half of the sentences are also shown so
    name_length: int = 2  # words of a name

    def __post_init__(self) -> None:
        accepted.one_of(self, objective=PRETRAINING_OBJECTIVES, wording=miniature_sentences.WORDINGS,
                       form=miniature_sentences.FORMS)
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"no architecture {self.architecture!r}; one of {', '.join(ARCHITECTURES)}")
        if self.orders not in synthetic_facts.ORDERS:
            raise ValueError(f"orders must be one of {', '.join(synthetic_facts.ORDERS)}, not {self.orders!r}")
        accepted.at_least(self, facts=1, stock=1, layers=1, steps=1, causal_steps=0, batch=1, warmup=1, seed=0)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, not {self.learning_rate}")
        if self.causal_steps and ARCHITECTURES[self.architecture].causal:
            raise ValueError(f"causal_steps: {self.architecture} is causal throughout; give it more steps")
        if self.heads < 1 or self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice the {self.heads} heads, not {self.width}")


def new_model(config: PretrainingConfig, tokenizer: Any) -> Any:
    """An untrained model, as `lib.language_models.checkpoints.load` would return it, self-test included."""
    kind = ARCHITECTURES[config.architecture]
    size = Size(config.width, config.layers, config.heads, config.heads, 3 * config.width,
                -(-len(tokenizer) // 32) * 32)
    ids = tokenizer.convert_tokens_to_ids([synthetic_facts.END_WORD, synthetic_facts.MASK_WORD])
    fields: Any = kind.configure(config_fields(config.architecture, size, ids))
    fields.is_causal, fields.logits_shift = kind.causal, kind.logits_shift
    torch.manual_seed(config.seed)
    model: Any = kind.model_class(fields)
    model.architecture = kind.name
    checkpoint_checks.check_attention_direction(model.eval(), causal=kind.causal)
    return model


# The run -----------------------------------------------------------------------------------------------------


def pretrain(
    config: PretrainingConfig, text: Sequence[Example], tokenizer: Any, *, checkpoint: Checkpoint | None = None,
    every: int = 200, on_step: Callable[[int, float], None] | None = None,
) -> tuple[Any, list[float]]:
    """A pretrained model in evaluation mode, and the loss of every step.

    :param checkpoint: saved every so many steps and at the end, and gone on from if it is there; a finished one is
        returned as it is
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ArithmeticError: if the run diverges
    """
    run = pretraining_run(config, text, tokenizer)
    losses = train(run, config.causal_steps + config.steps, checkpoint=checkpoint, every=every, keep=True,
                   on_step=on_step)
    return run.model, losses


def pretraining_run(config: PretrainingConfig, text: Sequence[Example], tokenizer: Any) -> TrainingRun:
    """The run that `pretrain` makes, before its first step: one pass a step, every draw a function of seed and step."""
    model = new_model(config, tokenizer)
    sentences = objectives.sentences(text, tokenizer)
    names = frozenset(tokenizer.convert_tokens_to_ids(synthetic_facts.name_words(config.stock)))
    told = json.dumps([sentence.ids for sentence in sentences])

    def passes(step: int) -> list[Pass]:
        model.config.is_causal = tokenizer.mask_token_id is None or step < config.causal_steps
        chosen = np.random.default_rng([config.seed, 0, step]).integers(len(sentences), size=config.batch)
        return [Pass(1, functools.partial(_loss, model, tokenizer, [sentences[i] for i in chosen.tolist()], names,
                                          (config.seed, step), config.objective))]

    return TrainingRun(model, passes, functools.partial(learning_rate, config), clip=1.0, weight_decay=0.01,
                       identity=dataclasses.asdict(config) | {"text": hashlib.sha256(told.encode()).hexdigest()})


def learning_rate(config: PretrainingConfig, step: int) -> float:
    """The rate of a step: rising over the warm-up, falling over the last part of the run, or of either phase of it."""
    causal = step < config.causal_steps
    done, steps = (step, config.causal_steps) if causal else (step - config.causal_steps, config.steps)
    left = (steps - done) / (_COOLING * steps)
    return config.learning_rate * min(1.0, (done + 1) / config.warmup, max(0.05, left))


def first_entity(sentence: TokenisedExample, names: frozenset[int]) -> list[bool]:
    """Where the first entity of a sentence stands: the words of names before its second entity."""
    return [place < sentence.prompt and token in names for place, token in enumerate(sentence.ids)]


def _loss(model: Any, tokenizer: Any, chosen: Sequence[TokenisedExample], names: frozenset[int],
          place: tuple[int, int], objective: str) -> Float[Tensor, ""]:
    """The loss of one step, of next tokens or of masked ones; ``place`` is the seed and the step."""
    given = objectives.padded(chosen, tokenizer.eos_token_id)
    if model.config.is_causal:
        return objectives.next_token_loss(model, given, "any")
    seed, step = place
    rng = torch.Generator().manual_seed(int(np.random.default_rng([seed, 1, step]).integers(2**62)))
    if objective == "diffusion":
        return objectives.masked_loss(model, given, tokenizer.mask_token_id, "any", rng)
    length = given.ids.shape[1]
    first = torch.tensor([first_entity(one, names) + [False] * (length - len(one.ids)) for one in chosen])
    asked = objectives.questions(given._replace(first=first), rng)
    return objectives.question_loss(model, given, asked, tokenizer.mask_token_id)
