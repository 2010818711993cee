"""Checks of a whole data set, from the figures of each structure that one pass has found."""

from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hiphop_train.data.checks.atom_energies import GSAE, LINEAR_FIT, fit_atoms, named_residual, robust
from hiphop_train.data.checks.descriptors import distances
from hiphop_train.data.checks.labels import examine, judge
from hiphop_train.data.checks.results import Finding, worst_first
from hiphop_train.data.checks.scan import Source, Survey

TOO_CLOSE = 0.6
"""Of the sum of covalent radii; no two atoms of a molecule come so close at temperatures that sets are made for."""
FAR_OFF = 15.0
"""Robust standard deviations from the median."""
NET_FORCE, NET_TORQUE = 0.5, 1.0
"""eV/Angstrom and eV; grids of integration leave a tenth of them at most, cut-off or turned forces far more."""
SAME = 1e-3
"""Angstrom, largest difference of distances of near duplicates."""
COMPARED = 2000
"""Pairs of likely near duplicates that are read again and compared."""
OTHER_LEVEL = 0.5
"""eV per atom; PBE/def2-SVP and CCSD(T)/CBS lie 0.65 to 0.8 from wB97X/6-31G(d), parts of the ANI sets within 0.2."""


def judge_all(survey: Survey, source: Source, elements: list[str] | None, theory: str) -> list[Finding]:
    """Do all checks.

    Parameters
    ----------
    survey : of the data set
    source : to read structures again
    elements : symbols of those that are expected, or None
    theory : level of theory that is declared, empty where none is
    """
    table = survey.table
    several = len(survey.level_names) > 1
    found: list[Finding] = []
    for level, name in enumerate(survey.level_names):
        chosen = table.level == level
        sample = survey.sample
        part = sample.take(np.flatnonzero(sample.theory == sample.theory_names.index(name))) if several else sample
        of_level = judge(examine(part)) if len(part) else []
        of_level += [_energies(survey, chosen), _atoms(survey, chosen, theory), _forces(survey, chosen)]
        found += [replace(finding, name=f"{finding.name}, {name}") for finding in of_level] if several else of_level
    found += [_missing(survey), _zero(survey), _net_forces(survey), _contacts(survey)]
    return [*found, _duplicates(survey), _near_duplicates(survey, source), _elements(survey, elements)]


def _missing(survey: Survey) -> Finding:
    table = survey.table
    no_energy, no_forces = np.isnan(table.energy), ~table.has_forces
    figures: dict[str, float] = {"no_energy": int(no_energy.sum()), "no_forces": int(no_forces.sum()), "n": len(survey)}
    if no_energy.all() or no_forces.all():
        kind = "energies" if no_energy.all() else "forces"
        other = int(no_forces.sum() if no_energy.all() else no_energy.sum())
        text = f"no {kind} at all; {other:,} of {len(survey):,} structures without the other label"
        return Finding("missing labels", "ok", text, figures)
    either = no_energy | no_forces
    text = f"{no_energy.sum():,} energies and forces of {no_forces.sum():,} of {len(survey):,} structures are missing"
    index, values = worst_first(either, no_energy + 0.0 + no_forces)
    return Finding("missing labels", "warning" if either.any() else "ok", text, figures, index, values)


def _zero(survey: Survey) -> Finding:
    table = survey.table
    zero = (table.energy == 0) | table.zero
    figures: dict[str, float] = {"energies": int((table.energy == 0).sum()), "forces": int(table.zero.sum())}
    text = f"{figures['energies']:,} energies and the forces of {figures['forces']:,} structures are exactly zero"
    index, values = worst_first(zero, (table.energy == 0) + 0.0 + table.zero)
    return Finding("labels of zero", "warning" if zero.any() else "ok", text, figures, index, values)


def _net_forces(survey: Survey) -> Finding:
    table = survey.table
    force, torque = table.net_force, table.net_torque
    if not np.isfinite(force).any():
        return Finding("net forces and torques", "not told", "there are no forces")
    size = np.fmax(force / NET_FORCE, torque / NET_TORQUE)
    median, _ = robust(force)
    text = f"force: median {median:.2g}, largest {np.nanmax(force):.2g} eV/Å"
    figures: dict[str, float] = {"median_force": median, "largest_force": float(np.nanmax(force))}
    if np.isfinite(torque).any():
        text += f"; torque: largest {np.nanmax(torque):.2g} eV"
        figures["largest_torque"] = float(np.nanmax(torque))
    index, values = worst_first(size > 1, size)
    if len(index):
        text += f"; {len(index):,} structures beyond {NET_FORCE} eV/Å or {NET_TORQUE} eV"
    return Finding("net forces and torques", "warning" if len(index) else "ok", text, figures, index, values)


