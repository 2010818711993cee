"""Structures with labels in flat arrays: the result of readers and the source of batches.

The arrays may be memory-mapped (`data.store`), so passes over all structures iterate in blocks (`Structures.blocks`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.errors import DataError
from hiphop_train.targets import TARGETS


@dataclass(frozen=True, eq=False)
class Structures:
    """A set of structures, with the atoms of all structures concatenated.

    Attributes
    ----------
    source : name of the file or set, for messages
    offsets : (n + 1,) int64; atoms of structure k are [offsets[k], offsets[k + 1])
    numbers : (n_atoms,) uint8 atomic numbers
    positions : (n_atoms, 3) float64, or float32 if the file has no more digits, Angstrom
    cell : (n, 3, 3) float64, Angstrom, rows are lattice vectors, zero where open
    pbc : (n, 3) bool
    labels : target key -> array of shape `Target.array_shape`, in the target's unit; NaN for all entries of a structure
        if unknown. Energy (total) and forces (not gradients) are always present, other targets only if a structure has
        them
    group : (n,) integer, index into `group_names`
    group_names : names of the sets (molecules, formulas) whose members are conformers of each other
    subset : (n,) integer, index into `subset_names`
    subset_names : names of the parts (files) of a collection
    theory : (n,) integer, index into `theory_names`
    theory_names : levels of theory of the labels, each with its own E0
    conformation : (n,) int64, running number of the geometry in its source, including skipped ones; the same for labels
        at several levels of theory
    geometry : (n,) uint64, equal for equal geometries (`hashes.geometry_hashes`)
    """

    source: str
    offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    labels: dict[str, NDArray[np.float64]]
    group: NDArray[Any]
    group_names: tuple[str, ...]
    subset: NDArray[Any]
    subset_names: tuple[str, ...]
    theory: NDArray[Any]
    theory_names: tuple[str, ...]
    conformation: NDArray[np.int64]
    geometry: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) number of atoms of each structure."""
        sizes: NDArray[np.int64] = np.diff(self.offsets)
        return sizes

    @property
    def energy(self) -> NDArray[np.float64]:
        """(n,) eV, total; NaN where unknown."""
        return self.labels["energy"]

    @property
    def forces(self) -> NDArray[np.float64]:
        """(n_atoms, 3) eV/Angstrom; NaN where unknown."""
        return self.labels["forces"]

    @property
    def has_energy(self) -> NDArray[np.bool_]:
        """(n,) whether the energy is known."""
        return self.has("energy")

    @property
    def has_forces(self) -> NDArray[np.bool_]:
        """(n,) whether the forces on all atoms are known."""
        return self.has("forces")

    def has(self, key: str) -> NDArray[np.bool_]:
        """(n,) whether a label is known; for targets per atom, judged by the first atom."""
        if key not in self.labels:
            return np.zeros(len(self), np.bool_)
        values = self.labels[key]
        if TARGETS[key].per == "atom":
            values = values[self.offsets[:-1]]
        known: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(values), axis=tuple(range(1, values.ndim)))
        return known

    def label(self, key: str) -> NDArray[np.float64]:
        """Return the array of a label, all NaN if the set has none."""
        if key in self.labels:
            return self.labels[key]
        return np.full(TARGETS[key].array_shape(len(self), len(self.numbers)), np.nan, np.float32)

    def with_labels(self, **labels: NDArray[np.float64]) -> "Structures":
        """Replace or add labels."""
        return replace(self, labels={**self.labels, **labels})

    def atoms_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of all atoms of the given structures, in their order."""
        sizes = self.offsets[index + 1] - self.offsets[index]
        starts = np.repeat(self.offsets[index], sizes)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        atoms: NDArray[np.int64] = starts + within
        return atoms

    def take(self, index: NDArray[np.int64]) -> "Structures":
        """Select structures, in the given order."""
        sizes = self.offsets[index + 1] - self.offsets[index]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return self._select(index, self.atoms_of(index), offsets)

    def blocks(self, size: int = 50_000) -> Iterator["Structures"]:
        """Yield all structures in order, in blocks of a given size; the arrays are views."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            first, last = int(self.offsets[start]), int(self.offsets[stop])
            yield self._select(slice(start, stop), slice(first, last), self.offsets[start : stop + 1] - first)

    def _select(
        self, chosen: NDArray[np.int64] | slice, atoms: NDArray[np.int64] | slice, offsets: NDArray[np.int64]
    ) -> "Structures":
        """Select structures, given their atoms and the offsets of the result."""
        arrays = {name: getattr(self, name)[atoms] for name in PER_ATOM}
        arrays |= {name: getattr(self, name)[chosen] for name in PER_STRUCTURE}
        labels = {
            key: array[atoms if TARGETS[key].per == "atom" else chosen]  # slices stay memory-mapped
            for key, array in self.labels.items()
        }
        return replace(self, offsets=offsets, labels=labels, **arrays)

    def composition(self, elements: Sequence[int]) -> NDArray[np.float64]:
        """(n, n_elements) number of atoms of each atomic number."""
        counts = np.stack([self.numbers == number for number in elements], axis=1).astype(np.float64)
        return np.add.reduceat(counts, self.offsets[:-1], axis=0) if len(self) else counts[:0]

    def name(self, k: int) -> str:
        """Origin of structure k, for messages: subset, group and number in the source."""
        group = self.group_names[self.group[k]]
        return f"{self.subset_names[self.subset[k]]}, group {group}, conformation {self.conformation[k]}"


