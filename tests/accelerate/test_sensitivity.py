"""Sensitivities of frozen weights have a derivative of their own; it is the same."""

import torch

from hiphop_train.nn.sensitivity import InverseGaussianSensitivity


def test_derivative_of_frozen_weights() -> None:
    """Beyond the cutoff, at it and just before it too."""
    functions = InverseGaussianSensitivity(7, 0.75, 5.5, 6.5).double()
    inside = 0.5 + 6.0 * torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distance = torch.cat([inside, torch.tensor([6.5, 6.5 - 1e-9, 7.0, 1e4], dtype=torch.float64)]).requires_grad_()
    seeds = torch.randn(len(distance), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trained = functions(distance)
    expected = torch.autograd.grad(trained, distance, seeds)[0]
    functions.requires_grad_(False)
    frozen = functions(distance)
    assert torch.equal(frozen, trained)
    found = torch.autograd.grad(frozen, distance, seeds)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_frozen_sensitivities_are_twice_differentiable() -> None:
    functions = InverseGaussianSensitivity(4, 0.75, 3.0, 4.0).double().requires_grad_(False)
    distance = torch.tensor([0.9, 1.3, 2.5, 3.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functions, distance)
    assert torch.autograd.gradgradcheck(functions, distance)
