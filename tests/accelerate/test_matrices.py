"""Compiled products of matrices equal the plain ones, with first and second derivatives."""

from itertools import chain

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.matrices import TWINS, CompiledMatrixProduct
from hiphop_train.accelerate.twin import Setting
from hiphop_train.nn.matrices import MatrixProduct


@pytest.mark.parametrize("both_orders", [True, False])
def test_values_and_derivatives(both_orders: bool) -> None:
    plain = MatrixProduct(both_orders)
    twin = TWINS[0].make(plain, Setting(torch.float64, torch.device("cpu"), "training", "auto", "full"))
    assert isinstance(twin, CompiledMatrixProduct)
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(6, size, 5, dtype=torch.float64, generator=generator).requires_grad_(True)
        for size in (1, 3, 5, 1, 3, 5)
    ]

    def evaluate(module: torch.nn.Module) -> list[list[Tensor]]:
        noise = torch.Generator().manual_seed(1)

        def weighted(tensors: list[Tensor]) -> Tensor:
            return sum((torch.randn(tuple(t.shape), dtype=t.dtype, generator=noise) * t).sum() for t in tensors)  # type: ignore[return-value]

        values = module(parts[:3], parts[3:])
        first = torch.autograd.grad(weighted(values), parts, create_graph=True)
        return [values, list(first), list(torch.autograd.grad(weighted(list(first)), parts))]

    for ours, theirs in zip(chain(*evaluate(twin)), chain(*evaluate(plain)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
