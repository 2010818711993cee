"""Tables of errors, for people and as JSON."""

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hiphop_train.evaluation.references import references

KINDS = {"energy": "energy", "relative_energy": "relative energy", "forces": "forces"}


def print_errors(tables: dict[str, dict[str, Any]], title: str, data: str) -> None:
    """Print MAE and RMSE of each set: kcal/mol, and meV beside it; other methods follow the set they belong to.

    Parameters
    ----------
    tables : name of the set -> `hiphop_train.evaluation.errors.error_table`
    title : above the table
    data : name of the data set
    """
    table = Table(title=title, title_justify="left", caption="MAE / RMSE in kcal/mol(/Angstrom), and in meV(/Angstrom)")
    sources: dict[str, str] = {}
    table.add_column("")
    table.add_column("structures", justify="right")
    for kind in KINDS.values():
        table.add_column(kind, justify="right")
        table.add_column("meV", justify="right", style="dim")
    for name, errors in tables.items():
        cells = [name, f"{errors['n_structures']:,}"]
        for kind in KINDS:
            found = errors.get(kind)
            cells.append(f"{found['mae']:.2f} / {found['rmse']:.2f}" if found else "-")
            cells.append(f"{found['mae_meV']:.0f} / {found['rmse_meV']:.0f}" if found else "-")
        table.add_row(*cells)
        for reference in references(data, name, errors["n_structures"]):
            cells = [f"  {reference.method}", ""]
            for kind in KINDS:
                mae, rmse = getattr(reference, kind)
                shown = "-" if mae is None else f"{mae:.2f} / {'-' if rmse is None else f'{rmse:.2f}'}"
                cells += [shown, ""]
            table.add_row(*cells, style="dim")
            sources[reference.method] = reference.source
    console = _console()
    console.print(table)
    if sources:
        console.print("other methods: " + "; ".join(f"{method} ({source})" for method, source in sources.items()))


def print_quantiles(rows: list[dict[str, float]], name: str) -> None:
    """Print quantiles of the energy error in bins of R."""
    table = Table(
        title=f"energy error by R, {name}",
        title_justify="left",
        caption="quantiles of |error| in kcal/mol; R: how little the energy's levels fall off",
    )
    for column in ("R from", "to", "structures", "50 %", "90 %", "95 %"):
        table.add_column(column, justify="right")
    for row in rows:
        quantiles = [f"{row[key]:.2f}" for key in ("q50", "q90", "q95")]
        table.add_row(f"{row['r_low']:.2e}", f"{row['r_high']:.2e}", f"{row['n']:.0f}", *quantiles)
    _console().print(table)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name and rename, so that the file is whole or not there."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=150)
