"""hiphop-data inspect: summary of a file."""

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
from hiphop_train.data.checks.hdf5_summary import ROWS, summarise_hdf5
from hiphop_train.data.checks.scan import Scan, scan
from hiphop_train.errors import ConfigError
from hiphop_train.targets import TARGETS


def inspect(file: Path, overrides: list[str], output: Path | None) -> dict[str, Any]:
    """Print the summary of a file; returns the same as plain data.

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
    arrays = _print_arrays(console, file)
    with progress("scanning structures", None) as advance:
        found = scan(opened.source, advance)
    counts = _counts(found)
    theories = {name: _labels(found, number) for number, name in enumerate(found.theory_names)}
    _print_counts(console, counts, theories)
    summary = {"file": str(file), "data": opened.choice, **counts, "levels": theories, "arrays": arrays}
    if output is not None:
        _write(output, summary, found, opened, file)
        print(f"results    {output}")
    return summary


def _print_arrays(console: Console, file: Path) -> list[dict[str, Any]]:
    """List the arrays of an HDF5 file, also those that are not read."""
    if not file.is_file() or not h5py.is_hdf5(file):
        return []
    summaries, n_groups, n_read = summarise_hdf5(file)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in zip(("array", "type", "first shape", "arrays", "rows", "NaN", "zero"), "lllrrrr", strict=True):
        table.add_column(heading, justify="right" if side == "r" else "left")
    for each in summaries:
        shares = [f"{100 * n / each.n_read:.1f} %" if each.n_read else "" for n in (each.n_nan, each.n_zero)]
        table.add_row(each.name, each.dtype, str(each.shape), f"{each.n_arrays:,}", f"{each.n_rows:,}", *shares)
    console.print(table)
    sampled = "all" if n_read == n_groups else f"{n_read:,}, spread evenly,"
    console.print(
        f"rows that are all NaN or all zero: in {sampled} of {n_groups:,} groups, at most {ROWS:,} rows of each\n"
    )
    return [vars(each) | {"shape": list(each.shape)} for each in summaries]


def _counts(found: Scan) -> dict[str, Any]:
    once = found.geometries
    size, atoms = found.table.size[once], found.atom_counts(once)
    return {
        "n_files": len({source for source, _, _ in found.origins}),
        "n_groups": len(found.origins),
        "n_conformations": len(once),
        "n_atoms": int(size.sum()),
        "size": {"smallest": int(size.min()), "median": float(np.median(size)), "largest": int(size.max())},
        "atoms": {chemical_symbols[number]: int(atoms[number]) for number in found.elements},
        "smallest_distance": _finite(float(found.table.nearest.min())),
    }


def _labels(found: Scan, theory: int) -> dict[str, Any]:
    """Numbers and ranges of the labels at one level of theory."""
    table = found.table
    here = table.theory == theory
    known = {key: here & found.has(key) for key in found.largest}
    summary: dict[str, Any] = {"n": int(here.sum())}
    summary |= {f"n_{key}": int(chosen.sum()) for key, chosen in known.items()}
    chosen = known.pop("energy")
    if chosen.any():
        fit = fit_atoms(table.energy[chosen], table.composition[chosen], found.compositions)
        e0 = {chemical_symbols[z]: float(v) for z, v in zip(fit.elements, fit.e0, strict=True)}
        summary["energy"] = _range(table.energy[chosen])
        summary["energy_after_e0_per_atom"] = _range(fit.residual)
        summary["e0"] = e0 if fit.rank == len(fit.elements) else None
    for key, chosen in known.items():
        if chosen.any():
            summary[f"largest_{key}"] = _range(found.largest[key][chosen].astype(np.float64))
    return summary


def _range(values: NDArray[np.float64]) -> dict[str, float]:
    return {"lowest": float(values.min()), "median": float(np.median(values)), "highest": float(values.max())}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_counts(console: Console, counts: dict[str, Any], theories: dict[str, dict[str, Any]]) -> None:
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
    ranges = {"energy": "energy, eV", "energy_after_e0_per_atom": "less E0, eV/atom"}
    ranges |= {f"largest_{key}": f"largest {key}, {target.unit}" for key, target in TARGETS.items()}
    for name, summary in theories.items():
        known = ", ".join(f"{key} of {summary[f'n_{key}']:,}" for key in TARGETS if f"n_{key}" in summary)
        console.print(f"\nlevel of theory {name}: {known} structures", soft_wrap=True)
        for key, what in ranges.items():
            if key in summary:
                low, median, high = summary[key].values()
                console.print(f"  {what:28s} {low:>14,.4f} to {high:,.4f}, median {median:,.4f}", soft_wrap=True)
        if summary.get("e0"):
            fitted = ", ".join(f"{symbol} {value:,.3f}" for symbol, value in summary["e0"].items())
            console.print(f"  {'E0 by fit, eV':28s} {fitted}", soft_wrap=True)
        elif "e0" in summary:
            console.print(f"  {'E0 by fit':28s} not determined by these compositions")


def _write(output: Path, summary: dict[str, Any], found: Scan, opened: Opened, file: Path) -> None:
    from hiphop_train.evaluation.distributions import distributions  # matplotlib takes half a second

    try:
        (output / "inspect.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
        title = f"{file.name} (data={opened.choice}): {summary['n_conformations']:,} conformations"
        distributions(output / "distributions.png", found, title)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: --output DIR") from error
