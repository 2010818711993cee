"""Networks per element: each atom goes through its own element's, whatever is in the batch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.readout import SortedPerElementEnergy
from hiphop_train.build import make_potential
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.graph.assemble import make_graph
from hiphop_train.readout.per_element import PerElementEnergy
from hiphop_train.types import Graph

ELEMENTS = ["H", "C", "O"]


def readout(**changes: object) -> PerElementEnergy:
    torch.manual_seed(0)
    settings = {"hidden": [7, 5], "hidden_of": {"C": [6], "O": []}, "activation": "tanh", **changes}
    return PerElementEnergy([4, 9], ELEMENTS, **settings).double()


def features(n_atoms: int) -> Tensor:
    return torch.randn(n_atoms, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def graph_of_species(species: list[int]) -> Graph:
    """Make a graph of atoms without neighbours."""
    n_atoms, none = len(species), torch.zeros(0, dtype=torch.int64)
    return make_graph(
        torch.tensor(species, dtype=torch.int64), torch.zeros((n_atoms, 3), dtype=torch.float64),
        torch.zeros((1, 3, 3), dtype=torch.float64), torch.zeros((1, 3), dtype=torch.bool),
        torch.zeros(n_atoms, dtype=torch.int64), 1, none, none, none.new_zeros((0, 3)), torch.float64,
    )  # fmt: skip


def ways(model: PerElementEnergy) -> list[Callable[..., dict[str, Tensor]]]:
    """Return the plain module, its twin, and the scripted module."""
    return [model, SortedPerElementEnergy(model), torch.jit.script(model)]


def test_each_atom_goes_through_the_network_of_its_element() -> None:
    """Against plain numpy, with layers that differ per element and the last of two levels."""
    model = readout()
    species = [2, 0, 1, 1, 0, 2, 0]
    z, graph = features(7), graph_of_species(species)
    assert [len(network) for network in model.networks] == [5, 3, 1]
    expected = []
    for atom in range(7):
        value = z[atom].numpy()
        layers = [layer for layer in model.networks[species[atom]] if isinstance(layer, torch.nn.Linear)]
        for depth, layer in enumerate(layers):
            value = layer.weight.detach().numpy() @ value + layer.bias.detach().numpy()
            value = np.tanh(value) if depth < len(layers) - 1 else value
        expected.append(value)
    for evaluate in ways(model):
        found = evaluate([torch.zeros(7, 4), z], graph)["energies"].detach().numpy()
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-13)


@pytest.mark.parametrize("species", [[0], [2, 2], [1, 0], []])
def test_elements_may_be_missing(species: list[int]) -> None:
    """A network without atoms gets zero gradients rather than none."""
    model = readout(hidden_of=None)
    graph, z = graph_of_species(species), features(len(species))
    expected = model([z], graph)["energies"]
    for evaluate in ways(model):
        model.zero_grad()
        energies = evaluate([z], graph)["energies"]
        torch.testing.assert_close(energies, expected, rtol=1e-13, atol=0)
        energies.sum().backward()
        for element, network in enumerate(model.networks):
            assert bool(network[0].weight.grad.any()) == (element in species)


def test_sizes_for_other_elements_are_ignored_and_unknown_names_refused() -> None:
    """A table of sizes may serve several sets of elements; a misspelt element must not go unnoticed."""
    assert [len(network) for network in readout(hidden_of={"S": [2]}).networks] == [5, 5, 5]
    with pytest.raises(ConfigError, match=r"model\.readout\.hidden_of: 'Hx' is not an element of the model") as refused:
        readout(hidden_of={"Hx": [2]})
    assert "allowed: H, C, O" in str(refused.value)


def test_configuration() -> None:
    """Widths of all or of single elements are set from the command line, others are refused with what is allowed."""

    def widths(*overrides: str) -> list[list[int]]:
        potential = make_potential(load_config("train", ["model=ani", *overrides]).model, torch.float32)
        return [[layer.out_features for layer in network[::2]] for network in potential.terms[0].readout.networks]

    published = [[160, 128, 96, 1], [144, 112, 96, 1], [128, 112, 96, 1], [128, 112, 96, 1]]
    assert widths() == published
    assert widths("model.readout.hidden=[8]", "~model.readout.hidden_of") == [[8, 1]] * 4
    assert widths("+model.readout.hidden_of.O=[4]") == [*published[:3], [4, 1]]
    assert widths("model.elements=[H,N,S]") == [published[0], published[2], published[2]]
    with pytest.raises(ConfigError, match=r"activation: got 'relu'; must be 'celu', 'silu', 'softplus' or 'tanh'"):
        load_config("train", ["model=ani", "model.readout.activation=relu"])
    with pytest.raises(
        ConfigError, match=r"model\.readout\.elements: unknown key.*\n  allowed: activation, hidden, hid"
    ):
        load_config("train", ["model=ani", "model.readout.elements=[H]"])
