"""The benchmark runs, prints one line a comparison, and says what it skips."""

import torch

from benchmarks import one_layer
from lib.record import provenance

torch.set_num_threads(1)


def test_it_prints_one_line_a_comparison(monkeypatch, capsys, tmp_path):
    sizes = ["--length", "4", "--width", "8", "--batch", "8", "--rounds", "3", "--steps", "1"]
    out = tmp_path / "speed" / "cpu.json"
    monkeypatch.setattr("sys.argv", ["one_layer", *sizes, "--out", str(out)])
    one_layer.main()
    kept = provenance.load(out)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "radd skipped (no --radd DIR)"
    assert [line.split()[0] for line in lines] == ["plain", "floor", "floor_merged", "seeds"]
    for line in lines:
        ratio, low, high = map(float, line.split()[1:])
        assert 0 < low <= ratio <= high
        assert f"{kept['metrics'][line.split()[0]][0]:.2f}" == line.split()[1]
        assert len(kept["curves"][line.split()[0]]) == 3
    monkeypatch.setattr("sys.argv", ["one_layer", *sizes, "--radd", str(tmp_path)])
    one_layer.main()
    assert capsys.readouterr().out.startswith(f"radd skipped ({tmp_path}: No module named")
