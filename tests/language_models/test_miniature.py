"""One small cell end to end: its path, its record, its interruption; and which cells are planned."""

import dataclasses
import re

import pytest
import torch

from lib.language_models import miniature, miniature_measures, miniature_sentences, objectives
from lib.language_models.facts import DATASETS
from lib.language_models.miniature_cell import MiniatureConfig, file_of, parameters_of, told_and_held
from lib.language_models.miniature_results import RecordedCells
from lib.record import provenance
from lib.record.training_state import Checkpoint

torch.set_num_threads(1)
SMALL = MiniatureConfig(steps=4, facts=4, held=3, epochs=2, seed=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrained")


# The cell ----------------------------------------------------------------------------------------------------


def test_cells_that_differ_in_fine_tuning_alone_share_their_pretraining():
    same = [{}, {"masking": "response"}, {"tuning": "lora"}, {"replay": 0.0}, {"dataset": "c2p"}]
    digests = lambda changes: {miniature._digest(MiniatureConfig(**change).pretraining()) for change in changes}
    assert len(digests(same)) == 1
    other = [{}, {"causal_steps": 9}, {"orders": "one"}, {"seed": 1}, {"architecture": "llama"}, {"dataset": "trex"},
             {"steps": 9}]
    assert len(digests(other)) == len(other)


def test_what_is_trained_on_has_the_form_and_what_is_asked_has_not(tmp_path, monkeypatch):
    """Fine-tuning sees the held-out sentences in their form, pretraining and replay the text in its own."""
    seen = {}

    def stop(model, tokenizer, data, config, **options):
        seen.update(data=data, replay=options["replay"])
        raise StopIteration

    def pretrain(config, text, tokenizer, **options):
        seen.update(text=text)
        return None, []

    monkeypatch.setattr(miniature.reversal_run, "run", stop)
    monkeypatch.setattr(miniature, "pretrain", pretrain)
    monkeypatch.setattr(miniature, "measured_before", lambda model, words, data, text: seen.update(asked=text) or {})
    cell = MiniatureConfig("llama", facts=4, held=3, epochs=10, form="permuted", told_form="infilled")
    with pytest.raises(StopIteration):
        miniature.run_cell(cell, tmp_path)
    data, text = told_and_held(cell)
    assert list(seen["data"].train) == miniature_sentences.shown_as(data.train, "permuted") != list(data.train)
    assert seen["data"].forward == data.forward and seen["data"].reverse == data.reverse
    assert seen["asked"] == text
    assert seen["text"] == seen["replay"] == miniature_sentences.shown_as(text, "infilled") != text


@pytest.mark.parametrize("part", miniature.MINIATURE_PARTS)
def test_one_cell_of_every_condition_runs(part, tmp_path, monkeypatch):
    """Every condition of a question, for a step or two; what it measures is a share."""
    monkeypatch.setattr(miniature_measures, "alignment", lambda *given: {})
    small = {"facts": 4, "held": 2, "epochs": 20, "steps": 1}
    for change in miniature.MINIATURE_PARTS[part]:
        found = miniature.run_cell(MiniatureConfig(**{**change, **small}), tmp_path)["metrics"]
        frames = {"wrong_frame", "wrong_frame_reverse"} if "wording" not in change else set()
        assert {name for name in found if "frame" in name} == frames
        asked = {"left_in_form", "reverse_in_form"} if change.get("form") in miniature_sentences.ASKED_FORMS else set()
        assert {name for name in found if name.endswith("in_form")} == asked
        shares = [value for name, value in found.items() if not name.startswith("probability")]
        assert len(shares) == 8 + len(frames) + len(asked) and all(0 <= value <= 100 for value in shares)


def test_held_facts_are_never_told(tmp_path, monkeypatch):
    """What pretraining and replay see holds no name of a held-out fact."""
    seen = {}

    def stop(model, tokenizer, data, config, **options):
        seen.update(data=data, replay=options["replay"])
        raise StopIteration

    monkeypatch.setattr(miniature.reversal_run, "run", stop)
    monkeypatch.setattr(miniature, "pretrain", lambda *given, **options: (None, []))
    monkeypatch.setattr(miniature, "measured_before", lambda *given: {})
    for dataset in DATASETS:
        with pytest.raises(StopIteration):
            miniature.run_cell(dataclasses.replace(SMALL, dataset=dataset, steps=1), tmp_path)
        names = {name for fact in seen["data"].facts for name in (fact.left, fact.right)}
        text = " ".join(example.prompt + example.completion for example in seen["replay"])
        assert names and not [name for name in names if name in text]


# The record --------------------------------------------------------------------------------------------------


def test_a_cell_is_recorded_found_again_and_not_run_twice(tmp_path, work, monkeypatch):
    folder = tmp_path / "results" / "miniature"
    for tuning in ("full", "lora"):
        miniature.record(dataclasses.replace(SMALL, tuning=tuning), folder / f"{tuning}.json", work)
    wanted = {"steps": 4, "facts": 4, "held": 3, "epochs": 2}
    cells = RecordedCells(tmp_path / "results").find(**wanted)
    assert list(cells) == [1] and 400_000 < cells[1]["parameters"]["size"] < 500_000
    assert RecordedCells(tmp_path / "results").find() == {}
    folder.with_name("miniature_again").mkdir()
    (folder.with_name("miniature_again") / "full.json").write_bytes((folder / "full.json").read_bytes())
    assert list(RecordedCells(tmp_path / "results", again=True).find(**wanted)) == [1]
    for metric in ("forward_accuracy", "reverse_accuracy", "told_accuracy", "kept_accuracy"):
        assert 0 <= RecordedCells(tmp_path / "results").metric(metric, **wanted)[0] <= 100
    with pytest.raises(ValueError, match="'size'"):
        RecordedCells(tmp_path / "results").find(size=3)
    monkeypatch.setattr(miniature, "run_cell", None)  # done: it is read
    assert miniature.record(SMALL, folder / "full.json", work)["seeds"] == [1]
    with pytest.raises(ValueError, match="masking"):
        miniature.record(dataclasses.replace(SMALL, masking="response"), folder / "full.json", work)
    with pytest.raises(ValueError, match="seeds"):
        miniature.record(dataclasses.replace(SMALL, seed=2), folder / "full.json", work)


def test_a_cell_recorded_before_a_parameter_was_there_had_its_standard_value(tmp_path, monkeypatch):
    older = {name: value for name, value in parameters_of(SMALL).items() if name != "causal_steps"}
    path = tmp_path / "miniature" / "a.json"
    provenance.save(path, experiment="miniature", parameters=older, seeds=[1], metrics={"told_accuracy": [3.0]},
                    curves={}, run=provenance.Run())
    wanted = {"steps": 4, "facts": 4, "held": 3, "epochs": 2}
    assert list(RecordedCells(tmp_path).find(**wanted)) == [1]
    assert RecordedCells(tmp_path).find(**wanted, causal_steps=5) == {}
    monkeypatch.setattr(miniature, "run_cell", None)  # it is read
    assert miniature.record(SMALL, path)["metrics"] == {"told_accuracy": [3.0]}
    with pytest.raises(ValueError, match="causal_steps=0, not 5"):
        miniature.record(dataclasses.replace(SMALL, causal_steps=5), path)


def test_an_interrupted_cell_goes_on_to_the_same_result(tmp_path, work, monkeypatch):
    cell = dataclasses.replace(SMALL, epochs=20)
    whole = miniature.run_cell(cell, work)
    checkpoint = tmp_path / "tuning.safetensors"
    monkeypatch.setattr(miniature.reversal_run, "answer_length", None)  # killed after fine-tuning, before the answers
    with pytest.raises(TypeError):
        miniature.run_cell(cell, work, checkpoint=Checkpoint(checkpoint, {}))
    assert checkpoint.exists()
    monkeypatch.undo()
    assert miniature.run_cell(cell, work, checkpoint=Checkpoint(checkpoint, {})) == whole


def test_from_the_command_line(tmp_path, work, capsys):
    out = tmp_path / "cell.json"
    small = ["--steps", "4", "--facts", "4", "--held", "3", "--epochs", "1", "--seed", "1", "--out", str(out)]
    with pytest.raises(SystemExit):
        miniature.main([*small, "--masking", "some"])
    assert "--masking: 'some' is none of response, any" in capsys.readouterr().err and not out.exists()
    kept = sorted(work.iterdir())
    miniature.main([*small, "--work", "none"])
    said = capsys.readouterr()
    assert "pretraining: step 4 of 4" in said.err and "cell forward_accuracy" in said.out
    assert provenance.load(out)["provenance"]["commit"] and sorted(work.iterdir()) == kept
    with pytest.raises(SystemExit):
        miniature.main([*small, "--epochs", "2", "--work", str(work)])
    assert "holds a result with epochs=1, not 2" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "message"), [
    (["--replay", "0.999"], "--replay 0.999 leaves no room in a batch of 32"), (["--replay", "1"], "--replay must lie"),
    (["--seed", str(2**64)], f"--seed: '{2**64}' is too large: integers lie below 2^63"),
    (["--work", "file"], "--work: file cannot"),
    (["--work", "file/work"], "--work: file/work cannot be written to"),
    (["--out", "file/x.json"], "--out: file cannot"),
    (["--rank", "0", "--tuning", "lora"], "--rank must be at least 1"),
    (["--learning-rate", "inf"], "--learning-rate must lie in"), (["--folder", "table"], "give one of the two"),
    (["--seeds", "0"], "--seeds must be at least 1"),
    (["--part", "sweep"], "--part sweep is of the cells that --folder"),
    (["--part", "sweeps"], "--part: 'sweeps' is none of all, standard, first_entity"),
    (["--form", "infilled"], "--form: 'infilled' asks an autoregressive model"),
    (["--name-length", "3"], "--name-length must be 1, 2 or 4, not 3"),
    (["extra"], "'extra' belongs to no option"), (["--held", "4000"], "stock: 60 words of each kind make 3600 names")])
