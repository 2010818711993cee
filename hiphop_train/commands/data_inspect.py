"""hiphop-data inspect: what is in a file."""

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hiphop_train.commands.data_check import make_folder
from hiphop_train.commands.data_open import Opened, open_data
from hiphop_train.commands.progress import progress
from hiphop_train.data.checks.atom_energies import fit_atoms
from hiphop_train.data.checks.hdf5_summary import arrays
from hiphop_train.data.checks.scan import Survey, survey
from hiphop_train.errors import ConfigError


def inspect(file: Path, overrides: list[str], output: Path | None) -> dict[str, Any]:
    """Print what is in a file; returns the same as plain data.

    Parameters
    ----------
    file : data file, or folder of them
    overrides : ``data=NAME``, ``data.KEY=VALUE``
    output : folder for inspect.json and distributions.png, or None
    """
    opened = open_data(file, overrides, all_levels=True)
    if output is not None:
        make_folder(output)
    console = Console(highlight=False)
    declared = ", ".join(f"{key}: {value}" for key, value in opened.declared().items())
    print(f"{file}: read by data={opened.choice}, {opened.why}\ndeclared   {declared}", flush=True)
    contents = _print_arrays(console, file)
    with progress("looking at structures", None) as advance:
        found = survey(opened.source, advance)
    counts = _counts(found)
    levels = {name: _level(found, level) for level, name in enumerate(found.level_names)}
    _print_counts(console, counts, levels)
    summary = {"file": str(file), "data": opened.choice, **counts, "levels": levels, "arrays": contents}
    if output is not None:
        _write(output, summary, found, opened, file)
        print(f"results    {output}")
    return summary


def _print_arrays(console: Console, file: Path) -> list[dict[str, Any]]:
    """List the arrays of an HDF5 file, also those that are not asked for."""
    if not file.is_file() or not h5py.is_hdf5(file):
        return []
    kinds, n_groups, n_read = arrays(file)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in zip(("array", "type", "first shape", "arrays", "rows", "NaN", "zero"), "lllrrrr", strict=True):
        table.add_column(heading, justify="right" if side == "r" else "left")
    for kind in kinds:
        shares = [f"{100 * n / kind.n_read:.1f} %" if kind.n_read else "" for n in (kind.n_nan, kind.n_zero)]
        table.add_row(kind.name, kind.dtype, str(kind.shape), f"{kind.n_arrays:,}", f"{kind.n_rows:,}", *shares)
    console.print(table)
    told = "all" if n_read == n_groups else f"{n_read:,}, spread evenly,"
    console.print(
        f"rows that are NaN or zero throughout: in {told} of {n_groups:,} groups, 2,000 rows at most of each\n"
    )
    return [vars(kind) | {"shape": list(kind.shape)} for kind in kinds]


def _counts(found: Survey) -> dict[str, Any]:
    once = found.geometries
    size, atoms = found.table.size[once], found.atom_counts(once)
    return {
        "n_files": len({source for source, _, _ in found.places}),
        "n_groups": len(found.places),
        "n_conformations": len(once),
        "n_atoms": int(size.sum()),
        "size": {"smallest": int(size.min()), "median": float(np.median(size)), "largest": int(size.max())},
        "atoms": {chemical_symbols[number]: int(atoms[number]) for number in found.elements},
        "smallest_distance": _finite(float(found.table.nearest.min())),
    }


def _level(found: Survey, level: int) -> dict[str, Any]:
    """Figures of the labels of one level of theory."""
    table = found.table
    here = table.level == level
    known = here & np.isfinite(table.energy)
    summary: dict[str, Any] = {
        "n": int(here.sum()),
        "n_energies": int(known.sum()),
        "n_forces": int((here & table.has_forces).sum()),
    }
    if known.any():
        fit = fit_atoms(table.energy[known], table.composition[known], found.compositions)
        e0 = {chemical_symbols[z]: float(v) for z, v in zip(fit.elements, fit.e0, strict=True)}
        summary["energy"] = _range(table.energy[known])
        summary["energy_after_e0_per_atom"] = _range(fit.residual)
        summary["e0"] = e0 if fit.rank == len(fit.elements) else None
    forces = table.largest[here & np.isfinite(table.largest)]
    if len(forces):
        summary["largest_force"] = _range(forces.astype(np.float64))
    return summary


def _range(values: NDArray[np.float64]) -> dict[str, float]:
    return {"lowest": float(values.min()), "median": float(np.median(values)), "highest": float(values.max())}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_counts(console: Console, counts: dict[str, Any], levels: dict[str, dict[str, Any]]) -> None:
    size = counts["size"]
    distance = counts["smallest_distance"]
    rows = {
        "conformations": f"{counts['n_conformations']:,} in {counts['n_groups']:,} groups, {counts['n_atoms']:,} atoms",
        "sizes": f"{size['smallest']} to {size['largest']} atoms, median {size['median']:g}",
        "elements": ", ".join(f"{symbol} {n:,}" for symbol, n in counts["atoms"].items()),
        "distances": "single atoms" if distance is None else f"smallest {distance:.3f} Å",
    }
    for name, text in rows.items():
        console.print(f"{name:14s} {text}", soft_wrap=True)
    for name, level in levels.items():
        console.print(f"\nlevel {name}: energies of {level['n_energies']:,}, forces of {level['n_forces']:,}")
        for key, what in (
            ("energy", "energy, eV"),
            ("energy_after_e0_per_atom", "less E0, eV/atom"),
            ("largest_force", "largest force, eV/Å"),
        ):
            if key in level:
                low, median, high = level[key].values()
                console.print(f"  {what:20s} {low:>14,.4f} to {high:,.4f}, median {median:,.4f}", soft_wrap=True)
        if level.get("e0"):
            told = ", ".join(f"{symbol} {value:,.3f}" for symbol, value in level["e0"].items())
            console.print(f"  {'E0 by fit, eV':20s} {told}", soft_wrap=True)
        elif "e0" in level:
            console.print(f"  {'E0 by fit':20s} not determined by these compositions")


def _write(output: Path, summary: dict[str, Any], found: Survey, opened: Opened, file: Path) -> None:
    from hiphop_train.evaluation.distributions import distributions  # matplotlib takes half a second

    try:
        (output / "inspect.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
        title = f"{file.name} (data={opened.choice}): {summary['n_conformations']:,} conformations"
        distributions(output / "distributions.png", found, title)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: --output DIR") from error
