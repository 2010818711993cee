"""Collection of arrays into `Structures`: checks of shapes and values, conversion of units and signs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.hashes import geometry_hashes
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.targets import TARGETS
from hiphop_train.units import (
    DIPOLE,
    ENERGY,
    FORCE_SIGN,
    LENGTH,
    STRESS,
    STRESS_SIGN,
    DipoleUnit,
    EnergyUnit,
    ForceSign,
    LengthUnit,
    StressSign,
    StressUnit,
)

FARTHEST = 1e6
"""Angstrom; larger coordinates are damaged."""
CLOSEST = 0.02
"""Angstrom; nuclei are never closer, and atoms of one position come from incomplete downloads."""
NEIGHBOURS = 64
"""Atoms whose distances to each atom are checked: those after it, which is all in molecules."""
LARGEST = {"energy": 1e7, "forces": 1e4, "stress": 1e4, "dipole": 1e6}
"""Larger labels are damaged, in the units of `TARGETS`, per atom for extensive targets: energies of all elements are
far below, and forces too, unless nuclei touch."""


@dataclass(frozen=True)
class Factors:
    """Factors from the numbers of a file to Angstrom and the units of `TARGETS`, signs included.

    Attributes
    ----------
    length : Angstrom per unit of length
    labels : factors by target key; 1 where missing
    """

    length: float = 1.0
    labels: Mapping[str, float] = field(default_factory=dict)

    def of(self, key: str) -> float:
        """Return the factor of a target."""
        return self.labels.get(key, 1.0)


def declared(
    energy_unit: EnergyUnit,
    length_unit: LengthUnit,
    force_sign: ForceSign | None = None,
    stress_unit: StressUnit | None = None,
    stress_sign: StressSign = "tension_positive",
    dipole_unit: DipoleUnit | None = None,
    virial_unit: EnergyUnit | None = None,
) -> Factors:
    """Return the factors for the units and signs of a configuration.

    Forces are in energy_unit / length_unit; with a unit of virials, stresses are virial / volume.
    """
    energy, length = ENERGY[energy_unit], LENGTH[length_unit]
    labels = {"energy": energy}
    if force_sign is not None:
        labels["forces"] = energy / length * FORCE_SIGN[force_sign]
    if stress_unit is not None:
        labels["stress"] = STRESS[stress_unit] * STRESS_SIGN[stress_sign]
    if virial_unit is not None:
        labels["stress"] = -ENERGY[virial_unit] / length**3
    if dipole_unit is not None:
        labels["dipole"] = DIPOLE[dipole_unit]
    return Factors(length, labels)


class Collector:
    """Collect blocks of conformers of one composition into one `Structures`.

    Parameters
    ----------
    source : name of the file, for messages
    factors : from the units of the file
    may_miss : whether NaN means a missing label; otherwise it is an error
    first : running number of the first conformation in the source
    """

    def __init__(self, source: str, factors: Factors | None = None, may_miss: bool = True, first: int = 0) -> None:
        self.source = source
        self.factors = Factors() if factors is None else factors
        self.may_miss = may_miss
        self.blocks: list[dict[str, NDArray[Any]]] = []
        self.labels: list[dict[str, NDArray[Any]]] = []
        self.groups: dict[str, int] = {}
        self.theories: dict[str, int] = {}
        self.n_conformations = first

    def add(
        self,
        group: str,
        numbers: NDArray[Any],
        positions: NDArray[Any],
        labels: Mapping[str, NDArray[Any] | None],
        cell: NDArray[np.float64] | None = None,
        pbc: NDArray[np.bool_] | None = None,
        theory: str = "default",
        conformation: NDArray[np.int64] | None = None,
    ) -> None:
        """Add conformers of one group, all in the file's units.

        Parameters
        ----------
        group : name
        numbers : (n_atoms,) atomic numbers, or (n, n_atoms) if conformers differ
        positions : (n, n_atoms, 3)
        labels : target key -> array with an entry of the target's shape for each structure (n, ...) or atom
            (n, n_atoms, ...); None where it is unknown
        cell, pbc : (n, 3, 3), (n, 3); None means open
        theory : name of the level of theory
        conformation : (n,) running numbers in the source; by default the next ones
        """
        where = f"{self.source}, group {group}"
        if numbers.ndim not in (1, 2) or numbers.shape[-1] == 0:
            raise DataError(f"{where}: atomic numbers have shape {numbers.shape}; expected (n_atoms,) with n_atoms > 0")
        n, n_atoms = len(positions) if positions.ndim else 0, numbers.shape[-1]
        given = {key: array for key, array in labels.items() if array is not None}
        _check_shapes(where, n, n_atoms, numbers, positions, given)
        if n == 0:
            return
        self._check_geometry(where, numbers, positions, cell, pbc)
        for key, array in given.items():
            self._check_label(where, key, array, n_atoms)
        if conformation is None:
            conformation = np.arange(self.n_conformations, self.n_conformations + n)
        self.n_conformations = int(conformation.max()) + 1
        length = self.factors.length
        exact: type[Any] = np.float32 if positions.dtype == np.float32 and length == 1.0 else np.float64
        self.labels.append({key: array.astype(np.float64) * self.factors.of(key) for key, array in given.items()})
        self.blocks.append(
            {
                "numbers": np.broadcast_to(numbers.astype(np.uint8), (n, n_atoms)).reshape(-1),
                "positions": (positions.astype(exact, copy=False) * exact(length)).reshape(-1, 3),
                "size": np.full(n, n_atoms, np.int64),
                "group": np.full(n, self.groups.setdefault(group, len(self.groups)), np.int64),
                "theory": np.full(n, self.theories.setdefault(theory, len(self.theories)), np.int64),
                "conformation": conformation.astype(np.int64),
                "cell": np.zeros((n, 3, 3)) if cell is None else cell * length,
                "pbc": np.zeros((n, 3), np.bool_) if pbc is None else pbc,
            }
        )

    def _check_geometry(
        self,
        where: str,
        numbers: NDArray[Any],
        positions: NDArray[Any],
        cell: NDArray[np.float64] | None,
        pbc: NDArray[np.bool_] | None,
    ) -> None:
        if numbers.min() < 1 or numbers.max() > 118:
            wrong = numbers[(numbers < 1) | (numbers > 118)][0]
            raise DataError(f"{where}: atomic number {wrong} is out of range (1 to 118)")
        if cell is not None and pbc is not None:
            for k in range(len(cell)):
                if np.linalg.matrix_rank(cell[k][pbc[k]]) < pbc[k].sum():
                    raise DataError(
                        f"{where}: the cell has no volume, or lacks a lattice vector, in a periodic direction: "
                        f"{cell[k].tolist()} with pbc {pbc[k].tolist()}"
                    )
        if not np.abs(positions).max() < FARTHEST / self.factors.length:  # also catches NaN
            raise DataError(f"{where}: coordinates contain NaN, infinity, or numbers beyond {FARTHEST:.0e} Angstrom")
        for apart in range(1, min(positions.shape[1], NEIGHBOURS + 1)):
            separation = positions[:, apart:] - positions[:, :-apart]
            close = np.einsum("nai,nai->na", separation, separation) < (CLOSEST / self.factors.length) ** 2
            if close.any():
                k, atom = np.argwhere(close)[0]
                distance = np.linalg.norm(separation[k, atom]) * self.factors.length
                raise DataError(
                    f"{where}: atoms {atom} and {atom + apart} of conformation {k} are {distance:.2g} Angstrom apart, "
                    "nearer than any nuclei; remove it from the file"
                )

    def _check_label(self, where: str, key: str, array: NDArray[Any], n_atoms: int) -> None:
        """Missing labels must be NaN for a whole structure, in formats that allow them."""
        largest = LARGEST.get(key, np.inf) / abs(self.factors.of(key)) * (n_atoms if TARGETS[key].extensive else 1)
        if (np.abs(array) > largest).any():
            raise DataError(
                f"{where}: {key}: infinite or impossibly large values "
                f"({float(np.nanmax(np.abs(array))):.3g} in the file's unit); remove these structures from the file"
            )
        missing = np.isnan(array).mean(axis=tuple(range(1, array.ndim)))  # (n,)
        wrong = np.flatnonzero((missing > 0) & ((missing < 1) | (not self.may_miss)))
        if len(wrong):
            raise DataError(f"{where}: {key} of conformation {wrong[0]} is NaN; remove it from the file")

    def finish(self, subset: str) -> Structures:
        """Join all blocks under one subset name."""
        if not self.blocks:
            raise DataError(f"{self.source} contains no structures with the requested labels")
        join = {key: np.concatenate([block[key] for block in self.blocks]) for key in self.blocks[0]}
        sizes = join.pop("size")
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Structures(
            source=self.source,
            offsets=offsets,
            labels={key: self._joined(key) for key in TARGETS if self._is_label(key)},
            geometry=geometry_hashes(join["numbers"], join["positions"], offsets),
            group_names=tuple(self.groups),
            subset=np.zeros(len(sizes), np.int64),
            subset_names=(subset,),
            theory_names=tuple(self.theories),
            **join,
        )

    def _is_label(self, key: str) -> bool:
        return key in ("energy", "forces") or any(
            not np.isnan(labels[key]).all() for labels in self.labels if key in labels
        )

    def _joined(self, key: str) -> NDArray[np.float64]:
        """Entries of a label over all blocks, NaN where a block has none."""
        target, parts = TARGETS[key], []
        for block, labels in zip(self.blocks, self.labels, strict=True):
            shape = target.array_shape(len(block["size"]), len(block["numbers"]))
            dtype = block["positions"].dtype if target.per == "atom" else np.float64
            parts.append(labels[key].reshape(shape) if key in labels else np.full(shape, np.nan, dtype))
        return np.concatenate(parts)


def _check_shapes(
    where: str, n: int, n_atoms: int, numbers: NDArray[Any], positions: NDArray[Any], labels: dict[str, NDArray[Any]]
) -> None:
    expected: list[tuple[str, NDArray[Any], tuple[int, ...]]] = [("coordinates", positions, (n, n_atoms, 3))]
    if numbers.ndim == 2:
        expected.append(("atomic numbers", numbers, (n, n_atoms)))
    for key, array in labels.items():
        target = TARGETS[key]
        expected.append((key, array, (n, n_atoms, *target.shape) if target.per == "atom" else (n, *target.shape)))
    for name, array, shape in expected:
        if array.shape != shape:
            shapes = ", ".join(f"{each} {given.shape}" for each, given, _ in expected)
            raise DataError(
                f"{where}: {name} has shape {array.shape}, but {shape} is expected for {n} conformations of {n_atoms} "
                f"atoms; all arrays: {shapes}"
            )


def refuse_zeros(where: str, labels: Mapping[str, NDArray[Any]], first: int = 0) -> None:
    """Raise `DataError` if an energy or forces are exactly zero, as in incomplete downloads; total energies never are.

    Parameters
    ----------
    where : for messages
    labels : energy (n,) and optionally forces (n, n_atoms, 3); others are ignored
    first : number of the first conformation, for messages
    """
    energy, forces = labels["energy"], labels.get("forces")
    if energy.ndim == 0 or energy.size == 0 or energy.shape != (len(energy), *(1,) * (energy.ndim - 1)):
        return  # shapes are checked where structures are collected
    zero = energy.reshape(-1) == 0
    if forces is not None and forces.ndim == 3 and forces.shape[1] > 1 and len(forces) == len(zero):
        zero = zero | (forces == 0).all(axis=(1, 2))
    if zero.any():
        raise DataError(
            f"{where}: energy or forces of conformation {first + int(np.argmax(zero))} are exactly zero; the file is "
            "incomplete or damaged: compare its size and checksum with the source and fetch it again"
        )


def collect(
    file: Path,
    subset: str,
    group: str,
    numbers: NDArray[Any],
    arrays: Mapping[str, NDArray[Any]],
    factors: Factors,
    first: int,
    row: int,
) -> Structures | None:
    """Return complete conformations of one group; None for an empty group.

    Parameters
    ----------
    file, subset, group : their origin
    numbers : (n_atoms,) or (n, n_atoms) atomic numbers
    arrays : ``positions`` and labels, in the units of the file
    factors : from these units
    first : running number of the first conformation in the source
    row : row of the first conformation in the group, for messages
    """
    labels = {key: array for key, array in arrays.items() if key in TARGETS}
    refuse_zeros(f"{file}, group {group}", labels, row)
    found = Collector(str(file), factors, may_miss=False, first=first)
    found.add(group, numbers, arrays["positions"], labels)
    return found.finish(subset) if found.blocks else None
