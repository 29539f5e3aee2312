"""Parameters of published models by counting, and models that a device has no room for."""

import json

import pytest
import torch

from lib.language_models import checkpoints, model_size, random_checkpoints
from lib.language_models.architectures import ARCHITECTURES

torch.set_num_threads(1)


@pytest.mark.parametrize(("name", "count"), [("llada", 8_015_581_184), ("dream", 7_615_616_512)])
def test_published_sizes_have_the_published_parameter_counts(name, count):
    kind = ARCHITECTURES[name]
    fields = random_checkpoints.config_fields(name, random_checkpoints.PUBLISHED[name])
    assert model_size.parameter_count(kind, kind.configure(fields)) == count


@pytest.mark.parametrize(("free", "dtype", "advice"), [
    (20e9, torch.float32, "needs 33.7 GB, cpu has 20.0 GB free; dtype=torch.bfloat16 would fit"),
    (10e9, torch.bfloat16, "needs 16.8 GB, cpu has 10.0 GB free; even bfloat16 needs 16.8 GB"),
])
def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch, free, dtype, advice):
    fields = random_checkpoints.config_fields("llada", random_checkpoints.PUBLISHED["llada"])
    (tmp_path / "config.json").write_text(json.dumps(fields))
    monkeypatch.setattr(model_size, "available_bytes", lambda device: free)
    with pytest.raises(MemoryError, match=advice):
        checkpoints.load(tmp_path, dtype=dtype)


def test_free_memory_is_below_what_the_machine_has():
    assert 1e6 < model_size.available_bytes(torch.device("cpu")) < 1e14
