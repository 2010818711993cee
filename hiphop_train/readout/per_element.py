"""One network per element, from features to the energy of an atom."""

from typing import Dict, List, Literal, Optional

import torch
from ase.data import chemical_symbols
from pydantic import PositiveInt
from torch import Tensor, nn

from hiphop_train.errors import ConfigError, did_you_mean
from hiphop_train.nn.activations import CELU
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph

Activation = Literal["celu", "silu", "softplus", "tanh"]


def activation_function(name: Activation) -> nn.Module:
    """Return an activation; celu has alpha = 0.1, as in ANI."""
    functions: Dict[str, nn.Module] = {
        "celu": CELU(alpha=0.1),
        "silu": nn.SiLU(),
        "softplus": nn.Softplus(),
        "tanh": nn.Tanh(),
    }
    return functions[name]


def hidden_widths(elements: List[str], hidden: List[int], hidden_of: Optional[Dict[str, List[int]]]) -> List[List[int]]:
    """Return the widths of the hidden layers of each element's network.

    Entries for elements outside the model are ignored; names that are not elements are refused.
    """
    exceptions = {} if hidden_of is None else hidden_of
    for name in exceptions:
        if name not in elements and name not in chemical_symbols[1:]:
            raise ConfigError(
                f"model.readout.hidden_of: '{name}' is not an element of the model{did_you_mean(name, elements)}\n"
                f"  allowed: {', '.join(elements)}"
            )
    return [exceptions.get(element, hidden) for element in elements]


class PerElementEnergy(Readout):
    """E_i = network of the element of atom i, applied to its features (PRL 98, 146401, fig. 2).

    For a model with several levels, the features of the last one are used.

    Parameters
    ----------
    feature_sizes : width of the features at each level
    elements : type names, one network each
    hidden : widths of the hidden layers; none makes the network linear
    hidden_of : widths for individual elements, overriding `hidden`
    activation : after each hidden layer; celu has alpha = 0.1
    """

    def __init__(
        self,
        feature_sizes: List[int],
        elements: List[str],
        hidden: List[PositiveInt],
        hidden_of: Optional[Dict[str, List[PositiveInt]]] = None,
        activation: Activation = "celu",
    ) -> None:
        super().__init__(is_hierarchical=False)
        self.n_types = len(elements)
        self.networks = nn.ModuleList()
        for widths in hidden_widths(elements, hidden, hidden_of):
            layers: List[nn.Module] = []
            n_in = feature_sizes[-1]
            for width in widths:
                layers += [nn.Linear(n_in, width), activation_function(activation)]
                n_in = width
            self.networks.append(nn.Sequential(*layers, nn.Linear(n_in, 1)))

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        features = levels[-1]
        energies = features.new_zeros((features.shape[0], 1))
        for element, network in enumerate(self.networks):
            atoms = torch.nonzero(graph.species == element)[:, 0]
            energies = energies.index_copy(0, atoms, network(features.index_select(0, atoms)))
        return {"energies": energies}
