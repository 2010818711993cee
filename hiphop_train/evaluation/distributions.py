"""A picture of what a data set holds: sizes, elements, energies, forces, distances."""

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hiphop_train.data.checks.atom_energies import fit_atoms
from hiphop_train.data.checks.scan import Scan
from hiphop_train.evaluation.style import COLOURS, INK, save, tidy


def distributions(path: Path, scan: Scan, title: str) -> None:
    """Draw histograms of sizes, elements, energies after E0, largest forces and nearest distances.

    Parameters
    ----------
    path : PNG file
    scan : of the data set
    title : above the picture
    """
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    table = scan.table
    once = scan.geometries
    _sizes(axes[0], table.size[once])
    _elements(axes[1], scan)
    energies, largest = {}, {}
    for number, name in enumerate(scan.theory_names):
        known = (table.theory == number) & np.isfinite(table.energy)
        if known.any():
            fit = fit_atoms(table.energy[known], table.composition[known], scan.compositions)
            energies[name] = fit.residual
        forces = scan.largest["forces"][(table.theory == number) & scan.has("forces")]
        if len(forces):
            largest[name] = forces.astype(np.float64)
    _histogram(axes[2], energies, "energy less fitted E0, eV per atom", "no energies")
    _histogram(axes[3], largest, "largest force on an atom, eV/Å", "no forces", positive=True)
    close = table.nearest[once][np.isfinite(table.nearest[once])].astype(np.float64)
    _histogram(axes[4], {"": close} if len(close) else {}, "smallest distance in a structure, Å", "single atoms only")
    ratio = table.contact[once][np.isfinite(table.contact[once])].astype(np.float64)
    what = "smallest distance by sum of covalent radii"
    _histogram(axes[5], {"": ratio} if len(ratio) else {}, what, "single atoms only")
    figure.suptitle(title, color=INK)
    save(figure, path, dpi=110)


def _sizes(axis: Axes, sizes: NDArray[np.int32]) -> None:
    low, high = int(sizes.min()), int(sizes.max())
    step = max(1, (high - low) // 60)
    axis.hist(sizes, bins=np.arange(low - 0.5, high + step + 0.5, step).tolist(), color=COLOURS[0])
    axis.set(xlabel="atoms in a structure", ylabel="structures")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(low - max(1.0, 0.03 * (high - low)), high + max(1.0, 0.03 * (high - low)))
    tidy(axis)


def _elements(axis: Axes, scan: Scan) -> None:
    atoms = scan.atom_counts(scan.geometries)
    numbers = scan.elements
    bars = axis.bar([chemical_symbols[number] for number in numbers], atoms[numbers], color=COLOURS[0])
    axis.bar_label(bars, [_short(int(atoms[number])) for number in numbers], fontsize=8, color=INK)
    axis.set(ylabel="atoms", yscale="log", ylim=(0.5, 4 * atoms.max()))
    tidy(axis)


def _histogram(
    axis: Axes, values: dict[str, NDArray[np.float64]], what: str, nothing: str, positive: bool = False
) -> None:
    """Draw one histogram for each level; the few beyond a wide range are counted at the edge, and said to be."""
    axis.set(xlabel=what, ylabel="structures")
    tidy(axis)
    if not values:
        axis.text(0.5, 0.5, nothing, ha="center", transform=axis.transAxes, color=INK)
        return
    everything = np.concatenate(list(values.values()))
    low, high = np.percentile(everything, [0.05, 99.95])
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = float(max(low - margin, 0.0) if positive else low - margin), float(high + margin)
    n_bins = int(np.clip(2 * np.sqrt(max(map(len, values.values()))), 10, 60))
    bins = np.linspace(low, high, n_bins + 1).tolist()
    for (name, found), colour in zip(values.items(), COLOURS * len(values), strict=False):
        inside = np.clip(found, low, high)
        axis.hist(inside, bins=bins, color=colour, alpha=0.6 if len(values) > 1 else 1, label=name)
    beyond = int(((everything < low) | (everything > high)).sum())
    if beyond:
        label = f"{beyond:,} beyond the edges;\nall: {everything.min():.3g} to {everything.max():.3g}"
        axis.text(0.98, 0.72, label, ha="right", transform=axis.transAxes, color=INK, fontsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(values) > 1:
        axis.legend(frameon=False)


def _short(n: int) -> str:
    return f"{n / 1e6:.1f}M" if n >= 1_000_000 else f"{n / 1e3:.1f}k" if n >= 10_000 else f"{n:,}"