PER_ATOM = ("numbers", "positions")
PER_STRUCTURE = ("cell", "pbc", "group", "subset", "theory", "conformation", "geometry")


def concatenate(parts: Sequence[Structures], source: str) -> Structures:
    """Concatenate sets; groups with equal names of group and subset are merged."""
    if not parts:
        raise DataError(f"{source}: no structures were found")
    names = Names()
    renamed = [names.rename(part) for part in parts]
    sizes = np.concatenate([part.sizes for part in parts])
    return Structures(
        source=source,
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        labels={
            key: np.concatenate([part.label(key) for part in parts])
            for key in TARGETS
            if any(key in part.labels for part in parts)
        },
        group_names=names.group_names,
        subset_names=names.subset_names,
        theory_names=names.theory_names,
        **{name: np.concatenate([getattr(part, name) for part in renamed]) for name in (*PER_ATOM, *PER_STRUCTURE)},
    )


class Names:
    """Names of groups, subsets and levels of theory over several sets, numbered in order of appearance."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], int] = {}  # by subset and name
        self.subsets: dict[str, int] = {}
        self.theories: dict[str, int] = {}

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of all groups so far."""
        return tuple(name for _, name in self.groups)

    @property
    def subset_names(self) -> tuple[str, ...]:
        """Names of all subsets so far."""
        return tuple(self.subsets)

    @property
    def theory_names(self) -> tuple[str, ...]:
        """Names of all levels of theory so far."""
        return tuple(self.theories)

    def rename(self, part: Structures) -> Structures:
        """Return a set whose indices of groups, subsets and levels of theory refer to the names of all sets so far."""
        subset = _numbers(part.subset_names, self.subsets)[part.subset]
        theory = _numbers(part.theory_names, self.theories)[part.theory]
        # equal group names in different subsets are different groups
        pairs, which = np.unique(np.stack([part.subset, part.group]), axis=1, return_inverse=True)
        keys = [(part.subset_names[s], part.group_names[g]) for s, g in pairs.T]
        group = _numbers(keys, self.groups)[which.reshape(-1)] if keys else part.group
        return replace(
            part,
            subset=subset,
            subset_names=self.subset_names,
            theory=theory,
            theory_names=self.theory_names,
            group=group,
            group_names=self.group_names,
        )


def _numbers(names: Sequence[Any], known: dict[Any, int]) -> NDArray[np.int64]:
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)
