"""The adapter to RADD's code: what it hands over, what it asks, what it records, and what it says is missing.

The published code is not distributed here. Most tests run a small stand-in with the same modules and names, whose
answers are known at every step. `RADD` names a folder with the published code for the others; without it they are
skipped. The files are run: read them first.
"""

import math
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import contestants, radd
from lib.one_layer import task
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import TrainingConfig
from lib.record import provenance

torch.set_num_threads(1)
warnings.filterwarnings("ignore", message=".*autocast.*")
FOLDER = os.environ.get("RADD")
published = pytest.mark.skipif(not FOLDER, reason="RADD names no folder with the published code")

LOSSES = '''
import torch
from noise_lib import LogLinearNoise

def get_loss_fn(noise, token_dim, train, loss_type):
    assert isinstance(noise, LogLinearNoise) and token_dim == 54 and train and loss_type == "t_DCE"
    return lambda model, batch, cond=None: (model(batch)[..., 0] * model.knows).sum(-1)

def get_optimizer(config, params):
    optim = config.optim
    assert optim.optimizer == "AdamW"
    return torch.optim.AdamW(params, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps,
                             weight_decay=optim.weight_decay)

def optimization_manager(config):
    return config.optim.warmup, config.optim.grad_clip

def get_step_fn(noise, token_dim, train, optimize_fn, accum, loss_type):
    get_loss_fn(noise, token_dim, train, loss_type)
    assert accum == 1
    def step_fn(state, batch):
        model = state["model"]
        assert model.training and not state["scaler"].is_enabled()
        step_fn.batches = [*getattr(step_fn, "batches", []), batch]
        state["step"] += 1
        model.knows.data += 1
        state["ema"].update(model.parameters())
        return torch.zeros(())
    return step_fn
'''
MODEL = '''
import torch
from torch import nn

class RADD(nn.Module):
    """Knows a little more after each step: the letter of a capital to the right; of one to the left the next letter."""
    def __init__(self, config):
        super().__init__()
        self.config, self.knows = config, nn.Parameter(torch.zeros(()))
        self.start = torch.rand(())

    def forward(self, tokens):
        found = torch.zeros(*tokens.shape, self.config["tokens"] + 1)
        found[..., 52] = 0.5
        found[..., 53] = 9.0  # of the mask: never an answer
        capital = ((tokens >= 26) & (tokens < 52)).int().argmax(1)
        letter = tokens[torch.arange(len(tokens)), capital] - 26
        for place in range(tokens.shape[1]):
            said = torch.where(place < capital, letter, (letter + 1) % 26)
            found[torch.arange(len(tokens)), place, said % 53] += self.knows * (1 if not self.training else -1)
        return found
'''
EMA = '''
class ExponentialMovingAverage:
    """A hundredth of the weights."""
    def __init__(self, parameters, decay):
        self.decay, self.shadow = decay, [each.detach().clone() for each in parameters]

    def update(self, parameters):
        self.shadow = [each.detach() / 100 for each in parameters]

    def copy_to(self, parameters):
        for each, value in zip(parameters, self.shadow):
            each.data.copy_(value)

    def store(self, parameters):
        self.kept = [each.detach().clone() for each in parameters]

    def restore(self, parameters):
        for each, value in zip(parameters, self.kept):
            each.data.copy_(value)
'''
FILES = {"losses.py": LOSSES, "noise_lib.py": "class LogLinearNoise:\n    pass\n", "model/ema.py": EMA,
         "model/__init__.py": "from .transformer import RADD\n", "model/transformer.py": MODEL}


@pytest.fixture
def copy(tmp_path):
    """A folder with the stand-in."""
    folder = tmp_path / "copy"
    (folder / "model").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def command(copy, tmp_path):
    """The command on the stand-in, three points at steps 30, 42 and 60, and the file it writes."""
    out = tmp_path / "published_radd" / "short.json"
    return [str(copy), "--length", "4", "--steps", "60", "--batch", "5", "--points", "3", "--out", str(out)], out


# The stand-in -----------------------------------------------------------------------------------------------------


