"""A Llama in a GGUF file (llama.cpp's format): its configuration, weights and tokenizer.

The `gguf` package reads the header and dequantises. The rows of the query and key projections stand in another order
in such a file: llama.cpp rotates neighbouring coordinates of a head, transformers coordinates half a head apart.
`lib.language_models.checkpoints.load` reads a GGUF file with the checks of any other checkpoint.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SUFFIX = ".gguf"
#: field of the header behind ``llama.`` -> field of config.json, and its type
_FIELDS: dict[str, tuple[str, type[int] | type[float]]] = {
    "vocab_size": ("vocab_size", int),
    "embedding_length": ("hidden_size", int),
    "feed_forward_length": ("intermediate_size", int),
    "block_count": ("num_hidden_layers", int),
    "attention.head_count": ("num_attention_heads", int),
    "attention.head_count_kv": ("num_key_value_heads", int),
    "context_length": ("max_position_embeddings", int),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", float),
    "rope.freq_base": ("rope_theta", float),
    "rope.dimension_count": ("head_dim", int),
}
_TOKENIZER = "tokenizer.ggml."
_SPECIAL = 3  # token type of one that stands in no text
#: name in the file -> name in `LlamaForCausalLM`
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
          "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
          "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


class GGUFFile(NamedTuple):
    """What a GGUF file holds; the weights stay on disk."""

    path: Path
    header: dict[str, Any]  # field -> value
    tensors: dict[str, Any]  # name in the file -> the reader's record of a tensor

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, rows first."""
        return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self.tensors.items()}


def read(path: Path) -> GGUFFile:
    """The header of a GGUF file, and where its tensors lie.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: for a file that was cut off or damaged
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        header = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # whatever numpy says of bytes that are not there
        reason = " ".join(str(error).split()) or type(error).__name__
        size = path.stat().st_size
        raise ValueError(f"{path}: cut off or damaged, {size} bytes ({reason}); fetch it again") from None
    return GGUFFile(path, header, {tensor.name: tensor for tensor in reader.tensors})


# Configuration -----------------------------------------------------------------------------------------------


def config_fields(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say.

    :raises ValueError: for another architecture than Llama, and for a field that is missing, of another type, or
        none of a plain Llama; names it
    """
    found = file.header.get("general.architecture")
    if found != "llama":
        raise ValueError(f"general.architecture={found!r}; of GGUF files this book reads 'llama'")
    own = {name.removeprefix("llama."): value for name, value in file.header.items() if name.startswith("llama.")}
    for name in sorted(own.keys() - _FIELDS.keys()):
        raise ValueError(f"llama.{name}={own[name]!r}, but a plain Llama has no such field")
    fields = {ours: _number(f"llama.{name}", own.get(name), kind) for name, (ours, kind) in _FIELDS.items()}
    tokens = {f"{name}_token_id": file.header.get(f"{_TOKENIZER}{name}_token_id") for name in ("bos", "eos")}
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32",
            "tie_word_embeddings": "output.weight" not in file.tensors, **fields, **tokens}


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        wanted = "a whole number from 1 on" if kind is int else "a positive number"
        raise ValueError(f"{name}={value!r} must be {wanted}")
    return value


# Weights -----------------------------------------------------------------------------------------------------


def weights(file: GGUFFile, config: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights, dequantised, under the names of `LlamaForCausalLM`; a name that it does not have is kept."""
    from gguf import dequantize

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for name, tensor in file.tensors.items():
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = name.split(".")[-2]
        if kind in heads:
            values = _halves_apart(values, heads[kind])
        found[_llama_name(name)] = torch.from_numpy(np.array(values, copy=True)).to(dtype)
    return found


def _halves_apart(rows: Float[np.ndarray, "out in"], heads: int) -> Float[np.ndarray, "out in"]:
    """Rows of a query or key projection with the two coordinates of each rotated pair half a head apart.

    In the file they are neighbours.
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _llama_name(name: str) -> str:
    """`LlamaForCausalLM`'s name of a tensor."""
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if block and block[2] in _BLOCK:
        return f"model.layers.{block[1]}.{_BLOCK[block[2]]}.weight"
    outside = _OUTSIDE.get(name.removesuffix(".weight"))
    return f"{outside}.weight" if outside else name


# Tokenizer ---------------------------------------------------------------------------------------------------


def tokenizer(file: GGUFFile) -> Any:
    """The tokenizer: byte-level pairs, digits one by one, no space and no token added to a text.

    :raises ValueError: for any other kind of tokenizer, or one that is not whole
    """
    def given(name: str) -> Any:
        return file.header.get(_TOKENIZER + name)

    for name, wanted in {"model": "gpt2", "pre": "smollm"}.items():
        if given(name) != wanted:
            raise ValueError(f"{_TOKENIZER}{name}={given(name)!r}; the tokenizer that is read here has {wanted!r}")
    words = given("tokens")
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)},
                                [tuple(pair.split(" ")) for pair in given("merges")]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, normalized=False, special=True)
                             for word, kind in zip(words, given("token_type"), strict=True) if kind == _SPECIAL])
    named = {f"{name}_token": words[given(f"{name}_token_id")] for name in ("bos", "eos")}
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **named)
