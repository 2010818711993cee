"""Benchmark systems: structures from files, boxes of water, molecules to train on."""

# mypy: allow-untyped-calls

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.io import read
from numpy.typing import NDArray

from hiphop_train.benchmark.worker import Workload
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.graph.neighbours import batch_neighbours

VOLUME = (atomic_masses[8] + 2 * atomic_masses[1]) / 0.602214076
"""Cubic Angstrom of a water molecule at 1 g/cm3: molar mass (g/mol) over Avogadro's number times 10^-24."""

BOND, ANGLE = 0.9572, math.radians(104.52)
"""Geometry of a water molecule, Angstrom and radian."""

SHORTEST = 1.5
"""Shortest distance between atoms of two molecules of water, Angstrom."""

LATTICE_JITTER = 0.1
"""Standard deviation of a molecule's displacement from its lattice site, Angstrom."""


@dataclass(frozen=True, eq=False)
class System:
    """One structure to time.

    Attributes
    ----------
    name : of the file, or ``water``
    numbers : (n_atoms,) atomic numbers
    positions : (n_atoms, 3) Angstrom
    cell : (3, 3) Angstrom, rows are lattice vectors, zero where open
    pbc : (3,) bool
    is_water : whether it is a box from `water`; these have the same density
    """

    name: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    is_water: bool = False

    def __len__(self) -> int:
        return len(self.numbers)


def from_file(file: Path) -> System:
    """Read the first structure of a file in any of ASE's formats (PDB files may end with an empty one)."""
    if not file.is_file():
        raise ConfigError(f"structures: {file} does not exist")
    try:
        atoms = read(file, index=0)
    except Exception as error:  # ASE's readers raise errors of any kind
        raise DataError(f"structures: {file} cannot be read by ASE: {type(error).__name__}: {error}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise DataError(f"structures: {file} contains no atoms")
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    if atoms.pbc.any() and np.linalg.matrix_rank(cell) < atoms.pbc.sum():
        raise DataError(f"structures: {file} is periodic, but its cell has no volume: {cell.tolist()}")
    return System(file.stem, atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64), cell, atoms.pbc.copy())


def check_water(n_atoms: int) -> None:
    """Raise `ConfigError` unless the number of atoms is a multiple of 3."""
    if n_atoms < 3 or n_atoms % 3:
        nearest = 3 * max(1, round(n_atoms / 3))
        raise ConfigError(
            f"water: {n_atoms} atoms are not an integer number of molecules; nearest: {nearest} (multiples of 3)"
        )


def water(n_atoms: int, seed: int) -> System:
    """Generate a nearly cubic periodic box of water at 1 g/cm3: molecules on a jittered lattice, randomly oriented.

    All sizes have exactly the same density. Atoms of two molecules are at least `SHORTEST` apart: colliding molecules
    are reoriented. It is not an equilibrated liquid, but its atoms have as many neighbours.

    Parameters
    ----------
    n_atoms : a multiple of 3
    seed : of positions and orientations
    """
    check_water(n_atoms)
    n = n_atoms // 3
    rng = np.random.default_rng([seed, n])
    shape = lattice(n)
    spacing = (n * VOLUME / math.prod(shape)) ** (1 / 3)  # Angstrom
    sites = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    empty = rng.choice(len(sites), len(sites) - n, replace=False)
    centres = spacing * (np.delete(sites, empty, axis=0) + 0.5)
    centres += np.clip(LATTICE_JITTER * rng.standard_normal(centres.shape), -0.2, 0.2)
    cell = np.diag(spacing * np.array(shape))
    positions = centres[:, None] + oriented(n, rng)  # (n, 3, 3)
    for _ in range(1000):
        colliding = collisions(positions, cell)
        if len(colliding) == 0:
            break
        positions[colliding] = centres[colliding, None] + oriented(len(colliding), rng)
    else:
        raise AssertionError(f"water: no arrangement of {n} molecules was found")
    numbers = np.tile([8, 1, 1], n).astype(np.int64)
    return System("water", numbers, positions.reshape(-1, 3), cell, np.ones(3, np.bool_), is_water=True)


def settling(elements: list[str]) -> System:
    """Return a zigzag chain of a few atoms, on which programs warm up."""
    n = 8
    numbers = np.array([atomic_numbers[elements[k % len(elements)]] for k in range(n)], np.int64)
    positions = np.stack([1.1 * np.arange(n), 0.7 * (np.arange(n) % 2), 0.1 * np.arange(n) ** 1.5], axis=1)
    return System("a small chain", numbers, positions, np.zeros((3, 3)), np.zeros(3, np.bool_))


