"""Hierarchical readout: each interaction block refines the energy."""

from typing import Dict, List

import torch
from torch import Tensor, nn

from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class HierarchicalEnergy(Readout):
    """E_i^n = w^n . z_i^n + b^n for each level n >= 1 (JCP 148, 241715, eq. 3).

    The paper's level 0, linear in the species, is the potential's E0.

    Parameters
    ----------
    feature_sizes : width of the features at each level
    """

    def __init__(self, feature_sizes: List[int]) -> None:
        super().__init__(is_hierarchical=True)
        self.layers = nn.ModuleList(nn.Linear(size, 1) for size in feature_sizes[1:])

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, n_levels - 1), in units of the potential's energy scale."""
        energies: List[Tensor] = []
        for level, layer in enumerate(self.layers):
            energies.append(layer(levels[level + 1]))
        return {"energies": torch.cat(energies, dim=1)}
