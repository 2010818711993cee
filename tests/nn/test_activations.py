"""Activation functions and their derivatives."""

import torch

from hiphop_train.nn.activations import CELU


def test_celu_is_exact_and_twice_differentiable() -> None:
    """The derivative of torch's own has an error of single precision."""
    function = CELU(alpha=0.1)
    x = torch.tensor([-3.0, -0.3, -0.05, -1e-9, 1e-9, 0.4, 50.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(function(x), torch.celu(x, 0.1), rtol=0, atol=1e-16)
    (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    negative = x.detach() < 0
    expected = torch.where(negative, torch.exp(x.detach() / 0.1), torch.ones_like(x))
    torch.testing.assert_close(slope.detach(), expected, rtol=1e-14, atol=0)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curvature, torch.where(negative, 10 * expected, torch.zeros_like(x)), rtol=1e-14, atol=0)
    assert function(x.float()).dtype == torch.float32
