"""Physical checks of labels against the units and signs that the configuration declares.

Heuristics: bond lengths test the length unit; energies relative to those of the atoms, the energy unit; energy
differences of neighbouring, aligned conformers, the sign and unit of forces relative to energies; correlation of forces
along bonds with bond lengths, the sign of forces without neighbouring conformers; the stiffness of bonds to hydrogen,
similar in all molecules, the force unit by itself; energy differences of neighbouring cells, sign and unit of stress.
"""

import numpy as np

from hiphop_train.data.checks.label_statistics import LabelStatistics, label_statistics
from hiphop_train.data.checks.results import CheckResult
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.units import ENERGY

ADVICE = (
    "correct the units and signs in the data configuration (energy_unit, length_unit, force_sign, stress_sign: "
    "data.reader.*); if these are not ordinary molecules and the declaration is right, set data.check=false"
)
FEWEST_PAIRS = 10
"""Fewest pairs of neighbouring structures for a conclusion from energy differences."""
CLEAR = 0.8
"""Smallest correlation for a conclusion from energy differences."""


def check_labels(structures: Structures, sample: int = 2000, seed: int = 0) -> LabelStatistics:
    """Apply the heuristics, and raise `DataError` if they contradict the declared units or signs.

    Parameters
    ----------
    structures : as read
    sample : number of structures to check, in whole groups, chosen by `seed`

    Returns
    -------
    statistics : of the first level of theory
    """
    chosen = _sample(structures, sample, seed)
    theories = np.unique(chosen.theory)
    statistics = [label_statistics(chosen.take(np.flatnonzero(chosen.theory == theory))) for theory in theories]
    for theory, found in zip(theories, statistics, strict=True):
        for result in apply_heuristics(found):
            if result.status == "contradiction":
                name = f", level of theory {structures.theory_names[theory]}" if len(theories) > 1 else ""
                raise DataError(f"{structures.source}{name}: {result.text}. Fix: {ADVICE}")
    return statistics[0]


