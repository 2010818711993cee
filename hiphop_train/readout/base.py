"""Interface of all readouts."""

from abc import ABC, abstractmethod
from typing import Dict, List, Literal, Tuple

import torch
from torch import Tensor, nn

from hiphop_train.types import Graph


class Readout(nn.Module, ABC):
    """Map the features of each level to atomic energies, and optionally to further outputs.

    Parameters
    ----------
    is_hierarchical : whether the energies are levels that should decrease, with E0 as the first; only then is a
        hierarchicality computed
    targets : keys of the further targets among the outputs
    sites, counts_neighbours : see `hiphop_train.models.base.Representation`
    """

    def __init__(
        self,
        is_hierarchical: bool,
        targets: Tuple[str, ...] = (),
        sites: Literal["atoms", "pairs"] = "atoms",
        counts_neighbours: bool = False,
    ) -> None:
        super().__init__()
        self.sites = sites
        self.counts_neighbours = counts_neighbours
        if counts_neighbours:
            self.register_buffer("average_neighbours", torch.ones(()))
        self.is_hierarchical = is_hierarchical
        self.targets = targets

    @abstractmethod
    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return the outputs of the atoms.

        Parameters
        ----------
        levels : (n_sites, feature_sizes[level]) each
        graph : for the species, for instance

        Returns
        -------
        outputs : dict
            ``energies`` (n_atoms, n_terms) in units of the potential's energy scale; further entries are returned by
            the potential unchanged, in their own units
        """
