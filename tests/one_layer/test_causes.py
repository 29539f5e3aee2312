"""The recorded experiment: what it holds, and that an interruption leaves no trace in it."""


import pytest
import torch

from lib.one_layer import causes, patching, task, training
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import Trainer, TrainingConfig
from lib.record import provenance

SMALL = {"length": 3, "width": 8}


def experiment(out, settings=None, points=3, **recipe):
    recipe = {"steps": 40, "batch": 16, "warmup": 3, **recipe}
    return causes.experiment(ModelConfig(**SMALL, **(settings or {})), TrainingConfig(**recipe), [0, 3], out, points=points)


def test_a_result_holds_what_the_chapter_reads(tmp_path):
    result = experiment(tmp_path / "one.json", intervention="drop_random")
    assert provenance.load(tmp_path / "one.json") == result and result["experiment"] == "beyond"
    assert result["parameters"]["intervention"] == "drop_random"
    metrics, curves = result["metrics"], result["curves"]
    assert {"forward_accuracy", "reverse_accuracy", "reverse_accuracy_lowercase", "placeholder_share",
            "score_correlation", "gradient_cosine", "graft_score_forward_accuracy"} <= set(metrics)
    assert all(len(values) == 2 for values in metrics.values())
    assert metrics["reverse_accuracy"] == [run[-1] for run in curves["reverse_accuracy"]]
    assert curves["steps"] == training.measured_steps(40, 3)
    assert curves["first_order_steps"] == [0, 1, 30, 31, 35, 36]
    assert len(curves["first_order_adamw_realised"][1]) == 6
    assert len(curves["reverse_by_dose"][0]) == len(curves["dose"])
    assert len(curves["reverse_shares"][0]) == len(curves["quantile"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.json"]


def test_margins_of_the_parts_add_up_to_the_mean_margin(tmp_path):
    curves = experiment(tmp_path / "one.json")["curves"]
    deep = experiment(tmp_path / "two.json", {"depth": 2})["curves"]
    assert "margin_reverse_evidence" in curves and "margin_reverse_storage_routing" in deep
    assert "dose" not in deep
    run = Trainer(ModelConfig(**SMALL), TrainingConfig(steps=40, batch=16, warmup=3), [0, 3])
    model, asked = run.averaged().member(1), causes.metrics_module.queries(run.settings)[1]
    logits = model(asked.tokens).logits[range(len(asked)), asked.position]
    margin = (logits[range(len(asked)), asked.target] - logits[:, 52]).mean()
    parts = [curves[name][1][0] for name in curves if name.startswith("margin_reverse_")]
    assert len(parts) == 5 and sum(parts) == pytest.approx(float(margin), abs=1e-5)


def test_an_interrupted_run_ends_in_the_identical_result(tmp_path, monkeypatch, interrupted, content):
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    experiment(whole)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    for stop in (1, 17, 9):  # interrupted at this step, counted from each start
        interrupted(stop, lambda: experiment(cut))
        assert training.checkpoint_path(cut).exists() and not cut.exists()
    experiment(cut)
    assert content(cut) == content(whole)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--intervention", "drop_all"], "drop_right_of_capital"),
    (["--objective", "autoregressive"], "masked questions"),
    (["--reversed-share", "2"], "reversed_share must lie in"),
    (["--profile", "slow"], "'quick', 'full'"),
])
def test_the_command_line_refuses_by_name(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        causes.main([*arguments, "--out", str(tmp_path / "x.json")])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_doses_and_shares_are_of_each_way():
    made = Ensemble.from_seeds(ModelConfig(length=4, width=8), [0, 1])
    made.flat.add_(0.5 * torch.randn(made.flat.shape, generator=torch.Generator().manual_seed(0)))
    curves = causes.final(made)[1]
    for way, asked in zip(task.WAYS, task.paired_queries(4), strict=True):
        assert curves[f"{way}_by_dose"][1] == patching.doses(made.member(1), asked)
        assert curves[f"{way}_shares"][1] == patching.shares(made.member(1), asked)
