"""The loss of a masked model of depth 1, computed by tables over the vocabulary.

Queries are asked at masks alone, so they are one vector, or one a position; keys and values belong to a token (where
position is added, to a token and its position) and not to a sequence. So scores and stored values are computed once for
the vocabulary and looked up at the asked rows, where the plain model computes them at every position of every sequence;
and `lib.one_layer.unique` asks what is asked several times once. The rest is the plain model's own code, and autograd
gives the gradient. The members of an ensemble come one after the other: their rows differ in number, and batching them
is no faster.

Under a relative encoding a score is a function of offset and token: q^T R(o) k = (R(-o) q)^T k, and W_K acts on the few
turned queries instead of on the keys.

On one CPU thread a step takes less than half the time of the plain module's. A step written out by hand in this place
(fused loops compiled by numba, gradients by hand, a thousand lines) took 2.1 to 2.3 ms a member at L = 10 and 9.7 to
10.2 ms at L = 40, for 1 to 32 members alike: 4 to 5 times as fast as the plain module, 5 to 7 times as fast as RADD.
These tables took 1.7 to 2.3 times its time with autograd; compiled by torch 1.38 to 1.52 times, by the better way of
each size; by JAX 1.39 times at best; the best of all at each size 1.38 to 1.49 times. The products at the asked rows
alone are 58 to 76 % of its time, so that little more was to be had, and the difference did not earn a thousand lines.
The comparison is recorded in ``results/speed/hand_written_step.json``; `benchmarks.one_layer` repeats it with the
present step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lib.one_layer.model import Attention, ModelConfig, Transformer
from lib.one_layer.task import MASK, TOKENS
from lib.one_layer.unique import UniqueBatch


def tables_serve(settings: ModelConfig, device: torch.device) -> bool:
    """Whether the loss by tables is the plain model's, and the faster of the two.

    Others take the plain model: in a causal or deeper one keys and values belong to a sequence; dropout would strike
    equal questions alike; and an accelerator is faster with all members in one call.
    """
    return settings.depth == 1 and not settings.causal and not settings.dropout and device.type == "cpu"


def loss_and_gradient(
    model: Transformer, batch: UniqueBatch
) -> tuple[Float[Tensor, ""], Float[Tensor, " parameters"]]:
    """`loss_by_tables`, and its gradient in the order of ``model.named_parameters``, flattened."""
    found = loss_by_tables(model, batch)
    slopes = torch.autograd.grad(found, list(model.parameters()))
    return found.detach(), torch.cat([slope.flatten() for slope in slopes])


def loss_by_tables(model: Transformer, batch: UniqueBatch) -> Float[Tensor, ""]:
    """Weighted sum of -log p over a batch's answers: nats a sequence, with the weights of `unique_rows`.

    :param model: one that `tables_serve`
    :raises ValueError: if nothing is asked
    """
    if not len(batch.answers):
        raise ValueError("batch: not a single position is asked for; take a larger batch")
    arrays = batch.tokens[batch.sequence], batch.position, batch.answers, batch.weights
    tokens, position, answers, weights = map(torch.from_numpy, arrays)
    tables = make_tables(model)
    # routing: alpha_ij = softmax over j of the scores s_ij
    alpha = look_up_scores(tables.scores, tokens, position, model.settings.absolute).softmax(-1)
    # the mask's own stream, and storage: sum over j of alpha_ij W_O W_V e_(x_j)
    own = tables.stream[position] if len(tables.stream) > 1 else tables.stream
    x = own + retrieve(tables.stored, tokens, alpha)
    # MLP, unembedding
    logits = model.unembed(model.layers[0].add_mlp(x))
    # sum of weight x -log p
    return -(logits.log_softmax(-1).flatten()[answers] * weights).sum()


# Tables -------------------------------------------------------------------------------------------------------


class Tables(NamedTuple):
    """What the asked rows look up; ``places`` is L where position is added to what a table is made of, else 1."""

    scores: Float[Tensor, "heads queries tokens places"]  # s_ij, see `look_up_scores` for the queries
    stored: Float[Tensor, "heads tokens stored_places width"]  # W_O W_V e_x
    stream: Float[Tensor, "stream_places width"]  # the residual stream of a mask


def make_tables(model: Transformer) -> Tables:
    """All that the model computes of tokens and positions, before it sees a sequence."""
    block, attention, settings = model.layers[0], model.layers[0].attention, model.settings
    # the stream that each token starts with, and what queries and keys see of it
    places = settings.length if settings.absolute else 1
    x = model.embed(torch.arange(TOKENS)[:, None].expand(-1, places))
    seen = block.norm1(x)
    # what values see of it
    kept = seen
    if settings.values != "natural":
        kept = block.norm1(attention.value_input(x.expand(-1, settings.length, -1), model.position))
    if settings.values == "free":
        kept = kept[:, :1]  # alike at every place
    return Tables(_scores(model, seen), _stored(attention, kept), x[MASK])


def _scores(model: Transformer, seen: Float[Tensor, "tokens places width"]) -> Tensor:
    """s = q^T W_K e_x / sqrt(d) + b, for every query of a mask and every key."""
    attention, heads = model.layers[0].attention, model.settings.heads
    # the mask's query: one a position, or turned for every offset
    query = attention.split(attention.query(seen[MASK]))
    if not model.settings.absolute:
        query = attention.encoding.relative_queries(query)
    # W_K applied to queries, then keys; (heads, queries, tokens * places)
    asked = query @ attention.key.weight.unflatten(0, (heads, -1))
    scores = asked @ seen.flatten(0, 1).T / math.sqrt(query.shape[-1])
    bias = attention.encoding.score_bias_by_offset(model.position)
    return (scores if bias is None else scores + bias[..., None]).unflatten(2, (TOKENS, -1))


def _stored(attention: Attention, kept: Float[Tensor, "tokens places width"]) -> Tensor:
    """W_O W_V e_x, head by head."""
    values = attention.split(attention.value(kept.flatten(0, 1)))
    return (values @ attention.split(attention.output.weight).mT).unflatten(1, (TOKENS, -1))


# Looking up -----------------------------------------------------------------------------------------------------


def look_up_scores(
    scores: Float[Tensor, "heads queries tokens places"], tokens: Int[Tensor, "rows length"],
    position: Int[Tensor, " rows"], absolute: bool,
) -> Float[Tensor, "heads rows length"]:
    """s_ij of every row, from the mask at its position i to the token at j.

    :param scores: queries run over offsets j - i from 1 - L to L - 1, under an absolute encoding over i
    """
    length, (heads, _, kinds, places) = tokens.shape[1], scores.shape
    query = position[:, None] if absolute else torch.arange(length) - position[:, None] + length - 1
    entry = query * (kinds * places) + _entries(tokens, places)
    return scores.flatten(1).gather(1, entry.flatten().expand(heads, -1)).view(heads, *tokens.shape)


def retrieve(
    stored: Float[Tensor, "heads tokens places width"], tokens: Int[Tensor, "rows length"],
    alpha: Float[Tensor, "heads rows length"],
) -> Float[Tensor, "rows width"]:
    """sum over heads and j of alpha_ij times the stored value of the token at j."""
    heads, kinds, places, _ = stored.shape
    entries = _entries(tokens, places).expand(heads, -1, -1)
    if places == 1:  # few entries: attention on each token, times the table
        on_tokens = alpha.new_zeros(heads, len(tokens), kinds).scatter_add(2, entries, alpha)
        return (on_tokens @ stored[:, :, 0]).sum(0)
    # many entries, of which a row meets few
    entries = entries + kinds * places * torch.arange(heads)[:, None, None]
    bags, shares = (part.transpose(0, 1).flatten(1) for part in (entries, alpha))
    return functional.embedding_bag(bags, stored.flatten(0, 2), mode="sum", per_sample_weights=shares)


def _entries(tokens: Int[Tensor, "rows length"], places: int) -> Int[Tensor, "rows length"]:
    """Where a table flattened over tokens and places has each token; it stands at one place, or at its position."""
    return tokens * places + torch.arange(tokens.shape[1]) if places > 1 else tokens
