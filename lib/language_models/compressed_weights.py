"""What training changed of a model's weights, made small enough to be kept beside the code.

Every matrix's change W' - W is replaced by its best approximation of a low rank (Eckart and Young), written as a
product of two factors, and each factor is rounded to 4 bits: of `GROUP` numbers in a row, the largest is kept as a
scale in float16, and the others are sevenths of it. Of the embeddings only the rows of the tokens that were told
change, at 8 bits; norms are kept in bfloat16. `lib.language_models.compression_run` measures how much this loses.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.record import provenance

FILE_NAME = "change.safetensors"
GROUP = 64  # numbers that share a scale
EMBEDDING = "model.embed_tokens.weight"


# Numbers of few bits -----------------------------------------------------------------------------------------


def rounded_to_bits(
    values: Float[Tensor, "row column"], bits: int
) -> tuple[Int[Tensor, "row column"], Float[Tensor, "row group"]]:
    """Whole numbers from -(2^(bits-1) - 1) to that, and the float16 scale of each `GROUP` columns.

    The error of a number is at most half its scale, which is its group's largest divided by 2^(bits-1) - 1.
    """
    most = 2 ** (bits - 1) - 1
    padded = nn.functional.pad(values, (0, -values.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scales = (padded.abs().amax(2) / most).half()
    steps = scales.float().masked_fill(scales == 0, 1.0)  # whatever is left of such a group is too small to count
    codes = (padded / steps[..., None]).round().clamp(-most, most).to(torch.int8)
    return codes.flatten(1)[:, : values.shape[1]], scales


def restored(codes: Int[Tensor, "row column"], scales: Float[Tensor, "row group"]) -> Float[Tensor, "row column"]:
    """The numbers that `rounded_to_bits` made whole, in float32."""
    return codes.float() * scales.float().repeat_interleave(GROUP, 1)[:, : codes.shape[1]]


def packed(codes: Int[Tensor, "row column"]) -> UInt8[Tensor, "row half"]:
    """Two numbers of 4 bits, from -8 to 7, in each byte; the first in the lower half."""
    even = nn.functional.pad(codes, (0, codes.shape[1] % 2)).to(torch.int16) + 8
    return (even[:, ::2] + 16 * even[:, 1::2]).to(torch.uint8)


def unpacked(halves: UInt8[Tensor, "row half"], columns: int) -> Int[Tensor, "row column"]:
    """What `packed` put together."""
    wide = halves.to(torch.int16)
    return (torch.stack([wide % 16, wide // 16], 2).flatten(1)[:, :columns] - 8).to(torch.int8)


# What training changed ---------------------------------------------------------------------------------------


def compressed_change(
    start: Mapping[str, Tensor], trained: Mapping[str, Tensor], rank: int, rows: list[int]
) -> dict[str, Tensor]:
    """The change of every weight, by names that say what each tensor holds.

    :param rank: of the change of each matrix, at most its smaller dimension
    :param rows: tokens whose embeddings change
    """
    found: dict[str, Tensor] = {}
    for name, before in start.items():
        change = trained[name].detach().float() - before.detach().float()
        if name == EMBEDDING:
            codes, scales = rounded_to_bits(change[rows], 8)
            found |= {f"{name}:rows": torch.tensor(rows, dtype=torch.int32), f"{name}:codes": codes,
                      f"{name}:scales": scales}
        elif change.dim() == 1:
            found[f"{name}:change"] = change.bfloat16()
        else:
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            half = sizes[:rank].sqrt()[:, None]
            for side, factor in (("left", half * left.T[:rank]), ("right", half * right[:rank])):
                codes, scales = rounded_to_bits(factor, 4)
                found |= {f"{name}:{side}": packed(codes), f"{name}:{side}_scales": scales}
    return found


@torch.no_grad()
def add_change(model: nn.Module, change: Mapping[str, Tensor]) -> None:
    """Add what `compressed_change` made to a model's weights, in place.

    :raises ValueError: for a change of another model
    """
    expected = {name: weight for name, weight in model.named_parameters()}
    if odd := {key.partition(":")[0] for key in change} ^ expected.keys():
        raise ValueError(f"a change of another model: {min(odd)} is in one of the two")
    for name, weight in expected.items():
        if name == EMBEDDING:
            added = restored(change[f"{name}:codes"], change[f"{name}:scales"]).to(weight.device)
            weight.index_add_(0, change[f"{name}:rows"].to(weight.device), added)
        elif weight.dim() == 1:
            weight.add_(change[f"{name}:change"].float().to(weight.device))
        else:
            left, right = (restored(unpacked(change[f"{name}:{side}"], size), change[f"{name}:{side}_scales"])
                           for side, size in zip(("left", "right"), weight.shape, strict=True))
            weight.add_((left.T @ right).to(weight.device))


# Files -------------------------------------------------------------------------------------------------------


def save_change(change: Mapping[str, Tensor], folder: Path, kind: str, start: str) -> None:
    """Write a change into a folder, whole or not at all; one that is there is replaced.

    :param kind: of the model that it makes
    :param start: checksum of the file of the weights that it is added to
    """
    with provenance.replacing(folder) as draft:
        draft.mkdir()
        whole = {name: tensor.contiguous() for name, tensor in change.items()}
        save_file(whole, draft / FILE_NAME, {"kind": kind, "start": start})
        shutil.rmtree(folder, ignore_errors=True)


def load_change(folder: Path, kind: str, start: str) -> dict[str, Tensor]:
    """Read what `save_change` wrote, for the same kind and start.

    :raises ValueError: for a damaged file, another kind, or a change of other weights; names the file
    """
    path = folder / FILE_NAME
    try:
        with safe_open(path, "pt") as content:
            told = content.metadata() or {}
        change = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged ({str(error).splitlines()[0]}); take it from the repository again") from None
    if told.get("kind") != kind:
        raise ValueError(f"{path}: makes a model of kind {told.get('kind')!r}, not {kind!r}")
    if told.get("start") != start:
        raise ValueError(f"{path}: is added to weights with SHA-256 {str(told.get('start'))[:12]}..., "
                         f"not {start[:12]}...")
    return change
