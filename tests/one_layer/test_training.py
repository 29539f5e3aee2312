"""The loop: its optimiser against torch's, resuming to the last bit, and what it refuses."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lib.one_layer import interventions, metrics, objectives, task, training
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.fast import unique
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record import provenance, training_state

torch.set_num_threads(1)

SMALL = {"length": 4, "width": 8}


def trainer(seeds=(0, 1), settings=None, **recipe):
    recipe = {"steps": 30, "batch": 16, "warmup": 3, **recipe}
    return Trainer(ModelConfig(**SMALL, **(settings or {})), TrainingConfig(**recipe), seeds)


def test_one_member_follows_torchs_adamw():
    ours = trainer((5,), weight_decay=0.1, clip=0.5, learning_rate=3e-3)
    plain = ours.ensemble.member(0)
    matrices = [weight for weight in plain.parameters() if weight.dim() > 1]
    vectors = [weight for weight in plain.parameters() if weight.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.1)
    average = [weight.detach().clone() for weight in plain.parameters()]
    for step in range(8):
        tokens, rows, targets, weights = (part[0] for part in ours.batch(step))
        logits = plain(tokens, rows=rows).logits
        loss = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum() / 16
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 3)
        optimiser.step()
        decay = min(0.99, (step + 1) / (step + 10))
        for mean, weight in zip(average, plain.parameters(), strict=True):
            mean.mul_(decay).add_(weight.detach(), alpha=1 - decay)
        assert float(ours.advance()[0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for found, expected in ((ours.ensemble.flat, plain.parameters()), (ours.average, average)):
        assert torch.allclose(found[0], torch.cat([weight.detach().reshape(-1) for weight in expected]), atol=1e-5)


@pytest.mark.parametrize("recipe", [{}, {"weight_decay": 0.3, "clip": 0.05, "ema": 0.5}], ids=str)
def test_both_ways_to_update_agree(recipe):
    """The one of this machine's processor and the one of every other device."""
    here, there = trainer((0, 1), **recipe), trainer((0, 1), **recipe)
    there._update = there._elsewhere
    for _ in range(6):
        here.advance()
        there.advance()
    for name, tensor in here.tensors().items():
        assert torch.allclose(tensor, there.tensors()[name], atol=1e-6, rtol=1e-4), name


def test_a_seed_trains_alike_alone_and_in_company():
    alone, company = trainer((1,)), trainer((0, 1, 2))
    for _ in range(5):
        alone.advance()
        company.advance()
    assert torch.allclose(alone.ensemble.flat[0], company.ensemble.flat[1], atol=1e-5)
    assert not torch.allclose(company.ensemble.flat[0], company.ensemble.flat[1], atol=1e-2)


@pytest.mark.parametrize("objective", objectives.OBJECTIVES)
def test_training_lowers_the_loss_of_unseen_batches(objective):
    causal = objective == "autoregressive"
    run = trainer(settings={"causal": causal}, objective=objective, learning_rate=2e-2, batch=64)
    tokens, rows, targets, weights = run.batch(10**6)
    held = lambda: objectives.losses(run.ensemble.logits(tokens, rows), targets, weights, 64).mean().detach()
    before = float(held())
    for _ in range(30):
        run.advance()
    assert float(held()) < 0.95 * before


def test_a_batch_is_forward_only_and_another_step_is_another_batch():
    run = trainer()
    tokens, rows, targets, _ = run.batch(3)
    filled = tokens.flatten(1).scatter(1, rows, targets).view(tokens.shape)
    for text in map(task.spell, filled.flatten(0, 1)):
        assert text.replace("0", "")[0].islower()
    assert not torch.equal(tokens, run.batch(4)[0]) and torch.equal(tokens, run.batch(3)[0])


def test_a_generator_set_anew_draws_as_a_new_one():
    used = training.generator(3, 4)
    used.random(5)
    used.integers(7, size=3)  # leaves half a word behind
    assert training.generator(5, 6, used) is used
    fresh = training.generator(5, 6)
    assert (used.integers(7, size=3) == fresh.integers(7, size=3)).all() and (used.random(5) == fresh.random(5)).all()


