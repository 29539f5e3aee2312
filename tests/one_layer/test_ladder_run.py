"""Runs of the ladder: what training asks, how answers are scored and patched, what is recorded and resumed."""

import json

import numpy as np
import pytest
import torch

from lib.one_layer import ladder_run, task
from lib.one_layer.ladder_run import LadderRunOptions, LadderTrainer, one_name_masked, patched_recall, rung_recall
from lib.one_layer.ladder_sentences import (
    LEFT_NAME,
    RIGHT_NAME,
    LadderTask,
    draw_names,
    questions_asked,
    told_sentences,
)
from lib.record.training_state import Checkpoint

torch.set_num_threads(1)
SHORT = ["--seeds", "3", "4", "--steps", "6", "--batch", "8", "--width", "16"]


def test_training_hides_one_whole_name_either_as_often():
    settings = LadderTask(relations=2, left=2)
    sentences = told_sentences(settings, draw_names(settings, 0), 2_000, np.random.default_rng(0))
    batch = one_name_masked(sentences, np.random.default_rng(1))
    row = batch.rows // settings.length
    roles = sentences.roles.reshape(-1)[batch.rows]
    assert (np.bincount(row, batch.weights) == 1).all() and set(roles) == {LEFT_NAME, RIGHT_NAME}
    assert (batch.tokens == task.MASK).sum() == len(batch.rows)
    left = np.bincount(row[roles == LEFT_NAME], minlength=2_000)
    assert set(left) == {0, 2} and abs((left == 2).mean() - 0.5) < 0.04
    np.testing.assert_array_equal(batch.targets, sentences.tokens.reshape(-1)[batch.rows])


@pytest.mark.parametrize("masking, kinds", [("names", {0, 1}), ("any", {0, 1, 2, 3})])
def test_batches_are_of_each_seeds_world_and_of_the_masking(masking, kinds, tmp_path):
    asked = LadderRunOptions(task=LadderTask(placeholders=2, relations=2), masking=masking, batch=64, seeds=(0, 1),
                             out=tmp_path / "a.json")
    trainer = LadderTrainer(asked)
    for names, batch in zip(trainer.names, trainer.batches(0), strict=True):
        words = [set(names.left.ravel()), set(names.right.ravel()), {25, 51}, {task.PLACEHOLDER}]
        assert {kind for kind, some in enumerate(words) if some & set(batch.targets)} == kinds
        assert not set(batch.targets) - set().union(*words)
    tokens = [batch.tokens.tolist() for batch in trainer.batches(0)]
    assert tokens[0] != tokens[1]


def constructed(settings, names, forget=0.0):
    """Logits that know each fact whatever its order, but for a share of the facts, and two words that tie."""
    asked = questions_asked(settings, names, "reverse")
    logits = torch.zeros(*asked.answers.shape, task.CLEAN)
    logits.scatter_(-1, torch.as_tensor(asked.answers)[..., None], 5.0)
    logits[: round(forget * len(logits))] = 0.0
    return asked, logits


