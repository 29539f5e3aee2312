"""How well a model predicts the tokens of ordinary sentences, each token with what the model may see.

A masked model sees everything but the token; a causal one sees what stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.language_models import queries

#: of no dataset, and in no text that a model of this project was trained on
SENTENCES = (
    " The train was late, so we waited in a small café near the station.",
    " After the storm the farmers walked along the river and counted their sheep.",
    " She put the letter back into the drawer and locked the door behind her.",
    " Nobody knew why the old clock in the kitchen had stopped at noon.",
    " The teacher asked the children to draw a map of their own street.",
    " He cut the bread, poured some milk and sat down by the window.",
    " In winter the lake freezes, and people cross it on foot to reach the market.",
    " Our neighbour sold his car last year and now rides a bicycle to work.",
)


@torch.no_grad()
def token_predictions(
    model: Any, tokenizer: Any, texts: Sequence[str] = SENTENCES
) -> Float[Tensor, "token 2"]:
    """For each token of the texts whether it is the likeliest one (1 or 0), and its surprise (nats).

    :param texts: each begins with a space, as a word within a sentence does
    """
    return torch.cat([_predicted_tokens(model, tokenizer, text) for text in texts])


def _predicted_tokens(model: Any, tokenizer: Any, text: str) -> Float[Tensor, "token 2"]:
    ids = torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id], device=model.device)
    right, mask = ids[1:-1], tokenizer.mask_token_id  # neither start nor end
    if mask is None:
        wanted = torch.zeros_like(ids, dtype=torch.bool)
        wanted[1:-1] = True
        logits = queries.logits_at(model, ids[None], wanted[None], shift=1)
    else:
        wanted = torch.eye(len(ids), dtype=torch.bool, device=ids.device)[1:-1]
        rows: Int[Tensor, "token length"] = ids.expand(len(right), -1).masked_fill(wanted, mask)
        logits = queries.logits_at(model, rows, wanted)
        logits[:, mask] = -torch.inf  # a mask is no answer
    log_p = logits.float().log_softmax(-1)
    surprise = -log_p.gather(1, right[:, None])[:, 0]
    return torch.stack([(log_p.argmax(-1) == right).float(), surprise], 1).cpu()
