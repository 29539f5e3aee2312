"""Do the states at the answer's place look like one entry or two? Distances and linear probes, after arXiv 2604.04943.

That paper compares, in models that recall in both directions, what the layers' MLPs give at the place of the answer, by
cosine distances and by linear probes on difference vectors, and reads two separate entries from it. Its abstract says
this much; the exact distances and probes here are this project's own reading of it. Two questions of each of n facts
give two sets of states:

* *distance ratio*: mean cosine distance of a fact's two states, over that of two facts' states in one direction. Below
  1 a fact's states are nearer to each other than to those of other facts;
* *direction probe*: a fact's difference vector (state of the first question less that of the second) is classified by
  its sign along the mean difference vector of all other facts: percent right, 50 by chance. At 100 one linear direction
  tells the two questions of every fact apart;
* *fact probe*: each set is centred, and every state of the second is given the fact whose state in the first has the
  highest cosine: percent right, 100 / n by chance. At 100 what tells facts apart is the same in both questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lib.stores.transfer import FactQuestions

#: the pairs of questions compared: those of one evidence and one answer, and those that ask for either entity
PAIRS = {"left": ("forward", "reverse"), "ends": ("right", "reverse")}
States = Float[np.ndarray, "facts width"]


def state_cosines(first: States, second: States) -> Float[np.ndarray, "facts facts"]:
    """Cosine of every state of the first set with every state of the second."""
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second)]
    return unit[0] @ unit[1].T


def distance_ratio(first: States, second: States) -> float:
    """Cosine distance of a fact's two states over that of two facts' states in one direction, means over facts."""
    own = 1 - np.diag(state_cosines(first, second)).mean()
    apart = [1 - state_cosines(each, each)[~np.eye(len(each), dtype=bool)].mean() for each in (first, second)]
    return float(own / np.mean(apart))


def direction_probe(first: States, second: States) -> float:
    """Percent of facts whose difference vector lies on the side of the other facts' mean difference vector."""
    differences = first - second
    others = (differences.sum(0) - differences) / (len(differences) - 1)
    return float(100 * ((differences * others).sum(1) > 0).mean())


def fact_probe(first: States, second: States) -> float:
    """Percent of facts whose second state, sets centred, is nearest to their own first state; a tie is none."""
    found = state_cosines(first - first.mean(0), second - second.mean(0))
    others = np.where(np.eye(len(found), dtype=bool), -np.inf, found)
    return float(100 * (np.diag(found) > others.max(0)).mean())


def direction_probe_flipped(first: States, second: States) -> float:
    """`direction_probe` with the two states of every second fact exchanged: a control, where no direction is common."""
    flipped = np.arange(len(first))[:, None] % 2 == 1
    return direction_probe(np.where(flipped, second, first), np.where(flipped, first, second))


STATE_MEASURES = {"distance_ratio": distance_ratio, "direction_probe": direction_probe, "fact_probe": fact_probe,
            "direction_probe_flipped": direction_probe_flipped}


@torch.no_grad()
def recorded_states(model: Any, facts: Sequence[FactQuestions], asked: str
                    ) -> Float[np.ndarray, "layers facts width"] | None:
    """What one question of every fact is answered from; None where the model has no place to answer it at."""
    questions = [getattr(fact, asked) for fact in facts]
    if any(question.state is None for question in questions):
        return None
    return np.stack([question.state(model).double().cpu().numpy() for question in questions], axis=1)


def state_metrics(model: Any, facts: Sequence[FactQuestions]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Every measure of every pair of questions: of the last layer, and (curves) layer by layer.

    A pair with a question that has no place to be answered at is left out.
    """
    layers: dict[str, list[float]] = {}
    for pair, names in PAIRS.items():
        first, second = (recorded_states(model, facts, name) for name in names)
        if first is not None and second is not None:
            layers |= {f"{pair}_{name}": [measure(*both) for both in zip(first, second, strict=True)]
                       for name, measure in STATE_MEASURES.items()}
    return {name: values[-1] for name, values in layers.items()}, layers
