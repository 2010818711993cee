"""A scale of its own for the energies of each element."""

from typing import Dict, List

import torch
from torch import Tensor

from hiphop_train.errors import ConfigError
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class ElementScales(Readout):
    """E_i = s_z E'_i, with the energies E' of another readout and a constant s_z of the element of atom i.

    For models imported from nequip, whose scales of energies differ between elements.

    Parameters
    ----------
    energy : readout of the energies
    elements : type names
    scale_of : s of elements; 1 for those not named
    """

    scales: Tensor

    def __init__(self, energy: Readout, elements: List[str], scale_of: Dict[str, float]) -> None:
        super().__init__(energy.is_hierarchical, energy.targets, energy.sites)
        if unknown := [name for name in scale_of if name not in elements]:
            raise ConfigError(
                f"model.readout.scale_of: '{unknown[0]}' is not an element of the model; allowed: {', '.join(elements)}"
            )
        self.energy = energy
        scales = torch.tensor([scale_of.get(name, 1.0) for name in elements], dtype=torch.float64)
        self.register_buffer("scales", scales[:, None], persistent=False)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return the outputs of the other readout, its energies (n_atoms, n_terms) scaled."""
        outputs: Dict[str, Tensor] = self.energy(levels, graph)
        outputs["energies"] = outputs["energies"] * self.scales.index_select(0, graph.species)
        return outputs