def lattice(n: int) -> tuple[int, int, int]:
    """Return the numbers of sites along the edges of the smallest nearly cubic lattice of at least `n` sites."""
    edge = max(1, round(n ** (1 / 3)))
    around = range(max(1, edge - 1), edge + 3)
    shapes = [(a, b, c) for a in around for b in around if b >= a for c in around if c >= b and a * b * c >= n]
    return min(shapes, key=lambda shape: (math.prod(shape), shape[2] - shape[0]))


def oriented(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Water molecules (n, 3, 3) in random orientations: O H H about the centre of O and the midpoint of the two H."""
    half = 0.5 * ANGLE
    flat = BOND * np.array([[0, 0, 0], [math.sin(half), 0, math.cos(half)], [-math.sin(half), 0, math.cos(half)]])
    flat[:, 2] -= 0.25 * BOND * math.cos(half)
    quaternion = rng.standard_normal((n, 4))
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )  # (3, 3, n)
    turned: NDArray[np.float64] = np.einsum("xkn,ak->nax", rotation, flat)
    return turned


def collisions(positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of molecules too close to an image of themselves or to another molecule (the later of each pair)."""
    flat = positions.reshape(-1, 3)
    pair_i, pair_j, shift = pairs_of(flat, cell[None], np.ones((1, 3), np.bool_), [len(flat)], SHORTEST)
    foreign = (pair_i // 3 != pair_j // 3) | shift.any(axis=1)
    pair_i, pair_j = pair_i[foreign] // 3, pair_j[foreign] // 3
    chosen: NDArray[np.int64] = np.unique(np.maximum(pair_i, pair_j))
    return chosen


def pairs_of(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    sizes: list[int],
    cutoff: float | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find all pairs in a batch by `batch_neighbours`, as arrays; empty if the cutoff is None."""
    if cutoff is None:
        none = np.zeros(0, np.int64)
        return none, none, none.reshape(0, 3)
    found = batch_neighbours(
        torch.from_numpy(positions), torch.tensor(sizes), torch.from_numpy(cell), torch.from_numpy(pbc), cutoff
    )
    return found[0].numpy(), found[1].numpy(), found[2].numpy()


def work_of(system: System, cutoff: float | None) -> Workload:
    """Return a structure as a workload, with pairs if a cutoff is given."""
    cell, pbc = system.cell[None], system.pbc[None]
    pairs = pairs_of(system.positions, cell, pbc, [len(system)], cutoff)
    atoms = np.zeros(len(system), np.int64)
    labels = (np.zeros(1), np.zeros((len(system), 3)))
    return Workload(system.numbers, system.positions, cell, pbc, atoms, *pairs, *labels)


def batch_of(structures: Structures, cutoff: float | None) -> Workload:
    """Return a batch of all structures with labels: missing ones are zero, and the mean energy is subtracted.

    Total energies are large; in float32 their mean square would dominate.
    """
    sizes = structures.sizes
    positions = structures.positions.astype(np.float64)
    pairs = pairs_of(positions, structures.cell, structures.pbc, sizes.tolist(), cutoff)
    energy = np.nan_to_num(structures.energy)
    return Workload(
        structures.numbers.astype(np.int64), positions, structures.cell, structures.pbc,
        np.repeat(np.arange(len(structures)), sizes), *pairs, energy - energy.mean(),
        np.nan_to_num(structures.forces).astype(np.float64),
    )  # fmt: skip


def clusters(n: int, seed: int) -> Structures:
    """Return `n` geometries of methoxyethane with a water molecule, 15 atoms, with zero energies and random forces."""
    rng = np.random.default_rng(seed)
    drop = molecule("H2O")
    drop.translate([0.0, 0.0, 3.5])
    whole = molecule("CH3CH2OCH3") + drop
    positions = whole.positions + 0.05 * rng.standard_normal((n, len(whole), 3))
    collector = Collector("methoxyethane and water")
    labels = {"energy": np.zeros(n), "forces": rng.standard_normal(positions.shape)}
    collector.add("all", whole.numbers, positions, labels)
    return collector.finish("all")


def check_elements(system: System, elements: list[str], whose: str) -> None:
    """Raise `ConfigError` if a structure has an element that a program does not support."""
    known = [atomic_numbers[symbol] for symbol in elements if symbol in atomic_numbers]
    unknown = sorted(set(system.numbers.tolist()) - set(known))
    if unknown:
        names = ", ".join(chemical_symbols[number] for number in unknown)
        raise ConfigError(
            f"{system.name} contains {names}, which {whose} does not support; supported: {', '.join(elements)}"
            + (f": 'model.elements=[{','.join([*elements, *names.split(', ')])}]'" if whose == "the model" else "")
        )
