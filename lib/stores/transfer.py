"""How far an edit through one question carries over to another question about the same fact.

A fact has three questions, by the entity asked for and the sentence it is asked in:

* *forward*: the left entity, in the order that was trained ("[M]'s child is Bob");
* *reverse*: the left entity, in the other order ("Bob's parent is [M]"), from the same evidence;
* *right*: the right entity, in the order that was trained ("Ana's child is [M]"), from other evidence.

A fact is overwritten with the left entity of the next fact, while the answers to the same question about other facts
are kept. The *transfer ratio* is the change of the logit difference between new and old name in the question that is
asked, over its change in the question that was edited: 1 if both read one store alike, 0 if they read two. The answer
*follows* if the new name becomes the first of all. Where a fact is erased, the difference is that between the other
names' mean and the old name, and the answer follows if the old name is no longer first. *Others kept* is the share of
all other facts that are still answered right when asked so.

Controls: the right-hand question is edited and the reverse one asked (other evidence: another store wherever a store
belongs to its evidence), and another fact is overwritten with the same name, in the same number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.stores.editing import EditConfig, FactQuestion, erase, lead_over_others, overwrite, weights_restored

LEAST_LEAD = 0.1  # nats by which an answer must be first, so that no rounding decides
QUESTION_KINDS = ("forward", "reverse", "right")


class FactQuestions(NamedTuple):
    """The questions about one fact."""

    forward: FactQuestion
    reverse: FactQuestion
    right: FactQuestion


class Edit(NamedTuple):
    """One way to change a fact, and what is asked then."""

    through: str  # the question that is edited
    asked: str  # the question that is asked then
    of: int = 0  # which fact is edited: this one, or that many further on
    erases: bool = False


#: the interventions of `measure_fact`
EDITS = {
    "forward": Edit("forward", "reverse"),
    "reverse": Edit("reverse", "forward"),
    "right": Edit("right", "reverse"),
    "other": Edit("forward", "reverse", of=2),
    "erase_forward": Edit("forward", "reverse", erases=True),
    "erase_right": Edit("right", "reverse", erases=True),
}
Outcome = Mapping[str, float | int | bool]  # of one edit of one fact, as a checkpoint keeps it


@torch.no_grad()
def leads(model: Any, facts: Sequence[FactQuestions]) -> dict[str, Float[np.ndarray, " facts"]]:
    """How far each fact's own name is ahead in each of its questions, in nats."""
    return {name: np.array([lead_over_others(question.scores(model), question.names[place])
                            for place, question in enumerate(getattr(fact, name) for fact in facts)])
            for name in QUESTION_KINDS}


def answered_facts(found: Mapping[str, Float[np.ndarray, " facts"]]) -> list[int]:
    """The facts all of whose questions are answered right, by `LEAST_LEAD` at least."""
    return np.flatnonzero(np.all([found[name] >= LEAST_LEAD for name in QUESTION_KINDS], axis=0)).tolist()


def measure_fact(model: Any, facts: Sequence[FactQuestions], fact: int, config: EditConfig) -> dict[str, Outcome]:
    """What every edit does to one fact; the model's weights come back as they were.

    :param fact: which of the facts; it is overwritten with the name of the next one
    :raises ValueError: for fewer than four facts: the fact, the new name's, the other one, and one more that is kept
    """
    if len(facts) < 4:
        raise ValueError(f"facts: {len(facts)} are too few to overwrite one, take another's name, edit a third and "
                         "keep a fourth")
    found: dict[str, Outcome] = {}
    for name, edit in EDITS.items():
        steps = int(found["forward"]["steps"]) if edit.of else None
        with weights_restored(model):
            found[name] = _outcome(model, facts, fact, edit, config, steps)
    return found


def _outcome(model: Any, facts: Sequence[FactQuestions], fact: int, edit: Edit, config: EditConfig,
             steps: int | None) -> Outcome:
    new, target = (fact + 1) % len(facts), (fact + edit.of) % len(facts)
    edited, asked = getattr(facts[target], edit.through), getattr(facts[fact], edit.asked)
    others = [other for other in range(len(facts)) if other not in (fact, target, new)]
    kept = [getattr(facts[other], edit.through) for other in evenly(others, config.kept)]
    # before
    right = _answered_right(model, facts, edit.asked, others)
    before = _differences(model, edit, (edited, target), (asked, fact), new)
    # the edit
    path = (erase(model, edited, target, config, kept) if edit.erases
            else overwrite(model, edited, new, config, kept, steps))
    # after
    change = _differences(model, edit, (edited, target), (asked, fact), new) - before
    with torch.no_grad():
        scores = asked.scores(model)
    ahead = -lead_over_others(scores, asked.names[fact]) if edit.erases else lead_over_others(scores, asked.names[new])
    still = _answered_right(model, facts, edit.asked, others)[right].mean() if right.any() else 0.0
    return {"steps": path.steps, "reached": path.reached, "edited": float(change[0]), "asked": float(change[1]),
            "start": float(before[1]), "ahead": ahead, "kept": float(still)}


def evenly(places: Sequence[int], count: int) -> list[int]:
    """At most so many of the places, evenly spread."""
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [places[place] for place in chosen]


@torch.no_grad()
def _answered_right(model: Any, facts: Sequence[FactQuestions], asked: str, places: Sequence[int]
                    ) -> Bool[np.ndarray, " places"]:
    questions = [getattr(facts[place], asked) for place in places]
    scores = questions[0].together(model, [question.shown for question in questions])
    return np.array([lead_over_others(row, question.names[place]) >= LEAST_LEAD
                     for row, question, place in zip(scores, questions, places, strict=True)])


@torch.no_grad()
def _differences(model: Any, edit: Edit, edited: tuple[FactQuestion, int], asked: tuple[FactQuestion, int], new: int
                 ) -> Float[np.ndarray, " both"]:
    """The difference in the edited question and in the one that is asked, each with the fact it is about."""
    return np.array([difference(question, question.scores(model), old, None if edit.erases else new)
                     for question, old in (edited, asked)])


def difference(question: FactQuestion, scores: Float[Tensor, " names"], old: int, new: int | None) -> float:
    """Score of the new name less that of the old one, in nats; without a new one, the mean of all other names."""
    names = scores[list(question.names)].double()
    wanted = names[new] if new is not None else (names.sum() - names[old]) / (len(names) - 1)
    return float(wanted - names[old])


def edit_metrics(outcomes: Sequence[Mapping[str, Outcome]]) -> dict[str, float]:
    """Means over facts by edit: transfer ratio; answers that follow, others kept, margins reached (percent); steps."""
    found: dict[str, float] = {}
    for name in EDITS:
        each = {key: np.array([float(outcome[name][key]) for outcome in outcomes]) for key in outcomes[0][name]}
        told = {"transfer": each["asked"] / each["edited"], "follows": 100 * (each["ahead"] >= LEAST_LEAD),
                "kept": 100 * each["kept"], "reached": 100 * each["reached"], "steps": each["steps"]}
        found |= {f"{name}_{key}": float(values.mean()) for key, values in told.items()}
    return found
