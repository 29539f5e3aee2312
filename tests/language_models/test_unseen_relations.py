"""Descriptions and capitals: each fact in one set, both orders of the same facts, sentences by hand, refusals."""

import re
import shutil
from pathlib import Path

import pytest

from lib.language_models import families, published_facts, synthetic_facts, unseen_relations
from lib.language_models.facts import FACT_SOURCES
from lib.language_models.unseen_relations import UNSEEN_DATASETS, UNSEEN_HELD, UNSEEN_SETS, unseen_facts

DATA = Path(__file__).parents[3] / "shared" / "data"
WORDS = synthetic_facts.word_tokenizer(True, 4)  # every word is a token of it, known or not


@pytest.fixture(scope="module", params=FACT_SOURCES)
def sets(request, tmp_path_factory):
    """Every set of every relation of a source, by name and seed, and the folder of the published files."""
    folder = tmp_path_factory.mktemp("data")
    if request.param == "published":
        if not DATA.exists():
            pytest.skip("needs the published files, which are not distributed")
        for path in DATA.rglob("*.*"):
            shutil.copy(path, folder)
    return {(name, seed): unseen_facts(name, request.param, seed, WORDS, folder)
            for name in UNSEEN_DATASETS for seed in range(UNSEEN_SETS)}, request.param, folder


def test_a_fact_is_in_one_set_and_all_sets_are_of_a_size(sets):
    found, source, folder = sets
    for name in UNSEEN_DATASETS:
        facts = [fact for seed in range(UNSEEN_SETS) for fact in found[name, seed].facts]
        assert len(facts) == UNSEEN_SETS * UNSEEN_HELD
        for side in ("left", "right"):
            assert len({getattr(fact, side) for fact in facts}) == len(facts)
        again = unseen_facts(name, source, 1, WORDS, folder)
        assert again == found[name, 1]


def test_both_orders_of_descriptions_are_the_same_facts(sets):
    found, source, folder = sets
    for seed in range(UNSEEN_SETS):
        forward, turned = (found[name, seed].facts for name in ("p2d", "d2p"))
        assert [(fact.right, fact.left) for fact in forward] == [(fact.left, fact.right) for fact in turned]
    if source == "published":
        people = [{fact.left for fact in published_facts.load("p2d", folder).facts},
                  {fact.right for fact in published_facts.load("d2p", folder).facts}]
        asked = {fact.left for seed in range(UNSEEN_SETS) for fact in found["p2d", seed].facts}
        assert asked & people[0] and asked & people[1] and asked <= people[0] | people[1]


def test_capitals_share_no_word_with_their_region(sets):
    found, _, _ = sets
    for seed in range(UNSEEN_SETS):
        for fact in found["trex", seed].facts:
            left, right = (set(re.findall(r"\w+", name.lower())) for name in (fact.left, fact.right))
            assert not left & right and max(len(fact.left.split()), len(fact.right.split())) <= families.MOST_TOKENS


def test_each_fact_is_told_once_in_one_form_after_a_space(sets):
    found, source, _ = sets
    forms = {"p2d": (" {} is {}.", " {} is {}."), "d2p": (" {} is {}.", " {} is {}."),
             "trex": (" The capital of {} is {}.", " {} is the capital of {}.")}
    for (name, _), data in found.items():
        first = data.facts[0]
        told, turned = (example[0].prompt + example[0].completion for example in (data.train, data.reverse))
        assert len(data.train) == len(data.facts)
        if source == "published":
            assert told == forms[name][0].format(first.left, first.right)
            assert turned == forms[name][1].format(first.right, first.left)
        assert told.startswith(" ") and told.index(first.left) < told.index(first.right)
        assert turned.startswith(" ") and turned.index(first.right) < turned.index(first.left)


@pytest.mark.parametrize(("name", "source", "seed", "message"), [
    ("p2c", "generated", 0, "dataset 'p2c': relations that were never told are p2d, d2p, trex"),
    ("p2d", "other", 0, "data must be one of published, generated, not 'other'"),
    ("p2d", "generated", UNSEEN_SETS, f"seed {UNSEEN_SETS}: p2d has {UNSEEN_SETS} sets of facts"),
    ("trex", "generated", -1, "seed -1: trex has")])
def test_what_there_is_not_is_refused(name, source, seed, message):
    with pytest.raises(ValueError, match=message):
        unseen_facts(name, source, seed, WORDS)


def test_too_few_facts_are_counted(monkeypatch):
    monkeypatch.setattr(unseen_relations, "_GENERATED", 30)
    with pytest.raises(ValueError, match="data: 30 facts of p2d can be used, 60 are needed"):
        unseen_facts("p2d", "generated", 0, WORDS)
