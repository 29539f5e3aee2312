"""The sweep: every cell's command is one that runs, failures stay alone, and the page's table is what is there."""

import dataclasses
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.language_models import facts as facts_module
from lib.language_models import published_facts, reversal_run, table_7
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.objectives import MASKING
from lib.record import provenance

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "data"
TINY = {"models": {"broken": "tiny:gpt2", "llada": "tiny:llada", "llama": "tiny:llama"}, "datasets": ["p2c"],
        "seeds": [0], "data": "generated", "device": "cpu", "dtype": "float32",
        "options": "--facts 2 --epochs 1 --batch 2 --rank 2", "folder": "results/language_models", "work": "the work"}


def snakemake(at, profile, *options, **config):
    words = [f"{name}={json.dumps(value)}" for name, value in config.items()]
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "sweep.smk"),
               "--profile", str(ROOT / "profiles" / profile), "--directory", str(at), *options]
    command += ["--config", *words] if words else []
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout + done.stderr


def test_the_models_are_the_ones_that_can_be_loaded():
    assert {name: kind.repository for name, kind in ARCHITECTURES.items()} == table_7.MODELS
    assert tuple(name for name, kind in ARCHITECTURES.items() if not kind.causal) == table_7.MASKED
    # the two that published work trains with: whole entities belong to `lib.language_models.adaptation`
    assert table_7.DEFAULTS["masking"] in table_7._CHOICES["masking"] == ("any", "response")
    assert set(MASKING) == {*table_7._CHOICES["masking"], "entity"}


def test_five_models_five_datasets_three_seeds_each_with_a_command_that_parses():
    chosen = table_7.settings({"options": "--epochs 5", "special": {"llada_p2c": "--learning-rate 2e-5"}})
    cells = table_7.cells(chosen)
    assert len(cells) == len({cell.name for cell in cells}) == 75
    for cell in cells:
        words = shlex.split(table_7.command_line(chosen, cell, "out.json"))
        assert words[:3] == [sys.executable, "-m", "lib.language_models.reversal_run"]
        asked = reversal_run.parsed(words[3:])
        assert (asked.model, asked.dataset) == (table_7.MODELS[cell.model], cell.dataset)
        assert asked.training.seed == cell.seed
        assert asked.training.epochs == 5
        assert (asked.training.learning_rate == 2e-5) == (cell.name.startswith("llada_p2c"))
    launched = table_7.command_line(chosen | {"launch": "accelerate launch"}, cells[0], "out.json")
    assert launched.startswith("accelerate launch -m lib.language_models.reversal_run --model")


@pytest.mark.parametrize(("asked", "message"), [
    ({"seed": 1}, "no setting 'seed'; it has models, datasets, seeds"), ({"datasets": ["p2x"]}, "no dataset 'p2x'"),
    ({"models": ["gpt2"]}, "models: 'gpt2' is none of llada, dream"), ({"models": "llada"}, "models must be a list"),
    ({"masking": "foo"}, "masking must be one of any, response, not 'foo'"),
    ({"data": "foo"}, "data must be one of published, generated, not 'foo'"),
    ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, not 'int8'"),
    ({"seeds": [-1]}, "seeds must be integers from 0 on, not -1"), ({"seeds": ["a"]}, "seeds must be .* not 'a'"),
    ({"seeds": [2**63]}, r"seeds must be .*, not 9223372036854775808 \(and below 2\^63\)"),
    ({"seeds": 0}, "seeds must be a list"), ({"seeds": [1, 1]}, r"seeds .* without repetitions, .* not \[1, 1\]"),
    ({"seeds": []}, "seeds must be a list"), ({"datasets": "p2c"}, r"datasets must be a list .* not 'p2c'"),
    ({"options": "--epoch 3"}, "options or special, '--epoch 3' .* there is no option --epoch; did you mean --epochs"),
    ({"options": "--epochs 0"}, "'--epochs 0' .* --epochs must be at least 1, not 0"),
    ({"options": "--text 'x"}, "No closing quotation"), ({"options": "--seed 5"}, "the sweep itself says --seed"),
    ({"special": {"nosuch": "--epochs 5"}}, "special: no cell's name begins with 'nosuch'; .* llada_p2c_any_0"),
    ({"special": {"llada_p2c": "--rank x"}}, "'--rank x' for llada_p2c_any_0: --rank: 'x' is not an integer"),
    ({"special": "--epochs 5"}, "special must be such as")])
def test_what_does_not_exist_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        table_7.settings(asked)
    assert table_7.settings({"models": ["llama"]})["models"] == {"llama": table_7.MODELS["llama"]}


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_both_profiles_plan_the_whole_sweep(tmp_path, profile):
    if profile == "slurm" and not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("needs snakemake-executor-plugin-slurm")
    account = ["--default-resources", "slurm_account=a", "slurm_partition=p"] if profile == "slurm" else []
    code, said = snakemake(tmp_path, profile, "-n", *account)
    assert code == 0, said
    assert said.count("Missing output files: results/language_models/") == 75
    assert said.count("gpu=1") >= 75  # the slurm profile plans two numbers more, and an account
    assert (said.count("runtime=1440") >= 75) == (said.count("slurm_account=a") >= 75) == (profile == "slurm")
    assert not (tmp_path / "results").exists()


