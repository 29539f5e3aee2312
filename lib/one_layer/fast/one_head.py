"""The tables of `lib.one_layer.fast.tables` for the common case, one member at a time, in memory used again from step to step.

One head, layer norm, values as the encoding has them, and a relative encoding without learned parts: what is left are a
dozen small matrix products, and half of a step's small calls are saved.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from lib.encodings import encoding
from lib.one_layer.fast.step import Norm, TorchAndNumpy, Weights
from lib.one_layer.fast.tables import ATTENTION, BLOCK, Tables
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import MASK, TOKENS


def serves(settings: ModelConfig, weights: Weights) -> bool:
    """Whether these settings are the common case."""
    return (settings.heads == 1 and settings.norm and settings.values == "natural" and not settings.absolute
            and "position" not in weights)


class OneHead:
    """The tables of one member, and their gradient. The weights may change in place.

    :param weights: by name
    :param g: of the same names, filled with the gradient in each that acts through the tables
    """

    def __init__(self, settings: ModelConfig, weights: Weights, g: Weights) -> None:
        width, offsets = settings.width, 2 * settings.length - 1
        self.encoding = encoding(settings.encoding, settings.positions, width, 1)
        bias = self.encoding.score_bias_by_offset(None)
        self.bias = None if bias is None else bias.view(-1, 1)
        self.scale = 1 / math.sqrt(width)
        names = [f"{ATTENTION}.{name}.weight" for name in ("query", "key", "value", "output")]
        self.query, self.key, self.value, self.output = (weights[name] for name in names)
        self.g_query, self.g_key, self.g_value, self.g_output = (g[name] for name in names)
        self.embedding, self.g_embedding = (TorchAndNumpy.of(part["embedding"]) for part in (weights, g))
        self.norm = Norm(weights[f"{BLOCK}.norm1.weight"], g[f"{BLOCK}.norm1.weight"])
        self.seen, self.g_seen = (TorchAndNumpy.of(torch.empty(TOKENS, width)) for _ in "sg")
        self.values, self.g_values, self.stored = (torch.empty(TOKENS, width) for _ in range(3))
        self.asked, self.g_asked, self.g_met = (torch.empty(offsets, width) for _ in range(3))
        self.scores = torch.empty(offsets, TOKENS)
        self.masks = slice(MASK, MASK + 1)
        self.tables = Tables(self.scores.view(1, -1), self.stored.view(1, TOKENS, 1, width),
                             self.embedding.tensor[self.masks])

    def forward(self) -> Tables:
        """The tables; keeps what `backward` needs."""
        seen = self.norm.forward(self.embedding, self.seen).tensor
        asking = torch.mm(seen[self.masks], self.query.T).mul_(self.scale)
        self.met = self.encoding.relative_queries(asking[None])[0]
        torch.mm(self.met, self.key, out=self.asked)  # W_K applied to queries
        torch.mm(self.asked, seen.T, out=self.scores)
        if self.bias is not None:
            self.scores.add_(self.bias)
        torch.mm(seen, self.value.T, out=self.values)
        torch.mm(self.values, self.output.T, out=self.stored)
        return self.tables

    def backward(self, g: Tables) -> None:
        """Fill the gradient in every weight that acts through the tables, given the gradients in them."""
        seen, g_seen = self.seen.tensor, self.g_seen.tensor
        g_scores, g_stored = g.scores.view(self.scores.shape), g.stored.view(self.stored.shape)
        torch.mm(g_scores.T, self.asked, out=g_seen)
        torch.mm(g_scores, seen, out=self.g_asked)
        torch.mm(self.met.T, self.g_asked, out=self.g_key)
        torch.mm(self.g_asked, self.key.T, out=self.g_met)
        g_asking = self.encoding.relative_queries_backward(self.g_met[None])[0].mul_(self.scale)
        torch.mm(g_asking.T, seen[self.masks], out=self.g_query)
        g_seen[self.masks].addmm_(g_asking, self.query)
        torch.mm(g_stored.T, self.values, out=self.g_output)
        torch.mm(g_stored, self.output, out=self.g_values)
        torch.mm(self.g_values.T, seen, out=self.g_value)
        g_seen.addmm_(self.g_values, self.value)
        self.g_embedding.tensor.zero_()[self.masks] = g.stream
        self.norm.backward(self.g_seen, self.g_embedding, np.empty(seen.shape[1], np.float32))
