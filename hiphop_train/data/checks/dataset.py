"""Checks of a whole data set, from the descriptors that a scan computed for each structure."""

from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hiphop_train.data.checks.atom_energies import GSAE, LINEAR_FIT, fit_atoms, reference_residual
from hiphop_train.data.checks.descriptors import distances
from hiphop_train.data.checks.label_statistics import label_statistics, may_not_vanish
from hiphop_train.data.checks.labels import apply_heuristics
from hiphop_train.data.checks.results import CheckResult, deviations, flagging, robust, worst_first
from hiphop_train.data.checks.scan import Scan, Source
from hiphop_train.targets import TARGETS

TOO_CLOSE = 0.6
"""Fraction of the sum of covalent radii that atoms of a molecule do not approach at the data sets' temperatures."""
FAR_OFF = 15.0
"""Robust standard deviations from the median."""
FEWEST = 30
"""Fewest structures for a search for outliers."""
NET_FORCE, NET_TORQUE = 0.5, 1.0
"""eV/Angstrom and eV; integration grids cause at most a tenth of them, truncated or rotated forces far more."""
SAME = 1e-3
"""Angstrom, largest difference of distances of near duplicates."""
COMPARED = 2000
"""Largest number of likely near duplicates that are read again and compared."""
OTHER_THEORY = 0.5
"""eV per atom; PBE/def2-SVP and CCSD(T)/CBS differ by 0.65 to 0.8 from wB97X/6-31G(d), parts of the ANI sets by at most
0.2."""


def check_dataset(scan: Scan, source: Source, elements: list[str] | None, theory: str) -> list[CheckResult]:
    """Run all checks.

    Parameters
    ----------
    scan : of the data set
    source : to read structures again
    elements : symbols of the expected elements, or None
    theory : declared level of theory; empty if none
    """
    several, sample = len(scan.theory_names) > 1, scan.sample
    results: list[CheckResult] = []
    for number, name in enumerate(scan.theory_names):
        chosen = scan.table.theory == number
        part = sample.take(np.flatnonzero(sample.theory == sample.theory_names.index(name))) if several else sample
        found = apply_heuristics(label_statistics(part)) if len(part) else []
        found += [_energy_outliers(scan, chosen), _level_of_theory(scan, chosen, theory)]
        found += [_outliers(scan, key, chosen) for key in scan.largest if key != "energy"]
        results += [replace(result, name=f"{result.name}, {name}") for result in found] if several else found
    results += [_missing(scan), _zeros(scan), _net_forces(scan), _contacts(scan)]
    return [*results, _duplicates(scan), _near_duplicates(scan, source), _elements(scan, elements)]


def _energy_outliers(scan: Scan, chosen: NDArray[np.bool_]) -> CheckResult:
    """Outliers of the energies minus E0."""
    name, table = "outliers in energy", scan.table
    known = np.flatnonzero(chosen & np.isfinite(table.energy))
    if len(known) < FEWEST:
        return CheckResult(name, "inconclusive", f"only {len(known)} energies")
    fit = fit_atoms(table.energy[known], table.composition[known], scan.compositions)
    far, spread = np.abs(deviations(fit.residual)), robust(fit.residual)[1]
    e0 = {chemical_symbols[z]: float(value) for z, value in zip(fit.elements, fit.e0, strict=True)}
    fitted = ", ".join(f"{symbol} {value:.2f}" for symbol, value in e0.items()) + " eV"
    if fit.rank < len(fit.elements):
        fitted = f"not determined: rank {fit.rank} of {len(fit.elements)}"
    index, severity = worst_first(far > FAR_OFF, far)
    text = (
        f"{len(index):,} beyond {FAR_OFF:.0f} deviations (largest {far.max():.1f}) of {1000 * spread:.3g} meV/atom "
        f"after E0 ({fitted})"
    )
    numbers = {"largest": float(far.max()), "spread_eV_per_atom": spread, "rank": fit.rank, "n": len(known)}
    numbers |= {f"e0_{symbol}": value for symbol, value in e0.items()}
    return flagging(name, text, numbers, known[index], severity)


def _outliers(scan: Scan, key: str, chosen: NDArray[np.bool_]) -> CheckResult:
    """Structures whose largest entry of a target is far above those of the others."""
    name, target = f"outliers in {key}", TARGETS[key]
    known = np.flatnonzero(chosen & scan.has(key) & ((scan.table.size > 1) | (target.per != "atom")))
    if len(known) < FEWEST:
        return CheckResult(name, "inconclusive", f"only {len(known)} structures with {key}")
    largest = scan.largest[key][known]
    far = deviations(largest)
    index, severity = worst_first(far > FAR_OFF, far)
    text = (
        f"{len(index):,} beyond {FAR_OFF:.0f} deviations (largest {far.max():.1f}); largest norm in a structure: "
        f"median {np.median(largest):.3g}, maximum {largest.max():.3g} {target.unit}"
    )
    numbers = {"largest": float(far.max()), "median": float(np.median(largest)), "maximum": float(largest.max())}
    return flagging(name, text, numbers | {"n": len(known)}, known[index], severity)


