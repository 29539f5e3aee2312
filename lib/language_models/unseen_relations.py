"""Facts of relations that the adapted model was never told in either order: descriptions of people, and capitals.

`lib.language_models.adaptation` tells of parents and children. These are the paper's other three datasets (App. D.2):

* ``p2d`` and ``d2p``: invented people and what they are known for. The published training sets of both are put
  together, 60 pairs, and each order is asked of the same pairs;
* ``trex``: regions and their capitals, one to one, without a common word, each name of at most
  `lib.language_models.families.MOST_TOKENS` tokens. They are real: what the model knew before is measured before.

A fixed draw makes `UNSEEN_SETS` sets of `UNSEEN_HELD` facts, without overlap; a seed is asked about one of them. Each
fact is told in the first of its relation's sentence forms. Without the published files, a generated world takes their
place.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from lib.language_models import facts as facts_module
from lib.language_models import published_facts, synthetic_facts
from lib.language_models.facts import FACT_SOURCES, Dataset, Fact, Relation
from lib.language_models.families import short_and_distinct

UNSEEN_DATASETS = ("p2d", "d2p", "trex")
UNSEEN_SETS, UNSEEN_HELD = 3, 20
_GENERATED = 300  # facts of each relation of a generated world


def unseen_facts(name: str, source: str, seed: int, tokenizer: Any, folder: Path | None = None) -> Dataset:
    """The facts of a relation that a seed is asked about.

    :param name: one of `UNSEEN_DATASETS`
    :param source: one of `lib.language_models.facts.FACT_SOURCES`
    :param folder: of the published files, see `lib.language_models.published_facts.load`
    :raises ValueError: for another dataset or source, a seed without a set of its own, or too few facts
    """
    if name not in UNSEEN_DATASETS:
        raise ValueError(f"dataset {name!r}: relations that were never told are {', '.join(UNSEEN_DATASETS)}")
    if source not in FACT_SOURCES:
        raise ValueError(f"data must be one of {', '.join(FACT_SOURCES)}, not {source!r}")
    if not 0 <= seed < UNSEEN_SETS:
        raise ValueError(f"seed {seed}: {name} has {UNSEEN_SETS} sets of facts, from 0 on")
    if name == "trex":
        found = short_and_distinct(_whole("trex", source, folder).facts, tokenizer)
    else:
        found = _described(name, source, folder)
    if len(found) < UNSEEN_SETS * UNSEEN_HELD:
        raise ValueError(f"data: {len(found)} facts of {name} can be used, {UNSEEN_SETS * UNSEEN_HELD} are needed")
    random.Random(0).shuffle(found)
    chosen = found[seed * UNSEEN_HELD : (seed + 1) * UNSEEN_HELD]
    return facts_module.dataset(name, _relation(name, source, folder), chosen)


def _described(name: str, source: str, folder: Path | None) -> list[Fact]:
    """Every pair of a person and a description, in the order that the dataset trains on."""
    people = list(_whole("p2d", source, folder).facts)
    if source == "published":  # other people than those of p2d
        people += [Fact(fact.right, fact.left) for fact in _whole("d2p", source, folder).facts]
    return people if name == "p2d" else [Fact(fact.right, fact.left) for fact in people]


def _whole(name: str, source: str, folder: Path | None) -> Dataset:
    if source == "published":
        return published_facts.load(name, folder)
    return getattr(synthetic_facts.recombined_worlds({"all": _GENERATED}, seed=0)["all"], name)


def _relation(name: str, source: str, folder: Path | None) -> Relation:
    """The first of its forms in each order, after a space."""
    told = _whole(name, source, folder).relation
    return Relation(told.forward[:1], told.reverse[:1]).after_space()
