"""The five architectures of Table 7, each in transformers' own classes.

LLaDA is a Llama without the causal mask, under other tensor names and configuration fields; Dream is a Qwen2
without the causal mask, whose logits are shifted by one position. So neither needs its authors' code: their
configuration is translated, or refused with the field that does not fit. Llama, Qwen2 and Qwen3.5 are causal and
are transformers' own throughout.

Classes are looked up where a model is built or read: transformers takes seconds to bring them along, and most readers
of `ARCHITECTURES` want a name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import transformers

Fields = Mapping[str, Any]
_LAYERS = 1000  # no model of these architectures has a tenth of them


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How a checkpoint of one architecture is read."""

    name: str
    title: str  # as Table 7 prints it
    repository: str  # hub id of the model the paper fine-tunes
    model_types: tuple[str, ...]  # `model_type` in config.json
    classes: Callable[[], tuple[type[transformers.PreTrainedModel], Any]]  # of models, of tokenizers
    configure: Callable[[Fields], transformers.PreTrainedConfig]
    causal: bool
    logits_shift: int  # 1: row i - 1 of the logits predicts position i
    left_out: str = r"$^"  # pattern of checkpoint tensors that the language model does not have
    original_name: Callable[[str], str] = str  # the checkpoint's name of a tensor of ``model_class``

    @property
    def model_class(self) -> type[transformers.PreTrainedModel]:
        """The class of the model."""
        return self.classes()[0]

    @property
    def tokenizer_class(self) -> Any:
        """The class of the tokenizer."""
        return self.classes()[1]

    def without_memory(self, config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
        """The model of a configuration with names and shapes but no weights."""
        with torch.device("meta"):
            return self.model_class(config)


# LLaDA -------------------------------------------------------------------------------------------------------

#: field of a LLaDA configuration -> values under which the model is a Llama; the first is assumed where absent
_LLADA_IS_LLAMA: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "rope": (True,),
    "alibi": (False,),
    "block_group_size": (1,),
    "attention_layer_norm": (False,),
    "layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False, None),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "embedding_dropout": (0.0,),
    "residual_dropout": (0.0,),
}
#: these the published code would fill with values under which the model is no Llama
_LLADA_NEEDED = ("block_type", "activation_type", "layer_norm_type", "rope", "d_model", "n_heads", "n_layers",
                 "vocab_size", "rope_theta", "embedding_dropout", "residual_dropout", "weight_tying", "mask_token_id")


