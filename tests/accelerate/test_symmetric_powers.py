"""The compiled powers of tensors equal the plain ones, with first and second derivatives."""

from itertools import chain

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.symmetric_powers import TWINS, CompiledPowers
from hiphop_train.accelerate.twin import Purpose, Setting
from hiphop_train.nn.symmetric_powers import SymmetricPowers


def evaluate(
    module: torch.nn.Module, tensors: list[Tensor], species: Tensor, wanted: list[Tensor]
) -> list[list[Tensor]]:
    """Values, first and second derivatives."""
    generator = torch.Generator().manual_seed(1)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(tuple(like.shape), dtype=torch.float64, generator=generator).to(like.dtype)

    values = module(tensors, species)
    first = torch.autograd.grad(sum((noise(each) * each).sum() for each in values), wanted, create_graph=True)
    second = torch.autograd.grad(sum((noise(each) * each).sum() for each in first), wanted)
    return [[each.detach() for each in found] for found in (values, first, second)]


@pytest.mark.parametrize("purpose", ["training", "inference"])
@pytest.mark.parametrize(
    ("l_max", "correlation", "ranks"), [(1, 2, [0]), (3, 3, [0]), (3, 3, [0, 1]), (2, 4, [0, 1, 2]), (3, 2, [3])]
)
def test_values_and_derivatives(l_max: int, correlation: int, ranks: list[int], purpose: Purpose) -> None:
    """Also with respect to the weights, unless they are frozen."""
    torch.manual_seed(0)
    plain = SymmetricPowers(l_max, correlation, ranks, n_types=4, width=5).double()
    plain.requires_grad_(purpose == "training")
    twin = TWINS[0].make(plain, Setting(torch.float64, torch.device("cpu"), purpose, "auto", "full"))
    assert isinstance(twin, CompiledPowers)
    tensors = [torch.randn(7, 2 * k + 1, 5, dtype=torch.float64, requires_grad=True) for k in range(l_max + 1)]
    species = torch.tensor([0, 3, 1, 1, 0, 3, 3])
    wanted = [*tensors, *(plain.parameters() if purpose == "training" else [])]
    expected, found = (evaluate(module, tensors, species, wanted) for module in (plain, twin))
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()
