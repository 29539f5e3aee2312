"""Scores of candidate answers by hand, and which answers compete."""

import hooked_attention
import pytest
import torch
from hooked_attention import NAMES
from made_up_prompts import prompts

from lib.language_models import answer_scores

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Name -> model and encoded pairs, see `hooked_attention.loader`."""
    return hooked_attention.loader(tmp_path_factory.mktemp("patching"))


def test_mean_log_probabilities_by_hand():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]])
    found = answer_scores.mean_log_probabilities(logits, [[2, 0], [1]])
    first, second = logits[0].double().exp() / logits[0].double().exp().sum(1, keepdim=True)
    assert found[0].tolist() == pytest.approx([float((first[2].log() + second[0].log()) / 2), float(first[1].log())])
    with pytest.raises(ValueError, match=r"\[2, 3\] tokens, but 2 are asked for"):
        answer_scores.mean_log_probabilities(logits, [[2, 0], [1, 1, 1]])


def test_the_name_shown_competes_cut_to_the_length_of_the_answer():
    pairs = prompts(([1, 2], [3, 4]), ([5], [6, 9]), ([1, 2], [10, 11]), ([12, 13, 14], [3, 4]), ([15], [16, 17]))
    assert answer_scores.shown_names(pairs) == [[[1, 2]], [[5]], [[1, 2]], [[12, 13]], [[15]]]


def test_whether_the_answer_is_in_the_text(loaded):
    assert [answer_scores.shows_target(loaded(name)[1][0][1]) for name in NAMES] == [False, False, True]
