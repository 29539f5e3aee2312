"""From a hub id or a folder to a transformers-native model that was checked before use.

`load` reads safetensors and GGUF only and never runs code that came with a checkpoint (an ``auto_map`` is ignored).
What it returns has every tensor of the checkpoint and no other, attends as its architecture should (measured, not
assumed), and has raw logits: Dream's shift is applied where logits are used (`lib.language_models.queries`). `save`
writes a model back under its original tensor names.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from lib.language_models import gguf_files
from lib.language_models.architectures import Architecture, recognise
from lib.language_models.checkpoint_checks import check_loaded, check_rotated_share
from lib.language_models.checkpoint_files import (
    SMALL_FILES,
    download,
    how_to_fetch,
    read_config,
    small_files,
    tensors_of,
)
from lib.language_models.model_size import PRECISIONS, check_memory
from lib.record.accepted import device_named
from lib.record.provenance import replacing

_TOKENIZER = ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")


def load(
    source: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    revision: str | None = None,
) -> tuple[transformers.PreTrainedModel, Any]:
    """A model in evaluation mode, and its tokenizer, which knows the mask token where there is one.

    :param source: a hub id such as ``GSAI-ML/LLaDA-8B-Instruct``, a folder in the hub's layout, or the path of a
        GGUF file with a Llama
    :param dtype: of the weights; the checkpoint's own where not given, of a GGUF file float32
    :param revision: commit or tag of a hub id
    :raises FileNotFoundError: for a model that is neither here nor to be had; says what would fetch it
    :raises ValueError: for a device that is not there, and for a configuration, tensors or a tokenizer of no
        `Architecture`, or damaged; names the file
    :raises MemoryError: if the weights do not fit; says in which precision they would
    """
    device = device_named(str(device))
    if Path(source).suffix == gguf_files.SUFFIX:
        return _load_gguf(Path(source), dtype, device)
    folder = small_files(source, revision)
    fields = read_config(folder)
    with _naming(folder / "config.json"):
        architecture = recognise(fields)
        config = architecture.configure(copy.deepcopy(fields))  # transformers writes into nested fields
        check_rotated_share(config)
        chosen = _precision(fields, dtype)
        check_memory(architecture, config, chosen, device)
    if not Path(source).is_dir():
        folder = download(str(source), revision, [*SMALL_FILES, "*.safetensors"])
    stored = tensors_of(folder, how_to_fetch(source))
    tokenizer = _tokenizer(architecture, folder, fields, config.vocab_size)
    with _naming(folder):
        model = _load_weights(architecture, config, folder, chosen, device)
        check_loaded(model, stored, architecture)
    model.original_config, model.architecture = fields, architecture.name
    return model, tokenizer


def _load_gguf(path: Path, dtype: torch.dtype | None, device: torch.device) -> tuple[transformers.PreTrainedModel, Any]:
    """As `load`, from a GGUF file; in float32 where no precision is asked for."""
    with _naming(path):
        file = gguf_files.read_gguf(path)
        fields = gguf_files.llama_fields(file)
        architecture = recognise(fields)
        config = architecture.configure(fields)
        chosen = _precision(fields, dtype)
        check_memory(architecture, config, chosen, device)
        tokenizer = gguf_files.tokenizer(file)
        state = gguf_files.weights(file, architecture.without_memory(config), chosen)
        model = _load_weights(architecture, config, None, chosen, device, state_dict=state)
        check_loaded(model, file.shapes, architecture)
    model.config.name_or_path = model.name_or_path = path.name
    model.original_config, model.architecture = fields, architecture.name
    return model, tokenizer


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file or folder names it, in one line: the libraries raise a dozen kinds of error.

    :raises ValueError: for all of them, but a missing file and a lack of memory keep their kind
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()).removeprefix(f"{path.name}: ") or type(error).__name__
        if not isinstance(error, (ValueError, OSError, MemoryError)):
            reason = f"not as its architecture needs it ({type(error).__name__}: {reason})"
        kind = next((kind for kind in (FileNotFoundError, MemoryError) if isinstance(error, kind)), ValueError)
        raise kind(reason if str(path) in reason else f"{path}: {reason}") from error


def save(
    model: transformers.PreTrainedModel, tokenizer: Any, folder: str | os.PathLike[str], shard_size: str = "5GB"
) -> Path:
    """Write a loaded model back in the hub's layout: original tensor names, original config.json but for the precision.

    :raises ValueError: for a model that `load` did not return
    :raises FileExistsError: if there is anything in ``folder``
    """
    folder = Path(folder)
    if not hasattr(model, "original_config"):
        raise ValueError("model: only what `load` returned has a configuration to write back")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: not empty; choose a new folder")
    with replacing(folder) as draft:
        draft.mkdir()
        model.save_pretrained(draft, max_shard_size=shard_size)
        tokenizer.save_pretrained(draft)
        fields = _with_dtype(model.original_config, model.dtype)
        (draft / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return folder


def _with_dtype(fields: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The configuration of a model whose weights have this precision, said where it is said already."""
    named, fields = str(dtype).removeprefix("torch."), copy.deepcopy(fields)
    holders = [holder for holder in (fields, fields.get("text_config")) if isinstance(holder, dict)]
    places = [(holder, field) for holder in holders for field in ("torch_dtype", "dtype") if holder.get(field)]
    for holder, field in places or [(fields, "torch_dtype")]:
        holder[field] = named
    return fields


