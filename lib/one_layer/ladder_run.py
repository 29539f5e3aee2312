"""Train models on one rung of the ladder between the one-layer task and the miniature, and ask what they recall.

    python -m lib.one_layer.ladder_run --relations 2 --left 2 --right 2 --seeds 0 1 2 3 4 \\
        --out results/ladder/full_shared.json

All seeds train together as one ensemble, each on a world of its own (`lib.one_layer.ladder_sentences`). Metrics, one
value a seed and in percent, are about facts that were told forward alone:

* ``forward_accuracy``, ``right_accuracy``, ``reverse_accuracy``: every word of the hidden name is the most likely of
  all clean tokens;
* ``forward_names``, ``right_names``, ``reverse_names``: the name is the most likely of the names of its side;
* ``wrong_frame_accuracy`` and ``wrong_frame_names``, where the words tell the orders apart: the share of wrong-frame
  questions that are answered as if the relation were symmetric, which is an error;
* ``mismatched_names``: the reverse question with another fact's evidence, a control;
* at depth 1, ``reverse_patched`` and ``forward_patched``: as ``..._names``, with the attention weights of the same
  fact's forward question put into the reverse one, word by word, and the other way round.

An interrupted run goes on from its checkpoint; one that is done is left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.one_layer import objectives
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.ladder_sentences import (
    ASKED_KINDS,
    LadderQuestions,
    LadderTask,
    Names,
    Sentences,
    draw_names,
    questions_asked,
    told_sentences,
)
from lib.one_layer.metrics import Measured
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.objectives import MaskedBatch, Rng
from lib.one_layer.training import SHARED, Trainer, TrainingConfig, train_ensemble
from lib.record.accepted import at_least, check_seeds, one_of
from lib.record.experiment import finished, recording
from lib.record.options import command, option

_EXPERIMENT = "ladder"
#: what training asks for
LADDER_MASKING = {"names": "one whole name of each sentence, either of the two",
                  "any": "any tokens, as masked diffusion"}
_LEAD = 1e-6  # nats, by which a name must lead every other: no answer is decided by a tie


@dataclasses.dataclass(frozen=True, kw_only=True)
class LadderRunOptions:
    """What the command can be told."""

    task: LadderTask = option(LadderTask())
    masking: str = option("names", choices=LADDER_MASKING)  # what training asks for
    depth: int = 1  # blocks
    mlp: bool = True  # whether blocks hold one
    heads: int = 1  # of attention
    width: int = 64  # coordinates of the residual stream
    steps: int = 200  # of training; the rate falls over the last third
    batch: int = 64  # sentences a step
    learning_rate: float = 2e-3  # AdamW's
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # one model and one world a seed
    out: Path = option()  # the JSON file to write

    def __post_init__(self) -> None:
        one_of(self, masking=tuple(LADDER_MASKING))
        at_least(self, steps=3)
        check_seeds(self.seeds)
        self.model()
        self.training()

    def model(self) -> ModelConfig:
        """The model's settings: RoPE throughout, as in the miniature's LLaDA."""
        return ModelConfig(length=self.task.length, depth=self.depth, mlp=self.mlp, heads=self.heads, width=self.width)

    def training(self) -> TrainingConfig:
        """The recipe, in the terms of `lib.one_layer.training`; the weights themselves are measured."""
        return TrainingConfig(steps=self.steps, batch=self.batch, learning_rate=self.learning_rate,
                              warmup=max(1, self.steps // 6), decay=self.steps // 3, ema=0.0)


class LadderTrainer(Trainer):
    """A trainer whose batches are questions about told sentences, each seed's about its own world."""

    def __init__(self, asked: LadderRunOptions) -> None:
        super().__init__(asked.model(), asked.training(), asked.seeds)
        self.asked, self.names = asked, [draw_names(asked.task, seed) for seed in asked.seeds]

    def _batches(self, first: int, count: int) -> list[MaskedBatch]:
        """Member by member, the batches of several steps, one after the other."""
        size, found = self.recipe.batch, []
        uniforms = objectives.stratified_uniforms(size, self._rng(SHARED, first, count), count)
        for seed, names in zip(self.seeds, self.names, strict=True):
            rng = self._rng(seed, first, count)
            sentences = told_sentences(self.asked.task, names, size * count, rng)
            found.append(objectives.stratified(sentences.tokens, rng, uniforms) if self.asked.masking == "any"
                         else one_name_masked(sentences, rng))
        return found


def one_name_masked(sentences: Sentences, rng: Rng) -> MaskedBatch:
    """One name of each sentence hidden whole, either of the two; a name of several words weighs as one of one."""
    hidden = sentences.roles == rng.integers(2, size=len(sentences.roles))[:, None]
    return objectives.mask_tokens(sentences.tokens, hidden, 1 / hidden.sum(1))


# Measures ----------------------------------------------------------------------------------------------------


def rung_recall(models: Ensemble, settings: LadderTask, worlds: Sequence[Names]) -> Measured:
    """Every metric of each member, in percent."""
    found: Measured = {}
    for kind in ASKED_KINDS:
        if kind == "wrong_frame" and settings.relations < 2:
            continue
        asked = [questions_asked(settings, names, kind) for names in worlds]
        logits = _logits(models, asked)
        if kind != "mismatched":
            found[f"{kind}_accuracy"] = _percent(map(_exact, logits, asked))
        found[f"{kind}_names"] = _percent(map(_leading_name, logits, asked))
    if models.settings.depth == 1:
        found |= patched_recall(models, settings, worlds)
    return found