RECIPES = [{}, {"draws": "t_dce"}, {"draws": "lambda_dce"}, {"reversed_share": 0.3},
           *({"objective": name} for name in objectives.OBJECTIVES),
           *({"intervention": name, "reversed_share": 0.3} for name in interventions.NAMES)]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_questions_drawn_ahead_are_those_of_each_step(recipe, dropout, monkeypatch):
    causal, given = recipe.get("objective") == "autoregressive", []
    run = trainer(settings={"causal": causal, "dropout": dropout}, **recipe)
    descend = Ensemble.descend
    monkeypatch.setattr(Ensemble, "descend", lambda self, *each: given.append(each[0]) or descend(self, *each))
    run.step = training.AHEAD - 2  # as after an interruption
    for _ in range(4):
        expected = run.asked(run.step)
        run.advance()
        for found, one in zip(given.pop(), expected, strict=True):
            if run.ensemble.written_out:
                assert all(map(np.array_equal, found, unique.merge(one, 16)))
            else:
                assert all((getattr(found, name) == part).all() for name, part in vars(one).items())


@pytest.fixture(autouse=True)
def few_measurements(monkeypatch):
    monkeypatch.setattr(training, "POINTS", 3)


def experiment(out, **recipe):
    settings = ModelConfig(**SMALL, dropout=0.1)
    return training.experiment(settings, TrainingConfig(steps=40, batch=16, warmup=3, **recipe), [0, 3], out)


def test_a_result_is_recorded_with_the_agreed_words(tmp_path):
    result = experiment(tmp_path / "rope.json")
    assert provenance.load(tmp_path / "rope.json") == result
    assert result["experiment"] == "one_layer" and result["seeds"] == [0, 3]
    assert {"length", "encoding", "objective", "depth", "width", "steps", "intervention"} <= set(result["parameters"])
    assert {"forward_accuracy", "reverse_accuracy", "forward_accuracy_lowercase", "reverse_accuracy_lowercase",
            "placeholder_share"} <= set(result["metrics"])
    assert all(len(values) == 2 for values in result["metrics"].values())
    assert result["curves"]["steps"] == training.measured_steps(40, 3)
    assert len(result["curves"]["score_correlation_by_distance"][0]) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rope.json"]


def test_an_interrupted_run_ends_in_the_identical_result(tmp_path, monkeypatch, interrupted, content):
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    experiment(whole)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    for stop in (1, 7, 25):  # interrupted at this step, counted from each start
        interrupted(stop, lambda: experiment(cut))
        assert training.checkpoint_path(cut).exists() and not cut.exists()
    experiment(cut)
    assert content(cut) == content(whole)


