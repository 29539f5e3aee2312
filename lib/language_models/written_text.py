"""Text that a causal language model writes itself: prose without a download, and without another's copyright.

Each next token is drawn from the `LIKELIEST`, in proportion to their probability. The draws are made on the CPU,
whatever the model computes on. One seed gives one text on one machine; on another, rounding may turn a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lib.language_models.queries import is_causal
from lib.language_models.signatures import evaluating

#: words that texts begin with; after its start token alone SmolLM2 writes code as often as sentences
OPENING_WORDS = (" The", " In", " She", " He", " They", " It", " When", " After", " Many", " One", " People", " At",
                 " For", " As", " There", " This")
LIKELIEST = 50
PIECE = 14  # tokens of a piece of prose
_PIECES, _TOGETHER = 4, 4  # of a text, and texts of each opening written side by side


def written_texts(model: Any, tokenizer: Any, texts: int = 8, tokens: int = 60, seed: int = 0) -> list[str]:
    """So many texts, each up to its end or ``tokens`` long, one after another of `OPENING_WORDS`.

    :raises ValueError: for a model that does not write from left to right
    """
    openings = [OPENING_WORDS[i % len(OPENING_WORDS)] for i in range(texts)]
    rows = _written(model, tokenizer, openings, tokens, torch.Generator().manual_seed(seed))
    return [tokenizer.decode(row) for row in rows]


def written_prose(
    model: Any, tokenizer: Any, lines: int = 1000, seed: int = 0, report: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Pieces of text, `PIECE` tokens each and a space before. Takes one to three minutes on one core for 1,000.

    :param report: called with a line of progress
    :raises ValueError: if no text is as long as a piece, or for a model that does not write from left to right
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[str] = []
    while len(found) < lines:
        rows = _written(model, tokenizer, OPENING_WORDS * _TOGETHER, _PIECES * PIECE, generator)
        pieces = [row[i : i + PIECE] for row in rows for i in range(0, len(row) - PIECE + 1, PIECE)]
        if not pieces:
            raise ValueError(f"prose: the model ends every text within {PIECE} tokens")
        found += [" ".join(tokenizer.decode(piece).split()) for piece in pieces]
        report(f"prose: {min(len(found), lines)} of {lines} pieces")
    return [f" {line}" for line in found[:lines]]


def _written(
    model: Any, tokenizer: Any, openings: Sequence[str], length: int, generator: torch.Generator
) -> list[list[int]]:
    """The tokens of each text, its opening included, up to an end token.

    :raises ValueError: for a model that does not write from left to right
    """
    if not is_causal(model):
        raise ValueError("model: only a causal one writes from left to right; let that write and read it with this one")
    ids = torch.tensor([tokenizer(opening)["input_ids"] for opening in openings])
    with evaluating(model):
        written = _sampled(model, ids.to(model.device), length, generator).cpu()
    rows, end = torch.cat([ids[:, 1:], written], 1).tolist(), tokenizer.eos_token_id
    return [row[: row.index(end)] if end in row else row for row in rows]


@torch.no_grad()
def _sampled(
    model: Any, ids: Int[Tensor, "text opening"], length: int, generator: torch.Generator
) -> Int[Tensor, "text length"]:
    """``length`` tokens after each row, with the keys of earlier ones kept."""
    written, cache = [], None
    for _ in range(length):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        values, likeliest = out.logits[:, -1].float().topk(LIKELIEST)
        drawn = values.softmax(-1).cpu().multinomial(1, generator=generator)
        ids = likeliest.gather(1, drawn.to(likeliest.device))
        written.append(ids)
    return torch.cat(written, 1)