def _contacts(survey: Survey) -> Finding:
    contact = survey.table.contact
    if not np.isfinite(contact).any():
        return Finding("close contacts", "not told", "no structure of several atoms")
    index, values = worst_first(contact < TOO_CLOSE, -contact)
    text = (
        f"{len(index):,} structures with atoms closer than {TOO_CLOSE} of their radii; smallest {contact.min():.2f} "
        f"({survey.table.nearest.min():.3f} Å between any two atoms)"
    )
    figures: dict[str, float] = {
        "smallest_ratio": float(contact.min()),
        "smallest": float(survey.table.nearest.min()),
        "n": len(index),
    }
    return Finding("close contacts", "warning" if len(index) else "ok", text, figures, index, -values)


def _energies(survey: Survey, chosen: NDArray[np.bool_]) -> Finding:
    """Energies less E0 that lie far off the others."""
    table = survey.table
    known = np.flatnonzero(chosen & np.isfinite(table.energy))
    if len(known) < 30:
        return Finding("energy outliers", "not told", f"{len(known)} energies are too few")
    fit = fit_atoms(table.energy[known], table.composition[known], survey.compositions)
    centre, spread = robust(fit.residual)
    off = np.abs(fit.residual - centre)
    far = off / spread if spread > 0 else np.zeros(len(off))
    e0 = ", ".join(f"{chemical_symbols[z]} {value:.2f}" for z, value in zip(fit.elements, fit.e0, strict=True)) + " eV"
    if fit.rank < len(fit.elements):
        e0 = f"not determined: rank {fit.rank} of {len(fit.elements)}"
    index, values = worst_first(far > FAR_OFF, far)
    text = (
        f"{len(index):,} beyond {FAR_OFF:.0f} deviations (largest {far.max():.1f}) of {1000 * spread:.3g} meV/atom "
        f"after E0 ({e0})"
    )
    figures: dict[str, float] = {
        "largest": float(far.max()),
        "spread_eV_per_atom": spread,
        "rank": fit.rank,
        "n": len(known),
    }
    figures |= {f"e0_{chemical_symbols[z]}": float(value) for z, value in zip(fit.elements, fit.e0, strict=True)}
    return Finding("energy outliers", "warning" if len(index) else "ok", text, figures, known[index], values)


def _forces(survey: Survey, chosen: NDArray[np.bool_]) -> Finding:
    """Structures whose largest force is far above those of the others."""
    known = np.flatnonzero(chosen & np.isfinite(survey.table.largest) & (survey.table.size > 1))
    if len(known) < 30:
        return Finding("force outliers", "not told", f"{len(known)} structures with forces are too few")
    largest = survey.table.largest[known]
    centre, spread = robust(largest)
    far = (largest - centre) / spread if spread > 0 else np.zeros(len(largest))
    index, values = worst_first(far > FAR_OFF, far)
    text = (
        f"{len(index):,} beyond {FAR_OFF:.0f} deviations (largest {far.max():.1f}); largest force on an atom: "
        f"median {centre:.3g}, maximum {largest.max():.3g} eV/Å"
    )
    figures: dict[str, float] = {
        "largest": float(far.max()),
        "median": centre,
        "maximum": float(largest.max()),
        "n": len(known),
    }
    return Finding("force outliers", "warning" if len(index) else "ok", text, figures, known[index], values)


def _atoms(survey: Survey, chosen: NDArray[np.bool_], theory: str) -> Finding:
    """Energies against named ones of atoms: bound molecules, at the declared level of theory."""
    table = survey.table
    known = chosen & np.isfinite(table.energy) & (table.size > 3)
    energy, composition = table.energy[known], table.composition[known]
    bound = named_residual(GSAE, energy, composition, survey.compositions)
    fitted = named_residual(LINEAR_FIT, energy, composition, survey.compositions)
    bound, fitted = bound[~np.isnan(bound)], fitted[~np.isnan(fitted)]
    if len(bound) < 5:
        return Finding("level of theory", "not told", f"{len(bound)} energies of molecules of H, C, N, O, F, S, Cl")
    text = (
        f"less GSAE of wB97X/6-31G(d): {bound.mean():.3f} ± {bound.std():.3f} eV/atom; "
        f"less the linear fit of ANI-2x: {fitted.mean():+.3f} ± {fitted.std():.3f}"
    )
    figures: dict[str, float] = {
        "gsae_mean": float(bound.mean()),
        "gsae_std": float(bound.std()),
        "fit_mean": float(fitted.mean()),
        "fit_std": float(fitted.std()),
    }
    if not -9.0 < bound.mean() < 0.0:
        return Finding(
            "level of theory",
            "warning" if theory else "not told",
            f"{text}: no total energies of bound molecules",
            figures,
        )
    if abs(fitted.mean()) > OTHER_LEVEL:
        text += ": another level than wB97X/6-31G(d)"
        return Finding("level of theory", "warning" if theory == "wB97X/6-31G(d)" else "ok", text, figures)
    return Finding("level of theory", "ok", text, figures)


