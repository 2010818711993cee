"""Statistics that reveal the units and signs of labels: bonds, energies per atoms, neighbouring conformers."""

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from hiphop_train.data.checks.atom_energies import GSAE, reference_sums
from hiphop_train.data.checks.descriptors import largest_norms
from hiphop_train.data.checks.results import SIGMA, robust
from hiphop_train.data.structures import Structures
from hiphop_train.targets import TARGETS

CLOSE = 0.08
"""Angstrom, largest root mean square displacement for the trapezoidal rule."""
SMALL_STRAIN = 0.05
"""Largest component of the strain for the trapezoidal rule."""


@dataclass(frozen=True)
class LabelStatistics:
    """Statistics of a data set at one level of theory.

    Attributes
    ----------
    bond_ratio : median over atoms of the ratio of nearest-neighbour distance to sum of covalent radii; about 1 in
        Angstrom
    n_energies : number of energies compared with those of the atoms
    energy_ratio, energy_spread : median ratio of energies to the sums of all-electron energies of their atoms, 1.00 to
        1.02 in eV for total energies at any level of theory, and its relative spread
    n_neighbours : number of pairs of neighbouring conformers
    n_neighbour_groups, n_groups_agreeing : groups with such pairs, and those in which energies fall along the forces
    work_correlation, work_slope : of energy differences with the work of the declared forces; both 1 if consistent
    n_bonds : number of bonds compared
    bond_correlation : of bond length with the stretching force, within pairs of elements; negative for the right sign
    n_hydrogen_bonds, hydrogen_correlation : number of bonds to hydrogen, and the same correlation among them
    hydrogen_stiffness : eV/Angstrom^2, minus the slope of the force with the length of these bonds; usually 50 to 130
    n_strained, stress_correlation, stress_slope : pairs of neighbouring periodic structures with different cells, and
        correlation and slope of energy differences, minus the work of forces, with the work of the declared stress
    n_zero, n_known : by target, structures whose label is suspiciously zero, and structures with the label
    """

    bond_ratio: float
    n_energies: int
    energy_ratio: float
    energy_spread: float
    n_neighbours: int
    n_neighbour_groups: int
    n_groups_agreeing: int
    work_correlation: float
    work_slope: float
    n_bonds: int
    bond_correlation: float
    n_hydrogen_bonds: int
    hydrogen_correlation: float
    hydrogen_stiffness: float
    n_strained: int
    stress_correlation: float
    stress_slope: float
    n_zero: dict[str, int]
    n_known: dict[str, int]


def label_statistics(structures: Structures) -> LabelStatistics:
    """Compute the statistics of structures at one level of theory."""
    ratio, lengths, stretching, elements = _bonds(structures)
    energies, works, groups = _neighbouring_conformers(structures)
    hydrogen = elements // 200 == 1
    x, y = _centre(lengths[hydrogen], stretching[hydrogen], elements[hydrogen])
    _, group = np.unique(groups, return_inverse=True)
    votes = np.bincount(group, works * energies)
    n_energies, energy_ratio, energy_spread = _by_atoms(structures)
    strained, stress_works = _strained_structures(structures)
    suspicious = {key: norm[may_not_vanish(key, structures.sizes)] for key, norm in largest_norms(structures).items()}
    return LabelStatistics(
        bond_ratio=ratio,
        n_energies=n_energies,
        energy_ratio=energy_ratio,
        energy_spread=energy_spread,
        n_neighbours=len(works),
        n_neighbour_groups=len(votes),
        n_groups_agreeing=int((votes > 0).sum()),
        work_correlation=_correlation(energies, works),
        work_slope=_slope(works, energies),
        n_bonds=len(lengths),
        bond_correlation=_correlation(*_standardise(lengths, stretching, elements)),
        n_hydrogen_bonds=len(x),
        hydrogen_correlation=_correlation(x, y),
        hydrogen_stiffness=-_slope(x, y),
        n_strained=len(strained),
        stress_correlation=_correlation(strained, stress_works),
        stress_slope=_slope(stress_works, strained),
        n_zero={key: int((norm == 0).sum()) for key, norm in suspicious.items()},
        n_known={key: int((~np.isnan(norm)).sum()) for key, norm in suspicious.items()},
    )


def may_not_vanish(key: str, sizes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(n,) whether a label of exactly zero is suspicious in structures of these sizes.

    Single atoms have no forces. Targets that are odd under inversion, such as the dipole, often vanish by symmetry.
    """
    target = TARGETS[key]
    if target.per == "atom":
        return sizes > 1
    return np.full(len(sizes), not target.is_odd)


def _by_atoms(structures: Structures) -> tuple[int, float, float]:
    """Number of energies, and median and spread of their ratios to the all-electron energies of the atoms."""
    elements = np.unique(structures.numbers).tolist()
    compositions = np.zeros((len(structures), 119), np.int32)
    compositions[:, elements] = structures.composition(elements)
    ratio = structures.energy / reference_sums(GSAE, compositions)
    ratio = ratio[np.isfinite(ratio)]
    centre, spread = robust(ratio)
    return len(ratio), centre, spread / SIGMA / abs(centre) if centre else float("inf")


def _bonds(
    structures: Structures,
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Median ratio of distance to radii, and lengths, stretching forces and elements of bonds with known forces.

    The two elements are encoded as 200 times the lower atomic number plus the higher.
    """
    ratios, lengths, stretching, elements = [], [], [], []
    for k in range(len(structures)):
        atoms = slice(structures.offsets[k], structures.offsets[k + 1])
        positions, forces, numbers = structures.positions[atoms], structures.forces[atoms], structures.numbers[atoms]
        if len(numbers) < 2 or structures.pbc[k].any():
            continue
        difference = positions[None] - positions[:, None]
        distance = np.linalg.norm(difference, axis=2)
        np.fill_diagonal(distance, np.inf)
        ratio = distance / (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])
        ratios.append(ratio.min(axis=1))
        i, j = np.nonzero(np.triu(ratio < 1.25))
        lengths.append(distance[i, j])
        stretching.append(np.einsum("bx,bx->b", forces[j] - forces[i], difference[i, j]) / distance[i, j])
        low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
        elements.append(low.astype(np.int64) * 200 + high)
    if not ratios:
        return float("nan"), np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
    force = np.concatenate(stretching)
    known = np.isfinite(force)
    median = float(np.median(np.concatenate(ratios)))
    return median, np.concatenate(lengths)[known], force[known], np.concatenate(elements)[known]


