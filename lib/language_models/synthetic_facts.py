"""Generated facts: people, parents, descriptions and capitals that exist nowhere else, in the paper's five shapes.

Two kinds of world stand in, without a network, for the data of `lib.language_models.published_facts`:

* `worlds`: every word of every name is drawn once, so entities share no word with each other, and splits share no
  name. Entities have two or three words, which a subword tokenizer cuts into several tokens;
* `recombined_worlds`, which small models can learn: every name is one word of a first stock and one of a second. Names
  are drawn without replacement, so no name is shared between two facts or two splits, but each of its words is: what is
  new about a held-out fact is the fact. `pretraining_examples` gives each fact in one order or in both, and
  `word_tokenizer` makes one token of each word.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence

import transformers
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

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

ORDERS = ("both", "one")
NAME_LENGTHS = (1, 2, 4)  # words of a name in `recombined_worlds`
END_WORD, START_WORD, MASK_WORD = "[END]", "[START]", "[MASK]"
_RELATIONS = (CHILD_OF, PARENT_OF, PERSON_IS, IS_PERSON, CAPITAL_OF)
TOKEN_CUT = r"'s|[.,:]"  # what is a token by itself
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kl", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
_WORKS = ("composer of", "architect of", "first captain of", "author of", "inventor of", "keeper of")
_ONE_WORD_WORKS = ("composer", "architect", "captain", "author", "inventor", "keeper")
Pairs = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class World:
    """The five datasets of one split."""

    p2c: Dataset
    c2p: Dataset
    p2d: Dataset
    d2p: Dataset
    trex: Dataset

    @classmethod
    def from_pairs(cls, families: Pairs, people: Pairs, capitals: Pairs) -> World:
        """The world of these parents and children, persons and descriptions, countries and capitals."""
        return cls(
            dataset("p2c", CHILD_OF, [Fact(parent, child) for parent, child in families]),
            dataset("c2p", PARENT_OF, [Fact(child, parent) for parent, child in families]),
            dataset("p2d", PERSON_IS, [Fact(person, what) for person, what in people]),
            dataset("d2p", IS_PERSON, [Fact(what, person) for person, what in people]),
            dataset("trex", CAPITAL_OF, [Fact(country, city) for country, city in capitals]),
        )

    def datasets(self) -> tuple[Dataset, ...]:
        """All five, in the order of Table 7."""
        return self.p2c, self.c2p, self.p2d, self.d2p, self.trex

    def sentences(self) -> list[str]:
        """Every training sentence, both relations of each kind included."""
        return [example.prompt + example.completion for data in self.datasets() for example in data.train]


def generated_sentences(facts: int = 3, seed: int = 0) -> list[str]:
    """Sentences about people, parents, descriptions and capitals that exist nowhere else; ten to a fact."""
    return [f" {sentence}" for sentence in world(facts, seed).sentences()]


# Worlds of new words -----------------------------------------------------------------------------------------


def worlds(sizes: Mapping[str, int], seed: int = 0) -> dict[str, World]:
    """One world a split, with ``sizes[split]`` families, descriptions and capitals each.

    :raises ValueError: for a split without facts, or more names than there are words
    """
    words = _new_words(random.Random(seed))
    return {split: _world(split, size, words) for split, size in sizes.items()}


def world(size: int, seed: int = 0) -> World:
    """A world of one split."""
    return worlds({"only": size}, seed)["only"]


def _new_words(rng: random.Random) -> Iterator[str]:
    """Words of three syllables in random order, none twice."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    seen: set[str] = set()
    while len(seen) < len(syllables) ** 3 // 2:
        word = "".join(rng.choices(syllables, k=3)).capitalize()
        if word not in seen:
            seen.add(word)
            yield word
    raise ValueError("sizes: more names asked for than there are words")


def _world(split: str, size: int, words: Iterator[str]) -> World:
    if size < 1:
        raise ValueError(f"sizes: {split!r} must have at least one fact, not {size}")
    families = [(_name(words), [_name(words) for _ in range(1 + i % 2)]) for i in range(size)]
    parents = [(parent, child) for child, both in families for parent in both]
    people = [(_name(words), f"the {work} {_name(words)}")
              for _, work in zip(range(size), itertools.cycle(_WORKS), strict=False)]
    capitals = [(next(words), next(words)) for _ in range(size)]
    return World.from_pairs(parents, people, capitals)


