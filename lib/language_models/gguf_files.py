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
import transformers
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

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


def read_gguf(path: Path) -> GGUFFile:
    """The header of a GGUF file, and where its tensors lie.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: for a file that was cut off or damaged, or of another version of the format
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    _check_version(path)
    try:
        reader = _reader(path)
        header = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # whatever numpy says of bytes that are not there
        reason = " ".join(str(error).split()) or type(error).__name__
        size = path.stat().st_size
        raise ValueError(f"{path}: cut off or damaged, {size} bytes ({reason}); fetch it again") from None
    return GGUFFile(path, header, {tensor.name: tensor for tensor in reader.tensors})


def _check_version(path: Path) -> None:
    """Refuse a whole file of a version of the format that the package does not read; what is damaged passes."""
    from gguf.gguf_reader import READER_SUPPORTED_VERSIONS

    with path.open("rb") as file:
        start, number = file.read(4), int.from_bytes(file.read(4), "little")
    other_byte_order = number % 2**16 == 0
    if start == b"GGUF" and number not in READER_SUPPORTED_VERSIONS and not other_byte_order:
        read = " and ".join(map(str, READER_SUPPORTED_VERSIONS))
        raise ValueError(f"{path}: GGUF version {number}, but versions {read} are read; convert the model anew")


def _reader(path: Path) -> Any:
    """The `gguf` package's reader, which past the end of a file would read on; this one says where the file ends."""
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def _get(self, offset: Any, dtype: Any, count: Any = 1, *rest: Any, **others: Any) -> Any:
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"ends before byte {end}")
            return super()._get(offset, dtype, count, *rest, **others)

    return Reader(path)


# Configuration -----------------------------------------------------------------------------------------------


def llama_fields(file: GGUFFile) -> dict[str, Any]:
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
    _check_blocks(file, fields["num_hidden_layers"])
    tokens = {f"{name}_token_id": file.header.get(f"{_TOKENIZER}{name}_token_id") for name in ("bos", "eos")}
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32",
            "tie_word_embeddings": "output.weight" not in file.tensors, **fields, **tokens}


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        wanted = "a whole number from 1 on" if kind is int else "a positive number"
        raise ValueError(f"{name}={value!r} must be {wanted}")
    return value


def _check_blocks(file: GGUFFile, expected: int) -> None:
    """The tensors belong to as many layers as the header says, before a model of so many is built."""
    blocks = {found[1] for found in (re.match(r"blk\.(\d+)\.", name) for name in file.tensors) if found}
    if len(blocks) != expected:
        raise ValueError(f"llama.block_count={expected}, but there are tensors of {len(blocks)} blocks")


# Weights -----------------------------------------------------------------------------------------------------


def weights(file: GGUFFile, model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights, dequantised, under the names of `LlamaForCausalLM`.

    :param model: one of the file's configuration; only its names and shapes count
    :raises ValueError: for a tensor that is missing, left over, or of another shape or type; names it
    """
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    _check_shapes(file, model)
    found = {}
    for name, tensor in file.tensors.items():
        values = _dequantised(tensor)
        kind = name.split(".")[-2]
        if kind in heads:
            values = _halves_apart(values, heads[kind])
        found[_llama_name(name)] = torch.from_numpy(np.array(values, copy=True)).to(dtype)
    return found


def _check_shapes(file: GGUFFile, model: Any) -> None:
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}  # a tied matrix stands once
    stored = {_llama_name(name): shape for name, shape in file.shapes.items()}
    for name in sorted({*stored, *expected}):
        if stored.get(name) != expected.get(name):
            raise ValueError(f"{name} is {stored.get(name, 'missing')} in the file, "
                             f"{expected.get(name, 'missing')} in the model of its header")


def _dequantised(tensor: Any) -> Float[np.ndarray, "*shape"]:
    from gguf import dequantize

    try:
        return dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise ValueError(f"tensor {tensor.name!r} is of type {tensor.tensor_type.name}; weights are F32, F16, BF16, "
                         "or quantised in a way that the package gguf knows") from None


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
    words, special = _words(file)
    made = Tokenizer(models.BPE(words, [tuple(pair.split(" ")) for pair in given("merges")]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    named = {f"{name}_token": made.id_to_token(given(f"{name}_token_id")) for name in ("bos", "eos")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **named)


def _words(file: GGUFFile) -> tuple[dict[str, int], list[str]]:
    """Every token with its id, and those that stand in no text.

    :raises ValueError: for a list that is missing or of another length than the vocabulary, or an id outside it
    """
    size = file.header["llama.vocab_size"]
    for name in ("tokens", "token_type", "merges"):
        found = file.header.get(_TOKENIZER + name)
        if not isinstance(found, list) or (name != "merges" and len(found) != size):
            wanted = "" if name == "merges" else f" of {size} entries, the vocabulary"
            raise ValueError(f"{_TOKENIZER}{name} must be a list{wanted}")
    for name in ("bos", "eos"):
        place = file.header.get(f"{_TOKENIZER}{name}_token_id")
        if not isinstance(place, int) or not 0 <= place < size:
            raise ValueError(f"{_TOKENIZER}{name}_token_id={place!r} is no token of a vocabulary of {size}")
    tokens, kinds = (file.header[_TOKENIZER + name] for name in ("tokens", "token_type"))
    return ({word: i for i, word in enumerate(tokens)},
            [word for word, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL])