def test_scores_need_a_lead_and_all_words():
    settings = LadderTask(relations=2, left=2, right=2)
    asked, logits = constructed(settings, draw_names(settings, 0), forget=0.4)
    assert ladder_run._exact(logits, asked).mean() == ladder_run._leading_name(logits, asked).mean() == 0.6
    logits[-1, 1, task.PLACEHOLDER] = 6.0  # a word loses to a token that is in no name
    assert not ladder_run._exact(logits, asked)[-1] and ladder_run._leading_name(logits, asked)[-1]
    logits[-1, 1] = 0.0  # the second word is lost; another name with the same first word ties
    assert not ladder_run._leading_name(logits, asked)[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = LadderTask(relations=2)
    out = tmp_path_factory.mktemp("trained") / "a.json"
    trainer = LadderTrainer(LadderRunOptions(task=settings, steps=150, seeds=(5,), out=out))
    for _ in range(150):
        trainer.step()
    return settings, trainer


def test_single_tokens_are_recalled_in_the_order_never_told_and_without_evidence_they_are_not(trained):
    settings, trainer = trained
    found = rung_recall(trainer.averaged(), settings, trainer.names)
    assert found["forward_accuracy"] == found["right_accuracy"] == [100]
    assert found["reverse_names"][0] > 80 and found["mismatched_names"][0] < 20
    assert found["wrong_frame_names"][0] > 80  # it takes the relation for a symmetric one


def test_a_patch_moves_the_attention_of_each_word_and_nothing_else(trained):
    settings, trainer = trained
    (model,), (names,) = trainer.averaged().members(), trainer.names
    forward, reverse = (questions_asked(settings, names, kind) for kind in ("forward", "reverse"))
    weights = lambda asked: model.record(torch.as_tensor(asked.tokens), "attention.weights")["attention.weights"][0]
    patched = ladder_run._patched(model, forward, reverse)
    source, moved = weights(forward), weights(forward).flip(2, 3)  # _ > B turned is B < _
    assert torch.allclose(ladder_run._moved(source, forward, reverse), moved)
    plain = model(torch.as_tensor(reverse.tokens)).logits.flatten(0, 1)[torch.as_tensor(reverse.rows)]
    assert not torch.allclose(patched, plain)
    itself = ladder_run._patched(model, reverse, reverse)
    assert torch.allclose(itself, plain, atol=1e-5)
    assert set(patched_recall(trainer.averaged(), settings, trainer.names)) == {"reverse_patched", "forward_patched"}


def run(out, *words):
    ladder_run.main([*SHORT, "--out", str(out), *words])
    return json.loads(out.read_text())


def test_a_run_records_its_rung_and_its_metrics(tmp_path):
    result = run(tmp_path / "a.json", "--relations", "2", "--left", "2", "--right", "2")
    assert result["experiment"] == "ladder" and result["seeds"] == [3, 4]
    assert result["parameters"]["left"] == 2 and result["parameters"]["depth"] == 1
    assert {"forward_accuracy", "reverse_names", "wrong_frame_accuracy", "reverse_patched"} <= set(result["metrics"])
    assert result["curves"]["steps"] == [2, 6] and all(len(each) == 2 for each in result["metrics"].values())
    deep = run(tmp_path / "b.json", "--depth", "2", "--relations", "1", "--masking", "any", "--placeholders", "1")
    assert "reverse_patched" not in deep["metrics"] and "wrong_frame_names" not in deep["metrics"]


def test_a_run_that_is_done_is_left_alone_and_another_in_its_place_is_refused(tmp_path, capsys):
    run(tmp_path / "a.json")
    before = (tmp_path / "a.json").read_bytes()
    run(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == before and "this run is done" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(tmp_path / "a.json", "--relations", "1")
    assert "relations" in capsys.readouterr().err and (tmp_path / "a.json").read_bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, monkeypatch, content):
    run(tmp_path / "whole.json")
    step, taken = LadderTrainer.step, []

    def counted(self):
        taken.append(self.steps_taken)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(LadderTrainer, "step", counted)
    with pytest.raises(SystemExit):
        run(tmp_path / "part.json")
    run(tmp_path / "part.json")
    assert taken == [0, 1, 2, 3, 3, 4, 5]
    assert content(tmp_path / "part.json") == content(tmp_path / "whole.json")


@pytest.mark.parametrize("words, named", [
    (["--masking", "most"], "masking"), (["--left", "3"], "left"), (["--steps", "2"], "steps"),
    (["--heads", "5"], "heads"), (["--seeds", "-1"], "seed"), (["--learning-rate", "0"], "learning_rate")])
def test_bad_options_are_refused_by_name(tmp_path, capsys, words, named):
    with pytest.raises(SystemExit) as ended:
        ladder_run.main(["--out", str(tmp_path / "a.json"), *words])
    assert ended.value.code == 2 and named in capsys.readouterr().err.replace("-", "_")
    assert not list(tmp_path.iterdir())
