"""A small model is turned into a masked one from the command line: beside its twin, interrupted, resumed, refused."""

import json
import re
import shutil

import pytest
import small_pretrained
import torch

from lib.language_models import adaptation, checkpoints, finetuning, objectives, pretrained, queries
from lib.language_models.training_loop import TrainingRun

torch.set_num_threads(1)
FEW = ["--data", "generated", "--invented", "2", "--prose", "6", "--epochs", "2", "--batch", "8", "--every", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_pretrained.made(tmp_path_factory.mktemp("adaptation") / "model")


@pytest.fixture(autouse=True)
def small(checkpoint, monkeypatch, tmp_path):
    small_pretrained.take_the_place(monkeypatch, checkpoint)
    monkeypatch.setattr(adaptation, "WORK", tmp_path / "work")


def adapt(folder, *options):
    adaptation.main([*FEW, "--out", str(folder / "run.json"), "--weights", str(folder / "weights"), *options])


# The run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rank", "opening"), [
    ("masked", "0", "0"), ("autoregressive", "2", "0"), ("masked", "2", "0"), ("masked", "2", "1")])
def test_a_run_that_is_interrupted_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys, content, kind, rank, opening):
    options = ["--kind", kind, "--rank", rank, "--learning-rate", "0.01", "--opening", opening]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    adapt(whole, *options)
    step = TrainingRun.step

    def killed(run):
        if len(run.losses) == 3:
            raise KeyboardInterrupt
        return step(run)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(TrainingRun, "step", killed)
        adapt(parts, *options)
    assert (parts / ".run.json.checkpoint").exists() and not adaptation.is_trained(parts / "weights")
    made = []
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "step", lambda run: made.append(len(run.losses)) or step(run))
        adapt(parts, *options)
    assert made and made[0] == 2
    assert content(parts / "run.json") == content(whole / "run.json")
    files = {path.relative_to(whole) for path in whole.rglob("*.safetensors")}
    assert files == {path.relative_to(parts) for path in parts.rglob("*.safetensors")} and files
    assert all((whole / name).read_bytes() == (parts / name).read_bytes() for name in files)
    assert sorted(path.name for path in parts.iterdir()) == ["run.json", "weights"]

    result = json.loads((whole / "run.json").read_text())
    told = adaptation.families.families("generated", None, 2)
    assert result["parameters"]["sentences"] == 2 * (len(told.told) + 2)
    asked = adaptation.parsed_adaptation([*FEW, "--out", "x.json"]).training
    steps = finetuning.step_count(result["parameters"]["sentences"], asked)
    assert len(result["curves"]["loss"]) == steps == made[-1] + 1
    model, tokenizer = pretrained.load(kind, adapter=whole / "weights")
    assert queries.is_causal(model) == (kind == "autoregressive") == (tokenizer.mask_token_id is None)
    start = dict(pretrained.load()[0].named_parameters())
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, start[name])}
    assert moved and (rank == "0") == ("model.embed_tokens.weight" in moved)


def test_the_twins_are_told_the_same_sentences_in_the_same_order(tmp_path, monkeypatch):
    seen = {}
    loss = objectives.batch_loss

    def noted(model, given, mask, masking, rng):
        assert (mask is None) == queries.is_causal(model) == now.startswith("autoregressive") and masking == "entity"
        seen.setdefault(now, []).append([tuple(row[shown].tolist()) for row, shown in zip(*given[::3], strict=True)])
        return loss(model, given, mask, masking, rng)

    monkeypatch.setattr(objectives, "batch_loss", noted)
    results = {}
    for now, options in {"masked": [], "autoregressive": [], "autoregressive again": ["--seed", "1"]}.items():
        adapt(tmp_path / now, "--kind", now.split()[0], *options)
        results[now] = json.loads((tmp_path / now / "run.json").read_text())
    assert seen["masked"] == seen["autoregressive"] != seen["autoregressive again"]
    told = {key: [results[kind]["parameters"][key] for kind in results] for key in ("told", "prose_text", "size")}
    assert all(len(set(values)) == 1 for values in told.values())
    assert results["masked"]["curves"]["loss"] != results["autoregressive"]["curves"]["loss"]

    model, tokenizer = pretrained.load()
    options = adaptation.parsed_adaptation([*FEW, "--out", "x.json"])
    sentences, prose = adaptation.adaptation_text(options, model, tokenizer)
    own, other = ([row.ids for row in objectives.sentences(text, tokenizer)] for text in (sentences, prose))
    rows = [row for batch in seen["masked"] for row in batch]
    assert sum(rows.count(row) for row in own) == 7 * len(seen["masked"])  # of 8 in a batch
    assert {rows.count(row) for row in own} <= {2, 3}  # once an epoch; the last batch may begin another
    assert {*rows} - {*own} and {*rows} - {*own} <= {*other}


