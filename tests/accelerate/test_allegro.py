"""Allegro without tensors of pairs gives the plain numbers: values, first and second derivatives, in C and in torch."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate import accelerate
from hiphop_train.accelerate.allegro import AllegroByRows, CompiledAllegro, compile_rows
from hiphop_train.accelerate.pair_products import Pairs, R, S, W, Y, compile_pair_products, first_pairs
from hiphop_train.models.allegro import AllegroLayer, layer_types
from hiphop_train.potential import Potential
from hiphop_train.types import Graph
from tests.accelerate.conftest import CPU, MakeSetting
from tests.conftest import PotentialOf

EXACT = {"rtol": 1e-12, "atol": 1e-12}
WAYS = [(True, CompiledAllegro), (False, AllegroByRows)]
MODELS: list[dict[str, Any]] = [
    {"n_tensors": 3, "n_interactions": 3},
    {"n_tensors": 16, "l_max": 3, "parity": False},
    {"n_tensors": 19, "l_max": 1, "n_interactions": 1},
    {"n_tensors": 5, "l_max": 0},
]


def both(potential_of: PotentialOf, choice: bool, **changes: Any) -> tuple[Potential, Potential]:
    """Return a plain potential and its accelerated copy, to be trained."""
    plain = potential_of("allegro", **changes).train()
    fast = copy.deepcopy(plain)
    accelerate(fast, torch.float64, CPU, "training", choice)
    return plain, fast


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("choice", "kind"), WAYS)
@pytest.mark.parametrize("changes", MODELS)
def test_values_and_derivatives(
    changes: dict[str, Any], choice: bool, kind: type, varied: Graph, potential_of: PotentialOf
) -> None:
    """Of energies, forces and virials, and of a loss of all three with respect to the weights."""
    plain, fast = both(potential_of, choice, **changes)
    assert type(fast.terms[0].representation) is kind
    gradients = []
    for potential in (plain, fast):
        outputs = potential(varied, virial=True)
        loss = sum(outputs[key].square().sum() for key in ("energy", "forces", "virial"))
        gradients.append(torch.autograd.grad(loss, list(potential.parameters())))
    expected, found = plain(varied, virial=True), fast(varied, virial=True)
    for key in ("energy", "forces", "virial"):
        assert_same(found[key], expected[key])
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    for gradient, plain_gradient in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(gradient, plain_gradient, rtol=1e-10, atol=1e-12 * largest)


@pytest.mark.parametrize(("choice", "kind"), WAYS)
def test_unsorted_pairs(choice: bool, kind: type, varied: Graph, potential_of: PotentialOf) -> None:
    order = torch.randperm(len(varied.pair_i), generator=torch.Generator().manual_seed(0))
    names = ("pair_i", "pair_j", "pair_shift", "pair_vectors")
    shuffled = varied._replace(**{name: getattr(varied, name)[order] for name in names})
    plain, fast = both(potential_of, choice)
    found, expected = fast(shuffled, virial=True), plain(shuffled, virial=True)
    for key in ("energy", "forces", "virial"):
        assert_same(found[key], expected[key])


def test_two_threads_change_nothing(varied: Graph, potential_of: PotentialOf) -> None:
    potential = both(potential_of, True)[1].eval()
    before = torch.get_num_threads()
    forces = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            forces.append(potential(varied)["forces"])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(forces[1], forces[0], **EXACT)


def form(s: Tensor | None, r: Tensor, y: Tensor, w: Tensor, pair_i: Tensor) -> Tensor:
    """F of `accelerate.pair_products` in torch."""
    rank = torch.tensor([int(n**0.5) for n in range(y.shape[1])])
    products = r[pair_i] * y[:, :, None] * w[:, rank]
    return (products if s is None else products * s[:, None]).sum()


@pytest.mark.parametrize("n_features", [1, 8, 16, 21])
@pytest.mark.parametrize("n_ranks", [1, 3])
def test_pair_products_and_their_derivatives(n_features: int, n_ranks: int, make_setting: MakeSetting) -> None:
    """Some atoms have no pairs; derivatives of derivatives, and of these."""
    pair_i = torch.tensor([0, 0, 0, 2, 2, 5])
    start = first_pairs(pair_i, 7)
    assert start is not None
    pairs = Pairs(compile_pair_products(n_ranks, make_setting()), n_ranks, n_features, start, len(pair_i))
    generator = torch.Generator().manual_seed(0)
    sizes = [(6, n_features), (7, n_ranks**2, n_features), (6, n_ranks**2), (6, n_ranks, n_features)]
    s, r, y, w = (torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_() for size in sizes)
    for index, size in enumerate(sizes):
        for first in (s, None) if index != S else (s,):
            given = [first, r, y, w]
            target = torch.zeros(size, dtype=torch.float64).requires_grad_()
            replaced: list[Any] = [*given[:index], target, *given[index + 1 :]]
            expected = torch.autograd.grad(form(*replaced, pair_i), target)[0]
            assert_same(pairs.partial(index, given), expected)

    for wanted in ((S,), (R,), (Y,), (W,), (R, Y), (S, R, Y, W)):
        assert torch.autograd.gradcheck(lambda *given, k=wanted: pairs.partials(k, given), (s, r, y, w), fast_mode=True)
        assert torch.autograd.gradgradcheck(
            lambda *given, k=wanted: pairs.partials(k, given), (s, r, y, w), fast_mode=True
        )


def test_no_pairs(make_setting: MakeSetting) -> None:
    start = first_pairs(torch.zeros(0, dtype=torch.int64), 2)
    assert start is not None
    assert start.tolist() == [0, 0, 0]
    pairs = Pairs(compile_pair_products(2, make_setting()), 2, 3, start, 0)
    zeros = (None, None, torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, 2, 3, dtype=torch.float64))
    assert not pairs.partial(R, zeros).any()
    assert first_pairs(torch.tensor([1, 0]), 2) is None


def test_rows_are_products_of_matrices(make_setting: MakeSetting) -> None:
    """Of the layers of a model with pseudotensors."""
    types = layer_types(2, True, 3)
    layers = [AllegroLayer(types[k], types[k + 1], 2, 4, 8, [], 8).double() for k in range(3)]
    environments = torch.randn(3, 5, 9, 4, dtype=torch.float64)
    matrices = [layer.matrices(each) for layer, each in zip(layers, environments, strict=True)]
    kernels = [compile_rows(layer, layer is layers[-1], make_setting()) for layer in layers]
    for last in range(3):
        expected, row = matrices[last][:, 0], None
        for k in range(last, -1, -1):
            row = kernels[k].row(row, environments[k], layers[k].matrices.weight)
            if k < last:
                expected = torch.einsum("iku,ikcu->icu", expected, matrices[k])
        assert row is not None
        assert_same(row, expected)
