"""Physical checks of labels: whether the file holds what its configuration declares.

The witnesses: bonded distances tell the unit of length; energies beside those of their atoms, the unit of energy;
energy differences of neighbouring, aligned conformers tell sign and unit of forces against energies; forces along bonds
against bond lengths tell the sign where there are no neighbours; the stiffness of bonds to hydrogen, much the same in
all molecules, tells the unit of forces by itself.
"""

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from hiphop_train.data.checks.atom_energies import GSAE, named_sums
from hiphop_train.data.checks.results import Finding
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.units import ENERGY

ADVICE = (
    "correct energy_unit, length_unit or force_sign of the data configuration (data.reader.*); "
    "if these are no ordinary molecules and the declaration is right, data.check=false"
)


@dataclass(frozen=True)
class LabelReport:
    """What the witnesses say.

    Attributes
    ----------
    bond_ratio : median over atoms of nearest-neighbour distance by sum of covalent radii; about 1 in Angstrom
    n_energies : energies that were compared with those of the atoms
    energy_ratio, energy_spread : median of energies by sums of all-electron energies of their atoms, 1.00 to 1.02 in eV
        for total energies at any level of theory; and how far it varies around that
    n_neighbours : pairs of neighbouring conformers that were compared
    n_neighbour_groups, n_groups_for : groups with such pairs, and those of them that say that forces are forces
    work_correlation, work_slope : of energy differences with the work of the declared forces; both 1 when all agrees
    n_bonds : bonds that were looked at
    bond_correlation : of bond length with the force that stretches it, within pairs of elements; negative for forces
    n_hydrogen_bonds, hydrogen_correlation : bonds of hydrogen to others, and the same correlation among them
    hydrogen_stiffness : eV/Angstrom^2, how the force falls with the length of these bonds; 50 to 130 is usual
    n_zero_forces, n_forces : structures of several atoms whose forces are all exactly zero, and those with forces
    """

    bond_ratio: float
    n_energies: int
    energy_ratio: float
    energy_spread: float
    n_neighbours: int
    n_neighbour_groups: int
    n_groups_for: int
    work_correlation: float
    work_slope: float
    n_bonds: int
    bond_correlation: float
    n_hydrogen_bonds: int
    hydrogen_correlation: float
    hydrogen_stiffness: float
    n_zero_forces: int
    n_forces: int


def check_labels(structures: Structures, sample: int = 2000, seed: int = 0) -> LabelReport:
    """Ask the witnesses, and raise `DataError` when they contradict the declared units or sign.

    Parameters
    ----------
    structures : as read
    sample : structures that are looked at, in whole groups, chosen by `seed`

    Returns
    -------
    report : of the first level of theory
    """
    chosen = _sample(structures, sample, seed)
    levels = np.unique(chosen.theory)
    reports = [examine(chosen.take(np.flatnonzero(chosen.theory == level))) for level in levels]
    for level, report in zip(levels, reports, strict=True):
        for finding in judge(report):
            if finding.status == "contradiction":
                name = f", level {structures.theory_names[level]}" if len(levels) > 1 else ""
                raise DataError(f"{structures.source}{name}: {finding.text}. Fix: {ADVICE}")
    return reports[0]


def judge(report: LabelReport) -> list[Finding]:
    """Compare what the witnesses say with what is so for right labels."""
    return [
        _length_unit(report),
        _zero_forces(report),
        _sign_by_work(report),
        _sign_by_bonds(report),
        _units_by_work(report),
        _units_by_stiffness(report),
        _energy_unit(report),
    ]


def _length_unit(report: LabelReport) -> Finding:
    name, figures = "unit of length", {"bond_ratio": report.bond_ratio}
    if np.isnan(report.bond_ratio):
        return Finding(name, "not told", "no open structure of several atoms", figures)
    told = f"bonds are {report.bond_ratio:.2f} times as long as covalent radii say"
    if not 0.7 < report.bond_ratio < 1.5:
        return Finding(name, "contradiction", f"{told}; the declared unit of length is wrong", figures)
    return Finding(name, "ok", told, figures)


