"""One cell of Table 7 from the command line: its options, its files, and what it leaves alone."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.language_models import (
    checkpoints,
    fact_sources,
    facts,
    queries,
    random_checkpoints,
    reversal_run,
    signatures,
    synthetic_facts,
)
from lib.language_models.facts import CHILD_OF
from lib.language_models.finetuning import FineTuningConfig

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "data"
SHORT = ["--model", "tiny:llada", "--data", "generated", "--facts", "2", "--epochs", "1", "--batch", "2"]


def test_one_cell_from_the_command_line(tmp_path, capsys):
    output = tmp_path / "cell.json"
    reversal_run.main(["--model", "tiny:dream", "--data", "generated", "--facts", "2", "--epochs", "2", "--batch", "2",
                       "--rank", "2", "--masking", "any", "--replay", "0", "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["parameters"]["masking"] == "any" and result["parameters"]["architecture"] == "dream"
    assert set(result["metrics"]) == {"forward_accuracy", "reverse_accuracy"}
    assert len(result["curves"]["loss"]) == result["curves"]["step"][-1] == 2  # one batch an epoch
    assert len(result["curves"]["probability_reverse"]) == len(result["curves"]["step"])
    assert (tmp_path / "cell" / "adapter_model.safetensors").exists() and not list(tmp_path.glob("*.safetensors"))
    assert "forward_accuracy" in capsys.readouterr().out


def test_the_watched_facts_have_the_lead_that_is_asked_for(tmp_path):
    """Their probabilities after a step that changes nothing are those of the same sentences, asked directly."""
    model, tokenizer = checkpoints.load(random_checkpoints.tiny(tmp_path / "model", "llada", width=16, scale=0.2))
    families = synthetic_facts.world(3).p2c.facts
    config = FineTuningConfig(rank=2, epochs=1, batch=8, learning_rate=1e-12)
    spaced, plain = (facts.dataset("p2c", relation, families) for relation in (CHILD_OF.after_space(), CHILD_OF))
    found = {}
    for data, told in ((spaced, {"lead": ""}), (plain, {}), (plain, {"lead": "Say:"})):
        lead = told.get("lead", queries.LEAD)
        pairs = [queries.encoded_pair(data, fact, tokenizer, lead=lead) for fact in families[:2]]
        _, curves, _ = reversal_run.run(copy.deepcopy(model), tokenizer, data, config, watched=2, evaluated=1, **told)
        for direction, asked in zip(("forward", "reverse"), zip(*pairs, strict=True), strict=True):
            expected = signatures.target_probability(model, queries.batch(asked)).mean()
            assert curves[f"probability_{direction}"] == pytest.approx([float(expected)], rel=1e-4)
            found[lead, direction] = float(expected)
    assert len({f"{value:.3g}" for value in found.values()}) == 6
    with pytest.raises(ValueError, match="the target has other tokens in reverse; give a lead"):
        reversal_run.run(model, tokenizer, plain, config, lead="")


@pytest.mark.parametrize("data", ["generated", "published"])
def test_three_hundred_rows_of_parent_child_from_end_to_end(tmp_path, monkeypatch, data):
    if data == "published" and not PUBLISHED.exists():
        pytest.skip("needs the published files, which are not distributed")
    for path in PUBLISHED.rglob("*.*"):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.setenv("REVERSAL_CURSE_CACHE", str(tmp_path))
    folder = random_checkpoints.tiny(tmp_path / "model", "llada", width=16, heads=2)
    output = tmp_path / "cell.json"
    reversal_run.main(["--model", str(folder), "--data", data, "--facts", "300", "--epochs", "1", "--batch", "30",
                       "--rank", "2", "--masking", "any", "--replay", "0.5", "--evaluated", "40",
                       "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["parameters"]["facts"] == 300 and result["parameters"]["data"] == data
    assert len(result["curves"]["loss"]) == 20  # half of each batch is replayed
    assert result["curves"]["step"][-1] == 20 and len(result["curves"]["probability_forward"]) >= 10
    assert all(0 <= value[0] <= 100 for value in result["metrics"].values())
    trained = fact_sources.dataset_of("p2c", data, 300, 0)
    assert len(trained.train) == 300 and len(trained.reverse) < 300  # some children have two parents here
    if data == "published":
        assert any(len(example.answers) == 2 for example in trained.reverse)


def test_text_to_replay_is_read_from_a_file_or_generated_apart(tmp_path):
    (tmp_path / "text").write_text("One line.\n\nAnother line.\n")
    assert [example.completion for example in reversal_run.replay_examples(tmp_path / "text", 0)] == [
        "One line.", "Another line."]
    facts = synthetic_facts.world(100, 3).p2c.facts
    trained = {word for fact in facts for word in (fact.left + " " + fact.right).split()}
    generated = " ".join(example.completion for example in reversal_run.replay_examples(None, 3))
    assert len(generated) > 1000 and trained.isdisjoint(generated.replace("'s", "").replace(".", "").split())
    (tmp_path / "text").write_text("\n")
    with pytest.raises(ValueError, match="no text to replay"):
        reversal_run.replay_examples(tmp_path / "text", 0)


@pytest.mark.parametrize(("options", "message"), [
    (["--evaluated", "0"], "--evaluated must be at least 1, not 0"), (["--every", "0"], "--every must be at least 1"),
    (["--facts", "-1"], "--facts must be at least 0"), (["--clip", "0"], r"--clip must lie in \(0, inf\), not 0\.0"),
    (["--dropout", "1.5"], r"--dropout must lie in \[0, 1\), not 1\.5"),
    (["--seed", "-1"], "--seed must be at least 0, not -1"),
    (["--epoch", "3"], "there is no option --epoch; did you mean --epochs"),
    (["--output", "result"], "name one that ends in .json"),
    (["--device", "gpu"], "--device 'gpu' is none of auto, cpu, cuda"),
    (["--device", "cuda:99"], "--device 'cuda:99': torch sees"), (["--text", "nowhere", "--replay", "0.5"], "nowhere"),
    (["--output", "file/x.json"], "--out: file cannot be written to"),
    (["--output", "folder.json"], "folder.json is a folder"), (["--work", "file"], "--work: file cannot be written"),
    (["--clip", "inf"], r"--clip must lie in"),
    (["--seed", str(2**64)], r"--seed: .18446744073709551616. is too large: integers lie below 2\^63"),
    (["--batch", "10000000"], "--batch: 10000000 examples a step"), (["word"], "'word' belongs to no option"),
    (["--replay", "0.9"], "--replay 0.9 leaves no room in a batch of 2"),
    (["--epochs", "3.5"], "'3.5' is not an integer")])
def test_options_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        reversal_run.main([*SHORT, "--output", "x.json", *options])
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert ended.value.code in (1, 2) and len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]


def test_a_finished_run_is_left_alone_and_never_overwritten(tmp_path, monkeypatch, capsys):
    command = [*SHORT, "--rank", "2", "--output", str(tmp_path / "cell_0.5.json")]
    reversal_run.main(command)
    written = (tmp_path / "cell_0.5.json").read_bytes()
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the model was loaded"))
    reversal_run.main(command)
    assert "cell_0.5.json: this run is done, and its result stays" in capsys.readouterr().out
    for change, message in ((["--epochs", "2"], "epochs=1, not 2"), (["--dtype", "bfloat16"], "dtype='float32', not"),
                            (["--facts", "3"], "facts=2, not 3"), (["--evaluated", "1"], "evaluated=300, not 1")):
        with pytest.raises(SystemExit):
            reversal_run.main([*command, *change])
        assert f"holds a result with {message}" in capsys.readouterr().err
    (tmp_path / "cell_0.5.json").write_text("{")
    with pytest.raises(SystemExit):
        reversal_run.main(command)
    assert "cell_0.5.json: not a whole JSON file" in capsys.readouterr().err
    assert json.loads(written)["parameters"]["scoring"] == "exact"


def test_names_with_a_dot_keep_checkpoints_apart(tmp_path):
    outputs = [tmp_path / f"cell_0.{digit}.json" for digit in (5, 7)]
    places = [reversal_run.OutputPaths.of(reversal_run.parsed([*SHORT, "--output", str(each)])) for each in outputs]
    assert [files.checkpoint.name for files in places] == [
        "cell_0.5.unfinished.safetensors", "cell_0.7.unfinished.safetensors"]
    assert [files.adapters.name for files in places] == ["cell_0.5", "cell_0.7"]


def test_a_model_trained_as_a_whole_is_kept_as_a_checkpoint(tmp_path, capsys):
    folder = random_checkpoints.tiny(tmp_path / "model", "llada", width=32)
    command = ["--model", str(folder), *SHORT[2:], "--rank", "0", "--learning-rate", "0.01",
               "--output", str(tmp_path / "cell.json")]
    reversal_run.main(command)
    before, after = checkpoints.load(folder)[0], checkpoints.load(tmp_path / "cell" / "weights")[0]
    moved = [not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    (tmp_path / "cell.json").unlink()
    with pytest.raises(SystemExit):
        reversal_run.main(command)
    assert "weights is there already, from another run; move it away" in capsys.readouterr().err


@pytest.mark.parametrize(("model", "message"), [
    ("tiny:gpt2", "gpt2"), ("nowhere/at-all", "nowhere/at-all"), ("empty", "config.json"), ("broken", "config.json"),
    ("file", "file"), ("", "--model must be")])
def test_a_model_that_cannot_be_read_ends_with_one_line_and_leaves_nothing(tmp_path, model, message):
    """In a process of its own: what a reader sees is all of stderr."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "lib.language_models.reversal_run", "--model", model, *SHORT[2:]]
    done = subprocess.run([*command, "--out", "new/x.json"], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("rank", "epochs"), [("0", "3"), ("2", "1"), ("2", "3")])
def test_a_run_that_diverges_ends_with_one_line_and_leaves_nothing(tmp_path, capsys, rank, epochs):
    """With one epoch the loss, taken before the only step, is finite: the weights after it are what is useless."""
    with pytest.raises(SystemExit) as ended:
        reversal_run.main([*SHORT, "--epochs", epochs, "--rank", rank, "--learning-rate", "1e38", "--dtype", "float32",
                           "--out", str(tmp_path / "new" / "x.json")])
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"step \d: the run has diverged \(.*\); lower learning_rate", last)
    assert not list(tmp_path.iterdir())


def test_a_rank_above_every_dimension_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        reversal_run.main([*SHORT, "--rank", str(10**12), "--out", str(tmp_path / "x.json")])
    assert f"rank {10**12} is above the largest dimension of this model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
