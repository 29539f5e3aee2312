"""Activation patching of the attention to the evidence, layer by layer, in a transformers model.

The forward query "[M]'s child is Bob" and the reverse query "Bob's parent is [M]" ask for the same name from the same
evidence. If the attention to the evidence carries the answer, the reverse query should gain when it is given the
attention of the forward query (`lib.language_models.patching_effects` measures it). What is patched (`PATCH_KINDS`), in
the chosen layers and heads and in the rows of the target:

* ``weights``: the attention weights on the evidence; the other weights of the row are rescaled so that it sums to one;
* ``total_weight``: their sum alone; how it is split over the tokens of the evidence stays the model's own;
* ``output``: what attention returns, sum_j alpha_ij v_j, before the output projection (plain activation patching);
* ``knockout``: the weights on the evidence are zero, the others rescaled.

Which rows (`PATCHED_ROWS`): the answer at position i is read from row i, or from row i - 1 where a model's logits are
shifted by one position (`lib.language_models.queries`), and in a shifted masked model the mask itself stands in row i.
So the rows are those of the ``target``, those of the ``readout``, or ``both``, which is the default. Without a shift
the three are the same. Only the direct attention from these rows to the evidence is patched; what they read from other
positions that attend to the evidence stays.

In a causal model the forward query does not see its evidence, so its weights there are zero: ``weights`` and
``total_weight`` from it are a knockout.

A registered attention function writes attention out in full and patches it, each row of the batch at layers and heads
of its own: the patches of all layers go through one forward pass. A row is the unpatched query up to the first layer
where it is patched, so it joins the batch only there. Logits without a patch are the model's own up to rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.language_models.queries import EncodedQuery, logits_shift
from lib.language_models.signatures import evaluating

PATCH_KINDS = ("weights", "total_weight", "output", "knockout")
PATCHED_ROWS = ("both", "readout", "target")
_NAME = "patched_attention"


class EvidenceAttention(NamedTuple):
    """What one query's attention did in the rows of its target."""

    weights: Float[Tensor, "layer head row column"]  # on the evidence, after the softmax
    outputs: Float[Tensor, "layer head row head_dim"]  # sum_j alpha_ij v_j over all positions j
    layers: tuple[int, ...]  # those with softmax attention (a hybrid model's other layers have none)


class Patch(NamedTuple):
    """What is patched, and the attention that it is taken from (none for a knockout)."""

    kind: str
    source: EvidenceAttention | None = None


_KNOCKOUT = Patch("knockout")


# Where to patch ----------------------------------------------------------------------------------------------


def patched_rows(model: nn.Module, prompt: EncodedQuery, rows: str = "both") -> list[int]:
    """The rows of attention that are patched, in reading order.

    :param rows: one of `PATCHED_ROWS`
    :raises ValueError: for others, and where the first token asked for has no row before it though logits are shifted
    """
    if rows not in PATCHED_ROWS:
        raise ValueError(f"rows must be one of {', '.join(PATCHED_ROWS)}, not {rows!r}")
    readout = [position - logits_shift(model) for position in prompt.target]
    if min(readout) < 0:
        raise ValueError("the target begins the text, and no row before it predicts it: give a lead or a start token")
    return {"readout": readout, "target": list(prompt.target), "both": sorted({*readout, *prompt.target})}[rows]


def single_layers(source: EvidenceAttention) -> Bool[Tensor, "variant layer head"]:
    """One variant a layer: all heads of that layer alone."""
    layers, heads = source.weights.shape[:2]
    return torch.eye(layers, dtype=torch.bool)[..., None].repeat(1, 1, heads)


def resized(source: EvidenceAttention, rows: int, columns: int) -> EvidenceAttention:
    """A source with other numbers of rows and evidence tokens, spread position by position.

    Place k of n stands for the interval from k/n to (k + 1)/n. A row is the mean of those it overlaps, and a weight on
    a token goes to the tokens that overlap it: the total weight of a row is kept. Equal numbers change nothing.
    """
    from_rows = _overlap(source.weights.shape[2], rows).to(source.weights)
    to_columns = _overlap(columns, source.weights.shape[3]).to(source.weights)
    weights = from_rows @ source.weights @ to_columns
    return source._replace(weights=weights, outputs=from_rows.to(source.outputs) @ source.outputs)


