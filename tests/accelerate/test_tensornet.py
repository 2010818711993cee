"""The twin of TensorNet, of both directions of a pair at once, gives the plain model's numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor

from hiphop_train.accelerate import accelerate
from hiphop_train.accelerate.compiler import compile_library
from hiphop_train.accelerate.matrices import change_program, program_kernels, squares_program
from hiphop_train.accelerate.matrix_sums import Neighbours, carried, embedded, neighbours
from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.tensornet import CompiledTensorNet
from hiphop_train.accelerate.twin import Setting
from hiphop_train.graph.segments import segment_sum
from hiphop_train.nn.matrices import MatrixProduct, squares
from hiphop_train.nn.radial import ExponentialFunctions
from hiphop_train.potential import Potential
from hiphop_train.types import Graph
from tests.conftest import GraphOf, MakeAtoms, PotentialOf
from tests.pair_lists import PAIR_LISTS, MakeList

CPU = torch.device("cpu")
N_ATOMS, WIDTH = 5, 3
FIRST, SECOND = torch.tensor([0, 0, 0, 1, 3, 3]), torch.tensor([1, 2, 2, 2, 3, 0])
"""Pairs, among them an atom and its image, and the same atoms twice; the last atom has none."""
SIZES = [1, 3, 5]


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(True)


def check_derivatives(function: Callable[..., Any], *arguments: Tensor) -> None:
    """First and second ones are finite differences."""
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@pytest.fixture(scope="module")
def pairs() -> Neighbours:
    sort, sums = (compile_library(f, torch.float64, {"WIDTH": WIDTH})[0] for f in ("pair_sums.c", "matrix_sums.c"))
    return neighbours(FIRST, SECOND, N_ATOMS, sort, sums)


def of_components(weights: Tensor) -> Tensor:
    """Weights (n, 3 width) of ranks as those of components (9, n, width)."""
    return torch.stack(weights.chunk(3, dim=1)).repeat_interleave(torch.tensor(SIZES), dim=0)


def both_ways(forward: Tensor, backward: Tensor) -> Tensor:
    """Sum planes (9, n_pairs, width) over the pairs of each atom."""
    each = zip(forward, backward, strict=True)
    return torch.stack([segment_sum(f, FIRST, N_ATOMS) + segment_sum(b, SECOND, N_ATOMS) for f, b in each])


def test_carried(pairs: Neighbours) -> None:
    w, x = random(7, 3 * WIDTH), random(9, N_ATOMS, WIDTH)
    each = of_components(w)
    expected = each[:, 6:] * x + both_ways(each[:, :6] * x[:, SECOND], each[:, :6] * x[:, FIRST])
    torch.testing.assert_close(carried(w, x, pairs), expected, rtol=1e-14, atol=1e-14)
    check_derivatives(lambda w, x: carried(w, x, pairs), w, x)


def test_embedded(pairs: Neighbours) -> None:
    w, y, a, b = random(7, 3 * WIDTH), random(7, 9), random(N_ATOMS, WIDTH), random(N_ATOMS, WIDTH).detach()
    b = (b + 1.0).requires_grad_(True)
    only_scalar = torch.ones(7, 9, dtype=torch.float64)
    only_scalar[6, 1:] = 0.0  # of an atom with itself

    def evaluate(w: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return embedded(w, y * only_scalar, a, b, pairs)

    each, sign = of_components(w), torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(torch.tensor(SIZES))
    terms = each * (y * only_scalar).T[:, :, None]
    forward = terms[:, :6] * (a[FIRST] + b[SECOND])
    backward = sign[:, None, None] * terms[:, :6] * (a[SECOND] + b[FIRST])
    expected = terms[:, 6:] * (a + b) + both_ways(forward, backward)
    torch.testing.assert_close(evaluate(w, y, a, b), expected, rtol=1e-14, atol=1e-14)
    check_derivatives(evaluate, w, y, a, b)
    check_derivatives(lambda w, y: evaluate(w, y, a.detach(), b.detach()), w, y)
    check_derivatives(lambda y: evaluate(w.detach(), y, a.detach(), b.detach()), y)


def parts(planes: Tensor) -> list[Tensor]:
    """Parts of matrices in planes (9, n)."""
    return [part.T[:, :, None] for part in planes.split_with_sizes(SIZES)]


def planes(parts: list[Tensor]) -> Tensor:
    return torch.cat([part[:, :, 0].T for part in parts])


def test_functions_of_matrices() -> None:
    setting = Setting(torch.float64, CPU, "training", "auto", "full")
    x = random(9, 21)
    bounded = Kernels(setting.compile("bounded.c"), 9, 9)
    change, norms = (program_kernels(program, setting) for program in (change_program(), squares_program()))
    of_parts = squares(parts(x))
    expected = {
        bounded: x / (sum(of_parts).T + 1.0),  # type: ignore[union-attr]
        change: x + planes(MatrixProduct(False)(parts(x), parts(x))),
        norms: torch.cat([each.T for each in of_parts]),
    }
    for kernels, values in expected.items():
        torch.testing.assert_close(evaluate_compiled(kernels, x), values, rtol=1e-13, atol=1e-13)
        check_derivatives(lambda x, kernels=kernels: evaluate_compiled(kernels, x), x[:, :5].detach().requires_grad_())


def derivatives(potential: Potential, graph: Graph) -> list[Tensor]:
    """Energies, forces, and the gradient of a loss of both."""
    outputs = potential(graph, virial=True)
    loss = sum(outputs[key].square().sum() for key in ("energy", "forces", "virial"))
    return [outputs["energy"], outputs["forces"], *torch.autograd.grad(loss, list(potential.parameters()))]


@pytest.mark.parametrize("changes", [{}, {"n_features": 13}, {"group": "SO(3)"}, {"n_interactions": 1}], ids=str)
def test_numbers_are_those_of_the_plain_model(
    changes: dict[str, Any], mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of("tensornet", **changes).train(), graph_of(mixed_structures)
    expected = derivatives(potential, graph)
    chosen = accelerate(potential, torch.float64, CPU, "training")
    assert isinstance(potential.terms[0].representation, CompiledTensorNet)
    assert "pairs: half neighbour list, C" in str(chosen)
    for found, value in zip(derivatives(potential, chosen.prepare(graph)), expected, strict=True):
        assert (found - value).abs().max() <= 1e-12 * value.abs().max()


@pytest.mark.parametrize("make_list", PAIR_LISTS)
def test_lists_without_reverses_are_the_plain_models(
    make_list: MakeList, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of("tensornet").train(), make_list(graph_of([make_box(4, seed=3)]))
    expected = derivatives(potential, graph)
    accelerate(potential, torch.float64, CPU, "training")
    for found, value in zip(derivatives(potential, graph), expected, strict=True):
        assert (found - value).abs().max() <= 1e-12 * value.abs().max()


def test_a_converted_model_falls_back(
    mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential = potential_of("tensornet")
    accelerate(potential, torch.float64, CPU, "inference")
    potential.terms.to(torch.float32)
    graph = graph_of(mixed_structures, dtype=torch.float32)
    assert torch.isfinite(potential(graph)["forces"]).all()


def test_atoms_without_neighbours(isolated_atom: Atoms, potential_of: PotentialOf, graph_of: GraphOf) -> None:
    potential, graph = potential_of("tensornet").train(), graph_of([isolated_atom])
    expected = potential(graph)["energy"].detach()
    accelerate(potential, torch.float64, CPU, "training")
    outputs = potential(graph)
    torch.testing.assert_close(outputs["energy"].detach(), expected, rtol=1e-13, atol=0)
    assert not outputs["forces"].any()
    outputs["energy"].sum().backward()


def test_gaussians_have_no_denormal_numbers() -> None:
    """With which single-precision products are slow."""
    radial = ExponentialFunctions(4.5, 32, [32], is_linear=True)
    (layer,) = radial.layers
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(32))
        layer.bias.zero_()
        values = radial.float()(torch.linspace(0.5, 4.4, 50))
    assert not ((values != 0) & (values.abs() < 1e-35)).any()
