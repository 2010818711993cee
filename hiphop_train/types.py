"""The one graph that data, models, export and engines share, and the dictionary of outputs.

Annotations are written in the form that TorchScript understands.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from torch import Tensor

Outputs = Dict[str, Tensor]
"""Outputs and labels under the same keys: ``energy`` (n_systems,) eV, ``forces`` (n_atoms, 3) eV/Angstrom,
``virial`` (n_systems, 3, 3) eV, ``atomic_energy`` (n_atoms,) eV, ``level_energies`` (n_atoms, n_levels) eV,
``hierarchicality`` (n_systems,)."""


Blocks = List[Tuple[int, int, int, int]]
"""Of each block of a table: first line, number of lines, first place, places in a line."""


class Table(NamedTuple):
    """Where each row stands in a table with one line per segment, see `hiphop_train.graph.tables`."""

    slot: Tensor
    """(n_rows,) int64: place of each row, all different."""
    n_slots: int
    """Number of places."""
    line: Tensor
    """(n_segments,) int64: segment that stands in each line."""
    segment_line: Tensor
    """(n_segments,) int64: line in which each segment stands."""
    blocks: Blocks


class Layout(NamedTuple):
    """Where the pairs stand in the tables of `hiphop_train.nn.messages`; follows from species and pairs alone.

    The numbers in it are the computer's own, also where the tensors lie on a GPU.
    """

    sent: Table
    """Lines by sending atom."""
    received: Table
    """Lines by receiving atom."""
    sent_to_received: Tensor
    """(n_received_slots,) int64: place by sender of what stands at each place by receiver; 0 where nothing."""
    received_to_sent: Tensor
    """(n_sent_slots,) int64: the other way round."""
    present: Tensor
    """(n_present,) int64: the species that are there."""
    by_species: Optional[Table]
    """Lines by receiving atom and species of the sender, where it pays; else what follows is empty."""
    received_to_species: Tensor
    """(n_by_species_slots,) int64: place by receiver of what stands at each place by species."""
    species_to_received: Tensor
    """(n_received_slots,) int64: the other way round."""
    species_line: Tensor
    """(n_atoms * n_present,) int64: line in `by_species` of receiving atoms, in order of `received`, and species."""


class Graph(NamedTuple):
    """One structure or a batch of structures, with all pairs of atoms inside of the cutoff.

    Every ordered pair appears once: atom ``pair_i`` receives from atom ``pair_j``. Models see geometry only
    through ``pair_vectors``; forces and virial come from the energy's derivative with respect to them.
    """

    species: Tensor
    """(n_atoms,) int64: index into the model's own list of type names."""
    positions: Tensor
    """(n_atoms, 3) Angstrom."""
    cell: Tensor
    """(n_systems, 3, 3) Angstrom, rows are lattice vectors; zero where a system is open."""
    pbc: Tensor
    """(n_systems, 3) bool."""
    system: Tensor
    """(n_atoms,) int64, ascending: the system to which each atom belongs."""
    n_systems: int
    pair_i: Tensor
    """(n_pairs,) int64, ascending: the receiving atom."""
    pair_j: Tensor
    """(n_pairs,) int64: the sending atom."""
    pair_shift: Tensor
    """(n_pairs, 3) int64: lattice translation of the sending atom."""
    pair_vectors: Tensor
    """(n_pairs, 3) Angstrom: r_j + shift . cell - r_i, in the network's floating-point type."""
    n_owned: int
    """Atoms from this index on are ghosts of a parallel engine: they act, but carry no energy."""
    level: Tensor
    """(n_systems,) int64: level of theory, index into the rows of E0."""
    total_charge: Tensor
    """(n_systems,) elementary charges."""
    spin: Tensor
    """(n_systems,) number of unpaired electrons."""
    conditions: Tensor
    """(n_systems, n_conditions): further inputs of a system, a temperature for instance."""
    triples: Optional[Tensor] = None
    """(2, n_triples) int64: two pairs of the same receiving atom, for models that need them."""
    layout: Optional[Layout] = None
    """For models that need it. It and the two beside it are made with a batch, so that a GPU need not be asked for
    numbers in a step; models make what is missing."""
    n_of_type: Optional[List[int]] = None
    """Number of atoms of each species."""


Preparation = Callable[[Graph], Graph]
"""Adds to a graph, where it is made, what a model needs of it; can be sent to other processes."""


class Batch(NamedTuple):
    """A graph with its labels.

    Labels have the keys of the outputs, and beside them ``weight`` (n_systems,), ``energy_weight`` (n_systems,) and
    ``forces_weight`` (n_atoms,): 0 where a structure only fills up a rank's share, or a label is missing. Losses of
    energies and of forces are multiplied by ``energy_scale`` () and ``forces_scale`` (): how the numbers of structures
    and atoms in the whole batch compare with those of a mean batch, where batches differ in size.
    """

    graph: Graph
    labels: Outputs
    sample: Tensor
    """(n_systems,) int64: number of each structure in its data set."""
