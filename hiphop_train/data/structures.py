"""Structures with labels in flat arrays: what readers give, and what batches are cut from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.errors import DataError


@dataclass(frozen=True, eq=False)
class Structures:
    """Many structures, atoms of one after those of another.

    Attributes
    ----------
    source : name of the file or set, for messages
    offsets : (n + 1,) int64; atoms of structure k are [offsets[k], offsets[k + 1])
    numbers : (n_atoms,) uint8 atomic numbers
    positions : (n_atoms, 3) float64, Angstrom
    cell : (n, 3, 3) float64, Angstrom, rows are lattice vectors, zero where open
    pbc : (n, 3) bool
    energy : (n,) float64, eV, total; NaN where missing
    forces : (n_atoms, 3) float64, eV/Angstrom, true forces; NaN where missing
    group : (n,) int64, index into `group_names`
    group_names : names of the sets (molecules, formulas) whose members are conformers of each other
    subset : (n,) int64, index into `subset_names`
    subset_names : names of the parts (files) of a collection
    """

    source: str
    offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    group: NDArray[np.int64]
    group_names: tuple[str, ...]
    subset: NDArray[np.int64]
    subset_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) number of atoms of each structure."""
        sizes: NDArray[np.int64] = np.diff(self.offsets)
        return sizes

    @property
    def has_energy(self) -> NDArray[np.bool_]:
        """(n,) whether the energy is known."""
        known: NDArray[np.bool_] = np.isfinite(self.energy)
        return known

    @property
    def has_forces(self) -> NDArray[np.bool_]:
        """(n,) whether the forces on all atoms are known."""
        missing = (~np.isfinite(self.forces)).any(axis=1)
        structure = np.repeat(np.arange(len(self)), self.sizes)
        found: NDArray[np.bool_] = np.bincount(structure, missing, len(self)) == 0
        return found

    def atoms_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of all atoms of some structures, in the order of these."""
        sizes = self.sizes[index]
        starts = np.repeat(self.offsets[index], sizes)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        atoms: NDArray[np.int64] = starts + within
        return atoms

    def take(self, index: NDArray[np.int64]) -> "Structures":
        """Choose structures, in the given order."""
        atoms = self.atoms_of(index)
        return Structures(
            source=self.source,
            offsets=np.concatenate([[0], np.cumsum(self.sizes[index])]).astype(np.int64),
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            cell=self.cell[index],
            pbc=self.pbc[index],
            energy=self.energy[index],
            forces=self.forces[atoms],
            group=self.group[index],
            group_names=self.group_names,
            subset=self.subset[index],
            subset_names=self.subset_names,
        )

    def composition(self, elements: Sequence[int]) -> NDArray[np.float64]:
        """(n, n_elements) number of atoms of each atomic number."""
        counts = np.stack([self.numbers == number for number in elements], axis=1).astype(np.float64)
        return np.add.reduceat(counts, self.offsets[:-1], axis=0) if len(self) else counts[:0]

    def name(self, k: int) -> str:
        """Where structure k comes from, for messages: subset, group and number."""
        return f"{self.subset_names[self.subset[k]]}, group {self.group_names[self.group[k]]}, structure {k}"


def concatenate(parts: Sequence[Structures], source: str) -> Structures:
    """Put sets one after another; groups and subsets stay apart even where their names are equal."""
    if not parts:
        raise DataError(f"{source}: no structures were found")
    sizes = np.concatenate([part.sizes for part in parts])
    n_groups = np.cumsum([0] + [len(part.group_names) for part in parts])
    n_subsets = np.cumsum([0] + [len(part.subset_names) for part in parts])
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Structures)
        if field.name in ("numbers", "positions", "cell", "pbc", "energy", "forces")
    }
    return Structures(
        source=source,
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        group=np.concatenate([part.group + n for part, n in zip(parts, n_groups, strict=False)]),
        group_names=tuple(name for part in parts for name in part.group_names),
        subset=np.concatenate([part.subset + n for part, n in zip(parts, n_subsets, strict=False)]),
        subset_names=tuple(name for part in parts for name in part.subset_names),
        **joined,
    )


class Collector:
    """Gather blocks of conformers of one composition into one `Structures`, checking shapes on the way.

    Parameters
    ----------
    source : name of the file, for messages
    energy_factor : eV per unit of the file's energies
    length_factor : Angstrom per unit of the file's lengths
    force_factor : what the file's force column is multiplied with, sign included
    may_miss : whether NaN stands for a missing label; otherwise it is an error
    """

    def __init__(
        self, source: str, energy_factor: float, length_factor: float, force_factor: float, may_miss: bool = True
    ) -> None:
        self.source = source
        self.may_miss = may_miss
        self.energy_factor = energy_factor
        self.length_factor = length_factor
        self.force_factor = force_factor
        self.blocks: list[dict[str, NDArray[Any]]] = []
        self.groups: list[str] = []

    def add(
        self,
        group: str,
        numbers: NDArray[np.int64],
        positions: NDArray[np.float64],
        energy: NDArray[np.float64],
        forces: NDArray[np.float64] | None,
        cell: NDArray[np.float64] | None = None,
        pbc: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add conformers of one group: numbers (n_atoms,), positions and forces (n, n_atoms, 3), energy (n,)."""
        where = f"{self.source}, group {group}"
        if numbers.ndim != 1 or len(numbers) == 0:
            raise DataError(f"{where}: atomic numbers have shape {numbers.shape}; expected (n_atoms,) with n_atoms > 0")
        if numbers.min() < 1 or numbers.max() > 118:
            raise DataError(f"{where}: atomic number {numbers[(numbers < 1) | (numbers > 118)][0]} is no element")
        if energy.ndim != 1:
            raise DataError(f"{where}: energies have shape {energy.shape}; expected one number per conformation")
        n, n_atoms = len(energy), len(numbers)
        for name, array, shape in (("coordinates", positions, (n, n_atoms, 3)), ("forces", forces, (n, n_atoms, 3))):
            if array is not None and array.shape != shape:
                raise DataError(
                    f"{where}: {name} have shape {array.shape}; with {n} energies and {n_atoms} atoms "
                    f"it must be {shape}"
                )
        if cell is not None and pbc is not None:
            for k in range(len(cell)):
                if np.linalg.matrix_rank(cell[k][pbc[k]]) < pbc[k].sum():
                    raise DataError(
                        f"{where}: the cell has no volume, or no lattice vector, in a periodic direction: "
                        f"{cell[k].tolist()} with pbc {pbc[k].tolist()}"
                    )
        if not np.isfinite(positions).all():
            raise DataError(f"{where}: coordinates hold NaN or infinity")
        self._check_labels(where, energy, forces)
        positions = positions * self.length_factor
        missing = np.full(positions.shape, np.nan)
        self.blocks.append(
            {
                "numbers": np.tile(numbers.astype(np.uint8), n),
                "positions": positions.reshape(-1, 3),
                "energy": energy * self.energy_factor,
                "forces": (missing if forces is None else forces * self.force_factor).reshape(-1, 3),
                "size": np.full(n, n_atoms, np.int64),
                "group": np.full(n, len(self.groups), np.int64),
                "cell": np.zeros((n, 3, 3)) if cell is None else cell * self.length_factor,
                "pbc": np.zeros((n, 3), np.bool_) if pbc is None else pbc,
            }
        )
        self.groups.append(group)

    def _check_labels(self, where: str, energy: NDArray[np.float64], forces: NDArray[np.float64] | None) -> None:
        """Missing labels are NaN for a whole structure, where the format knows missing labels at all."""
        if np.isinf(energy).any() or (forces is not None and np.isinf(forces).any()):
            raise DataError(f"{where}: energies or forces are infinite; take these structures out of the file")
        if not self.may_miss and np.isnan(energy).any():
            raise DataError(f"{where}: the energy of conformation {np.flatnonzero(np.isnan(energy))[0]} is NaN")
        if forces is None:
            return
        missing = np.isnan(forces).mean(axis=(1, 2))
        partly = np.flatnonzero((missing > 0) & ((missing < 1) | (not self.may_miss)))
        if len(partly):
            raise DataError(f"{where}: forces of conformation {partly[0]} hold NaN; take it out of the file")

    def finish(self, subset: str) -> Structures:
        """Join all blocks under one subset name."""
        if not self.blocks:
            raise DataError(f"{self.source}: holds no structures with the labels asked for")
        join = {key: np.concatenate([block[key] for block in self.blocks]) for key in self.blocks[0]}
        sizes = join.pop("size")
        return Structures(
            source=self.source,
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            group_names=tuple(self.groups),
            subset=np.zeros(len(sizes), np.int64),
            subset_names=(subset,),
            **join,
        )
