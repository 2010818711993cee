"""Row by row in blocks gives the values and derivatives of the whole."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate import blocks
from hiphop_train.accelerate.blocks import functions_with_slopes, in_blocks


def random(*shape: int, seed: int = 0) -> Tensor:
    tensor = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return tensor.requires_grad_()


def test_values_and_derivatives() -> None:
    """Of inputs and parameters, once and twice; the last block is a smaller one."""
    rows, more, parameter = random(7, 3), random(7, seed=1), random(3, 2, seed=2)

    def function(rows: Tensor, more: Tensor) -> Tensor:
        return torch.sin(rows @ parameter) * more[:, None].square()

    def blocked(rows: Tensor, more: Tensor, parameter: Tensor) -> Tensor:
        return in_blocks(function, [rows, more], 3, [parameter])

    torch.testing.assert_close(blocked(rows, more, parameter), function(rows, more), rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(blocked, (rows, more, parameter))
    assert torch.autograd.gradgradcheck(blocked, (rows, more, parameter))


def test_blocks_have_the_requested_size() -> None:
    sizes = []

    def function(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows.square()

    in_blocks(function, [random(7)], 3).sum().backward()
    assert sizes == [3, 3, 1] * 2  # once more for the derivative
    sizes.clear()
    in_blocks(function, [random(6)], 3)
    assert sizes == [6]


def test_inputs_that_do_not_matter() -> None:
    """As tensors of rank 0, which are the same in all directions."""
    rows = random(7, 3)
    for create_graph in (False, True):
        values = in_blocks(lambda rows: torch.ones_like(rows.detach()[:, :1]), [rows], 2)
        (found,) = torch.autograd.grad(values.sum(), rows, create_graph=create_graph)
        assert torch.equal(found, torch.zeros_like(rows))


def test_only_what_is_needed_is_differentiated() -> None:
    rows, parameter = random(7, 3), random(3).detach()
    in_blocks(lambda rows: rows * parameter, [rows], 2, [parameter]).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, parameter.expand(7, 3))


def test_functions_with_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and derivatives by the slopes, and second derivatives without them; the last block is a smaller one."""
    monkeypatch.setattr(blocks, "ROWS", 3)
    argument, power = random(7), torch.tensor([1.0, 2.0, 3.0])

    def functions(argument: Tensor) -> list[Tensor]:
        return [torch.sin(argument)[:, None], argument[:, None] ** power]

    def write(argument: Tensor, values: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        for value, found in zip(values, functions(argument), strict=True):
            value.copy_(found)
        slopes[0].copy_(torch.cos(argument)[:, None])
        slopes[1].copy_(power * argument[:, None] ** (power - 1))

    def blocked(argument: Tensor) -> tuple[Tensor, ...]:
        return tuple(functions_with_slopes(functions, write, argument, [1, 3]))

    for value, expected in zip(blocked(argument), functions(argument), strict=True):
        assert torch.equal(value, expected)
    assert torch.autograd.gradcheck(blocked, argument)
    assert torch.autograd.gradgradcheck(blocked, argument)
