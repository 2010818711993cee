"""Neighbour tables of the convolutions of the HIP models, which depend on species and pairs alone."""

from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Optional

import torch
from torch import Tensor

from hiphop_train.accelerate.tables import Table, from_extras, make_table, to_extras
from hiphop_train.types import Graph


class Layout(NamedTuple):
    """Tables of the pairs of a graph, and index maps between them."""

    sent: Table
    """Rows by sending atom."""
    received: Table
    """Rows by receiving atom."""
    sent_to_received: Tensor
    """(n_received_entries,) int64: for each entry of `received`, the entry of `sent`; 0 where empty."""
    received_to_sent: Tensor
    """(n_sent_entries,) int64: the inverse map."""
    present: Tensor
    """(n_present,) int64: the species that occur."""
    by_species: Optional[Table]
    """Rows by receiving atom and species of the sender, if cheaper; otherwise None, and the next three are empty."""
    received_to_species: Tensor
    """(n_species_entries,) int64: for each entry of `by_species`, the entry of `received`."""
    species_to_received: Tensor
    """(n_received_entries,) int64: the inverse map."""
    species_row: Tensor
    """(n_atoms * n_present,) int64: row in `by_species` of receiving atoms, in order of `received`, and species."""


def environment_first_pays(n_pairs: int, n_atoms: int, n_present: int, n_components: int, n_sensitivities: int) -> bool:
    """Whether environment first takes fewer multiplications per feature, for one-hot species as features."""
    return n_pairs * (n_sensitivities + n_components) > n_atoms * n_present * n_components * n_sensitivities


def make_layout(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Layout:
    """Build the tables; TorchScript-safe. On a GPU this synchronises.

    Parameters
    ----------
    graph : pairs may be in any order
    n_types : number of species
    l_max : highest rank of the tensors
    n_sensitivities : of each layer
    """
    pair_i, pair_j, n_atoms = graph.pair_i, graph.pair_j, graph.species.shape[0]
    sent = make_table(pair_j, n_atoms)
    received = make_table(pair_i, n_atoms)
    by_species: Optional[Table] = None
    received_to_species = species_to_received = species_row = pair_i[:0]
    is_present = torch.bincount(graph.species, minlength=n_types) > 0
    present = torch.nonzero(is_present)[:, 0]
    n_present = present.shape[0]
    if environment_first_pays(pair_i.shape[0], n_atoms, n_present, (l_max + 1) * (l_max + 1), n_sensitivities):
        number = (torch.cumsum(is_present, 0) - 1).index_select(0, graph.species)  # among those that occur
        table = make_table(pair_i * n_present + number.index_select(0, pair_j), n_atoms * n_present)
        received_to_species, species_to_received = entries_of(received, table), entries_of(table, received)
        numbers = torch.arange(n_present, device=pair_i.device)
        species_row = table.row.index_select(0, (received.segment[:, None] * n_present + numbers).flatten())
        by_species = table
    return Layout(
        sent=sent,
        received=received,
        sent_to_received=entries_of(sent, received),
        received_to_sent=entries_of(received, sent),
        present=present,
        by_species=by_species,
        received_to_species=received_to_species,
        species_to_received=species_to_received,
        species_row=species_row,
    )


def entries_of(source: Table, target: Table) -> Tensor:
    """Return the source entry of the value in each target entry (n_entries,) int64; 0 where empty."""
    zeros = torch.zeros((target.n_entries,), dtype=torch.int64, device=target.entry.device)
    return zeros.scatter(0, target.entry, source.entry)


NAME = "hip"
TENSORS = (
    "sent_to_received",
    "received_to_sent",
    "present",
    "received_to_species",
    "species_to_received",
    "species_row",
)
TABLES = ("sent", "received", "by_species")


@dataclass(frozen=True)
class PrepareLayout:
    """Adds the layout to a graph, in the loader.

    Attributes
    ----------
    n_types, l_max, n_sensitivities : as for `make_layout`
    """

    n_types: int
    l_max: int
    n_sensitivities: int

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with its layout among the extras."""
        layout = make_layout(graph, self.n_types, self.l_max, self.n_sensitivities)
        extras: Dict[str, Tensor] = {f"{NAME}.{name}": getattr(layout, name) for name in TENSORS}
        for name in TABLES:
            if (table := getattr(layout, name)) is not None:
                extras |= to_extras(f"{NAME}.{name}", table)
        return graph._replace(extras={**graph.extras, **extras})

    def layout_of(self, graph: Graph) -> Layout:
        """Return the layout in the extras of a graph, or build it."""
        if f"{NAME}.present" not in graph.extras:
            return make_layout(graph, self.n_types, self.l_max, self.n_sensitivities)
        fields: Dict[str, Any] = {name: graph.extras[f"{NAME}.{name}"] for name in TENSORS}
        for name in TABLES:
            is_made = f"{NAME}.{name}.entry" in graph.extras
            fields[name] = from_extras(f"{NAME}.{name}", graph.extras) if is_made else None
        return Layout(**fields)
