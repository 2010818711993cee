"""Where the pairs of a graph stand, so that sums over neighbours become products of matrices; TorchScript-safe."""

from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.tables import fill, lay_out
from hiphop_train.nn.blocks import PAIRS, in_blocks
from hiphop_train.nn.fused_convolution import MULTIPLE, first_pairs, source
from hiphop_train.nn.kernels import IN_VECTORS, Compilable, Compiled, compile_library
from hiphop_train.nn.precision import full_precision
from hiphop_train.nn.tensors import IrreducibleTensors, irreducible_tensors
from hiphop_train.types import Graph, Layout, Table


class Pairs(NamedTuple):
    """The pairs, laid out for all interaction layers of a model.

    Where no pair stands, distances lie beyond any cutoff, so that sensitivities are zero, and so are received tensors.
    """

    sent: Table
    """Lines by sending atom."""
    sent_distance: Tensor
    """(n_sent_slots,) Angstrom."""
    received: Table
    """Lines by receiving atom. Atoms that receive are counted by these lines."""
    received_tensors: Tensor
    """(n_received_slots, n_components), T."""
    sent_to_received: Tensor
    """(n_received_slots,) int64: place by sender of what stands at each place by receiver; 0 where nothing."""
    received_to_sent: Tensor
    """(n_sent_slots,) int64: the other way round."""
    present: Tensor
    """(n_present,) int64: the species that are there."""
    by_species: Optional[Table]
    """Lines by receiving atom and species of the sender, where environment first pays; else what follows is empty."""
    species_distance: Tensor
    """(n_by_species_slots,) Angstrom."""
    species_tensors: Tensor
    """(n_by_species_slots, n_components), T."""
    species_line: Tensor
    """(n_atoms * n_present,) int64: line in `by_species` of receiving atoms, in order of `received`, and species."""
    library: str
    """Compiled convolution that takes the pairs in the order of the receiving atoms, ``sent_distance`` and
    ``received_tensors`` too, and has no use for tables, which then are empty; "" where there is none."""
    start: Tensor
    """(n_atoms + 1,) int64: first pair of each atom; this and the following for the library."""
    sender: Tensor
    """(n_pairs,) int64: sending atom."""
    sender_number: Tensor
    """(n_pairs,) int64: its species among those that are there; empty where environment first does not pay."""


class PairLayout(Compilable):
    """Lay the pairs out once for all interaction layers.

    Compiled, and where nothing will be differentiated twice, that is the order in which they come; otherwise tables.

    Parameters
    ----------
    n_types : number of species
    l_max : highest rank of the tensors
    n_sensitivities, n_features : of the layers
    """

    def __init__(self, n_types: int, l_max: int, n_sensitivities: int, n_features: int) -> None:
        super().__init__()
        self.n_types = n_types
        self.l_max = l_max
        self.n_sensitivities = n_sensitivities
        self.n_features = n_features
        self.tensors = IrreducibleTensors(l_max)

    def forward(self, graph: Graph) -> Pairs:
        """Lay out; in training mode in tables."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return lay_out_pairs(graph, self.n_types, self.l_max, self.n_sensitivities)
        pairs: Pairs = self.choose(graph)
        return pairs

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def choose(self, graph: Graph) -> Pairs:
        """Do as `forward`."""
        if self.kernels is not None and not self.training and self.kernels.serve(graph.pair_vectors):
            start = first_pairs(graph)
            if start is not None:
                found: Pairs = self.in_order(graph, start)
                return found
        return lay_out_pairs(graph, self.n_types, self.l_max, self.n_sensitivities)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def in_order(self, graph: Graph, start: Tensor) -> Pairs:
        """Lay out pairs for the compiled convolution; `start` from `first_pairs`."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1, keepdim=True)
        unit = graph.pair_vectors / distance
        tensors = self.tensors(unit)
        is_present = torch.bincount(graph.species, minlength=self.n_types) > 0
        present = torch.nonzero(is_present)[:, 0]
        n_atoms, nothing = len(graph.species), graph.pair_i[:0]
        number = nothing
        if environment_first_pays(len(graph.pair_i), n_atoms, len(present), tensors.shape[1], self.n_sensitivities):
            number = (torch.cumsum(is_present, 0) - 1).index_select(0, graph.species).index_select(0, graph.pair_j)
        table = Table(nothing, 0, nothing, nothing, [])
        return Pairs(
            sent=table,
            sent_distance=distance.squeeze(1),
            received=table,
            received_tensors=tensors,
            sent_to_received=nothing,
            received_to_sent=nothing,
            present=present,
            by_species=None,
            species_distance=distance[:0, 0],
            species_tensors=tensors[:0],
            species_line=nothing,
            library=str(self.kernels.library),
            start=start,
            sender=graph.pair_j.contiguous(),
            sender_number=number,
        )

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def compile_for(self, dtype: torch.dtype) -> bool:
        """Compile the convolution."""
        if self.n_features % MULTIPLE:
            return False
        library, is_new = compile_library(source(self.n_sensitivities, (self.l_max + 1) ** 2), dtype, IN_VECTORS)
        self.kernels = Compiled(library, dtype)
        return is_new


