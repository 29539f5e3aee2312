"""What a processor computes with: read off what torch says of it, and named in a result's provenance."""

import pytest
import torch

from lib.record import processor, provenance


@pytest.mark.parametrize("there, expected", [
    ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False), ({"avx512_bf16": True}, True),
    ({"amx_bf16": True, "avx512_bf16": False}, True), ({"sve_bf16": True}, True), ({"avx512_fp16": True}, False),
])
def test_bfloat16_is_multiplied_where_an_instruction_for_it_is_there(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert processor.multiplies_bfloat16("cpu") is expected
    assert processor.instructions() == ("AVX2 with bfloat16" if expected else "AVX2")


def test_a_run_names_the_instructions_that_it_was_computed_with(monkeypatch):
    monkeypatch.setattr(processor, "instructions", lambda: "AVX7")
    assert provenance.Run().provenance()["processor"] == "AVX7"
