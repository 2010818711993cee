"""The graph shared by data, models, export and engines, and the dictionary of outputs.

Annotations are those supported by TorchScript.
"""

from typing import Callable, Dict, NamedTuple

from torch import Tensor

Outputs = Dict[str, Tensor]
"""Outputs and labels under the same keys: those of `hiphop_train.targets`, and ``atomic_energy`` (n_atoms,) eV,
``level_energies`` (n_atoms, n_levels) eV, ``hierarchicality`` (n_systems,), ``virial`` (n_systems, 3, 3) eV."""


class Graph(NamedTuple):
    """One structure or a batch of structures, with all pairs of atoms within the cutoff.

    Every ordered pair appears once: atom ``pair_i`` receives from atom ``pair_j``. Models use the geometry only
    through ``pair_vectors``; forces and virial follow from the derivative of the energy with respect to them.
    `hiphop_train.graph.assemble.make_graph` constructs it.
    """

    species: Tensor
    """(n_atoms,) int64: index into the model's list of type names."""
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
    """Precomputed tensors under keys that start with the name of their owner (see `hiphop_train.accelerate`); those
    whose key starts with `ON_HOST` stay in the host's memory. Models need none."""


ON_HOST = "host:"
"""Prefix of the keys of extras that the host reads, which on a GPU would synchronise host and device."""

Prepare = Callable[[Graph], Graph]
"""Adds extras to a graph, in the loader; picklable."""


class Batch(NamedTuple):
    """A graph with its labels.

    Labels have the keys of the targets. Each ``key`` has a ``key_weight``, one number per entry, 0 for missing labels
    and for structures that only pad a rank's share; and a ``key_scale`` (), by which losses are multiplied: the number
    of structures (or atoms) in the whole batch relative to the mean over batches. ``weight`` (n_systems,) is that of
    the structures.
    """

    graph: Graph
    labels: Outputs
    sample: Tensor
    """(n_systems,) int64: index of each structure in its data set."""
