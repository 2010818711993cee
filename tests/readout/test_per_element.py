"""Networks per element: each atom goes through its own element's, whatever stands in the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hiphop_train.errors import ConfigError
from hiphop_train.readout.per_element import PerElementEnergy

ELEMENTS = ["H", "C", "O"]


def readout(**changes: object) -> PerElementEnergy:
    torch.manual_seed(0)
    settings = {"hidden": [7, 5], "hidden_of": {"C": [6], "O": []}, "activation": "tanh", **changes}
    return PerElementEnergy([4, 9], ELEMENTS, **settings).double()


def features(n_atoms: int) -> Tensor:
    return torch.randn(n_atoms, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_each_atom_goes_through_the_network_of_its_element() -> None:
    """Against plain numpy, with layers that differ per element and the last of two levels."""
    model = readout()
    species = torch.tensor([2, 0, 1, 1, 0, 2, 0])
    z = features(7)
    found = model([torch.zeros(7, 4), z], species).detach().numpy()
    assert found.shape == (7, 1)
    assert [len(network) for network in model.networks] == [5, 3, 1]
    for atom in range(7):
        value = z[atom].numpy()
        layers = [layer for layer in model.networks[species[atom]] if isinstance(layer, torch.nn.Linear)]
        for depth, layer in enumerate(layers):
            value = layer.weight.detach().numpy() @ value + layer.bias.detach().numpy()
            value = np.tanh(value) if depth < len(layers) - 1 else value
        np.testing.assert_allclose(found[atom], value, rtol=1e-13)


@pytest.mark.parametrize("species", [[0], [2, 2], [1, 0], []])
def test_elements_may_be_missing(species: list[int]) -> None:
    """Scripted too; a network without atoms gets zero gradients rather than none."""
    model = readout(hidden_of=None)
    index, z = torch.tensor(species, dtype=torch.int64), features(len(species))
    energies = model([z], index)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted([z], index), energies, rtol=1e-14, atol=0)
    energies.sum().backward()
    for element, network in enumerate(model.networks):
        assert bool(network[0].weight.grad.any()) == (element in species)


def test_sizes_for_other_elements_are_passed_over_and_names_that_are_none_refused() -> None:
    """A table of sizes may serve several sets of elements; a misspelt element may not stay unnoticed."""
    assert [len(network) for network in readout(hidden_of={"S": [2]}).networks] == [5, 5, 5]
    with pytest.raises(ConfigError, match=r"model\.readout\.hidden_of: 'Hx' is no element of the model") as refused:
        readout(hidden_of={"Hx": [2]})
    assert "allowed: H, C, O" in str(refused.value)