def test_what_cannot_be_is_refused_before_anything_is_pretrained(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(miniature, "pretrain", lambda *_, **__: pytest.fail("a model was pretrained"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        miniature.main(["--out", "x.json", "--work", "work", *options])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and len(said.splitlines()) == 1 and message in said, said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_that_diverges_leaves_no_result(tmp_path, capsys):
    small = ["--steps", "4", "--facts", "4", "--held", "3", "--epochs", "3", "--learning-rate", "1e30", "--replay", "0",
             "--tuning", "lora"]
    with pytest.raises(SystemExit) as ended:
        miniature.main([*small, "--out", str(tmp_path / "x.json"), "--work", str(tmp_path / "work")])
    assert ended.value.code == 1 and "the run has diverged" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x.json").exists()


# The table ---------------------------------------------------------------------------------------------------


def test_the_plan_names_every_cell_once_and_what_the_claims_need():
    cells = list(miniature.plan())
    assert len({file_of(cell) for cell in cells}) == len(cells)
    planned = set(cells)
    seeds_of = lambda name, **change: {
        seed for seed in range(6) if MiniatureConfig(name, seed=seed, **change) in planned}
    for name in ("llada", "dream", "llama", "qwen2", "qwen3_5"):
        assert all(seeds_of(name, dataset=dataset) == set(range(5)) for dataset in DATASETS)
    tuned = {"tuning": "lora", "learning_rate": 2e-3}
    pairs = [{**tuned, "replay": 0.0}, {**tuned, "masking": "response"}, {"replay": 0.0, "masking": "response"},
             {**tuned, "replay": 0.0, "masking": "response"}, {"orders": "one", "masking": "response"}]
    for change in (*miniature.CONDITIONS.values(), *pairs):
        assert all(seeds_of(name, **change) == set(range(5)) for name in ("llada", "llama"))
    for starts in miniature.STARTS.values():
        assert all(seeds_of("dream", **start) == set(range(5)) for start in starts.values())
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    for part, changes in miniature.MINIATURE_PARTS.items():
        asked = list(miniature.plan(2, part))
        assert asked == [MiniatureConfig(seed=seed, **change) for seed in range(2) for change in changes]
        assert set(asked) <= planned
    parts = [cell for part in ("standard", *miniature.MINIATURE_PARTS) for cell in miniature.plan(5, part)]
    assert sorted(map(file_of, parts)) == sorted(map(file_of, cells))
    assert {cell.masking for cell in miniature.plan(1, "sweep")} == set(objectives.PART_MASKING)


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    done = []

    def record(cell, path, work):
        if cell.architecture == "llama":
            raise RuntimeError("out of luck")
        done.append(path.name)

    monkeypatch.setattr(miniature, "record", record)
    with pytest.raises(SystemExit):
        miniature.main(["--folder", str(tmp_path), "--seeds", "1", "--work", str(tmp_path / "work")])
    said = capsys.readouterr().err
    assert re.search(r"\d+ cells failed, llama_p2c_both_full_any_replay_0\.json the first of them$", said.strip())
    assert "llama_p2c_both_full_any_replay_0.json failed" in said and "out of luck" in said
    assert "dream_p2c_both_full_any_replay_0.json" in done
