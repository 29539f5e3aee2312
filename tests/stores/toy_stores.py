"""Models whose stores are known: tables of answers that the questions of a fact read, one for each store."""

import torch
from torch import nn

from lib.stores.editing import FactQuestion
from lib.stores.transfer import FactQuestions

FACTS = 6
#: question -> the table that it reads
ONE = {"forward": "left", "reverse": "left", "right": "right"}
TWO = {"forward": "left", "reverse": "back", "right": "right"}


class Tables(nn.Module):
    """A row of scores for each fact in each table; its own name leads by two, twice that where ``gain`` is two."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain
        rows = 2 * torch.eye(FACTS, dtype=torch.float64) + torch.linspace(0, 0.1, FACTS, dtype=torch.float64)
        for name in ("left", "back", "right"):
            setattr(self, name, nn.Parameter(rows.clone()))


def questions(reads=ONE):
    """The questions about each fact; the reverse one reads its table ``gain`` times as strongly."""
    def question(asked, fact):
        def scores(model):
            return getattr(model, reads[asked])[fact] * (model.gain if asked == "reverse" else 1.0)

        return FactQuestion(scores, tuple(range(FACTS)), lambda model: scores(model)[None])

    return [FactQuestions(*(question(asked, fact) for asked in FactQuestions._fields)) for fact in range(FACTS)]
