"""Checkpoints damaged in every field and file: each loads, or is refused by one clear line that names the file.

``DAMAGE=all`` tries every mutation; without it a sample is tried, the same each time.
"""

import json
import os
import shutil
import signal
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.language_models import checkpoints, random_checkpoints

torch.set_num_threads(1)
NAMES = ("llada", "dream", "qwen2", "qwen3_5")
SAMPLE = None if os.environ.get("DAMAGE") == "all" else 40  # mutations of each architecture
VALUES = (None, "x", -1, 0, 2.5, 10**9, [], {}, True, [None], 1e400)
CONTENTS = (b"", b"{", b"[]", b"{}", b"5", b"null", b'{"a": 1', b"\xff\xfe\x00\x80", b"\0" * 64)
HEADERS = (b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"a": 3}', b'{"a": {"dtype": "F32"}}',
           b'{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}',
           b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
           b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 4]}}',
           b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}')


def change_field(file, keys, value):
    def change(folder):
        content = holder = json.loads((folder / file).read_text())
        for key in keys[:-1]:
            holder = holder[key]
        if value == "absent":
            del holder[keys[-1]]
        else:
            holder[keys[-1]] = value
        (folder / file).write_text(json.dumps(content))
    return f"{file}: {'.'.join(map(str, keys))} = {value!r}", change


def replace_file(file, content):
    return f"{file}: holds {content!r}", lambda folder: (folder / file).write_bytes(content)


def cut_file(file, share):
    def change(folder):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])
    return f"{file}: cut to {share}", change


def move_file(file, new):
    return f"{file}: moved to {new}", lambda folder: (folder / file).rename(folder / new)


def make_folder(file):
    def change(folder):
        (folder / file).unlink()
        (folder / file).mkdir()
    return f"{file}: a folder", change


def change_header(file, header):
    def change(folder):
        data = (folder / file).read_bytes()
        start = 8 + struct.unpack("<Q", data[:8])[0]
        (folder / file).write_bytes(struct.pack("<Q", len(header)) + header + data[start:])
    return f"{file}: header {header!r}", change


def change_tensor(file, name, how, label):
    def change(folder):
        tensors = load_file(folder / file)
        tensors[name] = how(tensors[name].clone())
        save_file(tensors, folder / file, metadata={"format": "pt"})
    return f"{file}: {name} {label}", change


def last_number(value):
    def how(tensor):
        tensor.reshape(-1)[-1] = value
        return tensor
    return how


def fields_of(content, before=()):
    """Paths of the fields of nested JSON objects, but for vocabularies and lists."""
    for key, value in content.items() if len(content) < 100 else ():
        yield (*before, key)
        if isinstance(value, dict) and len(before) < 2:
            yield from fields_of(value, (*before, key))


def mutations(folder):
    """Every mutation of a checkpoint: what it does in words, and a function that does it to a copy."""
    for file in sorted(path.name for path in folder.glob("*.json")):
        for keys in fields_of(json.loads((folder / file).read_text())):
            yield from (change_field(file, keys, value) for value in ("absent", *VALUES))
    for file in sorted(path.name for path in folder.iterdir()):
        yield from (replace_file(file, content) for content in CONTENTS)
        yield from (cut_file(file, share) for share in (0.1, 0.5, 0.99))
        yield from (move_file(file, f"other-{file}"), make_folder(file))
    for file in sorted(path.name for path in folder.glob("*.safetensors")):
        yield from (change_header(file, header) for header in HEADERS)
        for name in list(load_file(folder / file))[:4]:
            yield change_tensor(file, name, last_number(float("nan")), "NaN at the end")
            yield change_tensor(file, name, last_number(float("inf")), "infinite at the end")
            yield change_tensor(file, name, lambda tensor: tensor.long(), "of whole numbers")
            yield change_tensor(file, name, lambda tensor: tensor[:0], "empty")
            yield change_tensor(file, name, lambda tensor: tensor.to(torch.float8_e4m3fn), "in eight bits")


def outcome(folder):
    """``loads``, ``refused``, or what is wrong with how it was refused."""
    files = ("config.json", "safetensors", "tokenizer", "vocab.json", "merges.txt", str(folder))
    try:
        checkpoints.load(folder)
    except (ValueError, FileNotFoundError, MemoryError) as error:
        clear = any(file in str(error) for file in files) and "\n" not in str(error)
        return "refused" if clear else f"{type(error).__name__} names no file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loads"


def too_long(*_):
    raise RuntimeError("took longer than 20 seconds")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_checkpoint_is_refused_by_its_file(tmp_path, name):
    whole = random_checkpoints.tiny(tmp_path / "whole", name, width=16, heads=2, layers=1)
    every = list(mutations(whole))
    step = max(1, len(every) // SAMPLE) if SAMPLE else 1
    raw, counts = [], {"loads": 0, "refused": 0}
    signal.signal(signal.SIGALRM, too_long)
    for label, change in every[::step]:
        folder = Path(shutil.copytree(whole, tmp_path / "damaged"))
        change(folder)
        signal.alarm(20)
        found = outcome(folder)
        signal.alarm(0)
        counts[found] = counts.get(found, 0) + 1
        if found not in ("loads", "refused"):
            raw.append(f"{label} -> {' '.join(found.split())[:200]}")
        shutil.rmtree(folder)
    print(f"{name}: {len(every[::step])} tried, {counts['loads']} load, {counts['refused']} refused, {len(raw)} raw")
    assert counts["refused"] and not raw, "\n".join(raw)
