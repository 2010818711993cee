"""Twins of NewtonNet, of both directions of a pair at once, give the plain model's numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor
from torch.nn.functional import silu as torch_silu

from hiphop_train.accelerate import accelerate
from hiphop_train.accelerate.compiler import compile_library
from hiphop_train.accelerate.newtonnet import CompiledNewtonNet, HalfListNewtonNet
from hiphop_train.accelerate.pair_sums import Neighbours, carried, neighbours, pulls, symmetric_messages
from hiphop_train.accelerate.silu import silu, silu_of_parts
from hiphop_train.graph.assemble import with_pair_vectors
from hiphop_train.graph.segments import segment_sum
from hiphop_train.potential import Potential
from hiphop_train.types import Graph, Outputs
from tests.conftest import GraphOf, MakeAtoms, PotentialOf
from tests.pair_lists import PAIR_LISTS, MakeList

CPU = torch.device("cpu")
N_ATOMS, WIDTH = 5, 3
FIRST, SECOND = torch.tensor([0, 0, 0, 1, 3, 3]), torch.tensor([1, 2, 2, 2, 3, 0])
"""Pairs, among them an atom and its image, and the same atoms twice; the last atom has none."""


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(True)


@pytest.fixture(scope="module")
def pairs() -> Neighbours:
    return neighbours(FIRST, SECOND, N_ATOMS, compile_library("pair_sums.c", torch.float64, {"WIDTH": WIDTH})[0])


def both_ways(values: Tensor, sign: float = 1.0) -> Tensor:
    return segment_sum(values, FIRST, N_ATOMS) + sign * segment_sum(values, SECOND, N_ATOMS)


def check_derivatives(function: Callable[..., Any], *arguments: Tensor) -> None:
    """First and second ones are finite differences."""
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_messages(pairs: Neighbours) -> None:
    w, s = random(6, WIDTH), random(N_ATOMS, WIDTH)
    messages, sums = symmetric_messages(w, s, pairs)
    expected = w * s[FIRST] * s[SECOND]
    torch.testing.assert_close(messages, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(sums, both_ways(expected), rtol=1e-14, atol=1e-14)
    check_derivatives(lambda w, s: symmetric_messages(w, s, pairs), w, s)
    check_derivatives(lambda w: symmetric_messages(w, s.detach(), pairs), w)


def test_pulls(pairs: Neighbours) -> None:
    e, q = random(6, 3), random(6, WIDTH)
    expected = both_ways(e[:, :, None] * torch.cat([q, torch.ones(6, 1)], 1)[:, None], -1.0)
    torch.testing.assert_close(pulls(e, q, pairs), expected, rtol=1e-14, atol=1e-14)
    check_derivatives(lambda e, q: pulls(e, q, pairs), e, q)


def test_carried(pairs: Neighbours) -> None:
    q, d = random(6, WIDTH), random(N_ATOMS, 3, WIDTH)
    expected = segment_sum(q[:, None] * d[SECOND], FIRST, N_ATOMS) + segment_sum(q[:, None] * d[FIRST], SECOND, N_ATOMS)
    torch.testing.assert_close(carried(q, d, pairs), expected, rtol=1e-14, atol=1e-14)
    check_derivatives(lambda q, d: carried(q, d, pairs), q, d)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_silu(dtype: torch.dtype) -> None:
    """Also of large numbers, and of widths that do not fill the processor's vectors."""
    library = compile_library("silu.c", dtype, {})[0]
    x = torch.cat([torch.linspace(-12.0, 12.0, 201), torch.tensor([-1e4, -200.0, -60.0, -0.0, 60.0, 1e4])])
    x = x.to(dtype).reshape(9, 23).requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    g, u = (torch.randn(x.shape, dtype=dtype, generator=generator).requires_grad_(True) for _ in range(2))
    found = []
    for function in (lambda x: silu(x, library), torch_silu):
        (slope,) = torch.autograd.grad(function(x), x, g, create_graph=True)
        found.append([function(x), slope, *torch.autograd.grad(slope, [x, g], u)])
    bound = 4 * torch.finfo(dtype).eps
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=20 * bound)
    parts = silu_of_parts(x.T, 3, library)  # not contiguous
    torch.testing.assert_close(torch.cat(parts, 1), torch_silu(x.T), rtol=bound, atol=20 * bound)
    if dtype == torch.float64:
        check_derivatives(lambda x: silu_of_parts(x, 2, library), random(3, 6))


