"""Training on changed questions, each change with its matched control: what of the loss carries or blocks reverse
recall.

`ask` is `objectives.ask` with one thing changed; `NAMES` says what. Changes drop questions from a batch or draw
other masks; they never touch a model, so that everything else about a run stays the same to the last random number.
"""

from __future__ import annotations

import numpy as np

from lib import objectives
from lib.objectives import Asked, Draw, Tokens

#: what each intervention does to a batch of questions
NAMES = {"none": "the questions as they are"}


def check(intervention: str) -> None:
    """Refuse an unknown intervention, naming the valid ones."""
    if intervention not in NAMES:
        raise ValueError(f"unknown intervention {intervention!r}; one of {', '.join(NAMES)}")


def ask(
    intervention: str, objective: str, tokens: Tokens, draw: Draw, quantiles: np.ndarray, draws: str = "stratified"
) -> Asked:
    """One batch of questions under an intervention; arguments as in `objectives.ask`."""
    check(intervention)
    return objectives.ask(objective, tokens, draw, quantiles, draws)
