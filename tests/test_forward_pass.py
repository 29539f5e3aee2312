"""Loaded models against a forward pass written out from the tensors in their files."""

import math

import pytest
import torch
from safetensors.torch import load_file

from lib.language_models import checkpoints, random_checkpoints

torch.set_num_threads(1)


def norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turn(x, theta):
    """Rotate the pairs (i, i + d/2) of each position by position * theta^(-2i/d), as complex numbers."""
    length, size = x.shape[-2:]
    angles = torch.outer(torch.arange(length).double(), theta ** (-torch.arange(0, size, 2).double() / size))
    turned = torch.complex(x[..., : size // 2].double(), x[..., size // 2 :].double()) * torch.exp(1j * angles)
    return torch.cat((turned.real, turned.imag), -1).to(x.dtype)


def attend(q, k, v, visible):
    """Every head by itself; grouped heads share keys and values."""
    heads, groups = q.shape[0], q.shape[0] // k.shape[0]
    out = []
    for head in range(heads):
        scores = q[head] @ k[head // groups].T / math.sqrt(q.shape[-1])
        out.append(scores.masked_fill(~visible, -math.inf).softmax(-1) @ v[head // groups])
    return torch.cat(out, -1)


def written_out(get, tokens, visible, *, layers, heads, key_heads, theta, eps):
    """Logits of a bidirectional Llama or Qwen2 for one prompt; ``get(role, layer)`` returns a weight or None."""
    def linear(role, layer, x):
        bias = get(f"{role}_bias", layer)
        return x @ get(role, layer).T + (0 if bias is None else bias)

    x = get("embed", None)[tokens]
    for layer in range(layers):
        h = norm(x, get("norm1", layer), eps)
        q, k, v = (linear(role, layer, h).unflatten(-1, (count, -1)).transpose(0, 1)
                   for role, count in (("q", heads), ("k", key_heads), ("v", key_heads)))
        x = x + linear("o", layer, attend(turn(q, theta), turn(k, theta), v, visible))
        h = norm(x, get("norm2", layer), eps)
        gate = linear("gate", layer, h)
        x = x + linear("down", layer, gate * torch.sigmoid(gate) * linear("up", layer, h))
    return norm(x, get("norm", None), eps) @ get("head", None).T


def llada_get(stored):
    inside = {"norm1": "attn_norm", "norm2": "ff_norm", "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out",
              "gate": "ff_proj", "up": "up_proj", "down": "ff_out"}
    outside = {"embed": "wte", "norm": "ln_f", "head": "ff_out"}

    def get(role, layer):
        if role.endswith("_bias"):
            return None
        if layer is not None:
            return stored[f"model.transformer.blocks.{layer}.{inside[role]}.weight"]
        return stored.get(f"model.transformer.{outside[role]}.weight", stored["model.transformer.wte.weight"])
    return get


def dream_get(stored):
    inside = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "q": "self_attn.q_proj",
              "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
              "up": "mlp.up_proj", "down": "mlp.down_proj"}
    outside = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}

    def get(role, layer):
        role, _, bias = role.partition("_")
        name = outside[role] if layer is None else f"model.layers.{layer}.{inside[role]}"
        return stored.get(f"{name}.bias" if bias else f"{name}.weight")
    return get


CASES = [
    ("llada", {"width": 32, "heads": 4}, {}),
    ("llada", {"width": 36, "heads": 6, "key_heads": 2, "layers": 3, "scale": 0.2}, {}),
    ("llada", {"width": 40, "heads": 2, "key_heads": 1}, {"weight_tying": True, "rope_theta": 10000.0}),
    ("dream", {"width": 32, "heads": 4, "key_heads": 2, "scale": 0.1}, {}),
    ("dream", {"width": 42, "heads": 3, "key_heads": 1, "layers": 3}, {"mlp": None}),
]


@pytest.mark.parametrize(("name", "size", "fields"), CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_logits_are_those_of_the_tensors_in_the_files(tmp_path, name, size, fields, padded):
    extra = {field: value for field, value in fields.items() if value is not None}
    folder = random_checkpoints.tiny(tmp_path / "x", name, **size, **extra)
    model, _ = checkpoints.load(folder)
    tokens = torch.randint(0, 300, (11,), generator=torch.Generator().manual_seed(1))
    shown = torch.ones(11, dtype=torch.long)
    shown[8:] = 0 if padded else 1
    stored = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    get = (llada_get if name == "llada" else dream_get)(stored)
    heads = size["heads"]
    settings = {"layers": size.get("layers", 2), "heads": heads, "key_heads": size.get("key_heads", heads)}
    settings |= {"theta": extra.get("rope_theta", 5e5), "eps": 1e-5} if name == "llada" else {"theta": 1e6, "eps": 1e-6}
    expected = written_out(get, tokens, shown.bool().expand(11, 11), **settings)
    with torch.no_grad():
        found = model(tokens[None], attention_mask=shown[None]).logits[0]
    assert (found - expected)[shown.bool()].abs().max() < 1e-5
    assert found.abs().max() > 0.1


def test_llada_turns_in_float32_whatever_its_weights(tmp_path):
    folder = random_checkpoints.tiny(tmp_path / "x", "llada", width=32, heads=4, key_heads=2, layers=2)
    model, _ = checkpoints.load(folder, dtype=torch.bfloat16)
    place = torch.tensor([[3000]])
    for cast in (model, model.to(torch.float64), model.to(torch.bfloat16)):
        cos, _ = cast.model.rotary_emb(torch.zeros(1, dtype=cast.dtype), place)
        angles = 3000 * 500000.0 ** (-torch.arange(0, 8, 2).double() / 8)
        assert cos.dtype == torch.float32
        assert torch.allclose(cos[0, 0, :4].double(), angles.cos(), atol=1e-3)
    half = turn(torch.randn(1, 4, 8, dtype=torch.bfloat16), 5e5)  # rotation does not change the precision around it
    assert half.dtype == torch.bfloat16 and model(torch.tensor([[1, 2]])).logits.dtype == torch.bfloat16
