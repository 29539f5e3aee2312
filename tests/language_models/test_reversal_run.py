"""One cell of Table 7 from the command line: its options, its files, and what it leaves alone."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from lib.language_models import checkpoints, reversal_run, synthetic_facts

torch.set_num_threads(1)
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
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


@pytest.mark.parametrize("data", ["generated", "published"])
def test_three_hundred_rows_of_parent_child_from_end_to_end(tmp_path, monkeypatch, data):
    if data == "published" and not PUBLISHED.exists():
        pytest.skip("needs the published files, which are not distributed")
    for path in PUBLISHED.rglob("*.*"):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.setenv("REVERSAL_CURSE_CACHE", str(tmp_path))
    folder = checkpoints.tiny(tmp_path / "model", "llada", width=16, heads=2)
    output = tmp_path / "cell.json"
    reversal_run.main(["--model", str(folder), "--data", data, "--facts", "300", "--epochs", "1", "--batch", "30",
                       "--rank", "2", "--masking", "any", "--replay", "0.5", "--evaluated", "40",
                       "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["parameters"]["facts"] == 300 and result["parameters"]["data"] == data
    assert len(result["curves"]["loss"]) == 20  # half of each batch is replayed
    assert result["curves"]["step"][-1] == 20 and len(result["curves"]["probability_forward"]) >= 10
    assert all(0 <= value[0] <= 100 for value in result["metrics"].values())
    trained = reversal_run.dataset_of("p2c", data, 300, 0)
    assert len(trained.train) == 300 and len(trained.reverse) < 300  # some children have two parents here
    if data == "published":
        assert any(len(example.answers) == 2 for example in trained.reverse)


def test_text_to_replay_is_read_from_a_file_or_generated_apart(tmp_path):
    (tmp_path / "text").write_text("One line.\n\nAnother line.\n")
    assert [example.completion for example in reversal_run.replayed(tmp_path / "text", 0)] == [
        "One line.", "Another line."]
    trained = {word for fact in synthetic_facts.world(100, 3).p2c.facts for word in (fact.left + " " + fact.right).split()}
    generated = " ".join(example.completion for example in reversal_run.replayed(None, 3))
    assert len(generated) > 1000 and trained.isdisjoint(generated.replace("'s", "").replace(".", "").split())
    (tmp_path / "text").write_text("\n")
    with pytest.raises(ValueError, match="no text to replay"):
        reversal_run.replayed(tmp_path / "text", 0)


@pytest.mark.parametrize(("options", "message"), [
    (["--evaluated", "0"], "--evaluated must be at least 1, not 0"), (["--every", "0"], "--every must be at least 1"),
    (["--facts", "-1"], "--facts must be at least 0"), (["--clip", "0"], "clip must be positive"),
    (["--dropout", "1.5"], "dropout must be a share"), (["--seed", "-1"], "seed must be at least 0"),
    (["--epoch", "3"], "unrecognized arguments: --epoch 3"), (["--output", "result"], "name one that ends in .json"),
    (["--device", "gpu"], "--device 'gpu' is none of auto, cpu, cuda"),
    (["--device", "cuda:99"], "--device 'cuda:99': torch sees"), (["--text", "nowhere", "--replay", "0.5"], "nowhere"),
    (["--output", "file/x.json"], "--output: .*file cannot be written to"),
    (["--output", "folder.json"], "folder.json is a folder"), (["--work", "file"], "--work: file cannot be written")])
def test_options_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        reversal_run.main([*SHORT, "--output", "x.json", *options])
    said = capsys.readouterr().err + str(ended.value)
    assert re.search(message, said), said
    assert sorted(path.name for path in tmp_path.iterdir()) in (["file", "folder.json"], ["file", "folder.json", "x"])


def test_a_finished_run_is_left_alone_and_never_overwritten(tmp_path, monkeypatch, capsys):
    command = [*SHORT, "--rank", "2", "--output", str(tmp_path / "cell_0.5.json")]
    reversal_run.main(command)
    written = (tmp_path / "cell_0.5.json").read_bytes()
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the model was loaded"))
    reversal_run.main(command)
    assert "cell_0.5.json: this run is done, and its result stays" in capsys.readouterr().out
    for change, message in ((["--epochs", "2"], "epochs=1, not 2"), (["--dtype", "bfloat16"], "dtype='float32', not"),
                            (["--facts", "3"], "facts=2, not 3"), (["--evaluated", "1"], "evaluated=300, not 1")):
        with pytest.raises(SystemExit, match=f"holds a run with {message}"):
            reversal_run.main([*command, *change])
    (tmp_path / "cell_0.5.json").write_text("{")
    with pytest.raises(SystemExit, match=r"cell_0\.5\.json: not a whole JSON file"):
        reversal_run.main(command)
    assert json.loads(written)["parameters"]["scoring"] == "exact"


def test_names_with_a_dot_keep_checkpoints_apart(tmp_path):
    places = [reversal_run.OutputPaths.of(reversal_run.parsed([*SHORT, "--output", str(tmp_path / f"cell_0.{digit}.json")]))
              for digit in (5, 7)]
    assert [files.checkpoint.name for files in places] == [
        "cell_0.5.unfinished.safetensors", "cell_0.7.unfinished.safetensors"]
    assert [files.adapters.name for files in places] == ["cell_0.5", "cell_0.7"]


def test_a_model_trained_as_a_whole_is_kept_as_a_checkpoint(tmp_path):
    folder = checkpoints.tiny(tmp_path / "model", "llada", width=32)
    command = ["--model", str(folder), *SHORT[2:], "--rank", "0", "--learning-rate", "0.01",
               "--output", str(tmp_path / "cell.json")]
    reversal_run.main(command)
    before, after = checkpoints.load(folder)[0], checkpoints.load(tmp_path / "cell" / "weights")[0]
    moved = [not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    (tmp_path / "cell.json").unlink()
    with pytest.raises(SystemExit, match="weights is there already, from another run; move it away"):
        reversal_run.main(command)
