"""Which parents and children a real language model is told, and which it is asked about.

Of the published pairs those are used that name two people without a common word, one pair a person, each name of two
words or more and at most `MOST_TOKENS` tokens: most published children share a surname with their parent, and copying
it would look like knowing it. A fixed draw holds out `SETS` sets of `HELD` pairs; a seed is asked about one of them.
All other pairs are told, in both orders, beside invented ones, whose names are put together from the words of theirs.

Without the published file, `generated` people take the place of the real ones.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lib.language_models import facts as facts_module
from lib.language_models import published_facts, synthetic_facts
from lib.language_models.facts import CHILD_OF, FACT_SOURCES, PARENT_OF, Dataset, Example, Fact

SETS, HELD = 5, 24
MOST_TOKENS = 5  # of a name
_GENERATED = 300  # families of a generated world


@dataclasses.dataclass(frozen=True)
class Families:
    """Facts whose left entity is the parent and whose right one is the child."""

    told: tuple[Fact, ...]
    invented: tuple[Fact, ...]
    held: tuple[tuple[Fact, ...], ...]  # one set a seed

    def examples(self) -> list[Example]:
        """Every told and invented fact in both orders, the text of an adaptation."""
        known = [*self.told, *self.invented]
        turned = [Fact(fact.right, fact.left) for fact in known]
        both = zip(_dataset("p2c", known).train, _dataset("c2p", turned).train, strict=True)
        return [example for pair in both for example in pair]

    def asked(self, name: str, seed: int) -> Dataset:
        """The held-out facts of a seed: ``p2c`` shows parents first in training, ``c2p`` children.

        :raises ValueError: for another dataset, or a seed without a set of its own
        """
        if name not in ("p2c", "c2p"):
            raise ValueError(f"dataset {name!r}: families are asked about as p2c or c2p")
        if not 0 <= seed < len(self.held):
            raise ValueError(f"seed {seed}: there are {len(self.held)} sets of facts that were never told, from 0 on")
        chosen = self.held[seed]
        return _dataset(name, chosen if name == "p2c" else [Fact(fact.right, fact.left) for fact in chosen])


def _dataset(name: str, chosen: Sequence[Fact]) -> Dataset:
    relation = CHILD_OF if name == "p2c" else PARENT_OF
    return facts_module.dataset(name, relation.after_space(), chosen)


def families(source: str, tokenizer: Any, invented: int = 150, folder: Path | None = None) -> Families:
    """The families of the published pairs, or of a generated world; the same for every model and seed.

    :param invented: pairs of invented names that are told besides
    :param folder: of the published file, see `lib.language_models.published_facts.load`
    :raises ValueError: for another source, too few pairs, or more invented names than the words of the told ones make
    :raises ConnectionError: if the published file is not there and cannot be fetched; says what to do without it
    """
    if source not in FACT_SOURCES:
        raise ValueError(f"data must be one of {', '.join(FACT_SOURCES)}, not {source!r}")
    if source == "generated":
        pairs = synthetic_facts.recombined_worlds({"all": _GENERATED}, seed=0)["all"].p2c.facts
        found = [fact for fact in pairs if not _words(fact.left) & _words(fact.right)]
    else:
        try:
            published = published_facts.load("p2c", folder)
        except ConnectionError as error:
            raise ConnectionError(f"{error}; or take people of made-up names: --data generated") from None
        found = usable(published.facts, tokenizer)
    if len(found) <= SETS * HELD:
        raise ValueError(f"data: {len(found)} of the pairs can be used, but {SETS * HELD} are held out")
    random.Random(0).shuffle(found)
    held = tuple(tuple(found[place : place + HELD]) for place in range(0, SETS * HELD, HELD))
    told = found[SETS * HELD :]
    return Families(tuple(told), tuple(_invented(told, found, invented)), held)


def usable(pairs: Sequence[Fact], tokenizer: Any) -> list[Fact]:
    """Pairs of two people without a common word, one pair a person, their names short enough and not of one word."""
    whole = [fact for fact in random.Random(0).sample(list(pairs), len(pairs))
             if min(len(fact.left.split()), len(fact.right.split())) > 1]
    return short_and_distinct(whole, tokenizer)


def short_and_distinct(pairs: Sequence[Fact], tokenizer: Any) -> list[Fact]:
    """The pairs, in their order, whose two names share no word, stand in no pair before, and are short enough."""
    seen: set[str] = set()
    found = []
    for fact in pairs:
        names = fact.left, fact.right
        if seen.intersection(names) or _words(fact.left) & _words(fact.right):
            continue
        if all(_tokens(name, tokenizer) <= MOST_TOKENS for name in names):
            found.append(fact)
            seen.update(names)
    return found


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.lower()))


def _tokens(name: str, tokenizer: Any) -> int:
    return len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"])


def _invented(told: Sequence[Fact], known: Sequence[Fact], count: int) -> Iterator[Fact]:
    """Facts about people who do not exist: a first word of one told name and a last word of another."""
    names = [name for fact in told for name in (fact.left, fact.right)]
    firsts, lasts = (sorted({name.split()[place] for name in names}) for place in (0, -1))
    rng, seen = random.Random(1), {name for fact in known for name in (fact.left, fact.right)}
    for _ in range(count):
        fresh: list[str] = []
        for _ in range(1000):
            name = f"{rng.choice(firsts)} {rng.choice(lasts)}"
            if name not in seen and not (fresh and _words(name) & _words(fresh[0])):
                seen.add(name)
                fresh.append(name)
            if len(fresh) == 2:
                break
        else:
            raise ValueError(f"invented: {count} pairs are more than the words of {len(told)} told ones make")
        yield Fact(*fresh)
