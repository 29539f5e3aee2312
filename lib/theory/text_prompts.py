"""Secs 1 and 2: the prompts that masking and causal training make of a text, and two extreme models of them.

A *prompt* is what the model sees and the position that is asked. The text of a fact "A is B" is A, some fillers, B; the
*forward* query shows B at its own place and asks for A, the *reverse* query shows B at A's place and asks at B's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from lib.theory.storage import descend

#: the mask, or for a causal model a token that it has not seen yet
UNSEEN = "M"
Text = tuple[str, ...]
Prompt = tuple[Text, int]  # tokens shown, position asked

# Prompts ------------------------------------------------------------------------------------------------------


def trained_prompts(text: Text, objective: str) -> dict[Prompt, float]:
    """Every prompt that an objective trains on a text, with the weight of its cross-entropy.

    Causal: one prefix a position, weight 1. Masked: hiding a given set of k of L tokens has the weight 1 / (k C(L, k)),
    the mean over masking levels t, uniform on (0, 1), of t^(k-1) (1 - t)^(L-k).

    :param objective: "masked" or "causal"
    """
    length = len(text)
    if objective == "causal":
        return {(text[:i] + (UNSEEN,) * (length - i), i): 1.0 for i in range(length)}
    trained: dict[Prompt, float] = {}
    for k in range(1, length + 1):
        for hidden in combinations(range(length), k):
            shown = tuple(UNSEEN if i in hidden else token for i, token in enumerate(text))
            trained |= {(shown, i): 1 / (k * comb(length, k)) for i in hidden}
    return trained


def asked_at_once(text: Text, objective: str) -> dict[Text, list[int]]:
    """What is shown -> the positions that are asked of it."""
    asked: dict[Text, list[int]] = {}
    for shown, place in trained_prompts(text, objective):
        asked.setdefault(shown, []).append(place)
    return asked


def text_of(first: str, second: str, fillers: int) -> Text:
    """The text "first is second", with so many words "is"."""
    return (first, *["is"] * fillers, second)


def forward_query(evidence: str, fillers: int) -> Prompt:
    """"M is B": who is at the first place?"""
    return text_of(UNSEEN, evidence, fillers), 0


def reverse_query(evidence: str, fillers: int) -> Prompt:
    """"B is M": who is at the last place?"""
    return text_of(evidence, UNSEEN, fillers), fillers + 1


def evidence_sides(texts: Iterable[Text], objective: str) -> set[str]:
    """On which sides of the asked position B stands, over all trained prompts that ask for A and show B."""
    asked = [(shown, place) for text in texts for shown, place in trained_prompts(text, objective)
             if text[place] == "A" and "B" in shown]
    return {"right" if shown.index("B") > place else "left" for shown, place in asked}


def never_trained(query: Prompt, texts: Sequence[Text]) -> bool:
    """Whether neither objective trains this prompt on these texts, whatever its answer."""
    return not any(query in trained_prompts(text, objective) for text in texts for objective in ("masked", "causal"))


# Two extreme models -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """Logits Theta^T f on facts "A is B" in the forward order, f the features of a prompt.

    ``shared``: f counts the visible tokens, one row of Theta a token. Else f is one-hot in the prompt, a row a prompt,
    and nothing that is learned on one prompt reaches another.
    """

    facts: int  # at least 2
    fillers: int
    objective: str  # "masked" or "causal"
    shared: bool

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names A and B of each fact."""
        return [(f"A{n}", f"B{n}") for n in range(self.facts)]

    @functools.cached_property
    def words(self) -> list[str]:
        """The vocabulary, sorted."""
        return sorted({word for pair in self.pairs for word in pair} | {"is"})

    @functools.cached_property
    def trained(self) -> list[tuple[Prompt, str, float]]:
        """Every trained prompt of all facts, its right answer and its weight."""
        texts = [text_of(*pair, self.fillers) for pair in self.pairs]
        return [(prompt, text[prompt[1]], weight)
                for text in texts for prompt, weight in trained_prompts(text, self.objective).items()]

    @property
    def queries(self) -> dict[str, list[Prompt]]:
        """Forward and reverse query of each fact; a causal model's forward query shows A and asks for B."""
        if self.objective == "causal":
            forward = [(text_of(a, UNSEEN, self.fillers), self.fillers + 1) for a, _ in self.pairs]
        else:
            forward = [forward_query(b, self.fillers) for _, b in self.pairs]
        return {"forward": forward, "reverse": [reverse_query(b, self.fillers) for _, b in self.pairs]}

    def features(self, prompts: Iterable[Prompt]) -> Float[np.ndarray, "prompts rows"]:
        """The features of each prompt."""
        if self.shared:
            return np.array([[shown.count(word) for word in self.words] for shown, _ in prompts], dtype=float)
        known = sorted({*(prompt for prompt, _, _ in self.trained), *self.queries["reverse"]})
        return np.array([[prompt == other for other in known] for prompt in prompts], dtype=float)

    def overlap(self) -> Float[np.ndarray, "trained facts"]:
        """Inner product of each trained prompt's features with those of each reverse query."""
        return self.features(prompt for prompt, _, _ in self.trained) @ self.features(self.queries["reverse"]).T

    def train(self, eta: float, steps: int) -> dict[str, Float[np.ndarray, " times"]]:
        """Mean probability of the right name on forward and reverse queries at the start and after each step.

        Gradient descent from zero on the sum of weighted cross-entropies.
        """
        inputs = self.features(prompt for prompt, _, _ in self.trained)
        targets = np.array([self.words.index(answer) for _, answer, _ in self.trained])
        start, weights = np.zeros((len(self.words), inputs.shape[1])), np.array([weight for *_, weight in self.trained])
        path = descend(start, inputs, targets, eta, steps, weights=weights)
        return {order: self._probability(path, order) for order in self.queries}

    def _probability(self, path: Float[np.ndarray, "times words rows"], order: str) -> Float[np.ndarray, " times"]:
        asked_b = order == "forward" and self.objective == "causal"
        right = [self.words.index(pair[asked_b]) for pair in self.pairs]
        logits = self.features(self.queries[order]) @ path.swapaxes(1, 2)
        return softmax(logits, axis=2)[:, np.arange(self.facts), right].mean(1)
