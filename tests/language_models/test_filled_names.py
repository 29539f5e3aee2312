"""Names of known length, filled in by hand and by the package: token by token, in each order."""

import pytest
import torch
from small_names import DATA, small

from lib.language_models import filled_names, name_ranks
from lib.language_models.filled_names import FILLING_ORDERS, FILLINGS

torch.set_num_threads(1)


def by_hand(model, words, question, order, given):
    """One question at a time, with a forward pass over the whole sentence for each token."""
    mask, start = words.mask_token_id, len(question.before)
    name = [*question.right[:given], *[mask] * (len(question.right) - given)]
    shift = getattr(model.config, "logits_shift", 0)
    while mask in name:
        ids = torch.tensor([[*question.before, *name, *question.after]])
        logits = model(input_ids=ids).logits[0].float()
        logits[:, mask] = -torch.inf
        at = {place: logits[start + place - shift] for place, token in enumerate(name) if token == mask}
        entropy = {place: float(torch.distributions.Categorical(logits=row).entropy()) for place, row in at.items()}
        chosen = {"at once": list(at), "left to right": [min(at)],
                  "most certain first": [min(entropy, key=entropy.get)]}
        for place in chosen[order]:
            name[place] = int(at[place].argmax())
    return tuple(name)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llada", "dream", "opened"])
@pytest.mark.parametrize(("order", "given"), FILLINGS.values())
@pytest.mark.parametrize("asked", ["forward", "reverse"])
def test_names_are_filled_as_by_hand(kind, order, given, asked):
    model, words = small(kind)
    questions = name_ranks.name_questions(DATA, asked, words)
    found = filled_names.filled_names(model, words, questions, order=order, given=given, batch=2)
    assert found == [by_hand(model, words, question, order, given) for question in questions]
    assert [len(name) for name in found] == [len(question.right) for question in questions]


@torch.no_grad()
def test_a_model_that_knows_the_sentences_writes_all_of_them(monkeypatch):
    model, words = small("llada")
    questions = name_ranks.name_questions(DATA, "reverse", words)
    right = {question.before: [*question.before, *question.right, *question.after] for question in questions}

    def told(model, ids, wanted, attention_mask):
        rows = [next(whole for before, whole in right.items() if row[: len(before)] == list(before))
                for row in ids.tolist()]
        table = torch.zeros(*ids.shape, len(words))
        for row, whole in enumerate(rows):
            for place, token in enumerate(whole):
                table[row, place, token] = 5.0
                table[row, place, words.mask_token_id] = 9.0  # a mask is never written
        return table[wanted]

    monkeypatch.setattr(filled_names.queries, "logits_at", told)
    assert filled_names.exact_shares(model, words, questions) == dict.fromkeys(FILLINGS, 100.0)
    one = questions[0]
    right[one.before][len(one.before)] += 1  # its first token is taken for another
    lost = pytest.approx(100 * (len(questions) - 1) / len(questions))
    assert filled_names.exact_shares(model, words, questions) == {
        **dict.fromkeys(FILLING_ORDERS, lost), "first token given": 100.0}


@torch.no_grad()
def test_names_are_asked_for_without_their_question(monkeypatch):
    model, words = small("llada")
    questions, mask = name_ranks.name_questions(DATA, "reverse", words), words.mask_token_id
    replaced = filled_names.replaced_questions(questions, mask)
    masked, others = replaced["question masked"], replaced["question of another"]
    assert [each.right for each in masked] == [each.right for each in others] == [each.right for each in questions]
    assert all(set(each.before[1:]) == {mask} and each.after == own.after and len(each.before) == len(own.before)
               for each, own in zip(masked, questions, strict=True))
    assert [each.before for each in others] == [each.before for each in (*questions[1:], questions[0])]
    seen = []
    monkeypatch.setattr(filled_names, "filled_names", lambda model, words, asked, **settings: seen.append(
        (asked, settings)) or [each.right for each in asked[:1]] + [()] * (len(asked) - 1))
    assert filled_names.shares_by_name_alone(model, words, questions) == dict.fromkeys(replaced, 100 / len(questions))
    assert seen == [(each, {"order": "most certain first", "given": 1}) for each in replaced.values()]
    with pytest.raises(ValueError, match="no mask token"):
        filled_names.shares_by_name_alone(*small("llama"), questions)


def test_what_cannot_be_asked_is_named():
    causal, words = small("llama")
    questions = name_ranks.name_questions(DATA, "reverse", words)
    with pytest.raises(ValueError, match="no mask token"):
        filled_names.filled_names(causal, words, questions)
    masked, words = small("llada")
    with pytest.raises(ValueError, match="must be one of at once, most certain first, left to right, not 'best first'"):
        filled_names.filled_names(masked, words, questions, order="best first")