def environment_first_pays(n_pairs: int, n_atoms: int, n_present: int, n_components: int, n_sensitivities: int) -> bool:
    """Whether it takes fewer multiplications, per feature, where features are the species."""
    return n_pairs * (n_sensitivities + n_components) > n_atoms * n_present * n_components * n_sensitivities


def lay_out_pairs(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Pairs:
    """Lay out the pairs once; all interaction layers use the same tables.

    Parameters
    ----------
    graph : with its pairs in any order; where it has a layout, no number is asked for
    n_types : number of species
    l_max : highest rank of the tensors
    n_sensitivities : of the layers, for the choice of the order of summation
    """
    given = graph.layout
    layout = lay_out_indices(graph, n_types, l_max, n_sensitivities) if given is None else given
    distance = torch.linalg.norm(graph.pair_vectors, dim=1, keepdim=True)
    unit = graph.pair_vectors / distance
    far = 1e4  # Angstrom, beyond any cutoff
    received_tensors = fill_tensors(unit, layout.received, l_max)
    species_distance = distance[:0, 0]
    species_tensors = received_tensors[:0]
    by_species = layout.by_species
    if by_species is not None:
        species_distance = fill(distance, by_species, far).squeeze(1)
        species_tensors = exchange(received_tensors, layout.received_to_species, layout.species_to_received)
    return Pairs(
        sent=layout.sent,
        sent_distance=fill(distance, layout.sent, far).squeeze(1),
        received=layout.received,
        received_tensors=received_tensors,
        sent_to_received=layout.sent_to_received,
        received_to_sent=layout.received_to_sent,
        present=layout.present,
        by_species=by_species,
        species_distance=species_distance,
        species_tensors=species_tensors,
        species_line=layout.species_line,
        library="",
        start=layout.species_line[:0],
        sender=graph.pair_j,
        sender_number=layout.species_line[:0],
    )


def lay_out_indices(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Layout:
    """Do that part of `lay_out_pairs` that depends on species and pairs alone; asks for numbers, so not on a GPU."""
    pair_i, pair_j, n_atoms = graph.pair_i, graph.pair_j, graph.species.shape[0]
    sent = lay_out(pair_j, n_atoms)
    received = lay_out(pair_i, n_atoms)
    by_species: Optional[Table] = None
    received_to_species = species_to_received = species_line = pair_i[:0]
    is_present = torch.bincount(graph.species, minlength=n_types) > 0
    present = torch.nonzero(is_present)[:, 0]
    n_present = present.shape[0]
    if environment_first_pays(pair_i.shape[0], n_atoms, n_present, (l_max + 1) * (l_max + 1), n_sensitivities):
        number = (torch.cumsum(is_present, 0) - 1).index_select(0, graph.species)  # among those that are there
        table = lay_out(pair_i * n_present + number.index_select(0, pair_j), n_atoms * n_present)
        received_to_species, species_to_received = places(received, table), places(table, received)
        numbers = torch.arange(n_present, device=pair_i.device)
        species_line = table.segment_line.index_select(0, (received.line[:, None] * n_present + numbers).flatten())
        by_species = table
    return Layout(
        sent=sent,
        received=received,
        sent_to_received=places(sent, received),
        received_to_sent=places(received, sent),
        present=present,
        by_species=by_species,
        received_to_species=received_to_species,
        species_to_received=species_to_received,
        species_line=species_line,
    )


def with_layout(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Graph:
    """Lay the pairs of a graph out before it goes to a model; the rest is as for `lay_out_pairs`."""
    return graph._replace(layout=lay_out_indices(graph, n_types, l_max, n_sensitivities))


def places(given: Table, asked: Table) -> Tensor:
    """Place in one table of what stands at each place of another (n_slots,) int64; 0 where nothing does."""
    nothing = torch.zeros((asked.n_slots,), dtype=torch.int64, device=asked.slot.device)
    return nothing.scatter(0, asked.slot, given.slot)


def fill_tensors(unit: Tensor, table: Table, l_max: int) -> Tensor:
    """Lay out the irreducible tensors (n_slots, (l_max + 1)^2) of unit vectors (n_pairs, 3) in a table."""
    present = fill(torch.ones_like(unit[:, :1]), table)
    unit = fill(unit, table)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return irreducible_tensors(unit, l_max) * present
    tensors: Tensor = _tensors_in_blocks(unit, present, l_max)
    return tensors


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _tensors_in_blocks(unit: Tensor, present: Tensor, l_max: int) -> Tensor:
    def tensors(unit: Tensor, present: Tensor) -> Tensor:
        return irreducible_tensors(unit, l_max) * present

    with full_precision(unit):
        return in_blocks(tensors, [unit, present], PAIRS)


def exchange(rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Bring rows into another order.

    Parameters
    ----------
    rows : (n_rows, n_columns)
    there : (n_found,) int64, row that comes to each place
    back : (n_rows,) int64, place to which each row comes; anything, in both, where the row is of no consequence
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return rows.index_select(0, there)
    exchanged: Tensor = _exchange(rows, there, back)
    return exchanged


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _exchange(rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
    exchanged: Tensor = _Exchange.apply(rows, there, back)  # type: ignore[no-untyped-call]
    return exchanged


class _Exchange(Function):
    """Autograd's own derivative adds row by row, since it cannot know that none comes twice.

    Places where no pair stands get any row, there and back: what stands beside them in the products is zero.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _exchange(gradient, back, there), None, None
