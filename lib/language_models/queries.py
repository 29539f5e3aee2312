"""Queries as tensors: what the probes of `lib.language_models.signatures` read.

Each piece of a `lib.language_models.facts.Query` is tokenized by itself, so the tokens of target and evidence are known by
position, and an entity that follows a space has the same tokens wherever it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lib.language_models.facts import Query
from lib.language_models.signatures import IGNORED


class Prompt(NamedTuple):
    """One query in tokens."""

    input_ids: Int[Tensor, " length"]
    labels: Int[Tensor, " length"]  # -100 but at the target
    target: tuple[int, ...]  # positions of the target's tokens
    evidence: tuple[int, ...]


def encode(query: Query, tokenizer: Any) -> Prompt:
    """A query in tokens; the target is masked where the tokenizer has a mask token, and shown where not.

    A causal model needs the target's own tokens in place to predict its second one; it never sees the token it
    predicts, nor anything after it.

    :raises ValueError: if a piece has no tokens
    """
    pieces = [("text", tokenizer("")["input_ids"])]  # the start token, where the model has one
    for role, text in query.pieces:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the piece {text!r} of {query.shown!r} has no tokens")
        pieces.append((role, ids))
    roles = [role for role, ids in pieces for _ in ids]
    tokens = torch.tensor([token for _, ids in pieces for token in ids])
    wanted = torch.tensor([role == "target" for role in roles])
    mask = tokenizer.mask_token_id
    return Prompt(
        input_ids=tokens if mask is None else tokens.masked_fill(wanted, mask),
        labels=tokens.masked_fill(~wanted, IGNORED),
        target=_where(roles, "target"),
        evidence=_where(roles, "evidence"),
    )


def _where(roles: Sequence[str], role: str) -> tuple[int, ...]:
    return tuple(i for i, found in enumerate(roles) if found == role)


def batch(prompts: Sequence[Prompt], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Prompts side by side, shorter ones padded on the right and hidden by ``attention_mask``.

    :return: ``input_ids``, ``labels`` and ``attention_mask``, each (batch, length)
    """
    if not prompts:
        raise ValueError("no prompts to put into a batch")
    length = max(len(prompt.input_ids) for prompt in prompts)
    rows = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
    full = {field: torch.full((len(prompts), length), value) for field, value in rows.items()}
    for i, prompt in enumerate(prompts):
        size = len(prompt.input_ids)
        full["input_ids"][i, :size] = prompt.input_ids
        full["labels"][i, :size] = prompt.labels
        full["attention_mask"][i, :size] = 1
    return {field: value.to(device) for field, value in full.items()}