def _consecutive(structures: Structures, usable: NDArray[np.bool_]) -> list[tuple[int, slice, slice]]:
    """Usable structures k followed by one with the same group and atoms, and the atoms of both."""
    same = (
        (structures.group[1:] == structures.group[:-1])
        & (structures.sizes[1:] == structures.sizes[:-1])
        & usable[1:]
        & usable[:-1]
        & (structures.sizes[1:] > 1)
    )
    found = []
    for k in np.flatnonzero(same).tolist():
        first = slice(structures.offsets[k], structures.offsets[k + 1])
        second = slice(structures.offsets[k + 1], structures.offsets[k + 2])
        if (structures.numbers[first] == structures.numbers[second]).all():
            found.append((k, first, second))
    return found


def _neighbouring_conformers(
    structures: Structures,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Energy differences of consecutive conformers, minus the work of the forces (trapezoidal rule), and groups."""
    usable = structures.has_energy & structures.has_forces & ~structures.pbc.any(axis=1)
    energies, works, groups = [], [], []
    for k, first, second in _consecutive(structures, usable):
        x, y = structures.positions[first], structures.positions[second]
        rotation = _kabsch(y - y.mean(0), x - x.mean(0))
        step = (y - y.mean(0)) @ rotation - (x - x.mean(0))
        if np.sqrt(np.mean(step**2)) > CLOSE:
            continue
        mean_force = 0.5 * (structures.forces[first] + structures.forces[second] @ rotation)
        energies.append(structures.energy[k + 1] - structures.energy[k])
        works.append(-float((mean_force * step).sum()))
        groups.append(structures.group[k])
    return np.array(energies), np.array(works), np.array(groups, np.int64)


def _strained_structures(structures: Structures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy differences of consecutive periodic structures with different cells, and the work of stress.

    The step between two structures is a homogeneous strain plus displacements; the work of the forces along these is
    subtracted from the energy differences. Work is integrated by the trapezoidal rule.
    """
    usable = structures.has_energy & structures.has_forces & structures.has("stress") & structures.pbc.all(axis=1)
    stress, energies, works = structures.label("stress"), [], []
    for k, first, second in _consecutive(structures, usable):
        cell, deformed = structures.cell[k], structures.cell[k + 1]
        gradient = np.linalg.solve(cell, deformed)  # rows of the cell are lattice vectors
        strain = 0.5 * (gradient + gradient.T) - np.eye(3)
        before, after = (
            np.linalg.solve(box.T, structures.positions[atoms].T).T
            for box, atoms in ((cell, first), (deformed, second))
        )
        step = (after - before - np.rint(after - before)) @ (0.5 * (cell + deformed))
        if not 1e-6 < np.abs(strain).max() < SMALL_STRAIN or np.sqrt(np.mean(step**2)) > CLOSE:
            continue
        mean_force = 0.5 * (structures.forces[first] + structures.forces[second])
        volumes = np.abs(np.linalg.det(structures.cell[k : k + 2]))
        virial = 0.5 * np.einsum("k,kxy->xy", volumes, stress[k : k + 2])
        energies.append(structures.energy[k + 1] - structures.energy[k] + float((mean_force * step).sum()))
        works.append(float((virial * strain).sum()))
    return np.array(energies), np.array(works)


def _kabsch(moving: NDArray[np.float64], fixed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation R that best aligns centred points, moving @ R ~ fixed (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(moving.T @ fixed)
    sign = np.sign(np.linalg.det(u @ vt))
    rotation: NDArray[np.float64] = u @ np.diag([1.0, 1.0, sign]) @ vt
    return rotation


def _centre(
    lengths: NDArray[np.float64], stretching: NDArray[np.float64], elements: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre within each pair of elements."""
    _, pair, counts = np.unique(elements, return_inverse=True, return_counts=True)
    x, y = (values - (np.bincount(pair, values, len(counts)) / counts)[pair] for values in (lengths, stretching))
    return x, y


def _standardise(
    lengths: NDArray[np.float64], stretching: NDArray[np.float64], elements: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and scale within each pair of elements that occurs ten times or more."""
    x, y = [np.zeros(0)], [np.zeros(0)]
    for pair in np.unique(elements):
        here = elements == pair
        if here.sum() >= 10 and lengths[here].std() > 0 and stretching[here].std() > 0:
            x.append((lengths[here] - lengths[here].mean()) / lengths[here].std())
            y.append((stretching[here] - stretching[here].mean()) / stretching[here].std())
    return np.concatenate(x), np.concatenate(y)


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Least-squares slope of a line through the origin."""
    return float(x @ y / (x @ x)) if len(x) and x @ x > 0 else np.nan