def test_a_result_that_is_there_stays_if_its_weights_do(tmp_path, monkeypatch, capsys):
    adapt(tmp_path, "--rank", "2")
    written = (tmp_path / "run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "load", lambda *_, **__: pytest.fail("the model was loaded"))
        adapt(tmp_path, "--rank", "2")
        assert "run.json: this run is done, and its result stays" in capsys.readouterr().out
        for change, message in ((["--prose", "7"], "prose=6, not 7"), (["--seed", "2"], "seeds="),
                                (["--kind", "autoregressive"], "kind='masked', not 'autoregressive'"),
                                (["--cooling", "0.1"], "cooling=0.3, not 0.1")):
            with pytest.raises(SystemExit) as ended:
                adapt(tmp_path, "--rank", "2", *change)
            assert ended.value.code == 2 and f"holds a result with {message}" in capsys.readouterr().err
    assert (tmp_path / "run.json").read_bytes() == written
    weights = (tmp_path / "weights" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "weights")
    adapt(tmp_path, "--rank", "2")
    assert (tmp_path / "weights" / "adapter_model.safetensors").read_bytes() == weights


def test_what_another_run_has_trained_is_not_written_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(pretrained, "load", lambda *_, **__: pytest.fail("the model was loaded"))
        adapt(tmp_path, "--rank", "0")
    assert ended.value.code == 2
    assert re.search(r"--weights: .*weights holds what another run .*; move it away", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    shutil.rmtree(tmp_path / "weights")
    # weights of this very run, which was interrupted before its result was written
    save = checkpoints.save

    def killed(*given):
        save(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(checkpoints, "save", killed)
        adapt(tmp_path, "--rank", "0")
    assert adaptation.is_trained(tmp_path / "weights") and not (tmp_path / "run.json").exists()
    adapt(tmp_path, "--rank", "0")
    assert (tmp_path / "run.json").exists() and not (tmp_path / ".run.json.checkpoint").exists()


def test_weights_of_a_kind_are_made_once(tmp_path, monkeypatch):
    made = []

    def adapt(options):
        made.append((options.kind, options.device, options.out, options.folder, options.training))
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "config.json").touch()

    monkeypatch.setattr(adaptation, "adapt", adapt)
    work = tmp_path / "work"
    (work / "masked").mkdir(parents=True)  # of a run that was killed
    for kind in ("masked", "autoregressive", "masked"):
        assert adaptation.weights_of(kind) == work / kind
    assert made == [(kind, "cpu", work / f"adaptation_{kind}.json", work / kind, adaptation.ADAPTATION_TRAINING)
                    for kind in ("masked", "autoregressive")]


def test_weights_of_another_conversion_lie_beside(tmp_path, monkeypatch):
    made = []

    def adapt(options):
        made.append(options)
        options.folder.mkdir(parents=True)
        (options.folder / "config.json").touch()

    monkeypatch.setattr(adaptation, "adapt", adapt)
    for name in adaptation.CONVERSIONS:
        expected = "masked" if name == "standard" else f"masked_{name}"
        assert adaptation.weights_of("masked", conversion=name) == tmp_path / "work" / expected
    standard, *others = made
    for asked in others:
        assert asked.training.epochs == 16 < standard.training.epochs and asked.out != standard.out
    assert len({(asked.training.masking, asked.opening, asked.training.rank) for asked in others}) == len(others)


def test_attention_opens_along_the_first_part_of_the_steps(tmp_path, monkeypatch):
    seen = []
    before = adaptation.AttentionOpening.before
    monkeypatch.setattr(adaptation.AttentionOpening, "before", lambda self, step: (
        seen.append((step, self.steps)), before(self, step)))
    losses = {}
    for opening in ("0", "0.5"):
        adapt(tmp_path / opening, "--rank", "2", "--opening", opening)
        losses[opening] = json.loads((tmp_path / opening / "run.json").read_text())
    count = len(losses["0"]["curves"]["loss"])
    assert [step for step, _ in seen] == [*range(count)] * 2
    assert {steps for _, steps in seen[:count]} == {0} and {steps for _, steps in seen[count:]} == {round(count / 2)}
    assert losses["0"]["curves"]["loss"] != losses["0.5"]["curves"]["loss"]
    assert "opening" not in losses["0"]["parameters"] and losses["0.5"]["parameters"]["opening"] == 0.5


@pytest.mark.parametrize(("options", "message"), [
    (["--opening", "2"], r"--opening must lie in \[0, 1\]"),
    (["--kind", "autoregressive", "--opening", "0.5"], "opening: a model of kind 'autoregressive' keeps its"),
    (["--kind", "published"], "--kind: 'published' is none of masked, autoregressive"),
    (["--data", "other"], "--data: 'other' is none of published, generated"),
    (["--prose", "0"], "--prose must be at least 1"), (["--invented", "-1"], "--invented must be at least 0"),
    (["--every", "0"], "--every must be at least 1"), (["--cooling", "2"], r"--cooling must lie in \[0, 1\]"),
    (["--masking", "all"], "--masking: 'all' is none of response, any, entity"),
    (["--out", "run"], "name one that ends in .json"), (["--device", "gpu"], "--device 'gpu' is none of auto, cpu"),
    (["--replay", "0.99"], "--replay 0.99 leaves no room"), (["--weight", "x"], "did you mean --weights"),
    (["--weights", "file"], "--weights: file cannot be written to"),
    (["--invented", "9999"], "invented: 9999 pairs are more than")])
def test_options_that_cannot_be_are_named(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(TrainingRun, "step", lambda run: pytest.fail("training has begun"))
    with pytest.raises(SystemExit) as ended:
        adaptation.main([*FEW, "--out", "run.json", *options])
    said = capsys.readouterr().err.splitlines()
    assert re.search(message, said[-1]), said
    assert ended.value.code in (1, 2) and [path.name for path in tmp_path.iterdir()] == ["file"]