def _duplicates(survey: Survey) -> Finding:
    """Structures with the same atoms at exactly the same places as an earlier one."""
    table = survey.table
    order = np.argsort(table.exact, kind="stable")
    same = table.exact[order][1:] == table.exact[order][:-1]
    later, earlier = order[1:][same], order[:-1][same]
    difference = np.abs(table.energy[later] - table.energy[earlier])
    contrary = int((difference > 1e-4).sum())
    text = f"{len(later):,} structures are there before, to the last digit"
    if contrary:
        text += f"; {contrary:,} of them with another energy, by up to {np.nanmax(difference):.3g} eV"
    by_size = np.argsort(-np.nan_to_num(difference), kind="stable")
    figures: dict[str, float] = {"n": len(later), "n_contrary": contrary}
    return Finding(
        "duplicates",
        "warning" if len(later) else "ok",
        text,
        figures,
        later[by_size],
        np.nan_to_num(difference)[by_size],
    )


def _near_duplicates(survey: Survey, source: Source) -> Finding:
    """Structures whose distances are those of another of the same sequence of elements, to `SAME`."""
    pairs = _likely_pairs(survey)
    n_likely = len(pairs)
    if n_likely > COMPARED:
        pairs = pairs[np.sort(np.random.default_rng(0).permutation(n_likely)[:COMPARED])]
    if n_likely == 0:
        return Finding("near duplicates", "ok", f"none to {SAME} Å in all distances, three atoms or more", {"n": 0})
    index = np.unique(pairs)
    again = source.fetch(index)
    apart = np.full(len(pairs), np.inf)
    for k, (a, b) in enumerate(np.searchsorted(index, pairs).tolist()):
        first, second = (slice(again.offsets[s], again.offsets[s + 1]) for s in (a, b))
        if np.array_equal(again.numbers[first], again.numbers[second]):
            difference = distances(again.positions[first]) - distances(again.positions[second])
            apart[k] = np.abs(difference).max(initial=0.0)
    near = apart < SAME
    text = f"{near.sum():,} structures with all distances those of another to {SAME} Å"
    if n_likely > len(pairs):
        text += f" among {len(pairs):,} of {n_likely:,} likely pairs, drawn at random"
    which, values = worst_first(near, -apart)
    figures: dict[str, float] = {"n": int(near.sum()), "n_compared": len(pairs), "n_likely": n_likely}
    return Finding("near duplicates", "warning" if len(which) else "ok", text, figures, pairs[which, 1], -values)


def _likely_pairs(survey: Survey) -> NDArray[np.int64]:
    """(n_pairs, 2) structures that fall into the same box, next to one another there; equal ones left out."""
    table = survey.table
    several = table.size > 2  # the curve of a diatomic is scanned as densely as one likes
    found = []
    for names in table.near.T:
        order = np.lexsort((table.order, names))
        first, second = order[:-1], order[1:]
        close = (names[first] == names[second]) & (table.exact[first] != table.exact[second]) & several[first]
        # a projection differs by less than the root of the number of projected distances times their difference
        close &= np.abs(table.order[first] - table.order[second]) < SAME * np.minimum(table.size[first], 16)
        found.append(np.sort(np.stack([first[close], second[close]], axis=1), axis=1))
    pairs: NDArray[np.int64] = np.unique(np.concatenate(found), axis=0)
    return pairs


def _elements(survey: Survey, expected: list[str] | None) -> Finding:
    counts = {}
    has = survey.compositions > 0
    per_composition = np.bincount(survey.table.composition, minlength=len(has))
    for number in survey.elements:
        counts[chemical_symbols[number]] = int(per_composition[has[:, number]].sum())
    text = "structures with " + ", ".join(f"{symbol} {n:,}" for symbol, n in counts.items())
    known = list(counts) if expected is None else expected
    strange = [symbol for symbol in counts if symbol not in known]
    figures: dict[str, float] = {f"n_{symbol}": n for symbol, n in counts.items()}
    if not strange:
        return Finding("elements", "ok", text, figures)
    numbers = [chemical_symbols.index(symbol) for symbol in strange]
    strangers: NDArray[np.bool_] = np.logical_or.reduce(has[:, numbers], axis=1)
    index = np.flatnonzero(strangers[survey.table.composition])
    text = (
        f"{', '.join(strange)} in {len(index):,} structures {'is' if len(strange) == 1 else 'are'} not expected; {text}"
    )
    return Finding("elements", "warning", text, figures, index, np.ones(len(index)))
