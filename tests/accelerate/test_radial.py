"""Tables of radial functions: their error, their slopes, and what makes them anew."""

import copy

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.radial import TOLERANCE, TWINS, Functions, Table, TabulatedRadialFunctions
from hiphop_train.accelerate.twin import Setting
from hiphop_train.models.tfn import RadialFilters
from hiphop_train.nn.radial import RadialFunctions
from hiphop_train.nn.scaled import SILU_FACTOR

CUTOFF = 5.0


@pytest.fixture
def plain() -> RadialFunctions:
    torch.manual_seed(0)
    return RadialFunctions(CUTOFF, 8, 5, 0.6, [32, 32], 48, SILU_FACTOR).requires_grad_(False)


@pytest.fixture
def distance() -> Tensor:
    return torch.linspace(0.3, CUTOFF, 1001)


@pytest.fixture
def filters() -> RadialFilters:
    torch.manual_seed(0)
    return RadialFilters(CUTOFF, 20, [16, 16], "shifted_softplus").requires_grad_(False)


SETTING = Setting(torch.float32, torch.device("cpu"), "inference", "auto", "full")


def twin_of(plain: Functions) -> TabulatedRadialFunctions:
    (kind,) = (each for each in TWINS if each.replaces is type(plain))
    assert kind.why_not(plain, SETTING) == ""
    twin = kind.make(plain, SETTING)
    assert isinstance(twin, TabulatedRadialFunctions)
    return twin


@pytest.mark.parametrize("kind", ["plain", "filters"])
def test_values_and_slopes(kind: str, distance: Tensor, request: pytest.FixtureRequest) -> None:
    """Against double precision, relative to each function's largest value and slope."""
    plain: Functions = request.getfixturevalue(kind)
    exact = copy.deepcopy(plain).double()
    r = distance.double().requires_grad_(True)
    values = exact(r)
    weights = torch.randn(values.shape, dtype=torch.float64)
    slopes = torch.autograd.grad((weights * values).sum(), r)[0]
    s = distance.clone().requires_grad_(True)
    found = twin_of(plain)(s)
    gradient = torch.autograd.grad((weights.float() * found).sum(), s)[0]
    assert ((found - values).abs().amax(0) / values.abs().amax(0)).max() < 2e-6
    assert (gradient - slopes).abs().max() / slopes.abs().max() < 1e-5
    assert not torch.equal(found, plain(distance))  # it was a table


def test_knots_follow_the_error(plain: RadialFunctions) -> None:
    table = Table(plain)
    assert table.error < TOLERANCE
    with torch.no_grad():
        plain.network.layers[0].weight *= 4  # which makes functions that vary faster
    assert len(Table(plain).rows) > len(table.rows)


def test_changed_weights_make_another_table(plain: RadialFunctions, distance: Tensor) -> None:
    twin = twin_of(plain)
    before = twin(distance)
    plain.network.layers[-1].weight.mul_(2.0)
    torch.testing.assert_close(twin(distance), 2 * before)


def test_where_there_is_none(plain: RadialFunctions, distance: Tensor) -> None:
    double = Setting(torch.float64, torch.device("cpu"), "inference", "auto", "full")
    assert "single precision" in TWINS[0].why_not(plain, double)
    odd = RadialFunctions(CUTOFF, 8, 5, 0.6, [8], 7, 1.0)
    assert "multiple of 16 functions, not 7" in TWINS[0].why_not(odd, SETTING)
    with_kinks = RadialFilters(CUTOFF, 20, [16], "relu")
    assert "smooth" in TWINS[-1].why_not(with_kinks, SETTING)
    twin = twin_of(plain).double()
    assert torch.equal(twin(distance.double()), plain(distance.double()))  # converted: the functions themselves
