"""The questions about letters: what is shown, where it is asked, and what the answer is read from."""

import numpy as np
import pytest
import torch

from lib.one_layer import task
from lib.one_layer.model import ModelConfig, Transformer, initialise
from lib.stores import one_layer_questions


def model(**settings):
    return initialise(Transformer(ModelConfig(length=6, width=8, **settings)), 1, 0.5).double()


def plain(made, text, row):
    with torch.no_grad():
        return made(task.read(text)[None]).logits[0, row].log_softmax(-1)


def test_each_fact_stands_elsewhere_and_all_pairs_of_positions_are_in_order():
    places = [one_layer_questions.placement(10, letter) for letter in range(task.LETTERS)]
    assert len(set(places)) == task.LETTERS and all(left < right for left, right in places)


def test_a_masked_model_is_asked_in_three_ways():
    made = model()
    left, right = one_layer_questions.placement(6, 3)
    texts = {}
    for name, shown in {"forward": {left: "_", right: "D"}, "reverse": {5 - left: "_", 5 - right: "D"},
                        "right": {left: "d", right: "_"}}.items():
        texts[name] = "".join(shown.get(place, "0") for place in range(6))
    fact = one_layer_questions.letter_questions(made)[3]
    for name, text in texts.items():
        question = getattr(fact, name)
        np.testing.assert_allclose(question.scores(made).detach(), plain(made, text, text.index("_")))
    assert fact.forward.names[3] == fact.reverse.names[3] == 3 and fact.right.names[3] == 3 + task.LETTERS


def test_a_causal_model_is_asked_for_what_comes_last_and_scored_by_what_follows_a_letter():
    made = model(causal=True)
    fact, shown = one_layer_questions.letter_questions(made)[3], 1 + one_layer_questions.placement(6, 3)[0]
    text = lambda letter: "".join({0: "_", 6: "_", shown: letter}.get(place, "0") for place in range(7))
    for name, letter in (("right", "d"), ("reverse", "D")):
        np.testing.assert_allclose(getattr(fact, name).scores(made).detach(), plain(made, text(letter), 5))
    capital = 3 + task.LETTERS
    wanted = [plain(made, text(letter), 5)[capital] for letter in task.ALPHABET[:26]]
    np.testing.assert_allclose(fact.forward.scores(made).detach(), torch.stack(wanted))
    assert fact.forward.state is None and fact.right.names[3] == capital


@pytest.mark.parametrize("settings", [{}, {"mlp": False, "norm": False}])
def test_the_state_is_what_the_mlp_gives_or_the_stream(settings):
    made = model(**settings)
    fact = one_layer_questions.letter_questions(made)[0]
    left, right = one_layer_questions.placement(6, 0)
    tokens = torch.full((1, 6), task.PLACEHOLDER)
    tokens[0, left], tokens[0, right] = task.MASK, task.LETTERS
    with torch.no_grad():
        stream = made.layers[0].add_attention(made.embed(tokens), None)[0, left]
        expected = made.layers[0].mlp(made.layers[0].norm2(stream)) if made.settings.mlp else stream
        np.testing.assert_allclose(fact.forward.state(made)[0], expected, atol=1e-12)


def test_more_layers_are_refused():
    with pytest.raises(ValueError, match="depth 2"):
        one_layer_questions.letter_questions(model(depth=2))
