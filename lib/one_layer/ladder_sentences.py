"""Sentences between the one-layer task and the miniature: what differs between the two, one field of `LadderTask` each.

A *fact* is a pair of names, the left one (the target, A) and the right one (the evidence, B). In *forward* order it
reads ``A > B``, in *reverse* order ``B < A``. ``>`` and ``<`` are relation words, or *frame markers*: they say which
order a sequence is in. A sentence has none, the same one in both orders, or one for each order; with placeholders at
random places and names of one word it is a sequence of the one-layer task.

Of the facts, `FORWARD_FACTS` are told forward alone. Of the others, ``orders`` says how they are told. The question is
always about a fact that was told forward alone (`asked_facts`): *forward* hides its left name where training had it,
``_ > B``; *reverse* asks for it in the order that was never told, ``B < _``. The *wrong frame* is ``B > _``: nothing
that was told answers it, and a model that answers A takes the relation for a symmetric one.

Names are made of 24 letters and 24 capitals of `lib.one_layer.task`. The last letter and the last capital are the
markers, and those left over after the draw are the words that names of sharing 1 end in.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from lib.one_layer import task
from lib.one_layer.objectives import Rng
from lib.record.accepted import at_least, one_of
from lib.record.options import option

TELLING_ORDERS = ("forward", "one", "both")
FACT_COUNT, FORWARD_FACTS = 24, 6  # facts of a world, and those of them that are told forward whatever the orders
FRAME_MARKERS = (task.LETTERS - 1, 2 * task.LETTERS - 1)  # ">" of the forward order and "<" of the reverse one
#: in how many names a word stands -> how such names are made
SHARING = {
    0: "one word, of this name alone",
    1: "two words, the first of this name alone",
    2: "two words, each in two names",
    4: "two words, each in four names",
}
LEFT_NAME, RIGHT_NAME, RELATION_WORD, EMPTY = range(4)  # what stands at a place of a sentence
_PLACEMENTS = 8  # of a question, where placeholders leave a choice


@dataclasses.dataclass(frozen=True)
class LadderTask:
    """What sentences look like, and how facts are told."""

    placeholders: int = 0  # beside the sentence, at random places
    relations: int = 0  # words: none, one in both orders, one for each order
    left: int = 0  # in how many left names a word stands, see `SHARING`
    right: int = 0  # the same of right names
    one_stock: bool = False  # whether the names of both sides are made of the same words
    orders: str = option("one", choices=TELLING_ORDERS)  # of the facts that are not held: forward, one of two, or both

    def __post_init__(self) -> None:
        at_least(self, placeholders=0)
        one_of(self, orders=TELLING_ORDERS)
        for name, valid in (("relations", (0, 1, 2)), ("left", tuple(SHARING)), ("right", tuple(SHARING))):
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"{name} must be one of {', '.join(map(str, valid))}, not {value!r}")
        if self.one_stock and (self.left != self.right or self.left < 2):
            raise ValueError(f"one_stock: names of one stock have left and right alike, 2 or 4, not {self.left} and "
                             f"{self.right}")
        if self.relations == 2 and self.orders == "forward":
            raise ValueError("relations: the second of 2 words is told in reverse order, and orders 'forward' has none")

    @property
    def words(self) -> tuple[int, int]:
        """Words of a left name and of a right one."""
        return 1 + (self.left > 0), 1 + (self.right > 0)

    @property
    def length(self) -> int:
        """Tokens of a sentence."""
        return sum(self.words) + (self.relations > 0) + self.placeholders

    @property
    def units(self) -> int:
        """Names and relation words of a sentence, which placeholders stand between."""
        return 2 + (self.relations > 0)


class Names(NamedTuple):
    """The names of a world, fact by fact."""

    left: Int[np.ndarray, "facts left"]
    right: Int[np.ndarray, "facts right"]


class Sentences(NamedTuple):
    """Sentences in tokens, and what stands at each place: `LEFT_NAME`, `RIGHT_NAME`, `RELATION_WORD` or `EMPTY`."""

    tokens: Int[np.ndarray, "rows length"]
    roles: Int[np.ndarray, "rows length"]


# Facts -------------------------------------------------------------------------------------------------------


def draw_names(settings: LadderTask, seed: int) -> Names:
    """The names of all facts; another world for each seed."""
    rng = np.random.default_rng([seed, FACT_COUNT])
    small, large = rng.permutation(task.LETTERS - 1), task.LETTERS + rng.permutation(task.LETTERS - 1)
    first, second, spare = small[:FACT_COUNT], large[:FACT_COUNT], np.array([small[-1], large[-1]])
    if settings.one_stock:
        both = _made_of(2 * FACT_COUNT, settings.left, first, second, spare, rng)
        return Names(both[:FACT_COUNT], both[FACT_COUNT:])
    half = FACT_COUNT // 2
    return Names(_made_of(FACT_COUNT, settings.left, first[:half], second[:half], spare, rng),
                 _made_of(FACT_COUNT, settings.right, first[half:], second[half:], spare, rng))


def _made_of(
    count: int, sharing: int, first: np.ndarray, second: np.ndarray, spare: np.ndarray, rng: np.random.Generator
) -> Int[np.ndarray, "names words"]:
    """So many names of a stock of first and second words, in random order and all different."""
    if sharing < 2:
        own = np.concatenate([first, second])[:count, None]
        return own if sharing == 0 else np.concatenate([own, spare[rng.permutation(count) % 2][:, None]], 1)
    size = count // sharing
    pairs = [(first[a], second[(a + shift) % size]) for shift in range(sharing) for a in range(size)]
    return np.array(pairs)[rng.permutation(count)]


def told_orders(settings: LadderTask) -> Bool[np.ndarray, "facts orders"]:
    """Whether each fact is told forward, and whether in reverse."""
    fact = np.arange(FACT_COUNT)
    forward = (fact < FORWARD_FACTS) | (settings.orders != "one") | (fact % 2 == 0)
    reverse = (fact >= FORWARD_FACTS) & ((settings.orders == "both") | ((settings.orders == "one") & (fact % 2 == 1)))
    return np.stack([forward, reverse], 1)


def asked_facts(settings: LadderTask) -> Int[np.ndarray, " facts"]:
    """Those that are told forward alone."""
    forward, reverse = told_orders(settings).T
    return np.flatnonzero(forward & ~reverse)


# Sentences ---------------------------------------------------------------------------------------------------


def told_sentences(settings: LadderTask, names: Names, count: int, rng: Rng) -> Sentences:
    """Training sentences: every fact equally often, in an order that it is told in."""
    fact = rng.integers(FACT_COUNT, size=count)
    forward, reverse = told_orders(settings)[fact].T
    order = np.where(forward & reverse, rng.integers(2, size=count), reverse)
    return written_sentences(settings, names, fact, order, rng)


def written_sentences(
    settings: LadderTask, names: Names, fact: Int[np.ndarray, " rows"], order: Int[np.ndarray, " rows"], rng: Rng,
    marker: Int[np.ndarray, " rows"] | None = None,
) -> Sentences:
    """Sentences about these facts, each in its order, with placeholders at random places.

    :param order: 0 for forward, 1 for reverse
    :param marker: which marker stands between the names, 0 or 1; by default the one that belongs there
    """
    words = np.array(FRAME_MARKERS)[(order if marker is None else marker) * (settings.relations == 2)]
    parts = {LEFT_NAME: names.left[fact], RIGHT_NAME: names.right[fact], RELATION_WORD: words[:, None]}
    layouts = [[LEFT_NAME, RELATION_WORD, RIGHT_NAME], [RIGHT_NAME, RELATION_WORD, LEFT_NAME]]
    if not settings.relations:
        layouts = [layout[::2] for layout in layouts]
    # both orders of every row, then the one that is asked for
    rows = [_written(layout, parts) for layout in layouts]
    tokens, roles, unit = (np.where(order[:, None] == 1, reverse, forward)
                           for forward, reverse in zip(*rows, strict=True))
    return _spread(settings, tokens, roles, unit, rng)


def _written(layout: list[int], parts: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, roles, and the number of the unit that each token belongs to, without placeholders."""
    count, widths = len(parts[LEFT_NAME]), [parts[part].shape[1] for part in layout]
    tokens = np.concatenate([parts[part] for part in layout], 1)
    roles, unit = (np.tile(np.repeat(values, widths), (count, 1)) for values in (layout, range(len(layout))))
    return tokens, roles, unit