def llada_config(fields: Fields) -> transformers.LlamaConfig:
    """A LLaDA configuration as a Llama's.

    :raises ValueError: for a model that is not a bidirectional Llama; names the field
    """
    for field in _LLADA_NEEDED:
        if fields.get(field) is None:
            raise ValueError(f"config.json: field {field!r} is missing, so this is not LLaDA's published layout")
    for field, accepted in _LLADA_IS_LLAMA.items():
        value = fields.get(field, accepted[0])
        if value not in accepted:
            raise ValueError(f"config.json: {field}={value!r}, but a bidirectional Llama has {accepted[0]!r}")
    _check_sizes(fields, ("d_model", "n_heads", "n_layers", "vocab_size", "n_kv_heads", "mlp_hidden_size",
                          "embedding_size"))
    width, heads = fields["d_model"], fields["n_heads"]
    if width % heads or (width // heads) % 2:
        raise ValueError(f"config.json: d_model={width} does not split into n_heads={heads} of even size")
    hidden = fields.get("mlp_hidden_size")
    config = transformers.LlamaConfig(
        vocab_size=fields.get("embedding_size") or fields["vocab_size"],
        hidden_size=width,
        intermediate_size=fields.get("mlp_ratio", 4) * width if hidden is None else hidden,
        num_hidden_layers=fields["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=_llada_key_heads(fields),
        max_position_embeddings=fields.get("max_sequence_length", 1024),
        rms_norm_eps=fields.get("rms_norm_eps", 1e-5),
        rope_parameters=_rope(fields),
        attention_dropout=fields.get("attention_dropout", 0.0),
        tie_word_embeddings=fields["weight_tying"],
        eos_token_id=fields.get("eos_token_id"),
        bos_token_id=None,
        pad_token_id=None,  # its embedding has no padding row: that token is attended and trained
        use_cache=False,
    )
    config.rope_full_precision = fields.get("rope_full_precision", True)
    return config


def _check_sizes(fields: Fields, names: Iterable[str]) -> None:
    """Sizes that are there are whole numbers; not so many layers that an empty model would take minutes to build."""
    for field in names:
        size = fields.get(field)
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"config.json: {field}={size!r} must be a whole number from 1 on")
        if size is not None and field in ("n_layers", "num_hidden_layers") and size > _LAYERS:
            raise ValueError(f"config.json: {field}={size}: models of up to {_LAYERS} layers are read")


def _rope(fields: Fields) -> dict[str, Any]:
    """Plain rotary frequencies, theta^(-2i/d)."""
    theta = fields["rope_theta"]
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 0 < theta < math.inf:
        raise ValueError(f"config.json: rope_theta={theta!r} must be a positive number")
    return {"rope_type": "default", "rope_theta": float(theta)}


def _llada_key_heads(fields: Fields) -> int:
    shared, given = fields.get("multi_query_attention"), fields.get("n_kv_heads")
    implied = 1 if shared else fields["n_heads"]
    if shared is not None and given is not None and given != implied:
        raise ValueError(f"config.json: n_kv_heads={given}, but multi_query_attention={shared} implies {implied}")
    return implied if given is None else given


def _llada_classes() -> tuple[type[transformers.PreTrainedModel], Any]:
    from lib.language_models.llada import LLaDAForMaskedDiffusion

    return LLaDAForMaskedDiffusion, transformers.PreTrainedTokenizerFast


def _llada_name(name: str) -> str:
    from lib.language_models.llada import llada_tensor_name

    return llada_tensor_name(name)


# Dream and the causal models ---------------------------------------------------------------------------------

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads")
_DREAM_FIELDS = (*_SIZES, "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
                 "attention_dropout", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def dream_config(fields: Fields) -> transformers.Qwen2Config:
    """A Dream configuration as a Qwen2's.

    :raises ValueError: for a model that is not a bidirectional Qwen2 with plain rotary frequencies
    """
    for field in (*_SIZES, "rope_theta", "mask_token_id"):
        if fields.get(field) is None:
            raise ValueError(f"config.json: field {field!r} is missing, so this is not Dream's published layout")
    _check_sizes(fields, _SIZES)
    for field, accepted in {"hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False}.items():
        if fields.get(field, accepted) != accepted:
            raise ValueError(f"config.json: {field}={fields[field]!r}, but Dream as published has {accepted!r}")
    known = {field: fields[field] for field in _DREAM_FIELDS if field in fields}
    return transformers.Qwen2Config(**known, rope_parameters=_rope(fields), use_cache=False)


def fields_without_code(fields: Fields) -> dict[str, Any]:
    """What a causal model's configuration says, its sizes checked, and no pointer to code."""
    _check_sizes(fields, _SIZES)
    return {field: value for field, value in fields.items() if field != "auto_map"}


def _qwen3_5_config(fields: Fields) -> transformers.PreTrainedConfig:
    """The language model's part of a Qwen3.5 configuration."""
    if fields["model_type"] == "qwen3_5_text":
        return transformers.Qwen3_5TextConfig(**fields_without_code(fields))
    if not isinstance(fields.get("text_config"), dict):
        raise ValueError(f"config.json: text_config must hold fields and values, not {fields.get('text_config')!r}")
    _check_sizes(fields["text_config"], _SIZES)
    return transformers.Qwen3_5Config(**fields_without_code(fields)).get_text_config()


ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        Architecture("llada", "LLaDA-8B", "GSAI-ML/LLaDA-8B-Instruct", ("llada",), _llada_classes, llada_config,
                     causal=False, logits_shift=0, original_name=_llada_name),
        Architecture("dream", "Dream-7B", "Dream-org/Dream-v0-Instruct-7B", ("Dream",),
                     lambda: (transformers.Qwen2ForCausalLM, transformers.Qwen2Tokenizer), dream_config,
                     causal=False, logits_shift=1),
        Architecture("llama", "Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", ("llama",),
                     lambda: (transformers.LlamaForCausalLM, transformers.AutoTokenizer),
                     lambda fields: transformers.LlamaConfig(**fields_without_code(fields)),
                     causal=True, logits_shift=1),
        Architecture("qwen2", "Qwen-2.5-7B", "Qwen/Qwen2.5-7B-Instruct", ("qwen2",),
                     lambda: (transformers.Qwen2ForCausalLM, transformers.AutoTokenizer),
                     lambda fields: transformers.Qwen2Config(**fields_without_code(fields)),
                     causal=True, logits_shift=1),
        Architecture("qwen3_5", "Qwen-3.5-4B", "Qwen/Qwen3.5-4B", ("qwen3_5", "qwen3_5_text"),
                     lambda: (transformers.Qwen3_5ForCausalLM, transformers.AutoTokenizer), _qwen3_5_config,
                     causal=True, logits_shift=1, left_out=r"^(mtp\.|model\.visual\.)"),
    )
}
#: what a figure or a table calls a model of each, whatever its size
SHORT_NAMES = {"llada": "LLaDA", "dream": "Dream", "llama": "Llama", "qwen2": "Qwen2.5", "qwen3_5": "Qwen3.5"}


def recognise(fields: Fields) -> Architecture:
    """The architecture that a config.json declares.

    A Llama whose attention was opened to both sides (`lib.language_models.pretrained.bidirectional`) says so by
    ``is_causal``, and what it is trained with by ``mask_token_id``.

    :raises ValueError: for any other ``model_type``, and an opened Llama without a mask token
    """
    for each in ARCHITECTURES.values():
        if fields.get("model_type") in each.model_types:
            return _opened(each, fields) if each.name == "llama" and fields.get("is_causal") is False else each
    known = ", ".join(kind for each in ARCHITECTURES.values() for kind in each.model_types)
    raise ValueError(f"config.json: model_type={fields.get('model_type')!r}; this book reads {known}")


def _opened(causal: Architecture, fields: Fields) -> Architecture:
    if fields.get("mask_token_id") is None:
        raise ValueError("config.json: is_causal=False, so field 'mask_token_id' is needed")
    return dataclasses.replace(causal, causal=False)
