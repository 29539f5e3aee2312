"""The written-out gradient of the MLP against finite differences and against autograd."""

import torch
from torch.nn import functional

from lib import kernels
from lib.kernels import gelu_mlp

torch.set_num_threads(1)


def inputs(members=2, rows=3, width=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = [(rows, width), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [torch.randn(members, *shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_the_gradient_is_the_derivative():
    assert torch.autograd.gradcheck(gelu_mlp, inputs())


def test_value_and_gradient_are_autograds():
    ours, theirs = inputs(), inputs()
    x, up, up_bias, down, down_bias = theirs
    inside = functional.gelu(x @ up.mT + up_bias[:, None], approximate="tanh")
    expected = inside @ down.mT + down_bias[:, None]
    found = gelu_mlp(*ours)
    assert torch.allclose(found, expected, atol=1e-12)
    signal = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    for left, right in zip(torch.autograd.grad(found, ours, signal), torch.autograd.grad(expected, theirs, signal),
                           strict=True):
        assert torch.allclose(left, right, atol=1e-10)


def test_the_loss_and_its_gradient_are_autograds_where_a_row_carries_several_answers():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=draw, requires_grad=True)
    which, targets = torch.tensor([0, 2, 2, 3, 3, 2]), torch.tensor([5, 1, 1, 0, 4, 3])
    weights = torch.rand(6, generator=draw)
    expected = (functional.cross_entropy(logits[which], targets, reduction="none") * weights).sum()
    (slope,) = torch.autograd.grad(expected, logits)
    loss, gradient = kernels.cross_entropy(logits.detach(), which * 6 + targets, weights)
    assert torch.allclose(loss, expected) and torch.allclose(gradient, slope, atol=1e-6)
    assert (gradient[1] == 0).all()  # nobody's answer


def test_a_layer_norms_gradient_is_autograds():
    draw = torch.Generator().manual_seed(0)
    x, weight, g = (torch.randn(*shape, generator=draw) for shape in ((5, 8), (8,), (5, 8)))
    inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = functional.layer_norm(inputs[0], (8,), inputs[1])
    slopes = torch.autograd.grad(expected, inputs, g)
    norm = kernels.Norm(weight, torch.full_like(weight, torch.nan))
    assert torch.allclose(norm.forward(x), expected, atol=1e-6)
    assert torch.allclose(norm.backward(g), slopes[0], atol=1e-5)
    assert torch.allclose(norm.g, slopes[1], atol=1e-5)
    nothing = kernels.Norm(None, None)
    assert nothing.forward(x) is x is nothing.out and nothing.backward(g) is g


def test_buffers_keep_their_memory_and_grow():
    held = kernels.Buffers(5, 3)
    first, second = held(4)
    assert first.shape == (4, 5) and second.shape == (4, 3) and first.data_ptr() != second.data_ptr()
    assert held(2)[0].data_ptr() == first.data_ptr() and held(2)[0].shape == (2, 5)
    assert held(40)[1].shape == (40, 3) and held(4)[0].data_ptr() == held(40)[0].data_ptr()
