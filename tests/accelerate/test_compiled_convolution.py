"""The convolution in C gives what the tables give: energies, forces, virials, gradients of weights."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from hiphop_train.compilation import compile_potential
from hiphop_train.nn.fused_convolution import environments, first_pairs
from hiphop_train.nn.kernels import IN_VECTORS, compile_library
from torch import Tensor

from hiphop_train.nn import fused_convolution, pairs
from hiphop_train.potential import Potential
from hiphop_train.types import Graph
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

CPU = torch.device("cpu")
MODELS = [
    ("hipnn", {}),
    ("hipnn_ts", {"l_max": 1}),
    ("hipnn_ts", {"l_max": 2, "n_sensitivities": 7}),
    ("hiphop", {"n_sensitivities": 8}),
    ("hiphop_flexible", {"l_max": 4, "n_max": 3, "n_sensitivities": 3}),
]


@pytest.fixture(scope="module")
def graph(mixed_structures: list[Atoms], make_molecule: MakeAtoms, graph_of: GraphOf) -> Graph:
    """Lonely and crowded atoms, and atoms that are their own neighbours in small cells."""
    return graph_of([*mixed_structures, make_molecule(30, seed=8)])


def make(potential_of: PotentialOf, name: str, changes: dict[str, Any], n_features: int) -> tuple[Potential, Potential]:
    plain, compiled = (potential_of(name, n_features=n_features, **changes) for _ in range(2))
    assert compile_potential(compiled, True, torch.float64, CPU).startswith("yes")
    return plain, compiled


def libraries(potential: Potential, graph: Graph) -> list[str]:
    """What the interaction layers were given to use in one evaluation."""
    found = []
    layout = potential.terms[0].representation.lay_out
    handle = layout.register_forward_hook(lambda module, given, result: found.append(result.library))
    potential(graph)
    handle.remove()
    return found


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "to be trained"])
@pytest.mark.parametrize("n_features", [16, 48])
@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_energy_forces_virial(
    name: str,
    changes: dict[str, Any],
    n_features: int,
    frozen: bool,
    graph: Graph,
    potential_of: PotentialOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused_convolution, "WIDTH", 32)  # 48 features go through in two parts
    plain, compiled = make(potential_of, name, changes, n_features)
    if frozen:
        for potential in (plain, compiled):
            potential.requires_grad_(False)
    assert libraries(compiled, graph) != [""]
    expected, found = plain(graph, virial=True), compiled(graph, virial=True)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-11, msg=key)


@pytest.mark.parametrize("environment_first", [True, False])
def test_both_orders_of_the_first_layer(
    environment_first: bool, graph: Graph, potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "environment_first_pays", lambda *sizes: environment_first)
    plain, compiled = make(potential_of, "hiphop", {}, 16)
    expected, found = plain(graph), compiled(graph)
    torch.testing.assert_close(found["forces"], expected["forces"], rtol=1e-11, atol=1e-11)


def test_gradients_of_weights(graph: Graph, potential_of: PotentialOf) -> None:
    gradients = []
    for potential in make(potential_of, "hiphop", {}, 16):
        energy = potential(graph, forces=False)["energy"].square().sum()
        parameters = [p for p in potential.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(energy, parameters))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_training_takes_tables_which_can_be_differentiated_twice(graph: Graph, potential_of: PotentialOf) -> None:
    potential = make(potential_of, "hiphop", {}, 16)[1]
    assert libraries(potential.train(), graph) == [""]
    potential(graph)["forces"].square().sum().backward()


def test_pairs_without_their_reverses_take_tables(
    make_molecule: MakeAtoms, graph_of: GraphOf, potential_of: PotentialOf
) -> None:
    """Of ghost atoms, whose own environments nobody asks for; and in any order."""
    whole = graph_of([make_molecule(12, seed=3)])
    chosen = whole.pair_i < 9
    part = whole._replace(
        pair_i=whole.pair_i[chosen],
        pair_j=whole.pair_j[chosen],
        pair_shift=whole.pair_shift[chosen],
        pair_vectors=whole.pair_vectors[chosen],
        n_owned=9,
    )
    order = torch.randperm(len(whole.pair_i), generator=torch.Generator().manual_seed(0))
    shuffled = whole._replace(
        pair_i=whole.pair_i[order], pair_j=whole.pair_j[order], pair_vectors=whole.pair_vectors[order]
    )
    plain, compiled = make(potential_of, "hiphop", {}, 16)
    for graph in (part, part._replace(n_owned=12), shuffled):
        assert first_pairs(graph) is None
        assert libraries(compiled, graph) == [""]
        torch.testing.assert_close(compiled(graph)["forces"], plain(graph)["forces"], rtol=1e-11, atol=1e-11)


def test_features_that_do_not_fill_vectors_take_tables(graph: Graph, potential_of: PotentialOf) -> None:
    plain, compiled = make(potential_of, "hiphop", {}, 10)
    assert libraries(compiled, graph) == [""]
    torch.testing.assert_close(compiled(graph)["forces"], plain(graph)["forces"], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_change_nothing(n_threads: int, graph: Graph, potential_of: PotentialOf) -> None:
    potential = make(potential_of, "hiphop", {}, 32)[1]
    before = torch.get_num_threads()
    forces = []
    try:
        for count in (1, n_threads):
            torch.set_num_threads(count)
            forces.append(potential(graph)["forces"])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(forces[1], forces[0], rtol=1e-12, atol=1e-12)


def test_no_pairs(potential_of: PotentialOf, graph_of: GraphOf, isolated_atom: Atoms) -> None:
    plain, compiled = make(potential_of, "hiphop", {}, 16)
    alone = graph_of([isolated_atom])
    for key, value in plain(alone, virial=True).items():
        torch.testing.assert_close(compiled(alone, virial=True)[key], value, rtol=1e-12, atol=1e-12, msg=key)


def test_a_second_derivative_is_refused(graph: Graph) -> None:
    """No wrong number is given where the functions are used by themselves."""
    library = str(compile_library(fused_convolution.source(3, 4), torch.float64, IN_VECTORS)[0])
    start = first_pairs(graph)
    assert start is not None
    n_pairs, n_atoms = len(graph.pair_i), len(graph.species)
    sizes = [(n_pairs, 3), (n_pairs, 4), (n_atoms, 2), (2, 3, 16)]
    inputs: list[Tensor] = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    total = environments(*inputs, start, graph.pair_j, library).square().sum()
    first = torch.autograd.grad(total, inputs[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_source_compiles_without_warnings(tmp_path: Path) -> None:
    file = tmp_path / "source.c"
    text = "typedef float real;\n#include <stdint.h>\n#include <string.h>\n" + fused_convolution.source(20, 16)
    file.write_text(text)
    command = ["cc", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-sign-compare", "-c", "-fopenmp", "-o"]
    done = subprocess.run([*command, str(tmp_path / "o"), str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
