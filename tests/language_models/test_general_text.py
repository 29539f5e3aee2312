"""Tokens of ordinary sentences, predicted one at a time by hand and by the package."""

import pytest
import torch
from small_names import small

from lib.language_models import general_text

torch.set_num_threads(1)
TEXTS = (" Ana was seen by Bob", " Bob is old")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llada", "dream", "opened", "llama"])
def test_each_token_is_predicted_from_what_the_model_may_see(kind):
    model, words = small(kind)
    found, place = general_text.token_predictions(model, words, TEXTS), 0
    for text in TEXTS:
        ids = [*words(text)["input_ids"], words.eos_token_id]
        for i in range(1, len(ids) - 1):
            if words.mask_token_id is None:
                row = model(input_ids=torch.tensor([ids[:i]])).logits[0, -1].clone()
            else:
                shown = [*ids[:i], words.mask_token_id, *ids[i + 1 :]]
                row = model(input_ids=torch.tensor([shown])).logits[0, i - getattr(model.config, "logits_shift", 0)]
                row = row.clone()
                row[words.mask_token_id] = -torch.inf
            assert float(found[place, 1]) == pytest.approx(-float(row.log_softmax(-1)[ids[i]]), rel=1e-4)
            assert bool(found[place, 0]) == (int(row.argmax()) == ids[i])
            place += 1
    assert place == len(found) and found[:, 1].std() > 0
