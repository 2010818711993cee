"""What every readout declares."""

from abc import ABC, abstractmethod
from typing import List

from torch import Tensor, nn


class Readout(nn.Module, ABC):
    """Turn the features of each level into energies of the sites.

    Parameters
    ----------
    is_hierarchical : whether the energies are levels that should fall off, E0 being the first; only then is there a
        hierarchicality
    """

    def __init__(self, is_hierarchical: bool) -> None:
        super().__init__()
        self.is_hierarchical = is_hierarchical

    @abstractmethod
    def forward(self, levels: List[Tensor], species: Tensor) -> Tensor:
        """Return energies (n_atoms, n_terms) from features (n_atoms, feature_sizes[level]) and species (n_atoms,)."""
