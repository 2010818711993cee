"""Assembly of a `Graph` from positions and pairs; TorchScript-safe."""

from typing import Dict, Optional

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
    theory: Optional[Tensor] = None,
    vectors: Optional[Tensor] = None,
    n_owned: Optional[int] = None,
) -> Graph:
    """Assemble a graph.

    Differences of positions are computed in the (double) precision of the positions, then rounded.

    Parameters
    ----------
    species, positions, cell, pbc, system, n_systems, pair_i, pair_j, pair_shift : as in `Graph`
    dtype : floating-point type of the network, and of the pair vectors
    theory : (n_systems,) int64, level of theory; by default the first
    vectors : (n_pairs, 3) Angstrom, of the pairs, if known
    n_owned : number of atoms that are not ghosts; by default all
    """
    if vectors is None:
        vectors = pair_vectors(positions, cell, system, pair_i, pair_j, pair_shift)
    if theory is None:
        theory = torch.zeros((n_systems,), dtype=torch.int64, device=positions.device)
    extras: Dict[str, Tensor] = {}
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
        n_owned=positions.shape[0] if n_owned is None else n_owned,
        theory=theory,
        extras=extras,
    )


def with_pair_vectors(graph: Graph, vectors: Tensor) -> Graph:
    """Return the same graph with other pair vectors (TorchScript has no ``_replace``)."""
    return Graph(
        graph.species,
        graph.positions,
        graph.cell,
        graph.pbc,
        graph.system,
        graph.n_systems,
        graph.pair_i,
        graph.pair_j,
        graph.pair_shift,
        vectors,
        graph.n_owned,
        graph.theory,
        graph.extras,
    )