def _zero_forces(report: LabelReport) -> Finding:
    name = "forces of zero"
    figures: dict[str, float] = {"n_zero": report.n_zero_forces, "n": report.n_forces}
    if report.n_forces == 0:
        return Finding(name, "not told", "there are no forces", figures)
    told = f"all forces are exactly zero in {report.n_zero_forces:,} of {report.n_forces:,} structures"
    if report.n_zero_forces >= 10 and report.n_zero_forces > 0.5 * report.n_forces:
        return Finding(name, "contradiction", f"{told}: zero stands for missing forces there", figures)
    return Finding(name, "warning" if report.n_zero_forces else "ok", told, figures)


def _sign_by_work(report: LabelReport) -> Finding:
    name = "sign by energies"
    figures = {
        "n_pairs": report.n_neighbours,
        "correlation": report.work_correlation,
        "n_groups": report.n_neighbour_groups,
        "n_groups_for": report.n_groups_for,
    }
    if report.n_neighbours < 10 or not abs(report.work_correlation) > 0.8:
        told = f"{report.n_neighbours} pairs of neighbouring conformers"
        if report.n_neighbours:
            told += f", correlation {report.work_correlation:+.2f}"
        return Finding(name, "not told", told, figures)
    witnesses = (
        f"correlation {report.work_correlation:.3f} over {report.n_neighbours} pairs of neighbouring conformers; "
        f"{report.n_groups_for} of {report.n_neighbour_groups} groups say that energies fall along the forces"
    )
    if report.work_correlation < 0:
        return Finding(
            name,
            "contradiction",
            f"energies rise along the declared forces ({witnesses}): the file holds the opposite sign",
            figures,
        )
    return Finding(name, "ok", witnesses, figures)


def _sign_by_bonds(report: LabelReport) -> Finding:
    name, figures = "sign by bonds", {"n_bonds": report.n_bonds, "correlation": report.bond_correlation}
    decided = report.n_neighbours >= 10 and abs(report.work_correlation) > 0.8  # by the stronger witness
    if report.n_bonds < 100 or not abs(report.bond_correlation) > 0.2:
        return Finding(name, "not told", f"{report.n_bonds} bonds, correlation {report.bond_correlation:+.2f}", figures)
    told = f"correlation {report.bond_correlation:+.2f} over {report.n_bonds} bonds"
    if report.bond_correlation > 0:
        return Finding(
            name,
            "warning" if decided else "contradiction",
            f"the declared forces stretch long bonds ({told})"
            + ("" if decided else ": the file holds the opposite sign"),
            figures,
        )
    return Finding(name, "ok", f"forces pull long bonds together: {told}", figures)


def _units_by_work(report: LabelReport) -> Finding:
    name, figures = "units of energy and force", {"slope": report.work_slope, "n_pairs": report.n_neighbours}
    if report.n_neighbours < 10 or not report.work_correlation > 0.8:
        return Finding(name, "not told", f"{report.n_neighbours} pairs of neighbouring conformers", figures)
    told = (
        f"energy differences are {report.work_slope:.3g} times the work of the forces over {report.n_neighbours} pairs "
        "of neighbouring conformers"
    )
    if not 0.5 < report.work_slope < 2.0:
        told += ": energies and forces are declared in units that do not fit"
        return Finding(name, "contradiction", told, figures)
    return Finding(name, "ok", told, figures)


def _units_by_stiffness(report: LabelReport) -> Finding:
    name = "unit of force by stiffness"
    figures = {"stiffness": report.hydrogen_stiffness, "n_bonds": report.n_hydrogen_bonds}
    if report.n_hydrogen_bonds < 100 or not report.hydrogen_correlation < -0.5:
        return Finding(name, "not told", f"{report.n_hydrogen_bonds} bonds to hydrogen", figures)
    told = (
        f"bonds to hydrogen have a stiffness of {report.hydrogen_stiffness:.3g} eV/Angstrom^2, where 50 to 130 is usual"
    )
    if not 8.0 < report.hydrogen_stiffness < 400.0:
        return Finding(name, "contradiction", f"{told}: the declared units of energy and force are wrong", figures)
    return Finding(name, "ok", told, figures)


