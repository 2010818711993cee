"""Interface of all models."""

from abc import ABC, abstractmethod
from typing import ClassVar, List, Literal, Optional, Tuple

import torch
from torch import Tensor, nn

from hiphop_train.types import Graph

Sites = Literal["atoms", "pairs"]


class Representation(nn.Module, ABC):
    """Map a graph to invariant features of the atoms, level by level.

    Parameters
    ----------
    elements : the model's type names; a graph's ``species`` are indices into this list
    cutoff : Angstrom; pairs beyond it do not contribute
    feature_sizes : width of the features at each level
    standardised_functions : for fixed descriptors of very different magnitude, which are centred and scaled by their
        statistics over the training structures before the readout: the index of the function behind each feature of
        the last level (features of different neighbour species may share one); if empty, features are not changed
    functions_per_channel : of a descriptor whose features are ordered as in `hiphop_train.nn.channels`: the number of
        functions per species of a neighbour, and per pair of species
    feature_names : of a descriptor whose features belong to species of neighbours in other ways: a name of each feature
        of the last level, the same in a model with further elements
    sites : on what the features live, "atoms" or ordered "pairs" of atoms, in the order of the graph
    counts_neighbours : whether sums over neighbours are divided by (a root of) the mean number of neighbours, the
        buffer ``average_neighbours``, fitted to the training structures before the first epoch and 1 until then

    Attributes
    ----------
    learning_rate : of the class, for AdamW where the user sets none

    Notes
    -----
    Energies, forces, units and sums belong to the readout and the potential.
    """

    learning_rate: ClassVar[float] = 2e-3

    def __init__(
        self,
        elements: List[str],
        cutoff: float,
        feature_sizes: List[int],
        standardised_functions: Optional[List[int]] = None,
        functions_per_channel: Tuple[int, int] = (0, 0),
        feature_names: Optional[List[str]] = None,
        sites: Sites = "atoms",
        counts_neighbours: bool = False,
    ) -> None:
        super().__init__()
        self.elements = elements
        self.cutoff = cutoff
        self.feature_sizes = feature_sizes
        self.standardised_functions = standardised_functions or []
        self.functions_per_channel = functions_per_channel
        self.feature_names = feature_names or []
        self.sites = sites
        self.counts_neighbours = counts_neighbours
        if counts_neighbours:
            self.register_buffer("average_neighbours", torch.ones(()))

    @abstractmethod
    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of each level, (n_sites, feature_sizes[level])."""