def _spread(settings: LadderTask, tokens: np.ndarray, roles: np.ndarray, unit: np.ndarray, rng: Rng) -> Sentences:
    """The sentence with placeholders between its units: every choice of places is equally likely."""
    count, size = len(tokens), settings.units + settings.placeholders
    places = np.sort(rng.random((count, size)).argsort(1)[:, : settings.units], 1)
    before = places - np.arange(settings.units)  # placeholders before each unit
    at = np.arange(tokens.shape[1]) + np.take_along_axis(before, unit, 1)
    filled = np.full((count, settings.length), task.PLACEHOLDER), np.full((count, settings.length), EMPTY)
    for whole, part in zip(filled, (tokens, roles), strict=True):
        np.put_along_axis(whole, at, part, 1)
    return Sentences(*filled)


# Questions ---------------------------------------------------------------------------------------------------


class LadderQuestions(NamedTuple):
    """Questions that hide one name each, and the name that counts as their answer."""

    tokens: Int[np.ndarray, "questions length"]
    rows: Int[np.ndarray, "questions words"]  # the hidden places, of the flattened tokens
    answers: Int[np.ndarray, "questions words"]
    candidates: Int[np.ndarray, "facts words"]  # every name of the side that is asked for
    fact: Int[np.ndarray, " questions"]  # whose name the answer is
    places: Int[np.ndarray, "questions length"]  # of the left name's words, the right one's, marker and placeholders


