"""Structures with labels in flat arrays: what readers give, and what batches are cut from.

The arrays may be parts of files that are mapped into memory (`data.store`): what looks at all structures goes through
them in pieces (`Structures.pieces`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    positions : (n_atoms, 3) float64, or float32 where the file holds no more, Angstrom
    cell : (n, 3, 3) float64, Angstrom, rows are lattice vectors, zero where open
    pbc : (n, 3) bool
    energy : (n,) float64, eV, total; NaN where missing
    forces : (n_atoms, 3) float64 or float32, eV/Angstrom, true forces; NaN where missing
    has_forces : (n,) bool, whether the forces on all atoms are known
    group : (n,) integer, index into `group_names`
    group_names : names of the sets (molecules, formulas) whose members are conformers of each other
    subset : (n,) integer, index into `subset_names`
    subset_names : names of the parts (files) of a collection
    level : (n,) integer, index into `level_names`
    level_names : levels of theory of the labels, each with E0 of its own
    conformation : (n,) int64, running number of the geometry in its source, counting also what was left out; the same
        for the labels of several levels
    """

    source: str
    offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    has_forces: NDArray[np.bool_]
    group: NDArray[np.int64]
    group_names: tuple[str, ...]
    subset: NDArray[np.int64]
    subset_names: tuple[str, ...]
    level: NDArray[np.int64]
    level_names: tuple[str, ...]
    conformation: NDArray[np.int64]

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
        arrays = {name: getattr(self, name)[atoms] for name in PER_ATOM}
        arrays |= {name: getattr(self, name)[index] for name in PER_STRUCTURE}
        offsets = np.concatenate([[0], np.cumsum(self.sizes[index])]).astype(np.int64)
        return replace(self, offsets=offsets, **arrays)

    def pieces(self, size: int = 50_000) -> Iterator["Structures"]:
        """Go through all structures in order, so many at a time; the arrays are views."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            first, last = int(self.offsets[start]), int(self.offsets[stop])
            arrays = {name: getattr(self, name)[first:last] for name in PER_ATOM}
            arrays |= {name: getattr(self, name)[start:stop] for name in PER_STRUCTURE}
            yield replace(self, offsets=self.offsets[start : stop + 1] - first, **arrays)

    def composition(self, elements: Sequence[int]) -> NDArray[np.float64]:
        """(n, n_elements) number of atoms of each atomic number."""
        counts = np.stack([self.numbers == number for number in elements], axis=1).astype(np.float64)
        return np.add.reduceat(counts, self.offsets[:-1], axis=0) if len(self) else counts[:0]

    def name(self, k: int) -> str:
        """Where structure k comes from, for messages: subset, group and number in the source."""
        group = self.group_names[self.group[k]]
        return f"{self.subset_names[self.subset[k]]}, group {group}, conformation {self.conformation[k]}"


PER_ATOM = ("numbers", "positions", "forces")
PER_STRUCTURE = ("cell", "pbc", "energy", "has_forces", "group", "subset", "level", "conformation")


def concatenate(parts: Sequence[Structures], source: str) -> Structures:
    """Put sets one after another; groups are the same where their names and those of their subsets are."""
    if not parts:
        raise DataError(f"{source}: no structures were found")
    names = Names()
    renamed = [names.rename(part) for part in parts]
    joined = {name: np.concatenate([getattr(part, name) for part in renamed]) for name in (*PER_ATOM, *PER_STRUCTURE)}
    sizes = np.concatenate([part.sizes for part in parts])
    return Structures(
        source=source,
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        group_names=names.group_names,
        subset_names=names.subset_names,
        level_names=names.level_names,
        **joined,
    )


class Names:
    """Names of groups, subsets and levels over several sets, numbered in the order of their appearance."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], int] = {}  # by subset and name
        self.subsets: dict[str, int] = {}
        self.levels: dict[str, int] = {}

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of all groups so far."""
        return tuple(name for _, name in self.groups)

    @property
    def subset_names(self) -> tuple[str, ...]:
        """Names of all subsets so far."""
        return tuple(self.subsets)

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of all levels so far."""
        return tuple(self.levels)

    def rename(self, part: Structures) -> Structures:
        """Return a set whose numbers of group, subset and level refer to the names of all sets so far."""
        subset = _numbers(part.subset_names, self.subsets)[part.subset]
        level = _numbers(part.level_names, self.levels)[part.level]
        # a group name may stand in several subsets of one set, and is another group in each
        pairs, which = np.unique(np.stack([part.subset, part.group]), axis=1, return_inverse=True)
        keys = [(part.subset_names[s], part.group_names[g]) for s, g in pairs.T]
        group = _numbers(keys, self.groups)[which.reshape(-1)] if keys else part.group
        return replace(
            part,
            subset=subset,
            subset_names=self.subset_names,
            level=level,
            level_names=self.level_names,
            group=group,
            group_names=self.group_names,
        )


