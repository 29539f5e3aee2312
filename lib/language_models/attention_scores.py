"""Attention from chosen rows to chosen columns, in every layer and head, without an attention matrix.

What is read is the paper's score s_ij from the masked position i to the evidence j, and the weight alpha_ij it
becomes (Sec. 3). For a transformers model a registered attention function reads queries and keys after their rotation,
scores the chosen rows alone (rows x length numbers a head), and hands over to the kernel that would have run
anyway: logits are unchanged. For the book's own model the same numbers come from its named points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib.language_models.signatures import evaluating

_NAME = "recording_sdpa"


class ScoresAndWeights(NamedTuple):
    """Scores and weights from rows to columns; behind a mask the weight is exactly zero, the score is not."""

    scores: Float[Tensor, "*batch layer head row column"]  # q . k over the root of the head dimension, unmasked
    weights: Float[Tensor, "*batch layer head row column"]  # after mask and softmax over all positions
    layers: tuple[int, ...]  # those with attention scores (a hybrid model's other layers have none)


class _Recorder:
    """Collects scores and weights in one forward pass."""

    def __init__(self, rows: Sequence[int], columns: Sequence[int]) -> None:
        self.rows, self.columns = list(rows), list(columns)
        self.found: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, layer: int, scores: Tensor, visible: Tensor) -> None:
        """Take in full rows of scores, (batch, head, row, length), and which columns each row sees."""
        if layer in self.found:
            raise RuntimeError(f"layer {layer} attends twice in one pass; record it without a cache or recomputation")
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        self.found[layer] = scores[..., self.columns], weights[..., self.columns]

    def result(self) -> ScoresAndWeights:
        if not self.found:
            raise ValueError("model: no layer offered its attention scores")
        layers = tuple(sorted(self.found))
        scores, weights = (torch.stack([self.found[layer][i].cpu() for layer in layers], 1) for i in (0, 1))
        return ScoresAndWeights(scores, weights, layers)


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


@torch.no_grad()
def scores_and_weights(
    model: nn.Module, input_ids: Int[Tensor, "*batch length"], rows: Sequence[int], columns: Sequence[int]
) -> ScoresAndWeights:
    """Attention from ``rows`` (the masks, say) to ``columns`` (the evidence), in one prompt or several alike.

    :param input_ids: prompts without padding, with the same rows and columns
    :raises ValueError: for a row or column outside the prompt, or a model that offers no scores
    """
    length = input_ids.shape[-1]
    for name, positions in (("rows", rows), ("columns", columns)):
        if not positions or not all(0 <= position < length for position in positions):
            raise ValueError(f"{name} {tuple(positions)}: need positions between 0 and {length - 1}")
    recorder = _Recorder(rows, columns)
    listening = _through_interface if hasattr(model, "set_attn_implementation") else _through_named_points
    with evaluating(model), listening(model, recorder):
        model(input_ids=input_ids.reshape(-1, length))
    scores, weights, layers = recorder.result()
    batch = input_ids.shape[:-1]
    return ScoresAndWeights(scores.unflatten(0, batch), weights.unflatten(0, batch), layers) if batch else (
        ScoresAndWeights(scores[0], weights[0], layers))


# transformers models -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _through_interface(model: Any, recorder: _Recorder) -> Iterator[None]:
    _register()
    before = model.config._attn_implementation
    token = _recorder.set(recorder)
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _recorder.reset(token)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _recording_attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _recording_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Record, then attend as transformers' SDPA does. Shapes are (batch, heads, length, head_dim)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    recorder = _recorder.get()
    if recorder is not None:
        scores = _scores(module, query, key, recorder.rows, settings.get("scaling"))
        visible = _visible(module, attention_mask, recorder.rows, key.shape[2], settings.get("is_causal"))
        recorder.add(int(module.layer_idx), scores, visible.to(scores.device))  # type: ignore[arg-type]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


def _scores(
    module: Any, query: Tensor, key: Tensor, rows: list[int], scaling: float | None
) -> Float[Tensor, "batch head row length"]:
    groups = query.shape[1] // key.shape[1]
    chosen = query[:, :, rows].float()
    keys = key.float().repeat_interleave(groups, 1)
    return chosen @ keys.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)


def _visible(
    module: Any, mask: Tensor | None, rows: list[int], length: int, is_causal: bool | None
) -> Tensor:
    """Which columns each chosen row sees, by the mask given or by the rule SDPA falls back on."""
    if mask is not None:
        chosen = mask[:, :, rows, :length]
        return chosen if chosen.dtype == torch.bool else chosen >= 0
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    columns = torch.arange(length)
    return columns <= torch.tensor(rows)[:, None] if causal else torch.ones(len(rows), length, dtype=torch.bool)


# the book's own model ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _through_named_points(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Listen at the ``scores`` and ``weights`` of `lib.one_layer.model.Attention`, layer by layer."""
    points = [module for module in model.modules() if hasattr(module, "scores") and hasattr(module, "weights")]
    handles = [point.scores.register_forward_hook(_listener(recorder, layer, point))  # type: ignore[union-attr]
               for layer, point in enumerate(points)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _listener(recorder: _Recorder, layer: int, point: Any) -> Any:
    def listen(module: nn.Module, given: Any, scores: Float[Tensor, "batch head length length"]) -> None:
        visible = _visible(point, None, recorder.rows, scores.shape[-1], bool(point.causal))
        recorder.add(layer, scores[:, :, recorder.rows], visible)

    return listen


def pooled(values: Float[Tensor, "*batch layer head row column"]) -> Float[Tensor, "*batch layer head"]:
    """Mean over the sub-tokens of both entities: one number for each layer and head."""
    return values.mean((-2, -1))
