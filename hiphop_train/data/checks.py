"""Physical checks of labels: whether the file holds what its configuration declares.

The witnesses: bonded distances tell the unit of length; energy differences of neighbouring, aligned conformers tell
sign and unit of forces against energies; forces along bonds against bond lengths tell the sign where there are no
neighbours; the stiffness of bonds to hydrogen, much the same in all molecules, tells the unit of forces by itself.
"""

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError


@dataclass(frozen=True)
class LabelReport:
    """What the witnesses say.

    Attributes
    ----------
    bond_ratio : median over atoms of nearest-neighbour distance by sum of covalent radii; about 1 in Angstrom
    n_neighbours : pairs of neighbouring conformers that were compared
    work_correlation, work_slope : of energy differences with the work of the declared forces; both 1 when all agrees
    n_bonds : bonds that were looked at
    bond_correlation : of bond length with the force that stretches it, within pairs of elements; negative for forces
    n_hydrogen_bonds, hydrogen_correlation : bonds of hydrogen to others, and the same correlation among them
    hydrogen_stiffness : eV/Angstrom^2, how the force falls with the length of these bonds; 50 to 130 is usual
    """

    bond_ratio: float
    n_neighbours: int
    work_correlation: float
    work_slope: float
    n_bonds: int
    bond_correlation: float
    n_hydrogen_bonds: int
    hydrogen_correlation: float
    hydrogen_stiffness: float


def check_labels(structures: Structures, sample: int = 2000, seed: int = 0) -> LabelReport:
    """Ask the witnesses, and raise `DataError` when they contradict the declared units or sign.

    Parameters
    ----------
    structures : as read
    sample : structures that are looked at, in whole groups, chosen by `seed`
    """
    report = examine(_sample(structures, sample, seed))
    advice = (
        "correct energy_unit, length_unit or force_sign of the data configuration (data.reader.*); "
        "if these are no ordinary molecules and the declaration is right, data.check=false"
    )
    if not 0.7 < report.bond_ratio < 1.5:
        raise DataError(
            f"{structures.source}: bonds are {report.bond_ratio:.2f} times as long as covalent radii say; "
            f"the declared unit of length is wrong. Fix: {advice}"
        )
    if report.n_neighbours >= 10 and abs(report.work_correlation) > 0.8:
        if report.work_correlation < 0:
            raise DataError(
                f"{structures.source}: energies rise along the declared forces (correlation "
                f"{report.work_correlation:.3f} over {report.n_neighbours} pairs of neighbouring conformers): the file "
                f"holds the opposite sign. Fix: {advice}"
            )
        if not 0.5 < report.work_slope < 2.0:
            raise DataError(
                f"{structures.source}: energy differences are {report.work_slope:.3g} times the work of the forces "
                f"over {report.n_neighbours} pairs of neighbouring conformers: energies and forces are declared in "
                f"units that do not fit. Fix: {advice}"
            )
    elif report.n_bonds >= 100 and report.bond_correlation > 0.2:
        raise DataError(
            f"{structures.source}: the declared forces stretch long bonds (correlation {report.bond_correlation:+.2f} "
            f"over {report.n_bonds} bonds): the file holds the opposite sign. Fix: {advice}"
        )
    thermal = report.n_hydrogen_bonds >= 100 and report.hydrogen_correlation < -0.5
    if thermal and not 8.0 < report.hydrogen_stiffness < 400.0:
        raise DataError(
            f"{structures.source}: bonds to hydrogen have a stiffness of {report.hydrogen_stiffness:.3g} "
            f"eV/Angstrom^2, where 50 to 130 is usual: the declared units of energy and force are wrong. Fix: {advice}"
        )
    return report


