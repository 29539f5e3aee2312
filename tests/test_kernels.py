"""The written-out gradient of the MLP against finite differences and against autograd."""

import torch
from torch.nn import functional

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
