"""One network for the atoms of all elements, from features to the energy of an atom."""

from typing import Dict, List, Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from hiphop_train.nn.activations import ShiftedSoftplus
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph

Activation = Literal["shifted_softplus", "silu", "tanh"]


def atomwise_network(n_features: int, hidden: List[int], activation: Activation) -> nn.Sequential:
    """Return a network from features (n_atoms, n_features) to a number per atom (n_atoms, 1).

    Parameters
    ----------
    n_features : width of the features
    hidden : widths of the hidden layers; none makes it linear
    activation : after each hidden layer
    """
    activations = {"shifted_softplus": ShiftedSoftplus, "silu": nn.SiLU, "tanh": nn.Tanh}
    layers: List[nn.Module] = []
    for width in hidden:
        layers += [glorot_linear(n_features, width), activations[activation]()]
        n_features = width
    return nn.Sequential(*layers, glorot_linear(n_features, 1))


class AtomwiseEnergy(Readout):
    """E_i = network applied to the last features of atom i (arXiv 1706.08566, fig. 2; Nat. Commun. 8, 13890, Methods).

    Parameters
    ----------
    feature_sizes : width of the features at each level
    hidden, activation : of the network, see `atomwise_network`
    """

    def __init__(self, feature_sizes: List[int], hidden: List[PositiveInt], activation: Activation) -> None:
        super().__init__(is_hierarchical=False)
        self.network = atomwise_network(feature_sizes[-1], hidden, activation)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        return {"energies": self.network(levels[-1])}
