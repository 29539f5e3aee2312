"""The model of Secs. 3 and 5: a small pre-norm transformer, masked (RADD's manner) or causal (GPT-2's
manner).

A masked model is time-independent: it sees a partly masked sequence with full attention and predicts the
clean token at each mask (Ou et al. 2025). A causal model sees the tokens up to and including a row and
predicts the next. As in RADD, attention has no biases, norms have no shift, and the unembedding starts at
zero.

With ``mlp`` and ``norm`` off and depth 1 the model *is* the one of Sec. 3. The residual stream adds W_E e_M
to every masked position and the unembedding adds its bias; both are constants, and attention weights sum to
one, so they add the same vector to every column of W and ``logits = W sum_j alpha_ij e_(x_j)`` holds
exactly, with `storage` giving W. Under an absolute encoding W depends on position as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lib.encodings import ENCODINGS, Encoding, encoding
from lib.one_layer import task
from lib.record.options import option

HEAD_SCALE = 0.02
#: what position does to the values, beside what it does to queries, keys and scores
VALUES = {
    "natural": "as the encoding has it: position is in the values under absolute encodings alone",
    "free": "an absolute encoding without it: values come from the token's embedding alone",
    "laden": "a relative encoding with it: a learned vector a position is added to what the values see",
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What fixes a model but for its weights."""

    length: int = 10  # L, positions of a sequence (a causal model's start symbol not counted)
    encoding: str = option("rope", choices=ENCODINGS)  # of positions, see `lib.encodings`
    width: int = 64  # D, coordinates of the residual stream
    heads: int = 1  # of attention, each width / heads wide
    depth: int = 1  # blocks
    causal: bool = False
    mlp: bool = True  # whether blocks hold one
    norm: bool = True  # whether what blocks and unembedding see is normalised
    dropout: float = 0.0  # on what attention and MLP add to the residual stream
    values: str = option("natural", choices=VALUES)  # whether position enters the values, see `VALUES`
    facts: int = task.LETTERS  # pairs of letters that sequences are made of
    fillers: int = 1  # kinds of placeholder, see `lib.one_layer.task.filler_tokens`

    def __post_init__(self) -> None:
        task.check_length(self.length)
        for field in ("width", "heads", "depth"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field} must be a positive integer, not {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout!r}")
        encoding(self.encoding, self.positions, self.width, self.heads)  # refuses what it cannot serve
        self._check_values()
        task.filler_tokens(self.facts, self.fillers)
        if self.causal and (self.facts, self.fillers) != (task.LETTERS, 1):
            raise ValueError("facts, fillers: a causal model has all letters and one placeholder")

    def _check_values(self) -> None:
        if self.values not in VALUES:
            raise ValueError(f"unknown values {self.values!r}; one of {', '.join(VALUES)}")
        if self.values == "natural":
            return
        if self.absolute == (self.values == "laden"):
            fitting = [name for name, kind in ENCODINGS.items() if kind.absolute != self.absolute]
            already = "carry position" if self.absolute else "are free of position"
            raise ValueError(f"values {self.values!r}: under encoding {self.encoding!r} values {already} anyway; "
                             f"encodings it changes are {', '.join(fitting)}")
        if self.depth > 1:
            raise ValueError(f"values {self.values!r} needs depth 1, not {self.depth}: "
                             "above the first layer the stream holds what attention moved")

    @property
    def positions(self) -> int:
        """Tokens the model sees: a causal model also sees the start symbol."""
        return self.length + self.causal

    @property
    def absolute(self) -> bool:
        """Whether position is added to the embeddings."""
        return ENCODINGS[self.encoding].absolute


class Output(NamedTuple):
    """What a model returns, as the probes expect it."""

    logits: Tensor


