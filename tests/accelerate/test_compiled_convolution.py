"""The convolution in C gives what the plain interaction gives: energies, forces, virials, gradients of weights."""

import copy
from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor

from hiphop_train.accelerate import accelerate, compiled_convolution
from hiphop_train.accelerate.compiled_convolution import CompiledConvolution, _Environments, compile_convolution
from hiphop_train.accelerate.pairs import first_pairs
from hiphop_train.accelerate.table_convolution import TableConvolution
from hiphop_train.potential import Potential
from hiphop_train.types import Graph
from tests.accelerate.conftest import CPU, MakeSetting
from tests.conftest import GraphOf, MakeAtoms, PotentialOf
from tests.pair_lists import PAIR_LISTS, MakeList

MODELS = [
    ("hipnn", {}),
    ("hipnn_ts", {"l_max": 1}),
    ("hipnn_ts", {"l_max": 2, "n_sensitivities": 7}),
    ("hiphop", {"n_sensitivities": 8}),
    ("hiphop_flexible", {"l_max": 4, "n_max": 3, "n_sensitivities": 3}),
]


def make(potential_of: PotentialOf, name: str, changes: dict[str, Any], n_features: int) -> tuple[Potential, Potential]:
    """Return a potential and its accelerated copy, in evaluation mode, with weights that may be differentiated."""
    plain = potential_of(name, n_features=n_features, **changes)
    compiled = copy.deepcopy(plain)
    accelerate(compiled, torch.float64, CPU, "training", True)
    return plain, compiled.eval()


def convolutions(potential: Potential, graph: Graph) -> list[type]:
    """Classes of the convolutions in one evaluation."""
    found: list[type] = []
    twin = potential.terms[0].representation
    choose = twin.convolution

    def watched(graph: Graph) -> TableConvolution | CompiledConvolution:
        convolution: TableConvolution | CompiledConvolution = choose(graph)
        found.append(type(convolution))
        return convolution

    twin.convolution = watched
    potential(graph)
    del twin.convolution
    return found


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "to be trained"])
@pytest.mark.parametrize("n_features", [16, 48])
@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_energy_forces_virial(
    name: str,
    changes: dict[str, Any],
    n_features: int,
    frozen: bool,
    varied: Graph,
    potential_of: PotentialOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled_convolution, "WIDTH", 32)  # 48 features go through in two parts
    plain, compiled = make(potential_of, name, changes, n_features)
    if frozen:
        accelerate(compiled, torch.float64, CPU, "inference", True)
    assert convolutions(compiled, varied) == [CompiledConvolution]
    expected, found = plain(varied, virial=True), compiled(varied, virial=True)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-11, msg=key)


@pytest.mark.parametrize("environment_first", [True, False])
def test_both_orders_of_the_first_layer(
    environment_first: bool, varied: Graph, potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_convolution, "environment_first_pays", lambda *sizes: environment_first)
    plain, compiled = make(potential_of, "hiphop", {}, 16)
    expected, found = plain(varied), compiled(varied)
    torch.testing.assert_close(found["forces"], expected["forces"], rtol=1e-11, atol=1e-11)


def test_gradients_of_weights(varied: Graph, potential_of: PotentialOf) -> None:
    gradients = []
    for potential in make(potential_of, "hiphop", {}, 16):
        energy = potential(varied, forces=False)["energy"].square().sum()
        gradients.append(torch.autograd.grad(energy, list(potential.parameters())))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_training_uses_tables_which_can_be_differentiated_twice(varied: Graph, potential_of: PotentialOf) -> None:
    potential = make(potential_of, "hiphop", {}, 16)[1]
    assert convolutions(potential.train(), varied) == [TableConvolution]
    potential(varied)["forces"].square().sum().backward()


@pytest.mark.parametrize("make_list", PAIR_LISTS)
def test_pairs_without_their_reverses_use_tables(
    make_list: MakeList, make_box: MakeAtoms, graph_of: GraphOf, potential_of: PotentialOf
) -> None:
    graph = make_list(graph_of([make_box(4, seed=3)]))
    assert convolutions(make(potential_of, "hipnn", {}, 16)[1], graph) == [TableConvolution]


def test_unsorted_pairs_use_tables(varied: Graph, potential_of: PotentialOf) -> None:
    order = torch.randperm(len(varied.pair_i), generator=torch.Generator().manual_seed(0))
    names = ("pair_i", "pair_j", "pair_shift", "pair_vectors")
    shuffled = varied._replace(**{name: getattr(varied, name)[order] for name in names})
    plain, compiled = make(potential_of, "hiphop", {}, 16)
    assert convolutions(compiled, shuffled) == [TableConvolution]
    torch.testing.assert_close(compiled(shuffled)["forces"], plain(shuffled)["forces"], rtol=1e-11, atol=1e-11)


def test_two_threads_change_nothing(varied: Graph, potential_of: PotentialOf) -> None:
    potential = make(potential_of, "hiphop", {}, 32)[1]
    before = torch.get_num_threads()
    forces = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.get_num_threads() == count
            forces.append(potential(varied)["forces"])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(forces[1], forces[0], rtol=1e-12, atol=1e-12)


def test_no_pairs(potential_of: PotentialOf, graph_of: GraphOf, isolated_atom: Atoms) -> None:
    plain, compiled = make(potential_of, "hiphop", {}, 16)
    alone = graph_of([isolated_atom])
    for key, value in plain(alone, virial=True).items():
        torch.testing.assert_close(compiled(alone, virial=True)[key], value, rtol=1e-12, atol=1e-12, msg=key)


def test_a_second_derivative_is_refused(varied: Graph, make_setting: MakeSetting) -> None:
    """The functions, used by themselves, never return a wrong number."""
    kernels = compile_convolution(1, 4, 3, make_setting())
    start = first_pairs(varied, kernels.pairs)
    assert start is not None
    n_pairs, n_atoms = len(varied.pair_i), len(varied.species)
    sizes = [(n_pairs, 3), (n_pairs, 4), (n_atoms, 2), (2, 3, 16)]
    inputs: list[Tensor] = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    total = _Environments.apply(*inputs, start, varied.pair_j, kernels.convolution).square().sum()
    first = torch.autograd.grad(total, inputs[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
