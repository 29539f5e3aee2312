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
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from lib.language_models import gguf_files
from lib.language_models.architectures import Architecture, recognise
from lib.record.provenance import replacing

__all__ = ["check_attention_direction", "load", "parameter_count", "read_config", "save", "tensors_of"]

_METADATA = ("*.json", "*.txt", "*.model", "*.jinja")
_TOKENIZER = ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")
_BYTES = {torch.float64: 8, torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}
_KINDS = ("F64", "F32", "BF16", "F16")  # safetensors' names of them
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    source: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    revision: str | None = None,
) -> tuple[PreTrainedModel, Any]:
    """A model in evaluation mode, and its tokenizer, which knows the mask token where there is one.

    :param source: a hub id such as ``GSAI-ML/LLaDA-8B-Instruct``, a folder in the hub's layout, or the path of a
        GGUF file with a Llama
    :param dtype: of the weights; the checkpoint's own where not given, of a GGUF file float32
    :param revision: commit or tag of a hub id
    :raises FileNotFoundError: for a model that is neither here nor to be had; says what would fetch it
    :raises ValueError: for a configuration, tensors or a tokenizer of no `Architecture`, or damaged; names the file
    :raises MemoryError: if the weights do not fit; says in which precision they would
    """
    device = torch.device(device)
    if Path(source).suffix == gguf_files.SUFFIX:
        return _load_gguf(Path(source), dtype, device)
    folder = _metadata(source, revision)
    fields = read_config(folder)
    with _naming(folder / "config.json"):
        architecture = recognise(fields)
        config = architecture.configure(copy.deepcopy(fields))  # transformers writes into nested fields
        _check_rotated_share(config)
        chosen = _precision(fields, dtype)
        _check_memory(architecture, config, chosen, device)
    if not Path(source).is_dir():
        folder = _download(str(source), revision, [*_METADATA, "*.safetensors"])
    stored = tensors_of(folder, _how_to_fetch(source))
    tokenizer = _tokenizer(architecture, folder, fields, config.vocab_size)
    with _naming(folder):
        model = _load_weights(architecture, config, folder, chosen, device)
        _check(model, stored, architecture)
    model.original_config, model.architecture = fields, architecture.name  # type: ignore[assignment]
    return model, tokenizer


def _load_gguf(path: Path, dtype: torch.dtype | None, device: torch.device) -> tuple[PreTrainedModel, Any]:
    """As `load`, from a GGUF file; in float32 where no precision is asked for."""
    with _naming(path):
        file = gguf_files.read_gguf(path)
        fields = gguf_files.llama_fields(file)
        architecture = recognise(fields)
        config = architecture.configure(fields)
        chosen = _precision(fields, dtype)
        _check_memory(architecture, config, chosen, device)
        tokenizer = gguf_files.tokenizer(file)
        state = gguf_files.weights(file, architecture.without_memory(config), chosen)
        model = _load_weights(architecture, config, None, chosen, device, state_dict=state)
        _check(model, file.shapes, architecture)
    model.config.name_or_path = model.name_or_path = path.name
    model.original_config, model.architecture = fields, architecture.name  # type: ignore[assignment]
    return model, tokenizer


def _check(model: PreTrainedModel, stored: dict[str, tuple[int, ...]], architecture: Architecture) -> None:
    """All that must hold of a model before it is used; ``stored`` are the shapes of the tensors in its files."""
    _check_complete(model, stored, architecture)
    _check_finite(model, architecture)
    check_attention_direction(model, causal=architecture.causal)


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


def save(model: PreTrainedModel, tokenizer: Any, folder: str | os.PathLike[str], shard_size: str = "5GB") -> Path:
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
        fields = _with_dtype(model.original_config, model.dtype)  # type: ignore[arg-type]
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


# Finding the files -------------------------------------------------------------------------------------------


def _how_to_fetch(source: str | os.PathLike[str]) -> str:
    if Path(source).is_dir():
        return "copy the checkpoint here again"
    return f'`hf download {source} --include "*.json" --include "*.txt" --include "*.safetensors"`'


def _metadata(source: str | os.PathLike[str], revision: str | None) -> Path:
    """The folder with the small files of a source."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError(f"{source}: no such folder, and no hub id (owner/name) either")
    return _download(str(source), revision, list(_METADATA))


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        advice = f"accept its licence at https://huggingface.co/{source}, run `hf auth login`, then"
        raise FileNotFoundError(f"{source} is gated: {advice} {_how_to_fetch(source)}") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{source}: no such model on the hub, or a private one") from error
    except Exception as error:  # the hub's client raises a dozen kinds when there is no network
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = f"with a network, {_how_to_fetch(source)} fetches it"
        raise FileNotFoundError(f"{source} is not in the local cache: {reason}; {advice}") from error


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a checkpoint as it stands in config.json."""
    return read_fields(Path(folder) / "config.json", "so this is no checkpoint in the hub's layout")


