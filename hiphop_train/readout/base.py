"""What every readout declares."""

from abc import ABC, abstractmethod
from typing import List, Optional

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
    def forward(self, levels: List[Tensor], species: Tensor, n_of_type: Optional[List[int]] = None) -> Tensor:
        """Return energies of the atoms.

        Parameters
        ----------
        levels : (n_atoms, feature_sizes[level]) each
        species : (n_atoms,) int64
        n_of_type : number of atoms of each species, where it is known

        Returns
        -------
        energies : (n_atoms, n_terms)
        """
