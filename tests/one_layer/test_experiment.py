"""The recorded experiment: what a result holds, resuming to the last bit, several side by side, and what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import elsewhere

from lib.one_layer import experiment, metrics, patching, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record import provenance, training_state

torch.set_num_threads(1)

SMALL = {"length": 4, "width": 8}


@pytest.fixture(autouse=True)
def few_measurements(monkeypatch):
    monkeypatch.setattr(experiment, "POINTS", 3)


def checkpoint_of(out):
    return out.with_name(f".{out.name}.checkpoint")


def made(out, **recipe):
    settings = ModelConfig(**SMALL, dropout=0.1)
    return experiment.experiment(settings, TrainingConfig(steps=40, batch=16, warmup=3, **recipe), [0, 3], out)


def test_a_result_is_recorded_with_the_agreed_words(tmp_path):
    result = made(tmp_path / "rope.json")
    assert provenance.load(tmp_path / "rope.json") == result
    assert result["experiment"] == "one_layer" and result["seeds"] == [0, 3]
    assert {"length", "encoding", "objective", "depth", "width", "steps", "intervention"} <= set(result["parameters"])
    assert {"forward_accuracy", "reverse_accuracy", "forward_accuracy_lowercase", "reverse_accuracy_lowercase",
            "placeholder_share"} <= set(result["metrics"])
    assert all(len(values) == 2 for values in result["metrics"].values())
    assert result["curves"]["steps"] == experiment.measured_steps(40, 3)
    assert len(result["curves"]["score_correlation_by_distance"][0]) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rope.json"]


def test_an_interrupted_run_ends_in_the_identical_result(tmp_path, monkeypatch, interrupted, content):
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    made(whole)
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    for stop in (1, 7, 25):  # interrupted at this step, counted from each start
        interrupted(stop, lambda: made(cut))
        assert checkpoint_of(cut).exists() and not cut.exists()
    made(cut)
    assert content(cut) == content(whole)


@pytest.mark.parametrize("change", [{"points": 5}, {"snapshot_folder": Path("elsewhere")}, {"seeds": [0, 4]}])
@pytest.mark.parametrize("kind", [experiment.experiment, experiment.interventions_experiment])
def test_a_run_does_not_go_on_with_other_options(tmp_path, monkeypatch, interrupted, kind, change):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    recipe = TrainingConfig(steps=40, batch=16, warmup=3)
    run = lambda **options: kind(ModelConfig(**SMALL), recipe, **{
        "seeds": [0, 3], "out": tmp_path / "a.json", "points": 4, "snapshot_folder": None, **options})
    interrupted(5, run)
    with pytest.raises(training_state.CheckpointError, match="another run"):
        run(**change)
    assert run()["curves"]["steps"] == experiment.measured_steps(40, 4) and not (tmp_path / "elsewhere").exists()


def test_a_killed_process_leaves_what_the_next_one_needs(tmp_path, content):
    out = tmp_path / "killed.json"
    program = ("from lib.one_layer import experiment; from lib.record import training_state; "
               "training_state.SECONDS = 0; experiment.POINTS = 3; experiment.main()")
    command = [sys.executable, "-c", program, "--length", "4", "--width", "8", "--steps", "60",
               "--batch", "16", "--seeds", "0", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not checkpoint_of(out).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = out.exists() or checkpoint_of(out).exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    experiment.main([*command[3:-1], str(tmp_path / "whole.json")])
    assert resumed and content(out) == content(tmp_path / "whole.json")
    assert not checkpoint_of(out).exists()


def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    out = tmp_path / "one.json"
    monkeypatch.setattr(provenance, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        made(out)
    before = checkpoint_of(out).read_bytes()
    with pytest.raises(training_state.CheckpointError, match=r"another run .learning_rate 0.001 there, 0.5 here"):
        made(out, learning_rate=0.5)
    checkpoint_of(out).write_bytes(before[:-9])
    with pytest.raises(training_state.CheckpointError, match="not a whole checkpoint"):
        made(out)
    assert checkpoint_of(out).read_bytes() == before[:-9] and not out.exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--encoding", "rotary"], "--encoding: 'rotary' is none of rope, alibi"),
    (["--objective", "diffusion"], "none of masked_diffusion, fixed_rate, autoregressive"),
    (["--length", "1"], "length must be an integer of at least 2"),
    (["--width", "7"], "rope: the head dimension"),
    (["--steps", "0"], "steps must be at least 1"),
    (["--seeds", "1", "1"], "seeds must be different"),
    (["--profile", "slow"], "none of quick, full"),
    (["--heads", "3"], "width 64 must be a multiple of heads 3"),
    (["--width", "6", "--heads", "2"], "rope: the head dimension width / heads must be even, not 6 / 2"),
    (["--values", "free"], "values 'free': under encoding 'rope' values are free of position anyway"),
    (["--values", "fixed"], "none of natural, free, laden"),
    (["--draws", "t_dce", "--objective", "fixed_rate"], "draws 't_dce' belongs to masked_diffusion"),
    (["--learning-rate", "nan"], "--learning-rate must lie in (0, inf)"),
    (["--learning-rate", "inf"], "--learning-rate must lie in (0, inf)"),
    (["--weight-decay", "nan"], "--weight-decay must lie in [0, inf)"),
    (["--ema", "1"], "--ema must lie in [0, 1)"),
    (["--points", "0"], "points must be at least 1"),
    (["--seeds", "-1"], "seeds must be different integers from 0"),
    (["--depht", "2"], "there is no option --depht; did you mean --depth"),
])
def test_the_command_line_refuses_by_name(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        experiment.main([*arguments, "--out", str(tmp_path / "x.json")])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_what_it_cannot_write_or_resume(tmp_path, capsys, monkeypatch):
    def refused(out, *more):
        with pytest.raises(SystemExit) as stopped:
            experiment.main(["--length", "4", "--width", "8", "--steps", "9", "--batch", "16", "--seeds", "0", *more,
                         "--out", str(out)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    folder = tmp_path / "folder.json"
    folder.mkdir()
    assert f"--out {folder} is a folder; name the JSON file" in refused(folder)
    (tmp_path / "file").write_text("kept")
    assert "file" in refused(tmp_path / "file" / "x.json") and (tmp_path / "file").read_text() == "kept"
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    out = tmp_path / "one.json"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(provenance, "save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        experiment.main(["--length", "4", "--width", "8", "--steps", "9", "--batch", "16", "--seeds", "0",
                         "--out", str(out)])
    checkpoint = checkpoint_of(out)
    whole = checkpoint.read_bytes()
    message = refused(out, "--encoding", "alibi")
    assert f"{checkpoint}: a checkpoint of another run (encoding 'rope' there, 'alibi' here)" in message
    for cut in (0, 100, len(whole) // 2, len(whole) - 1):
        checkpoint.write_bytes(whole[:cut])
        assert f"{checkpoint}: not a whole checkpoint" in refused(out)
        assert len(checkpoint.read_bytes()) == cut and not out.exists()


def test_measured_steps_begin_at_zero_and_end_at_the_end():
    assert experiment.measured_steps(3000, 5) == [0, 30, 95, 300, 949, 3000]
    assert experiment.measured_steps(3, 5) == [0, 3]


def test_the_start_is_the_untrained_model(tmp_path):
    settings, recipe = ModelConfig(**SMALL), TrainingConfig(steps=40, batch=16, warmup=3, learning_rate=1e-2)
    curves = experiment.experiment(settings, recipe, [0, 3], tmp_path / "a.json", points=2)["curves"]
    untrained = metrics.score_correlations(Trainer(settings, recipe, [0, 3]).averaged())
    assert np.allclose(curves["score_correlation_by_distance_at_start"], untrained.tolist(), atol=1e-5)
    assert not np.allclose(curves["score_correlation_by_distance"], untrained.tolist(), atol=1e-3)


def test_the_command_line_keeps_snapshots(tmp_path):
    experiment.main(["--length", "4", "--width", "8", "--steps", "9", "--batch", "8", "--seeds", "0", "--points", "1",
                   "--snapshots", str(tmp_path / "kept"), "--out", str(tmp_path / "a.json")])
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == [
        "step_000000.safetensors", "step_000009.safetensors"]


# Side by side ---------------------------------------------------------------------------------------------------

SHAPE = ModelConfig(**SMALL)
BASE = TrainingConfig(steps=6, batch=16, warmup=2)


def results(folder, **changes):
    recipes = experiment.variations(BASE, ["learning_rate=0.01,0.02", "ema=0"], folder / "rope.json")
    return experiment.side_by_side(SHAPE, recipes, [0, 1], points=2, **changes)


def test_each_is_recorded_as_if_alone(tmp_path):
    found = results(tmp_path)
    names = [f"rope{end}.json" for end in ("", "_learning_rate_0.01", "_learning_rate_0.02", "_ema_0")]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())  # and no checkpoint stays
    for name, result, change in zip(names, found, ({}, {"learning_rate": 0.01}, {"learning_rate": 0.02}, {"ema": 0.0}),
                                    strict=True):
        assert provenance.load(tmp_path / name) == result and result["provenance"]["together"] == 4
        recipe = dataclasses.replace(BASE, **change)
        alone = experiment.experiment(SHAPE, recipe, [0, 1], tmp_path / "alone" / name, points=2)
        assert alone["parameters"] == result["parameters"] and alone["curves"].keys() == result["curves"].keys()
        assert "together" not in alone["provenance"]
        for kind in ("metrics", "curves"):
            for key, value in alone[kind].items():
                assert np.allclose(np.array(result[kind][key], float), np.array(value, float), atol=1e-3,
                                   equal_nan=True), key


def test_interrupted_runs_side_by_side_end_in_the_identical_results(tmp_path, monkeypatch):
    whole = results(tmp_path / "whole")
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    advance, left = Trainer.step, iter(range(4))
    with monkeypatch.context() as cut, pytest.raises(StopIteration):
        cut.setattr(Trainer, "step", lambda self: (next(left), advance(self))[1])
        results(tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [".rope.json.checkpoint"]
    continued = results(tmp_path / "cut")
    same = lambda one: {key: value for key, value in one.items() if key != "provenance"}
    assert [*map(same, continued)] == [*map(same, whole)]


def test_a_checkpoint_of_other_configurations_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    monkeypatch.setattr(metrics, "evaluate", lambda models: 1 / 0)
    recipes = {tmp_path / "rope.json": BASE, tmp_path / "b.json": dataclasses.replace(BASE, ema=0.5)}
    other = {**recipes, tmp_path / "b.json": dataclasses.replace(BASE, ema=0.6)}
    trainer = Trainer(SHAPE, tuple(recipes.values()), [0])
    identity = {"runs": "others"}
    training_state.save(tmp_path / ".rope.json.checkpoint", trainer.tensors(), identity, {"step": 1, "curves": {}})
    with pytest.raises(training_state.CheckpointError, match="runs"):
        experiment.side_by_side(SHAPE, other, [0])


def test_it_runs_on_another_device(tmp_path):
    with elsewhere():
        there = results(tmp_path / "there")
    here = results(tmp_path / "here")
    for a, b in zip(here, there, strict=True):
        assert np.allclose(a["metrics"]["forward_accuracy"], b["metrics"]["forward_accuracy"], atol=1e-3)


@pytest.mark.parametrize(("words", "message"), [
    (["width=32"], "'width' cannot differ side by side"), (["batch=60"], "'batch' cannot differ"),
    (["ema=2"], "'ema=2', value '2': ema must lie in"), (["ema=much"], "value 'much'"), (["ema"], "value ''"),
    (["ema=0,0"], "ema=0 comes twice"), (["learning_rate=0.001"], "comes twice, or is what the others have"),
    (["objective=autoregressive"], "does not fit causal=False"), (["draws=even"], "unknown draws"),
])
def test_the_command_line_refuses_what_cannot_vary_by_name(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        experiment.main(["--length", "4", "--width", "8", "--steps", "2", "--out", str(tmp_path / "a.json"),
                     "--vary", *words])
    assert message in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_the_command_records_each_and_refuses_snapshots(tmp_path, capsys):
    options = ["--length", "4", "--width", "8", "--steps", "2", "--batch", "8", "--seeds", "0", "--points", "1",
               "--out", str(tmp_path / "a.json"), "--vary", "clip=0.5"]
    experiment.main(options)
    assert json.loads((tmp_path / "a_clip_0.5.json").read_text())["parameters"]["clip"] == 0.5
    with pytest.raises(SystemExit):
        experiment.main([*options, "--snapshots", str(tmp_path / "kept")])
    assert "--snapshots keeps the weights of one run" in capsys.readouterr().err


# Interventions --------------------------------------------------------------------------------------------------


def interventions(out, settings=None, points=3, **recipe):
    recipe = {"steps": 40, "batch": 16, "warmup": 3, **recipe}
    return experiment.interventions_experiment(
        ModelConfig(**{**SMALL, "length": 3, **(settings or {})}), TrainingConfig(**recipe), [0, 3], out, points=points)


def test_a_result_holds_what_the_chapter_reads(tmp_path):
    result = interventions(tmp_path / "one.json", intervention="drop_random")
    assert provenance.load(tmp_path / "one.json") == result and result["experiment"] == "beyond"
    assert result["parameters"]["intervention"] == "drop_random"
    found, curves = result["metrics"], result["curves"]
    assert {"forward_accuracy", "reverse_accuracy", "reverse_accuracy_lowercase", "placeholder_share",
            "score_correlation", "gradient_cosine", "graft_score_forward_accuracy"} <= set(found)
    assert all(len(values) == 2 for values in found.values())
    assert found["reverse_accuracy"] == [run[-1] for run in curves["reverse_accuracy"]]
    assert curves["steps"] == experiment.measured_steps(40, 3)
    assert curves["first_order_steps"] == [0, 1, 30, 31, 35, 36]
    assert len(curves["first_order_adamw_realised"][1]) == 6
    assert len(curves["reverse_by_dose"][0]) == len(curves["dose"])
    assert len(curves["reverse_shares"][0]) == len(curves["quantile"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.json"]


def test_margins_of_the_parts_add_up_to_the_mean_margin(tmp_path):
    curves = interventions(tmp_path / "one.json")["curves"]
    deep = interventions(tmp_path / "two.json", {"depth": 2})["curves"]
    assert "margin_reverse_evidence" in curves and "margin_reverse_storage_routing" in deep
    assert "dose" not in deep
    run = Trainer(ModelConfig(length=3, width=8), TrainingConfig(steps=40, batch=16, warmup=3), [0, 3])
    model, asked = run.averaged().member(1), metrics.queries(run.settings)[1]
    logits = model(asked.tokens).logits[range(len(asked)), asked.position]
    margin = (logits[range(len(asked)), asked.target] - logits[:, 52]).mean()
    parts = [curves[name][1][0] for name in curves if name.startswith("margin_reverse_")]
    assert len(parts) == 5 and sum(parts) == pytest.approx(float(margin), abs=1e-5)


def test_interrupted_interventions_end_in_the_identical_result(tmp_path, monkeypatch, interrupted, content):
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    interventions(whole)
    monkeypatch.setattr(training_state, "SECONDS", 0.0)
    for stop in (1, 17, 9):  # interrupted at this step, counted from each start
        interrupted(stop, lambda: interventions(cut))
        assert checkpoint_of(cut).exists() and not cut.exists()
    interventions(cut)
    assert content(cut) == content(whole)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--intervention", "drop_all"], "drop_right_of_capital"),
    (["--objective", "autoregressive"], "masked questions"),
    (["--reversed-share", "2"], "--reversed-share must lie in"),
    (["--profile", "slow"], "none of quick, full"),
])
def test_the_command_line_of_interventions_refuses_by_name(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        experiment.main(["--measure", "interventions", *arguments, "--out", str(tmp_path / "x.json")])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_doses_and_shares_are_of_each_way():
    made = Ensemble.from_seeds(ModelConfig(length=4, width=8), [0, 1])
    made.parameters.add_(0.5 * torch.randn(made.parameters.shape, generator=torch.Generator().manual_seed(0)))
    curves = experiment.final_interventions(made)[1]
    for way, asked in zip(task.DIRECTIONS, task.paired_queries(4), strict=True):
        assert curves[f"{way}_by_dose"][1] == patching.accuracy_by_attention(made.member(1), asked)
        assert curves[f"{way}_shares"][1] == patching.attention_quantiles(made.member(1), asked)
