"""Facts, and the prompts that ask for them in the trained and in the reverse direction (Sec. 6, App. D.2).

A fact joins a *left* and a *right* entity. Training shows the forward sentence ("Ana's child is Bob"); the reverse
sentence ("Bob's parent is Ana") is never trained. Two kinds of question are made from a fact:

* `Example`: a prompt to be completed, with the set of accepted answers (Table 7);
* `Query`: a sentence with one entity asked for and the other as evidence, in place (the probes of Fig. 4). The
  paper's forward query and its reverse query both ask for the left entity, from the same right entity:
  "[M]'s child is Bob" and "Bob's parent is [M]".

Published data are fetched at run time from a pinned commit, checked against a checksum and cached for this user;
they carry no licence that would let the book pass them on. `lib.language_models.synthetic_facts` generates facts of the same shapes.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_REVERSAL = (
    "https://raw.githubusercontent.com/lukasberglund/reversal_curse/6af5f418755d528304e406361e86477637d21c84/data"
)
_PARAREL = "https://raw.githubusercontent.com/yanaiela/pararel/cb5554678457beb5ac163d888f1ce8cf174b3f0b/data"
_JUNE = f"{_REVERSAL}/reverse_experiments/june_version_7921032488"
#: file -> (address at a pinned commit, SHA-256)
SOURCES = {
    "parent_child_pairs.csv": (f"{_REVERSAL}/celebrity_relations/parent_child_pairs.csv",
                               "59d181610f1477a3cfb8a63428bb8cc037b7d73c9cdf5616fdd8d8ba90debb5d"),
    "p2d_prompts_train.jsonl": (f"{_JUNE}/p2d_prompts_train.jsonl",
                                "8a20b9c259b67bc9c3a0f1823d132c844f98d84589d79b108a0ae0c5aa2a2391"),
    "p2d_prompts_test.jsonl": (f"{_JUNE}/p2d_prompts_test.jsonl",
                               "269fe15363c3bd1cb59cfdf4e6464f35d548d4cb786e6f7b1db84f260788e8f8"),
    "p2d_reverse_prompts_test.jsonl": (f"{_JUNE}/p2d_reverse_prompts_test.jsonl",
                                       "963fa595ce19b330cdf07058313f3e8570b57545260256414bcb74a60c959553"),
    "d2p_prompts_train.jsonl": (f"{_JUNE}/d2p_prompts_train.jsonl",
                                "2d66551577306f164e9b0fd372dd997af0e90bb62690d00a2cab818ae65e47a1"),
    "d2p_prompts_test.jsonl": (f"{_JUNE}/d2p_prompts_test.jsonl",
                               "67705c9ebd77fc030998677acae33af9f22cf4b80bb7443d4ef7e5c9c1d727c4"),
    "d2p_reverse_prompts_test.jsonl": (f"{_JUNE}/d2p_reverse_prompts_test.jsonl",
                                       "8c79da9791788ffbe77dc876ae2e34cc00f980e08c946bda188367ae1cd6ea61"),
    "P36.jsonl": (f"{_PARAREL}/trex_lms_vocab/P36.jsonl",
                  "23632ee03b23422c9840960f9c65c98c12c172f5bb87d2fec20e16b12b17f92e"),
}
DATASETS = ("p2c", "c2p", "p2d", "d2p", "trex")
SCORING = ("exact", "prefix")


@dataclasses.dataclass(frozen=True)
class Fact:
    """One fact; the forward sentence names ``left`` first."""

    left: str
    right: str

    def __post_init__(self) -> None:
        for field in ("left", "right"):
            value = getattr(self, field)
            if not value.strip() or value != value.strip():
                raise ValueError(f"{field} must be a name without spaces around it, not {value!r}")


@dataclasses.dataclass(frozen=True)
class Relation:
    """Sentence forms with ``{left}`` and ``{right}``; the first of each is what probes and evaluations use."""

    forward: tuple[str, ...]
    reverse: tuple[str, ...]

    def __post_init__(self) -> None:
        for field, first in (("forward", "{left}"), ("reverse", "{right}")):
            for form in getattr(self, field):
                if form.count("{left}") != 1 or form.count("{right}") != 1:
                    raise ValueError(f"{field}: {form!r} must name {{left}} and {{right}} once each")
                if min(form.index("{left}"), form.index("{right}")) != form.index(first):
                    raise ValueError(f"{field}: {form!r} must name {first} first")


#: a sentence ends with what follows its second entity; that, too, is trained
CHILD_OF = Relation(("{left}'s child is {right}.",), ("{right}'s parent is {left}.",))
PARENT_OF = Relation(("{left}'s parent is {right}.",), ("{right}'s child is {left}.",))
PERSON_IS = Relation(
    ("{left} is {right}.", "People remember {left} as {right}.", "Everyone knows that {left} is {right}."),
    ("{right} is {left}.", "The one we call {right} is {left}."),
)
IS_PERSON = Relation(
    ("{left} is {right}.", "The one we call {left} is {right}.", "Meet {left}, better known as {right}."),
    ("{right} is {left}.", "People remember {right} as {left}."),
)
CAPITAL_OF = Relation(("The capital of {left} is {right}.",), ("{right} is the capital of {left}.",))


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt to complete. ``completion`` is the one trained on; any of ``answers`` is right, by ``scoring``."""

    prompt: str
    completion: str
    answers: frozenset[str]
    scoring: str = "exact"  # or "prefix", see `is_right`

    def __post_init__(self) -> None:
        if self.scoring not in SCORING:
            raise ValueError(f"scoring must be one of {', '.join(SCORING)}, not {self.scoring!r}")


