"""Adapters that a run of `lib.language_models.reversal_run` left, put back on the model they were trained on.

They stay beside the weights instead of being merged into them: in bfloat16 a merged weight would lose most of what
a small adapter adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lib.language_models import checkpoints

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def put_on(model: Any, folder: Path) -> None:
    """Give a loaded model the adapters of a folder, in place.

    :raises FileNotFoundError: if there are none
    :raises ValueError: for damaged files, or adapters of another model; names the file
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / _WEIGHTS
    fields = checkpoints.read_json(folder / _CONFIG, "so these are no adapters")
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{folder / _CONFIG}: peft_type={fields.get('peft_type')!r}, but LORA is what is trained here")
    stored = checkpoints.header(path, "train them again")
    try:
        adapted = get_peft_model(model, LoraConfig.from_pretrained(str(folder)))
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder / _CONFIG}: does not fit this model ({reason})") from None
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _check_same(path, stored, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: tensor {name!r} is not finite; train it again with a lower learning rate")
    set_peft_model_state_dict(adapted, tensors)
    model.eval()


def _check_same(path: Path, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted({*stored, *expected}):
        if stored.get(name) != expected.get(name):
            raise ValueError(f"{path}: adapters of another model: {name} is {stored.get(name, 'missing')} there, "
                             f"{expected.get(name, 'missing')} in this model")


def is_adapter(name: str) -> bool:
    """Does a parameter of a model with adapters belong to them?"""
    return ".lora_" in name
