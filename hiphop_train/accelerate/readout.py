"""Twin of the readout with one network per element: atoms are sorted by element and counted in the loader."""

from dataclasses import dataclass
from typing import Dict, List

import torch
from torch import Tensor

from hiphop_train.accelerate.twin import Twin, adopt
from hiphop_train.readout.base import Readout
from hiphop_train.readout.per_element import PerElementEnergy
from hiphop_train.types import ON_HOST, Graph

COUNTS = f"{ON_HOST}atoms_of_element"


@dataclass(frozen=True)
class PrepareCounts:
    """Adds the number of atoms of each element to a graph, in the loader, to avoid a host-device synchronisation.

    Attributes
    ----------
    n_types : number of elements
    """

    n_types: int

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with the counts among the extras."""
        return graph._replace(extras={**graph.extras, COUNTS: self.counts(graph)})

    def counts(self, graph: Graph) -> Tensor:
        """Return the counts (n_types,) in the extras of a graph, or count."""
        known = graph.extras.get(COUNTS)
        return torch.bincount(graph.species, minlength=self.n_types) if known is None else known


class SortedPerElementEnergy(Readout):
    """E_i = network of the element of atom i, applied to contiguous features.

    Parameters
    ----------
    plain : the readout
    """

    def __init__(self, plain: PerElementEnergy) -> None:
        super().__init__(plain.is_hierarchical)
        adopt(self, plain)
        self.networks = plain.networks
        self.prepare = PrepareCounts(plain.n_types)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        order = torch.argsort(graph.species)
        groups = torch.split_with_sizes(levels[-1].index_select(0, order), self.prepare.counts(graph).tolist())
        energies = [network(group) for network, group in zip(self.networks, groups, strict=True)]
        in_order = torch.cat(energies)
        return {"energies": torch.empty_like(in_order).index_copy(0, order, in_order)}


TWINS = [
    Twin(
        "networks of the elements",
        "atoms sorted by element",
        PerElementEnergy,
        lambda plain, setting: SortedPerElementEnergy(plain),
        prepare=lambda plain: PrepareCounts(plain.n_types),
    ),
]