class Norm(nn.Module):
    """Layer norm with a learned scale and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return functional.layer_norm(x, x.shape[-1:], self.weight)


class Attention(nn.Module):
    """Full or causal attention; position acts on queries, keys and scores through the encoding.

    Values may see another input than queries and keys do (`VALUES`).

    ``scores``, ``weights`` and ``values`` are named points: a forward hook there listens, and one that
    returns a tensor intervenes. ``scores`` are what the softmax sees, divided by the root of the head
    dimension.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        width, self.heads, self.causal = settings.width, settings.heads, settings.causal
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in "qkvo")
        self.scores, self.weights, self.values = nn.Identity(), nn.Identity(), nn.Identity()
        self.encoding = encoding(settings.encoding, settings.positions, width, settings.heads)
        self.value_position_mode = settings.values
        with_position = settings.values == "laden"
        self.value_position = nn.Parameter(torch.empty(settings.positions, width)) if with_position else None

    def value_input(
        self, x: Float[Tensor, "batch length width"], position: Tensor | None
    ) -> Float[Tensor, "batch length width"]:
        """The stream as values see it, before the norm: with or without position, whatever the encoding does."""
        if self.value_position is not None:
            return x + self.value_position
        added = self.encoding.position_embedding(position) if self.value_position_mode == "free" else None
        return x if added is None else x - added

    def split(self, x: Float[Tensor, "*lead length width"]) -> Float[Tensor, "*lead heads length head_dim"]:
        """The coordinates of each head."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        position: Tensor | None,
        value_input: Float[Tensor, "batch length width"],
    ) -> Float[Tensor, "batch length width"]:
        # queries and keys, (batch, heads, length, head_dim), rotated under RoPE
        q, k = (self.encoding.rotate(self.split(linear(x))) for linear in (self.query, self.key))
        # scores s_ij = q_i^T k_j / sqrt(d) + b_(j-i), (batch, heads, length, length)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        bias = self.encoding.score_bias(position)
        scores = self.scores(scores if bias is None else scores + bias)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        # routing: attention weights alpha_ij; storage: values v_j
        values = self.values(self.split(self.value(value_input)))
        mixed = self.weights(scores.softmax(-1)) @ values
        return self.output(mixed.transpose(-3, -2).flatten(-2))


class MLP(nn.Module):
    """Two layers, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy and added to the residual stream."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.norm1 = Norm(settings.width) if settings.norm else nn.Identity()
        self.attention = Attention(settings)
        self.norm2 = Norm(settings.width) if settings.norm and settings.mlp else nn.Identity()
        self.mlp = MLP(settings.width) if settings.mlp else None

    def add_attention(
        self, x: Float[Tensor, "batch length width"], position: Tensor | None, rows: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "batch length width"] | Float[Tensor, "rows width"]:
        """The stream plus what attention retrieves; at ``rows`` of the flattened batch alone, if they are given."""
        normed, mode = self.norm1(x), self.attention.value_position_mode
        value_input = normed if mode == "natural" else self.norm1(self.attention.value_input(x, position))
        retrieved = self.attention(normed, position, value_input)
        if rows is not None:
            x, retrieved = (part.flatten(0, 1)[rows] for part in (x, retrieved))
        return x + functional.dropout(retrieved, self.dropout, self.training)

    def add_mlp(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        """The stream plus what the MLP makes of it."""
        if self.mlp is None:
            return x
        return x + functional.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


class Transformer(nn.Module):
    """Tokens in, logits over the clean tokens out; the plain definition of what `lib.one_layer.ensemble` trains."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.settings = settings
        #: a causal model's row i - 1 predicts position i
        self.logits_shift = int(settings.causal)
        self.embedding = nn.Parameter(torch.empty(task.TOKENS, settings.width))
        shape = encoding(settings.encoding, settings.positions, settings.width, settings.heads).weight_shape
        self.position = None if shape is None else nn.Parameter(torch.empty(shape))
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.norm = Norm(settings.width) if settings.norm else nn.Identity()
        self.head = nn.Linear(settings.width, task.CLEAN)

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def encoding(self) -> Encoding:
        """The encoding, which every block shares."""
        return self.layers[0].attention.encoding

    def embed(self, input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """The residual stream before the first block."""
        x = self.embedding[input_ids]
        added = self.encoding.position_embedding(self.position)
        return x if added is None else x + added

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        rows: Int[Tensor, " rows"] | None = None,
    ) -> Output:
        """Logits at every position, (batch, length, clean), or at ``rows`` of the flattened batch, (rows,
        clean).

        :raises ValueError: for another length than the settings', or a mask that hides anything
        """
        length, positions = input_ids.shape[-1], self.settings.positions
        if length != positions:
            raise ValueError(f"input_ids has length {length}, but the model has {positions} positions")
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("attention_mask hides tokens; these sequences have no padding")
        x = self.embed(input_ids)
        *lower, last = self.layers
        for block in lower:
            x = block.add_mlp(block.add_attention(x, self.position))
        x = last.add_mlp(last.add_attention(x, self.position, rows))  # above the last attention only ``rows`` matter
        return Output(self.unembed(x))

    def unembed(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead clean"]:
        """Logits from the last residual stream."""
        return self.head(self.norm(x))

    def record(
        self, input_ids: Int[Tensor, "batch length"], *points: str, rows: Int[Tensor, " rows"] | None = None
    ) -> dict[str, list[Tensor]]:
        """What the blocks compute at named points, first to last.

        :param points: submodules of a block, whose outputs are wanted: ``attention.scores``, ``attention.weights``,
            ``attention.values``, ``attention`` and ``mlp`` (what each adds to the stream), ...
        :param rows: at which the last MLP acts, as in `forward`; by default a single one, for what lies below it
        """
        rows = torch.zeros(1, dtype=torch.long) if rows is None else rows
        found: dict[str, list[Tensor]] = {point: [] for point in points}
        with contextlib.ExitStack() as hooks:
            for point, block in itertools.product(points, self.layers):
                listen = lambda module, inputs, output, point=point: found[point].append(output)
                hooks.callback(block.get_submodule(point).register_forward_hook(listen).remove)
            self(input_ids, rows=rows)
        return found

    def mask_query(self) -> Float[Tensor, "heads positions head_dim"]:
        """The first layer's query of a mask at each position, before the encoding rotates it."""
        block, masks = self.layers[0], torch.full((1, self.settings.positions), task.MASK)
        return block.attention.split(block.attention.query(block.norm1(self.embed(masks))))[0]


def initialise(model: Transformer, seed: int, unembedding: float = HEAD_SCALE) -> Transformer:
    """Fill the weights from ``seed``: uniform within one over the root of the fan-in, the unembedding small.

    RADD starts the unembedding at zero; here that start is a plateau which some seeds take thousands of steps to
    leave, so it is normal with standard deviation `HEAD_SCALE` instead. Drawn on the CPU: the same weights everywhere.

    :param unembedding: its standard deviation
    """
    rng = torch.Generator("cpu").manual_seed(seed)
    width = model.settings.width
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "head.bias" or (name == "position" and not model.settings.absolute):
                weight.zero_()
            elif name == "head.weight":
                weight.copy_(torch.empty(weight.shape, device="cpu").normal_(0, unembedding, generator=rng))
            elif "norm" in name:
                weight.fill_(1.0)
            else:
                fan_in = 4 * width if "mlp.down" in name else width
                drawn = torch.empty(weight.shape, device="cpu").uniform_(-1, 1, generator=rng)
                weight.copy_(drawn.mul_(1 / math.sqrt(fan_in)))
    return model


def storage(
    model: Transformer,
) -> Float[Tensor, "clean tokens"] | Float[Tensor, "queries keys clean tokens"]:
    """W of Sec. 3, the contribution of each input token to each logit; for one head, MLP and norms off.

    :return: a matrix where position is added to nothing; else one for each pair: under an absolute encoding mask
      position i and key position j both matter
    :raises ValueError: where the logits are not of that form
    """
    settings = model.settings
    if settings.mlp or settings.norm or settings.depth > 1 or settings.heads > 1 or settings.causal:
        raise ValueError("storage: exact for causal=False, depth=1, heads=1, mlp=False, norm=False alone")
    attention = model.layers[0].attention
    unembed, bias = model.head.weight, model.head.bias
    route = unembed @ attention.output.weight @ attention.value.weight  # U W_O W_V, (clean, width)
    w = route @ model.embedding.T + (unembed @ model.embedding[task.MASK] + bias)[:, None]
    added = model.encoding.position_embedding(model.position)
    carried = added if settings.values == "natural" else attention.value_position
    if added is not None:  # the mask's own position, in the residual stream
        w = w + (added.to(w.dtype) @ unembed.T)[:, None, :, None]
    if carried is not None:  # the key's position, in its value
        w = w + (carried.to(w.dtype) @ route.T)[:, :, None]
    return w if w.dim() == 2 else w.expand(settings.length, settings.length, -1, -1)
