"""Texts token by token, their ends, their seeds, and the devices and models that write them."""

import pytest
import small_pretrained
import torch
from elsewhere import Elsewhere, machine

from lib.language_models import pretrained, written_text

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_pretrained.made(tmp_path_factory.mktemp("written") / "model")


@pytest.fixture(autouse=True)
def small(folder, monkeypatch):
    small_pretrained.take_the_place(monkeypatch, folder)


def test_prose_is_what_the_model_writes():
    """Every token drawn anew from a forward pass over all that stands before it."""
    model, tokenizer = pretrained.load()
    found = written_text.written_prose(model, tokenizer, 7, seed=3)
    draw = torch.Generator().manual_seed(3)
    ids = torch.tensor([tokenizer(opening)["input_ids"] for opening in small_pretrained.OPENINGS * 4])
    with torch.no_grad():
        for _ in range(4 * 14):
            values, likeliest = model(ids).logits[:, -1].topk(50)
            ids = torch.cat([ids, likeliest.gather(1, values.softmax(-1).multinomial(1, generator=draw))], 1)
    lines = []
    for row in ids[:, 1:].tolist():  # without the start token
        end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        pieces = [row[i : i + 14] for i in range(0, end - 13, 14)]
        lines += [" " + " ".join(tokenizer.decode(piece).split()) for piece in pieces if len(piece) == 14]
    assert found == lines[:7] and len(set(found)) == 7
    assert written_text.written_prose(model, tokenizer, 7, seed=3) == found
    assert written_text.written_prose(model, tokenizer, 7, seed=4) != found


def test_prose_ends_where_a_text_does_and_goes_on_until_there_are_enough_lines(monkeypatch):
    model, tokenizer = pretrained.load()
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcd"]
    calls = []

    def written(model, ids, length, generator):
        assert length == 56 and ids.shape == (8, 3)
        calls.append(ids)
        rows = torch.tensor(letters).repeat(8, 14)
        rows[0, 26], rows[1, 25], rows[2, 5] = (tokenizer.eos_token_id,) * 3  # with the opening: two pieces, one, none
        return rows

    monkeypatch.setattr(written_text, "_sampled", written)
    said = []
    found = written_text.written_prose(model, tokenizer, 24, report=said.append)
    assert said == ["prose: 23 of 24 pieces", "prose: 24 of 24 pieces"]
    first = [" x" + "abcd" * 3, " " + "abcd" * 3 + "ab"]
    assert found[:3] == [first[0], first[1], " y" + "abcd" * 3]
    assert found[3:7] == [" y" + "abcd" * 3, first[1], " cd" + "abcd" * 3, " " + "abcd" * 3 + "ab"]
    assert len(calls) == 2 and found[23] == first[0]  # 23 pieces a call
    ended = torch.full((8, 56), tokenizer.eos_token_id)
    monkeypatch.setattr(written_text, "_sampled", lambda *_: ended)
    with pytest.raises(ValueError, match="prose: the model ends every text within 14 tokens"):
        written_text.written_prose(model, tokenizer, 1)


def test_a_model_on_another_device_writes_the_same(monkeypatch):
    model, tokenizer = pretrained.load()
    here = written_text.written_prose(model, tokenizer, 5)
    with machine():
        model._apply(lambda tensor: Elsewhere(tensor.detach().clone()))
        model.tie_weights()
        assert written_text.written_prose(model, tokenizer, 5) == here


def test_texts_begin_by_turns_and_leave_the_global_stream_alone():
    model, tokenizer = pretrained.load()
    state = torch.random.get_rng_state()
    first, again, other = (written_text.written_texts(model, tokenizer, 3, 12, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == again and first != other and len(first) == 3
    assert all(text.startswith(opening) for text, opening in zip(first, (" x", " y", " x"), strict=True))
    with pytest.raises(ValueError, match="only a causal one writes from left to right"):
        written_text.written_texts(*pretrained.bidirectional(model, tokenizer))
