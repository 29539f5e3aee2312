"""The scale benchmark measures everything, records it, and fails when the gradient cosine takes too much."""

import pytest
import torch

from benchmarks import language_models
from lib.language_models import checkpoints, model_size, random_checkpoints
from lib.language_models.architectures import ARCHITECTURES
from lib.record import provenance

torch.set_num_threads(1)


def test_it_measures_records_and_fails_above_the_limit(tmp_path, monkeypatch, capsys):
    sizes = ["--shape", "tiny", "--control", "tiny", "--steps", "2", "--batch", "2", "--length", "2",
             "--device", "cpu", "--dtype", "float32", "--out", str(tmp_path)]
    limit = language_models.LIMIT
    monkeypatch.setattr(language_models, "LIMIT", 1e9)  # beside so small a model peaks are chance
    language_models.main(sizes)
    (path,) = tmp_path.glob("*.json")
    found = provenance.load(path)
    assert found["parameters"]["shape"] == "tiny" and found["parameters"]["size"] == 237_888
    for what in ("load", "cosine", "scores", "probability", "lora_step"):
        assert found["metrics"][f"{what}_seconds"][0] > 0
    for what in ("load", "cosine", "scores", "probability", "decode", "lora", "control_hooks", "control_stored"):
        assert found["metrics"][f"{what}_peak"][0] >= 0
    assert found["metrics"]["control_difference"][0] < 1e-5
    printed = capsys.readouterr().out
    assert all(name in printed for name in found["metrics"])
    monkeypatch.setattr(language_models, "measure", lambda given: {"parameters": 1, "cosine_peak": limit})
    language_models.main(sizes)
    monkeypatch.setattr(language_models, "LIMIT", limit)
    with pytest.raises(SystemExit) as ended:
        language_models.main(sizes)
    assert ended.value.code == 1 and "cosine_peak: 1.30 weights, more than 1.3" in capsys.readouterr().err


def test_every_recorded_gradient_cosine_stays_beside_the_weights():
    costs = [cost["metrics"] for cost in provenance.results("scale", provenance.RECORDED)]
    assert costs
    for cost in costs:
        assert max(cost["cosine_peak"][0], cost["control_hooks_peak"][0]) < language_models.LIMIT
        assert cost["control_stored_peak"][0] > language_models.LIMIT  # two stored gradients do not


@pytest.mark.parametrize(("options", "message"), [
    (["--shape", "70b"], "--shape: '70b' is none of 8b, 3b"), (["--steps", "0"], "--steps must be at least 1"),
    (["--device", "gpu"], "--device 'gpu' is none of"), (["--dtype", "int8"], "--dtype: 'int8' is none of float32"),
    (["--out", "file"], "--out: file cannot be written to")])
def test_what_cannot_be_measured_is_refused_first(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(language_models, "measure", lambda given: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as ended:
        language_models.main(["--shape", "tiny", "--out", "new", *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("free", "dtype", "expected"), [
    (24e9, torch.bfloat16, "8b"), (19e9, torch.bfloat16, "3b"), (20e9, torch.float32, "3b"), (6e9, torch.float32, "1b"),
    (1e9, torch.float32, "tiny")])
def test_the_largest_shape_that_fits(free, dtype, expected, monkeypatch):
    monkeypatch.setattr(model_size, "available_bytes", lambda device: free)
    assert language_models.largest(dtype, torch.device("cpu")) == expected
    monkeypatch.setattr(model_size, "available_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"cpu: 0.0 GB free, too little for any of 8b, 3b, 1b, 300m, tiny"):
        language_models.largest(dtype, torch.device("cpu"))


def test_the_meter_sees_what_is_allocated_and_forgets_it():
    meter = language_models.Meter(torch.device("cpu"))
    _, seconds, large = meter(lambda: torch.ones(50_000_000).sum())
    _, _, small = meter(lambda: torch.ones(10).sum())
    assert 190e6 < large < 260e6 and small < 60e6 and seconds > 0


def test_the_meter_sees_what_is_allocated_in_memory_that_was_freed_before():
    torch.ones(30_000_000, dtype=torch.uint8)  # freed at once: from here on blocks of this size come from the heap
    freed = [torch.ones(24_000_000, dtype=torch.uint8) for _ in range(10)]
    above = torch.ones(24_000_000, dtype=torch.uint8)
    del freed
    meter = language_models.Meter(torch.device("cpu"))
    _, _, large = meter(lambda: torch.ones(50_000_000).sum())
    assert 190e6 < large < 260e6 and len(above)


@pytest.mark.parametrize("name", ["llada", "dream", "llama", "qwen2"])
def test_a_checkpoint_of_any_size_is_one_that_loads(tmp_path, name):
    size = random_checkpoints.Size(width=32, layers=3, heads=4, key_heads=2, mlp=40, tokens=640)
    folder = random_checkpoints.shaped(tmp_path / "x", name, size, dtype=torch.bfloat16, shard=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    model, _ = checkpoints.load(folder)
    assert model.dtype == torch.bfloat16 and model.model.norm.weight.eq(1).all()
    assert model.lm_head.weight.float().std().item() == pytest.approx(0.02, rel=0.05)
    kind = ARCHITECTURES[name]
    config = kind.configure(random_checkpoints.config_fields(name, size))
    assert sum(weight.numel() for weight in model.parameters()) == model_size.parameter_count(kind, config)
    with pytest.raises(FileExistsError, match="not empty"):
        random_checkpoints.shaped(folder, name, size)


def test_a_hybrid_model_cannot_be_made_in_any_size(tmp_path):
    with pytest.raises(ValueError, match="architecture 'qwen3_5': one of llada, dream, llama, qwen2"):
        random_checkpoints.shaped(tmp_path / "x", "qwen3_5", language_models.SHAPES["tiny"])