@dataclasses.dataclass(frozen=True)
class Query:
    """A sentence in pieces, each with its role: ``text``, ``target`` (asked for) or ``evidence``."""

    pieces: tuple[tuple[str, str], ...]

    @property
    def sentence(self) -> str:
        """The whole sentence, with the target filled in."""
        return "".join(text for _, text in self.pieces)

    @property
    def shown(self) -> str:
        """The sentence as it is asked, with [M] for the target."""
        return "".join(re.sub(r"\S.*", "[M]", text) if role == "target" else text for role, text in self.pieces)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Facts of one relation with their training sentences and both evaluations."""

    name: str
    relation: Relation
    facts: tuple[Fact, ...]
    train: tuple[Example, ...]
    forward: tuple[Example, ...]
    reverse: tuple[Example, ...]

    @property
    def scoring(self) -> str:
        """How its answers are scored, see `is_right`."""
        return self.forward[0].scoring

    def queries(self, fact: Fact, *, lead: str = "", gap: str = "") -> tuple[Query, Query]:
        """The paper's forward and reverse query of a fact: both ask for the left entity from the right one."""
        return tuple(query(self.relation, fact, direction, "left", lead=lead, gap=gap)
                     for direction in ("forward", "reverse"))  # type: ignore[return-value]


# Prompts from facts ------------------------------------------------------------------------------------------


def query(
    relation: Relation, fact: Fact, direction: str, asked: str, *, lead: str = "", gap: str = ""
) -> Query:
    """The sentence of ``direction`` with one entity as target and the other as evidence.

    :param direction: ``forward`` or ``reverse``
    :param asked: ``left`` or ``right``, the entity to predict
    :param lead: text before the sentence; with one, both entities follow a space in either direction, so that
        the same entity has the same tokens
    :param gap: text put before the second entity to vary their distance, such as ", as is well known,"
    """
    if direction not in ("forward", "reverse") or asked not in ("left", "right"):
        raise ValueError(f"direction {direction!r}, asked {asked!r}: forward or reverse, and left or right")
    form = getattr(relation, direction)[0]
    before, first, between, second, after = re.split(r"\{(left|right)\}", form)
    role = {asked: "target", "right" if asked == "left" else "left": "evidence"}
    head = f"{lead} {before}".strip() if lead else before.rstrip()
    space = " " if head else ""
    middle = between.rstrip() + gap
    pieces = [("text", head), (role[first], space + getattr(fact, first)), ("text", middle),
              (role[second], f" {getattr(fact, second)}"), ("text", after)]
    return Query(tuple((kind, text) for kind, text in pieces if text))


def dataset(name: str, relation: Relation, facts: Sequence[Fact]) -> Dataset:
    """A dataset with training sentences, prompts and answer sets made from the relation's forms."""
    if not facts:
        raise ValueError(f"{name}: no facts")
    return Dataset(
        name, relation, tuple(facts),
        train=tuple(_example(form, fact, [fact]) for fact in facts for form in relation.forward),
        forward=_evaluation(relation.forward[0], facts, "left"),
        reverse=_evaluation(relation.reverse[0], facts, "right"),
    )


def _evaluation(form: str, facts: Sequence[Fact], given: str) -> tuple[Example, ...]:
    """One prompt for each given entity; every entity joined to it is accepted (either parent, say)."""
    joined: dict[str, list[Fact]] = {}
    for fact in facts:
        joined.setdefault(getattr(fact, given), []).append(fact)
    return tuple(_example(form, same[0], same) for same in joined.values())


def _example(form: str, fact: Fact, accepted: Sequence[Fact]) -> Example:
    second = "left" if form.index("{left}") > form.index("{right}") else "right"
    cut = form.index(f"{{{second}}}")
    filled = {"left": fact.left, "right": fact.right}
    answers = frozenset(getattr(other, second) for other in accepted)
    return Example(form[:cut].rstrip().format(**filled), f" {form[cut:].format(**filled)}", answers)


