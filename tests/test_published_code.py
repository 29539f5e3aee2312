"""Logits, gradients and decoded tokens against the authors' own model and sampler code, on tiny random checkpoints.

Their files are not distributed here. `PUBLISHED_MODELS` names a folder with ``llada/`` (configuration_llada.py,
modeling_llada.py, generate.py) and ``dream/`` (configuration_dream.py, modeling_dream.py, generation_utils.py), as in
the authors' repositories; without it these tests are skipped. The files are run: read them first.
"""

import importlib
import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib.language_models import checkpoints, decoding, random_checkpoints, signatures
from lib.language_models.architectures import ARCHITECTURES

FOLDER = os.environ.get("PUBLISHED_MODELS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="PUBLISHED_MODELS names no folder with the authors' model code")
torch.set_num_threads(1)
#: odd widths of heads, grouped heads, one shared head, tied embeddings, three layers
SIZES = [
    ("llada", {"width": 32, "heads": 4}, {}),
    ("llada", {"width": 36, "heads": 6, "key_heads": 2, "layers": 3, "scale": 0.2}, {}),
    ("llada", {"width": 40, "heads": 2, "key_heads": 1}, {"weight_tying": True, "rope_theta": 10000.0}),
    ("dream", {"width": 32, "heads": 4, "key_heads": 2, "scale": 0.1}, {}),
    ("dream", {"width": 42, "heads": 3, "key_heads": 1, "layers": 3, "scale": 0.1}, {}),
]


def module(kind, name):
    """One of the authors' files, as part of a package of its own."""
    package = f"published_{kind}"
    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(Path(FOLDER) / kind)]
    return importlib.import_module(f"{package}.{name}")


def frequencies(config, device=None, **_):
    """theta^(-2i/d), and no further scaling."""
    size = config.hidden_size // config.num_attention_heads
    return config.rope_theta ** (-torch.arange(0, size, 2, device=device).float() / size), 1.0


def theirs(folder, kind):
    """The authors' model with the weights of a checkpoint."""
    fields = json.loads((folder / "config.json").read_text()) | {"init_device": "cpu"}
    name = {"llada": "LLaDAConfig", "dream": "DreamConfig"}[kind]
    config = getattr(module(kind, f"configuration_{kind}"), name)(**fields)
    config.use_cache = False
    code = module(kind, f"modeling_{kind}")
    if kind == "llada":  # told to, it would start on a CUDA device
        inner = code.LLaDAModel(code.create_model_config_from_pretrained_config(config), init_params=False)
        model = code.LLaDAModelLM(config, inner)
    else:
        code.ROPE_INIT_FUNCTIONS = code.ROPE_INIT_FUNCTIONS | {"default": frequencies}  # gone from transformers 5
        model = code.DreamModel(config)
    weights = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and not [key for key in missing.missing_keys if "lm_head" not in key]
    return model.eval()


@pytest.fixture(scope="module", params=range(len(SIZES)), ids=[f"{case[0]}-{case[1]['width']}" for case in SIZES])
def both(request, tmp_path_factory):
    kind, size, fields = SIZES[request.param]
    folder = random_checkpoints.tiny(tmp_path_factory.mktemp("published") / "x", kind, **size, **fields)
    model, tokenizer = checkpoints.load(folder)
    return kind, model, tokenizer, theirs(folder, kind)


def tokens_of(rows, length):
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("length", [1, 2, 7, 19, 64])
def test_logits_at_odd_lengths(both, length):
    _, ours, _, published = both
    tokens = tokens_of(3, length)
    with torch.no_grad():
        found, expected = ours(tokens).logits, published(tokens).logits
    assert (found - expected).abs().max() < 1e-5 and expected.abs().max() > 0.05


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows(both, side):
    kind, ours, _, published = both
    tokens, shown = tokens_of(3, 11), torch.ones(3, 11, dtype=torch.long)
    for row, hidden in ((1, 1), (2, 6)):
        shown[row, slice(0, hidden) if side == "left" else slice(11 - hidden, None)] = 0
    mask = shown if kind == "llada" else (shown[:, None, None, :] * torch.ones(1, 1, 11, 1)).bool()
    with torch.no_grad():
        found, expected = ours(tokens, attention_mask=shown).logits, published(tokens, attention_mask=mask).logits
        assert (found - expected)[shown.bool()].abs().max() < 1e-5
        unpadded = ours(tokens).logits
    assert (found - unpadded)[2][shown[2].bool()].abs().max() > 1e-4  # the padding would have mattered