def _energy_unit(report: LabelReport) -> Finding:
    """Total energies are those of the atoms to a percent, and units differ by far more."""
    name = "unit of energy by atoms"
    figures = {"ratio": report.energy_ratio, "spread": report.energy_spread, "n": report.n_energies}
    if report.n_energies < 5:
        return Finding(name, "not told", f"{report.n_energies} energies of H, C, N, O, F, S, Cl", figures)
    told = f"energies are {report.energy_ratio:#.4g} times those of their atoms"
    if 0.97 < report.energy_ratio < 1.03:
        return Finding(name, "ok", told, figures)
    factors = [a / b for a in ENERGY.values() for b in ENERGY.values() if a != b]
    if report.energy_spread < 0.02 and any(0.97 < report.energy_ratio / factor < 1.03 for factor in factors):
        told = f"{told}, and always so: they are total energies in another unit than the declared one"
        return Finding(name, "contradiction", told, figures)
    return Finding(name, "not told", f"{told}: no total energies of all electrons", figures)


def examine(structures: Structures) -> LabelReport:
    """Ask the witnesses about all given structures, of one level of theory."""
    ratio, lengths, pulls, kinds = _bonds(structures)
    energies, works, groups = _neighbouring_conformers(structures)
    hydrogen = kinds // 200 == 1
    x, y = _centre(lengths[hydrogen], pulls[hydrogen], kinds[hydrogen])
    slope = float(works @ energies / (works @ works)) if len(works) and works @ works > 0 else float("nan")
    _, group = np.unique(groups, return_inverse=True)
    votes = np.bincount(group, works * energies)
    n_energies, energy_ratio, energy_spread = _by_atoms(structures)
    with_forces = structures.has_forces & (structures.sizes > 1)
    moved = np.logical_or.reduceat((structures.forces != 0).any(axis=1), structures.offsets[:-1])
    return LabelReport(
        bond_ratio=ratio,
        n_energies=n_energies,
        energy_ratio=energy_ratio,
        energy_spread=energy_spread,
        n_neighbours=len(works),
        n_neighbour_groups=len(votes),
        n_groups_for=int((votes > 0).sum()),
        work_correlation=_correlation(energies, works),
        work_slope=slope,
        n_bonds=len(lengths),
        bond_correlation=_correlation(*_standardise(lengths, pulls, kinds)),
        n_hydrogen_bonds=len(x),
        hydrogen_correlation=_correlation(x, y),
        hydrogen_stiffness=-float(x @ y / (x @ x)) if x @ x > 0 else float("nan"),
        n_zero_forces=int((with_forces & ~moved).sum()),
        n_forces=int(with_forces.sum()),
    )


def _sample(structures: Structures, count: int, seed: int) -> Structures:
    if len(structures) <= count:
        return structures
    order = np.random.default_rng(seed).permutation(structures.group.max() + 1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return structures.take(np.sort(np.argsort(rank[structures.group], kind="stable")[:count]))


def _by_atoms(structures: Structures) -> tuple[int, float, float]:
    """How many energies, and median and spread of their ratios to the energies of the atoms, all electrons."""
    elements = np.unique(structures.numbers).tolist()
    compositions = np.zeros((len(structures), 119), np.int32)
    compositions[:, elements] = structures.composition(elements)
    ratio = structures.energy / named_sums(GSAE, compositions)[0]
    ratio = ratio[np.isfinite(ratio)]
    if len(ratio) == 0:
        return 0, float("nan"), float("nan")
    centre = float(np.median(ratio))
    spread = float(np.median(np.abs(ratio - centre)) / abs(centre)) if centre else float("inf")
    return len(ratio), centre, spread


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
        return float("nan"), np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
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


def _neighbouring_conformers(
    structures: Structures,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Energy differences of consecutive conformers, minus the trapezoidal work of the forces between them, groups."""
    usable = structures.has_energy & structures.has_forces & ~structures.pbc.any(axis=1)
    same = (
        (structures.group[1:] == structures.group[:-1])
        & (structures.sizes[1:] == structures.sizes[:-1])
        & usable[1:]
        & usable[:-1]
        & (structures.sizes[1:] > 1)
    )
    energies, works, groups = [], [], []
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
        groups.append(structures.group[k])
    return np.array(energies), np.array(works), np.array(groups, np.int64)


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
