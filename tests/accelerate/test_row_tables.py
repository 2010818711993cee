"""Tables give the numbers of their functions to the resolution of float32, and notice when these change."""

import pytest
import torch
from torch import Tensor, nn

from hiphop_train.accelerate.row_tables import TOLERANCE, RowTable
from hiphop_train.accelerate.twin import Setting
from hiphop_train.models.alignn import Expansion, layer

SETTING = Setting(torch.float32, torch.device("cpu"), "inference", True, "full")
WIDTH = 19


def table_of(module: nn.Module) -> RowTable:
    library = SETTING.compile("table.c", {"N_FEATURES": WIDTH})
    return RowTable(library, [module.requires_grad_(False)], -1.0, 1.0)


def embedding(n_gaussians: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Expansion(-1.0, 1.0, n_gaussians), layer(n_gaussians, 8), layer(8, WIDTH))


def arguments() -> Tensor:
    """Within the bounds, at them, and a rounding error outside."""
    return torch.cat([torch.linspace(-1, 1, 333), torch.tensor([-1.0000001, 1.0000001])]).requires_grad_(True)


def test_values_and_slopes() -> None:
    module, x = embedding(), arguments()
    table = table_of(module)
    found = table(x)
    assert table.table is not None
    exact = module.double()(x.double())
    assert (found - exact).abs().max() < 5e-7 * exact.abs().max()
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((found * weights).sum(), x)
    (expected,) = torch.autograd.grad((exact * weights.double()).sum(), x)
    assert (slope - expected).abs().max() < 5e-6 * expected.abs().max()


def test_it_is_made_again_when_weights_change() -> None:
    module, x = embedding(), arguments()
    table = table_of(module)
    before = table(x)
    made = table.table
    assert torch.equal(table(x), before)
    assert table.table is made
    with torch.no_grad():
        module[1][0].weight.mul_(2.0)  # type: ignore[index,union-attr,operator]
    after = table(x)
    assert (after - module(x)).abs().max() < 1e-5
    assert (after - before).abs().max() > 1e-3


def test_second_derivatives_are_the_functions_own() -> None:
    module, x = embedding(), arguments()
    table = table_of(module)
    slopes = [
        torch.autograd.grad(torch.autograd.grad(f(x).square().sum(), x, create_graph=True)[0].square().sum(), x)[0]
        for f in (table, module)
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4)


class Step(nn.Module):
    """Something that cubic polynomials do not describe."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, WIDTH)."""
        return torch.tanh(1e4 * (x[:, None] - 0.123)).expand(-1, WIDTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_that_a_table_does_not_describe_is_evaluated(dtype: torch.dtype) -> None:
    """As is one of other numbers than the table is compiled for."""
    module = Step() if dtype == torch.float32 else embedding().double()
    table, x = table_of(module), arguments().to(dtype)
    assert torch.equal(table(x), module(x))
    assert (table.table is None) == (dtype == torch.float32)
    assert TOLERANCE < 1e-6
