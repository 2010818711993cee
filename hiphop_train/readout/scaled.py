"""Readouts of NequIP and MACE: scaled layers without biases, see `hiphop_train.nn.scaled`."""

import math
from typing import Dict, List

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from hiphop_train.nn.scaled import SILU_FACTOR, ScaledNetwork
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class ScaledEnergy(Readout):
    """E_i = network applied to the last features of atom i, as in NequIP.

    Parameters
    ----------
    feature_sizes : width of the features at each level
    hidden : widths of the hidden layers; none makes it linear
    """

    def __init__(self, feature_sizes: List[int], hidden: List[PositiveInt]) -> None:
        super().__init__(is_hierarchical=False)
        self.network = ScaledNetwork(feature_sizes[-1], list(hidden), 1, gain=math.sqrt(2), uniform=True)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        return {"energies": self.network(levels[-1])}


class LayerEnergies(Readout):
    """E_i = sum over layers t of R_t(features of layer t), R_t linear but for the last (arXiv 2206.07697, eq. 12, 13).

    Parameters
    ----------
    feature_sizes : width of the features at each level
    hidden : widths of the hidden layers of the last network; a single layer has a linear one
    """

    def __init__(self, feature_sizes: List[int], hidden: List[PositiveInt]) -> None:
        super().__init__(is_hierarchical=False)
        last = len(feature_sizes) - 1
        self.networks = nn.ModuleList(
            ScaledNetwork(size, list(hidden) if level == last > 0 else [], 1, gain=SILU_FACTOR)
            for level, size in enumerate(feature_sizes)
        )

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, n_layers), in units of the potential's energy scale."""
        energies: List[Tensor] = []
        for level, network in enumerate(self.networks):
            energies.append(network(levels[level]))
        return {"energies": torch.cat(energies, dim=1)}
