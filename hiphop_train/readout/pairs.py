"""Energies of ordered pairs of atoms."""

import math
from typing import Dict, List

import torch
from pydantic import PositiveInt
from torch import Tensor

from hiphop_train.graph.segments import segment_sum
from hiphop_train.nn.scaled import ScaledNetwork
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class PairEnergy(Readout):
    """E_i = sum_j e_ij / sqrt(2 N), e_ij = network applied to the features of all levels of the pair (i, j).

    Nat. Commun. 14, 579, Results, "The Allegro model". N is the mean number of neighbours; the factor 2 accounts for
    the two energies e_ij and e_ji in which each distance enters, as in nequip-allegro.

    Parameters
    ----------
    feature_sizes : width of the features at each level
    hidden : widths of the hidden layers; none makes it linear
    """

    average_neighbours: Tensor

    def __init__(self, feature_sizes: List[int], hidden: List[PositiveInt]) -> None:
        super().__init__(is_hierarchical=False, sites="pairs", counts_neighbours=True)
        self.network = ScaledNetwork(sum(feature_sizes), list(hidden), 1, gain=math.sqrt(2), uniform=True)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        of_pairs = self.network(torch.cat(levels, dim=1))
        of_atoms = segment_sum(of_pairs, graph.pair_i, graph.species.shape[0])
        return {"energies": of_atoms * torch.rsqrt(2.0 * self.average_neighbours)}
