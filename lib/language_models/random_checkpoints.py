"""Checkpoints with random weights, in the layouts that the hub's have: small ones by `tiny`, any size by `shaped`.

Same files, tensor names, configuration fields (``auto_map`` included) and tokenizer kinds as the published
models, so that `lib.language_models.checkpoints.load` meets here what it would meet there. The weights mean nothing:
such a model tests the plumbing, not the paper.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from lib.language_models import checkpoints, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES

#: how Llama 3 and Qwen 2 cut text before merging: contractions, words with their space, single digits, the rest
_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
#: special tokens by architecture: end of text, then the mask or the start token
_SPECIAL = {
    "llada": ("<|endoftext|>", "<|mdm_mask|>"),
    "dream": ("<|endoftext|>", "<|mask|>"),
    "llama": ("<|end_of_text|>", "<|begin_of_text|>"),
    "qwen2": ("<|endoftext|>",),
    "qwen3_5": ("<|endoftext|>",),
}


def tiny(
    folder: str | os.PathLike[str],
    architecture: str,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    key_heads: int | None = None,
    vocabulary: int = 512,
    seed: int = 0,
    scale: float = 0.02,
    dtype: torch.dtype = torch.float32,
    shards: int = 2,
    texts: Iterable[str] | None = None,
    **fields: Any,
) -> Path:
    """Write a random checkpoint of one of `lib.language_models.architectures.ARCHITECTURES`.

    :param width: of the residual stream; a multiple of ``2 * heads``
    :param key_heads: key and value heads (grouped heads where fewer than ``heads``)
    :param vocabulary: tokens the tokenizer may learn; embeddings are padded a little beyond, as published
    :param scale: standard deviation of the weights
    :param texts: what the tokenizer learns from; a generated world where not given
    :param fields: further fields of config.json, such as ``weight_tying=True``
    :raises ValueError: for another architecture
    :raises FileExistsError: if there is anything in ``folder``
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture {architecture!r}; one of {', '.join(ARCHITECTURES)}")
    folder = _new_folder(folder)
    texts = synthetic_facts.world(40).sentences() if texts is None else texts
    special = _write_tokenizer(folder, architecture, texts, vocabulary)
    tokens = -(-(max(special) + 1) // 64) * 64
    size = Size(width, layers, heads, key_heads or heads, 3 * width, tokens)
    precision = {"torch_dtype": str(dtype).removeprefix("torch.")}
    config = config_fields(architecture, size, special) | precision | fields
    _write_json(folder / "config.json", config)
    _write_weights(folder, architecture, config, seed, scale, dtype, shards)
    return folder


def source_of(model: str, folder: str | Path, seed: int = 0) -> str | Path:
    """What `lib.language_models.checkpoints.load` reads for a model's name.

    :param folder: where ``tiny:llada`` and the like are made
    """
    if not model.startswith("tiny:"):
        return model
    kind = model.removeprefix("tiny:")
    return tiny(Path(folder) / kind, kind, layers=4, seed=seed)


def load_by_name(
    model: str, dtype: str | None = None, device: str | torch.device = "cpu", seed: int = 0
) -> tuple[Any, Any]:
    """A model and its tokenizer by the name that a command line gives: hub id, folder, or ``tiny:ARCHITECTURE``.

    :param dtype: of the weights, such as ``bfloat16``; their own where not given
    :param seed: of a tiny model's weights
    :raises ValueError: as `lib.language_models.checkpoints.load`, and for a tiny model of no architecture
    """
    with tempfile.TemporaryDirectory() as folder:
        return checkpoints.load(source_of(model, folder, seed), getattr(torch, dtype) if dtype else None, device)


def shaped(
    folder: str | os.PathLike[str], architecture: str, size: Size, *, seed: int = 0, scale: float = 0.02,
    dtype: torch.dtype = torch.bfloat16, shard: int = 2**31,
) -> Path:
    """Write a random checkpoint of any size; no more than one shard of it is ever in memory.

    :param size: such as ``PUBLISHED["llada"]``
    :param shard: bytes of a shard, about
    :raises ValueError: for an architecture other than llada, dream, llama, qwen2
    :raises FileExistsError: if there is anything in ``folder``
    """
    if architecture not in ("llada", "dream", "llama", "qwen2"):
        raise ValueError(f"architecture {architecture!r}: one of llada, dream, llama, qwen2 can be made in any size")
    folder = _new_folder(folder)
    special = _write_tokenizer(folder, architecture, synthetic_facts.world(40).sentences(), 512)
    config = config_fields(architecture, size, special) | {"torch_dtype": str(dtype).removeprefix("torch.")}
    _write_json(folder / "config.json", config)
    placed: dict[str, str] = {}
    for number, shapes in enumerate(_shards(_shapes(architecture, config), shard // dtype.itemsize)):
        file = f"model-{number:05d}.safetensors"
        rng = torch.Generator().manual_seed(seed + number)
        tensors = {name: torch.ones(shape, dtype=dtype) if len(shape) == 1 and not name.endswith("bias")
                   else torch.randn(shape, generator=rng, dtype=dtype) * scale for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": placed})
    return folder


def _new_folder(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: not empty; choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shapes(architecture: str, config: dict[str, Any]) -> dict[str, torch.Size]:
    """Original name and shape of every tensor, from a model that takes no memory."""
    kind = ARCHITECTURES[architecture]
    model = kind.without_memory(kind.configure(config))
    return {kind.original_name(name): weight.shape for name, weight in model.named_parameters()}


def _shards(shapes: dict[str, torch.Size], numbers: int) -> Iterator[dict[str, torch.Size]]:
    """Tensors in groups of about so many numbers."""
    group: dict[str, torch.Size] = {}
    for name, shape in shapes.items():
        group[name] = shape
        if sum(each.numel() for each in group.values()) >= numbers:
            yield group
            group = {}
    if group:
        yield group


# Tokenizers --------------------------------------------------------------------------------------------------


def _write_tokenizer(folder: Path, architecture: str, texts: Iterable[str], vocabulary: int) -> list[int]:
    """Train a byte-level BPE and write it as the architecture's repository does; returns the special ids."""
    tokenizer = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learned = tokenizer.get_vocab_size()
    special = _SPECIAL[architecture]
    tokenizer.add_special_tokens(list(special))
    ids = list(range(learned, learned + len(special)))
    if architecture == "llama":
        start = [(special[1], ids[1])]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{special[1]} $A", special_tokens=start)
    if architecture in ("dream", "qwen2"):
        tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    if architecture != "dream":
        tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(architecture, ids))
    return ids


def _tokenizer_config(architecture: str, ids: list[int]) -> dict[str, Any]:
    special = _SPECIAL[architecture]
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    classes = {"dream": "DreamTokenizer", "qwen2": "Qwen2Tokenizer", "qwen3_5": "Qwen2Tokenizer"}
    config: dict[str, Any] = {
        "added_tokens_decoder": {str(i): {"content": token, **plain} for i, token in zip(ids, special, strict=True)},
        "clean_up_tokenization_spaces": False,
        "eos_token": special[0],
        "model_max_length": 4096,
        "pad_token": special[0],
        "tokenizer_class": classes.get(architecture, "PreTrainedTokenizerFast"),
    }
    if architecture == "llama":
        config["bos_token"] = special[1]
    if architecture == "dream":
        config |= {"mask_token": special[1], "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}}
    return config


# Configurations, field by field as published -----------------------------------------------------------------


class Size(NamedTuple):
    """What the architectures have in common in size."""

    width: int
    layers: int
    heads: int
    key_heads: int
    mlp: int
    tokens: int


#: sizes of the two masked models as published
PUBLISHED = {"llada": Size(4096, 32, 32, 32, 12288, 126464), "dream": Size(3584, 28, 28, 4, 18944, 152064)}


def config_fields(architecture: str, size: Size, special: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """The fields of config.json for a model of some size; ``special`` are the ids of end and mask (or start)."""
    return _CONFIGS[architecture](size, list(special))


def _llada(size: Size, special: list[int]) -> dict[str, Any]:
    return {
        "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
        "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig",
                     "AutoModel": "modeling_llada.LLaDAModelLM",
                     "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
        "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": size.width,
        "embedding_dropout": 0.0, "embedding_size": size.tokens, "eos_token_id": special[0],
        "flash_attention": False, "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None,
        "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False,
        "layer_norm_type": "rms", "layer_norm_with_affine": True, "mask_token_id": special[1],
        "max_sequence_length": 4096, "mlp_hidden_size": size.mlp, "mlp_ratio": 4, "model_type": "llada",
        "multi_query_attention": None, "n_heads": size.heads, "n_kv_heads": size.key_heads,
        "n_layers": size.layers, "pad_token_id": special[0], "precision": "amp_bf16", "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0,
        "scale_logits": False, "transformers_version": "4.46.3", "use_cache": False,
        "vocab_size": size.tokens, "weight_tying": False,
    }


def _common(size: Size, special: list[int]) -> dict[str, Any]:
    return {
        "attention_dropout": 0.0, "bos_token_id": special[-1], "eos_token_id": special[0], "hidden_act": "silu",
        "hidden_size": size.width, "initializer_range": 0.02, "intermediate_size": size.mlp,
        "num_attention_heads": size.heads, "num_hidden_layers": size.layers,
        "num_key_value_heads": size.key_heads, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": False, "transformers_version": "4.46.2", "use_cache": True,
        "vocab_size": size.tokens,
    }


def _dream(size: Size, special: list[int]) -> dict[str, Any]:
    return _common(size, special) | {
        "architectures": ["DreamModel"],
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": special[0], "mask_token_id": special[1], "max_position_embeddings": 131072,
        "max_window_layers": 28, "model_type": "Dream", "pad_token_id": special[0], "rope_scaling": None,
        "sliding_window": None, "use_sliding_window": False,
    }


def _llama(size: Size, special: list[int]) -> dict[str, Any]:
    scaling = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 8192, "rope_type": "llama3"}
    return _common(size, special) | {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "max_position_embeddings": 131072,
        "mlp_bias": False, "model_type": "llama", "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_scaling": scaling, "rope_theta": 500000.0,
    }


def _qwen2(size: Size, special: list[int]) -> dict[str, Any]:
    return _common(size, special) | {
        "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768, "max_window_layers": 28,
        "model_type": "qwen2", "sliding_window": 131072, "use_sliding_window": False,
    }


def _qwen3_5(size: Size, special: list[int]) -> dict[str, Any]:
    """Three layers of linear attention to one of softmax attention, and an image encoder that is not loaded."""
    head = size.width // size.heads
    text = _common(size, special) | {
        "head_dim": head, "full_attention_interval": min(4, size.layers), "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": head, "linear_num_key_heads": size.key_heads, "linear_value_head_dim": head,
        "linear_num_value_heads": size.heads, "model_type": "qwen3_5_text", "tie_word_embeddings": True,
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25,
                            "rope_theta": 10000000, "rope_type": "default"},
    }
    del text["rope_theta"], text["transformers_version"]
    vision = {"depth": 1, "hidden_size": 16, "in_channels": 3, "intermediate_size": 16, "num_heads": 2,
              "model_type": "qwen3_5", "num_position_embeddings": 4, "out_hidden_size": size.width,
              "patch_size": 2, "spatial_merge_size": 1, "temporal_patch_size": 1}
    return {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text,
            "tie_word_embeddings": True, "vision_config": vision}


_CONFIGS = {"llada": _llada, "dream": _dream, "llama": _llama, "qwen2": _qwen2, "qwen3_5": _qwen3_5}


# Weights -----------------------------------------------------------------------------------------------------


def _write_weights(
    folder: Path, architecture: str, config: dict[str, Any], seed: int, scale: float, dtype: torch.dtype, shards: int
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in _random_tensors(architecture, config, seed, scale).items()}
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    save_torch_state_dict(tensors, folder, max_shard_size=-(-total // shards) if shards > 1 else total + 1)


def _random_tensors(architecture: str, config: dict[str, Any], seed: int, scale: float) -> dict[str, torch.Tensor]:
    """Matrices drawn from a normal distribution, biases too, norms around one; original names."""
    kind = ARCHITECTURES[architecture]
    if architecture == "qwen3_5":  # with the parts that a language model leaves out
        model: Any = transformers.Qwen3_5ForConditionalGeneration(transformers.Qwen3_5Config(**config))
    else:
        model = kind.model_class(kind.configure(config))
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        noise = torch.randn(tensor.shape, generator=rng) * scale
        centred = tensor.dim() == 1 and not name.endswith("bias")  # norms and the like stay near their start
        tensors[kind.original_name(name)] = tensor + noise if centred else noise
    if architecture == "qwen3_5":
        tensors["mtp.fc.weight"] = torch.randn(4, 8, generator=rng) * scale  # a head for drafting, left out too
    return tensors


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