def _level_of_theory(scan: Scan, chosen: NDArray[np.bool_], theory: str) -> CheckResult:
    """Energies against reference energies of atoms: bound molecules, at the declared level of theory."""
    name, table = "level of theory", scan.table
    known = chosen & np.isfinite(table.energy) & (table.size > 3)
    energy, composition = table.energy[known], table.composition[known]
    bound = reference_residual(GSAE, energy, composition, scan.compositions)
    fitted = reference_residual(LINEAR_FIT, energy, composition, scan.compositions)
    bound, fitted = bound[~np.isnan(bound)], fitted[~np.isnan(fitted)]
    if len(bound) < 5:
        return CheckResult(name, "inconclusive", f"only {len(bound)} energies of molecules of H, C, N, O, F, S, Cl")
    text = (
        f"minus GSAE of wB97X/6-31G(d): {bound.mean():.3f} ± {bound.std():.3f} eV/atom; "
        f"minus the linear fit of ANI-2x: {fitted.mean():+.3f} ± {fitted.std():.3f}"
    )
    numbers = {
        "gsae_mean": float(bound.mean()),
        "gsae_std": float(bound.std()),
        "fit_mean": float(fitted.mean()),
        "fit_std": float(fitted.std()),
    }
    if not -9.0 < bound.mean() < 0.0:
        text += ": not total energies of bound molecules"
        return CheckResult(name, "warning" if theory else "inconclusive", text, numbers)
    if abs(fitted.mean()) > OTHER_THEORY:
        text += ": level of theory differs from wB97X/6-31G(d)"
        return CheckResult(name, "warning" if theory == "wB97X/6-31G(d)" else "ok", text, numbers)
    return CheckResult(name, "ok", text, numbers)


def _missing(scan: Scan) -> CheckResult:
    """Structures that lack a label present in others."""
    expected = {key: TARGETS[key].is_defined(scan.table.pbc) for key in scan.largest}
    missing = {key: chosen & ~scan.has(key) for key, chosen in expected.items()}
    counts = {key: int(lacking.sum()) for key, lacking in missing.items()}
    text = ", ".join(f"{n:,} lack {key}" for key, n in counts.items())
    text = f"of {len(scan):,} structures {text}"
    numbers: dict[str, float] = {"n": len(scan), **{f"no_{key}": n for key, n in counts.items()}}
    if any(n == expected[key].sum() for key, n in counts.items()):
        return CheckResult("missing labels", "ok", text, numbers)  # a set without energies, for instance
    return flagging("missing labels", text, numbers, *_most_first(missing))


def _zeros(scan: Scan) -> CheckResult:
    zero = {key: may_not_vanish(key, scan.table.size) & (norm == 0) for key, norm in scan.largest.items()}
    numbers: dict[str, float] = {key: int(chosen.sum()) for key, chosen in zero.items()}
    text = "exactly zero: " + ", ".join(f"{key} of {n:,}" for key, n in numbers.items()) + " structures"
    return flagging("labels of zero", text, numbers, *_most_first(zero))


