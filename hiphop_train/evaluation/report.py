"""Tables of errors, for people and as JSON."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hiphop_train import files
from hiphop_train.evaluation.errors import MEASURES, kinds, title
from hiphop_train.evaluation.references import references
from hiphop_train.targets import Target


def print_errors(tables: dict[str, dict[str, Any]], heading: str, data: str) -> None:
    """Print MAE and RMSE of each set: kcal/mol, and meV beside it; other methods follow the set they belong to.

    Parameters
    ----------
    tables : name of the set -> `hiphop_train.evaluation.errors.error_table`
    heading : above the table
    data : name of the data set
    """
    caption = "MAE / RMSE in kcal/mol(/Angstrom), and in meV(/Angstrom)"
    table = Table(title=heading, title_justify="left", caption=caption)
    shown = kinds(tables.values())
    sources: dict[str, str] = {}
    table.add_column("")
    table.add_column("structures", justify="right")
    for kind, target in shown.items():
        table.add_column(title(kind, target), justify="right")
        if target.milli_unit:
            unit = "meV" if target.reported_unit.startswith("kcal/mol") else target.milli_unit
            table.add_column(unit, justify="right", style="dim")
    for name, errors in tables.items():
        cells = [cell for kind, target in shown.items() for cell in _cells(errors.get(kind), target)]
        table.add_row(name, f"{errors['n_structures']:,}", *cells)
        for reference in references(data, name, errors["n_structures"]):
            cells = []
            for kind, target in shown.items():
                mae, rmse = reference.of(kind)
                pair = "-" if mae is None else f"{mae:.2f} / {'-' if rmse is None else f'{rmse:.2f}'}"
                cells += [pair, ""] if target.milli_unit else [pair]
            table.add_row(f"  {reference.method}", "", *cells, style="dim")
            sources[reference.method] = reference.source
    console = _console()
    console.print(table)
    if sources:
        console.print("other methods: " + "; ".join(f"{method} ({source})" for method, source in sources.items()))


def _cells(found: dict[str, float] | None, target: Target) -> list[str]:
    """MAE / RMSE of a target in its reported unit and, where it has one, in the unit beside it."""
    if found is None:
        return ["-"] * (2 if target.milli_unit else 1)
    cells = [" / ".join(f"{found[measure]:.{target.decimals}f}" for measure in MEASURES)]
    if target.milli_unit:
        cells.append(" / ".join(f"{found[f'{measure}_meV']:.{target.decimals - 2}f}" for measure in MEASURES))
    return cells


def print_quantiles(rows: list[dict[str, float]], name: str) -> None:
    """Print quantiles of the energy error in bins of R."""
    table = Table(
        title=f"energy error by R, {name}",
        title_justify="left",
        caption="quantiles of |error| in kcal/mol; R: non-hierarchicality of the energy's levels",
    )
    for column in ("R from", "to", "structures", "50 %", "90 %", "95 %"):
        table.add_column(column, justify="right")
    for row in rows:
        quantiles = [f"{row[key]:.2f}" for key in ("q50", "q90", "q95")]
        table.add_row(f"{row['r_low']:.2e}", f"{row['r_high']:.2e}", f"{row['n']:.0f}", *quantiles)
    _console().print(table)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data as a whole."""
    files.write_text(path, json.dumps(content, indent=2) + "\n")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)
