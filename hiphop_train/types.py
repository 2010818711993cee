"""The one graph that data, models, export and engines share, and the dictionary of outputs.

Annotations are written in the form that TorchScript understands.
"""

from typing import Callable, Dict, NamedTuple

from torch import Tensor

Outputs = Dict[str, Tensor]
"""Outputs and labels under the same keys: those of `hiphop_train.targets`, and beside them ``atomic_energy`` (n_atoms,)
eV, ``level_energies`` (n_atoms, n_levels) eV, ``hierarchicality`` (n_systems,), ``virial`` (n_systems, 3, 3) eV."""


class Graph(NamedTuple):
    """One structure or a batch of structures, with all pairs of atoms within the cutoff.

    Every ordered pair appears once: atom ``pair_i`` receives from atom ``pair_j``. Models see geometry only
    through ``pair_vectors``; forces and virial come from the derivative of the energy with respect to them.
    `hiphop_train.graph.assemble.make_graph` is its constructor.
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
    """Atoms from this index on are ghosts of a parallel engine: they send messages, but carry no energy."""
    theory: Tensor
    """(n_systems,) int64: level of theory, index into the rows of E0."""
    extras: Dict[str, Tensor]
    """What somebody prepared for a use of their own, under a key that starts with their name (see
    `hiphop_train.accelerate`); tensors whose key starts with `ON_HOST` stay in the host's memory. Models need none."""


ON_HOST = "host:"
"""Start of the keys of extras whose numbers the host reads: on a GPU, reading them would be a synchronisation."""

Prepare = Callable[[Graph], Graph]
"""Adds extras to a graph, in the loader; can be sent to other processes."""


class Batch(NamedTuple):
    """A graph with its labels.

    Labels have the keys of the targets; beside each ``key`` there are ``key_weight``, one number per entry: 0 where a
    label is missing or a structure only completes a rank's share, and ``key_scale`` (), by which losses are multiplied:
    the number of structures (or atoms) in the whole batch relative to a mean batch, where batches differ in size.
    ``weight`` (n_systems,) is that of the structures themselves.
    """

    graph: Graph
    labels: Outputs
    sample: Tensor
    """(n_systems,) int64: number of each structure in its data set."""
