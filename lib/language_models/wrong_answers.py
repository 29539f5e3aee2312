"""What wrong answers are made of: pieces of the right name, of the name that is shown, or of neither.

A language model writes names in pieces, its tokens. An answer such as "Patber Heard" is no name and no mixture of whole
words (`lib.language_models.name_ranks.answer_kind` calls it other text), yet its last two pieces are those of "Amber
Heard", whom the question shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.language_models.facts import Example, is_right

#: what `piece_shares` finds
PIECE_SHARES = ("of_right", "of_shown", "of_both", "of_others", "begins")


def piece_shares(answers: Sequence[str], asked: Sequence[Example], tokenizer: Any) -> dict[str, float]:
    """Of the answers that are wrong: the mean percent of their pieces that stand in names, and how they begin.

    * ``of_right``: in a right name; ``of_shown``: in the name that is shown; ``of_both``: in any of these
    * ``of_others``: in one of the names of another question, mean over all other questions
    * ``begins``: percent of wrong answers that begin with the first piece of a right name

    :param answers: one for each question
    :param asked: at least two questions
    :return: nothing where no answer is wrong, or none says anything
    :raises ValueError: for other than one answer a question, or a single question
    """
    if len(answers) != len(asked) or len(asked) < 2:
        raise ValueError(f"{len(answers)} answers to {len(asked)} questions: there must be two or more, one of each")
    shown = [set(pieces(example.first, tokenizer)) for example in asked]
    right = [[pieces(name, tokenizer) for name in sorted(example.answers)] for example in asked]
    both = [{*names, *(piece for name in accepted for piece in name)}
            for names, accepted in zip(shown, right, strict=True)]
    found = []
    for place, (answer, example) in enumerate(zip(answers, asked, strict=True)):
        said = pieces(answer, tokenizer)
        if is_right(example, answer) or not said:
            continue
        others = [_share(said, names) for other, names in enumerate(both) if other != place]
        found.append((_share(said, {piece for name in right[place] for piece in name}), _share(said, shown[place]),
                      _share(said, both[place]), sum(others) / len(others),
                      100.0 * any(name[:1] == said[:1] for name in right[place])))
    return dict(zip(PIECE_SHARES, np.mean(found, axis=0).tolist(), strict=True)) if found else {}


def pieces(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text as it stands in a sentence, but for those without a letter or digit."""
    ids = tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
    return [token for token in ids if any(character.isalnum() for character in tokenizer.decode([token]))]


def _share(said: Sequence[int], known: set[int]) -> float:
    """Percent of the pieces that are known."""
    return 100 * sum(piece in known for piece in said) / len(said)
