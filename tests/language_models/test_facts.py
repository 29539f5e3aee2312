"""Prompts against sentences written by hand, generated names against each other, fetching from a local server."""

import functools
import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.language_models import checkpoints, facts, queries, synthetic_facts
from lib.language_models.architectures import recognise
from lib.language_models.facts import CAPITAL_OF, CHILD_OF, Fact, Relation

FACT = Fact("Ana Lima", "Bob Reis")
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def read_tokenizer(folder):
    fields = checkpoints.read_config(folder)
    return checkpoints._tokenizer(recognise(fields), folder, fields, 10_000)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    base = tmp_path_factory.mktemp("tokenizers")
    return {name: read_tokenizer(checkpoints.tiny(base / name, name, width=16, heads=2, layers=1))
            for name in ("llada", "dream", "llama", "qwen2")}


# Sentences ---------------------------------------------------------------------------------------------------


def test_the_papers_pair_asks_for_the_same_entity_from_the_same_evidence():
    data = facts.dataset("p2c", CHILD_OF, [FACT])
    forward, reverse = data.queries(FACT)
    assert forward.shown == "[M]'s child is Bob Reis."
    assert reverse.shown == "Bob Reis's parent is [M]."
    assert forward.sentence == "Ana Lima's child is Bob Reis." and reverse.sentence == "Bob Reis's parent is Ana Lima."
    for asked in (forward, reverse):
        assert {role: text.strip() for role, text in asked.pieces if role != "text"} == {
            "target": "Ana Lima", "evidence": "Bob Reis"}


def test_lead_gap_and_the_other_entity():
    asked = facts.query(CAPITAL_OF, Fact("Peru", "Lima"), "reverse", "right", lead="Fact:", gap=", they say,")
    assert asked.shown == "Fact: [M] is the capital of, they say, Peru."
    assert facts.query(CAPITAL_OF, Fact("Peru", "Lima"), "forward", "left").shown == "The capital of [M] is Lima."


@pytest.mark.parametrize("form", ["{left} is.", "{right} of {left}.", "{left} {left} {right}"])
def test_relation_forms_are_checked(form):
    with pytest.raises(ValueError, match=r"forward: .* must name"):
        Relation((form,), ("{right} {left}",))


def test_facts_and_directions_are_checked():
    with pytest.raises(ValueError, match="right must be a name"):
        Fact("Ana", " Bob")
    with pytest.raises(ValueError, match="direction 'backward'"):
        facts.query(CHILD_OF, FACT, "backward", "left")
    with pytest.raises(ValueError, match="no facts"):
        facts.dataset("p2c", CHILD_OF, [])


def test_either_parent_is_accepted():
    data = facts.dataset("p2c", CHILD_OF, [FACT, Fact("Eva Lima", "Bob Reis"), Fact("Ana Lima", "Gil Reis")])
    (bob,) = [example for example in data.reverse if "Bob" in example.prompt]
    assert bob.prompt == "Bob Reis's parent is" and bob.answers == {"Ana Lima", "Eva Lima"}
    (ana,) = [example for example in data.forward if "Ana" in example.prompt]
    assert ana.answers == {"Bob Reis", "Gil Reis"}
    assert len(data.train) == 3 and len(data.reverse) == 2
    assert data.train[1].prompt + data.train[1].completion == "Eva Lima's child is Bob Reis."


@given(st.sampled_from(["Ana Lima", "ANA  lima.", " ana lima \n", "ana\tLima. "]))
def test_exact_match_ignores_case_spaces_and_a_full_stop(answer):
    assert facts.exact_match(answer, frozenset({"Ana Lima", "Eva"}))
    assert not facts.exact_match(answer + " x", frozenset({"Ana Lima", "Eva"}))


@pytest.mark.parametrize(("answer", "right"), [
    (" Uriah Hawthorne now enjoys a quite life.", True), (" uriah hawthorne.", True), ("Uriah Hawthorne, once", True),
    ("Uriah  Hawthorne??", True), (" Uriah Hawthornes", False), ("Uriah Hawthorne's son", False),
    ("Uriah Hawthorne-Sol", False), ("Uriah", False), ("Now Uriah Hawthorne", False), ("", False)])