def test_gradients_of_every_parameter(both):
    kind, ours, _, published = both
    tokens = tokens_of(2, 9)
    labels = tokens.roll(1, 1).masked_fill(torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) < 0.5, -100)
    labels[:, 0] = -100
    shift = ours.config.logits_shift
    for model in (ours, published):
        model.zero_grad()
        logits = model(tokens).logits[:, : 9 - shift]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, shift:].flatten()).backward()
    expected = dict(published.named_parameters())
    for name, weight in ours.named_parameters():
        reference = expected[ARCHITECTURES[kind].original_name(name)].grad
        assert (weight.grad - reference).abs().max() < 1e-5, name
    batch = {"input_ids": tokens, "labels": labels}
    squared = sum(float(weight.grad.double().square().sum()) for weight in expected.values() if weight.grad is not None)
    assert signatures.gradient_cosine(ours, batch, batch).norm_f == pytest.approx(squared**0.5, rel=1e-4)
    ours.zero_grad()


@pytest.mark.parametrize("settings", [
    {"length": 12, "steps": 12, "block": 12}, {"length": 15, "steps": 6, "block": 5},
    {"length": 12, "steps": 4, "block": 6, "temperature": 0.7, "remasking": "random"},
    {"length": 9, "steps": 9, "block": 3, "guidance": 1.5}])
def test_lladas_tokens(both, settings):
    kind, ours, tokenizer, published = both
    if kind != "llada":
        pytest.skip("Dream has a sampler of its own")
    generate = module("llada", "generate").generate
    prompt, shown = tokens_of(2, 7), torch.ones(2, 7, dtype=torch.long)
    shown[1, :3] = 0
    torch.manual_seed(1)
    expected = generate(published, prompt, attention_mask=shown, steps=settings["steps"], gen_length=settings["length"],
                        block_length=settings["block"], temperature=settings.get("temperature", 0.0),
                        cfg_scale=settings.get("guidance", 0.0), mask_id=tokenizer.mask_token_id,
                        remasking=settings.get("remasking", "low_confidence"))
    torch.manual_seed(1)
    found = decoding.llada(ours, prompt, tokenizer.mask_token_id, attention_mask=shown, **settings)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("settings", [
    {"steps": 12, "algorithm": "entropy"}, {"steps": 5, "algorithm": "topk_margin"},
    {"steps": 7, "algorithm": "maskgit_plus", "temperature": 0.5, "top_p": 0.9},
    {"steps": 7, "algorithm": "origin", "temperature": 0.5, "top_k": 20},
    {"steps": 6, "algorithm": "entropy", "order_temperature": 0.3}])
def test_dreams_tokens(both, settings, padded):
    kind, ours, tokenizer, published = both
    if kind != "dream":
        pytest.skip("LLaDA has a sampler of its own")
    prompt, shown = tokens_of(2, 7), torch.ones(2, 7, dtype=torch.long)
    shown[1, :3] = 0 if padded else 1
    config = types.SimpleNamespace(
        output_history=False, return_dict=False, max_length=19, mask_token_id=tokenizer.mask_token_id, eps=1e-3,
        steps=settings["steps"], alg=settings["algorithm"], alg_temp=settings.get("order_temperature"),
        temperature=settings.get("temperature", 0.0), top_p=settings.get("top_p"), top_k=settings.get("top_k"))
    torch.manual_seed(1)
    with torch.no_grad():
        expected = published._sample(prompt, shown, config, lambda step, x, logits: x, lambda step, x, logits: logits)
    torch.manual_seed(1)
    found = decoding.dream(ours, prompt, tokenizer.mask_token_id, length=12, attention_mask=shown, **settings)
    assert torch.equal(found, expected)
