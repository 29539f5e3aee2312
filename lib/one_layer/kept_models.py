"""One model, kept at some steps of its training, and what it then attends to and answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer import metrics, patching, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig, Transformer
from lib.one_layer.training import Trainer, TrainingConfig


def models_along_training(
    settings: ModelConfig, recipe: TrainingConfig, seed: int, steps: Sequence[int]
) -> dict[int, Transformer]:
    """The model that would be measured after each of these steps: the moving average of the weights.

    :param steps: in rising order, none beyond the recipe's
    :raises ValueError: for steps that the training does not reach in that order
    """
    if [*steps] != sorted(set(steps)) or not steps or not 0 <= steps[0] <= steps[-1] <= recipe.steps:
        raise ValueError(f"steps must rise and lie between 0 and {recipe.steps}, not {[*steps]}")
    trainer, kept = Trainer(settings, recipe, [seed]), {}
    for wanted in steps:
        while trainer.steps_taken < wanted:
            trainer.step()
        kept[wanted] = trainer.averaged().member(0)
    return kept


@dataclasses.dataclass(frozen=True)
class QueryReading:
    """What one model does with some queries of one direction."""

    weights: Float[Tensor, "queries length"]  # attention weights of the mask
    letter: Float[Tensor, " queries"]  # probability of the target
    placeholder: Float[Tensor, " queries"]  # of the placeholder
    other: Float[Tensor, " queries"]  # of all else together


@torch.no_grad()
def read_queries(model: Transformer, asked: task.Queries) -> QueryReading:
    """Attention and answers of a masked one-layer model with one head."""
    found, rows = patching.record_activations(model, asked), torch.arange(len(asked))
    probabilities = patching.logits_from(model, found).double().softmax(-1)
    letter, placeholder = probabilities[rows, asked.target], probabilities[:, task.PLACEHOLDER]
    return QueryReading(found.row[:, 0], letter, placeholder, 1 - letter - placeholder)


def centred_pairs(length: int, letter: int, distances: Iterable[int]) -> tuple[task.Queries, task.Queries]:
    """Forward queries of one fact with the pair in the middle, a row a distance, and their mirror images.

    :raises ValueError: for a distance below 1 or of the length or more
    """
    forward, reverse = task.paired_queries(length)
    wanted = []
    for distance in distances:
        if not 1 <= distance < length:
            raise ValueError(f"distance must lie between 1 and {length - 1}, not {distance}")
        left = (length - 1 - distance) // 2
        here = (forward.letter == letter) & (forward.position == left) & (forward.evidence == left + distance)
        wanted.append(int(here.nonzero()))
    rows = torch.tensor(wanted)
    return forward[rows], reverse[rows]


def accuracies_along_training(models: Mapping[int, Transformer]) -> dict[str, list[float]]:
    """Accuracy of each model over all queries, in percent, by direction."""
    found: dict[str, list[float]] = {way: [] for way in task.DIRECTIONS}
    for model in models.values():
        measured = metrics.query_answers(Ensemble.from_models([model]))
        for way, values in found.items():
            values.append(float(measured[f"{way}_accuracy"][0] or 0.0))
    return found
