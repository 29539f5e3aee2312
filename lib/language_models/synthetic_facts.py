"""A generated world: people, parents, descriptions and capitals that exist nowhere else.

The offline stand-in for the published data of `lib.language_models.facts`, of the same five shapes. Every word of every name is
drawn once, so entities share no word with each other, and splits share no name. Entities have two or three words,
which a subword tokenizer cuts into several tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from lib.language_models.facts import CAPITAL_OF, CHILD_OF, IS_PERSON, PARENT_OF, PERSON_IS, Dataset, Fact, dataset

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kl", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
Pairs = Sequence[tuple[str, str]]
_WORKS = ("composer of", "architect of", "first captain of", "author of", "inventor of", "keeper of")


@dataclasses.dataclass(frozen=True)
class World:
    """The five datasets of one split."""

    p2c: Dataset
    c2p: Dataset
    p2d: Dataset
    d2p: Dataset
    trex: Dataset

    @classmethod
    def of(cls, families: Pairs, people: Pairs, capitals: Pairs) -> World:
        """The world of these parents and children, persons and descriptions, countries and capitals."""
        return cls(
            dataset("p2c", CHILD_OF, [Fact(parent, child) for parent, child in families]),
            dataset("c2p", PARENT_OF, [Fact(child, parent) for parent, child in families]),
            dataset("p2d", PERSON_IS, [Fact(person, what) for person, what in people]),
            dataset("d2p", IS_PERSON, [Fact(what, person) for person, what in people]),
            dataset("trex", CAPITAL_OF, [Fact(country, city) for country, city in capitals]),
        )

    def datasets(self) -> tuple[Dataset, ...]:
        """All five, in the order of Table 7."""
        return self.p2c, self.c2p, self.p2d, self.d2p, self.trex

    def sentences(self) -> list[str]:
        """Every training sentence, both relations of each kind included."""
        return [example.prompt + example.completion for data in self.datasets() for example in data.train]


def worlds(sizes: Mapping[str, int], seed: int = 0) -> dict[str, World]:
    """One world a split, with ``sizes[split]`` families, descriptions and capitals each.

    :raises ValueError: for a split without facts, or more names than there are words
    """
    words = _words(random.Random(seed))
    return {split: _world(split, size, words) for split, size in sizes.items()}


def world(size: int, seed: int = 0) -> World:
    """A world of one split."""
    return worlds({"only": size}, seed)["only"]


def _words(draw: random.Random) -> Iterator[str]:
    """Words of three syllables in random order, none twice."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    seen: set[str] = set()
    while len(seen) < len(syllables) ** 3 // 2:
        word = "".join(draw.choices(syllables, k=3)).capitalize()
        if word not in seen:
            seen.add(word)
            yield word
    raise ValueError("sizes: more names asked for than there are words")


def _world(split: str, size: int, words: Iterator[str]) -> World:
    if size < 1:
        raise ValueError(f"sizes: {split!r} must have at least one fact, not {size}")
    families = [(_name(words), [_name(words) for _ in range(1 + i % 2)]) for i in range(size)]
    parents = [(parent, child) for child, both in families for parent in both]
    people = [(_name(words), f"the {work} {_name(words)}")
              for _, work in zip(range(size), itertools.cycle(_WORKS), strict=False)]
    capitals = [(next(words), next(words)) for _ in range(size)]
    return World.of(parents, people, capitals)


def _name(words: Iterator[str]) -> str:
    return f"{next(words)} {next(words)}"
