"""What every model declares."""

from abc import ABC, abstractmethod
from typing import List

from torch import Tensor, nn

from hiphop_train.types import Graph


class Representation(nn.Module, ABC):
    """Turn a graph into invariant features of the atoms, level by level.

    Parameters
    ----------
    elements : the model's type names; a graph's ``species`` are indices into this list
    cutoff : Angstrom; no pair beyond it is seen
    feature_sizes : width of the features at each level

    Notes
    -----
    Energies, forces, units and sums are not a model's concern: they live in the readout and in the potential.
    """

    def __init__(self, elements: List[str], cutoff: float, feature_sizes: List[int]) -> None:
        super().__init__()
        self.elements = elements
        self.cutoff = cutoff
        self.feature_sizes = feature_sizes

    @abstractmethod
    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of each level, (n_atoms, feature_sizes[level])."""
