"""The benchmark: its contestants compute what ours does, it prints a line each, and it says what it skips."""

import sys

import numpy as np
import pytest
import torch

from benchmarks import contestants, one_layer
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import TrainingConfig
from lib.record import provenance

torch.set_num_threads(1)
SIZES = ["--lengths", "4", "--members", "1", "2", "--width", "8", "--batch", "8", "--rounds", "3"]
TIMED = ["plain", "tables_vmap", "floor", "floor_merged"]


def run(monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["one_layer", *SIZES, *options])
    one_layer.main()
    return capsys.readouterr().out.splitlines()[1:]


def test_it_prints_one_line_a_contestant_and_records_every_round(monkeypatch, capsys, tmp_path):
    out = tmp_path / "speed" / "cpu.json"
    lines = run(monkeypatch, capsys, "--only", *TIMED, "--out", str(out))
    kept = provenance.load(out)
    assert kept["parameters"]["lengths"] == [4] and kept["parameters"]["members"] == [1, 2]
    for members in (1, 2):
        assert lines.pop(0) == f"length 4, members {members}"
        for name in ("ours", *TIMED):
            found, spent, ratio, low, high, *warm = lines.pop(0).split()
            assert found == name and 0 < float(low) <= float(ratio) <= float(high)
            rounds, own, ours = (kept["metrics"][f"{each}_L4_m{members}{end}"]
                                 for each, end in ((name, ""), (name, "_ms"), ("ours", "_ms")))
            assert rounds == [one / other for one, other in zip(own, ours, strict=True)] and len(rounds) == 3
            assert f"{np.median(rounds):.3f}" == ratio and f"{np.median(own):.3f}" == spent
            assert len(warm) == (name == "ours" or name in contestants.GENERAL)
    assert not lines


@pytest.mark.parametrize("name", contestants.GENERAL)
def test_a_contestant_computes_what_ours_does(name):
    if name.endswith("_compiled"):
        pytest.skip("minutes; the command checks it before it is timed")
    size = contestants.Size(ModelConfig(length=5, width=8), TrainingConfig(batch=12, clip=0.1), 2, 3, 40)
    try:
        found = contestants.trace(contestants.GENERAL[name](size), 5)
    except ImportError as error:
        pytest.skip(str(error))
    assert contestants.disagreement(found, contestants.trace(contestants.ours(size), 5)) < one_layer.TOLERANCE


def test_a_contestant_that_computes_something_else_is_refused(monkeypatch, capsys):
    def other(size):
        return contestants.plain(size._replace(training=TrainingConfig(batch=8, learning_rate=2e-3)))

    monkeypatch.setitem(contestants.GENERAL, "plain", other)
    with pytest.raises(ArithmeticError, match=r"plain: differs from ours by .* after 2 steps"):
        run(monkeypatch, capsys, "--only", "plain")


def test_it_says_who_cannot_take_part(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    names = ["radd", "tables_jax", "plain_compiled"]
    lines = [line for line in run(monkeypatch, capsys, "--only", *names) if "skipped" in line]
    assert lines[0] == "radd skipped (no --radd DIR)"
    assert lines[1].startswith("tables_jax skipped (") and "jax" in lines[1]
    assert lines[2] == "plain_compiled skipped (torch.compile needs a C++ compiler)"
    lines = run(monkeypatch, capsys, "--only", "radd", "--radd", str(tmp_path))
    assert lines[1].startswith("radd skipped (No module named")
