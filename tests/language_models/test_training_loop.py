"""A run shared by several processes: from the command line against one process, and what each takes of the work."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lib.language_models import checkpoints, finetuning, random_checkpoints, synthetic_facts
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.training_loop import Processes, loss_progress

torch.set_num_threads(1)
CELL = ["--data", "generated", "--facts", "2", "--epochs", "6", "--batch", "2", "--accumulation", "3", "--warmup", "0",
        "--dropout", "0.1", "--rank", "2", "--masking", "any", "--learning-rate", "0.01"]


def test_two_processes_make_the_run_of_one(tmp_path):
    """Losses, probabilities, answers and adapters, from the command line; three passes a step, so shares differ."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m"]
    for name, start in (("one", [sys.executable, "-m"]), ("two", launch)):
        output = ["--output", str(tmp_path / f"{name}.json")]
        command = [*start, "lib.language_models.reversal_run", "--model", "tiny:dream", *CELL, *output]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("reverse_accuracy") == 1  # the first process alone reports
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["provenance"]["processes"] == 2 and "processes" not in one["provenance"]
    assert one["metrics"] == two["metrics"] and one["parameters"] == two["parameters"]
    for name, values in one["curves"].items():
        assert two["curves"][name] == pytest.approx(values, rel=1e-5), name
    adapters = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weight, adapters[1][name], atol=1e-5) for name, weight in adapters[0].items())
    assert any(weight.abs().max() > 1e-3 for name, weight in adapters[0].items() if "lora_B" in name)


def test_processes_without_work_are_refused(tmp_path):
    model, tokenizer = checkpoints.load(random_checkpoints.tiny(tmp_path, "llada", width=32))
    four = Processes()
    four.count = 4
    with pytest.raises(ValueError, match="accumulation=2 leaves some of 4 processes without work"):
        finetuning.finetune(model, tokenizer, synthetic_facts.world(2).p2c.train, FineTuningConfig(accumulation=2),
                            processes=four)


def test_one_process_alone_shares_with_nobody():
    alone = Processes()
    assert alone.first and alone.share([1, 2, 3]) == [1, 2, 3] and alone.total(2.5) == 2.5
    weight = torch.nn.Parameter(torch.ones(2))
    alone.add_gradients([weight])
    assert weight.grad is None
    three = Processes()
    three.count, three.rank = 3, 1
    assert three.share(list(range(8))) == [1, 4, 7] and not three.first


def test_progress_shows_the_loss_of_the_last_steps_and_how_many_there_are(capsys):
    show = loss_progress(6, every=2)
    for step, loss in enumerate((4.0, 2.0, 1.0, 0.5, 0.25)):
        show(step, loss)
    assert capsys.readouterr().err == "step 2 of 6, loss 3.000\nstep 4 of 6, loss 0.750\n"
