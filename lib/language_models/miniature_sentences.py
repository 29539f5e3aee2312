"""How the miniature's sentences are worded, and what else a training set makes of each.

Three confounds and one question are settled by text alone, with models, steps and rows as they are:

* **wording** (`worded_world`, `told_examples`): in the book's sentences the relation word turns with the order ("Ana's
  child is Bob", "Bob's parent is Ana"). ``one word`` has one word in both orders, ``one order`` two words in one. A
  person's description is longer than the person's name ("Ana Lima is the keeper of Bob Reis"): in ``short description``
  it is a name alone, and ``exchanged`` puts the description where the name stood, and the name where it stood;
* **an autoregressive model that is asked for the first entity** (`shown_as`): it reads half of its sentences in another
  form. ``infilled``: with a hole, which is filled at the end (Bavarian et al. 2022); ``permuted``: its entities and
  relation in another order; ``masked``: after a copy with masks (Pan et al. 2025); ``identity`` and ``composed``:
  beside "Ana is Ana" or "The parent of Ana's child is Ana" (the identity bridge, arXiv 2602.02470); ``reversed``:
  beside its reverse, which is no held-out question any more but an upper bound.

The hole, the masks and the mark of a changed order are the word that masked models know as their mask.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lib.language_models.facts import CHILD_OF, PERSON_IS, Dataset, Example, Fact, Relation, dataset
from lib.language_models.synthetic_facts import MASK_WORD, TOKEN_CUT, World, pretraining_examples

WORDED_DATASETS = {"one word": "p2c", "one order": "p2c", "short description": "p2d", "exchanged": "p2d"}
WORDINGS = ("both", *WORDED_DATASETS)
_ONE_WORD = Relation(("{left} is known as {right}.",), ("{right} is known as {left}.",))
_SECOND_WORD = Relation(("{left} is parent of {right}.",), CHILD_OF.reverse)
_OPPOSITE = {"child": "parent", "parent": "child"}
_MASKED_PARTS = ((1,), (3,), (1, 2), (2, 3), (1, 3))  # of `SentenceParts`


# Wording -----------------------------------------------------------------------------------------------------


def worded_world(world: World, wording: str) -> World:
    """A world whose families, or descriptions, are told and asked about in another wording.

    In ``one order`` the reverse question is the other sentence about the same entities in the same order: "Ana is
    parent of" asks for the child.
    """
    facts = world.p2c.facts
    if wording == "one word":
        return dataclasses.replace(world, p2c=dataset("p2c", _ONE_WORD, facts))
    if wording == "one order":
        other = dataset("p2c", _SECOND_WORD, facts).forward
        return dataclasses.replace(world, p2c=dataclasses.replace(world.p2c, reverse=other))
    if wording == "short description":
        short = [Fact(fact.left, fact.right.split(" of ", 1)[1]) for fact in world.p2d.facts]
        return dataclasses.replace(world, p2d=dataset("p2d", PERSON_IS, short))
    if wording == "exchanged":
        exchanged = [Fact(fact.right, fact.left) for fact in world.p2d.facts]
        return dataclasses.replace(world, p2d=dataset("p2d", PERSON_IS, exchanged))
    return world


def told_examples(world: World, orders: str, kinds: tuple[str, ...], wording: str = "both") -> list[Example]:
    """The pretraining corpus of a `worded_world`, both sentences of each fact side by side."""
    if wording != "one order":
        return pretraining_examples(world, orders, kinds)
    sentences = zip(world.p2c.train, dataset("p2c", _SECOND_WORD, world.p2c.facts).train, strict=True)
    return [example for i, pair in enumerate(sentences) for side, example in enumerate(pair)
            if orders == "both" or i % 2 == side]


# Forms -------------------------------------------------------------------------------------------------------


class SentenceParts(NamedTuple):
    """A training sentence, cut where its entities begin and end."""

    before: str
    first: str
    relation: str
    second: str
    after: str


def sentence_parts(example: Example) -> SentenceParts:
    """The parts of a training example with one answer.

    :raises ValueError: for a text without entities
    """
    if not example.first or len(example.answers) != 1:
        raise ValueError(f"{example.prompt + example.completion!r} is no sentence with two entities")
    (second,) = example.answers
    place = example.prompt.index(example.first)
    return SentenceParts(example.prompt[:place].strip(), example.first,
                         example.prompt[place + len(example.first):].strip(), second,
                         example.completion.strip()[len(second):])


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _text(prompt: str, completion: str) -> Example:
    """A prompt and what follows it, without an entity to be masked."""
    return Example(prompt, f" {completion}", frozenset({completion}))


def _infilled(example: Example) -> list[Example]:
    before, first, relation, second, after = sentence_parts(example)
    return [_text(_joined(before, MASK_WORD, relation, second + after, MASK_WORD), first),
            _text(_joined(before, first, relation, MASK_WORD + after, MASK_WORD), second)]


def _permuted(example: Example) -> list[Example]:
    before, first, relation, second, after = sentence_parts(example)
    _, *others = itertools.permutations((_joined(before, first), relation, second))
    return [_text(_joined(MASK_WORD, *parts[:-1]), parts[-1] + after) for parts in others]


def _masked(example: Example) -> list[Example]:
    parts, whole = sentence_parts(example), (example.prompt + example.completion).strip()
    hidden = [[_masks(part) if i in chosen else part for i, part in enumerate(parts)] for chosen in _MASKED_PARTS]
    return [_text(_joined(*pieces, ":"), whole) for pieces in hidden]


def _masks(part: str) -> str:
    """A mask for each token."""
    return " ".join(MASK_WORD for _ in re.sub(TOKEN_CUT, r" \g<0> ", part).split())


def _identity(example: Example) -> list[Example]:
    first = sentence_parts(example).first
    return [_text(f"{first} is", f"{first}.")]


def _family(example: Example) -> tuple[SentenceParts, str, str]:
    """The parts of a sentence about a family, its relation word and the opposite one."""
    parts = sentence_parts(example)
    word = re.fullmatch(r"'s (child|parent) is", parts.relation)
    if word is None:
        raise ValueError(f"{example.prompt + example.completion!r} is no sentence about parents and children")
    return parts, word[1], _OPPOSITE[word[1]]


def _composed(example: Example) -> list[Example]:
    parts, word, opposite = _family(example)
    return [_text(f"The {opposite} of {parts.first}'s {word} is", f"{parts.first}.")]


def _reversed(example: Example) -> list[Example]:
    (_, first, _, second, _), _, opposite = _family(example)
    return [Example(f"{second}'s {opposite} is", f" {first}.", frozenset({first}), first=second)]


#: form -> what a sentence is shown as beside itself, and how many that are
_FORMS: dict[str, tuple[Callable[[Example], list[Example]], int]] = {
    "infilled": (_infilled, 2), "permuted": (_permuted, 5), "masked": (_masked, len(_MASKED_PARTS)),
    "identity": (_identity, 1), "composed": (_composed, 1), "reversed": (_reversed, 1)}
FORMS = ("plain", *_FORMS)
#: forms that ask for an entity in their own way -> which of a form's sentences ask for the first and the second one
_ASKING = {"infilled": (0, 1), "permuted": (2, 1), "masked": (0, 1)}
ASKED_FORMS = tuple(_ASKING)
FAMILY_FORMS = ("composed", "reversed")  # that are made of parents and children alone


def shown_as(examples: Sequence[Example], form: str) -> list[Example]:
    """Sentences, half of them in another form: each stands as often as it is, as in the forms that are made of it.

    :raises ValueError: for another form, or a sentence that it cannot be made of
    """
    if form not in FORMS:
        raise ValueError(f"no form {form!r}; one of {', '.join(FORMS)}")
    if form == "plain":
        return list(examples)
    make, count = _FORMS[form]
    return [shown for example in examples for shown in (*[example] * count, *make(example))]


def copies(form: str) -> int:
    """How many sentences `shown_as` makes of one."""
    return 2 * _FORMS[form][1] if form in _FORMS else 1


# Questions ---------------------------------------------------------------------------------------------------


def asked_in_form(example: Example, form: str, entity: int) -> Example:
    """A sentence as one of `ASKED_FORMS` asks for an entity: in its hole, at the end of another order, or unmasked.

    :param example: a training sentence, or a question with its answer
    :param entity: 0 for the first, 1 for the second
    """
    asked = _FORMS[form][0](example)[_ASKING[form][entity]]
    parts = sentence_parts(example)
    return dataclasses.replace(asked, answers=frozenset({(parts.first, parts.second)[entity]}))


def wrong_frame(data: Dataset) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Questions whose frame does not fit what is given, with the answer that only a symmetric relation would have.

    The forward frame with the right entity ("Bob's child is", answered "Ana"), and the reverse frame with the left one
    ("Ana's parent is", answered "Bob"). Both are errors.
    """
    relation = Relation(data.relation.forward[:1], data.relation.reverse[:1])
    swapped = [dataclasses.replace(fact, left=fact.right, right=fact.left) for fact in data.facts]
    asked = dataset(data.name, relation, swapped)
    return asked.forward, asked.reverse
