"""Facts, and the prompts that ask for them in the trained and in the reverse direction (Sec. 6, App. D.2).

A fact joins a *left* and a *right* entity. Training shows the forward sentence ("Ana's child is Bob"); the reverse
sentence ("Bob's parent is Ana") is never trained. Two kinds of question are made from a fact:

* `Example`: a prompt to be completed, with the set of accepted answers (Table 7);
* `Query`: a sentence with one entity asked for and the other as evidence, in place (the probes of Fig. 4). The
  paper's forward query and its reverse query both ask for the left entity, from the same right entity:
  "[M]'s child is Bob" and "Bob's parent is [M]".

The datasets themselves come from `lib.language_models.published_facts` or `lib.language_models.synthetic_facts`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

DATASETS = ("p2c", "c2p", "p2d", "d2p", "trex")
FACT_SOURCES = ("published", "generated")
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

    def after_space(self) -> Relation:
        """These forms with a space before each, so that a subword tokenizer cuts a name alike wherever it stands."""
        return Relation(*(tuple(f" {form.lstrip()}" for form in forms) for forms in (self.forward, self.reverse)))


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
    first: str = ""  # the first entity, which stands in the prompt; none in a text without entities

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
        the same entity has the same tokens; a form that begins with a space does the same
    :param gap: text put before the second entity to vary their distance, such as ", as is well known,"
    :raises ValueError: for another direction or entity
    """
    if direction not in ("forward", "reverse") or asked not in ("left", "right"):
        raise ValueError(f"direction {direction!r}, asked {asked!r}: forward or reverse, and left or right")
    form = getattr(relation, direction)[0]
    before, first, between, second, after = re.split(r"\{(left|right)\}", form)
    role = {asked: "target", "right" if asked == "left" else "left": "evidence"}
    head = f"{lead} {before.lstrip()}".strip() if lead else before.rstrip()
    space = " " if head or before else ""
    middle = between.rstrip() + gap
    pieces = [("text", head), (role[first], space + getattr(fact, first)), ("text", middle),
              (role[second], f" {getattr(fact, second)}"), ("text", after)]
    return Query(tuple((kind, text) for kind, text in pieces if text))


def dataset(name: str, relation: Relation, facts: Sequence[Fact]) -> Dataset:
    """A dataset with training sentences, prompts and answer sets made from the relation's forms.

    :raises ValueError: without facts
    """
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
    return Example(form[:cut].rstrip().format(**filled), f" {form[cut:].format(**filled)}", answers,
                   first=filled["right" if second == "left" else "left"])


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