def test_it_records_what_the_averaged_weights_answer(command):
    words, out = command
    radd.main([*words, "--seeds", "4", "2"])
    found = provenance.load(out)
    assert found["experiment"] == "published_radd" and found["seeds"] == [4, 2]
    assert found["parameters"] == {
        "length": 4, "width": 64, "steps": 60, "batch": 5, "learning_rate": 3e-4, "warmup": 2500, "clip": 1.0,
        "ema": 0.9999, "dropout": 0.02, "blocks": 1, "heads": 1, "loss": "t_DCE", "radd_commit": "unknown"}
    curves = found["curves"]
    assert curves["steps"] == [30, 42, 60]
    # the average knows a hundredth of the steps, the weights all of them: only .6 exceeds the placeholder's .5
    assert curves["forward_accuracy"] == [[0, 0, 100]] * 2 and curves["forward_accuracy_lowercase"] == [[100] * 3] * 2
    assert curves["reverse_accuracy"] == [[0] * 3] * 2 and curves["reverse_accuracy_lowercase"] == [[0] * 3] * 2
    assert curves["placeholder_share"] == [[100, 100, 0]] * 2  # at the end the next letter is said
    for at, known in enumerate((0.30, 0.42, 0.60)):
        whole = 51 + math.exp(known) + math.exp(0.5)
        assert curves["forward_probability"][1][at] == pytest.approx(math.exp(known) / whole, rel=1e-5)
        assert curves["reverse_probability"][1][at] == pytest.approx(1 / whole, rel=1e-5)
    assert found["metrics"] == {name: [run[-1] for run in runs] for name, runs in curves.items() if name != "steps"}
    assert not list(out.parent.glob(".*"))  # no checkpoint stays


def test_its_code_gets_our_sequences_and_the_published_settings(copy):
    config = radd.PublishedConfig(length=5, batch=40, width=8)
    training = radd.PublishedTraining(radd.published_code(copy), config, 3)
    for _ in range(2):
        training.step()
    assert training.model.config == {"tokens": 53, "model": {
        "hidden_size": 8, "n_heads": 1, "n_blocks": 1, "dropout": 0.02, "use_checkpoint": False, "dtype": "float32"}}
    assert training.average.decay == 0.9999
    optimiser = training._state["optimizer"].defaults
    assert [optimiser[name] for name in ("lr", "betas", "eps", "weight_decay")] == [3e-4, (0.9, 0.999), 1e-8, 0]
    assert (config.optim.warmup, config.optim.grad_clip) == (2500, 1.0)
    first, second = training._step.batches
    assert first.shape == (40, 5) and not first.equal(second)
    for sequence in torch.cat([first, second]):
        letter, capital = sequence[sequence != task.PLACEHOLDER].tolist()  # the lowercase letter first
        assert 0 <= letter < 26 and capital == letter + 26


def test_a_seed_fixes_weights_and_sequences(copy):
    code, config = radd.published_code(copy), radd.PublishedConfig(batch=8)

    def started(seed):
        training = radd.PublishedTraining(code, config, seed)
        training.step()
        return training.model.start.item(), training._step.batches[0].tolist()

    assert started(1) == started(1)
    assert all(one != other for one, other in zip(started(1), started(2), strict=True))


def test_an_interrupted_run_goes_on_with_the_next_seed(command, monkeypatch, capsys):
    words, out = command
    train, trained = radd.train, []

    def interrupted(code, config, seed, steps):
        if seed == 5 and trained == [3]:
            raise KeyboardInterrupt
        trained.append(seed)
        return train(code, config, seed, steps)

    monkeypatch.setattr(radd, "train", interrupted)
    words += ["--seeds", "3", "5"]
    with pytest.raises(SystemExit) as ended:
        radd.main(words)
    assert ended.value.code == 130 and "the same command goes on from it" in capsys.readouterr().err
    trained.append(None)
    radd.main(words)
    assert trained == [3, None, 5]
    assert provenance.load(out)["curves"]["forward_accuracy"] == [[0, 0, 100]] * 2


def test_the_commit_is_that_of_the_copy_and_of_no_folder_around_it(copy):
    def git(*words):
        return subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words], check=True,
                              cwd=copy, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "copy")
    commit = provenance.commit(copy)
    assert git("rev-parse", "HEAD").startswith(commit) and len(commit) >= 7
    (copy / "losses.py").write_text("")
    assert provenance.commit(copy) == f"{commit}-dirty"
    assert provenance.commit(copy / "model") == "unknown"


