"""Assembly of a `Graph` from positions and pairs; TorchScript-safe."""

from typing import Optional

import torch
from torch import Tensor

from hiphop_train.types import Graph


def pair_vectors(
    positions: Tensor, cell: Tensor, system: Tensor, pair_i: Tensor, pair_j: Tensor, pair_shift: Tensor
) -> Tensor:
    """Vector from the receiving to the sending atom of each pair, r_j + shift . cell - r_i (n_pairs, 3), Angstrom."""
    vectors = positions.index_select(0, pair_j) - positions.index_select(0, pair_i)
    if bool(pair_shift.any()):
        translation = torch.einsum("pk,pkx->px", pair_shift.to(cell.dtype), cell[system[pair_i]])
        vectors = vectors + translation
    return vectors


def make_graph(
    species: Tensor,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    system: Tensor,
    n_systems: int,
    pair_i: Tensor,
    pair_j: Tensor,
    pair_shift: Tensor,
    dtype: torch.dtype,
    level: Optional[Tensor] = None,
    vectors: Optional[Tensor] = None,
) -> Graph:
    """Assemble a graph of neutral closed-shell systems.

    Differences of positions are taken in the positions' own (double) precision and rounded afterwards.

    Parameters
    ----------
    species, positions, cell, pbc, system, n_systems, pair_i, pair_j, pair_shift : as in `Graph`
    dtype : floating-point type of the network, which the pair vectors get
    level : (n_systems,) int64, level of theory; by default the first
    vectors : (n_pairs, 3) Angstrom, of the pairs, where they are known
    """
    if vectors is None:
        vectors = pair_vectors(positions, cell, system, pair_i, pair_j, pair_shift)
    none = torch.zeros((n_systems,), dtype=torch.int64, device=positions.device)
    return Graph(
        species=species,
        positions=positions,
        cell=cell,
        pbc=pbc,
        system=system,
        n_systems=n_systems,
        pair_i=pair_i,
        pair_j=pair_j,
        pair_shift=pair_shift,
        pair_vectors=vectors.to(dtype),
        n_owned=positions.shape[0],
        level=none if level is None else level,
        total_charge=none.to(dtype),
        spin=none.to(dtype),
        conditions=torch.zeros((n_systems, 0), dtype=dtype, device=positions.device),
        triples=None,
    )


def with_pair_vectors(graph: Graph, vectors: Tensor) -> Graph:
    """Return the same graph with other pair vectors (TorchScript has no ``_replace``)."""
    return Graph(
        species=graph.species,
        positions=graph.positions,
        cell=graph.cell,
        pbc=graph.pbc,
        system=graph.system,
        n_systems=graph.n_systems,
        pair_i=graph.pair_i,
        pair_j=graph.pair_j,
        pair_shift=graph.pair_shift,
        pair_vectors=vectors,
        n_owned=graph.n_owned,
        level=graph.level,
        total_charge=graph.total_charge,
        spin=graph.spin,
        conditions=graph.conditions,
        triples=graph.triples,
        layout=graph.layout,
        n_of_type=graph.n_of_type,
    )
