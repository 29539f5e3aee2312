"""Direct logit attribution: what attention retrieved, what the residual stream held, what the MLPs added.

The unembedding is linear and the last norm, at its measured scale, is too. So each thing that was added to the
residual stream has its own share of every logit, and the shares add up to the logits:

* ``storage_routing``: the attention layers, sum_j alpha_ij (stored value of x_j), the term that Sec. 3 keeps;
* ``residual``: the embedding of the mask itself (with its position, where that is added) and the output bias;
* ``mlp``: the MLPs, which see what attention retrieved and may rewrite it.

In a one-layer masked model the first is a sum over the tokens that attention reads, so it splits further
(`ATTENTION_SOURCES`): the *evidence*, the *placeholders*, and the *mask* itself. Two caveats. The last norm divides by
the size of the whole stream, so a share depends on the other shares through that number; and the MLP's share is no
separate cause: what it adds depends on what was retrieved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer import patching
from lib.one_layer.model import Norm, Transformer
from lib.one_layer.task import PLACEHOLDER, Queries

#: where attention retrieves from, in a one-layer masked model
ATTENTION_SOURCES = ("evidence", "placeholders", "mask")


@torch.no_grad()
def logit_parts(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries clean"]]:
    """Shares ``storage_routing``, ``residual`` and ``mlp`` of the logits where each query asks; they add up to them."""
    stream = stream_parts(model, asked)
    return _shares(model, stream, stream)


def _shares(model: Transformer, stream: dict[str, Tensor], split: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each entry of ``split`` contributes to the logits of the whole ``stream``."""
    unembed = _linear_readout(model, torch.stack(list(stream.values())).sum(0))
    shares = {name: unembed(part) for name, part in split.items()}
    shares["residual"] = shares["residual"] + model.head.bias
    return shares


@torch.no_grad()
def stream_parts(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries width"]]:
    """What ``storage_routing``, ``residual`` and ``mlp`` added to the residual stream where each query asks."""
    place = torch.arange(len(asked)), asked.position - int(model.settings.causal)
    rows = place[0] * model.settings.positions + place[1]
    at_rows = lambda part: part if part.dim() == 2 else part[place]  # above the last attention there is nothing else
    points = ("attention", "mlp") if model.settings.mlp else ("attention",)
    added = model.record(asked.tokens, *points, rows=rows)
    residual = model.embed(asked.tokens)[place]
    total = lambda point: sum(map(at_rows, added.get(point, [])), torch.zeros_like(residual))
    return {"storage_routing": total("attention"), "residual": residual, "mlp": total("mlp")}


@torch.no_grad()
def logit_parts_by_source(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries clean"]]:
    """`logit_parts` with ``storage_routing`` split by where it came from: `ATTENTION_SOURCES`, ``residual``, ``mlp``.

    :raises ValueError: for causal or deeper models, where attention reads more than tokens
    """
    stream = stream_parts(model, asked)
    split = retrieved_by_source(model, asked) | {name: stream[name] for name in ("residual", "mlp")}
    return _shares(model, stream, split)


@torch.no_grad()
def retrieved_by_source(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries width"]]:
    """What attention added to the residual stream from each of `ATTENTION_SOURCES`."""
    found, rows = patching.record_activations(model, asked), torch.arange(len(asked))
    keep = {name: found.row.new_zeros(asked.tokens.shape) for name in ("evidence", "mask")}
    keep["evidence"][rows, asked.evidence] = keep["mask"][rows, asked.position] = 1
    keep["placeholders"] = 1 - keep["evidence"] - keep["mask"]
    output = model.layers[0].attention.output
    mixed = {name: (found.row * keep[name][:, None])[:, :, None] @ found.values for name in ATTENTION_SOURCES}
    return {name: output(mixed[name].flatten(1)) for name in ATTENTION_SOURCES}


def _linear_readout(model: Transformer, stream: Tensor) -> Callable[[Tensor], Tensor]:
    """The last norm and the unembedding as a linear map, its scale taken from the whole stream of each row."""
    if not isinstance(model.norm, Norm):
        return lambda x: x @ model.head.weight.T
    deviation = (stream.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    gain = model.norm.weight
    return lambda x: (x - x.mean(-1, keepdim=True)) / deviation * gain @ model.head.weight.T


def margin_parts(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, " queries"]]:
    """`logit_parts` of the logit difference target - placeholder, the target's one serious competitor."""
    return _margins(logit_parts(model, asked), asked)


def margin_parts_by_source(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, " queries"]]:
    """`logit_parts_by_source` of the logit difference target - placeholder."""
    return _margins(logit_parts_by_source(model, asked), asked)


def _margins(shares: dict[str, Tensor], asked: Queries) -> dict[str, Tensor]:
    rows = torch.arange(len(asked))
    return {name: share[rows, asked.target] - share[:, PLACEHOLDER] for name, share in shares.items()}
