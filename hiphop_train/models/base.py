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
    standardise : whether the features are centred and scaled by their statistics over the training structures before
        the readout; for fixed descriptors, of very different sizes

    Notes
    -----
    Energies, forces, units and sums are not a model's concern: they live in the readout and in the potential.
    """

    def __init__(self, elements: List[str], cutoff: float, feature_sizes: List[int], standardise: bool = False) -> None:
        super().__init__()
        self.elements = elements
        self.cutoff = cutoff
        self.feature_sizes = feature_sizes
        self.standardise = standardise

    @abstractmethod
    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of each level, (n_atoms, feature_sizes[level])."""
