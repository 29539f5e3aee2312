"""A random Llama of a few thousand weights in the place of the pretrained model, and few families of its own words."""

from pathlib import Path

import pytest

from lib.language_models import checkpoints, families, pretrained, random_checkpoints, written_text

OPENINGS = (" x", " y")  # as many tokens each


def made(folder: Path) -> Path:
    """A checkpoint to be given to `take_the_place`."""
    return random_checkpoints.tiny(folder, "llama", width=32, heads=2, layers=2, scale=0.15)


def take_the_place(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """`lib.language_models.pretrained.load` reads this checkpoint; one token ends and begins its texts, one masks."""
    _, tokenizer = checkpoints.load(folder)
    patch.setattr(pretrained, "model_file", lambda: folder)
    patch.setattr(pretrained, "END_ID", tokenizer.eos_token_id)
    patch.setattr(pretrained, "MASK_ID", tokenizer.bos_token_id)
    patch.setattr(written_text, "OPENING_WORDS", OPENINGS)
    for name, few in (("SETS", 2), ("HELD", 4), ("_GENERATED", 15)):
        patch.setattr(families, name, few)