def _most_first(flags: dict[str, NDArray[np.bool_]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Structures flagged for any target, with the number of targets, in descending order."""
    n_flags: NDArray[np.float64] = np.stack(list(flags.values())).sum(axis=0, dtype=np.float64)
    return worst_first(n_flags > 0, n_flags)


def _net_forces(scan: Scan) -> CheckResult:
    name, force, torque = "net forces and torques", scan.table.net_force, scan.table.net_torque
    if not np.isfinite(force).any():
        return CheckResult(name, "inconclusive", "no forces")
    size = np.fmax(force / NET_FORCE, torque / NET_TORQUE)
    median, _ = robust(force)
    text = f"force: median {median:.2g}, largest {np.nanmax(force):.2g} eV/Å"
    numbers = {"median_force": median, "largest_force": float(np.nanmax(force))}
    if np.isfinite(torque).any():
        text += f"; torque: largest {np.nanmax(torque):.2g} eV"
        numbers["largest_torque"] = float(np.nanmax(torque))
    index, severity = worst_first(size > 1, size)
    if len(index):
        text += f"; {len(index):,} structures beyond {NET_FORCE} eV/Å or {NET_TORQUE} eV"
    return flagging(name, text, numbers, index, severity)


def _contacts(scan: Scan) -> CheckResult:
    name, contact, nearest = "close contacts", scan.table.contact, scan.table.nearest
    if not np.isfinite(contact).any():
        return CheckResult(name, "inconclusive", "no structure with several atoms")
    index, severity = worst_first(contact < TOO_CLOSE, -contact)
    text = (
        f"{len(index):,} structures with atoms closer than {TOO_CLOSE} times the sum of their covalent radii; smallest "
        f"ratio {contact.min():.2f} (smallest distance {nearest.min():.3f} Å)"
    )
    numbers = {"smallest_ratio": float(contact.min()), "smallest": float(nearest.min()), "n": len(index)}
    return flagging(name, text, numbers, index, -severity)


def _duplicates(scan: Scan) -> CheckResult:
    """Structures with the same atoms at exactly the same positions as an earlier one."""
    table = scan.table
    order = np.argsort(table.exact, kind="stable")
    same = table.exact[order][1:] == table.exact[order][:-1]
    later, earlier = order[1:][same], order[:-1][same]
    difference = np.nan_to_num(np.abs(table.energy[later] - table.energy[earlier]))
    n_conflicting = int((difference > 1e-4).sum())
    text = f"{len(later):,} structures repeat an earlier one to the last digit"
    if n_conflicting:
        text += f"; energies of {n_conflicting:,} of them differ, by up to {difference.max():.3g} eV"
    index, severity = worst_first(np.ones(len(later), np.bool_), difference)
    numbers: dict[str, float] = {"n": len(later), "n_conflicting": n_conflicting}
    return flagging("duplicates", text, numbers, later[index], severity)


def _near_duplicates(scan: Scan, source: Source) -> CheckResult:
    """Structures whose distances agree to `SAME` with those of another with the same sequence of elements."""
    name, pairs = "near duplicates", _likely_pairs(scan)
    n_likely = len(pairs)
    if n_likely > COMPARED:
        pairs = pairs[np.sort(np.random.default_rng(0).permutation(n_likely)[:COMPARED])]
    if n_likely == 0:
        return CheckResult(name, "ok", f"none to {SAME} Å in all distances, for three atoms or more", {"n": 0})
    index = np.unique(pairs)
    again = source.fetch(index)
    apart = np.full(len(pairs), np.inf)
    for k, (a, b) in enumerate(np.searchsorted(index, pairs).tolist()):
        first, second = (slice(again.offsets[s], again.offsets[s + 1]) for s in (a, b))
        if np.array_equal(again.numbers[first], again.numbers[second]):
            difference = distances(again.positions[first]) - distances(again.positions[second])
            apart[k] = np.abs(difference).max(initial=0.0)
    near = apart < SAME
    text = f"{near.sum():,} structures agree with another in all distances to {SAME} Å"
    if n_likely > len(pairs):
        text += f" among {len(pairs):,} of {n_likely:,} likely pairs, drawn at random"
    which, severity = worst_first(near, -apart)
    numbers: dict[str, float] = {"n": int(near.sum()), "n_compared": len(pairs), "n_likely": n_likely}
    return flagging(name, text, numbers, pairs[which, 1], -severity)


def _likely_pairs(scan: Scan) -> NDArray[np.int64]:
    """(n_pairs, 2) structures that are neighbours in the same hash bin, without exact duplicates."""
    table = scan.table
    several = table.size > 2  # scans of diatomics may be arbitrarily dense
    found = []
    for hashes in table.near.T:
        order = np.lexsort((table.order, hashes))
        first, second = order[:-1], order[1:]
        close = (hashes[first] == hashes[second]) & (table.exact[first] != table.exact[second]) & several[first]
        # projections differ by less than the root of the number of projected distances times their difference
        close &= np.abs(table.order[first] - table.order[second]) < SAME * np.minimum(table.size[first], 16)
        found.append(np.sort(np.stack([first[close], second[close]], axis=1), axis=1))
    pairs: NDArray[np.int64] = np.unique(np.concatenate(found), axis=0)
    return pairs


def _elements(scan: Scan, expected: list[str] | None) -> CheckResult:
    has = scan.compositions > 0
    per_composition = np.bincount(scan.table.composition, minlength=len(has))
    counts = {chemical_symbols[z]: int(per_composition[has[:, z]].sum()) for z in scan.elements}
    text = "structures with " + ", ".join(f"{symbol} {n:,}" for symbol, n in counts.items())
    unexpected = [symbol for symbol in counts if expected is not None and symbol not in expected]
    numbers: dict[str, float] = {f"n_{symbol}": n for symbol, n in counts.items()}
    columns = [chemical_symbols.index(symbol) for symbol in unexpected]
    with_unexpected = np.logical_or.reduce(has[:, columns], axis=1)
    index = np.flatnonzero(with_unexpected[scan.table.composition])
    if unexpected:
        verb = "is" if len(unexpected) == 1 else "are"
        text = f"{', '.join(unexpected)} in {len(index):,} structures {verb} not expected; {text}"
    return flagging("elements", text, numbers, index, np.ones(len(index)))