def test_a_cluster_is_asked_for_one_gpu_a_cell(tmp_path, monkeypatch):
    """With commands of SLURM's names that only write down how they are called."""
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("needs snakemake-executor-plugin-slurm")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sinfo", "squeue", "sacct", "sshare", "scancel", "sacctmgr"):
        (tools / name).write_text("#!/bin/sh\nexit 0\n")
    (tools / "sbatch").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho "no such partition" >&2\nexit 1\n')
    for path in tools.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    code, said = snakemake(tmp_path, "slurm", "--default-resources", "slurm_account=a", "slurm_partition=p",
                           models=["llada"], datasets=["p2c", "trex"], seeds=[0])
    assert code != 0 and "llada_p2c_any_0" in said and "llada_trex_any_0" in said
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2  # the first refusal does not keep the second cell from being asked for
    for call in calls:
        assert all(f" {option} " in call for option in (
            "--gpus=1", "-A a", "-p p", "-t 1440", "--mem 64000", "--cpus-per-task=4", f"-D {tmp_path}"))
        assert "'seeds=[0]'" in call


def test_a_setting_that_does_not_exist_stops_the_sweep_with_those_that_do(tmp_path):
    code, said = snakemake(tmp_path, "local", "-n", dataset=["p2c"])
    assert code != 0 and "no setting 'dataset'; it has models, datasets" in said


def test_a_failed_cell_leaves_its_log_and_the_others_go_on(tmp_path):
    """Logs and adapters in a folder whose name has a space in it."""
    code, said = snakemake(tmp_path, "local", **TINY)
    assert code != 0 and "broken_p2c_any_0" in said
    results = tmp_path / "results" / "language_models"
    assert sorted(path.name for path in results.glob("*.json")) == ["llada_p2c_any_0.json", "llama_p2c_any_0.json"]
    for name in ("llada", "llama"):
        result = provenance.load(results / f"{name}_p2c_any_0.json")
        assert result["parameters"]["architecture"] == name and result["parameters"]["epochs"] == 1
        assert (tmp_path / TINY["work"] / f"{name}_p2c_any_0" / "adapter_model.safetensors").exists()
        assert "forward accuracy" in (tmp_path / TINY["work"] / f"{name}_p2c_any_0.log").read_text()
    assert "no architecture 'gpt2'" in (tmp_path / TINY["work"] / "broken_p2c_any_0.log").read_text()
    assert not list((tmp_path / TINY["work"]).rglob("unfinished*"))
    assert table_7.found(tmp_path / "results") == {}  # random models on generated facts are not Table 7
    mended = TINY | {"models": {name: source for name, source in TINY["models"].items() if name != "broken"}}
    code, said = snakemake(tmp_path, "local", **mended)
    assert code == 0 and "Nothing to be done" in said


# The table ---------------------------------------------------------------------------------------------------


def record(folder, model, dataset, seed, forward, reverse, *, source="", name="", **changed):
    """A result as `reversal_run` writes it, of the published model on the whole of the data unless changed."""
    run = dataclasses.asdict(FineTuningConfig(masking="any", seed=seed))
    facts, sentences = table_7.WHOLE[dataset]
    run |= {"architecture": model, "model": source or table_7.MODELS[model], "dataset": dataset, "data": "published",
            "facts": facts, "sentences": sentences, "dtype": "bfloat16"} | changed
    name = name or "_".join(map(str, (model, dataset, seed, source, *changed.values()))).replace("/", "-")
    provenance.save(folder / "language_models" / f"{name}.json", experiment="language_models", seeds=[seed],
                    parameters=run, metrics={"forward_accuracy": [forward], "reverse_accuracy": [reverse]}, curves={},
                    run=provenance.Run())


def test_the_table_shows_what_is_there_and_the_rest_as_not_run(tmp_path, capsys):
    record(tmp_path, "llada", "p2c", 0, 70.0, 40.0)
    record(tmp_path, "llada", "p2c", 1, 80.0, 50.0)
    record(tmp_path, "dream", "trex", 0, 9.0, 8.0)
    record(tmp_path, "llama", "p2c", 0, 1.0, 2.0, source="tiny:llama")
    record(tmp_path, "llama", "c2p", 0, 1.0, 2.0, data="generated")
    there = table_7.found(tmp_path)
    ours = table_7.accuracies(there)
    assert ours[0, 0].tolist() == [75.0, 45.0] and ours[4, 1].tolist() == [9.0, 8.0]
    assert np.isnan(ours).sum() == 50 - 4
    table_7.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert "76.7 / 48.3; 75.0 / 45.0 (2)" in lines[2] and "83.0 / 35.0; 9.0 / 8.0 (1)" in lines[6]
    assert sum(line.count("not run here") for line in lines) == 23