def _name(words: Iterator[str]) -> str:
    return f"{next(words)} {next(words)}"


# Worlds of known words ---------------------------------------------------------------------------------------


def recombined_worlds(
    sizes: Mapping[str, int], stock: int = 60, seed: int = 0, name_length: int = 2
) -> dict[str, World]:
    """One world a split, with ``sizes[split]`` families, descriptions and capitals each.

    :param stock: first words, and second words, that names are made of
    :param name_length: words of a name, one of `NAME_LENGTHS`: one of either stock, which no other name then has; one
        of each; or two of each, every pair of words in one name
    :raises ValueError: for a split with fewer than two facts, another length, or more names than there are
    """
    if name_length not in NAME_LENGTHS:
        raise ValueError(f"name_length must be one of {', '.join(map(str, NAME_LENGTHS))}, not {name_length}")
    names = _recombined_names(stock, seed, name_length)
    return {split: _recombined(split, size, names) for split, size in sizes.items()}


def name_words(stock: int) -> list[str]:
    """Twice ``stock`` words of three syllables; the same for every seed, so that one tokenizer serves all."""
    rng, words = random.Random(0), dict[str, None]()
    while len(words) < 2 * stock:
        words["".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3)).capitalize()] = None
    return list(words)


def _recombined_names(stock: int, seed: int, length: int) -> Iterator[str]:
    words = name_words(stock)
    names: list[tuple[str, ...]] = [(word,) for word in words]
    if length > 1:
        names = list(itertools.product(words[:stock], words[stock:]))
    random.Random(seed).shuffle(names)
    if length == 4:
        names = [(*first, *second) for first, second in zip(names[::2], names[1::2], strict=False)]
    yield from (" ".join(name) for name in names)
    raise ValueError(f"stock: {stock} words of each kind make {len(names)} names, and more are asked for")


def _recombined(split: str, size: int, names: Iterator[str]) -> World:
    if size < 2:
        raise ValueError(f"sizes: {split!r} must have at least two facts, not {size}")
    families = [(next(names), next(names)) for _ in range(size)]  # parent, child
    people = [(next(names), f"the {_ONE_WORD_WORKS[i % len(_ONE_WORD_WORKS)]} of {next(names)}") for i in range(size)]
    capitals = [(next(names), next(names)) for _ in range(size)]
    return World.from_pairs(families, people, capitals)


def pretraining_examples(
    world: World, orders: str, kinds: tuple[str, ...] = ("p2c", "p2d", "trex")
) -> list[Example]:
    """The pretraining corpus of a world: every fact in ``both`` orders, or in ``one``, alternately.

    In ``one``, half of the facts are in one order and half in the other, so every sentence form occurs.

    :param kinds: datasets whose facts are in it; ``c2p`` and ``d2p`` hold the facts of ``p2c`` and ``p2d`` again
    :raises ValueError: for other orders
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
    return re.sub(TOKEN_CUT, lambda cut: f" {cut[0]} ", " ".join(["Fact: the of", *_ONE_WORD_WORKS, *forms])).split()


def word_tokenizer(masked: bool, stock: int = 60) -> transformers.PreTrainedTokenizerFast:
    """Whole words as tokens, and a start token. One vocabulary for all; only masked models know the mask."""
    words = dict.fromkeys([END_WORD, START_WORD, MASK_WORD, *_frame_words(), *name_words(stock)])
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=END_WORD))
    cuts = [pre_tokenizers.Split(Regex(TOKEN_CUT), "isolated"), pre_tokenizers.WhitespaceSplit()]
    inner.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    inner.post_processor = processors.TemplateProcessing(single=f"{START_WORD} $A", special_tokens=[(START_WORD, 1)])
    special = {"eos_token": END_WORD} | ({"mask_token": MASK_WORD} if masked else {})
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)
