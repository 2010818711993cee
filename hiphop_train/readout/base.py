"""What every readout declares."""

from abc import ABC, abstractmethod
from typing import Dict, List, Tuple

from torch import Tensor, nn

from hiphop_train.types import Graph


class Readout(nn.Module, ABC):
    """Turn the features of each level into energies of the sites, and into further outputs where it has any.

    Parameters
    ----------
    is_hierarchical : whether the energies are levels that should decrease, E0 being the first; only then is there a
        hierarchicality
    targets : which targets there are among the outputs
    """

    def __init__(self, is_hierarchical: bool, targets: Tuple[str, ...] = ()) -> None:
        super().__init__()
        self.is_hierarchical = is_hierarchical
        self.targets = targets

    @abstractmethod
    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return the outputs of the atoms.

        Parameters
        ----------
        levels : (n_atoms, feature_sizes[level]) each
        graph : of which a readout needs the species, for instance

        Returns
        -------
        outputs : dict
            ``energies`` (n_atoms, n_terms) in units of the potential's energy scale; and what else the potential is to
            return, in its own units
        """
