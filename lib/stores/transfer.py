"""How far an edit through one question carries over to another question about the same fact.

A fact has three questions, by the entity asked for and the sentence it is asked in:

* *forward*: the left entity, in the order that was trained ("[M]'s child is Bob");
* *reverse*: the left entity, in the other order ("Bob's parent is [M]"), from the same evidence;
* *right*: the right entity, in the order that was trained ("Ana's child is [M]"), from other evidence.

A fact is overwritten with the left entity of the next fact. The *transfer ratio* is the change of the logit difference
between new and old name in the question that is asked, over its change in the question that was edited. The answer
*follows* if the new name becomes the first of all. Where a fact is erased, the difference is that between the other
names' mean and the old name, and the answer follows if the old name is no longer first.

An edit also moves what all facts share, such as the bias of a name, and that carries over whatever is stored. So the
difference of the same two names is taken in the questions about all other facts too, and the *specific* transfer ratio
compares what remains when its mean change there is subtracted on both sides: 1 if both questions read one store alike,
0 if they read two. How many of the other facts are then answered with the new name is the *spill*.

Controls: the right-hand question is edited and the reverse one asked (other evidence: another store wherever a store
belongs to its evidence), and another fact is overwritten with the same name, in the same number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
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
    :raises ValueError: for fewer than four facts: the fact, the new name's, the other one, and one more to differ from
    """
    if len(facts) < 4:
        raise ValueError(f"facts: {len(facts)} are too few to overwrite one, take the name of another and edit a third")
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

    before = _differences(model, facts, edit, fact, target, new)
    path = (erase(model, edited, target, config) if edit.erases else overwrite(model, edited, new, config, steps))
    after = _differences(model, facts, edit, fact, target, new)
    change = {name: float((after[name] - values).mean()) for name, values in before.items()}
    with torch.no_grad():
        scores = asked.scores(model)
        spilt = [lead_over_others(each.scores(model), each.names[new]) >= LEAST_LEAD
                 for each in (getattr(facts[other], edit.asked) for other in _others(facts, fact, target, new))]
    ahead = -lead_over_others(scores, asked.names[fact]) if edit.erases else lead_over_others(scores, asked.names[new])
    return {"steps": path.steps, "reached": path.reached, **change, "start": float(before["asked"][0]), "ahead": ahead,
            "spilt": float(np.mean(spilt))}


def _others(facts: Sequence[FactQuestions], *named: int) -> list[int]:
    """The facts that an edit does not name."""
    return [other for other in range(len(facts)) if other not in named]


@torch.no_grad()
def _differences(model: Any, facts: Sequence[FactQuestions], edit: Edit, fact: int, target: int, new: int
                 ) -> dict[str, Float[np.ndarray, " facts"]]:
    """The difference of the two names in the edited question, in the asked one, and in those about all other facts."""
    def of(name: str, old: int, places: Sequence[int]) -> Float[np.ndarray, " facts"]:
        asked = [getattr(facts[place], name) for place in places]
        return np.array([difference(question, question.scores(model), old, None if edit.erases else new)
                         for question in asked])

    others = _others(facts, fact, target, new)
    return {"edited": of(edit.through, target, [target]), "asked": of(edit.asked, fact, [fact]),
            "edited_elsewhere": of(edit.through, target, others), "asked_elsewhere": of(edit.asked, fact, others)}


def difference(question: FactQuestion, scores: Float[Tensor, " names"], old: int, new: int | None) -> float:
    """Score of the new name less that of the old one, in nats; without a new one, the mean of all other names."""
    names = scores[list(question.names)].double()
    wanted = names[new] if new is not None else (names.sum() - names[old]) / (len(names) - 1)
    return float(wanted - names[old])


def edit_metrics(outcomes: Sequence[Mapping[str, Outcome]]) -> dict[str, float]:
    """By edit: both transfer ratios; answers that follow, spills and margins reached (percent), and steps: means over
    facts, but for the specific ratio, which is that of two means: what remains of a single fact's edit may be small.
    """
    found: dict[str, float] = {}
    for name in EDITS:
        each = {key: np.array([float(outcome[name][key]) for outcome in outcomes])
                for key in outcomes[0][name]}
        own, asked = (each[key] - each[f"{key}_elsewhere"] for key in ("edited", "asked"))
        told = {"transfer": each["asked"] / each["edited"], "specific": asked.mean() / own.mean(),
                "follows": 100 * (each["ahead"] >= LEAST_LEAD), "spill": 100 * each["spilt"],
                "reached": 100 * each["reached"], "steps": each["steps"]}
        found |= {f"{name}_{key}": float(np.mean(values)) for key, values in told.items()}
    return found
