"""metrics.csv: a row per epoch."""

import csv
import io
from pathlib import Path
from typing import Any

from hiphop_train import files

Row = dict[str, Any]


def read(path: Path) -> list[Row] | None:
    """Return the rows of metrics.csv; none where there is no file, None where it is damaged."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        for number, row in enumerate(rows):
            if None in row or None in row.values() or int(row["epoch"]) != number + 1 or not float(row["step"]) > 0:
                return None
            for value in row.values():
                float(value or 0)
    except (OSError, ValueError, KeyError, csv.Error):
        return None
    return rows or None


def write(path: Path, rows: list[Row]) -> None:
    """Replace metrics.csv as a whole.

    Raises
    ------
    StorageError
        if it cannot be written
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def restore(path: Path, state: dict[str, Any]) -> str | None:
    """Write metrics.csv again where it is damaged, or lacks epochs of the state from which a training goes on.

    Parameters
    ----------
    path : of the file
    state : contents of a checkpoint

    Returns
    -------
    said : what was found and done, or None where all was well
    """
    rows = read(path)
    stored = state["callbacks"].get("MetricsFile", {}).get("rows", [])
    if rows is not None and len(rows) >= len(stored):
        return None
    found = "is damaged" if rows is None else f"lacks epochs after {len(rows)}" if rows else "is missing"
    if rows is None:
        path.rename(path.with_name(f"{path.name}.damaged"))
    if not stored:
        return f"{path} {found}: kept as {path.name}.damaged; it begins anew, the training goes on"
    write(path, stored)
    return f"{path} {found}: written again from the checkpoint"
