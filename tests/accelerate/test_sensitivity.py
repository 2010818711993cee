"""Sensitivities of frozen weights have a derivative of their own, in torch and in C; it is autograd's."""

import pytest
import torch

from hiphop_train.accelerate.sensitivity import TWINS, FrozenSensitivity
from hiphop_train.accelerate.twin import Twin
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from tests.accelerate.conftest import MakeSetting

COMPILED, IN_BLOCKS = TWINS


@pytest.mark.parametrize("twin", TWINS, ids=[twin.chosen for twin in TWINS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_sensitivities", [1, 7, 20])
def test_values_and_derivative(twin: Twin, dtype: torch.dtype, n_sensitivities: int, make_setting: MakeSetting) -> None:
    """Beyond the cutoff, at it and just before it too."""
    plain = InverseGaussianSensitivity(n_sensitivities, 0.75, 5.5, 6.5).to(dtype)
    frozen = twin.make(plain, make_setting(dtype))
    assert (frozen.library is None) == (twin is IN_BLOCKS)
    generator = torch.Generator().manual_seed(0)
    inside = 0.5 + 6.0 * torch.rand(20_000, dtype=dtype, generator=generator)
    distance = torch.cat([inside, torch.tensor([6.5, 6.5 - 1e-9, 7.0, 1e4], dtype=dtype)]).requires_grad_()
    grad_output = torch.randn(len(distance), n_sensitivities, dtype=dtype, generator=generator)
    found, expected = frozen(distance), plain(distance)
    exact = dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12 if exact else 1e-4, atol=1e-15 if exact else 1e-6)
    found, expected = (torch.autograd.grad(values, distance, grad_output)[0] for values in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-9 if exact else 1e-3, atol=1e-12 if exact else 1e-3)


@pytest.mark.parametrize("twin", TWINS, ids=[twin.chosen for twin in TWINS])
def test_twice_differentiable(twin: Twin, make_setting: MakeSetting) -> None:
    frozen = twin.make(InverseGaussianSensitivity(4, 0.75, 3.0, 4.0).double().requires_grad_(False), make_setting())
    distance = torch.tensor([0.9, 1.3, 2.5, 3.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(frozen, distance)
    assert torch.autograd.gradgradcheck(frozen, distance)


def test_another_type_is_evaluated_in_torch(make_setting: MakeSetting) -> None:
    plain = InverseGaussianSensitivity(5, 0.75, 3.0, 4.0)
    frozen = COMPILED.make(plain, make_setting(torch.float64))
    assert isinstance(frozen, FrozenSensitivity)
    distance = torch.linspace(0.7, 4.2, 30)
    torch.testing.assert_close(frozen(distance), plain(distance))
