"""A store that exists twice: measures of states cannot tell it from one, and an edit can.

Let a model exist in two copies, of which one is asked forward and the other everything else. They are two stores by
construction, since no weight of one has a part in the answers of the other. Yet every state is what it was in the
single model, and so is everything that is computed from states.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.stores.editing import EditConfig, FactQuestion, overwrite, weights_restored
from lib.stores.one_layer_questions import letter_questions
from lib.stores.states import state_metrics
from lib.stores.transfer import FactQuestions, difference


def two_copies(model: nn.Module, facts: Sequence[FactQuestions], *, separate: bool = True
               ) -> tuple[nn.ModuleList, list[FactQuestions]]:
    """Two copies of a model, and the same questions, of which the forward ones are put to the first copy.

    :param separate: otherwise both are the same model
    """
    copies = nn.ModuleList([model, copy.deepcopy(model) if separate else model])
    return copies, [FactQuestions(*(_put_to(place, question) for place, question in zip((0, 1, 1), fact, strict=True)))
                    for fact in facts]


def _put_to(place: int, question: FactQuestion) -> FactQuestion:
    state = question.state
    return question._replace(together=lambda copies, shown: question.together(copies[place], shown),
                             state=state and (lambda copies: state(copies[place])))


def carried_over(model: nn.Module, facts: Sequence[FactQuestions], fact: int, config: EditConfig) -> float:
    """Transfer ratio of one fact, overwritten forward and asked in reverse; the weights come back as they were.

    :param config: of which nothing else is kept
    """
    new, asked = (fact + 1) % len(facts), facts[fact][:2]

    @torch.no_grad()
    def differences() -> list[float]:
        return [difference(question, question.scores(model), fact, new) for question in asked]

    with weights_restored(model):
        before = differences()
        overwrite(model, asked[0], new, config)
        edited, reverse = (now - then for now, then in zip(differences(), before, strict=True))
    return reverse / edited


def measured_copies(model: nn.Module, facts: Sequence[FactQuestions], config: EditConfig, *, separate: bool = True
                    ) -> dict[str, Mapping[str, float]]:
    """Measures of states and the transfer ratio of the first fact: of the model, and of its two copies."""
    found = {"one": (model, facts), "copies": two_copies(model, facts, separate=separate)}
    return {name: {**state_metrics(*asked)[0], "transfer": carried_over(*asked, 0, config)}
            for name, asked in found.items()}


def small_copies(*, separate: bool = True) -> dict[str, Mapping[str, float]]:
    """`measured_copies` of one small attention layer without MLP, of random weights."""
    settings = ModelConfig(length=6, width=16, mlp=False, norm=False)
    model = initialise(Transformer(settings), 0, unembedding=0.3).double()
    return measured_copies(model, letter_questions(model), EditConfig(margin=1.0, stride=0.01), separate=separate)


def only_edits_differ(found: Mapping[str, Mapping[str, float]]) -> bool:
    """Do the measures say one entry of both alike, while the edit carries over in the single model alone?"""
    one, copies = ({name: value for name, value in each.items() if name != "transfer"} for each in found.values())
    alike = one == copies and one["left_distance_ratio"] < 0.9 and one["left_fact_probe"] >= 90
    return alike and found["one"]["transfer"] >= 0.5 and found["copies"]["transfer"] == 0