def read_fields(path: Path, without: str = "fetch it again") -> dict[str, Any]:
    """A file of fields and values.

    :param without: what it means, or what to do, if there is none
    :raises FileNotFoundError: if there is none
    :raises ValueError: for anything but a JSON object
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing, {without}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must hold fields and values")
    return fields


def _precision(fields: dict[str, Any], chosen: torch.dtype | None) -> torch.dtype:
    """The precision asked for, or else the one that config.json names."""
    if chosen is not None:
        if chosen not in _BYTES:
            raise ValueError(f"dtype={chosen} is none of {', '.join(map(str, _BYTES))}")
        return chosen
    text = fields.get("text_config") or {}
    named = str(fields.get("torch_dtype") or fields.get("dtype") or text.get("dtype") or "float32")
    found = getattr(torch, named.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or found not in _BYTES:
        raise ValueError(f"config.json: torch_dtype={named!r} is no precision; pass dtype=")
    return found


def _check_rotated_share(config: Any) -> None:
    """No more than the whole of a head is rotated: the table of frequencies has that length."""
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"config.json: partial_rotary_factor={share!r} must lie in (0, 1]")


# Weights -----------------------------------------------------------------------------------------------------


def tensors_of(folder: str | os.PathLike[str], advice: str = "fetch it again") -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a checkpoint, from the headers of its safetensors files alone.

    :raises FileNotFoundError: if there are no safetensors, or the index names a file that is not there
    :raises ValueError: for a file that was cut off or does not hold what the index says
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        placed = _placed(index)
        files = sorted(set(placed.values()))
    else:
        placed, files = {}, ["model.safetensors"]
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        here = tensor_shapes(folder / file, advice)
        for name in (name for name, shard in placed.items() if shard == file and name not in here):
            raise ValueError(f"{folder / file}: tensor {name!r} is missing, but {index.name} places it here")
        found |= here
    return found


def _placed(index: Path) -> dict[str, str]:
    """Which file of this folder holds which tensor."""
    content = read_fields(index)
    placed = content.get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index}: field 'weight_map' must give each tensor its file, not {placed!r}")
    for name, file in placed.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{index}: weight_map places {name!r} in {file!r}, which is no file of this folder")
    if not isinstance(content.get("metadata"), dict):
        raise ValueError(f"{index}: field 'metadata' must hold fields and values, not {content.get('metadata')!r}")
    return placed


def tensor_shapes(path: Path, advice: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in one safetensors file.

    :param advice: what would bring the file back
    :raises FileNotFoundError: if there is none
    :raises ValueError: for a file that was cut off or damaged, or holds anything but weights
    """
    if not path.exists():
        pickled = [other.name for other in path.parent.glob("*.bin")]
        hint = f"; {pickled[0]} is a pickle, which is never read" if pickled else f"; {advice}"
        raise FileNotFoundError(f"{path}: missing{hint}")
    try:
        with safe_open(path, framework="pt") as tensors:
            found = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            kinds = {name: part.get_dtype() for name, part in found.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in found.items()}
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: cut off or damaged, {size} bytes ({error}); delete it, {advice}") from None
    for name, kind in kinds.items():
        if kind not in _KINDS:
            raise ValueError(f"{path}: tensor {name!r} is of type {kind}; weights are {', '.join(_KINDS)}")
    return shapes


def _load_weights(
    architecture: Architecture, config: Any, folder: Path | None, dtype: torch.dtype, device: torch.device,
    **weights: Any,
) -> PreTrainedModel:
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


def _check_complete(model: Any, stored: dict[str, tuple[int, ...]], architecture: Architecture) -> None:
    """As many numbers in the model as in the files: an account that transformers' report does not enter."""
    read = [shape for name, shape in stored.items() if not re.match(architecture.left_out, name)]
    in_files = sum(map(math.prod, read))
    in_model = sum(parameter.numel() for parameter in model.parameters())  # a tied matrix counts once
    repeated = model.lm_head.weight.numel() if model.config.tie_word_embeddings else 0
    if in_files not in (in_model, in_model + repeated):
        raise ValueError(f"the files hold {in_files} numbers, the model {in_model}: some were lost on the way")


