"""The compiled loops of a training step against torch and autograd."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from lib.one_layer.fast import kernels
from lib.record import provenance

torch.set_num_threads(1)


def drawn(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def test_the_exponential_is_exact_to_the_last_digits():
    x = np.linspace(-87, 88, 20001, dtype=np.float32)
    found = np.array([kernels.exp(one) for one in x])
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 2e-7
    assert kernels.exp(np.float32(-1e9)) == kernels.exp(np.float32(-87)) > 0  # clipped, neither zero nor nonsense
    assert kernels.exp(np.float32(1e9)) == kernels.exp(np.float32(88)) < np.inf


def gelu(hidden, signal):
    """GELU, the gradient in its input given that in its output, and its sum over rows."""
    gate, active, g, g_bias = np.empty_like(hidden), np.empty_like(hidden), signal.copy(), np.empty_like(hidden[0])
    kernels.gelu_forward(hidden, gate, active)
    kernels.gelu_backward(hidden, gate, g, g_bias)
    return active, g, g_bias


@pytest.mark.parametrize("shape", [(5, 8), (6, 7), (4, 1)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gelu_and_its_gradient_are_torchs(shape, scale):
    x, signal = drawn(*shape, scale=scale).requires_grad_(), drawn(*shape, seed=1)
    found, g, g_bias = gelu(x.detach().numpy(), signal.numpy())
    expected = functional.gelu(x, approximate="tanh")
    (g_expected,) = torch.autograd.grad(expected, x, signal)
    assert np.allclose(found, expected.detach(), atol=1e-6, rtol=1e-5)
    assert np.allclose(g, g_expected, atol=1e-5) and np.allclose(g_bias, g_expected.sum(0), atol=1e-5)


def test_nonsense_stays_nonsense():
    """A loss that is no number is seen as such, not clipped into one."""
    x = np.array([[np.nan, 1.0]], np.float32)
    assert np.isnan(gelu(x, x)[0]).tolist() == [[True, False]]
    logits, filled = np.array([[np.nan, 0, 0]], np.float32), np.empty(3, np.float32)
    one = np.ones(1, np.float32)
    assert np.isnan(kernels.cross_entropy(logits, np.array([0]), one, np.empty(1, np.float32), filled))


def test_the_loss_and_its_gradient_are_autograds_where_a_row_carries_several_answers():
    logits = drawn(4, 6, scale=5).requires_grad_()
    which, targets = torch.tensor([0, 2, 2, 3, 3, 2]), torch.tensor([5, 1, 1, 0, 4, 3])
    weights = torch.rand(6, generator=torch.Generator().manual_seed(0))
    expected = (functional.cross_entropy(logits[which], targets, reduction="none") * weights).sum()
    (slope,) = torch.autograd.grad(expected, logits)
    gradient, asked, total = logits.detach().numpy().copy(), np.empty(4, np.float32), np.empty(6, np.float32)
    loss = kernels.cross_entropy(gradient, (which * 6 + targets).numpy(), weights.numpy(), asked, total)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert np.allclose(gradient, slope, atol=1e-6) and np.allclose(total, slope.sum(0), atol=1e-6)
    assert (gradient[1] == 0).all()  # nobody's answer
    assert np.allclose(asked, np.bincount(which, weights, 4))


def test_a_layer_norms_gradient_is_autograds_and_is_added():
    x, weight, g, before = (drawn(*shape, seed=seed) for seed, shape in enumerate(((5, 8), (8,), (5, 8), (5, 8))))
    inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = functional.layer_norm(inputs[0], (8,), inputs[1])
    slopes = torch.autograd.grad(expected, inputs, g)
    out, mean, scale = (np.full(shape, np.nan, np.float32) for shape in ((5, 8), 5, 5))
    kernels.norm_forward(x.numpy(), weight.numpy(), out, mean, scale)
    assert np.allclose(out, expected.detach(), atol=1e-6)
    g_x, g_weight, total = before.numpy().copy(), np.full(8, np.nan, np.float32), np.full(8, np.nan, np.float32)
    kernels.norm_backward(g.numpy(), x.numpy(), weight.numpy(), mean, scale, g_x, g_weight, total)
    assert np.allclose(g_x, before + slopes[0], atol=1e-5) and np.allclose(total, g_x.sum(0), atol=1e-5)
    assert np.allclose(g_weight, slopes[1], atol=1e-5)


@pytest.mark.parametrize(("heads", "places"), [(1, 1), (2, 1), (2, 4)])
def test_attention_and_its_gradient_are_autograds(heads, places):
    """Three sequences of four, seven tokens, five rows; a token that stands twice, and scores by offset."""
    length, kinds, width, rows = 4, 7, 8, 5
    tokens = np.array([[0, 6, 6, 1], [2, 2, 2, 6], [6, 5, 3, 4]])
    sequence, position = np.array([0, 0, 1, 2, 2]), np.array([1, 2, 3, 0, 0])
    grid = (np.arange(length) - np.arange(length)[:, None] + length - 1) * kinds
    scores = drawn(heads, (2 * length - 1) * kinds).requires_grad_()
    stored = drawn(heads, kinds, places, width, seed=1).requires_grad_()
    stream = drawn(places, width, seed=2).requires_grad_()

    seen, place = torch.from_numpy(tokens[sequence]), torch.from_numpy(grid[position])
    alpha = scores[:, place + seen].softmax(-1)  # (heads, rows, length)
    where = torch.arange(length) if places > 1 else torch.zeros(length, dtype=torch.long)
    expected = torch.einsum("hrj,hrjd->rd", alpha, stored[:, seen, where])
    expected = expected + (stream[position] if places > 1 else stream)
    signal = drawn(rows, width, seed=3)
    slopes = torch.autograd.grad(expected, (scores, stored, stream), signal)

    tables = [table.detach().numpy() for table in (scores, stored, stream)]
    weights, x = np.empty((rows, heads, length), np.float32), np.empty((rows, width), np.float32)
    kernels.attention_weights(tokens, sequence, position, grid, 1, tables[0], weights)
    kernels.retrieve(tokens, sequence, position, weights, *tables[1:], x)
    assert np.allclose(weights, alpha.detach().transpose(0, 1), atol=1e-6)
    assert np.allclose(x, expected.detach(), atol=1e-6)
    found = [np.full_like(table, np.nan) for table in tables]
    kernels.retrieve_backward(tokens, sequence, position, grid, 1, weights, tables[1], signal.numpy(), *found)
    for ours, theirs in zip(found, slopes, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("place", ["folder", "nowhere"])
def test_a_read_only_checkout_and_home_need_no_cache_there(tmp_path, place):
    copy = tmp_path / "lib"
    shutil.copytree(provenance.ROOT / "lib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "one_layer" / "fast" / "__pycache__").write_text("")  # a file: no folder can be made there
    (tmp_path / "folder").mkdir()
    script = ("import sys, tempfile; tempfile.tempdir = sys.argv[1]; import numpy as np\n"
              "from lib.one_layer.fast import kernels; print(kernels.exp(np.float32(0)))")
    nowhere = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / place)], cwd=tmp_path, text=True,
                           capture_output=True, env={**os.environ, **nowhere})
    assert ended.stdout == "1.0\n" and ended.stderr == ""
    assert any((tmp_path / "folder").rglob("kernels.exp*")) == (place == "folder")
