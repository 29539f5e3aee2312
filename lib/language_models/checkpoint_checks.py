"""What must hold of a model that was read from a checkpoint before it is used, measured and not assumed.

Every number of the files is in the model, all of them are finite, a bidirectional model looks ahead and a causal one
does not, and rotary frequencies are those of the configuration.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import transformers
from torch import Tensor

from lib.language_models.architectures import Architecture


def check_loaded(
    model: transformers.PreTrainedModel, stored: dict[str, tuple[int, ...]], architecture: Architecture
) -> None:
    """All that must hold of a model before it is used; ``stored`` are the shapes of the tensors in its files.

    :raises ValueError: for the first of them that does not
    """
    _check_complete(model, stored, architecture)
    _check_finite(model, architecture)
    check_attention_direction(model, causal=architecture.causal)


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


@torch.no_grad()
def check_attention_direction(model: transformers.PreTrainedModel, *, causal: bool, tokens: int = 8) -> float:
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


def _spread(model: transformers.PreTrainedModel, count: int) -> Tensor:
    """Tokens at even distances over the vocabulary."""
    return torch.arange(1, count + 1, device=model.device) * model.config.vocab_size // (count + 1)


def _distant_token(model: transformers.PreTrainedModel, token: Tensor, among: int = 64) -> Tensor:
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


def check_rotated_share(config: Any) -> None:
    """No more than the whole of a head is rotated: the table of frequencies has that length.

    :raises ValueError: for a share that is none
    """
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"config.json: partial_rotary_factor={share!r} must lie in (0, 1]")
