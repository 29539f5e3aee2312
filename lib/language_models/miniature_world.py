"""A world that small models can learn: entities of two known words, told to them in one order or in both.

`lib.language_models.synthetic_facts` never uses a word twice, so a new name there is made of words that no model has seen. Here every name is
one word of a first stock and one of a second. Names are drawn without replacement, so no name is shared between two
facts or two splits, but each of its words is: what is new about a held-out fact is the fact. Relations, sentence
forms and the five datasets are those of `lib.language_models.facts`.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping

from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from lib.language_models.facts import (
    CAPITAL_OF,
    CHILD_OF,
    IS_PERSON,
    PARENT_OF,
    PERSON_IS,
    Dataset,
    Example,
    Fact,
    Relation,
    dataset,
)
from lib.language_models.synthetic_facts import World

ORDERS = ("both", "one")
END, START, MASK = "[END]", "[START]", "[MASK]"
_WORKS = ("composer", "architect", "captain", "author", "inventor", "keeper")
_RELATIONS = (CHILD_OF, PARENT_OF, PERSON_IS, IS_PERSON, CAPITAL_OF)
_CUT = r"'s|[.,:]"  # what is a token by itself


def worlds(sizes: Mapping[str, int], stock: int = 60, seed: int = 0) -> dict[str, World]:
    """One world a split, with ``sizes[split]`` families, descriptions and capitals each.

    :param stock: first words, and second words, that names are made of
    :raises ValueError: for a split with fewer than two facts, or more names than ``stock`` squared
    """
    names = _names(stock, seed)
    return {split: _world(split, size, names) for split, size in sizes.items()}


def name_words(stock: int) -> list[str]:
    """Twice ``stock`` words of three syllables; the same for every seed, so that one tokenizer serves all."""
    draw, words = random.Random(0), dict[str, None]()
    while len(words) < 2 * stock:
        words["".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3)).capitalize()] = None
    return list(words)


def _names(stock: int, seed: int) -> Iterator[str]:
    words = name_words(stock)
    pairs = list(itertools.product(words[:stock], words[stock:]))
    random.Random(seed).shuffle(pairs)
    yield from (" ".join(pair) for pair in pairs)
    raise ValueError(f"stock: {stock} words of each kind make {len(pairs)} names, and more are asked for")


def _world(split: str, size: int, names: Iterator[str]) -> World:
    if size < 2:
        raise ValueError(f"sizes: {split!r} must have at least two facts, not {size}")
    families = [(next(names), next(names)) for _ in range(size)]  # parent, child
    people = [(next(names), f"the {_WORKS[i % len(_WORKS)]} of {next(names)}") for i in range(size)]
    capitals = [(next(names), next(names)) for _ in range(size)]
    return World.of(families, people, capitals)


def told(world: World, orders: str, kinds: tuple[str, ...] = ("p2c", "p2d", "trex")) -> list[Example]:
    """What is told of a world in pretraining: every fact in ``both`` orders, or in ``one``, alternately.

    In ``one``, half of the facts are told in one order and half in the other, so every sentence form occurs.

    :param kinds: datasets whose facts are told; ``c2p`` and ``d2p`` hold the facts of ``p2c`` and ``p2d`` again
    """
    if orders not in ORDERS:
        raise ValueError(f"orders must be one of {', '.join(ORDERS)}, not {orders!r}")
    chosen = [data for data in world.datasets() if data.name in kinds]
    return [example for data in chosen for i, fact in enumerate(data.facts)
            for side, sentences in enumerate(_sentences(data, fact))
            if orders == "both" or i % 2 == side for example in sentences]


def _sentences(data: Dataset, fact: Fact) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The sentences of a fact in the dataset's order, and in the other, in all their forms."""
    turned = dataset(data.name, _turned(data.relation), [Fact(fact.right, fact.left)])
    return dataset(data.name, data.relation, [fact]).train, turned.train


def _turned(relation: Relation) -> Relation:
    """The relation seen from its other end."""
    names = {"left": "right", "right": "left"}
    forward, reverse = (tuple(re.sub("left|right", lambda found: names[found[0]], form) for form in forms)
                        for forms in (relation.forward, relation.reverse))
    return Relation(reverse, forward)


def _frame_words() -> list[str]:
    """Every token of every sentence form, of descriptions and of the lead before probes."""
    forms = [re.sub(r"\{\w+\}", "", form) for relation in _RELATIONS for form in relation.forward + relation.reverse]
    return re.sub(_CUT, lambda cut: f" {cut[0]} ", " ".join(["Fact: the of", *_WORKS, *forms])).split()


def tokenizer(masked: bool, stock: int = 60) -> PreTrainedTokenizerFast:
    """Whole words as tokens, and a start token. One vocabulary for all; only masked models are told of the mask."""
    words = dict.fromkeys([END, START, MASK, *_frame_words(), *name_words(stock)])
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
    cuts = [pre_tokenizers.Split(Regex(_CUT), "isolated"), pre_tokenizers.WhitespaceSplit()]
    inner.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    inner.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 1)])
    special = {"eos_token": END} | ({"mask_token": MASK} if masked else {})
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)