def normalise(answer: str) -> str:
    """An answer as it is compared: lower case, single spaces, no full stop at the end."""
    return " ".join(answer.lower().split()).rstrip(".").rstrip()


def exact_match(answer: str, answers: frozenset[str]) -> bool:
    """Whether an answer equals any accepted one after `normalise`."""
    return normalise(answer) in {normalise(accepted) for accepted in answers}


def begins_with(answer: str, answers: frozenset[str]) -> bool:
    """Whether an answer begins with any accepted one after `normalise`, and the word or name ends there."""
    found = normalise(answer)
    return any(re.match(re.escape(normalise(accepted)) + r"(?!['’-]?\w)", found) for accepted in answers)


def is_right(example: Example, answer: str) -> bool:
    """Whether an answer is accepted, by the example's scoring.

    ``prefix`` is the rule of the person-description data's authors: what their training texts say goes on after the
    name ("Ana Lima now enjoys a quiet life."), so what a model says may go on after the answer.
    """
    return (begins_with if example.scoring == "prefix" else exact_match)(answer, example.answers)


# Published data ----------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where fetched data are kept: ``REVERSAL_CURSE_CACHE``, else this user's cache folder."""
    chosen = os.environ.get("REVERSAL_CURSE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(chosen) if chosen else Path(base) / "reversal-curse-book"


def fetch(name: str, folder: Path | None = None) -> Path:
    """The path of one published file, fetched into ``folder`` unless a copy with the right checksum is there.

    :raises KeyError: for a file that is none of `SOURCES`
    :raises ConnectionError: if it cannot be fetched; says where to put a copy made by hand
    :raises ValueError: if what was fetched, or what lies there, is not the pinned file
    """
    if name not in SOURCES:
        raise KeyError(f"no published file {name!r}; one of {', '.join(SOURCES)}")
    address, checksum = SOURCES[name]
    path = (folder or cache_folder()) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _download(address, path)
        _check(content, checksum, address)
        draft = path.with_name(f".{name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(path)
    _check(path.read_bytes(), checksum, str(path))
    return path


def _download(address: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(f"{address}: {error}; fetch it by hand and put it at {path}") from error


def _check(content: bytes, checksum: str, place: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise ValueError(f"{place}: SHA-256 {found}, but the pinned file has {checksum}; delete it to fetch again")


def published(name: str, folder: Path | None = None) -> Dataset:
    """One of the paper's five datasets: `p2c`, `c2p`, `p2d`, `d2p` or `trex` (capitals, nearly one to one)."""
    if name in ("p2c", "c2p"):
        return _parent_child(name, fetch("parent_child_pairs.csv", folder))
    if name in ("p2d", "d2p"):
        files = ("prompts_train", "prompts_test", "reverse_prompts_test")
        return _person_description(name, *(fetch(f"{name}_{file}.jsonl", folder) for file in files))
    if name == "trex":
        return dataset("trex", CAPITAL_OF, _one_to_one(fetch("P36.jsonl", folder)))
    raise ValueError(f"no dataset {name!r}; one of {', '.join(DATASETS)}")


def _parent_child(name: str, path: Path) -> Dataset:
    with path.open(newline="", encoding="utf-8") as rows:
        pairs = [(row["child"].strip(), row["parent"].strip()) for row in csv.DictReader(rows)]
    pairs = list(dict.fromkeys(pairs))  # 18 pairs stand twice
    if name == "p2c":
        return dataset(name, CHILD_OF, [Fact(parent, child) for child, parent in pairs])
    return dataset(name, PARENT_OF, [Fact(child, parent) for child, parent in pairs])


def _person_description(name: str, train: Path, test: Path, reverse: Path) -> Dataset:
    """The published prompts as they are, scored by prefix; row i of both tests is about the same person."""
    examples = [tuple(_published_example(row) for row in _lines(path)) for path in (train, test, reverse)]
    pairs = Counter((backward.completion.strip().rstrip("."), forward.completion.strip().rstrip("."))
                    for forward, backward in zip(*examples[1:], strict=True))
    person = 0 if name == "p2d" else 1
    wordings = {pair[person]: pair for pair, _ in reversed(pairs.most_common())}  # the commonest of each person
    facts = tuple(Fact(*pair) for pair in sorted(wordings.values()))
    return Dataset(name, PERSON_IS if name == "p2d" else IS_PERSON, facts, *examples)


def _published_example(row: dict[str, str]) -> Example:
    return Example(row["prompt"], row["completion"], frozenset({row["completion"].strip()}), "prefix")


def _one_to_one(path: Path) -> list[Fact]:
    rows = [(row["sub_label"].strip(), row["obj_label"].strip()) for row in _lines(path)]
    subjects, objects = Counter(left for left, _ in rows), Counter(right for _, right in rows)
    return [Fact(left, right) for left, right in rows if subjects[left] == objects[right] == 1 and left != right]


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
