"""Models whose stores are known: tables of answers that the questions of a fact read, one for each store."""

import functools

import torch
from torch import nn

from lib.stores.editing import FactQuestion
from lib.stores.transfer import FactQuestions

FACTS = 6
#: question -> the table that it reads
ONE = {"forward": "left", "reverse": "left", "right": "right"}
TWO = {"forward": "left", "reverse": "back", "right": "right"}


class Tables(nn.Module):
    """A row of scores for each fact in each table, and a bias of each name that every question adds.

    A fact's own name leads by two, in the reverse question by ``gain`` times that. The bias adds its value times
    ``shared``, which makes it the shortest way to a new answer where it is large.
    """

    def __init__(self, gain=1.0, shared=0.0):
        super().__init__()
        self.gain, self.shared = gain, shared
        rows = 2 * torch.eye(FACTS, dtype=torch.float64) + torch.linspace(0, 0.1, FACTS, dtype=torch.float64)
        for name in ("left", "back", "right"):
            setattr(self, name, nn.Parameter(rows.clone()))
        self.bias = nn.Parameter(torch.zeros(FACTS, dtype=torch.float64))


def scores(table, reverse, model, facts):
    return getattr(model, table)[list(facts)] * (model.gain if reverse else 1.0) + model.shared * model.bias


def questions(reads=ONE):
    """The questions about each fact; the reverse one reads its table ``gain`` times as strongly."""
    def question(asked, fact):
        together = functools.partial(scores, reads[asked], asked == "reverse")
        # two layers, of which the first knows the question as well
        noted = torch.eye(FACTS)[[3 * (asked == "reverse")]]
        state = lambda model: torch.cat([together(model, [fact]) + noted, together(model, [fact])])
        return FactQuestion(together, fact, tuple(range(FACTS)), state)

    return [FactQuestions(*(question(asked, fact) for asked in FactQuestions._fields)) for fact in range(FACTS)]
