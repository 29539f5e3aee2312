"""A logit taken apart: what attention retrieved, what the residual stream held, what the MLPs added.

The unembedding is linear and the last norm, at its measured scale, is too. So each thing that was added to the
residual stream has its own share of every logit, and the shares add up to the logits:

* ``storage_routing``: the attention layers, sum_j alpha_ij (stored value of x_j), the term that Sec. 3 keeps;
* ``residual``: the embedding of the mask itself (with its position, where that is added) and the output bias;
* ``mlp``: the MLPs, which see what attention retrieved and may rewrite it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lib.letters import PLACEHOLDER, Queries
from lib.transformer import Norm, Transformer

PARTS = ("storage_routing", "residual", "mlp")


@torch.no_grad()
def parts(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, "queries clean"]]:
    """Share of each of `PARTS` in the logits at the asked positions; they add up to the logits."""
    rows = torch.arange(len(asked)), asked.position - int(model.settings.causal)
    x = model.embed(asked.tokens)
    stream = {"residual": x[rows], "storage_routing": torch.zeros_like(x[rows]), "mlp": torch.zeros_like(x[rows])}
    for block in model.layers:
        retrieved = block.attend(x, model.position)
        thought = block.think(retrieved)
        stream["storage_routing"] += (retrieved - x)[rows]
        stream["mlp"] += (thought - retrieved)[rows]
        x = thought
    unembed = _linear_readout(model, x[rows])
    shares = {name: unembed(stream[name]) for name in PARTS}
    shares["residual"] = shares["residual"] + model.head.bias
    return shares


def _linear_readout(model: Transformer, stream: Tensor) -> Callable[[Tensor], Tensor]:
    """The last norm and the unembedding as a linear map, its scale taken from the whole stream of each row."""
    if not isinstance(model.norm, Norm):
        return lambda x: x @ model.head.weight.T
    deviation = (stream.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    gain = model.norm.weight
    return lambda x: (x - x.mean(-1, keepdim=True)) / deviation * gain @ model.head.weight.T


def margins(model: Transformer, asked: Queries) -> dict[str, Float[Tensor, " queries"]]:
    """The same for the margin of the target's logit over the placeholder's, its one serious competitor."""
    rows = torch.arange(len(asked))
    return {
        name: share[rows, asked.target] - share[:, PLACEHOLDER] for name, share in parts(model, asked).items()
    }
