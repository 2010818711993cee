"""The compiled convolution of tensors equals the plain one, with first and second derivatives."""

from itertools import chain

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.tensor_convolution import TWINS, CompiledTensorConvolution
from hiphop_train.accelerate.twin import Setting
from hiphop_train.nn.convolution import TensorConvolution
from hiphop_train.nn.couplings import TensorType, all_types, true_types

SCALARS = [TensorType(0, 1)]
CASES = {
    "vectors": (true_types(1), [5, 7], 1, true_types(1)),
    "both parities": (all_types(2), [16, 3, 5, 16, 8, 4], 2, all_types(2)),
    "third rank": (true_types(3), [16, 8, 8, 3], 3, true_types(3)),
    "species to all": (SCALARS, [20], 3, true_types(3)),
    "all to scalars": (true_types(2), [32, 32, 32], 2, SCALARS),
}


def setting(dtype: torch.dtype) -> Setting:
    return Setting(dtype, torch.device("cpu"), "training", "auto", "full")


def evaluate(module: torch.nn.Module, arguments: list[Tensor], pairs: tuple[Tensor, Tensor]) -> list[list[Tensor]]:
    """Values, first and second derivatives, with respect to tensors, harmonics and radial functions."""
    *tensors, harmonics, radial = arguments
    generator = torch.Generator().manual_seed(1)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=torch.float64, generator=generator).to(like.dtype)

    values = module(tensors, harmonics, radial, *pairs)
    total = sum((noise(value) * value).sum() + 0.01 * value.pow(3).sum() for value in values)
    first = torch.autograd.grad(total, arguments, create_graph=True)
    second = torch.autograd.grad(sum((noise(each) * each).sum() + each.square().sum() for each in first), arguments)
    return [[each.detach() for each in found] for found in (values, first, second)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives(case: str, dtype: torch.dtype) -> None:
    types, widths, l_max, types_out = CASES[case]
    plain = TensorConvolution(types, widths, l_max, types_out).to(dtype)
    twin = TWINS[0].make(plain, setting(dtype))
    assert isinstance(twin, CompiledTensorConvolution)
    generator = torch.Generator().manual_seed(0)
    n_atoms, n_pairs = 8, 60
    receiver = torch.sort(torch.randint(0, n_atoms - 1, (n_pairs,), generator=generator))[
        0
    ]  # the last receives nothing
    sender = torch.randint(1, n_atoms, (n_pairs,), generator=generator)
    shapes = [(n_atoms, each.size(), width) for each, width in zip(types, widths, strict=True)]
    shapes += [(n_pairs, (l_max + 1) ** 2), (n_pairs, plain.n_weights)]  # type: ignore[list-item]
    arguments = [torch.randn(shape, generator=generator).to(dtype).requires_grad_(True) for shape in shapes]
    bound = 1e-13 if dtype == torch.float64 else 1e-5
    for pairs in (
        (receiver, sender),
        (receiver.flip(0), sender.flip(0)),
        (receiver[:0], sender[:0]),
    ):  # also not sorted
        given = [*arguments[:-2], *(each[: len(pairs[0])].detach().requires_grad_(True) for each in arguments[-2:])]
        expected, found = (evaluate(module, given, pairs) for module in (plain, twin))
        for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
            assert (ours - theirs).abs().sum() <= bound * (theirs.abs().sum() + 1e-30)


def test_second_derivatives_where_only_some_arguments_are_differentiated() -> None:
    """As in inference with frozen weights, and for the first layer, whose tensors do not depend on positions."""
    types, widths, l_max, types_out = CASES["vectors"]
    plain = TensorConvolution(types, widths, l_max, types_out).double()
    twin = TWINS[0].make(plain, setting(torch.float64))
    pairs = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 0, 0])
    tensors = [torch.randn(3, each.size(), width).double() for each, width in zip(types, widths, strict=True)]
    harmonics = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    radial = torch.randn(4, plain.n_weights, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (plain, twin):
        values = module(tensors, harmonics, radial, *pairs)
        gradient = torch.autograd.grad(sum(value.pow(3).sum() for value in values), harmonics, create_graph=True)[0]
        found.append(torch.autograd.grad(gradient.square().sum(), [harmonics, radial]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
