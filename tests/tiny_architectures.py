"""Tiny checkpoints of every architecture, and edits of what their files say."""

import json

from lib.language_models import checkpoints, queries, random_checkpoints, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES

WORLD = synthetic_facts.world(6)


def made_checkpoints(base):
    """The folder of one checkpoint of each architecture; not to be changed."""
    size = {"width": 32, "heads": 4, "key_heads": 2, "layers": 2}
    return {name: random_checkpoints.tiny(base / name, name, **size) for name in ARCHITECTURES}


def probed_models(base):
    """Model, tokenizer and an encoded pair of each architecture; with large weights, so that effects are too."""
    found = {}
    for name in ARCHITECTURES:
        folder = random_checkpoints.tiny(base / name, name, width=32, heads=4, key_heads=2, layers=4, scale=0.15)
        model, tokenizer = checkpoints.load(folder)
        found[name] = model, tokenizer, queries.encoded_pair(WORLD.p2c, WORLD.p2c.facts[0], tokenizer)
    return found


def edit_config(folder, **fields):
    """Change fields of a checkpoint's configuration; ``absent`` takes one away."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))