def test_a_killed_process_leaves_what_the_next_one_needs(tmp_path, content):
    out = tmp_path / "killed.json"
    program = "from lib.one_layer import training; training.CHECKPOINT_SECONDS = 0; training.POINTS = 3; training.main()"
    command = [sys.executable, "-c", program, "--length", "4", "--width", "8", "--steps", "60",
               "--batch", "16", "--seeds", "0", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not training.checkpoint_path(out).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = out.exists() or training.checkpoint_path(out).exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    training.main([*command[3:-1], str(tmp_path / "whole.json")])
    assert resumed and content(out) == content(tmp_path / "whole.json")
    assert not training.checkpoint_path(out).exists()


def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "one.json"
    monkeypatch.setattr(provenance, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        experiment(out)
    before = training.checkpoint_path(out).read_bytes()
    with pytest.raises(training_state.CheckpointError, match=r"another run .learning_rate 0.001 there, 0.5 here"):
        experiment(out, learning_rate=0.5)
    training.checkpoint_path(out).write_bytes(before[:-9])
    with pytest.raises(training_state.CheckpointError, match="not a whole checkpoint"):
        experiment(out)
    assert training.checkpoint_path(out).read_bytes() == before[:-9] and not out.exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--encoding", "rotary"], "'rope', 'alibi'"),
    (["--objective", "diffusion"], "'masked_diffusion', 'fixed_rate', 'autoregressive'"),
    (["--length", "1"], "length must be an integer of at least 2"),
    (["--width", "7"], "rope: the head dimension"),
    (["--steps", "0"], "steps must be at least 1"),
    (["--seeds", "1", "1"], "seeds must be different"),
    (["--profile", "slow"], "'quick', 'full'"),
    (["--heads", "3"], "width 64 must be a multiple of heads 3"),
    (["--width", "6", "--heads", "2"], "rope: the head dimension width / heads must be even, not 6 / 2"),
    (["--values", "free"], "values 'free': under encoding 'rope' values are free of position anyway"),
    (["--values", "fixed"], "'natural', 'free', 'laden'"),
    (["--draws", "t_dce", "--objective", "fixed_rate"], "draws 't_dce' belongs to masked_diffusion"),
    (["--learning-rate", "nan"], "learning_rate must be positive"),
    (["--learning-rate", "inf"], "learning_rate must be positive"),
    (["--weight-decay", "nan"], "weight_decay must not be negative"),
    (["--ema", "1"], "ema must lie in [0, 1)"),
    (["--points", "0"], "points must be at least 1"),
    (["--seeds", "-1"], "seeds must be different non-negative integers"),
    (["--depht", "2"], "unrecognized arguments: --depht"),
])
def test_the_command_line_refuses_by_name(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        training.main([*arguments, "--out", str(tmp_path / "x.json")])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_what_it_cannot_write_or_resume(tmp_path, capsys, monkeypatch):
    def refused(out, *more):
        with pytest.raises(SystemExit) as stopped:
            training.main(["--length", "4", "--width", "8", "--steps", "9", "--batch", "16", "--seeds", "0", *more,
                           "--out", str(out)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert f"out: {tmp_path} is a folder; name the JSON file" in refused(tmp_path)
    (tmp_path / "file").write_text("kept")
    assert "file" in refused(tmp_path / "file" / "x.json") and (tmp_path / "file").read_text() == "kept"
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "one.json"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(provenance, "save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        training.main(["--length", "4", "--width", "8", "--steps", "9", "--batch", "16", "--seeds", "0",
                       "--out", str(out)])
    checkpoint = training.checkpoint_path(out)
    whole = checkpoint.read_bytes()
    message = refused(out, "--encoding", "alibi")
    assert f"{checkpoint}: a checkpoint of another run (encoding 'rope' there, 'alibi' here)" in message
    for cut in (0, 100, len(whole) // 2, len(whole) - 1):
        checkpoint.write_bytes(whole[:cut])
        assert f"{checkpoint}: not a whole checkpoint" in refused(out)
        assert len(checkpoint.read_bytes()) == cut and not out.exists()


def test_measured_steps_begin_at_zero_and_end_at_the_end():
    assert training.measured_steps(3000, 5) == [0, 30, 95, 300, 949, 3000]
    assert training.measured_steps(3, 5) == [0, 3]


def test_seeds_see_batches_of_their_own():
    one, two = trainer().asked(3)
    assert not np.array_equal(one.tokens, two.tokens)


def test_the_average_keeps_to_its_decay():
    run = trainer((5,), ema=0.2)
    mean = run.average.clone()
    for step in range(5):
        run.advance()
        decay = min(0.2, (step + 1) / (step + 10))
        mean = decay * mean + (1 - decay) * run.ensemble.flat
        assert torch.allclose(run.average, mean, atol=1e-6)


def test_dropout_is_drawn_anew_each_step(monkeypatch):
    run, seen, seed = trainer(settings={"dropout": 0.1}), [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda value: seen.append(value) or seed(value))
    for _ in range(3):
        run.advance()
    assert len(set(seen)) == 3


def test_the_start_is_the_untrained_model(tmp_path):
    settings, recipe = ModelConfig(**SMALL), TrainingConfig(steps=40, batch=16, warmup=3, learning_rate=1e-2)
    curves = training.experiment(settings, recipe, [0, 3], tmp_path / "a.json", points=2)["curves"]
    untrained = metrics.score_correlations(Trainer(settings, recipe, [0, 3]).averaged())
    assert np.allclose(curves["score_correlation_by_distance_at_start"], untrained.tolist(), atol=1e-5)
    assert not np.allclose(curves["score_correlation_by_distance"], untrained.tolist(), atol=1e-3)


def test_the_command_line_keeps_snapshots(tmp_path):
    training.main(["--length", "4", "--width", "8", "--steps", "9", "--batch", "8", "--seeds", "0", "--points", "1",
                   "--snapshots", str(tmp_path / "kept"), "--out", str(tmp_path / "a.json")])
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == [
        "step_000000.safetensors", "step_000009.safetensors"]