def _check_finite(model: Any, architecture: Architecture) -> None:
    """No weight is NaN or infinite, whether or not a short prompt would read it. Needs no memory."""
    for name, weight in model.named_parameters():
        low, high = weight.aminmax()  # NaN if any is
        if not (low.isfinite() and high.isfinite()):
            raise ValueError(f"tensor {architecture.original_name(name)!r} is not finite; fetch its file again")


# What must hold before a model is used -----------------------------------------------------------------------


@torch.no_grad()
def check_attention_direction(model: PreTrainedModel, *, causal: bool, tokens: int = 8) -> float:
    """Change the last token and watch the first position's logits: they must move unless the model is causal.

    The change is from one token to another with a distant embedding, and must move its own position's logits: some
    vocabularies hold tokens that no text has trained, which are all alike.

    :return: the relative change
    :raises ValueError: if a bidirectional model does not look ahead, or a causal one does
    """
    first = _spread(model, tokens)[None]
    other = first.clone()
    other[0, -1] = _distant_token(model, first[0, -1])
    before, after = (model(input_ids=ids).logits[0].float() for ids in (first, other))
    change, own = (float((before[i] - after[i]).abs().max() / before[i].abs().max()) for i in (0, -1))
    if not math.isfinite(change):
        raise ValueError("self-test: the logits are not finite")
    if not own > 1e-6:
        raise ValueError("self-test: the logits do not depend on the token at their own position")
    if (change <= 1e-6) != causal:
        wrong = "sees tokens to its right" if causal else "does not see tokens to its right"
        kind = "causal" if causal else "bidirectional"
        raise ValueError(f"self-test: this {kind} model {wrong}: its first logits change by {change:.1e}")
    _check_rotation(model)
    return change


def _spread(model: PreTrainedModel, count: int) -> Tensor:
    """Tokens at even distances over the vocabulary."""
    return torch.arange(1, count + 1, device=model.device) * model.config.vocab_size // (count + 1)


def _distant_token(model: PreTrainedModel, token: Tensor, among: int = 64) -> Tensor:
    """Of some tokens all over the vocabulary, the one whose embedding is farthest from that of ``token``."""
    tokens, embed = _spread(model, among), model.get_input_embeddings()
    return tokens[(embed(tokens) - embed(token)).float().norm(dim=-1).argmax()]


def _check_rotation(model: Any) -> None:
    """Rotary frequencies are theta^(-2i/d): published code leaves Dream's uninitialised under transformers 5."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or "partial_rotary_factor" in rope:
        return
    size = model.config.hidden_size // model.config.num_attention_heads
    size = getattr(model.config, "head_dim", None) or size
    place = torch.tensor([[1]], device=model.device)
    sines = model.model.rotary_emb(torch.zeros(1, device=model.device), place)[1][0, 0, : size // 2].double().cpu()
    expected = (rope["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)).sin()
    if not torch.allclose(sines, expected, atol=1e-5):
        raise ValueError("self-test: the rotary frequencies are not theta^(-2i/d) of config.json")


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


# Memory ------------------------------------------------------------------------------------------------------


def parameter_count(architecture: Architecture, config: Any) -> int:
    """Parameters of the model that a configuration describes, without allocating it."""
    return sum(parameter.numel() for parameter in architecture.without_memory(config).parameters())


def _check_memory(architecture: Architecture, config: Any, dtype: torch.dtype, device: torch.device) -> None:
    count, free = parameter_count(architecture, config), available_bytes(device)
    needed = {each: count * size * 1.05 for each, size in _BYTES.items()}  # weights, and a little for activations
    if needed[dtype] <= free:
        return
    fits = [each for each in (torch.float32, torch.bfloat16) if needed[each] <= free]
    least = _gigabytes(needed[torch.bfloat16])
    smaller = f"dtype={fits[0]} would fit" if fits else f"even bfloat16 needs {least}, so take a larger device"
    raise MemoryError(f"{architecture.title} layout, {count:,} parameters in {dtype}: needs "
                      f"{_gigabytes(needed[dtype])}, {device} has {_gigabytes(free)} free; {smaller}")


def available_bytes(device: torch.device) -> float:
    """Free memory of a device; of the CPU, what the machine and this process's control group leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text(encoding="utf-8").strip() != "max":
        free = min(free, float(limit.read_text(encoding="utf-8")) - float(used.read_text(encoding="utf-8")))
    return free


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
