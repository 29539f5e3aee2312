"""Attention to the right, opened little by little while an autoregressive model becomes a masked one.

Dream-7B opened it at once. DiffuLLaMA (Gong et al. 2025) opens it along the first part of the training: at step s of n,
each position to the right of a query is visible with probability s / n, drawn anew in every forward pass and row.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class AttentionOpening:
    """What a bidirectional transformers model sees, step by step. Attached to the model, it acts on every pass.

    :param model: whose attention is opened already; with or without adapters
    :param steps: after so many, everything is visible, and nothing is done any more
    """

    def __init__(self, model: Any, steps: int) -> None:
        self.steps, self.step = steps, 0
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._hook = whole.model.register_forward_pre_hook(self._narrow, with_kwargs=True)

    def before(self, step: int) -> None:
        """Say which step, counted from 0, comes next."""
        self.step = step

    def close(self) -> None:
        """Take it off the model."""
        self._hook.remove()

    def _narrow(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self.step >= self.steps or not module.training:
            return None
        ids = kwargs["input_ids"]
        shown = visible(ids, self.step / self.steps)
        if kwargs.get("attention_mask") is not None:
            shown = shown & kwargs["attention_mask"].bool()[:, None, None, :]
        return args, {**kwargs, "attention_mask": shown}


def visible(ids: Int[Tensor, "batch length"], share: float) -> Bool[Tensor, "batch 1 length length"]:
    """Which position (last) each position sees: itself, all to its left, and those to its right with this probability.

    Drawn from torch's global stream, on the CPU.
    """
    rows, length = ids.shape
    to_the_right = torch.rand(rows, 1, length, length) < share
    return (torch.ones(length, length, dtype=torch.bool).tril() | to_the_right).to(ids.device)
