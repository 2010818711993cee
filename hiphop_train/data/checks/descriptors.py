"""Descriptors of structures: nearest distances, net forces, hashes of equal and of nearly equal geometries."""

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hiphop_train.data.hashes import GOLDEN_RATIO, Hashes, chain, index_within, sum_rows
from hiphop_train.data.structures import Structures
from hiphop_train.targets import TARGETS

PAIRS_AT_ONCE = 1_000_000
LARGE = 1000
"""Number of atoms above which pairs are searched with a tree."""
REACH = 2.75
"""Angstrom, longer than any bond."""
N_PROJECTIONS, N_DISTANCES = 8, 256
GRID = 0.02
"""Angstrom, width of the bins of projected distances."""


@dataclass(frozen=True, eq=False)
class GeometryDescriptors:
    """Descriptors of the positions of each structure.

    Attributes
    ----------
    contact : (n,) float32, smallest ratio of distance to sum of covalent radii; infinite for single atoms
    nearest : (n,) float32, smallest distance, Angstrom
    exact : (n,) uint64, hash that is equal for the same atoms at the same positions, in any order
    near : (n, 2) uint64, two hashes, of which one is equal for nearly equal distances in the same sequence of elements
    order : (n,) float32, Angstrom, one projection of the distances, nearly equal for nearly equal distances
    """

    contact: NDArray[np.float32]
    nearest: NDArray[np.float32]
    exact: Hashes
    near: Hashes
    order: NDArray[np.float32]


