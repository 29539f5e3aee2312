"""Changes of weights made small: rounding against its bound, packing by hand, low ranks, whole models, refusals."""

import hashlib
import json
import re

import pytest
import small_pretrained
import torch

from lib.language_models import checkpoints, compressed_weights, compression_run, pretrained
from lib.language_models.compressed_weights import FILE_NAME, GROUP


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint in the place of the published one, and what training might have made of it."""
    base = tmp_path_factory.mktemp("compressed")
    start = small_pretrained.made(base / "model")
    with pytest.MonkeyPatch.context() as patch:
        small_pretrained.take_the_place(patch, start)
        model, tokenizer = pretrained.bidirectional(*pretrained.load())
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        return start, checkpoints.save(model, tokenizer, base / "trained")


@pytest.fixture(autouse=True)
def small(folders, monkeypatch):
    small_pretrained.take_the_place(monkeypatch, folders[0])


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_errs_by_half_a_step_at_most_and_keeps_the_largest(bits):
    torch.manual_seed(0)
    values = torch.randn(5, 150) * torch.tensor([1e-4, 1e-2, 1.0, 30.0, 0.0])[:, None]
    codes, scales = compressed_weights.rounded_to_bits(values, bits)
    again = compressed_weights.restored(codes, scales)
    steps = scales.float().repeat_interleave(GROUP, 1)[:, :150]
    assert scales.shape == (5, 3) and codes.abs().max() == 2 ** (bits - 1) - 1
    assert ((again - values).abs() <= 0.502 * steps + 3e-7).all()  # float16 moves a scale by up to a thousandth
    assert ((again - values).abs() > 0.4 * steps)[2:4].any()
    largest, kept = (each[:, :GROUP].abs().amax(1) for each in (values, again))
    assert kept.numpy() == pytest.approx(largest.numpy(), rel=2e-3, abs=3e-7)


def test_two_numbers_are_packed_into_a_byte():
    codes = torch.tensor([[-7, 7, 0], [1, -1, 3]], dtype=torch.int8)
    halves = compressed_weights.packed(codes)
    assert halves.tolist() == [[1 + 16 * 15, 8 + 16 * 8], [9 + 16 * 7, 11 + 16 * 8]]
    assert torch.equal(compressed_weights.unpacked(halves, 3), codes)


def test_a_change_of_low_rank_comes_back_and_one_of_high_rank_does_not(folders):
    model, _ = pretrained.load()
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    torch.manual_seed(1)
    low = {name: weight + (torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1])
                           if weight.dim() == 2 else 0.1) for name, weight in start.items()}
    rows = [3, 5]
    for rank, most in ((2, 0.2), (1, 9.0)):
        compressed_weights.add_change(model, compressed_weights.compressed_change(start, low, rank, rows))
        errors = {}
        for name, weight in model.named_parameters():
            change, found = low[name] - start[name], weight.detach() - start[name]
            if name == compressed_weights.EMBEDDING:
                assert found[[0, 1, 2, 4]].abs().max() == 0
                change, found = change[rows], found[rows]
                assert float((found - change).norm() / change.norm()) < 0.02
            elif weight.dim() == 1:
                assert torch.allclose(found, change, rtol=0.01)
            else:
                errors[name] = float((found - change).norm() / change.norm())
        assert max(errors.values()) < most and (rank == 2) == (min(errors.values()) < 0.2)
        model, _ = pretrained.load()


def test_the_kept_model_is_the_trained_one_but_for_rounding(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "ADAPTER", tmp_path / "kept")  # made anew, and not yet with the known checksum
    options = ["--weights", str(folders[1]), "--data", "generated", "--invented", "2", "--asked", "5", "--rank", "32",
               "--folder", str(tmp_path / "kept"), "--out", str(tmp_path / "run.json")]
    compression_run.main(options)
    result = json.loads((tmp_path / "run.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "run.json"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [FILE_NAME]
    size = (tmp_path / "kept" / FILE_NAME).stat().st_size
    assert result["metrics"]["megabytes"] == [size / 1e6]
    content = (tmp_path / "kept" / FILE_NAME).read_bytes()
    assert result["parameters"]["sha256"] == hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(pretrained, "ADAPTER_SHA256", result["parameters"]["sha256"])
    for when in ("whole", "compressed"):
        assert {f"{when}_told_accuracy", f"{when}_held_reverse_first"} <= result["metrics"].keys()

    (kept, tokenizer), (trained, _), (start, _) = (pretrained.load("masked", adapter=tmp_path / "kept"),
                                                   pretrained.load("masked", adapter=folders[1]), pretrained.load())
    told = compression_run.told_tokens(compression_run.families.families("generated", tokenizer, 2), tokenizer)
    assert tokenizer.mask_token_id in told and len(told) < len(tokenizer)
    for (name, found), weight, before in zip(kept.named_parameters(), trained.parameters(), start.parameters(),
                                             strict=True):
        places = told if name == compressed_weights.EMBEDDING else slice(None)
        change = (weight - before)[places]
        error = (found - weight)[places].detach().norm()
        assert float(error) < 0.25 * float(change.detach().norm()), name
    others = sorted({*range(len(tokenizer))} - {*told})
    name = compressed_weights.EMBEDDING
    assert torch.equal(kept.get_parameter(name)[others], start.get_parameter(name)[others])
    compression_run.main(options)
    assert "this run is done, and its result stays" in capsys.readouterr().out


def test_what_is_no_change_of_this_model_is_refused(folders, tmp_path):
    model, _ = pretrained.load()
    weights = dict(model.named_parameters())
    change = compressed_weights.compressed_change(weights, weights, 1, [0])
    with pytest.raises(ValueError, match=r"a change of another model: model\.norm\.weight is in one of the two"):
        compressed_weights.add_change(model, {key: part for key, part in change.items() if "model.norm" not in key})
    for kind, start, message in (
            ("autoregressive", pretrained.SHA256, "makes a model of kind 'autoregressive', not 'masked'"),
            ("masked", "0" * 64, "is added to weights with SHA-256 000000000000..., not")):
        compressed_weights.save_change(change, tmp_path / kind, kind, start)
        with pytest.raises(ValueError, match=rf"{FILE_NAME}: {re.escape(message)}"):
            pretrained.load("masked", adapter=tmp_path / kind)
    compressed_weights.save_change(change, tmp_path / "masked", "masked", pretrained.SHA256)  # in its place
    pretrained.load("masked", adapter=tmp_path / "masked")
    whole = (tmp_path / "masked" / FILE_NAME).read_bytes()
    (tmp_path / "masked" / FILE_NAME).write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=rf"{FILE_NAME}: damaged .*; take it from the repository again"):
        pretrained.load("masked", adapter=tmp_path / "masked")
