"""What every model declares."""

from abc import ABC, abstractmethod
from typing import List, Optional

from torch import Tensor, nn

from hiphop_train.types import Graph


class Representation(nn.Module, ABC):
    """Turn a graph into invariant features of the atoms, level by level.

    Parameters
    ----------
    elements : the model's type names; a graph's ``species`` are indices into this list
    cutoff : Angstrom; no pair beyond it matters
    feature_sizes : width of the features at each level
    standardised_functions : for fixed descriptors, of very different magnitude, that are to be centred and scaled by
        their statistics over the training structures before the readout: to which function each feature of the last
        level belongs, where several are the same function of neighbours of other species; empty leaves features alone

    Notes
    -----
    Energies, forces, units and sums are not a model's concern: they live in the readout and in the potential.
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: float,
        feature_sizes: List[int],
        standardised_functions: Optional[List[int]] = None,
    ) -> None:
        super().__init__()
        self.elements = elements
        self.cutoff = cutoff
        self.feature_sizes = feature_sizes
        self.standardised_functions = standardised_functions or []

    @abstractmethod
    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of each level, (n_atoms, feature_sizes[level])."""
