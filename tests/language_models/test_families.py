"""Who is told and who is asked about: people by counting, invented names against all others, sentences by hand."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from lib.language_models import families as families_module
from lib.language_models import published_facts, synthetic_facts
from lib.language_models.facts import FACT_SOURCES, Fact
from lib.language_models.families import HELD, MOST_TOKENS, SETS, families, usable

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "parent_child"
WORDS = synthetic_facts.word_tokenizer(True, 4)  # every word is a token of it, known or not


@pytest.fixture(scope="module", params=FACT_SOURCES)
def chosen(request, tmp_path_factory):
    """The families of a source, and the folder of the published file."""
    folder = tmp_path_factory.mktemp("data")
    if request.param == "published":
        if not PUBLISHED.exists():
            pytest.skip("needs the published files, which are not distributed")
        shutil.copy(PUBLISHED / "parent_child_pairs.csv", folder)
    return families(request.param, WORDS, folder=folder), request.param, folder


def words(name):
    return set(re.findall(r"\w+", name.lower()))


def people(facts):
    return [name for fact in facts for name in (fact.left, fact.right)]


def test_without_a_network_made_up_names_are_offered(monkeypatch):
    def unreachable(*_):
        raise ConnectionError("no line; fetch it by hand")

    monkeypatch.setattr(published_facts, "load", unreachable)
    with pytest.raises(ConnectionError, match="no line; fetch it by hand; or take people of made-up names: --data gen"):
        families("published", WORDS)


# Who ---------------------------------------------------------------------------------------------------------


def test_nobody_is_in_two_pairs_and_nobody_shares_a_word_with_parent_or_child(chosen):
    found, source, folder = chosen
    held = [fact for part in found.held for fact in part]
    everyone = people([*found.told, *found.invented, *held])
    assert len(everyone) == len(set(everyone))
    assert not any(words(fact.left) & words(fact.right) for fact in (*found.told, *found.invented, *held))
    assert [len(part) for part in found.held] == [HELD] * SETS and len(found.invented) == 150 and len(found.told) > 40
    assert all(1 < len(name.split()) <= MOST_TOKENS for name in everyone)
    if source == "published":
        there = set(published_facts.load("p2c", folder).facts)
        assert {*found.told, *held} <= there
        assert there.isdisjoint(Fact(fact.right, fact.left) for fact in held)  # nor is it a pair the other way round


def test_invented_names_are_nobodys_and_made_of_words_that_are_told(chosen):
    found, _, _ = chosen
    first, last = ({name.split()[place] for name in people(found.told)} for place in (0, -1))
    for name in people(found.invented):
        assert name.split()[0] in first and name.split(maxsplit=1)[1] in last
    known = {fact for part in (found.told, *found.held) for fact in part}
    assert set(people(known)).isdisjoint(people(found.invented))


def test_the_same_families_come_each_time_and_fewer_invented_ones_change_no_other(chosen):
    found, source, folder = chosen
    assert families(source, WORDS, folder=folder) == found
    fewer = families(source, WORDS, 3, folder)
    assert (fewer.told, fewer.held, fewer.invented) == (found.told, found.held, found.invented[:3])


def test_pairs_are_used_once_for_a_person_if_their_names_are_short_and_share_no_word():
    pairs = [Fact("Ana Lima", "Bob Reis"), Fact("Ana Lima", "Eva Sol"), Fact("Gil Mar", "Bob Reis"),  # one person
             Fact("Uma Rey", "Kai Rey"), Fact("Jo O'Hara", "Tim O'Dea"), Fact("ANA Paz", "Ana Neto"),  # a common word
             Fact("Madonna", "Lola Leon"), Fact("Max Ott", "Cher"),  # a single word
             Fact("One Two Three Four Five Six", "Leo Wax"), Fact("One Two Three Four Five", "Zed Yew")]
    found = usable(pairs, WORDS)
    assert pairs[-1] in found and not {*pairs[3:9]} & {*found}
    assert len([fact for fact in found if fact in pairs[:3]]) == (2 if pairs[0] not in found else 1)
    assert usable(pairs, WORDS) == found and len(found) == len(set(people(found))) / 2


# What is said ------------------------------------------------------------------------------------------------


def test_every_told_pair_is_said_in_both_orders_and_no_held_out_pair_in_any(chosen):
    found, _, _ = chosen
    text = Counter(example.prompt + example.completion for example in found.examples())
    told = (*found.told, *found.invented)
    assert len(text) == sum(text.values()) == 2 * len(told)
    for fact in told:
        assert text[f" {fact.left}'s child is {fact.right}."] == text[f" {fact.right}'s parent is {fact.left}."] == 1
    everything = "\n".join(text)
    assert not any(name in everything for part in found.held for name in people(part))
    for example in found.examples():
        assert example.prompt.startswith(f" {example.first}'s ") and example.completion.startswith(" ")


@pytest.mark.parametrize(("name", "sentences"), [
    ("p2c", (" {0}'s child is {1}.", " {1}'s parent is {0}.")),
    ("c2p", (" {1}'s parent is {0}.", " {0}'s child is {1}."))])
def test_a_seed_is_asked_about_facts_of_its_own_in_the_order_of_the_dataset(chosen, name, sentences):
    found, _, _ = chosen
    for seed, part in enumerate(found.held):
        data = found.asked(name, seed)
        trained, turned = ([example.prompt + example.completion for example in each]
                           for each in (data.train, data.reverse))
        assert trained == [sentences[0].format(fact.left, fact.right) for fact in part]
        assert turned == [sentences[1].format(fact.left, fact.right) for fact in part]
        assert all(len(example.answers) == 1 for example in (*data.forward, *data.reverse))


# What is refused ---------------------------------------------------------------------------------------------


def test_what_there_is_not_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="data must be one of published, generated, not 'invented'"):
        families("invented", WORDS)
    found = families("generated", WORDS, 0)
    assert found.invented == ()
    with pytest.raises(ValueError, match="dataset 'p2d': families are asked about as p2c or c2p"):
        found.asked("p2d", 0)
    for seed in (-1, SETS):
        with pytest.raises(ValueError, match=f"seed {seed}: there are {SETS} sets of facts that were never told"):
            found.asked("p2c", seed)
    with pytest.raises(ValueError, match=r"invented: 9999 pairs are more than the words of \d+ told ones make"):
        families("generated", WORDS, 9999)
    monkeypatch.setattr(families_module, "_GENERATED", SETS * HELD)
    with pytest.raises(ValueError, match=rf"data: \d+ of the pairs can be used, but {SETS * HELD} are held out"):
        families("generated", WORDS, 0)
