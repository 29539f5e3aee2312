"""Pairs of queries in tokens, made of numbers alone."""

import torch

from lib.language_models.queries import EncodedQuery


def prompts(*facts, target=3, mask=99):
    """A pair for each fact, in tokens: evidence and answer side by side with one token between them."""
    found = []
    for evidence, answer in facts:
        ids = torch.tensor([7, *evidence, 8, *answer])
        labels = torch.full_like(ids, -100)
        start = len(evidence) + 2
        labels[start:] = ids[start:]
        places = tuple(range(start, len(ids))), tuple(range(1, 1 + len(evidence)))
        masked = ids.clone()
        masked[start:] = mask
        found.append((EncodedQuery(masked, labels, *places),) * 2)
    return found
