"""LLaDA in transformers' classes: a Llama without the causal mask, turned in float32, under other tensor names.

Imported where a LLaDA is built or read, and nowhere else: transformers takes seconds to bring its models along.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class LLaDARotaryEmbedding(LlamaRotaryEmbedding):
    """Cosines and sines in float32, from frequencies computed afresh: no cast of the model can round them."""

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (batch, length, head_dim) each, at ``position_ids``, (batch, length)."""
        config: Any = self.config
        size, theta = config.head_dim, config.rope_parameters["rope_theta"]
        steps = torch.arange(0, size, 2, device=x.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * (1.0 / theta ** (steps / size))  # (batch, length, head_dim / 2)
        angles = torch.cat((angles, angles), dim=-1)
        dtype = torch.float32 if config.rope_full_precision else x.dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)


class LLaDAAttention(LlamaAttention):
    """Llama's attention, with queries and keys rotated in the precision of the cosines."""

    def forward(self, hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None,
                past_key_values: Any = None, **settings: Any) -> tuple[Tensor, Any]:
        """Output of the layer, shaped like ``hidden_states`` (batch, length, width), and weights where there are."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (linear(hidden_states).view(shape).transpose(1, 2)  # (batch, heads, length, head_dim)
                   for linear in (self.q_proj, self.k_proj, self.v_proj))
        cos, sin = position_embeddings
        q, k = (turned.to(v.dtype) for turned in apply_rotary_pos_emb(q.to(cos.dtype), k.to(cos.dtype), cos, sin))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        mixed, weights = attend(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **settings)
        return self.o_proj(mixed.reshape(*hidden_states.shape[:-1], -1).contiguous()), weights


class LLaDAForMaskedDiffusion(LlamaForCausalLM):
    """LLaDA: `LlamaForCausalLM` with full attention (by its config) and rotation in float32."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model.rotary_emb = LLaDARotaryEmbedding(config)
        for layer in self.model.layers:
            layer.self_attn.__class__ = LLaDAAttention


_BLOCK = {"attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm", "q_proj": "self_attn.q_proj",
          "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj",
          "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj"}
_OUTSIDE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def _renamings() -> list[WeightConverter | WeightRenaming]:
    """LLaDA's tensor names to Llama's. Anchored at both ends: a loose pattern would catch adapter keys as well."""
    rules = {rf"^model\.transformer\.{theirs}\.weight$": f"^{ours}.weight$" for theirs, ours in _OUTSIDE.items()}
    rules |= {rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.weight$": rf"^model.layers.\1.{ours}.weight$"
              for theirs, ours in _BLOCK.items()}
    return [WeightRenaming(theirs, ours) for theirs, ours in rules.items()]


register_checkpoint_conversion_mapping(LLaDAForMaskedDiffusion.__name__, _renamings(), overwrite=True)


def llada_tensor_name(name: str) -> str:
    """LLaDA's name of a Llama tensor."""
    llada_names = {ours: theirs for names in (_BLOCK, _OUTSIDE) for theirs, ours in names.items()}
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if block:
        return f"model.transformer.blocks.{block[1]}.{llada_names[block[2]]}.weight"
    return f"model.transformer.{llada_names[name.removesuffix('.weight')]}.weight"