def _overlap(parts: int, places: int) -> Float[Tensor, "places parts"]:
    """The share of each of ``places`` equal intervals that lies in each of ``parts`` equal intervals."""
    starts: Tensor = torch.arange(places, dtype=torch.double)[:, None] / places
    others: Tensor = torch.arange(parts, dtype=torch.double) / parts
    ends = torch.minimum(starts + 1 / places, others + 1 / parts)
    return (ends - torch.maximum(starts, others)).clamp_min(0) * places


# One forward pass --------------------------------------------------------------------------------------------


@torch.no_grad()
def record_attention(model: nn.Module, prompt: EncodedQuery, rows: str = "both") -> EvidenceAttention:
    """The attention to the evidence of one query, in every layer and head.

    :param rows: one of `PATCHED_ROWS`
    :raises ValueError: see `patched_rows`; for a model without softmax attention or outside transformers
    """
    running = _Pass(patched_rows(model, prompt, rows), list(prompt.evidence))
    _logits(model, prompt, running)
    layers, weights, outputs = zip(*running.found, strict=True)
    return EvidenceAttention(torch.cat(weights), torch.cat(outputs), layers)


@torch.no_grad()
def logits_under_patch(
    model: nn.Module, prompt: EncodedQuery, patch: Patch, where: Bool[Tensor, "variant layer head"], rows: str = "both"
) -> Float[Tensor, "variant target vocab"]:
    """Logits at the target of one query under a patch, all variants of where it is made in one forward pass.

    :param where: the layers (with softmax attention, in their order) and heads that are patched; see `single_layers`
    :param rows: one of `PATCHED_ROWS`; the source must have been recorded with the same
    :raises ValueError: for another kind, a source whose numbers of rows or tokens are others (see `resized`), a row
        that sees nothing but the evidence, and what `record_attention` refuses
    """
    joins = _first_patched(where)
    order = joins.argsort(stable=True)
    unpatched = torch.zeros_like(where[:1])  # the first row of the batch
    running = _Pass(patched_rows(model, prompt, rows), list(prompt.evidence), patch,
                    torch.cat([unpatched, where[order]]), joins.bincount(minlength=where.shape[1]).tolist())
    _check_patch(model, patch, running)
    return _logits(model, prompt, running)[1:][order.argsort()]


def _first_patched(where: Bool[Tensor, "variant layer head"]) -> Int[Tensor, " variant"]:
    """The first layer that is patched in each variant; the last one where none is."""
    patched = where.any(-1)
    patched[:, -1] = True
    return patched.int().argmax(1)


def _check_patch(model: Any, patch: Patch, running: _Pass) -> None:
    """Refuse a patch that does not fit the query or the model.

    :raises ValueError: naming what does not fit
    """
    layers, heads = len(_attention_layers(model)), model.config.num_attention_heads
    if running.where is not None and running.where.shape[1:] != (layers, heads):
        raise ValueError(f"where has shape {tuple(running.where.shape[1:])} after its variants, but {layers} layers "
                         f"have softmax attention, with {heads} heads each")
    if patch.kind not in PATCH_KINDS:
        raise ValueError(f"kind must be one of {', '.join(PATCH_KINDS)}, not {patch.kind!r}")
    if (patch.source is None) != (patch.kind == "knockout"):
        raise ValueError(f"{patch.kind}: a source is needed for every kind but a knockout, which takes none")
    if patch.source is not None:
        theirs, own = tuple(patch.source.weights.shape[2:]), (len(running.rows), len(running.columns))
        if theirs != own:
            raise ValueError(f"source has {theirs[0]} rows and {theirs[1]} tokens of evidence, the query {own[0]} and "
                             f"{own[1]}: spread it with `resized`")


