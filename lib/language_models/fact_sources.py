"""Whose facts a run is about: the published datasets, or those of a generated world, whole or cut to a few."""

from __future__ import annotations

import dataclasses

import numpy as np

from lib.language_models import facts as facts_module
from lib.language_models import published_facts, synthetic_facts
from lib.language_models.facts import DATASETS, FACT_SOURCES, Dataset


def facts_of(dataset: str, data: str, count: int, seed: int = 0) -> Dataset:
    """A dataset of the generated world or as published, cut to ``count`` facts drawn with ``seed``.

    :raises ValueError: for another dataset, or other data
    """
    if data not in FACT_SOURCES:
        raise ValueError(f"data must be 'generated' or 'published', not {data!r}")
    if dataset not in DATASETS:
        raise ValueError(f"no dataset {dataset!r}; one of {', '.join(DATASETS)}")
    published = data == "published"
    whole = published_facts.load(dataset) if published else getattr(synthetic_facts.world(count, seed), dataset)
    chosen = np.random.default_rng(seed).permutation(len(whole.facts))[:count]
    return dataclasses.replace(whole, facts=tuple(whole.facts[i] for i in sorted(chosen)))


def dataset_of(name: str, data: str, facts: int, seed: int) -> Dataset:
    """A dataset, whole or rebuilt from some of its facts in the first form of each sentence."""
    if not facts and data == "published":
        return published_facts.load(name)
    drawn = facts_of(name, data, facts or 30, seed)
    return facts_module.dataset(name, drawn.relation, drawn.facts)