@torch.no_grad()
def _logits(models: Ensemble, asked: Sequence[LadderQuestions]) -> Float[Tensor, "members questions words clean"]:
    """Logits at the hidden places."""
    tokens, rows = (torch.as_tensor(np.stack(part)) for part in zip(*[each[:2] for each in asked], strict=True))
    return models.logits(tokens, rows.flatten(1)).unflatten(1, rows.shape[1:])


@torch.no_grad()
def patched_recall(models: Ensemble, settings: LadderTask, worlds: Sequence[Names]) -> Measured:
    """Names recalled in percent, in either order, with the attention weights of the other order's question.

    The two questions show the same words, in another order and with another marker. A weight goes from the place and to
    the place that hold the same word, so that each word has the weight that it has in the other question.
    """
    found: Measured = {}
    pairs = [[questions_asked(settings, names, kind) for kind in ("forward", "reverse")] for names in worlds]
    for way in (1, -1):
        asked = [pair[::way] for pair in pairs]
        right = (_leading_name(_patched(model, *pair), pair[1])
                 for model, pair in zip(models.members(), asked, strict=True))
        found[f"{'reverse' if way == 1 else 'forward'}_patched"] = _percent(right)
    return found


def _percent(right: Iterable[np.ndarray]) -> list[float | None]:
    return [float(100 * each.mean()) for each in right]


def _patched(
    model: Transformer, source: LadderQuestions, target: LadderQuestions
) -> Float[Tensor, "questions words clean"]:
    """Logits of the target's questions, with the attention weights of the source's."""
    (weights,) = model.record(torch.as_tensor(source.tokens), "attention.weights")["attention.weights"]
    moved = _moved(weights, source, target)
    (block,) = model.layers
    hook = block.attention.weights.register_forward_hook(lambda module, inputs, output: moved)
    with hook:
        logits = model(torch.as_tensor(target.tokens)).logits
    return logits.flatten(0, 1)[torch.as_tensor(target.rows)]


def _moved(
    weights: Float[Tensor, "questions heads length length"], source: LadderQuestions, target: LadderQuestions
) -> Float[Tensor, "questions heads length length"]:
    """The source's weights, from and to the places at which the target has the same words."""
    from_places, to_places = (torch.as_tensor(each.places) for each in (source, target))
    places = from_places.gather(1, to_places.argsort(1))  # where the source has what the target has at each place
    rows = weights.gather(2, places[:, None, :, None].expand_as(weights))
    return rows.gather(3, places[:, None, None, :].expand_as(weights))


def _exact(logits: Float[Tensor, "questions words clean"], asked: LadderQuestions) -> Bool[np.ndarray, " questions"]:
    """Whether every word of the answer leads all other tokens."""
    answer = torch.as_tensor(asked.answers)[..., None]
    others = logits.scatter(-1, answer, -torch.inf).max(-1).values
    right: np.ndarray = (logits.gather(-1, answer)[..., 0] > others + _LEAD).all(1).numpy()
    return right


def _leading_name(
    logits: Float[Tensor, "questions words clean"], asked: LadderQuestions
) -> Bool[np.ndarray, " questions"]:
    """Whether the answer leads every other name of its side, by the sum of its words' log-probabilities."""
    words = torch.as_tensor(asked.candidates).T.expand(len(logits), -1, -1)  # (questions, words, facts)
    scores = logits.log_softmax(-1).gather(-1, words).sum(1)
    answer = torch.as_tensor(asked.fact)[:, None]
    others = scores.scatter(1, answer, -torch.inf).max(1).values
    right: np.ndarray = (scores.gather(1, answer)[:, 0] > others + _LEAD).numpy()
    return right


# The run -----------------------------------------------------------------------------------------------------


def rung_parameters(asked: LadderRunOptions) -> dict[str, Any]:
    """What is recorded of a run beside its seeds."""
    told = {name: value for name, value in dataclasses.asdict(asked).items() if name not in ("task", "seeds", "out")}
    return dataclasses.asdict(asked.task) | told


def train_and_ask(asked: LadderRunOptions) -> None:
    """One run; a result that is there already stays.

    :raises ValueError: for a result of another run in its place
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    """
    parameters = rung_parameters(asked)
    if finished(asked.out, experiment=_EXPERIMENT, parameters=parameters, seeds=asked.seeds):
        print(f"{asked.out}: this run is done, and its result stays")
        return
    with recording({asked.out: parameters}, experiment=_EXPERIMENT, seeds=asked.seeds) as recorded:
        trainer = LadderTrainer(asked)
        curves = train_ensemble(trainer, recorded.checkpoint, [asked.steps // 3, asked.steps],
                                measure=lambda models: rung_recall(models, asked.task, trainer.names))
        recorded.save({name: [run[-1] for run in runs] for name, runs in curves.items() if name != "steps"}, curves)


main = command(LadderRunOptions, train_and_ask)

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