def test_names_of_modules_are_as_they_were(copy, tmp_path, monkeypatch):
    ours = types.ModuleType("losses")
    monkeypatch.setitem(sys.modules, "losses", ours)
    path = list(sys.path)
    first = radd.published_code(copy)
    assert sys.modules["losses"] is ours and "noise_lib" not in sys.modules and "model.ema" not in sys.modules
    assert sys.path == path
    other = tmp_path / "other"
    copy.rename(other)
    assert radd.published_code(other).RADD is not first.RADD


@pytest.mark.parametrize(("file", "text", "message"), [
    ("losses.py", None, "No module named losses: .* is no copy of .*, it lacks losses.py$"),
    ("model/ema.py", None, "No module named model.ema: .* it lacks model/ema.py$"),
    ("losses.py", "def get_loss_fn(): pass", "lacks losses.py: get_step_fn, losses.py: get_optimizer, losses.py: opt"),
    ("noise_lib.py", "import no_such_package", "No module named 'no_such_package', which the code in .* needs$"),
])
def test_what_the_folder_lacks_is_named(command, copy, capsys, file, text, message):
    (copy / file).unlink()
    if text is not None:
        (copy / file).write_text(text)
    with pytest.raises(ImportError, match=message):
        radd.published_code(copy)
    words, out = command
    with pytest.raises(SystemExit) as ended:
        radd.main(words)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert ("needs" if "which" in message else "lacks") in told
    assert not out.parent.exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--width", "7"], "--width must be even"), (["--batch", "0"], "--batch must be at least 1"),
    (["--points", "0"], "--points must be at least 1"), (["--length", "1"], "--length must be an integer of at least"),
    (["--ema", "1"], "--ema must lie in"), (["--dropout", "1"], "--dropout must lie in"),
    (["--seeds", "1", "1"], "--seeds must be different integers")])
def test_what_cannot_be_trained_is_refused(command, capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        radd.main([*command[0], *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_benchmark_of_speed_runs_the_same_copy(copy):
    step = contestants.radd(copy, contestants.Size(ModelConfig(length=4, width=8), TrainingConfig(batch=6), 2))
    assert len(step()) == 2


# The published code -----------------------------------------------------------------------------------------------


@published
def test_the_defaults_are_the_published_ones():
    config = radd.PublishedConfig()
    theirs = yaml.safe_load((Path(FOLDER) / "configs/config.yaml").read_text())
    optim, training = theirs["optim"], theirs["training"]
    assert vars(config.optim) == optim | {"eps": float(optim["eps"]), "lr": float(optim["lr"])}
    assert (config.batch, config.ema, radd.LOSS) == tuple(training[name] for name in ("batch_size", "ema", "loss_type"))
    assert theirs["noise"]["type"] == "loglinear"
    size = yaml.safe_load((Path(FOLDER) / "configs/model/small_radd.yaml").read_text())
    assert config.dropout == size["dropout"]


@published
def test_the_published_code_trains_and_answers():
    config = radd.PublishedConfig(length=2, width=16, batch=60, learning_rate=1e-2, warmup=10)  # soon learned
    training = radd.PublishedTraining(radd.published_code(Path(FOLDER)), config, 0)
    assert training.model.output_layer.linear.weight.eq(0).all()  # its zero start
    losses = [training.step().item() for _ in range(150)]
    by_place = 2 * math.log(26)  # of a model that knows which letters stand where, and no fact
    assert sum(losses[-20:]) / 20 < by_place < sum(losses[:5]) / 5
    asked, _ = task.paired_queries(2)
    weights = [each.detach().clone() for each in training.model.parameters()]
    with torch.no_grad(), training.averaged() as model:
        said = radd.query_log_probabilities(model, asked)
        assert said.equal(radd.query_log_probabilities(model, asked))  # no dropout
    assert said.exp().sum(2).sub(1).abs().max() < 1e-5  # over the clean tokens: the mask is no answer
    found = radd.measured(training)
    assert found["forward_accuracy"] > 90 and found["forward_probability"] > 10 * found["forward_probability_other"]
    assert all(one.equal(other) for one, other in zip(weights, training.model.parameters(), strict=True))
    assert not radd.query_log_probabilities(training.model, asked).equal(said)  # those of the weights in training