def geometry_descriptors(structures: Structures) -> GeometryDescriptors:
    """Compute the descriptors of all positions, without a loop over structures of the same size.

    Parameters
    ----------
    structures : few enough to fit in memory
    """
    n = len(structures)
    contact, nearest = np.full(n, np.inf, np.float32), np.full(n, np.inf, np.float32)
    near, order = np.zeros((n, 2), np.uint64), np.zeros(n, np.float32)
    sizes = structures.sizes
    periodic = structures.pbc.any(axis=1)
    index = index_within(structures.offsets)[:, None].astype(np.float64)
    sequence = sum_rows(_atom_hashes(structures.numbers, index), structures.offsets)
    sequence ^= structures.theory.astype(np.uint64) * GOLDEN_RATIO
    for size in np.unique(sizes[~periodic]).tolist():
        if size == 1:
            continue
        chosen = np.flatnonzero((sizes == size) & ~periodic)
        step = max(1, PAIRS_AT_ONCE // min(size * (size - 1) // 2, LARGE * LARGE))
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            atoms = structures.offsets[part][:, None] + np.arange(size)
            positions = (structures.positions[atoms] - structures.positions[atoms[:, :1]]).astype(np.float32)
            numbers = structures.numbers[atoms]
            closest = _closest if size < LARGE else _closest_of_large
            contact[part], nearest[part] = closest(positions, numbers)
            near[part], order[part] = _near_hashes(positions, sequence[part])
    for k in np.flatnonzero(periodic):
        contact[k], nearest[k] = _closest_periodic(structures, int(k))
    exact = sum_rows(_atom_hashes(structures.numbers, structures.positions), structures.offsets)
    exact += structures.theory.astype(np.uint64)
    alone = (near == 0).all(axis=1)  # single atoms and periodic structures: distinguished by their exact hashes
    near[alone] = exact[alone, None]
    return GeometryDescriptors(contact, nearest, exact, near, order)


def distances(positions: NDArray[np.floating]) -> NDArray[np.float64]:
    """All distances between the atoms of one open structure, in a fixed order."""
    i, j = np.triu_indices(len(positions), 1)
    found: NDArray[np.float64] = np.linalg.norm(positions[i].astype(np.float64) - positions[j], axis=1)
    return found


@dataclass(frozen=True, eq=False)
class NetForces:
    """Sums over the forces of each structure; NaN where they are unknown.

    Attributes
    ----------
    net_force : (n,) float32, eV/Angstrom, norm of the sum of all forces
    net_torque : (n,) float32, eV, norm of the sum of all torques; NaN where periodic
    """

    net_force: NDArray[np.float32]
    net_torque: NDArray[np.float32]


def net_forces(structures: Structures) -> NetForces:
    """Sum forces and torques over each structure."""
    starts = structures.offsets[:-1]
    forces = structures.forces.astype(np.float64, copy=False)
    net = np.add.reduceat(forces, starts, axis=0)
    centre = np.add.reduceat(structures.positions.astype(np.float64, copy=False), starts, axis=0)
    arms = structures.positions - np.repeat(centre / structures.sizes[:, None], structures.sizes, axis=0)
    torque = np.linalg.norm(np.add.reduceat(np.cross(arms, forces), starts, axis=0), axis=1)
    torque[structures.pbc.any(axis=1)] = np.nan
    values = np.stack([np.linalg.norm(net, axis=1), torque]).astype(np.float32)
    values[:, ~structures.has_forces] = np.nan
    return NetForces(values[0], values[1])


def largest_norms(structures: Structures) -> dict[str, NDArray[np.float32]]:
    """(n,) largest norm of an entry of each target in each structure, in the target's unit; NaN where unknown."""
    found = {}
    for key, array in structures.labels.items():
        flat = array.reshape(len(array), -1).astype(np.float64, copy=False)
        norm = np.sqrt(np.einsum("ax,ax->a", flat, flat))
        if TARGETS[key].per == "atom" and len(norm):
            norm = np.maximum.reduceat(norm, structures.offsets[:-1])
        norm[~structures.has(key)] = np.nan
        found[key] = norm.astype(np.float32)
    return found


def _closest(
    positions: NDArray[np.float32], numbers: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smallest ratio to the radii and smallest distance in structures of one size: positions (n, n_atoms, 3)."""
    i, j = np.triu_indices(positions.shape[1], 1)
    distance = np.linalg.norm(positions[:, i] - positions[:, j], axis=2)
    radii = covalent_radii.astype(np.float32)[numbers]
    ratio: NDArray[np.float32] = (distance / (radii[:, i] + radii[:, j])).min(axis=1)
    return ratio, distance.min(axis=1)


def _closest_of_large(
    positions: NDArray[np.float32], numbers: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    found = []
    for x, z in zip(positions, numbers, strict=True):
        i, j = cKDTree(x).query_pairs(REACH, output_type="ndarray").T
        distance = np.linalg.norm(x[i] - x[j], axis=1)
        ratio = distance / (covalent_radii[z[i]] + covalent_radii[z[j]])
        found.append((ratio.min(initial=np.inf), distance.min(initial=np.inf)))
    contact, nearest = np.array(found, np.float32).T
    return contact, nearest


def _closest_periodic(structures: Structures, k: int) -> tuple[float, float]:
    import torch  # slow, and most sets are not periodic

    from hiphop_train.graph.neighbours import neighbours

    atoms = slice(structures.offsets[k], structures.offsets[k + 1])
    positions = structures.positions[atoms].astype(np.float64)
    cell = torch.from_numpy(np.array(structures.cell[k], np.float64))
    pbc = torch.from_numpy(np.array(structures.pbc[k]))
    found = neighbours(torch.from_numpy(positions), cell, pbc, REACH)
    i, j, shift = (tensor.numpy() for tensor in found)
    distance = np.linalg.norm(positions[j] + shift @ structures.cell[k] - positions[i], axis=1)
    radii = covalent_radii[structures.numbers[atoms]]
    return float((distance / (radii[i] + radii[j])).min(initial=np.inf)), float(distance.min(initial=np.inf))


def _near_hashes(positions: NDArray[np.float32], sequence: Hashes) -> tuple[Hashes, NDArray[np.float32]]:
    """Hashes of the bins of distances projected on a few random directions (locality-sensitive hashing).

    Distances that differ by at most delta (root mean square) have projections that differ by about delta; of the two
    grids, one is shifted by half a bin, so that few near pairs are separated by both.
    """
    n_atoms = positions.shape[1]
    rng = np.random.default_rng(n_atoms)
    if n_atoms * (n_atoms - 1) // 2 <= N_DISTANCES:
        i, j = np.triu_indices(n_atoms, 1)
    else:
        i = rng.integers(n_atoms, size=N_DISTANCES)
        j = (i + rng.integers(1, n_atoms, size=N_DISTANCES)) % n_atoms
    distance = np.linalg.norm(positions[:, i] - positions[:, j], axis=2)
    directions = rng.normal(size=(len(i), N_PROJECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    projected = distance @ directions  # (n, N_PROJECTIONS)
    hashes = np.empty((len(positions), 2), np.uint64)
    for k in (0, 1):
        boxes = np.floor(projected / np.float32(GRID) + np.float32(0.5 * k)).astype(np.int64).view(np.uint64)
        hashes[:, k] = sequence
        for box in boxes.T:
            hashes[:, k] = chain(hashes[:, k], box)
    return hashes, projected[:, 0]


def _atom_hashes(numbers: NDArray[np.uint8], values: NDArray[np.floating]) -> Hashes:
    """(n_atoms,) hashes of elements with values, (n_atoms, n_values)."""
    hashes = numbers.astype(np.uint64)
    for column in (values.astype(np.float64) + 0.0).view(np.uint64).T:  # + 0.0 turns -0.0 into 0.0
        hashes = chain(hashes, column)
    return hashes