def examine(structures: Structures) -> LabelReport:
    """Ask the witnesses about all given structures."""
    ratio, lengths, pulls, kinds = _bonds(structures)
    energies, works = _neighbouring_conformers(structures)
    hydrogen = kinds // 200 == 1
    x, y = _centre(lengths[hydrogen], pulls[hydrogen], kinds[hydrogen])
    slope = float(works @ energies / (works @ works)) if len(works) and works @ works > 0 else float("nan")
    return LabelReport(
        bond_ratio=ratio,
        n_neighbours=len(works),
        work_correlation=_correlation(energies, works),
        work_slope=slope,
        n_bonds=len(lengths),
        bond_correlation=_correlation(*_standardise(lengths, pulls, kinds)),
        n_hydrogen_bonds=len(x),
        hydrogen_correlation=_correlation(x, y),
        hydrogen_stiffness=-float(x @ y / (x @ x)) if x @ x > 0 else float("nan"),
    )


def _sample(structures: Structures, count: int, seed: int) -> Structures:
    if len(structures) <= count:
        return structures
    order = np.random.default_rng(seed).permutation(structures.group.max() + 1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return structures.take(np.sort(np.argsort(rank[structures.group], kind="stable")[:count]))


def _bonds(
    structures: Structures,
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Distances by radii, and for bonded pairs with known forces their lengths, stretching forces and element pairs."""
    ratios, lengths, pulls, kinds = [], [], [], []
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
        pulls.append(np.einsum("bx,bx->b", forces[j] - forces[i], difference[i, j]) / distance[i, j])
        low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
        kinds.append(low.astype(np.int64) * 200 + high)
    if not ratios:
        return 1.0, np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
    pull = np.concatenate(pulls)
    known = np.isfinite(pull)
    median = float(np.median(np.concatenate(ratios)))
    return median, np.concatenate(lengths)[known], pull[known], np.concatenate(kinds)[known]


def _centre(
    lengths: NDArray[np.float64], pulls: NDArray[np.float64], kinds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre within each pair of elements."""
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    x, y = (values - (np.bincount(kind, values, len(counts)) / counts)[kind] for values in (lengths, pulls))
    return x, y


def _standardise(
    lengths: NDArray[np.float64], pulls: NDArray[np.float64], kinds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and scale within each pair of elements that occurs ten times or more."""
    x, y = [np.zeros(0)], [np.zeros(0)]
    for kind in np.unique(kinds):
        here = kinds == kind
        if here.sum() >= 10 and lengths[here].std() > 0 and pulls[here].std() > 0:
            x.append((lengths[here] - lengths[here].mean()) / lengths[here].std())
            y.append((pulls[here] - pulls[here].mean()) / pulls[here].std())
    return np.concatenate(x), np.concatenate(y)


def _neighbouring_conformers(structures: Structures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy differences of consecutive conformers, and minus the trapezoidal work of the forces between them."""
    usable = structures.has_energy & structures.has_forces & ~structures.pbc.any(axis=1)
    same = (
        (structures.group[1:] == structures.group[:-1])
        & (structures.sizes[1:] == structures.sizes[:-1])
        & usable[1:]
        & usable[:-1]
        & (structures.sizes[1:] > 1)
    )
    energies, works = [], []
    for k in np.flatnonzero(same):
        first = slice(structures.offsets[k], structures.offsets[k + 1])
        second = slice(structures.offsets[k + 1], structures.offsets[k + 2])
        if (structures.numbers[first] != structures.numbers[second]).any():
            continue
        x, y = structures.positions[first], structures.positions[second]
        rotation = _kabsch(y - y.mean(0), x - x.mean(0))
        step = (y - y.mean(0)) @ rotation - (x - x.mean(0))
        if np.sqrt(np.mean(step**2)) > 0.08:
            continue  # too far apart for the trapezoidal rule
        mean_force = 0.5 * (structures.forces[first] + structures.forces[second] @ rotation)
        energies.append(structures.energy[k + 1] - structures.energy[k])
        works.append(-float((mean_force * step).sum()))
    return np.array(energies), np.array(works)


def _kabsch(moving: NDArray[np.float64], fixed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation R that brings centred points closest, moving @ R ~ fixed (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(moving.T @ fixed)
    sign = np.sign(np.linalg.det(u @ vt))
    rotation: NDArray[np.float64] = u @ np.diag([1.0, 1.0, sign]) @ vt
    return rotation


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