def _sample(structures: Structures, count: int, seed: int) -> Structures:
    if len(structures) <= count:
        return structures
    order = np.random.default_rng(seed).permutation(structures.group.max() + 1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return structures.take(np.sort(np.argsort(rank[structures.group], kind="stable")[:count]))


def apply_heuristics(statistics: LabelStatistics) -> list[CheckResult]:
    """Compare the statistics of labels with their expected values."""
    return [
        _length_unit(statistics),
        *(_zeros(statistics, key) for key in statistics.n_zero if key != "energy"),
        _sign_by_work(statistics),
        _sign_by_bonds(statistics),
        _units_by_work(statistics),
        _units_by_stiffness(statistics),
        _energy_unit(statistics),
        *([_stress_by_work(statistics)] if "stress" in statistics.n_known else []),
    ]


def _length_unit(statistics: LabelStatistics) -> CheckResult:
    name, numbers = "unit of length", {"bond_ratio": statistics.bond_ratio}
    if np.isnan(statistics.bond_ratio):
        return CheckResult(name, "inconclusive", "no open structure with several atoms", numbers)
    text = f"bonds are {statistics.bond_ratio:.2f} times as long as the sum of covalent radii"
    if not 0.7 < statistics.bond_ratio < 1.5:
        return CheckResult(name, "contradiction", f"{text}; the declared unit of length is wrong", numbers)
    return CheckResult(name, "ok", text, numbers)


def _zeros(statistics: LabelStatistics, key: str) -> CheckResult:
    name, n_zero, n = f"zero {key}", statistics.n_zero[key], statistics.n_known[key]
    numbers: dict[str, float] = {"n_zero": n_zero, "n": n}
    if n == 0:
        return CheckResult(name, "inconclusive", f"no {key} to check", numbers)
    text = f"{key} exactly zero in {n_zero:,} of {n:,} structures"
    if n_zero >= 10 and n_zero > 0.5 * n:
        return CheckResult(name, "contradiction", f"{text}: zeros apparently mark missing {key}", numbers)
    return CheckResult(name, "warning" if n_zero else "ok", text, numbers)


def _sign_by_work(statistics: LabelStatistics) -> CheckResult:
    name, n, correlation = "sign by energies", statistics.n_neighbours, statistics.work_correlation
    numbers = {
        "n_pairs": n,
        "correlation": correlation,
        "n_groups": statistics.n_neighbour_groups,
        "n_groups_agreeing": statistics.n_groups_agreeing,
    }
    if n < FEWEST_PAIRS or not abs(correlation) > CLEAR:
        text = f"{n} pairs of neighbouring conformers" + (f", correlation {correlation:+.2f}" if n else "")
        return CheckResult(name, "inconclusive", text, numbers)
    text = (
        f"correlation {correlation:.3f} over {n} pairs of neighbouring conformers; "
        f"in {statistics.n_groups_agreeing} of {statistics.n_neighbour_groups} groups energies fall along the forces"
    )
    if correlation < 0:
        text = f"energies rise along the declared forces ({text}): the file has the opposite sign"
        return CheckResult(name, "contradiction", text, numbers)
    return CheckResult(name, "ok", text, numbers)


def _sign_by_bonds(statistics: LabelStatistics) -> CheckResult:
    name, n, correlation = "sign by bonds", statistics.n_bonds, statistics.bond_correlation
    numbers = {"n_bonds": n, "correlation": correlation}
    if n < 100 or not abs(correlation) > 0.2:
        return CheckResult(name, "inconclusive", f"{n} bonds, correlation {correlation:+.2f}", numbers)
    text = f"correlation {correlation:+.2f} over {n} bonds"
    if correlation < 0:
        return CheckResult(name, "ok", f"forces shorten long bonds: {text}", numbers)
    text = f"the declared forces stretch long bonds ({text})"
    if statistics.n_neighbours >= FEWEST_PAIRS and abs(statistics.work_correlation) > CLEAR:
        return CheckResult(name, "warning", text, numbers)  # energies are more reliable
    return CheckResult(name, "contradiction", f"{text}: the file has the opposite sign", numbers)


def _units_by_work(statistics: LabelStatistics) -> CheckResult:
    name, n, slope = "units of energy and force", statistics.n_neighbours, statistics.work_slope
    numbers = {"slope": slope, "n_pairs": n}
    if n < FEWEST_PAIRS or not statistics.work_correlation > CLEAR:
        return CheckResult(name, "inconclusive", f"{n} pairs of neighbouring conformers", numbers)
    text = f"energy differences are {slope:.3g} times the work of the forces over {n} pairs of neighbouring conformers"
    if not 0.5 < slope < 2.0:
        text += ": the declared units of energies and forces do not match"
        return CheckResult(name, "contradiction", text, numbers)
    return CheckResult(name, "ok", text, numbers)


def _units_by_stiffness(statistics: LabelStatistics) -> CheckResult:
    name, n, stiffness = "unit of force by stiffness", statistics.n_hydrogen_bonds, statistics.hydrogen_stiffness
    numbers = {"stiffness": stiffness, "n_bonds": n}
    if n < 100 or not statistics.hydrogen_correlation < -0.5:
        return CheckResult(name, "inconclusive", f"{n} bonds to hydrogen", numbers)
    text = f"bonds to hydrogen have a stiffness of {stiffness:.3g} eV/Angstrom^2 (usually 50 to 130)"
    if not 8.0 < stiffness < 400.0:
        text += ": the declared units of energy and force are wrong"
        return CheckResult(name, "contradiction", text, numbers)
    return CheckResult(name, "ok", text, numbers)


def _energy_unit(statistics: LabelStatistics) -> CheckResult:
    """Total energies agree with those of the atoms to a percent, while units differ by far more."""
    name, n, ratio = "unit of energy by atoms", statistics.n_energies, statistics.energy_ratio
    numbers = {"ratio": ratio, "spread": statistics.energy_spread, "n": n}
    if n < 5:
        return CheckResult(name, "inconclusive", f"{n} energies of H, C, N, O, F, S, Cl", numbers)
    text = f"energies are {ratio:#.4g} times those of their atoms"
    if 0.97 < ratio < 1.03:
        return CheckResult(name, "ok", text, numbers)
    factors = [a / b for a in ENERGY.values() for b in ENERGY.values() if a != b]
    if statistics.energy_spread < 0.02 and any(0.97 < ratio / factor < 1.03 for factor in factors):
        text += " in all structures: total energies in a unit other than the declared one"
        return CheckResult(name, "contradiction", text, numbers)
    return CheckResult(name, "inconclusive", f"{text}: not all-electron total energies", numbers)


def _stress_by_work(statistics: LabelStatistics) -> CheckResult:
    name, n = "sign and unit of stress", statistics.n_strained
    correlation, slope = statistics.stress_correlation, statistics.stress_slope
    numbers = {"n_pairs": n, "correlation": correlation, "slope": slope}
    if n < FEWEST_PAIRS or not abs(correlation) > CLEAR:
        text = f"{n} pairs of neighbouring cells" + (f", correlation {correlation:+.2f}" if n else "")
        return CheckResult(name, "inconclusive", text, numbers)
    text = f"energy differences are {slope:.3g} times the work of the stress over {n} pairs of neighbouring cells"
    if slope < 0:
        text += ": the file has the opposite sign of stress; change data.reader.stress_sign, "
        return CheckResult(name, "contradiction", f"{text}or do not read stress: data.stress_key=false", numbers)
    if not 0.5 < slope < 2.0:
        text += (
            ": the declared units of energies and stress do not match; change data.reader.stress_unit (virial_unit), "
        )
        return CheckResult(name, "contradiction", f"{text}or do not read stress: data.stress_key=false", numbers)
    return CheckResult(name, "ok", text, numbers)
