"""The query and the keys of one-layer models, for `lib.theory.premises`: do they keep the premise of Theorem 4.3?"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lib.one_layer import metrics, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.theory import premises


def evidence_keys(
    ensemble: Ensemble,
) -> tuple[Float[np.ndarray, "members dim"], Float[np.ndarray, "members letters dim"]]:
    """The mask's query and the 26 capitals' keys of masked RoPE models of one layer and one head, before rotation.

    Both are returned in float64, in the model's own units.

    :raises ValueError: for any other model, whose scores are no such products
    """
    settings = ensemble.settings
    if settings.encoding != "rope" or settings.causal or settings.depth > 1 or settings.heads > 1:
        raise ValueError("evidence_keys belongs to masked rope models of one layer and one head")
    capitals = slice(task.LETTERS, 2 * task.LETTERS)
    model = [ensemble.member(index).double() for index in range(len(ensemble))]
    read = [(m.layers[0].attention, m.layers[0].norm1(m.embedding)) for m in model]
    queries = [attention.query(seen[task.MASK]).detach().numpy() for attention, seen in read]
    keys = [attention.key(seen[capitals]).detach().numpy() for attention, seen in read]
    return np.stack(queries), np.stack(keys)


@dataclasses.dataclass(frozen=True)
class PremiseState:
    """Queries and keys of models at one step of training, and what was measured of them."""

    queries: Float[np.ndarray, "members dim"]
    keys: Float[np.ndarray, "members letters dim"]
    correlations: Float[np.ndarray, "members forward reverse"]  # of the network's scores, by both distances from 1
    forward_accuracy: Float[np.ndarray, " members"]  # percent

    @property
    def distances(self) -> list[int]:
        """Every distance of a sequence, in positions."""
        return list(range(1, self.correlations.shape[1] + 1))

    @property
    def at_equal_distances(self) -> Float[np.ndarray, "members distances"]:
        """The network's correlation at Delta_1 = Delta_2."""
        return np.diagonal(self.correlations, axis1=1, axis2=2)

    @property
    def covariance(self) -> Float[np.ndarray, "members dim dim"]:
        """Covariance of each member's keys over the letters."""
        return premises.item_covariance(self.keys)

    @functools.cached_property
    def ladder(self) -> Float[np.ndarray, "members rungs distances"]:
        """From the bound to the correlation, see `premises.ladder`."""
        return premises.ladder(self.queries, self.covariance, self.distances)

    @functools.cached_property
    def departures(self) -> dict[str, Float[np.ndarray, " members"]]:
        """How far each member is from the premise, see `premises.departures`."""
        return premises.departures(self.queries, self.keys, self.distances)

    @classmethod
    def of(cls, ensemble: Ensemble) -> PremiseState:
        """What `evidence_keys` and the measurements say of an ensemble."""
        asked = metrics.queries(ensemble.settings)[0]
        accuracy = metrics.accuracy_and_probability(metrics.query_logits(ensemble, asked), asked)["accuracy"]
        return cls(*evidence_keys(ensemble), metrics.score_correlations(ensemble).numpy(),
                   np.array(accuracy, dtype=float))


def states_along_training(settings: ModelConfig, seeds: Sequence[int], steps: int) -> dict[int, PremiseState]:
    """Train one model a seed; step -> state: at the start, each tenth of the steps to 0.6, at 0.8 and at the end."""
    trainer = Trainer(settings, TrainingConfig(), seeds)
    due = {0, steps, *(round(share * steps) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8))}
    states = {}
    for step in range(steps + 1):
        if step in due:
            states[step] = PremiseState.of(trainer.averaged())
        if step < steps:
            trainer.step()
    return states