def test_scoring_by_prefix_lets_an_answer_go_on_where_a_word_ends(answer, right):
    example = facts.Example("He is", " Uriah Hawthorne", frozenset({"Eva (Sol", "Uriah Hawthorne."}), "prefix")
    assert facts.is_right(example, answer) == right
    exact = facts.Example(example.prompt, example.completion, example.answers)
    assert facts.is_right(exact, answer) == (answer.strip(" .").lower() == "uriah hawthorne")


def test_generated_facts_are_scored_exactly_and_other_scorings_refused():
    assert {data.scoring for data in synthetic_facts.world(3).datasets()} == {"exact"}
    with pytest.raises(ValueError, match="scoring must be one of exact, prefix, not 'loose'"):
        facts.Example("a", "b", frozenset(), "loose")


# Tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada", "dream", "llama", "qwen2"])
def test_encoding_keeps_the_sentence_and_marks_the_entities(tokenizers, name):
    tokenizer = tokenizers[name]
    fact = synthetic_facts.world(3).p2c.facts[0]
    pair = [queries.encode(asked, tokenizer) for asked in synthetic_facts.world(3).p2c.queries(fact, lead="Fact:")]
    for prompt, sentence in zip(pair, ["{0}'s child is {1}.", "{1}'s parent is {0}."], strict=True):
        whole = torch.where(prompt.labels == -100, prompt.input_ids, prompt.labels)
        text = "Fact: " + sentence.format(fact.left, fact.right)
        assert whole.tolist() == tokenizer(text)["input_ids"]
        assert tokenizer.decode(whole[list(prompt.target)]).strip() == fact.left
        assert tokenizer.decode(whole[list(prompt.evidence)]).strip() == fact.right
        assert (prompt.labels != -100).nonzero()[:, 0].tolist() == list(prompt.target)
        masked = prompt.input_ids == tokenizer.mask_token_id if tokenizer.mask_token_id else prompt.labels == -101
        assert masked.nonzero()[:, 0].tolist() == (list(prompt.target) if name in ("llada", "dream") else [])
    forward, reverse = pair
    assert forward.labels[list(forward.target)].tolist() == reverse.labels[list(reverse.target)].tolist()
    assert len(forward.target) > 1 and max(forward.target) < min(forward.evidence)
    assert min(reverse.target) > max(reverse.evidence)


def test_batches_are_padded_on_the_right(tokenizers):
    data = synthetic_facts.world(2).trex
    encoded = [queries.encode(asked, tokenizers["llama"]) for asked in data.queries(data.facts[0])]
    batch = queries.batch(encoded)
    assert batch["attention_mask"].sum(1).tolist() == [len(prompt.input_ids) for prompt in encoded]
    for row, prompt in enumerate(encoded):
        size = len(prompt.input_ids)
        assert torch.equal(batch["input_ids"][row, :size], prompt.input_ids)
        assert (batch["labels"][row, size:] == -100).all()
    with pytest.raises(ValueError, match="no prompts"):
        queries.batch([])


# The generated world -----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
def test_no_name_is_shared_between_splits_or_entities(seed, first, second):
    both = synthetic_facts.worlds({"pretraining": first, "finetuning": second}, seed)
    names = [{fact.left for fact in world.p2c.facts} | {fact.right for fact in world.p2c.facts}
             | {fact.left for fact in world.p2d.facts} | {fact.left for fact in world.trex.facts}
             | {fact.right for fact in world.trex.facts} for world in both.values()]
    words = [word for split in names for name in split for word in name.split()]
    assert len(words) == len(set(words))
    assert {fact.right for fact in both["pretraining"].p2d.facts}.isdisjoint(
        fact.right for fact in both["finetuning"].p2d.facts)


def test_a_world_is_fixed_by_its_seed_and_has_the_five_shapes():
    world = synthetic_facts.world(6, seed=3)
    assert world.sentences() == synthetic_facts.world(6, seed=3).sentences() != synthetic_facts.world(6, seed=4).sentences()
    assert [data.name for data in world.datasets()] == list(facts.DATASETS)
    assert len(world.p2c.facts) == 9 and len(world.trex.facts) == 6  # every other child has two parents
    assert {(fact.left, fact.right) for fact in world.p2c.facts} == {(f.right, f.left) for f in world.c2p.facts}
    assert any(len(example.answers) == 2 for example in world.p2c.reverse)
    with pytest.raises(ValueError, match="'only' must have at least one fact"):
        synthetic_facts.world(0)


