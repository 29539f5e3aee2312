"""Three families with names of one to three words, and small untrained models that know these words."""

import pytest
import torch

from lib.language_models import facts, pretrained, pretraining, synthetic_facts
from lib.language_models.facts import CHILD_OF, Fact
from lib.language_models.pretraining import PretrainingConfig

STOCK = synthetic_facts.name_words(8)
A, B, C, D, E, F = STOCK[:6]
#: names of one, two and three words, each word a token
FAMILIES = [Fact(f"{A} {B}", f"{C} {D}"), Fact(f"{E} {F} {A}", STOCK[6]), Fact(STOCK[7], f"{STOCK[8]} {B} {C}")]
DATA = facts.dataset("p2c", CHILD_OF.after_space(), FAMILIES)


def small(name):
    """An untrained model that knows whole words, with larger weights than at the start of training."""
    words = synthetic_facts.word_tokenizer(name in ("llada", "dream"), 8)
    config = PretrainingConfig("llama" if name == "opened" else name, stock=8, width=32, heads=2, layers=2)
    model = pretraining.new_model(config, words)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
    if name == "opened":  # as `lib.language_models.pretrained` makes a masked model of a causal one
        model.original_config = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pretrained, "MASK_ID", words.convert_tokens_to_ids(synthetic_facts.MASK_WORD))
            pretrained.bidirectional(model, words)
    return model, words


