"""One network for the atoms of all elements, from features to the energy of an atom."""

from typing import Dict, List, Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from hiphop_train.nn.activations import ShiftedSoftplus
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class AtomwiseEnergy(Readout):
    """E_i = network applied to the last features of atom i (arXiv 1706.08566, fig. 2; Nat. Commun. 8, 13890, Methods).

    Parameters
    ----------
    feature_sizes : width of the features at each level
    hidden : widths of the hidden layers; none makes the energy linear
    activation : after each hidden layer
    """

    def __init__(
        self,
        feature_sizes: List[int],
        hidden: List[PositiveInt],
        activation: Literal["shifted_softplus", "silu", "tanh"],
    ) -> None:
        super().__init__(is_hierarchical=False)
        activations = {"shifted_softplus": ShiftedSoftplus, "silu": nn.SiLU, "tanh": nn.Tanh}
        layers: List[nn.Module] = []
        n_in = feature_sizes[-1]
        for width in hidden:
            layers += [glorot_linear(n_in, width), activations[activation]()]
            n_in = width
        self.network = nn.Sequential(*layers, glorot_linear(n_in, 1))

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        return {"energies": self.network(levels[-1])}
