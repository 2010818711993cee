"""Atomic charges and their dipole, added to the energies of any other readout."""

from typing import Dict, List

import torch
from pydantic import PositiveInt
from torch import Tensor

from hiphop_train.graph.segments import segment_sum
from hiphop_train.readout.atomwise import Activation, atomwise_network
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class NeutralCharges(Readout):
    """q_i = a_i - (sum_j a_j) / N and mu = sum_i q_i r_i, with a_i a network applied to the last features of atom i.

    Charges are learned from dipoles alone (J. Phys. Chem. Lett. 9, 4495; arXiv 1803.04395). The excess charge of a
    structure is subtracted evenly from its atoms (arXiv 1902.08408), which makes it neutral and its dipole independent
    of the origin. The charges do not affect energies and forces.

    Parameters
    ----------
    energy : readout of the energies
    feature_sizes : width of the features at each level
    hidden, activation : of the network, see `hiphop_train.readout.atomwise.atomwise_network`
    """

    def __init__(
        self,
        energy: Readout,
        feature_sizes: List[int],
        hidden: List[PositiveInt],
        activation: Activation,
    ) -> None:
        super().__init__(energy.is_hierarchical, ("dipole", *energy.targets))
        self.energy = energy
        self.network = atomwise_network(feature_sizes[-1], hidden, activation)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return the outputs of the readout of the energies, and charges and dipole.

        Returns
        -------
        outputs : dict
            those of `energy`, and in float64 ``charges`` (n_atoms,) in elementary charges, zero for ghosts; ``dipole``
            (n_systems, 3) in elementary charges times Angstrom, pointing from negative to positive charges. It is zero
            if a structure is periodic in any direction, since it would depend on the choice of the cell
        """
        outputs: Dict[str, Tensor] = self.energy(levels, graph)
        index = torch.arange(graph.species.shape[0], device=graph.species.device)
        owned = (index < graph.n_owned).to(torch.float64)
        charges = self.network(levels[-1])[:, 0].to(torch.float64)  # (n_atoms,)
        n_owned = segment_sum(owned, graph.system, graph.n_systems).clamp(min=1.0)
        excess = segment_sum(charges * owned, graph.system, graph.n_systems) / n_owned  # (n_systems,)
        charges = (charges - excess.index_select(0, graph.system)) * owned
        dipole = segment_sum(charges[:, None] * graph.positions, graph.system, graph.n_systems)
        outputs["charges"] = charges
        outputs["dipole"] = dipole * (~graph.pbc.any(1))[:, None]
        return outputs