def _precision(fields: dict[str, Any], chosen: torch.dtype | None) -> torch.dtype:
    """The precision asked for, or else the one that config.json names."""
    if chosen is not None:
        if chosen not in PRECISIONS:
            raise ValueError(f"dtype={chosen} is none of {', '.join(map(str, PRECISIONS))}")
        return chosen
    text = fields.get("text_config") or {}
    named = str(fields.get("torch_dtype") or fields.get("dtype") or text.get("dtype") or "float32")
    found = getattr(torch, named.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or found not in PRECISIONS:
        raise ValueError(f"config.json: torch_dtype={named!r} is no precision; pass dtype=")
    return found


def _load_weights(
    architecture: Architecture, config: Any, folder: Path | None, dtype: torch.dtype, device: torch.device,
    **weights: Any,
) -> transformers.PreTrainedModel:
    """Read the weights, or take a ``state_dict``; anything missing, left over or of another shape is an error."""
    config.is_causal = architecture.causal
    config.logits_shift = architecture.logits_shift
    place = {} if device.type == "cpu" else {"device_map": {"": str(device)}}
    read: Any = architecture.model_class.from_pretrained
    try:
        model, report = read(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True,
            output_loading_info=True, **place, **weights,
        )
    except RuntimeError as error:
        raise ValueError(f"tensors do not have the shapes of config.json ({error})") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, report[what]))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            kind = what.removesuffix("_keys")
            raise ValueError(f"{len(names)} {kind} tensors: {', '.join(names[:3])}{more}")
    return model.eval()


def _tokenizer(architecture: Architecture, folder: Path, fields: dict[str, Any], vocabulary: int) -> Any:
    try:
        tokenizer = architecture.tokenizer_class.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        words = tokenizer("Ana", add_special_tokens=False)["input_ids"]
    except Exception as error:  # the tokenizers' own library raises a bare Exception for a damaged file
        files = ", ".join(path.name for path in sorted(folder.glob("*")) if path.name in _TOKENIZER) or "no files"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: no tokenizer can be read from {files} ({reason}); fetch them again") from None
    if not words:  # some kinds of tokenizer read nothing in silence
        raise ValueError(f"{folder}: the tokenizer knows no words; fetch tokenizer.json, vocab.json, merges.txt again")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{folder / 'tokenizer_config.json'}: eos_token is missing; an answer ends with it")
    if not architecture.causal:
        tokenizer.mask_token = _mask_token(tokenizer, folder, fields["mask_token_id"], vocabulary)
    return tokenizer


def _mask_token(tokenizer: Any, folder: Path, mask: Any, vocabulary: int) -> str:
    """The mask token that config.json names: a whole number, in the vocabulary, and a token of no text."""
    where = f"{folder / 'config.json'}: mask_token_id={mask!r}"
    if type(mask) is not int:
        raise ValueError(f"{where} must be a whole number")
    if not 0 <= mask < vocabulary:
        raise ValueError(f"{where} lies outside the vocabulary of {vocabulary} tokens")
    token = tokenizer.convert_ids_to_tokens(mask)
    if token is None or tokenizer.convert_tokens_to_ids(token) != mask:
        raise ValueError(f"{where}, but the tokenizer knows no such token")
    if mask == tokenizer.eos_token_id or mask not in tokenizer.added_tokens_decoder:
        raise ValueError(f"{where} is {token!r}, which stands in texts too; the mask must be a token of its own")
    return token