def _attention_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformers model that have softmax attention.

    :raises ValueError: for a model without, or outside transformers
    """
    layers = [layer for layer in model.modules() if hasattr(layer, "self_attn")]
    if not layers or not hasattr(model, "set_attn_implementation"):
        raise ValueError("model: patching needs a transformers model with softmax attention")
    return layers


def _logits(model: Any, prompt: EncodedQuery, running: _Pass) -> Float[Tensor, "row target vocab"]:
    """Logits for the tokens asked for, in every row that the batch has at the end."""
    with evaluating(model), _listening(model, running):
        readout = torch.tensor(patched_rows(model, prompt, "readout"), device=model.device)
        tokens = prompt.input_ids[None].to(model.device)
        logits: Tensor = model(input_ids=tokens, logits_to_keep=readout, use_cache=False).logits
    return logits


@contextlib.contextmanager
def _listening(model: Any, running: _Pass) -> Iterator[None]:
    """Attention through `_patched_attention` for the moment, and a batch that grows where rows are first patched."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    layers = _attention_layers(model)
    AttentionInterface.register(_NAME, _patched_attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    before, token = model.config._attn_implementation, _running.set(running)
    handles = [layer.register_forward_pre_hook(running.grow) for layer in layers]
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(before)
        _running.reset(token)


@dataclasses.dataclass
class _Pass:
    """One forward pass: which rows and columns, what is patched, and what the layers did, in their order."""

    rows: list[int]
    columns: list[int]
    patch: Patch = _KNOCKOUT
    where: Bool[Tensor, "row layer head"] | None = None  # none: nothing is patched
    joining: list[int] = dataclasses.field(default_factory=list)  # by layer, the rows that are first patched there
    found: list[tuple[int, Tensor, Tensor]] = dataclasses.field(default_factory=list)

    def grow(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Add the rows that are first patched in this layer, as copies of the unpatched one."""
        hidden, *others = given
        copies = self.joining[len(self.found)] if self.joining else 0
        return torch.cat([hidden, hidden[:1].expand(copies, -1, -1)]), *others

    def attend(
        self, layer: int, scores: Float[Tensor, "batch head length length"],
        value: Float[Tensor, "batch head length head_dim"],
    ) -> Float[Tensor, "batch head length head_dim"]:
        """Attention of one layer from its scores, -inf where nothing is seen, with its weights or output patched."""
        weights, chosen = scores.softmax(-1), self._chosen(scores)
        if chosen is not None and self.patch.kind != "output":
            self._put(weights, chosen, with_evidence_weights(scores[:, :, self.rows], self.columns,
                                                             self._given(scores)))
        outputs = weights.to(value.dtype) @ value
        if chosen is not None and self.patch.kind == "output" and self.patch.source:
            self._put(outputs, chosen, self.patch.source.outputs[len(self.found)].to(outputs))
        self.found.append((layer, weights[:, :, self.rows][..., self.columns], outputs[:, :, self.rows]))
        return outputs

    def _put(self, values: Tensor, chosen: Tensor, patched: Tensor) -> None:
        values[:, :, self.rows] = torch.where(chosen, patched, values[:, :, self.rows])

    def _chosen(self, scores: Tensor) -> Bool[Tensor, "batch head 1 1"] | None:
        """Which rows of the batch are patched in this layer, and in which heads; None for none at all."""
        here = None if self.where is None else self.where[:len(scores), len(self.found)]
        return None if here is None or not here.any() else here[..., None, None].to(scores.device)

    def _given(self, scores: Tensor) -> Float[Tensor, "*batch row column"]:
        """The weights on the evidence that this layer is given."""
        if self.patch.source is None:
            return scores.new_zeros(len(self.rows), len(self.columns))
        theirs = self.patch.source.weights[len(self.found)].to(scores)
        if self.patch.kind == "weights":
            return theirs
        split = scores[:, :, self.rows][..., self.columns].softmax(-1)
        return theirs.sum(-1, keepdim=True) * split.nan_to_num(1 / len(self.columns))  # evenly, where it sees none


def with_evidence_weights(
    scores: Float[Tensor, "*batch row length"], columns: Sequence[int], given: Float[Tensor, "*#batch row column"]
) -> Float[Tensor, "*batch row length"]:
    """Attention weights with those on the evidence given, and the others in proportion to what they were.

    :param scores: before the softmax, -inf where a row sees nothing
    :raises ValueError: for a row that sees nothing but the evidence
    """
    evidence = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    evidence[list(columns)] = True
    others = scores.masked_fill(evidence, -torch.inf).softmax(-1)
    if others.isnan().any():
        raise ValueError("a row sees nothing but the evidence, so no other weight can be rescaled: give a lead")
    weights = others * (1 - given.sum(-1, keepdim=True)).clamp_min(0)
    weights[..., list(columns)] = given.expand(*weights.shape[:-1], -1)
    return weights


_running: ContextVar[_Pass | None] = ContextVar("running", default=None)


def _patched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, **settings: Any,
) -> tuple[Tensor, None]:
    """Attention written out, with the running pass's patches. Shapes are (batch, heads, length, head_dim)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
    scores = (query @ key.mT).float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:  # additive: zero, or the lowest number
        scores = scores.masked_fill(attention_mask < 0, -torch.inf)
    running = _running.get()
    if running is None:
        raise RuntimeError(f"attention {_NAME!r} runs only inside `logits_under_patch` and `record_attention`")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return running.attend(layer, scores, value).transpose(1, 2).contiguous(), None
