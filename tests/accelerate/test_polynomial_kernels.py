"""Invariants and group norm in C and as programs: values, first and second derivatives are torch's."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiphop_train.accelerate import group_norm, invariants
from hiphop_train.accelerate.twin import Twin
from hiphop_train.models.hiphop import GroupNorm
from hiphop_train.nn.invariants import Invariants
from tests.accelerate.conftest import MakeSetting

SHAPES = [(7, 128), (3, 21), (1, 1), (0, 8), (5, 0)]
"""Rows and columns: columns that fill whole vectors of the processor, that do not, and nothing at all."""

OF_INVARIANTS = {twin.chosen: twin for twin in invariants.TWINS}
OF_GROUP_NORM = {twin.chosen: twin for twin in group_norm.TWINS}


def with_derivatives(function: Callable[[Tensor], Tensor], x: Tensor, *, seed: int) -> list[Tensor]:
    """Value, gradient, and the derivatives of a combination of both."""
    generator = torch.Generator().manual_seed(seed)
    x = x.detach().requires_grad_(True)
    value = function(x)
    weights = torch.randn(value.shape, dtype=value.dtype, generator=generator).requires_grad_(True)
    (gradient,) = torch.autograd.grad((value * weights).sum(), x, create_graph=True)
    direction = torch.randn(gradient.shape, dtype=value.dtype, generator=generator)
    factor = torch.randn(value.shape, dtype=value.dtype, generator=generator)
    second = torch.autograd.grad((gradient * direction).sum() + (value * factor).sum(), (x, weights))
    return [value, gradient, *second]


def assert_equal(function: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor) -> None:
    tolerance = 1e-11 if x.dtype == torch.float64 else 3e-5
    for found, expected in zip(with_derivatives(function, x, seed=1), with_derivatives(plain, x, seed=1), strict=True):
        size = float(expected.detach().abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(size, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", [("published", 3, 4), ("published", 0, 1), ("flexible", 4, 3)])
@pytest.mark.parametrize("twin", OF_INVARIANTS.values(), ids=OF_INVARIANTS.keys())
def test_invariants(twin: Twin, key: tuple[Any, int, int], dtype: torch.dtype, make_setting: MakeSetting) -> None:
    plain = Invariants(*key)
    fast = twin.make(plain, make_setting(dtype))
    for n_rows, n_columns in SHAPES:
        x = torch.randn(n_rows, (key[1] + 1) ** 2, n_columns, dtype=dtype)
        for components in (x.transpose(0, 1), x.transpose(0, 1).contiguous(), x.transpose(0, 1).flatten(1)):
            assert_equal(fast, plain, components)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("twin", OF_GROUP_NORM.values(), ids=OF_GROUP_NORM.keys())
def test_group_norm(twin: Twin, dtype: torch.dtype, make_setting: MakeSetting) -> None:
    for n_rows, n_columns in [*SHAPES[:2], (0, 8)]:
        plain = GroupNorm(4, n_columns).to(dtype)
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
        x = torch.randn(n_rows, 4, n_columns, dtype=dtype) + 0.5
        for values in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
            assert_equal(twin.make(plain, make_setting(dtype)), plain, values)


def test_group_norm_of_constant_features(make_setting: MakeSetting) -> None:
    """The variance vanishes; sums are exact, since derivatives would magnify the rounding of the mean a millionfold."""
    plain = GroupNorm(3, 16).double()
    for twin in group_norm.TWINS:
        assert_equal(twin.make(plain, make_setting()), plain, torch.full((2, 3, 16), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("twin", OF_INVARIANTS.values(), ids=OF_INVARIANTS.keys())
def test_copies_and_pickles_are_the_same(twin: Twin, make_setting: MakeSetting) -> None:
    plain = Invariants("published", 1, 2)
    fast = twin.make(plain, make_setting(torch.float32))
    x = torch.randn(4, 3, 16)
    for other in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(other(x), plain(x))
        assert not other.state_dict()


def test_scripted_program(make_setting: MakeSetting) -> None:
    plain = Invariants("flexible", 3, 4)
    buffer = io.BytesIO()
    fast = OF_INVARIANTS["scripted program"].make(plain, make_setting(purpose="export"))
    torch.jit.save(torch.jit.script(fast), buffer)
    buffer.seek(0)
    assert_equal(torch.jit.load(buffer), plain, torch.randn(16, 4, 5, dtype=torch.float64))