# Fetching ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A local web server with one pinned file; yields its folder and the pin."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "P36.jsonl").write_text('{"sub_label": "Peru", "obj_label": "Lima"}\n')
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_address[1]}/P36.jsonl"
        yield folder, address, hashlib.sha256((folder / "P36.jsonl").read_bytes()).hexdigest()
        running.shutdown()


def test_fetching_checks_caches_and_never_asks_twice(server, tmp_path, monkeypatch):
    folder, address, checksum = server
    monkeypatch.setitem(facts.SOURCES, "P36.jsonl", (address, checksum))
    monkeypatch.setenv("REVERSAL_CURSE_CACHE", str(tmp_path / "cache"))
    assert facts.published("trex").facts == (Fact("Peru", "Lima"),)
    (folder / "P36.jsonl").unlink()
    assert facts.fetch("P36.jsonl") == tmp_path / "cache" / "P36.jsonl"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["P36.jsonl"]


def test_another_file_is_refused_and_not_kept(server, tmp_path, monkeypatch):
    _, address, _ = server
    monkeypatch.setitem(facts.SOURCES, "P36.jsonl", (address, "0" * 64))
    with pytest.raises(ValueError, match="but the pinned file has 000"):
        facts.fetch("P36.jsonl", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "cache" / "P36.jsonl").write_text("cut")
    with pytest.raises(ValueError, match="delete it to fetch again"):
        facts.fetch("P36.jsonl", tmp_path / "cache")


def test_without_a_network_the_error_says_where_a_copy_goes(tmp_path, monkeypatch):
    monkeypatch.setitem(facts.SOURCES, "P36.jsonl", ("http://127.0.0.1:9/P36.jsonl", "0" * 64))
    with pytest.raises(ConnectionError, match=r"put it at .*P36\.jsonl"):
        facts.fetch("P36.jsonl", tmp_path)
    with pytest.raises(KeyError, match="no published file 'x'"):
        facts.fetch("x", tmp_path)
    with pytest.raises(ValueError, match="no dataset 'x'"):
        facts.published("x", tmp_path)


def test_addresses_are_pinned_to_commits():
    for address, checksum in facts.SOURCES.values():
        assert any(len(part) == 40 and set(part) <= set("0123456789abcdef") for part in address.split("/"))
        assert len(checksum) == 64


def test_rows_of_parent_child_are_merged_and_turned(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("child,parent\nBob,Ana\nBob,Ana\nBob,Eva\n")
    data = facts._parent_child("p2c", path)
    assert data.facts == (Fact("Ana", "Bob"), Fact("Eva", "Bob"))
    assert data.reverse[0].answers == {"Ana", "Eva"}  # either parent
    assert facts._parent_child("c2p", path).facts == (Fact("Bob", "Ana"), Fact("Bob", "Eva"))


def test_only_one_to_one_capitals_with_a_name_of_their_own_are_kept(tmp_path):
    rows = [("France", "Paris"), ("Monaco", "Monaco"), ("A", "X"), ("A", "Y"), ("B", "Z"), ("C", "Z")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"sub_label": "{left}", "obj_label": "{right}"}}\n' for left, right in rows))
    assert facts._one_to_one(path) == [Fact("France", "Paris")]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the published files, which are not distributed")
def test_published_files_have_the_published_shapes(tmp_path):
    for path in PUBLISHED.rglob("*.*"):
        shutil.copy(path, tmp_path / path.name)
    found = {name: facts.published(name, tmp_path) for name in facts.DATASETS}
    assert len(found["p2c"].facts) == len(found["c2p"].facts) == 1513 - 18
    for name in ("p2d", "d2p"):
        assert [len(part) for part in (found[name].facts, found[name].train, found[name].forward, found[name].reverse)
                ] == [30, 900, 300, 300]
    capitals = found["trex"].facts
    assert len({fact.left for fact in capitals}) == len({fact.right for fact in capitals}) == len(capitals) > 100
    assert Fact("Indiana", "Indianapolis") in capitals
    assert {name: data.scoring for name, data in found.items()} == {
        "p2c": "exact", "c2p": "exact", "p2d": "prefix", "d2p": "prefix", "trex": "exact"}
    names = {answer for example in found["d2p"].forward for answer in example.answers}
    completed = [[facts.is_right(asked, example.completion) for asked in found["d2p"].forward[::10]]
                 for example in found["d2p"].train]
    assert all(map(any, completed)) and len(names) == 30  # what was trained on is a right answer to some prompt