def test_runs_of_another_protocol_are_kept_apart(tmp_path, capsys):
    for seed in range(2):
        record(tmp_path, "llada", "p2c", seed, 70.0, 40.0)
    for seed in range(3):
        record(tmp_path, "llada", "p2c", seed, 90.0, 0.0, masking="response")
    record(tmp_path, "llada", "p2c", 0, 20.0, 20.0, accumulation=2)
    record(tmp_path, "llada", "p2c", 0, 30.0, 30.0, batch=4)
    for masking, expected in (("any", [70.0, 40.0]), ("response", [90.0, 0.0])):
        there = table_7.found(tmp_path, masking)
        assert {run["parameters"]["masking"] for run in there["p2c", "llada"]} == {masking}
        assert table_7.accuracies(there)[0, 0].tolist() == expected
    assert table_7.found(tmp_path) == table_7.found(tmp_path, "any")
    assert len(table_7.found(tmp_path)["p2c", "llada"]) == 2
    table_7.main([str(tmp_path), "--masking", "response"])
    assert "90.0 / 0.0 (3)" in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "reason"), [
    ({"facts": 30}, "facts=30, but the whole of p2c has 1495"), ({"sentences": 90}, "sentences=90, but the whole"),
    ({"replay": 0.5}, "replay=0.5, not 0.0"), ({"rank": 0}, "rank=0, not 16"), ({"scaling": 8}, "scaling=8, not 32"),
    ({"epochs": 3}, "epochs=3, not 10"), ({"data": "generated"}, "data='generated', not 'published'"),
    ({"masking": "response"}, "masking='response', not 'any'"), ({"batch": 4}, "4 examples a step"),
    ({"source": "GSAI-ML/LLaDA-8B-Base"}, "model='GSAI-ML/LLaDA-8B-Base', not 'GSAI-ML/LLaDA-8B-Instruct'"),
    ({"source": "Other/LLaDA-8B-Instruct"}, "model='Other/LLaDA-8B-Instruct'"), ({"source": "tiny:llada"}, "model=")])
def test_what_is_not_the_tables_is_left_out_and_said(tmp_path, capsys, changed, reason):
    record(tmp_path, "llada", "p2c", 0, 70.0, 40.0)
    record(tmp_path, "llada", "p2c", 1, 10.0, 10.0, name="other", **changed)
    assert table_7.accuracies(table_7.found(tmp_path))[0, 0].tolist() == [70.0, 40.0]
    table_7.main([str(tmp_path)])
    assert f"left out: other.json: {reason}" in capsys.readouterr().err


def test_folders_of_the_model_count_and_runs_of_a_changed_protocol_when_it_is_said(tmp_path):
    cache = "/x/models--GSAI-ML--LLaDA-8B-Instruct/snapshots/1"
    for seed, source in enumerate((table_7.MODELS["llada"], "/data/GSAI-ML/LLaDA-8B-Instruct", cache)):
        record(tmp_path, "llada", "p2c", seed, 70.0 + seed, 40.0, source=source, epochs=5)
    assert table_7.found(tmp_path) == {}
    assert len(table_7.found(tmp_path, options="--epochs 5")["p2c", "llada"]) == 3
    record(tmp_path, "llada", "p2c", 3, 1.0, 2.0, epochs=5, learning_rate=2e-5)
    with pytest.raises(ValueError, match=r"learning_rate=2e-05, but 0\.0001 in another result of p2c, llada"):
        table_7.found(tmp_path, options="--epochs 5")


def test_the_sizes_of_the_published_data_are_theirs(tmp_path):
    if not PUBLISHED.exists():
        pytest.skip("needs the published files, which are not distributed")
    for path in PUBLISHED.rglob("*.*"):
        shutil.copy(path, tmp_path / path.name)
    found = {name: published_facts.load(name, tmp_path) for name in facts_module.DATASETS}
    assert {name: (len(data.facts), len(data.train)) for name, data in found.items()} == table_7.WHOLE


def test_as_many_examples_a_step_in_more_passes_belong_and_a_cell_counts_once(tmp_path):
    record(tmp_path, "llada", "p2c", 0, 70.0, 40.0)
    record(tmp_path, "llada", "p2c", 1, 80.0, 50.0, batch=2, accumulation=4)
    assert table_7.accuracies(table_7.found(tmp_path))[0, 0].tolist() == [75.0, 45.0]
    record(tmp_path, "llada", "p2c", 0, 10.0, 10.0, batch=1, accumulation=8)
    with pytest.raises(ValueError, match="language_models: two results of p2c, llada, seed 0; move one away"):
        table_7.found(tmp_path)


def test_the_printed_table_is_whole():
    assert table_7.printed_accuracies().shape == (5, 5, 2)
    forward, reverse = np.moveaxis(table_7.printed_accuracies(), -1, 0)
    assert forward.min() == 54.3 and reverse[:, 2:].max() == 15.9 and reverse[:, :2].min() == 27.2