def second_derivatives(potential: Potential, graph: Graph) -> list[Tensor]:
    """Derivatives of a function of energies and forces with respect to positions and all parameters."""
    shift = torch.zeros_like(graph.positions).requires_grad_()
    moved = with_pair_vectors(graph, graph.pair_vectors + shift[graph.pair_j] - shift[graph.pair_i])
    energy = potential(moved, forces=False)["energy"]
    (slope,) = torch.autograd.grad(energy.sum(), shift, create_graph=True)
    wanted = [shift, *(parameter for parameter in potential.parameters() if parameter.requires_grad)]
    total = slope.square().sum() / slope.detach().abs().max() + energy.square().sum()
    return list(torch.autograd.grad(total, wanted))


def detached(outputs: Outputs) -> Outputs:
    return {key: value.detach() for key, value in outputs.items()}


def is_used(potential: Potential, kind: type) -> bool:
    return isinstance(potential.terms[0].representation, kind)


@pytest.mark.parametrize("choice", [True, False], ids=["C", "torch"])
@pytest.mark.parametrize("n_features", [16, 5])
def test_values_and_derivatives(
    choice: bool, n_features: int, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of("newtonnet", n_features=n_features), graph_of(mixed_structures)
    expected, expected_second = detached(potential(graph, virial=True)), second_derivatives(potential, graph)
    prepare = accelerate(potential, torch.float64, CPU, "training", choice).prepare
    assert is_used(potential, CompiledNewtonNet if choice else HalfListNewtonNet)
    for given in (graph, prepare(graph)):
        found, found_second = detached(potential(given, virial=True)), second_derivatives(potential, given)
        for key in ("energy", "forces", "virial"):
            size = float(expected[key].abs().max())
            torch.testing.assert_close(found[key], expected[key], rtol=1e-12, atol=1e-12 * size)
        for ours, theirs in zip(found_second, expected_second, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11 * float(theirs.abs().max()))


def test_second_derivatives_of_frozen_weights(
    mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of("newtonnet"), graph_of(mixed_structures)
    expected = second_derivatives(potential, graph)[0]
    accelerate(potential, torch.float64, CPU, "inference", True)
    (found,) = second_derivatives(potential, graph)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("choice", [True, False], ids=["C", "torch"])
@pytest.mark.parametrize("make_list", PAIR_LISTS, ids=lambda make: make.__name__)
def test_missing_reverses(
    make_list: MakeList, choice: bool, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """All pairs are evaluated then."""
    potential, graph = potential_of("newtonnet"), make_list(graph_of([make_box(4, seed=3)]))
    expected = potential(graph)["forces"].detach()
    accelerate(potential, torch.float64, CPU, "training", choice)
    found = potential(graph)["forces"].detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


def test_converted_or_in_mixed_precision(
    make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Another precision than that compiled for, and products in bfloat16."""
    atoms = [make_molecule(9, seed=1)]
    potential = potential_of("newtonnet")
    expected = potential(graph_of(atoms))
    accelerate(potential, torch.float64, CPU, "inference", True)
    found = potential.float()(graph_of(atoms, dtype=torch.float32))
    torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-5, atol=1e-5)

    potential, graph = potential_of("newtonnet", dtype=torch.float32).train(), graph_of(atoms, dtype=torch.float32)
    forces = potential(graph)["forces"].detach()
    accelerate(potential, torch.float32, CPU, "training", True, "bf16-mixed")
    outputs = potential(graph)
    (outputs["energy"].square().sum() + outputs["forces"].square().sum()).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in potential.parameters())  # type: ignore[union-attr]
    assert 0.0 < float((outputs["forces"].detach() - forces).abs().max()) < 0.1 * float(forces.abs().max())


def test_no_pairs_at_all(isolated_atom: Atoms, potential_of: PotentialOf, graph_of: GraphOf) -> None:
    potential, graph = potential_of("newtonnet"), graph_of([isolated_atom])
    expected = potential(graph)
    accelerate(potential, torch.float64, CPU, "inference", True)
    found = potential(graph)
    torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-13, atol=0)
    assert not found["forces"].any()
