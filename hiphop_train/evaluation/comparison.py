"""Finished runs side by side: runs that differ only in seed are one row, with mean and range."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from hiphop_train.evaluation.errors import MEASURES, kinds, title
from hiphop_train.targets import Target


class Range(NamedTuple):
    """Mean, smallest and largest value over seeds."""

    mean: float
    low: float
    high: float


def range_of(values: Sequence[float]) -> Range:
    """Summarise values."""
    return Range(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


@dataclass
class Row:
    """Runs that differ only in seed.

    Attributes
    ----------
    label : name of the model, and what sets it apart from rows of the same model
    model : name of the model
    runs : run directories
    seeds : of the runs
    parameters : number of learned parameters
    epochs : of each run
    training_seconds : over the runs
    errors : split -> kind -> measure -> errors in the target's reported unit over the runs; see
        `hiphop_train.evaluation.errors.kinds`
    microseconds_per_atom : of energy and forces: fastest and median round
    """

    label: str
    model: str
    runs: list[str]
    seeds: list[int]
    parameters: int
    epochs: list[int]
    training_seconds: Range
    errors: dict[str, dict[str, dict[str, Range]]] = field(default_factory=dict)
    microseconds_per_atom: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        errors = {
            split: {
                kind: {measure: value._asdict() for measure, value in measures.items()}
                for kind, measures in of_split.items()
            }
            for split, of_split in self.errors.items()
        }
        return {**vars(self), "training_seconds": self.training_seconds._asdict(), "errors": errors}


def errors_over_runs(tables: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Range]]]:
    """Summarise the errors of several runs, where all have them.

    Parameters
    ----------
    tables : of each run, split -> `hiphop_train.evaluation.errors.error_table`
    """
    found: dict[str, dict[str, dict[str, Range]]] = {}
    for split in tables[0]:
        for kind in kinds(table.get(split, {}) for table in tables):
            each = [table.get(split, {}).get(kind) for table in tables]
            known = [errors for errors in each if errors is not None]
            if len(known) == len(tables):
                summary = {measure: range_of([errors[measure] for errors in known]) for measure in MEASURES}
                found.setdefault(split, {})[kind] = summary
    return found


def difference_labels(names: Sequence[str], settings: Sequence[dict[str, Any]], paths: Sequence[str]) -> list[str]:
    """Name rows by their model, and rows of the same model by what differs between them.

    Parameters
    ----------
    names : model of each row
    settings : dotted path -> value of each row
    paths : what to name a row by where many settings differ
    """
    labels = []
    for k, name in enumerate(names):
        same = [settings[n] for n in range(len(names)) if names[n] == name]
        keys = sorted({key for other in same for key in other})
        different = [key for key in keys if len({repr(other.get(key)) for other in same}) > 1]
        if len(same) == 1:
            labels.append(name)
        elif 0 < len(different) <= 3:
            values = (f"{key.removeprefix('model.')}={settings[k].get(key)}" for key in different)
            labels.append(f"{name} {', '.join(values)}")
        else:
            labels.append(f"{name} ({paths[k]})")
    return labels


class Sheet(NamedTuple):
    """A table as text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Return a table of costs, and one of errors for each split."""
    costs = [
        [
            row.label,
            str(len(row.runs)),
            f"{row.parameters:,}",
            _either([f"{epochs}" for epochs in row.epochs]),
            _spread(row.training_seconds, duration),
            f"{row.microseconds_per_atom['minimum']:.1f}" if row.microseconds_per_atom else "-",
        ]
        for row in rows
    ]
    found = [Sheet("cost", ["", "seeds", "parameters", "epochs", "training", "µs/atom"], costs)]
    for split in dict.fromkeys(split for row in rows for split in row.errors):
        tables = [row.errors.get(split, {}) for row in rows]
        shown = kinds(tables)
        cells = [
            [row.label, *(_errors(table.get(kind), target) for kind, target in shown.items())]
            for row, table in zip(rows, tables, strict=True)
        ]
        found.append(Sheet(f"errors on {split}", ["", *(title(kind, target) for kind, target in shown.items())], cells))
    return found


def print_sheets(found: Sequence[Sheet], captions: Sequence[str]) -> None:
    """Print tables, each with what it must say below."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for sheet, caption in zip(found, captions, strict=True):
        table = Table(title=sheet.title, title_justify="left", caption=caption, caption_justify="left")
        for k, name in enumerate(sheet.header):
            table.add_column(name, justify="right" if k else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def markdown(found: Sequence[Sheet], captions: Sequence[str]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for sheet, caption in zip(found, captions, strict=True):
        lines = [sheet.header, ["---", *["---:"] * (len(sheet.header) - 1)], *sheet.rows]
        table = "\n".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in line) + " |" for line in lines)
        parts.append(f"**{sheet.title[0].upper()}{sheet.title[1:]}**\n\n{table}\n\n{caption}\n")
    return "\n".join(parts)


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _either(values: list[str]) -> str:
    low, high = min(values, key=int), max(values, key=int)
    return low if low == high else f"{low}-{high}"


def _spread(value: Range, show: Any) -> str:
    low, high = show(value.low), show(value.high)
    return show(value.mean) if low == high else f"{show(value.mean)}\n{low} - {high}"


def _errors(found: dict[str, Range] | None, target: Target) -> str:
    """Return MAE / RMSE, and the ranges over seeds below."""
    if found is None:
        return "-"
    digits = f".{target.decimals}f"
    cell = " / ".join(f"{found[measure].mean:{digits}}" for measure in MEASURES)
    if all(value.low == value.high for value in found.values()):
        return cell
    ranges = (f"{found[measure].low:{digits}}-{found[measure].high:{digits}}" for measure in MEASURES)
    return cell + "\n" + " / ".join(ranges)
