"""Powers with integer exponents are torch's, with first and second derivatives."""

import pytest
import torch

from hiphop_train.nn.powers import integer_power


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 6, 7, 16, 32])
def test_is_torchs(exponent: int) -> None:
    base = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64, requires_grad=True)
    power, expected = integer_power(base, exponent), torch.pow(base, exponent)
    torch.testing.assert_close(power, expected, rtol=1e-14, atol=1e-14)
    if exponent > 0:
        first = [torch.autograd.grad(found.sum(), base, create_graph=True)[0] for found in (power, expected)]
        torch.testing.assert_close(*first, rtol=1e-13, atol=1e-13)
        if exponent > 1:
            second = [torch.autograd.grad(slope.sum(), base)[0] for slope in first]
            torch.testing.assert_close(*second, rtol=1e-13, atol=1e-13)
    assert torch.equal(torch.jit.script(integer_power)(base, exponent), power)
