"""A logit taken apart: what attention retrieved, what the residual stream held, what the MLPs added.

The unembedding is linear and the last norm, at its measured scale, is too. So each thing that was added to the
residual stream has its own share of every logit, and the shares add up to the logits:

* ``storage_routing``: the attention layers, sum_j alpha_ij (stored value of x_j), the term that Sec. 3 keeps;
* ``residual``: the embedding of the mask itself (with its position, where that is added) and the output bias;
* ``mlp``: the MLPs, which see what attention retrieved and may rewrite it.

In a one-layer masked model the first is a sum over the tokens that attention reads, so it splits further (`ROUTES`):
the *evidence*, the *placeholders*, and the *mask* itself. Two caveats. The last norm divides by the size of the whole
stream, so a share depends on the other shares through that number; and the MLP's share is no separate cause: what it
adds depends on what was retrieved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lib.one_layer import patching
from lib.one_layer.model import Norm, Transformer
from lib.one_layer.task import PLACEHOLDER, Queries

PARTS = ("storage_routing", "residual", "mlp")
#: where attention retrieves from, in a one-layer masked model
ROUTES = ("evidence", "placeholders", "mask")


@torch.no_grad()
def parts(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries clean"]]:
    """Share of each of `PARTS` in the logits at the asked positions; they add up to the logits."""
    stream = streams(model, asked)
    return _shares(model, stream, stream)


def _shares(model: Transformer, stream: dict[str, Tensor], split: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each entry of ``split`` contributes to the logits of the whole ``stream``."""
    unembed = _linear_readout(model, torch.stack(list(stream.values())).sum(0))
    shares = {name: unembed(part) for name, part in split.items()}
    shares["residual"] = shares["residual"] + model.head.bias
    return shares


@torch.no_grad()
def streams(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries width"]]:
    """What each of `PARTS` added to the residual stream at the asked positions."""
    rows = torch.arange(len(asked)), asked.position - int(model.settings.causal)
    x = model.embed(asked.tokens)
    stream = {name: torch.zeros_like(x[rows]) for name in PARTS}
    stream["residual"] = x[rows]
    for block in model.layers:
        retrieved = block.attend(x, model.position)
        stream["storage_routing"] += (retrieved - x)[rows]
        if block is model.layers[-1]:  # nothing reads the other positions any more
            stream["mlp"] += block.think(retrieved[rows]) - retrieved[rows]
            break
        x = block.think(retrieved)
        stream["mlp"] += (x - retrieved)[rows]
    return stream


@torch.no_grad()
def routes(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries clean"]]:
    """The same with ``storage_routing`` split by the token it came from: `ROUTES`, ``residual`` and ``mlp``.

    :raises ValueError: for causal or deeper models, where attention reads more than tokens
    """
    stream = streams(model, asked)
    split = retrieved(model, asked) | {name: stream[name] for name in ("residual", "mlp")}
    return _shares(model, stream, split)


@torch.no_grad()
def retrieved(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries width"]]:
    """What attention added to the residual stream from each of `ROUTES`."""
    heard, rows = patching.heard(model, asked), torch.arange(len(asked))
    keep = {name: heard.row.new_zeros(asked.tokens.shape) for name in ("evidence", "mask")}
    keep["evidence"][rows, asked.evidence] = keep["mask"][rows, asked.position] = 1
    keep["placeholders"] = 1 - keep["evidence"] - keep["mask"]
    output = model.layers[0].attention.output
    mixed = {name: (heard.row * keep[name][:, None])[:, :, None] @ heard.values for name in ROUTES}
    return {name: output(mixed[name].flatten(1)) for name in ROUTES}


def _linear_readout(model: Transformer, stream: Tensor) -> Callable[[Tensor], Tensor]:
    """The last norm and the unembedding as a linear map, its scale taken from the whole stream of each row."""
    if not isinstance(model.norm, Norm):
        return lambda x: x @ model.head.weight.T
    deviation = (stream.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    gain = model.norm.weight
    return lambda x: (x - x.mean(-1, keepdim=True)) / deviation * gain @ model.head.weight.T


def margins(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, " queries"]]:
    """The same for the margin of the target's logit over the placeholder's, its one serious competitor."""
    return _margins(parts(model, asked), asked)


def route_margins(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, " queries"]]:
    """The same for `routes`."""
    return _margins(routes(model, asked), asked)


def _margins(shares: dict[str, Tensor], asked: Queries) -> dict[str, Tensor]:
    rows = torch.arange(len(asked))
    return {name: share[rows, asked.target] - share[:, PLACEHOLDER] for name, share in shares.items()}