def _numbers(names: Sequence[Any], known: dict[Any, int]) -> NDArray[np.int64]:
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


FARTHEST = 1e6
"""Angstrom; coordinates beyond are damage."""
LARGEST_ENERGY = 1e7
"""eV per atom; no element comes near it."""
LARGEST_FORCE = 1e6
"""eV/Angstrom; nuclei would have to touch."""


class Collector:
    """Gather blocks of conformers of one composition into one `Structures`, checking shapes on the way.

    Parameters
    ----------
    source : name of the file, for messages
    energy_factor : eV per unit of the file's energies
    length_factor : Angstrom per unit of the file's lengths
    force_factor : what the file's force column is multiplied with, sign included
    may_miss : whether NaN stands for a missing label; otherwise it is an error
    first : running number of the first conformation in the source
    """

    def __init__(
        self,
        source: str,
        energy_factor: float,
        length_factor: float,
        force_factor: float,
        may_miss: bool = True,
        first: int = 0,
    ) -> None:
        self.source = source
        self.may_miss = may_miss
        self.energy_factor = energy_factor
        self.length_factor = length_factor
        self.force_factor = force_factor
        self.blocks: list[dict[str, NDArray[Any]]] = []
        self.groups: dict[str, int] = {}
        self.levels: dict[str, int] = {}
        self.n_conformations = first

    def add(
        self,
        group: str,
        numbers: NDArray[Any],
        positions: NDArray[Any],
        energy: NDArray[Any],
        forces: NDArray[Any] | None,
        cell: NDArray[np.float64] | None = None,
        pbc: NDArray[np.bool_] | None = None,
        level: str = "default",
        conformation: NDArray[np.int64] | None = None,
    ) -> None:
        """Add conformers of one group.

        Parameters
        ----------
        group : name
        numbers : (n_atoms,) atomic numbers, or (n, n_atoms) where conformers differ
        positions, forces : (n, n_atoms, 3)
        energy : (n,)
        cell, pbc : (n, 3, 3), (n, 3); open without
        level : name of the level of theory
        conformation : (n,) running numbers in the source; by default those that follow the last ones
        """
        where = f"{self.source}, group {group}"
        if numbers.ndim not in (1, 2) or numbers.shape[-1] == 0:
            raise DataError(f"{where}: atomic numbers have shape {numbers.shape}; expected (n_atoms,) with n_atoms > 0")
        if energy.ndim != 1:
            raise DataError(f"{where}: energies have shape {energy.shape}; expected one number per conformation")
        n, n_atoms = len(energy), numbers.shape[-1]
        arrays = (("coordinates", positions), ("forces", forces))
        expected: list[tuple[str, NDArray[Any], tuple[int, ...]]] = [
            (name, array, (n, n_atoms, 3)) for name, array in arrays if array is not None
        ]
        if numbers.ndim == 2:
            expected.append(("atomic numbers", numbers, (n, n_atoms)))
        for name, array, shape in expected:
            if array.shape != shape:
                raise DataError(
                    f"{where}: {name} have shape {array.shape}; with {n} energies and {n_atoms} atoms "
                    f"it must be {shape}"
                )
        if n == 0:
            return
        if numbers.min() < 1 or numbers.max() > 118:
            raise DataError(f"{where}: atomic number {numbers[(numbers < 1) | (numbers > 118)][0]} is no element")
        if cell is not None and pbc is not None:
            for k in range(len(cell)):
                if np.linalg.matrix_rank(cell[k][pbc[k]]) < pbc[k].sum():
                    raise DataError(
                        f"{where}: the cell has no volume, or no lattice vector, in a periodic direction: "
                        f"{cell[k].tolist()} with pbc {pbc[k].tolist()}"
                    )
        if not np.abs(positions).max() < FARTHEST / self.length_factor:  # as it is with NaN, too
            raise DataError(f"{where}: coordinates hold NaN or infinity, or numbers beyond {FARTHEST:.0e} Angstrom")
        same = (positions[:, 1:] == positions[:, :-1]).all(axis=2)
        if same.any():  # such as zeros where a download left holes
            k, atom = np.argwhere(same)[0]
            raise DataError(f"{where}: atoms {atom} and {atom + 1} of conformation {k} stand at the same place")
        has_forces = self._check_labels(where, energy, forces, n_atoms)
        if conformation is None:
            conformation = np.arange(self.n_conformations, self.n_conformations + n)
        self.n_conformations = int(conformation.max()) + 1
        exact: type[Any] = np.float32 if positions.dtype == np.float32 and self.length_factor == 1.0 else np.float64
        if forces is None:
            forces = np.full(positions.shape, np.nan, exact)
        else:
            forces = forces.astype(np.float64) * self.force_factor
        self.blocks.append(
            {
                "numbers": np.broadcast_to(numbers.astype(np.uint8), (n, n_atoms)).reshape(-1),
                "positions": (positions.astype(exact, copy=False) * exact(self.length_factor)).reshape(-1, 3),
                "energy": energy.astype(np.float64) * self.energy_factor,
                "forces": forces.reshape(-1, 3),
                "has_forces": has_forces,
                "size": np.full(n, n_atoms, np.int64),
                "group": np.full(n, self.groups.setdefault(group, len(self.groups)), np.int64),
                "level": np.full(n, self.levels.setdefault(level, len(self.levels)), np.int64),
                "conformation": conformation.astype(np.int64),
                "cell": np.zeros((n, 3, 3)) if cell is None else cell * self.length_factor,
                "pbc": np.zeros((n, 3), np.bool_) if pbc is None else pbc,
            }
        )

    def _check_labels(
        self, where: str, energy: NDArray[Any], forces: NDArray[Any] | None, n_atoms: int
    ) -> NDArray[np.bool_]:
        """Missing labels are NaN for a whole structure, where the format knows missing labels at all."""
        for name, array, largest in (
            ("energies", energy, LARGEST_ENERGY / self.energy_factor * n_atoms),
            ("forces", forces, LARGEST_FORCE / abs(self.force_factor)),
        ):
            if array is not None and (np.abs(array) > largest).any():
                raise DataError(
                    f"{where}: {name} are infinite or beyond everything possible ("
                    f"{float(np.nanmax(np.abs(array))):.3g} in the file's unit); take these structures out of the file"
                )
        if not self.may_miss and np.isnan(energy).any():
            raise DataError(f"{where}: the energy of conformation {np.flatnonzero(np.isnan(energy))[0]} is NaN")
        if forces is None:
            return np.zeros(len(energy), np.bool_)
        missing = np.isnan(forces).mean(axis=(1, 2))
        partly = np.flatnonzero((missing > 0) & ((missing < 1) | (not self.may_miss)))
        if len(partly):
            raise DataError(f"{where}: forces of conformation {partly[0]} hold NaN; take it out of the file")
        known: NDArray[np.bool_] = missing == 0
        return known

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
            level_names=tuple(self.levels),
            **join,
        )
