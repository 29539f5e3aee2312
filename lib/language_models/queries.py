"""Queries as tensors, and the logits that answer them: what `lib.language_models.signatures` measures.

A *batch* is a mapping with ``input_ids`` (batch, length), ``labels`` of the same shape, and optionally
``attention_mask``. ``labels`` are `IGNORED` except at the positions asked for, and stand *at* those positions. A model
whose row i-1 of the logits predicts position i (Dream, every causal model) is shifted here, in `aligned_logits`, and
nowhere else.

Each piece of a `lib.language_models.facts.Query` is tokenised by itself, so the tokens of target and evidence are known
by position, and an entity that follows a space has the same tokens wherever it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.language_models.facts import Dataset, Fact, Query

#: before every sentence, so that an entity has the same tokens in both directions
LEAD = "Fact:"
IGNORED = -100  # the label of a position that is not asked for
Batch = Mapping[str, Tensor]
_FIELDS = ("input_ids", "labels", "attention_mask")


class EncodedQuery(NamedTuple):
    """One query in tokens."""

    input_ids: Int[Tensor, " length"]
    labels: Int[Tensor, " length"]  # IGNORED but at the target
    target: tuple[int, ...]  # positions of the target's tokens
    evidence: tuple[int, ...]


def encode(query: Query, tokenizer: Any) -> EncodedQuery:
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
    return EncodedQuery(
        input_ids=tokens if mask is None else tokens.masked_fill(wanted, mask),
        labels=tokens.masked_fill(~wanted, IGNORED),
        target=_positions(roles, "target"),
        evidence=_positions(roles, "evidence"),
    )


def _positions(roles: Sequence[str], role: str) -> tuple[int, ...]:
    return tuple(i for i, found in enumerate(roles) if found == role)


def encoded_pair(
    data: Dataset, fact: Fact, tokenizer: Any, *, lead: str = LEAD, gap: str = ""
) -> tuple[EncodedQuery, EncodedQuery]:
    """The forward and the reverse query of a fact, in tokens; the target's are the same in both.

    :raises ValueError: if they are not, as happens where a name begins the sentence
    """
    forward, reverse = (encode(query, tokenizer) for query in data.queries(fact, lead=lead, gap=gap))
    if forward.labels[list(forward.target)].tolist() != reverse.labels[list(reverse.target)].tolist():
        raise ValueError(f"{fact}: the target has other tokens in reverse; give a lead")
    return forward, reverse


def batch(queries: Sequence[EncodedQuery], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Queries side by side, shorter ones padded on the right and hidden by ``attention_mask``.

    :return: ``input_ids``, ``labels`` and ``attention_mask``, each (batch, length)
    :raises ValueError: if there are none
    """
    if not queries:
        raise ValueError("no prompts to put into a batch")
    columns = {
        "input_ids": ([query.input_ids for query in queries], 0),
        "labels": ([query.labels for query in queries], IGNORED),
        "attention_mask": ([torch.ones_like(query.input_ids) for query in queries], 0),
    }
    pad = torch.nn.utils.rnn.pad_sequence
    return {field: pad(rows, batch_first=True, padding_value=value).to(device)
            for field, (rows, value) in columns.items()}


def check_batch(batch: Batch) -> None:
    """Refuse a batch that lacks a field, asks for nothing, or whose fields differ in shape.

    :raises ValueError: for the first of these, by field
    """
    holds = "a batch holds input_ids, labels and maybe attention_mask"
    for field in _FIELDS[:2]:
        if field not in batch:
            raise ValueError(f"batch: field {field!r} is missing; {holds}")
    shape = batch["input_ids"].shape
    for field, value in batch.items():
        if field not in _FIELDS:
            raise ValueError(f"batch: unknown field {field!r}; {holds}")
        if value.shape != shape or value.dim() != 2:
            raise ValueError(f"batch: {field} is {tuple(value.shape)}; all fields share one (batch, length)")
    if not asked(batch).any():
        raise ValueError(f"batch: every label is {IGNORED}, so no position is asked for")


def asked(batch: Batch) -> Bool[Tensor, "batch length"]:
    """Where the labels ask for a token."""
    return batch["labels"] != IGNORED


# Which row of the logits predicts which position -------------------------------------------------------------


def is_causal(model: nn.Module) -> bool:
    """Does a model attend to the left only? It does unless its ``config.is_causal`` is false."""
    return getattr(getattr(model, "config", None), "is_causal", True) is not False


def logits_shift(model: nn.Module) -> int:
    """0 where row i of the logits predicts position i, 1 where row i-1 does (Dream, causal models).

    A model may say so itself by an attribute ``logits_shift`` (on it or on its ``config``); otherwise a causal
    one has 1, and a model without a config 0.

    :raises ValueError: for a ``logits_shift`` other than 0 and 1
    """
    config = getattr(model, "config", None)
    for holder in (model, config):
        shift = getattr(holder, "logits_shift", None)
        if shift is not None:
            if shift not in (0, 1):
                raise ValueError(f"logits_shift must be 0 or 1, not {shift!r}")
            return int(shift)
    return int(config is not None and is_causal(model))


def aligned_logits(
    model: nn.Module, logits: Float[Tensor, "batch length vocab"]
) -> Float[Tensor, "batch length vocab"]:
    """Logits with row i for position i. With a shift, row 0 predicts position 0 too, as in Dream's own sampler."""
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if logits_shift(model) else logits


def logits_at(
    model: Any, input_ids: Int[Tensor, "batch length"], wanted: Bool[Tensor, "batch length"], *,
    attention_mask: Int[Tensor, "batch length"] | None = None, shift: int | None = None,
) -> Float[Tensor, "wanted vocab"]:
    """The logits that predict the wanted positions of a transformers model, in reading order.

    The unembedding is applied to these positions alone: of a small model with a large vocabulary it is a quarter of
    the work. Adapters may be on the model.

    :param shift: as `logits_shift`, which is taken where it is not given
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = whole.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    row, place = wanted.nonzero(as_tuple=True)
    place = (place - (logits_shift(whole) if shift is None else shift)).clamp(min=0)
    return whole.lm_head(hidden[row, place])


def asked_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "asked vocab"]:
    """The logits (float32 at least) that predict each position asked for, in reading order.

    :raises ValueError: for a malformed batch (see `check_batch`), or a causal model asked for its first token
    """
    check_batch(batch)
    wanted = asked(batch)
    if logits_shift(model) and is_causal(model) and wanted[:, 0].any():
        row = int(wanted[:, 0].nonzero()[0])
        raise ValueError(f"labels[{row}, 0]: a causal model predicts no first token; put one before it")
    inputs = {field: batch[field] for field in ("input_ids", "attention_mask") if field in batch}
    picked = aligned_logits(model, model(**inputs).logits)[wanted]
    return picked.float() if picked.dtype in (torch.float16, torch.bfloat16) else picked
