"""Energies linear in the features, with coefficients of each element."""

from typing import Dict, List

import torch
from torch import Tensor, nn

from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class LinearEnergy(Readout):
    """E_i = b_z + sum_k c_zk B_ik for an atom of element z (Phys. Rev. B 99, 014104).

    A loss that is quadratic in energies and forces is quadratic in the coefficients, which start at zero.

    Parameters
    ----------
    feature_sizes : width of the features at each level; those of the last are used
    elements : type names
    """

    def __init__(self, feature_sizes: List[int], elements: List[str]) -> None:
        super().__init__(is_hierarchical=False)
        self.weight = nn.Parameter(torch.zeros(len(elements), feature_sizes[-1]))  # c
        self.bias = nn.Parameter(torch.zeros(len(elements)))  # b

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        of_all = torch.addmm(
            self.bias, levels[-1], self.weight.t()
        )  # (n_atoms, n_types); cheaper than gathered weights
        return {"energies": of_all.gather(1, graph.species[:, None])}