#: question -> order it is asked in, name that it hides, marker, and how many facts further on the evidence is taken
ASKED_KINDS = {"forward": (0, LEFT_NAME, 0, 0), "right": (0, RIGHT_NAME, 0, 0), "reverse": (1, LEFT_NAME, 1, 0),
             "wrong_frame": (1, LEFT_NAME, 0, 0), "mismatched": (1, LEFT_NAME, 1, 1)}


def questions_asked(settings: LadderTask, names: Names, kind: str) -> LadderQuestions:
    """One of `ASKED_KINDS` about every one of the `asked_facts`.

    ``mismatched`` is the reverse question with another fact's evidence: only a model that does not look answers it.

    :raises ValueError: for another kind, and for a wrong frame where the words do not tell the orders apart
    """
    if kind not in ASKED_KINDS:
        raise ValueError(f"kind {kind!r}: one of {', '.join(ASKED_KINDS)}")
    if kind == "wrong_frame" and settings.relations < 2:
        raise ValueError(f"relations: {settings.relations} words do not tell a wrong frame from the right one; 2 do")
    order, hidden, marker, further = ASKED_KINDS[kind]
    facts = asked_facts(settings)
    answered = np.repeat(facts, _PLACEMENTS if settings.placeholders else 1)
    shown = np.repeat(np.roll(facts, -further), len(answered) // len(facts))
    fill = lambda value: np.full(len(shown), value)
    found = written_sentences(settings, names, shown, fill(order), np.random.default_rng(0), fill(marker))
    rows = np.flatnonzero(found.roles == hidden).reshape(len(shown), -1)
    candidates = names[hidden]
    return LadderQuestions(np.where(found.roles == hidden, task.MASK, found.tokens), rows, candidates[answered],
                           candidates, answered, found.roles.argsort(1, kind="stable"))
